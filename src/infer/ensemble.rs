//! Ensembles: the probabilities of one or several classifiers over one or several crops of each
//! image are averaged (Szegedy et al. 2014, section 7).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::data::{Batch, Loader};
use crate::error::Result;
use crate::infer::{Classifier, require_finite};

/// A classifier with its own preprocessing. The loaders of all members must return the same images
/// in the same order and batches of the same size.
#[derive(Debug)]
pub struct Member {
    /// The network.
    pub classifier: Classifier,
    /// The loader of its images.
    pub loader: Loader,
}

/// The classification of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Its index in the data set.
    pub image: usize,
    /// Its true class.
    pub label: usize,
    /// Probabilities of the classes by each member: the mean over the image's crops.
    pub members: Vec<Vec<f32>>,
}

impl Scores {
    /// The mean over the members.
    pub fn mean(&self) -> Vec<f32> {
        let classes = self.members.first().map_or(0, Vec::len);
        let mut mean = vec![0.0; classes];
        for member in &self.members {
            mean.iter_mut().zip(member).for_each(|(sum, p)| *sum += p / self.members.len() as f32);
        }
        mean
    }
}

/// Sums over the crops of an image.
#[derive(Debug)]
struct Pending {
    label: usize,
    /// For each member: number of crops, and the sum of their probabilities.
    sums: Vec<(usize, Vec<f32>)>,
}

/// Classifies every image with every member. Each `views` consecutive rows are crops of one image
/// ([`CropTest::views`](crate::data::CropTest::views)). `observe` is called with the images in
/// order and may stop early; unreadable images are left out.
///
/// # Errors
/// Errors of the loaders and the device.
pub async fn score(
    members: &mut [Member],
    views: usize,
    mut observe: impl FnMut(Scores) -> ControlFlow<()>,
) -> Result<()> {
    let views = views.max(1);
    let count = members.len();
    let mut batches: Vec<_> = members.iter().map(|m| m.loader.epoch(0, 0)).collect();
    let mut pending: BTreeMap<usize, Pending> = BTreeMap::new();
    loop {
        let mut next = None;
        for (i, (member, batches)) in members.iter_mut().zip(&mut batches).enumerate() {
            let Some(batch) = batches.next() else { continue };
            let batch = batch?;
            next = batch.indices.last().map(|last| last + 1).or(next);
            let rows = member.classifier.probabilities(&batch).await?;
            require_finite(&rows)?;
            let there = batch.indices.iter().zip(&batch.labels).filter(|(_, l)| **l != Batch::MISSING);
            for (row, (index, label)) in rows.iter().zip(there) {
                let entry = pending.entry(index / views).or_insert_with(|| Pending {
                    label: *label as usize,
                    sums: vec![(0, Vec::new()); count],
                });
                let (crops, sum) = &mut entry.sums[i];
                sum.resize(row.len(), 0.0);
                sum.iter_mut().zip(row).for_each(|(sum, p)| *sum += p);
                *crops += 1;
            }
        }
        // Images with all crops classified.
        let rest = pending.split_off(&next.map_or(usize::MAX, |next| next / views));
        for (image, Pending { label, sums }) in std::mem::replace(&mut pending, rest) {
            let mean =
                |(crops, sum): (usize, Vec<f32>)| sum.iter().map(|p| p / crops.max(1) as f32).collect();
            let members = sums.into_iter().map(mean).collect();
            if observe(Scores { image, label, members }).is_break() {
                return Ok(());
            }
        }
        if next.is_none() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_weights_members_equally() {
        let scores = Scores { image: 0, label: 0, members: vec![vec![1.0, 0.0], vec![0.25, 0.75]] };
        assert_eq!(scores.mean(), [0.625, 0.375]);
    }
}
