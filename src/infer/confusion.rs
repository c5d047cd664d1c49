//! The confusion matrix and metrics per class.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// A confusion matrix: counts of images by label and prediction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// Sparse, by label and prediction: of many thousand classes, most pairs are never confused.
    counts: BTreeMap<(usize, usize), u64>,
}

/// Metrics of one class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassMetrics {
    /// Images with this label.
    pub support: u64,
    /// Images predicted as this class.
    pub predicted: u64,
    /// Images with this label predicted as this class.
    pub correct: u64,
    /// correct / predicted; `None` if `predicted` is 0.
    pub precision: Option<f64>,
    /// correct / support; `None` if `support` is 0.
    pub recall: Option<f64>,
    /// The harmonic mean of precision and recall, 2 correct / (support + predicted); `None` if both
    /// are 0.
    pub f1: Option<f64>,
}

/// Unweighted (macro) means over the classes with images. Undefined values count as zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct MeanMetrics {
    /// Mean precision.
    pub precision: f64,
    /// Mean recall, which is also called balanced accuracy.
    pub recall: f64,
    /// Mean F1, which is also called macro F1.
    pub f1: f64,
}

impl Confusion {
    /// Empty, for `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: BTreeMap::new() }
    }

    /// Adds an image. Numbers that are not a class are ignored.
    pub fn add(&mut self, label: usize, prediction: usize) {
        if label < self.classes && prediction < self.classes {
            *self.counts.entry((label, prediction)).or_default() += 1;
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Number of images with this label and prediction.
    pub fn count(&self, label: usize, prediction: usize) -> u64 {
        self.counts.get(&(label, prediction)).copied().unwrap_or(0)
    }

    /// Number of images with this label, by prediction.
    pub fn row(&self, label: usize) -> Vec<u64> {
        let mut row = vec![0; self.classes];
        for ((_, prediction), count) in self.counts.range((label, 0)..(label.saturating_add(1), 0)) {
            row[*prediction] = *count;
        }
        row
    }

    /// Metrics of each class.
    pub fn metrics(&self) -> Vec<ClassMetrics> {
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let mut sums = vec![(0, 0); self.classes];
        for ((label, prediction), count) in &self.counts {
            sums[*label].0 += count;
            sums[*prediction].1 += count;
        }
        let class = |(class, (support, predicted)): (usize, (u64, u64))| {
            let correct = self.count(class, class);
            ClassMetrics {
                support,
                predicted,
                correct,
                precision: share(correct, predicted),
                recall: share(correct, support),
                f1: share(2 * correct, support + predicted),
            }
        };
        sums.into_iter().enumerate().map(class).collect()
    }

    /// Means over the classes.
    pub fn mean(&self) -> MeanMetrics {
        let metrics = self.metrics();
        let there: Vec<&ClassMetrics> = metrics.iter().filter(|m| m.support > 0).collect();
        let mean = |of: fn(&ClassMetrics) -> Option<f64>| {
            there.iter().map(|m| of(m).unwrap_or(0.0)).sum::<f64>() / there.len().max(1) as f64
        };
        MeanMetrics { precision: mean(|m| m.precision), recall: mean(|m| m.recall), f1: mean(|m| m.f1) }
    }

    /// Up to `most` pairs of label and prediction that are confused most often, with their counts.
    pub fn most_confused(&self, most: usize) -> Vec<(usize, usize, u64)> {
        let cells = self.counts.iter().map(|((label, prediction), count)| (*label, *prediction, *count));
        let mut wrong: Vec<_> = cells.filter(|(label, prediction, _)| label != prediction).collect();
        wrong.sort_by_key(|(label, prediction, count)| (std::cmp::Reverse(*count), *label, *prediction));
        wrong.truncate(most);
        wrong
    }
}

/// Serialized as a list of rows.
impl Serialize for Confusion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..self.classes).map(|label| self.row(label)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Label 0: 3 right, 1 predicted as 1, 1 as 2. Label 1: 2 right, 2 predicted as 0. No image of
    /// class 2.
    fn example() -> Confusion {
        let mut confusion = Confusion::new(3);
        let images = [(0, 0), (0, 0), (0, 0), (0, 1), (0, 2), (1, 1), (1, 1), (1, 0), (1, 0)];
        images.iter().for_each(|(label, prediction)| confusion.add(*label, *prediction));
        confusion
    }

    #[test]
    fn metrics_match_hand_computed_values() {
        let metrics = example().metrics();
        let of = |i: usize| (metrics[i].precision, metrics[i].recall, metrics[i].f1);
        // 5 predictions of class 0, 3 right; 5 images of it.
        assert_eq!(of(0), (Some(0.6), Some(0.6), Some(0.6)));
        // 3 predictions, 2 right; 4 images: F1 = 4 / 7.
        assert_eq!(of(1), (Some(2.0 / 3.0), Some(0.5), Some(4.0 / 7.0)));
        assert_eq!(of(2), (Some(0.0), None, Some(0.0)));
        assert_eq!(Confusion::new(1).metrics()[0].f1, None);
        let mean = example().mean();
        assert!(
            (mean.precision - (0.6 + 2.0 / 3.0) / 2.0).abs() < 1e-12 && (mean.recall - 0.55).abs() < 1e-12
        );
        assert!((mean.f1 - (0.6 + 4.0 / 7.0) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn most_confused_pairs_come_first() {
        assert_eq!(example().most_confused(2), [(1, 0, 2), (0, 1, 1)]);
        assert_eq!(example().most_confused(9).len(), 3);
        assert_eq!(serde_json::to_string(&example()).expect("JSON"), "[[3,1,1],[2,2,0],[0,0,0]]");
    }

    /// A dense matrix of a million classes would take terabytes.
    #[test]
    fn confusion_matrix_of_many_classes_is_sparse() {
        let mut confusion = Confusion::new(1 << 20);
        confusion.add(7, 1_000_000);
        assert_eq!((confusion.count(7, 1_000_000), confusion.most_confused(2)), (1, vec![(7, 1_000_000, 1)]));
        assert_eq!(confusion.metrics()[7].support, 1);
    }

    #[test]
    fn labels_out_of_range_are_ignored() {
        let mut confusion = example();
        confusion.add(3, 0);
        confusion.add(0, 3);
        assert_eq!(confusion, example());
        assert_eq!((confusion.count(5, 0), confusion.count(0, 5)), (0, 0));
    }
}
