//! Early exit at many thresholds: compute and accuracy of each, from the logits of all heads.

use serde::Serialize;

use crate::infer::{HeadLogits, softmax, top};

/// The thresholds to try; the last cannot be reached.
pub const THRESHOLDS: [f32; 18] =
    [0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 0.9999, 2.0];

/// Early exit at one threshold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SweepPoint {
    /// Threshold: an image exits at the first head whose highest probability reaches it.
    pub threshold: f32,
    /// Share of the images that exit at each head; lists by head have the order of
    /// [`EarlyExit::heads`](crate::infer::EarlyExit::heads), main first.
    pub shares: Vec<f64>,
    /// Accuracy of each head over the images that exit there; `None` without any.
    pub accuracies: Vec<Option<f64>>,
    /// Share of the images that are classified correctly.
    pub accuracy: f64,
    /// Loss of accuracy: share of images that only the main head classifies correctly, minus the
    /// share that only early exit does.
    pub lost: f64,
    /// Standard error of `lost`, computed as if one more image had been lost: with few images, a
    /// loss of zero does not prove that there is none.
    pub lost_error: f64,
    /// Mean multiply-adds per image relative to the network with the main head only; above 1 if the
    /// heads cost more than they save.
    pub compute: f64,
}

/// Early exit at each threshold. `temperatures` and `macs` are those of each head, main first: the
/// multiply-adds of an image that exits there. `full` are those of a network with the main head
/// only.
pub fn sweep(
    heads: &HeadLogits,
    temperatures: &[f32],
    macs: &[u64],
    full: u64,
    thresholds: &[f32],
) -> Vec<SweepPoint> {
    let temperature = |head: usize| temperatures.get(head).copied().unwrap_or(1.0);
    // [head][image]: (class, probability).
    let said: Vec<Vec<(usize, f32)>> = heads
        .logits
        .iter()
        .enumerate()
        .map(|(head, rows)| {
            let best = |row: &Vec<f32>| top(&softmax(row, temperature(head)), 1)[0];
            rows.iter().map(best).map(|p| (p.class, p.probability)).collect()
        })
        .collect();
    // The main head is the first in lists and the last to run.
    const MAIN: usize = 0;
    let count = heads.labels.len().max(1) as f64;
    let point = |threshold: f32| {
        let (mut answered, mut right, mut compute) =
            (vec![0usize; said.len()], vec![0usize; said.len()], 0.0);
        // Images that only the main head classifies correctly, and that only the head of the exit
        // does.
        let (mut worse, mut better) = (0usize, 0usize);
        for (image, label) in heads.labels.iter().enumerate() {
            let sure = |head: &usize| said[*head][image].1 >= threshold;
            let head = (MAIN + 1..said.len()).find(sure).unwrap_or(MAIN);
            answered[head] += 1;
            let [here, at_main] = [head, MAIN].map(|head| said[head][image].0 == *label as usize);
            right[head] += usize::from(here);
            worse += usize::from(at_main && !here);
            better += usize::from(here && !at_main);
            compute += macs[head] as f64 / full.max(1) as f64;
        }
        let share =
            |(right, answered): (&usize, &usize)| (*answered > 0).then(|| *right as f64 / *answered as f64);
        let lost = (worse as f64 - better as f64) / count;
        SweepPoint {
            threshold,
            shares: answered.iter().map(|n| *n as f64 / count).collect(),
            accuracies: right.iter().zip(&answered).map(share).collect(),
            accuracy: right.iter().sum::<usize>() as f64 / count,
            lost,
            lost_error: (((worse + better + 1) as f64 / count - lost * lost) / count).sqrt(),
            compute: compute / count,
        }
    };
    thresholds.iter().map(|t| point(*t)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweep_matches_hand_computed_counts() {
        // Two heads, three images: the auxiliary head is confident and right, confident and wrong,
        // unsure.
        let heads = HeadLogits {
            logits: vec![
                vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![0.0, 1.0]],
                vec![vec![5.0, 0.0], vec![5.0, 0.0], vec![0.1, 0.0]],
            ],
            labels: vec![0, 1, 1],
        };
        let points = sweep(&heads, &[], &[120, 30], 100, &[0.9, 2.0]);
        assert_eq!(points[0].shares, [1.0 / 3.0, 2.0 / 3.0]);
        assert_eq!(points[0].accuracies, [Some(1.0), Some(0.5)]);
        assert!((points[0].accuracy - 2.0 / 3.0).abs() < 1e-12);
        assert!((points[0].compute - (0.3 + 0.3 + 1.2) / 3.0).abs() < 1e-12);
        assert_eq!((points[1].accuracy, points[1].shares[0], points[1].accuracies[1]), (1.0, 1.0, None));
        // One of three is lost and another is assumed: 1/3 with a variance of 2/3 - 1/9 per image.
        // Nothing is lost at the last threshold.
        assert!(
            (points[0].lost - 1.0 / 3.0).abs() < 1e-12
                && (points[0].lost_error - (5.0f64 / 27.0).sqrt()).abs() < 1e-12
        );
        assert!(points[1].lost == 0.0 && (points[1].lost_error - 1.0 / 3.0).abs() < 1e-12);
        // With a temperature that makes the auxiliary head unsure, no image exits early.
        let cold = sweep(&heads, &[1.0, 100.0], &[120, 30], 100, &[0.9]);
        assert_eq!(cold[0].shares, [1.0, 0.0]);
    }
}
