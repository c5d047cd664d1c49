//! The same network trained with and without its auxiliary heads: validation accuracy over the
//! epochs, for several seeds.

use std::ops::ControlFlow;

use serde::Serialize;

use crate::data::Loader;
use crate::device::Device;
use crate::error::Result;
use crate::infer::{EarlyExit, evaluate_heads};
use crate::model::GoogLeNet;
use crate::optim::Optimizer;
use crate::train::{StepMetrics, Trainer, train_epoch};

/// Training recipe of the networks: `Recipe::new(5, 16, 0.01)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Recipe {
    /// Epochs.
    pub epochs: u64,
    /// Batch size.
    pub batch: usize,
    /// Constant learning rate.
    pub lr: f64,
    /// The optimizer.
    pub optimizer: Optimizer,
}

impl Recipe {
    /// Epochs, batch size and learning rate, with the default optimizer.
    pub fn new(epochs: u64, batch: usize, lr: f64) -> Self {
        Self { epochs, batch, lr, optimizer: Optimizer::default() }
    }

    /// The optimizer.
    #[must_use]
    pub fn optimizer(self, optimizer: Optimizer) -> Self {
        Self { optimizer, ..self }
    }
}

/// Metrics of one network after an epoch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CurvePoint {
    /// Completed epochs.
    pub epoch: u64,
    /// Validation accuracy of each head, in [0, 1], in the order of [`Curve::heads`].
    pub accuracies: Vec<f64>,
    /// Mean training loss of each head over the epoch, in the same order; empty before the first
    /// epoch.
    pub losses: Vec<f64>,
}

/// The training of one network.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// The seed of weights, order and dropout.
    pub seed: u64,
    /// Weight of the auxiliary losses.
    pub aux_weight: f32,
    /// The heads, the main one first.
    pub heads: Vec<&'static str>,
    /// Before training and after each epoch.
    pub points: Vec<CurvePoint>,
    /// Whether it was interrupted.
    pub interrupted: bool,
}

impl Curve {
    /// The accuracy of a head after `epoch` epochs.
    fn accuracy(&self, head: &str, epoch: usize) -> Option<f64> {
        let head = self.heads.iter().position(|h| *h == head)?;
        self.points.get(epoch).and_then(|p| p.accuracies.get(head)).copied()
    }
}

/// Mean and range over seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The minimum.
    pub least: f64,
    /// The maximum.
    pub most: f64,
}

impl Spread {
    /// Mean and range of `values`; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let count = values.len() as f64;
        (!values.is_empty()).then(|| Self {
            mean: values.iter().sum::<f64>() / count,
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }

    /// Whether two ranges overlap.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.least <= other.most && other.least <= self.most
    }
}

/// Networks with and without auxiliary heads, from the same seeds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Networks with auxiliary heads.
    pub with: Vec<Curve>,
    /// Networks without auxiliary heads.
    pub without: Vec<Curve>,
}

impl Comparison {
    /// The accuracy of a head over the networks with (or without) auxiliary heads, before training
    /// and after each epoch that all of them have completed.
    pub fn spread(&self, with_aux: bool, head: &str) -> Vec<Spread> {
        let curves = if with_aux { &self.with } else { &self.without };
        let epochs = curves.iter().map(|c| c.points.len()).min().unwrap_or(0);
        let at = |epoch: usize| Spread::of(curves.iter().filter_map(|c| c.accuracy(head, epoch)));
        (0..epochs).filter_map(at).collect()
    }

    /// The main heads of the networks with and without auxiliary heads, seed by seed, after the
    /// last epoch.
    pub fn pairs(&self) -> Pairs {
        let mut pairs = Pairs::default();
        for (with, without) in self.with.iter().zip(&self.without) {
            let last = |curve: &Curve| curve.accuracy("main", curve.points.len().saturating_sub(1));
            if let (Some(with), Some(without)) = (last(with), last(without)) {
                pairs.better += u64::from(with > without);
                pairs.worse += u64::from(with < without);
            }
        }
        pairs
    }
}

/// Paired comparison: networks from the same seed, one with auxiliary heads and one without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pairs {
    /// Pairs in which the network with heads is better.
    pub better: u64,
    /// Pairs in which it is worse.
    pub worse: u64,
}

impl Pairs {
    /// p-value of the two-sided sign test.
    pub fn chance(&self) -> f64 {
        let (n, most) = (self.better + self.worse, self.better.max(self.worse));
        // Binomial coefficients n! / (i! (n - i)!), each from the previous one.
        let mut ways = 1.0;
        let mut tail = 0.0;
        for i in (most..=n).rev() {
            tail += ways;
            ways *= i as f64 / (n - i + 1) as f64;
        }
        (2.0 * tail / 2f64.powi(i32::try_from(n).unwrap_or(i32::MAX))).min(1.0)
    }
}

/// Trains one network from its seed and validates all its heads before the first and after each
/// epoch. `observe` is called with the epoch and each step and may interrupt the training; `looked`
/// is called with each validation. Returns the trainer too, for its weights.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for values out of range, and errors of loaders and
/// device.
#[expect(
    clippy::too_many_arguments,
    reason = "the arguments are independent, and a struct of them would be constructed in one place only"
)]
pub async fn train_curve(
    device: impl Into<Device>,
    network: &GoogLeNet,
    recipe: &Recipe,
    seed: u64,
    train: &Loader,
    validation: &Loader,
    mut observe: impl FnMut(u64, &StepMetrics) -> ControlFlow<()>,
    mut looked: impl FnMut(&CurvePoint),
) -> Result<(Curve, Trainer)> {
    let device = &device.into();
    let mut trainer = Trainer::new(device, network, &recipe.optimizer, recipe.batch, seed, |_, _| ()).await?;
    let mut classifier = trainer.early_exit(recipe.batch).await?;
    let heads = classifier.heads();
    let mut curve =
        Curve { seed, aux_weight: network.aux_weight, heads, points: Vec::new(), interrupted: false };
    for epoch in 0..=recipe.epochs {
        let mut losses = Vec::new();
        if epoch > 0 {
            let step = |step: &StepMetrics| observe(epoch, step);
            let summary = train_epoch(&mut trainer, train, |_| recipe.lr, step).await?;
            if summary.interrupted {
                curve.interrupted = true;
                break;
            }
            losses = summary.heads.iter().map(|h| h.loss).collect();
        }
        let accuracies = accuracies(&mut classifier, validation).await?;
        let point = CurvePoint { epoch, accuracies, losses };
        looked(&point);
        curve.points.push(point);
    }
    Ok((curve, trainer))
}

/// The accuracy of every head, in the classifier's order.
async fn accuracies(classifier: &mut EarlyExit, loader: &Loader) -> Result<Vec<f64>> {
    let heads = evaluate_heads(classifier, loader, |_| ControlFlow::Continue(())).await?;
    Ok(heads.iter().map(|(_, evaluation)| evaluation.accuracy()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_ranges_overlap() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied()).expect("has values");
        let (low, high) = (spread(&[0.1, 0.3, 0.2]), spread(&[0.3, 0.9]));
        assert!((low.mean - 0.2).abs() < 1e-12);
        assert_eq!((low.least, low.most), (0.1, 0.3));
        assert!(low.overlaps(&high) && high.overlaps(&low));
        assert!(!low.overlaps(&spread(&[0.31])));
        assert_eq!(Spread::of([]), None);
    }
}
