//! What compilers of GPU drivers make of the engine's kernels: registers, spills, instructions,
//! from `VK_KHR_pipeline_executable_properties`, and what validators say. Nothing runs, so drivers
//! that compile for absent hardware work too.

mod driver;
#[cfg(feature = "engine")]
mod engine;
mod families;
mod files;
#[cfg(feature = "engine")]
mod kernels;
#[cfg(feature = "engine")]
#[path = "../../shared/layers.rs"]
mod layers;
mod matrix;
#[cfg(feature = "engine")]
mod table;
#[cfg(feature = "engine")]
#[path = "../../../cli/src/kernels/translate.rs"]
mod translate;
#[cfg(feature = "engine")]
mod validators;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use families::{FAMILIES, Lab};

/// Any error, for printing.
pub type Error = Box<dyn std::error::Error>;
/// A result whose error is only printed.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Compiles incept's kernels with the compilers of GPU drivers and prints their statistics.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "engine")]
    List(engine::List),
    #[cfg(feature = "engine")]
    Matrix(engine::Matrix),
    #[cfg(feature = "engine")]
    #[command(hide = true)]
    Compile(engine::Compile),
    Files(files::Files),
    #[command(hide = true)]
    CompileFiles(files::CompileFiles),
}

/// Drivers and families.
#[derive(Args)]
pub struct Places {
    /// Folder of `setup` [default: lab in this package]
    #[arg(long, conflicts_with = "system")]
    lab: Option<PathBuf>,
    /// Use the installed drivers and validators: AMD and SPIR-V only
    #[arg(long)]
    system: bool,
    /// Only these families
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    family: Vec<String>,
    /// Families that are compiled for at a time [default: one per core]
    #[arg(long)]
    jobs: Option<usize>,
}

impl Places {
    fn lab(&self) -> Lab {
        if self.system {
            return Lab::System;
        }
        let default = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/lab"));
        let folder = self.lab.clone().unwrap_or_else(default);
        Lab::Folder(folder.canonicalize().unwrap_or(folder))
    }

    /// The names of the wanted families; empty for all.
    fn families(&self) -> Result<&[String]> {
        if let Some(name) = self.family.iter().find(|name| FAMILIES.iter().all(|f| f.name != *name)) {
            let known: Vec<&str> = FAMILIES.iter().map(|f| f.name).collect();
            return Err(format!("there is no family {name}: {}", known.join(", ")).into());
        }
        Ok(&self.family)
    }

    fn jobs(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.unwrap_or_else(cores).max(1)
    }
}

fn main() -> ExitCode {
    let result = match &Options::parse().command {
        #[cfg(feature = "engine")]
        Command::List(list) => list.run(),
        #[cfg(feature = "engine")]
        Command::Matrix(matrix) => matrix.run(),
        #[cfg(feature = "engine")]
        Command::Compile(compile) => compile.run(),
        Command::Files(files) => files.run(),
        Command::CompileFiles(files) => files.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
