//! Statistics of the convolution kernels as compiled by a Vulkan driver: registers, spills,
//! instructions, from `VK_KHR_pipeline_executable_properties`. Nothing runs, so a driver that
//! compiles for absent hardware works too.

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

/// Any error, for printing.
pub type Error = Box<dyn std::error::Error>;
/// A result whose error is only printed.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Compiles the convolution kernels with a Vulkan driver and prints their statistics.
///
/// Mesa's driver for AMD GPUs compiles without a GPU: RADV_FORCE_FAMILY=navi21 and VK_ICD_FILENAMES
/// with its file (radeon_icd.x86_64.json).
#[derive(Parser)]
struct Options {
    /// Device index in the loader's list
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Batch size
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Only layers whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Every implementation, not only the defaults of a discrete GPU
    #[arg(long)]
    all: bool,
    /// One line of JSON per kernel instead of text
    #[arg(long)]
    json: bool,
}

/// The statistics of one kernel.
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
