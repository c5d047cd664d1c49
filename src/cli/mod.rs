//! The command line: what a person types, and everything that is printed.

mod bench;
mod board;
mod bounds;
mod classify;
mod config;
mod dashboard;
mod data;
mod datasets;
mod demo;
mod devices;
mod diagram;
mod early_exit;
mod eval;
mod explain;
mod export;
mod fetch;
mod fit;
mod graph;
mod health;
mod import;
mod inspect;
mod look;
#[cfg(test)]
mod mutations;
mod options;
mod plot;
mod preview;
mod profile;
mod raster;
mod record;
mod report;
mod run_report;
mod runs;
mod sheet;
mod shell;
mod summary;
mod sweep;
mod tiles;
mod train;
mod tune;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use incept::Error;

use report::{Reporter, complain, is_unread, note};

/// What a command that did what it was asked for says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All is well.
    Done,
    /// It ran to its end and what it found is not as it should be.
    Failed,
    /// Ctrl-C ended it in good order.
    Interrupted,
}

impl Outcome {
    fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Done => 0,
            Self::Failed => 1,
            // As shells report a program that SIGINT ended.
            Self::Interrupted => 130,
        })
    }
}

type Result<T = Outcome> = incept::Result<T>;

/// Trains GoogLeNet with all three of its softmaxes on any GPU that has a driver, and classifies pictures with it.
///
/// GoogLeNet (Inception v1) has 22 layers. Two auxiliary softmaxes, on inception 4a and 4d, send their gradients straight into the
/// lower half while training; their losses join the main one with weight 0.3, and inference leaves them out.
#[derive(Debug, Parser)]
#[command(version, about, long_about, after_long_help = EXAMPLES, arg_required_else_help = true)]
#[command(propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: options::Common,
}

const EXAMPLES: &str = "Examples:
  incept demo                                            train on the embedded digits, then show what was learned
  incept train photos --width 0.5 --out photos.safetensors    a folder with one sub-folder a class
  incept classify photos.safetensors cat.jpg holiday/    the most probable classes of pictures
  incept summary --variant paper                         layers, parameters, multiply-adds, memory
  incept explain                                         why there are three softmaxes";

#[derive(Debug, Subcommand)]
enum Command {
    Train(Box<train::Train>),
    Eval(eval::Eval),
    Classify(classify::Classify),
    Import(import::Import),
    Export(export::Export),
    Inspect(inspect::Inspect),
    Look(Box<look::Look>),
    Report(run_report::RunReport),
    Summary(summary::Summary),
    Data(datasets::Data),
    Graph(Box<graph::Graph>),
    Explain(Box<explain::Explain>),
    Devices(devices::Devices),
    Verify(verify::Verify),
    Demo(demo::Demo),
    Bench(Box<bench::Bench>),
    Profile(Box<profile::Profile>),
    Completions(shell::Completions),
    Man(shell::Man),
    Runs(runs::Runs),
}

/// Runs the command that the arguments name.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = if cli.common.verbose { "info" } else { "warn" };
    // Drivers report what they lack as warnings of wgpu; a person at a terminal can do nothing about them.
    let filter = format!("error,incept={level}");
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter))
        .format_timestamp(None)
        .format_target(false)
        .target(env_logger::Target::Pipe(Box::new(report::Held)))
        .init();
    let reporter = Reporter::new(cli.common.json);
    let result = match &cli.command {
        Command::Train(command) => command.run(&reporter),
        Command::Eval(command) => command.run(&reporter),
        Command::Classify(command) => command.run(&reporter),
        Command::Import(command) => command.run(&reporter),
        Command::Export(command) => command.run(&reporter),
        Command::Inspect(command) => command.run(&reporter),
        Command::Look(command) => command.run(&reporter),
        Command::Report(command) => command.run(&reporter),
        Command::Summary(command) => command.run(&reporter),
        Command::Data(command) => command.run(&reporter),
        Command::Graph(command) => command.run(&reporter),
        Command::Explain(command) => command.run(&reporter),
        Command::Devices(command) => command.run(&reporter),
        Command::Verify(command) => command.run(&reporter),
        Command::Demo(command) => command.run(&reporter),
        Command::Bench(command) => command.run(&reporter),
        Command::Profile(command) => command.run(&reporter),
        Command::Completions(command) => command.run(&reporter),
        Command::Man(command) => command.run(&reporter),
        Command::Runs(command) => command.run(&reporter),
    };
    match result {
        Ok(outcome) => outcome.code(),
        // Nothing is left to say.
        Err(error) if is_unread(&error) => ExitCode::SUCCESS,
        Err(Error::Interrupted) => {
            note("interrupted");
            Outcome::Interrupted.code()
        }
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}
