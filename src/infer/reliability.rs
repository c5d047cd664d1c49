//! Reliability diagrams and calibration errors: of images classified with 80% confidence, 80%
//! should be right (Guo et al., "On Calibration of Modern Neural Networks", 2017).

use serde::Serialize;

/// Images with a confidence in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ReliabilityBin {
    /// Exclusive lower bound of the confidence; the first bin includes 0.
    pub above: f64,
    /// Inclusive upper bound of the confidence.
    pub to: f64,
    /// Number of images.
    pub count: u64,
    /// Their mean confidence; 0 without images.
    pub confidence: f64,
    /// Their accuracy; 0 without images.
    pub accuracy: f64,
}

/// Confidence, the probability of the most probable class, against accuracy.
#[derive(Clone, Debug, PartialEq)]
pub struct Reliability {
    /// For each bin: images, sum of confidences, images classified correctly.
    bins: Vec<(u64, f64, u64)>,
}

impl Reliability {
    /// The default number of bins.
    pub const BINS: usize = 15;

    /// Empty, with `bins` bins of equal width.
    pub fn new(bins: usize) -> Self {
        Self { bins: vec![(0, 0.0, 0); bins.max(1)] }
    }

    /// Adds an image.
    pub fn add(&mut self, confidence: f32, correct: bool) {
        let count = self.bins.len();
        let bin = (f64::from(confidence) * count as f64).ceil() as usize;
        let (images, confidences, right) = &mut self.bins[bin.clamp(1, count) - 1];
        *images += 1;
        *confidences += f64::from(confidence);
        *right += u64::from(correct);
    }

    /// Number of images.
    pub fn count(&self) -> u64 {
        self.bins.iter().map(|(images, ..)| images).sum()
    }

    /// The bins in ascending order of confidence.
    pub fn bins(&self) -> Vec<ReliabilityBin> {
        let edge = |i: usize| i as f64 / self.bins.len() as f64;
        let bin = |(i, (count, confidences, right)): (usize, &(u64, f64, u64))| {
            let images = (*count).max(1) as f64;
            ReliabilityBin {
                above: edge(i),
                to: edge(i + 1),
                count: *count,
                confidence: confidences / images,
                accuracy: *right as f64 / images,
            }
        };
        self.bins.iter().enumerate().map(bin).collect()
    }

    /// Mean confidence of all images.
    pub fn confidence(&self) -> f64 {
        self.bins.iter().map(|(_, confidences, _)| confidences).sum::<f64>() / self.count().max(1) as f64
    }

    /// Expected calibration error: the mean over all images of |accuracy - confidence| of their
    /// bin.
    pub fn ece(&self) -> f64 {
        let gaps = self.bins.iter().map(|(_, confidences, right)| (*right as f64 - confidences).abs());
        gaps.sum::<f64>() / self.count().max(1) as f64
    }

    /// Maximum calibration error: the gap of the worst bin.
    pub fn mce(&self) -> f64 {
        let bins = self.bins();
        let there = bins.iter().filter(|b| b.count > 0);
        there.map(|b| (b.accuracy - b.confidence).abs()).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibration_errors_match_hand_computed_values() {
        let mut reliability = Reliability::new(10);
        // (0.5, 0.6]: confidence 0.59 and 0.55, one right: the gap of the sums is |1 - 1.14|.
        reliability.add(0.59, true);
        reliability.add(0.55, false);
        // (0.9, 1]: confidence 1 twice, both right.
        reliability.add(1.0, true);
        reliability.add(1.0, true);
        assert!((reliability.ece() - 0.14 / 4.0).abs() < 1e-6, "{}", reliability.ece());
        assert!((reliability.mce() - 0.07).abs() < 1e-6);
        assert!((reliability.confidence() - 0.785).abs() < 1e-6);
        let bins = reliability.bins();
        assert_eq!((bins[5].count, bins[5].accuracy, bins[9].count), (2, 0.5, 2));
    }

    #[test]
    fn bin_edges_belong_to_the_lower_bin() {
        let mut reliability = Reliability::new(4);
        [0.0, 0.25, 0.250_001, 0.5, 1.0].iter().for_each(|c| reliability.add(*c, true));
        let counts: Vec<u64> = reliability.bins().iter().map(|b| b.count).collect();
        assert_eq!(counts, [2, 2, 0, 1]);
        assert_eq!((Reliability::new(15).ece(), Reliability::new(15).mce()), (0.0, 0.0));
    }
}
