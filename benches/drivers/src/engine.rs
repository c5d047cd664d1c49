//! Commands that compile the engine's own kernels.

use std::path::PathBuf;

use clap::{Args, ValueEnum as _};
use incept::kernel::{AdapterClass, text_for};
use serde::Serialize;

use crate::Result;
use crate::driver::{Driver, Statistic};
use crate::families::{FAMILIES, Family};
use crate::kernels::{self, Plans};
use crate::layers::{Direction, LAYERS, Layer};
use crate::{Places, matrix, table, validators};

/// Print every statistic of the convolution kernels on one device.
///
/// Mesa's driver for AMD GPUs compiles without a GPU: RADV_FORCE_FAMILY=navi21 and VK_ICD_FILENAMES
/// with its file (radeon_icd.x86_64.json).
#[derive(Args)]
pub struct List {
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

/// Compile the default kernels for every family of GPUs whose driver is there.
#[derive(Args)]
pub struct Matrix {
    #[command(flatten)]
    places: Places,
    /// Batch size of the single convolutions
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Pipelines of plans to compile and validate
    #[arg(long, default_value = "first")]
    plans: Plans,
    /// Validate the pipelines of plans too, and fail if a rule is broken
    #[arg(long)]
    check: bool,
    /// Write the page to this file
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// Compile for the device of this process, and print JSON.
#[derive(Args)]
pub struct Compile {
    family: String,
    #[arg(long)]
    batch: usize,
    #[arg(long)]
    plans: Plans,
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

impl List {
    /// Runs it.
    ///
    /// # Errors
    /// Whatever failed, for printing.
    pub fn run(&self) -> Result<()> {
        let driver = Driver::open(self.device)?;
        let profile = kernels::profile(&driver, AdapterClass::Discrete);
        if !self.json {
            println!("{}, {}", driver.name(), driver.version());
        }
        for layer in LAYERS.iter().filter(|l| self.only.as_ref().is_none_or(|part| l.name.contains(part))) {
            for direction in Direction::ALL {
                for (implementation, kernel) in kernels::of(layer, direction, self.batch, &profile, self.all)?
                {
                    let (text, entry) = text_for(&kernel, &profile)?;
                    let statistics = kernels::compile(&driver, &kernel, (&text, entry))?.statistics;
                    let row = Row {
                        device: driver.name(),
                        layer,
                        direction,
                        implementation,
                        kernel: kernel.entry,
                        statistics: &statistics,
                    };
                    if self.json {
                        println!("{}", serde_json::to_string(&row)?);
                    } else {
                        let told: Vec<String> =
                            statistics.iter().map(|s| format!("{} {}", s.name, s.value)).collect();
                        println!("{} {direction} {implementation}: {}", layer.name, told.join(", "));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Matrix {
    /// Runs it.
    ///
    /// # Errors
    /// Whatever failed, for printing.
    pub fn run(&self) -> Result<()> {
        let (lab, jobs) = (self.places.lab(), self.places.jobs());
        let plans = self.plans.to_possible_value().map_or_else(String::new, |v| v.get_name().to_string());
        let arguments = ["compile", "--plans", &plans, "--batch", &self.batch.to_string()];
        let arguments = arguments.map(String::from);
        let columns = matrix::columns(&lab, self.places.families()?, &arguments, jobs);
        let verdicts = if self.check && self.plans != Plans::None {
            validators::run(&lab, self.plans == Plans::First)?
        } else {
            Vec::new()
        };
        let run = table::Run { command: &self.command(), batch: self.batch, plans: self.plans };
        let page = table::page(&lab, &columns, &verdicts, &run);
        match &self.write {
            Some(file) => std::fs::write(file, page).map_err(|e| format!("{}: {e}", file.display()))?,
            None => print!("{page}"),
        }
        for line in table::unavailable(&lab, &columns, &verdicts) {
            eprintln!("not available: {line}");
        }
        let mut broken = matrix::broken_rules(&columns);
        for verdict in &verdicts {
            broken.extend(verdict.rejected.iter().map(|message| format!("{}: {message}", verdict.name)));
        }
        broken.iter().for_each(|line| eprintln!("broken rule: {line}"));
        if self.check { matrix::checked(&columns, &broken) } else { Ok(()) }
    }

    /// The command line that writes the same page, without this machine's folders.
    fn command(&self) -> String {
        let mut text = String::from("cargo run -- matrix");
        if let Some(plans) = self.plans.to_possible_value().filter(|_| self.plans != Plans::First) {
            text.push_str(" --plans ");
            text.push_str(plans.get_name());
        }
        for (given, flag) in [(self.places.system, " --system"), (self.check, " --check")] {
            text.push_str(if given { flag } else { "" });
        }
        text.push_str(" --write ../../docs/gpus.md");
        text
    }
}

impl Compile {
    /// Runs it.
    ///
    /// # Errors
    /// Whatever failed, for printing.
    pub fn run(&self) -> Result<()> {
        let family: &Family =
            FAMILIES.iter().find(|f| f.name == self.family).ok_or("there is no such family")?;
        kernels::print_rows(family, self.batch, self.plans)
    }
}
