//! What a Vulkan driver makes of the convolution kernels: registers, spills, instructions, by
//! `VK_KHR_pipeline_executable_properties`. Nothing runs, so that a driver that compiles for
//! hardware which is not there will do.

mod driver;
mod kernels;
#[path = "../../shared/layers.rs"]
mod layers;

use std::process::ExitCode;

use clap::Parser;
use incept::kernel::AdapterClass;
use serde::Serialize;

use driver::{Driver, Statistic};
use layers::{Direction, LAYERS, Layer};

/// Any error, as it is told to the user.
pub type Error = Box<dyn std::error::Error>;
/// A result whose error is only told.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Compiles the convolution kernels with a Vulkan driver and prints what it says about them.
///
/// Mesa's driver for AMD GPUs compiles without one: RADV_FORCE_FAMILY=navi21 and VK_ICD_FILENAMES
/// with its file (radeon_icd.x86_64.json).
#[derive(Parser)]
struct Options {
    /// The device: its place in the list that the loader gives
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Images of a batch
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Only layers whose name has this in it
    #[arg(long)]
    only: Option<String>,
    /// Every implementation, and not just what a discrete GPU gets without tuning
    #[arg(long)]
    all: bool,
    /// One line of JSON for each kernel instead of text
    #[arg(long)]
    json: bool,
}

/// What a driver says of one kernel.
#[derive(Serialize)]
struct Row<'a> {
    device: &'a str,
    layer: &'a Layer,
    direction: Direction,
    implementation: &'a str,
    kernel: &'a str,
    statistics: &'a [Statistic],
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
    let driver = Driver::open(options.device)?;
    let profile = driver.profile(AdapterClass::Discrete);
    if !options.json {
        println!("{}", driver.name());
    }
    for layer in LAYERS.iter().filter(|l| options.only.as_ref().is_none_or(|part| l.name.contains(part))) {
        for direction in Direction::ALL {
            for (implementation, kernel) in kernels::of(layer, direction, options.batch, &profile, options.all)? {
                let statistics = driver.statistics(&kernel, profile.bake)?;
                let row = Row {
                    device: driver.name(),
                    layer,
                    direction,
                    implementation,
                    kernel: kernel.entry,
                    statistics: &statistics,
                };
                if options.json {
                    println!("{}", serde_json::to_string(&row)?);
                } else {
                    let told: Vec<String> = statistics.iter().map(|s| format!("{} {}", s.name, s.value)).collect();
                    println!("{} {direction} {implementation}: {}", layer.name, told.join(", "));
                }
            }
        }
    }
    Ok(())
}
