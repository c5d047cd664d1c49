//! One or several classifiers over one or several crops of each image: softmaxes are averaged
//! (Szegedy et al. 2014, section 7).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::data::{Batch, Loader};
use crate::error::Result;
use crate::infer::{Classifier, numbers};

/// A classifier with the images as it takes them. The loaders of all members give the same images
/// in the same order and batches of the same size.
#[derive(Debug)]
pub struct Member {
    /// The network.
    pub classifier: Classifier,
    /// Its images.
    pub loader: Loader,
}

/// What is said about one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Its number in the data set.
    pub image: usize,
    /// Its class.
    pub label: usize,
    /// The probabilities that each member gives the classes: the mean over the image's crops.
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
    /// For each member: crops, and the sum of their probabilities.
    sums: Vec<(usize, Vec<f32>)>,
}

/// Classifies every image with every member. `views` rows that follow each other are crops of one
/// image ([`CropTest::views`](crate::data::CropTest::views)). `observe` sees the images in their
/// order and may end it early; those that cannot be read are left out.
///
/// # Errors
/// What the loaders and the device report.
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
            numbers(&rows)?;
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
        // Images whose last crop is done.
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
    fn members_count_alike() {
        let scores = Scores { image: 0, label: 0, members: vec![vec![1.0, 0.0], vec![0.25, 0.75]] };
        assert_eq!(scores.mean(), [0.625, 0.375]);
    }
}
