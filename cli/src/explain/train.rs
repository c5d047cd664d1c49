//! `incept explain --train` and `--story`: networks with and without auxiliary heads from the same
//! seeds.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use incept::Error;
use incept::data::{Loader, OpenedData, Preprocessing};
use incept::device::Device;
use incept::explain::{Comparison, Curve, CurvePoint, Pairs, Recipe, Spread, train_curve};
use incept::model::GoogLeNet;
use incept::optim::TrainingState;
use incept::train::{StepMetrics, Trainer, TrainingGraph};
use serde::Serialize;

use super::super::data::report_bad;
use super::super::interrupt::interruptible;
use super::super::options::DeviceArgs;
use super::super::plot;
use super::super::report::{Rate, Reporter, duration, note, plural, shown};
use super::super::tune::Worth;
use super::super::{Outcome, Result};
use super::Explain;
use super::train_plot::{Charts, CurvesFigure};

/// Default batch size, as in Caffe's solver for GoogLeNet.
const BATCH: usize = 32;

#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum Event<'a> {
    Start {
        device: &'a incept::gpu::AdapterSummary,
        network: &'a GoogLeNet,
        recipe: &'a Recipe,
        seeds: u64,
        train: usize,
        validation: usize,
    },
    Validated {
        seed: u64,
        aux_weight: f32,
        #[serde(flatten)]
        point: &'a CurvePoint,
    },
    Comparison {
        #[serde(flatten)]
        comparison: &'a Comparison,
        verdict: Verdict,
        seconds: f64,
        plots: &'a [PathBuf],
    },
}

/// The comparison of the main head's validation accuracy after the last epoch.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Verdict {
    epochs: u64,
    pub seeds: u64,
    pub with: Spread,
    pub without: Spread,
    /// Whether the ranges over the seeds overlap; none with a single seed.
    overlap: Option<bool>,
    /// Comparison of the pairs with the same seed.
    pub pairs: Pairs,
    /// Two-sided p-value of the sign test on the pairs.
    pub p_value: f64,
}

/// Significance level of the sign test.
const SIGNIFICANCE: f64 = 0.05;

/// The trained networks, and what they share.
pub(super) struct Compared {
    pub device: Device,
    /// The network with auxiliary heads.
    pub network: GoogLeNet,
    pub data: OpenedData,
    pub preprocessing: Preprocessing,
    pub recipe: Recipe,
    pub comparison: Comparison,
    pub verdict: Verdict,
    /// The first network with auxiliary heads after training.
    pub trained: TrainingState,
    /// Network, image size and data.
    pub subtitle: String,
    pub took: Duration,
}

/// What all networks of a comparison share, and its progress.
struct Trial<'a> {
    device: &'a Device,
    recipe: Recipe,
    train: Loader,
    validation: Loader,
    stop: &'a AtomicBool,
    reporter: &'a Reporter,
    rate: Rate,
    networks: u64,
}

