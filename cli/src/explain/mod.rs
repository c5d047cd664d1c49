//! `incept explain`

mod embedded;
mod flow_plot;
mod overview;
mod story;
mod story_page;
mod train;
mod train_plot;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use incept::Error;
use incept::checkpoint::Checkpoint;
use incept::data::{Batch, Loader, OpenOptions, OpenedData};
use incept::explain::{GradientFlow, LossShare, PartFlow};
use incept::model::GoogLeNet;
use incept::optim::TrainingState;
use serde::Serialize;

pub use self::embedded::{FlowOptions, gradient_flow};
use super::data::{LoadArgs, Source, describe, refuse_split, suited_input};
use super::options::{DeviceArgs, NetworkArgs, PixelArgs};
use super::plot;
use super::record;
use super::report::{Reporter, note, plural, shown, thousands};
use super::{Outcome, Result};
use crate::numbers::{Range, real, whole};

/// Explain the auxiliary heads: gradients of each loss per layer, and training with and without
/// them.
///
/// Without `--train`, one batch is run forward and backward, with the same dropout, from the main
/// loss, the aux1 loss, the aux2 loss and their weighted sum. The table lists the gradient norm of
/// each loss per layer, and each loss's share of the summed gradient; the plot shows them over
/// depth. Nothing is trained: the weights are the initial ones of `--seed`, or those of a
/// checkpoint.
///
/// With `--train`, the same network is trained with and without auxiliary heads from each seed. The
/// output compares validation accuracy: curves with their range over the seeds, the accuracy of
/// each head, and a sign test. `--story` does all of this and writes one HTML page.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Explain {
    /// Data set: `digits`, or the path of one [default: digits, or what the checkpoint was trained
    /// on].
    data: Option<String>,
    /// Use the network and weights of this checkpoint, a run's folder (its best checkpoint),
    /// `included` or `imagenet`, instead of a freshly initialized network.
    #[arg(long, alias = "weights", value_name = "FILE", conflicts_with_all = ["trains", "variant", "width", "input", "dropout", "aux_dropout", "smoothing", "init", "bias_rate", "aux_weight", "mean", "std"])]
    checkpoint: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkArgs,
    /// Batch size [default: 128, with --train and --story 32].
    #[arg(short = 'b', long = "batch-size", alias = "batch", value_name = "COUNT", value_parser = whole::<usize>(1))]
    batch: Option<usize>,
    /// Random seed of initialization, shuffling and dropout; with --train and --story, of the first
    /// pair of networks.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = whole::<u64>(0))]
    seed: u64,
    /// Files of the plot, .png or .svg [default: incept-explain.png and .svg, with --train
    /// incept-explain-train.png and .svg].
    #[arg(short = 'o', long = "output", alias = "out", value_name = "FILE")]
    out: Vec<PathBuf>,
    /// Train networks with and without auxiliary heads, and compare them.
    #[arg(long, help_heading = "Comparison", group = "trains")]
    train: bool,
    /// Write the whole story as one HTML page: the network with its three heads, gradients before
    /// and after training, accuracy of the heads over the epochs, the comparison of --train, and
    /// early exit [default file: incept-explain.html].
    #[arg(long, help_heading = "Comparison", group = "trains")]
    story: bool,
    /// Number of epochs per network.
    #[arg(long, value_name = "COUNT", default_value_t = 5, help_heading = "Comparison", requires = "trains", value_parser = whole::<u64>(1))]
    epochs: u64,
    /// Number of seeds, each for one network with and one without auxiliary heads; use at least 3
    /// to see the variation.
    #[arg(long, value_name = "COUNT", default_value_t = 3, help_heading = "Comparison", requires = "trains", value_parser = whole::<u64>(1))]
    seeds: u64,
    /// Learning rate (constant).
    #[arg(
        long,
        alias = "rate",
        value_name = "RATE",
        default_value_t = 0.01,
        help_heading = "Comparison",
        requires = "trains",
        value_parser = real::<f64>(Range::NotNegative)
    )]
    lr: f64,
    /// Train on up to this many images, chosen evenly over the classes; 0 uses all [default: 0].
    #[arg(long, value_name = "COUNT", help_heading = "Data", value_parser = whole::<usize>(0))]
    limit: Option<usize>,
    /// Fraction of the images to validate on if the data set has no validation or test set
    /// [default: 0.25].
    #[arg(long = "val-split", alias = "held-out", value_name = "FRACTION", help_heading = "Data")]
    val_split: Option<f64>,
    #[command(flatten)]
    pixels: PixelArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Images of the calling program, in place of a data set by its path.
    #[arg(skip)]
    source: Option<Source>,
}

const EXAMPLES: &str = "\
The defaults are width 0.25 and digits at 64 x 64 pixels, with Caffe's initialization, so that a CPU finishes within minutes too.

Examples:
  incept explain                                          gradients at initialization
  incept explain --checkpoint photos.safetensors          gradients of a trained network
  incept explain --variant torchvision --output flow.svg  with batch norm the auxiliary heads matter less
  incept explain --train                                  train three pairs of networks
  incept explain --train --seeds 10 --epochs 15           train ten pairs for 15 epochs
  incept explain --story --output why.html                the whole story as one page";

