//! Splits and shuffling: pure functions of seed, epoch and position.

use std::sync::Arc;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Dataset, Image};
use crate::error::Result;

/// Use of random numbers; each has its own stream.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Split,
    Shuffle,
    Augment,
    Mix,
}

/// A generator that depends only on these numbers.
pub(super) fn generator(purpose: Purpose, seed: u64, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut mixer = ChaCha8Rng::seed_from_u64(seed);
    mixer.set_stream(purpose as u64);
    mixer.set_word_pos(u128::from(epoch) * 2);
    let mut generator = ChaCha8Rng::seed_from_u64(mixer.random());
    generator.set_stream(index);
    generator
}

/// The order of an epoch: a permutation of 0..count.
pub fn permutation(count: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut generator(Purpose::Shuffle, seed, epoch, 0));
    order
}

/// Splits a data set into (rest, part) with a `share` of each class, rounded, in the part; a class
/// with two or more images has at least one in each. Both keep the data set's order.
pub fn stratified(set: &dyn Dataset, share: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let (mut rest, mut part) = (Vec::new(), Vec::new());
    for mut members in shuffled(set, seed) {
        let wanted = (members.len() as f64 * share).round() as usize;
        let wanted = if members.len() > 1 { wanted.clamp(1, members.len() - 1) } else { 0 };
        rest.extend(members.split_off(wanted));
        part.extend(members);
    }
    rest.sort_unstable();
    part.sort_unstable();
    (rest, part)
}

/// The images of each class, shuffled by the seed.
fn shuffled(set: &dyn Dataset, seed: u64) -> Vec<Vec<usize>> {
    let mut classes: Vec<Vec<usize>> = vec![Vec::new(); set.classes().len()];
    for index in 0..set.len() {
        classes[set.label(index) as usize].push(index);
    }
    for (class, members) in classes.iter_mut().enumerate() {
        members.shuffle(&mut generator(Purpose::Split, seed, 0, class as u64));
    }
    classes
}

/// A stratified subset of `count` images, in the data set's order: each class keeps its share, up
/// to rounding, and at least one image if `count` allows one per class.
pub(super) fn evenly(set: &dyn Dataset, count: usize, seed: u64) -> Vec<usize> {
    let classes = shuffled(set, seed);
    let share = |members: &Vec<usize>| members.len() as f64 * count as f64 / set.len().max(1) as f64;
    let filled = classes.iter().filter(|members| !members.is_empty()).count();
    let least = usize::from(count >= filled);
    let mut taken: Vec<usize> =
        classes.iter().map(|members| (share(members) as usize).max(least).min(members.len())).collect();
    // The rounding error is distributed one image at a time to the class that it brings closest to
    // its share.
    let lacking = |class: usize, taken: &[usize]| share(&classes[class]) - taken[class] as f64;
    while taken.iter().sum::<usize>() != count {
        let short = taken.iter().sum::<usize>() < count;
        let can = |class: &usize| {
            if short { taken[*class] < classes[*class].len() } else { taken[*class] > least }
        };
        let by_lack = |a: &usize, b: &usize| lacking(*a, &taken).total_cmp(&lacking(*b, &taken));
        let able = (0..classes.len()).filter(can);
        // Ties go to the first class, so the result is deterministic.
        let next = if short { able.rev().max_by(by_lack) } else { able.min_by(by_lack) };
        let Some(class) = next else { break };
        if short { taken[class] += 1 } else { taken[class] -= 1 }
    }
    let mut chosen: Vec<usize> =
        classes.iter().zip(taken).flat_map(|(members, n)| members[..n].iter().copied()).collect();
    chosen.sort_unstable();
    chosen
}

/// A subset of a data set.
#[derive(Clone, Debug)]
pub struct Subset {
    set: Arc<dyn Dataset>,
    indices: Vec<usize>,
}

impl Subset {
    /// The images with these indices, in this order.
    pub fn new(set: Arc<dyn Dataset>, indices: Vec<usize>) -> Self {
        Self { set, indices }
    }
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn classes(&self) -> &[String] {
        self.set.classes()
    }

    fn label(&self, index: usize) -> u32 {
        self.set.label(self.indices[index])
    }

    fn image(&self, index: usize) -> Result<Image> {
        self.set.image(self.indices[index])
    }

    fn name(&self, index: usize) -> String {
        self.set.name(self.indices[index])
    }

    fn stored_bytes(&self, index: usize) -> Option<u64> {
        self.set.stored_bytes(self.indices[index])
    }

    fn stored(&self, index: usize, limit: u64) -> Option<Vec<u8>> {
        self.set.stored(self.indices[index], limit)
    }
}
