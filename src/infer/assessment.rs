//! All metrics of a classifier from one pass over a data set.

use serde::Serialize;

use super::{Confusion, Reliability};
use crate::infer::Evaluation;

/// An image that is classified wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mistake {
    /// Its index in the data set.
    pub image: usize,
    /// Its true class.
    pub label: usize,
    /// The predicted class.
    pub prediction: usize,
    /// The probability of the predicted class.
    pub probability: f32,
    /// The probability of the true class.
    pub of_label: f32,
}

/// Accuracy, confusions, calibration and the worst mistakes.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// Accuracy and mean cross-entropy.
    pub evaluation: Evaluation,
    /// The confusion matrix.
    pub confusion: Confusion,
    /// Calibration: confidence against accuracy.
    pub reliability: Reliability,
    mistakes: Vec<Mistake>,
    keep: usize,
}

impl Assessment {
    /// Empty, for `classes` classes; keeps up to `worst` mistakes.
    pub fn new(classes: usize, worst: usize) -> Self {
        Self {
            evaluation: Evaluation::default(),
            confusion: Confusion::new(classes),
            reliability: Reliability::new(Reliability::BINS),
            mistakes: Vec::new(),
            keep: worst,
        }
    }

    /// Adds the image with index `image`.
    pub fn add(&mut self, image: usize, label: usize, probabilities: &[f32]) {
        let Some(prediction) = most_probable(probabilities) else { return };
        let probability = probabilities[prediction];
        self.evaluation.add(probabilities, label);
        self.confusion.add(label, prediction);
        self.reliability.add(probability, prediction == label);
        if prediction != label {
            let of_label = probabilities.get(label).copied().unwrap_or(0.0);
            let mistake = Mistake { image, label, prediction, probability, of_label };
            let at = self.mistakes.partition_point(|m| m.probability >= probability);
            self.mistakes.insert(at, mistake);
            self.mistakes.truncate(self.keep);
        }
    }

    /// The most confident mistakes, in descending order.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

/// The most probable class; the first in a tie.
fn most_probable(probabilities: &[f32]) -> Option<usize> {
    let better = |best: Option<usize>, i: usize| match best {
        Some(b) if probabilities[b] >= probabilities[i] => best,
        _ => Some(i),
    };
    (0..probabilities.len()).fold(None, better)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_confident_mistakes_are_kept_in_order() {
        let mut assessment = Assessment::new(2, 2);
        for (image, (label, first)) in [(0, 0.9), (1, 0.8), (1, 0.6), (1, 0.95), (0, 0.5)].iter().enumerate()
        {
            assessment.add(image, *label, &[*first, 1.0 - first]);
        }
        let kept: Vec<usize> = assessment.mistakes().iter().map(|m| m.image).collect();
        assert_eq!(kept, [3, 1]);
        // In a tie the first class is predicted, so the last image is right.
        assert_eq!((assessment.evaluation.correct, assessment.confusion.count(1, 0)), (2, 3));
        assert_eq!(assessment.reliability.count(), 5);
    }
}
