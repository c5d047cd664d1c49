//! Compares incept with other frameworks that run on any GPU: the same network, data and adapter,
//! in one process, in alternation.

mod adapter;
mod burn_net;
mod layers;
#[cfg(feature = "meganeura")]
mod meganeura_layers;
mod ours;
#[path = "../../shared/layers.rs"]
mod shared;
mod timing;
mod work;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use incept::gpu::AdapterOptions;
use incept::model::GoogLeNet;
use incept::optim::Precision;
use serde::Serialize;

use adapter::Devices;
use shared::{Direction, LAYERS, Layer};
use timing::{Contender, Schedule, Spread, Timing, compare, geometric_mean};

/// Any error, for printing.
pub type Error = Box<dyn std::error::Error>;
/// A result whose error is only printed.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Compares incept with burn's wgpu backend, on the same adapter, in alternation.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    what: What,
    /// Adapter: its index in `incept devices`, or part of its name
    #[arg(long, global = true)]
    adapter: Option<String>,
    /// Number of blocks per contender
    #[arg(long, global = true, default_value_t = 7)]
    rounds: u32,
    /// Minimum duration of a block in milliseconds
    #[arg(long, global = true, default_value_t = 500)]
    block: u64,
    /// Minimum number of warm-up iterations; more follow until their times are similar
    #[arg(long, global = true, default_value_t = 5)]
    warm_up: u32,
    /// One line of JSON per row instead of a table
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// Whole training steps: forward, three losses, backward, SGD with momentum and weight decay
    Step(NetworkOptions),
    /// Inference of the main head, images on the host to probabilities on the host
    Infer(NetworkOptions),
    /// Single convolutions: forward, input gradient, weight gradient
    Layers(LayerOptions),
}

#[derive(Args)]
struct NetworkOptions {
    /// Width multiplier
    #[arg(long, default_value_t = 0.25)]
    width: f64,
    /// Image height and width in pixels
    #[arg(long, default_value_t = 64)]
    input: usize,
    /// Batch sizes, each a row
    #[arg(long, value_delimiter = ',', default_value = "32")]
    batch: Vec<usize>,
    /// Number of classes
    #[arg(long, default_value_t = 10)]
    classes: usize,
    /// Precision of incept's activations in training steps; burn always computes in f32
    #[arg(long, value_enum, default_value = "f32")]
    precision: Stored,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Stored {
    F32,
    F16,
}

impl Stored {
    fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::F16 => Precision::f16(),
        }
    }

    /// Maximum relative difference of losses
    fn tolerance(self) -> f32 {
        match self {
            Self::F32 => 2e-3,
            Self::F16 => 2e-2,
        }
    }
}

#[derive(Args)]
struct LayerOptions {
    /// Batch size
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Only layers whose name contains this
    #[arg(long)]
    only: Option<String>,
}

/// One row of JSON.
#[derive(Serialize)]
struct Row<'a, T: Serialize> {
    bench: &'static str,
    adapter: &'a str,
    #[serde(flatten)]
    what: T,
    batch: usize,
    timings: &'a [Timing],
}

#[derive(Serialize)]
struct NetworkRow {
    width: f64,
    input: usize,
    classes: usize,
    precision: Stored,
}

#[derive(Serialize)]
struct LayerRow<'a> {
    #[serde(flatten)]
    layer: &'a Layer,
    direction: Direction,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let wanted = AdapterOptions::default().adapter(options.adapter.clone());
    let devices = adapter::open(&wanted)?;
    let schedule = Schedule {
        rounds: options.rounds,
        block: Duration::from_millis(options.block),
        warm_up: options.warm_up,
    };
    if !options.json {
        println!(
            "{}\nTimes are median [min, max]; ratios are to incept in the same round.",
            devices.description
        );
    }
    match &options.what {
        What::Step(network) => networks("step", network, &devices, schedule, options.json),
        What::Infer(network) => networks("infer", network, &devices, schedule, options.json),
        What::Layers(layers) => single_layers(layers, &devices, schedule, options.json),
    }
}

/// Prints one row for each batch size.
fn networks(
    bench: &'static str,
    options: &NetworkOptions,
    devices: &Devices,
    schedule: Schedule,
    json: bool,
) -> Result<()> {
    let NetworkOptions { width, input, classes, precision, .. } = *options;
    if bench != "step" && precision != Stored::F32 {
        return Err("--precision f16 is for `step`".into());
    }
    let network = GoogLeNet::paper().width(width).input(input).classes(classes);
    network.validate()?;
    for &batch in &options.batch {
        eprintln!("comparing results: burn compiles and tunes its kernels now");
        let mut contenders = if bench == "step" {
            check_training(devices, &network, batch, precision)?;
            let ours = ours::Training::new(&devices.gpu, &network, batch, precision.precision())?;
            let ours: Box<dyn Contender> = Box::new(ours);
            vec![ours, Box::new(burn_net::Training::new(&devices.burn, &network, batch)?)]
        } else {
            inference(devices, &network, batch)?
        };
        let timings = compare(&mut contenders, schedule)?;
        if json {
            let what = NetworkRow { width, input, classes, precision };
            print_json(&Row { bench, adapter: &devices.description, what, batch, timings: &timings })?;
            continue;
        }
        println!("\n{bench}: width {width}, {input} x {input}, {classes} classes, batch {batch}");
        for timing in &timings {
            let Timing { name, ms, ratio, warm_up_s } = timing;
            let rate = batch as f64 * 1e3 / ms.median;
            println!(
                "{name:>10} {:>30} ms {rate:>9.1} images/s   ratio {}   warm-up {warm_up_s:.1} s",
                show(ms),
                show(ratio)
            );
        }
    }
    Ok(())
}

