//! Everything that one look at each image of a data set tells about a classifier.

use serde::Serialize;

use super::{Confusion, Reliability};
use crate::infer::Evaluation;

/// An image that is classified wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mistake {
    /// Its number in the data set.
    pub image: usize,
    /// Its class.
    pub label: usize,
    /// The class that it is taken for.
    pub prediction: usize,
    /// The probability of that class.
    pub probability: f32,
    /// The probability of its own class.
    pub of_label: f32,
}

/// Accuracy, confusions, calibration and the worst mistakes.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// Accuracy and mean cross-entropy.
    pub evaluation: Evaluation,
    /// Labels against predictions.
    pub confusion: Confusion,
    /// Confidence against accuracy.
    pub reliability: Reliability,
    mistakes: Vec<Mistake>,
    keep: usize,
}

impl Assessment {
    /// No image yet, of so many classes; it keeps at most `worst` mistakes.
    pub fn new(classes: usize, worst: usize) -> Self {
        Self {
            evaluation: Evaluation::default(),
            confusion: Confusion::new(classes),
            reliability: Reliability::new(Reliability::BINS),
            mistakes: Vec::new(),
            keep: worst,
        }
    }

    /// Takes up the image number `image`.
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

    /// The mistakes that the network was surest of, the surest first.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

/// The most probable class, of equals the first.
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
    fn the_surest_mistakes_are_kept() {
        let mut assessment = Assessment::new(2, 2);
        for (image, (label, first)) in [(0, 0.9), (1, 0.8), (1, 0.6), (1, 0.95), (0, 0.5)].iter().enumerate()
        {
            assessment.add(image, *label, &[*first, 1.0 - first]);
        }
        let kept: Vec<usize> = assessment.mistakes().iter().map(|m| m.image).collect();
        assert_eq!(kept, [3, 1]);
        // Of equals the first is the prediction: the last image is right.
        assert_eq!((assessment.evaluation.correct, assessment.confusion.count(1, 0)), (2, 3));
        assert_eq!(assessment.reliability.count(), 5);
    }
}