/// Defaults that a CPU trains within minutes, at full depth.
const WIDTH: f64 = 0.25;
const INPUT: usize = 64;
const BATCH: usize = 128;
const VAL_SPLIT: f64 = 0.25;

/// A network and the batch to measure its gradients on.
struct Subject {
    network: GoogLeNet,
    weights: Option<TrainingState>,
    batch: Batch,
    what: String,
}

#[derive(Serialize)]
struct FlowResult<'a> {
    event: &'static str,
    network: &'a GoogLeNet,
    checkpoint: Option<&'a Path>,
    seed: u64,
    images: usize,
    #[serde(flatten)]
    flow: &'a GradientFlow,
    plots: &'a [PathBuf],
}

impl Explain {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let device_args = &self.device;
        if self.story {
            self.load.set_limit()?;
            return self.story(device_args, reporter);
        }
        let plots = self.plots();
        plots.iter().try_for_each(|path| plot::check(path))?;
        self.load.set_limit()?;
        if self.train {
            return self.compare(device_args, &plots, reporter);
        }
        let checkpoint = self.checkpoint.as_deref().map(record::load).transpose()?;
        let Subject { network, weights, batch, what } = self.subject(checkpoint)?;
        let device = device_args.open()?;
        let flow =
            device.block_on(GradientFlow::measure(&device, &network, weights.as_ref(), self.seed, &batch))?;
        let figure =
            flow_plot::FlowFigure { flow: &flow, subtitle: format!("{what}, one batch of {}", batch.count) };
        for path in &plots {
            plot::save(&figure, path)?;
        }
        table(&flow, reporter)?;
        for line in summary(&flow) {
            reporter.line(&line)?;
        }
        reporter.line(&format!("plot: {}", plots.iter().map(|p| shown(p)).collect::<Vec<_>>().join(", ")))?;
        reporter.event(&FlowResult {
            event: "gradient_flow",
            network: &network,
            checkpoint: self.checkpoint.as_deref(),
            seed: self.seed,
            images: batch.count,
            flow: &flow,
            plots: &plots,
        })?;
        Ok(Outcome::Done)
    }

    fn plots(&self) -> Vec<PathBuf> {
        if !self.out.is_empty() {
            return self.out.clone();
        }
        let stem = if self.train { "incept-explain-train" } else { "incept-explain" };
        ["png", "svg"].map(|ending| PathBuf::from(format!("{stem}.{ending}"))).to_vec()
    }

    /// A freshly initialized network for the data set, by the options.
    fn fresh(&self, data: &OpenedData, digits: bool) -> Result<GoogLeNet> {
        let args = NetworkArgs {
            variant: self.network.variant,
            width: self.network.width.or(Some(WIDTH)),
            init: self.network.init.clone(),
            ..self.network
        };
        let input = if digits { INPUT } else { suited_input(&data.train) };
        args.network(data.train.classes().len(), input)
    }

    /// Opens a data set and prints what it contains.
    fn open(&self, name: &str) -> Result<OpenedData> {
        let limit = self.limit.filter(|limit| *limit > 0);
        let val_split = self.val_split.unwrap_or(VAL_SPLIT);
        let options = OpenOptions::default().val_split(val_split).limit(limit);
        let data = match &self.source {
            Some(source) => source.open(&options, false)?,
            None => describe(name, &options)?,
        };
        refuse_split(&data, "--val-split", self.val_split.is_some())?;
        Ok(data)
    }

    /// The network to measure, and a batch for it.
    fn subject(&self, checkpoint: Option<Checkpoint>) -> Result<Subject> {
        let trained_on =
            checkpoint.as_ref().and_then(|c| c.metadata.run.get("data")?.as_str().map(String::from));
        let data = self.data.clone().or(trained_on).unwrap_or_else(|| "digits".into());
        let opened = self.open(&data)?;
        let (network, preprocessing, weights, what) = match checkpoint {
            Some(Checkpoint { state, metadata }) => {
                if opened.train.classes() != metadata.classes {
                    let (here, there) = (opened.train.classes().join(", "), metadata.classes.join(", "));
                    let reason = format!("{data} has the classes {here}, and the checkpoint has {there}");
                    return Err(Error::Config(reason));
                }
                let path = self.checkpoint.as_deref().map_or_else(|| "the network".into(), shown);
                let what = format!("{path} after {}", plural(metadata.progress.epoch, "epoch"));
                (metadata.network, metadata.preprocessing, Some(state), what)
            }
            None => {
                let network = self.fresh(&opened, data == "digits")?;
                let preprocessing = self.pixels.clone().measured(network.input, opened.train.as_ref())?;
                let width = self.network.width.unwrap_or(WIDTH);
                let width = if width == 1.0 { String::new() } else { format!(" at width {width}") };
                let what =
                    format!("{} network{width} at initialization, seed {}", network.variant, self.seed);
                (network, preprocessing, None, what)
            }
        };
        if !network.has_aux() {
            note("note: this network has no auxiliary heads: all gradients are those of the main loss");
        }
        let size = self.batch.unwrap_or(BATCH).min(opened.train.len());
        let options = self.load.options(size, &preprocessing).training(self.seed, None);
        let loader = Loader::new(Arc::clone(&opened.train), options)?;
        let batch =
            loader.epoch(0, 0).next().ok_or_else(|| Error::Config("the data set is empty".into()))??;
        let what = format!("{what}, {} pixels, {data}", network.input);
        Ok(Subject { network, weights, batch, what })
    }
}

