//! `incept explain`

mod flow_plot;
mod train;
mod train_plot;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use incept::Error;
use incept::checkpoint::Checkpoint;
use incept::data::{Batch, Loader, OpenOptions};
use incept::explain::{GradientFlow, LossShare, PartFlow};
use incept::model::GoogLeNet;
use incept::optim::TrainingState;
use serde::Serialize;

use super::data::{LoadArgs, describe, suited_input};
use super::options::{DeviceArgs, NetworkArgs, PixelArgs};
use super::plot;
use super::record;
use super::report::{Reporter, note, shown, thousands};
use super::{Outcome, Result};
use crate::numbers::{Range, real, whole};

/// Show why there are three softmaxes: what each loss sends to each layer, and what the auxiliary
/// ones change in training.
///
/// Without `--train`, one batch goes forwards and backwards: from the main loss, from aux1, from
/// aux2 and from their weighted sum, with the same dropout. The table has the norm of the gradient
/// that arrives at each layer from each of them, and which share of the summed gradient is whose;
/// the plot shows it over the depth. Nothing is trained: these are the weights that training would
/// start with (`--seed`), or those of a checkpoint.
///
/// With `--train`, the same network is trained with and without its auxiliary softmaxes, from each
/// seed, and the accuracy on held-out images is compared: curves with their spread, the three
/// softmaxes by themselves, and a verdict in numbers.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Explain {
    /// `digits`, or a folder with a data set [default: digits, or what the checkpoint was trained
    /// on].
    data: Option<String>,
    /// Look at the network of this checkpoint, a run's folder (its best one) or `included`, in
    /// place of one that training starts with.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["train", "variant", "width", "input", "dropout", "aux_dropout", "smoothing", "init", "bias_rate", "aux_weight", "mean", "std"])]
    checkpoint: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkArgs,
    /// Images of the batch [default: 128, with --train 32].
    #[arg(short = 'b', long = "batch-size", alias = "batch", value_name = "COUNT", value_parser = whole::<usize>(1))]
    batch: Option<usize>,
    /// What weights, order and dropout are drawn from; with --train, of the first pair of networks.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = whole::<u64>(0))]
    seed: u64,
    /// The plot's files, .png or .svg [default: incept-explain.png and .svg, with --train
    /// incept-explain-train.png and .svg].
    #[arg(short = 'o', long = "output", alias = "out", value_name = "FILE")]
    out: Vec<PathBuf>,
    /// Train with and without the auxiliary softmaxes, and compare.
    #[arg(long, help_heading = "Comparison")]
    train: bool,
    /// Epochs of each network.
    #[arg(long, value_name = "COUNT", default_value_t = 5, help_heading = "Comparison", requires = "train", value_parser = whole::<u64>(1))]
    epochs: u64,
    /// Networks of each kind; their spread says what chance does. One is a look, three or more are
    /// a measurement.
    #[arg(long, value_name = "COUNT", default_value_t = 3, help_heading = "Comparison", requires = "train", value_parser = whole::<u64>(1))]
    seeds: u64,
    /// Learning rate, the same all the time.
    #[arg(
        long = "lr", alias = "rate",
        value_name = "RATE",
        default_value_t = 0.01,
        help_heading = "Comparison",
        requires = "train",
        value_parser = real::<f64>(Range::NotNegative)
    )]
    rate: f64,
    /// Train on at most so many images, chosen evenly over the classes [default: 0, all].
    #[arg(long, value_name = "COUNT", help_heading = "Data", value_parser = whole::<usize>(0))]
    limit: Option<usize>,
    /// Share of the images that is held out where the data set has no test part.
    #[arg(
        long = "val-split",
        alias = "held-out",
        value_name = "SHARE",
        default_value_t = 0.25,
        help_heading = "Data"
    )]
    val_split: f64,
    #[command(flatten)]
    pixels: PixelArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

const EXAMPLES: &str = "\
The defaults are a quarter of the paper's width and digits at 64 x 64 pixels, started as Caffe starts it, so that software drivers
are done in minutes too.

Examples:
  incept explain                                       the gradients that training starts with
  incept explain --checkpoint photos.safetensors       those of a trained network
  incept explain --variant torchvision --output flow.svg  how much less the auxiliary softmaxes matter with batch norm
  incept explain --train                               three pairs of networks, with and without
  incept explain --train --seeds 10 --epochs 15        ten pairs, for longer: with ranges";

/// Width and size where no option says them: what a software driver can do in minutes, deep enough
/// to show it.
const WIDTH: f64 = 0.25;
const INPUT: usize = 64;
const BATCH: usize = 128;