impl Explain {
    /// Trains a network with and one without auxiliary heads from each seed; none if the user
    /// interrupts it.
    pub(super) fn pairs(&self, device_args: &DeviceArgs, reporter: &Reporter) -> Result<Option<Compared>> {
        if self.epochs == 0 || self.seeds == 0 {
            return Err(Error::Config("--epochs and --seeds must be above zero".into()));
        }
        let name = self.data.clone().unwrap_or_else(|| "digits".into());
        let data = self.open(&name)?;
        let with = self.fresh(&data, name == "digits")?;
        if !with.has_aux() {
            return Err(Error::Config(
                "--aux-weight must be above 0: the comparison is with networks that have 0".into(),
            ));
        }
        let without = with.clone().aux_weight(0.0);
        let batch = self.batch.unwrap_or(BATCH);
        let recipe = Recipe::new(self.epochs, batch, self.lr);
        let preprocessing = self.pixels.clone().measured(with.input, data.train.as_ref())?;
        let options = self.load.options(batch, &preprocessing);
        let stop = interruptible()?;
        let device = device_args.open()?;
        for network in [&with, &without] {
            device_args.tune(&device, reporter, Worth::Training, Some(&stop), || {
                TrainingGraph::new(network, &recipe.optimizer, batch)?.plan(&device)
            })?;
        }
        reporter.event_if_open(&Event::Start {
            device: device.summary(),
            network: &with,
            recipe: &recipe,
            seeds: self.seeds,
            train: data.train.len(),
            validation: data.validation.len(),
        })?;
        let mut trial = Trial {
            device: &device,
            recipe,
            // Replaced for each seed, which determines the order of the images.
            train: Loader::new(Arc::clone(&data.train), options.clone().training(self.seed, None))?,
            validation: Loader::new(Arc::clone(&data.validation), options.clone())?,
            stop: &stop,
            reporter,
            rate: Rate::new(),
            networks: 2 * self.seeds,
        };
        let mut comparison = Comparison::default();
        let mut trained = None;
        for seed in self.seed..self.seed + self.seeds {
            trial.train = Loader::new(Arc::clone(&data.train), options.clone().training(seed, None))?;
            for network in [&with, &without] {
                let done = comparison.with.len() + comparison.without.len();
                let (curve, trainer) = trial.curve(network, seed, done as u64)?;
                if curve.interrupted {
                    note("interrupted: no comparison without all networks");
                    return Ok(None);
                }
                if trained.is_none() {
                    trained = Some(device.block_on(trainer.state())?);
                }
                if network.has_aux() { &mut comparison.with } else { &mut comparison.without }.push(curve);
            }
        }
        report_bad(&trial.train);
        let subtitle = format!(
            "{} network, width {}, {} pixels, {}",
            with.variant,
            self.network.width.unwrap_or(super::WIDTH),
            with.input,
            name
        );
        let Some((verdict, trained)) = self.verdict(&comparison).zip(trained) else {
            return Err(Error::Config("--epochs and --seeds must be above zero".into()));
        };
        let (recipe, took) = (trial.recipe, trial.rate.elapsed());
        Ok(Some(Compared {
            device,
            network: with,
            data,
            preprocessing,
            recipe,
            comparison,
            verdict,
            trained,
            subtitle,
            took,
        }))
    }

    /// The comparison after the last epoch.
    fn verdict(&self, comparison: &Comparison) -> Option<Verdict> {
        let last = |with: bool| comparison.spread(with, "main").last().copied();
        let (with, without) = (last(true)?, last(false)?);
        let overlap = (self.seeds > 1).then(|| with.overlaps(&without));
        let pairs = comparison.pairs();
        let (epochs, seeds, p_value) = (self.epochs, self.seeds, pairs.chance());
        Some(Verdict { epochs, seeds, with, without, overlap, pairs, p_value })
    }

    pub(super) fn compare(&self, device_args: &DeviceArgs, plots: &[PathBuf], reporter: &Reporter) -> Result {
        let Some(compared) = self.pairs(device_args, reporter)? else { return Ok(Outcome::Interrupted) };
        let Compared { comparison, verdict, subtitle, took, .. } = &compared;
        let subtitle = format!("{subtitle}, {}", plural(self.seeds, "seed"));
        let figure = CurvesFigure { comparison, subtitle, charts: Charts::Both };
        for path in plots {
            plot::save(&figure, path)?;
        }
        table(comparison, reporter)?;
        for line in verdict.words() {
            reporter.line(&line)?;
        }
        let files: Vec<String> = plots.iter().map(|p| shown(p)).collect();
        reporter.line(&format!("{} in all; plot: {}", duration(*took), files.join(", ")))?;
        let (verdict, seconds) = (*verdict, took.as_secs_f64());
        reporter.event(&Event::Comparison { comparison, verdict, seconds, plots })?;
        Ok(Outcome::Done)
    }
}

impl Trial<'_> {
    /// Trains one network, with progress.
    fn curve(&mut self, network: &GoogLeNet, seed: u64, done: u64) -> Result<(Curve, Trainer)> {
        let kind = if network.has_aux() { "with" } else { "without" };
        let label = format!("{}/{} {kind} aux, seed {seed}", done + 1, self.networks);
        let per_network = (self.recipe.epochs as usize).saturating_mul(self.train.len());
        let mut bar = self.reporter.bar(&label, per_network as u64);
        let (stop, rate) = (self.stop, &mut self.rate);
        let left = ((self.networks - done) as usize).saturating_mul(per_network);
        let mut trained = 0;
        let observe = |epoch: u64, step: &StepMetrics| {
            trained += step.count;
            rate.add(step.count);
            bar.update(trained as u64, || {
                let left = rate.left(left.saturating_sub(trained));
                format!(
                    "epoch {epoch}  loss {:.3}  {:.0} images/s  {left} left",
                    step.loss,
                    rate.per_second()
                )
            });
            if stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let mut failed = None;
        let aux_weight = network.aux_weight;
        let validated = |point: &CurvePoint| {
            let told = self.reporter.event_if_open(&Event::Validated { seed, aux_weight, point });
            failed = failed.take().or(told.err());
        };
        let run = train_curve(
            self.device,
            network,
            &self.recipe,
            seed,
            &self.train,
            &self.validation,
            observe,
            validated,
        );
        let trained = self.device.block_on(run)?;
        failed.map_or(Ok(trained), Err)
    }
}