/// Both inferences, after comparing their results.
fn inference(devices: &Devices, network: &GoogLeNet, batch: usize) -> Result<Vec<Box<dyn Contender>>> {
    let mut ours = ours::Inference::new(&devices.gpu, network, batch)?;
    let mut burn = burn_net::Inference::new(&devices.burn, network, batch)?;
    ours.run(1)?;
    burn.run(1)?;
    work::agree("probabilities", &ours.probabilities, &burn.probabilities, 1e-3)?;
    Ok(vec![Box::new(ours), Box::new(burn)])
}

/// Trains three steps without dropout on both sides: the losses must stay the same, so forward,
/// backward and update are.
fn check_training(devices: &Devices, network: &GoogLeNet, batch: usize, precision: Stored) -> Result<()> {
    let plain = network.clone().dropout(0.0, 0.0);
    let mut ours = ours::Training::new(&devices.gpu, &plain, batch, precision.precision())?;
    let mut burn = burn_net::Training::new(&devices.burn, &plain, batch)?;
    ours.run(3)?;
    burn.run(3)?;
    work::agree("losses after three steps", &ours.losses, &burn.losses()?, precision.tolerance())
}

/// Prints a row for each layer and direction and the geometric means.
fn single_layers(options: &LayerOptions, devices: &Devices, schedule: Schedule, json: bool) -> Result<()> {
    let batch = options.batch.max(1);
    if !json {
        println!("\n{:<18}{:<12}{:<10}{:>32}{:>10}  ratio", "layer", "direction", "", "ms", "GFLOP/s");
    }
    let mut ratios: Vec<(&'static str, Vec<f64>)> = Vec::new();
    let wanted = |l: &&Layer| options.only.as_ref().is_none_or(|only| l.name.contains(only.as_str()));
    for layer in LAYERS.iter().filter(wanted) {
        for direction in Direction::ALL {
            let repeats = repeats(devices, layer, direction, batch)?;
            let mut contenders = singles(devices, layer, direction, batch, repeats)?;
            let mut timings = compare(&mut contenders, schedule)?;
            for Timing { ms, name, ratio, .. } in &mut timings {
                let one = |value: f64| value / f64::from(repeats);
                *ms = Spread { median: one(ms.median), min: one(ms.min), max: one(ms.max) };
                match ratios.iter_mut().find(|(n, _)| n == name) {
                    Some((_, list)) => list.push(ratio.median),
                    None => ratios.push((*name, vec![ratio.median])),
                }
            }
            if json {
                let what = LayerRow { layer, direction };
                let adapter = &devices.description;
                print_json(&Row { bench: "layers", adapter, what, batch, timings: &timings })?;
                continue;
            }
            for Timing { name, ms, ratio, .. } in &timings {
                let speed = layer.flops(batch) / ms.median / 1e6;
                println!(
                    "{:<18}{direction:<12}{name:<10}{:>32}{speed:>10.1}  {}",
                    layer.name,
                    show(ms),
                    show(ratio)
                );
            }
        }
    }
    for (name, list) in ratios.iter().skip(1) {
        let mean = geometric_mean(list);
        if json {
            println!("{}", serde_json::json!({ "bench": "layers", "name": name, "geometric_mean": mean }));
        } else {
            println!("geometric mean of the ratios of {name}: {mean:.2}");
        }
    }
    Ok(())
}

/// The contenders of one convolution, after comparing their results.
fn singles(
    devices: &Devices,
    layer: &Layer,
    direction: Direction,
    batch: usize,
    repeats: u32,
) -> Result<Vec<Box<dyn Contender>>> {
    let mut ours = ours::Single::new(&devices.gpu, layer, direction, batch, repeats)?;
    ours.run(1)?;
    let expected = ours.output()?;
    let mut contenders: Vec<Box<dyn Contender>> = vec![Box::new(ours)];
    let what = |name: &str| format!("{}, {direction}, {name}", layer.name);
    let mut burn = layers::Single::new(&devices.burn, layer, direction, batch, repeats)?;
    burn.run(1)?;
    work::agree(&what("burn"), &expected, &burn.result()?, 1e-3)?;
    contenders.push(Box::new(burn));
    #[cfg(feature = "meganeura")]
    {
        let mut other = meganeura_layers::Single::new(devices.id, layer, direction, batch, repeats)?;
        other.run(1)?;
        match work::agree(&what("meganeura"), &expected, &other.result()?, 1e-3) {
            Ok(()) => contenders.push(Box::new(other)),
            // On some drivers some of its kernels write nothing; the others still get a row.
            Err(error) => eprintln!("skipped: {error}"),
        }
    }
    Ok(contenders)
}

/// The number of repetitions per submission that makes it take some milliseconds, so that its
/// overhead is negligible.
fn repeats(devices: &Devices, layer: &Layer, direction: Direction, batch: usize) -> Result<u32> {
    let mut once = ours::Single::new(&devices.gpu, layer, direction, batch, 1)?;
    once.run(2)?;
    let start = std::time::Instant::now();
    once.run(4)?;
    let seconds = start.elapsed().as_secs_f64() / 4.0;
    Ok((5e-3 / seconds).ceil().clamp(1.0, 32.0) as u32)
}

fn print_json(row: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(row)?);
    Ok(())
}

fn show(spread: &Spread) -> String {
    let Spread { median, min, max } = *spread;
    let digits = if median < 1.0 {
        3
    } else if median < 100.0 {
        2
    } else {
        1
    };
    format!("{median:.digits$} [{min:.digits$}, {max:.digits$}]")
}