/// A network with what it is measured on.
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
        let device = &self.device;
        let plots = self.plots();
        plots.iter().try_for_each(|path| plot::check(path))?;
        self.load.set_limit()?;
        if self.train {
            return self.compare(device, &plots, reporter);
        }
        let Subject { network, weights, batch, what } = self.subject()?;
        let gpu = device.open()?;
        let flow =
            gpu.block_on(GradientFlow::measure(&gpu, &network, weights.as_ref(), self.seed, &batch))?;
        let figure =
            flow_plot::FlowFigure { flow: &flow, subtitle: format!("{what}, one batch of {}", batch.count) };
        for path in &plots {
            plot::save(&figure, path)?;
        }
        table(&flow, reporter)?;
        for line in findings(&flow) {
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

    /// The network of the options for a data set with this many classes.
    fn fresh(&self, data: &incept::data::OpenedData, digits: bool) -> Result<GoogLeNet> {
        let args = NetworkArgs {
            variant: self.network.variant,
            width: self.network.width.or(Some(WIDTH)),
            init: self.network.init.clone(),
            ..self.network
        };
        let input = if digits { INPUT } else { suited_input(&data.train) };
        args.network(data.train.classes().len(), input)
    }

    fn options(&self) -> OpenOptions {
        let limit = self.limit.filter(|limit| *limit > 0);
        OpenOptions { val_split: self.val_split, limit, ..OpenOptions::default() }
    }

    /// The network to look at, and a batch for it.
    fn subject(&self) -> Result<Subject> {
        let checkpoint = self.checkpoint.as_deref().map(record::load).transpose()?;
        let trained_on =
            checkpoint.as_ref().and_then(|c| c.metadata.run.get("data")?.as_str().map(String::from));
        let data = self.data.clone().or(trained_on).unwrap_or_else(|| "digits".into());
        let opened = describe(&data, &self.options())?;
        let (network, preprocessing, weights, what) = match (checkpoint, &self.checkpoint) {
            (Some(Checkpoint { state, metadata }), Some(path)) => {
                if opened.train.classes() != metadata.classes {
                    let (here, there) = (opened.train.classes().join(", "), metadata.classes.join(", "));
                    let reason = format!("{data} has the classes {here}, and the checkpoint knows {there}");
                    return Err(Error::Config(reason));
                }
                let epochs = metadata.progress.epoch;
                let plural = if epochs == 1 { "" } else { "s" };
                let what = format!("{} after {epochs} epoch{plural}", shown(path));
                (metadata.network, metadata.preprocessing, Some(state), what)
            }
            _ => {
                let network = self.fresh(&opened, data == "digits")?;
                let preprocessing = self.pixels.clone().measured(network.input, opened.train.as_ref())?;
                let width = self.network.width.unwrap_or(WIDTH);
                let width = if width == 1.0 { String::new() } else { format!(" at width {width}") };
                let what = format!("{} network{width} before training, seed {}", network.variant, self.seed);
                (network, preprocessing, None, what)
            }
        };
        if !network.has_aux() {
            note("note: this network has no auxiliary softmaxes: all its gradients are the main one's");
        }
        let size = self.batch.unwrap_or(BATCH).min(opened.train.len());
        let options = self.load.options(size, &preprocessing).training(self.seed, None);
        let loader = Loader::new(Arc::clone(&opened.train), options)?;
        let batch = loader.epoch(0, 0).next().ok_or_else(|| Error::Config("there is no batch".into()))??;
        let what = format!("{what}, {} pixels, {data}", network.input);
        Ok(Subject { network, weights, batch, what })
    }
}

/// What arrives at each layer.
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
        "Norm of the gradient from each loss, before its weight (in brackets) is counted; of their weighted sum; and each loss's share of the sum:\n",
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

/// What the numbers say, in words.
fn findings(flow: &GradientFlow) -> Vec<String> {
    let mut lines = Vec::new();
    for loss in &flow.losses {
        lines.push(format!("{:<5} loss {:.3}, weight {}", loss.name, loss.loss, loss.weight));
    }
    let of = |part: &PartFlow, name: &str| -> Option<LossShare> {
        let at = flow.losses.iter().position(|l| l.name == name)?;
        part.losses.get(at).copied()
    };
    // The parts where each auxiliary softmax is the nearest one above.
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
            "{where_}, {aux} sends {} to {} times the gradient of the main softmax, its weight of {} counted",
            times(least),
            times(most),
            flow.losses.iter().find(|l| l.name == aux).map_or(0.0, |l| l.weight),
        ));
    }
    if let Some(first) = flow.parts.first().filter(|_| flow.losses.len() > 1) {
        let main = of(first, "main").map_or(0.0, |l| l.share);
        // Gradients of two losses may point against each other: then a share is below zero and the
        // other above one.
        let main = 100.0 * main.clamp(0.0, 1.0);
        lines.push(format!(
            "{:.0}% of the gradient that arrives at {} comes from the auxiliary softmaxes, {main:.0}% from the main one",
            100.0 - main,
            first.part,
        ));
    }
    lines
}

fn times(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}