/// Prints the validation accuracy of each head after each epoch.
fn table(comparison: &Comparison, reporter: &Reporter) -> Result<()> {
    let columns = [
        (true, "main", "main (with aux)"),
        (false, "main", "main (without aux)"),
        (true, "aux1", "aux1"),
        (true, "aux2", "aux2"),
    ];
    let spreads = columns.map(|(with, head, _)| comparison.spread(with, head));
    reporter.line("Validation accuracy of the main head, trained with and without auxiliary heads, and of the auxiliary heads\n")?;
    let names: String = columns.iter().map(|(_, _, name)| format!("  {name:>22}")).collect();
    reporter.line(&format!("epoch{names}"))?;
    for epoch in 0..spreads[0].len() {
        let cells: String =
            spreads.iter().map(|s| format!("  {:>22}", s.get(epoch).map_or(String::new(), range))).collect();
        reporter.line(&format!("{epoch:>5}{cells}"))?;
    }
    reporter.line("")
}

/// Formats mean and range in percent.
fn range(spread: &Spread) -> String {
    let Spread { mean, least, most } = spread;
    if least == most {
        return format!("{:.1}%", 100.0 * mean);
    }
    format!("{:.1}% ({:.1} to {:.1})", 100.0 * mean, 100.0 * least, 100.0 * most)
}

impl Verdict {
    pub(super) fn words(&self) -> Vec<String> {
        let Self { epochs, seeds, with, without, overlap, pairs, p_value } = self;
        let epochs = plural(*epochs, "epoch");
        let mut lines = vec![format!(
            "after {epochs}: {} with auxiliary heads, {} without, {:+.1} points",
            range(with),
            range(without),
            100.0 * (with.mean - without.mean)
        )];
        let kind = if with.mean > without.mean { "better" } else { "worse" };
        lines.push(match overlap {
            None => "a single seed does not show the variation between runs: use --seeds 3 or more".into(),
            Some(true) => format!("the ranges over {seeds} seeds overlap"),
            Some(false) => format!(
                "the ranges over {seeds} seeds do not overlap: every network with auxiliary heads is {kind} than every one without"
            ),
        });
        if *seeds > 1 {
            let Pairs { better, worse } = pairs;
            let conclusion = match (*p_value < SIGNIFICANCE, better > worse) {
                (true, true) => "the auxiliary heads improve accuracy here",
                (true, false) => "the auxiliary heads reduce accuracy here",
                (false, _) => "not significant",
            };
            lines.push(format!(
                "of {} with the same seed, auxiliary heads are better in {better} and worse in {worse} (sign test, p = {p_value:.3}): {conclusion}",
                plural(*seeds, "pair")
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_report_ranges_and_significance() {
        let spread = |least: f64, most: f64| Spread { mean: f64::midpoint(least, most), least, most };
        let words = |with: Spread, without: Spread, overlap: Option<bool>, better: u64, worse: u64| {
            let (pairs, seeds) = (Pairs { better, worse }, better + worse);
            let p_value = pairs.chance();
            Verdict { epochs: 5, seeds, with, without, overlap, pairs, p_value }.words().join("\n")
        };
        let apart = words(spread(0.47, 0.58), spread(0.15, 0.20), Some(false), 3, 0);
        assert!(apart.contains("47.0 to 58.0") && apart.contains("do not overlap"), "{apart}");
        assert!(apart.contains("+35.0 points") && apart.contains("better than every"), "{apart}");
        assert!(apart.contains("p = 0.250") && apart.contains("not significant"), "{apart}");
        assert!(words(spread(0.1, 0.3), spread(0.4, 0.5), Some(false), 0, 6).contains("reduce accuracy"));
        let nine = words(spread(0.2, 0.7), spread(0.1, 0.5), Some(true), 9, 1);
        assert!(nine.contains("p = 0.021") && nine.contains("improve accuracy"), "{nine}");
        assert!(words(spread(0.5, 0.5), spread(0.2, 0.2), None, 1, 0).contains("single seed"));
    }
}