/// Prints gradient norms and shares per layer.
fn table(flow: &GradientFlow, reporter: &Reporter) -> Result<()> {
    let name = flow.layers.iter().map(|l| l.layer.len()).max().unwrap_or(0);
    let mut head = format!("{:<name$}  depth  parameters", "layer");
    let mut unit = format!("{:<name$}  {:>5}  {:>10}", "", "", "");
    for loss in &flow.losses {
        head.push_str(&format!("  {:>9}", loss.name));
        unit.push_str(&format!("  {:>9}", format!("(x {})", loss.weight)));
    }
    head.push_str("       sum   ");
    unit.push_str("            ");
    for loss in &flow.losses {
        head.push_str(&format!("  {:>5}", loss.name));
    }
    reporter.line(
        "Gradient norm per loss, without its weight (in parentheses); norm of the weighted sum; and each loss's share of the sum: the projection of its weighted gradient on the sum, which is not the share of norms:\n",
    )?;
    reporter.line(head.trim_end())?;
    reporter.line(unit.trim_end())?;
    for layer in &flow.layers {
        let norms: String = layer.losses.iter().map(|l| format!("  {:>9}", norm(l.norm))).collect();
        let shares: String = layer.losses.iter().map(|l| format!("  {:>5}", share(l.share))).collect();
        reporter.line(&format!(
            "{:<name$}  {:>5}  {:>10}{norms}  {:>9}   {shares}",
            layer.layer,
            layer.depth,
            thousands(layer.parameters as u64),
            norm(layer.sum),
        ))?;
    }
    reporter.line("")
}

fn norm(value: f64) -> String {
    if value == 0.0 { "-".into() } else { format!("{value:.2e}") }
}

fn share(value: f64) -> String {
    if value == 0.0 { "-".into() } else { format!("{:.0}%", 100.0 * value) }
}

/// Lines that summarize the table.
fn summary(flow: &GradientFlow) -> Vec<String> {
    let mut lines = Vec::new();
    for loss in &flow.losses {
        lines.push(format!("{:<5} loss {:.3}, weight {}", loss.name, loss.loss, loss.weight));
    }
    let of = |part: &PartFlow, name: &str| -> Option<LossShare> {
        let at = flow.losses.iter().position(|l| l.name == name)?;
        part.losses.get(at).copied()
    };
    // The blocks for which each auxiliary head is the nearest one above.
    for (aux, parts, where_) in [
        ("aux1", ["conv1", "conv2", "3a", "3b", "4a"].as_slice(), "up to 4a"),
        ("aux2", ["4b", "4c", "4d"].as_slice(), "from 4b to 4d"),
    ] {
        let ratios: Vec<f64> = parts
            .iter()
            .filter_map(|name| flow.part(name))
            .filter_map(|part| Some((of(part, aux)?.weighted, of(part, "main")?.norm)))
            .filter(|(_, main)| *main > 0.0)
            .map(|(aux, main)| aux / main)
            .collect();
        let (Some(least), Some(most)) =
            (ratios.iter().copied().reduce(f64::min), ratios.iter().copied().reduce(f64::max))
        else {
            continue;
        };
        lines.push(format!(
            "{where_}, the weighted gradient of {aux} is {} to {} times that of the main loss (weight {})",
            times(least),
            times(most),
            flow.losses.iter().find(|l| l.name == aux).map_or(0.0, |l| l.weight),
        ));
    }
    if let Some(first) = flow.parts.first().filter(|_| flow.losses.len() > 1) {
        let main = of(first, "main").map_or(0.0, |l| l.share);
        // With opposing gradients one share is negative and the other above 1.
        let main = 100.0 * main.clamp(0.0, 1.0);
        lines.push(format!(
            "projected on the summed gradient at {}, {:.0}% comes from the auxiliary losses and {main:.0}% from the main loss; by the norms of the weighted gradients, {:.0}% is the main loss's",
            first.part,
            100.0 - main,
            100.0 * of_norms(first, of(first, "main")),
        ));
    }
    lines
}

/// The norm of one loss's weighted gradient as a share of the sum of all norms. Gradients in
/// different directions cancel in the summed gradient, but not here.
fn of_norms(part: &PartFlow, loss: Option<LossShare>) -> f64 {
    let all: f64 = part.losses.iter().map(|l| l.weighted).sum();
    let own = loss.map_or(0.0, |l| l.weighted);
    if all > 0.0 { own / all } else { 0.0 }
}

fn times(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}
