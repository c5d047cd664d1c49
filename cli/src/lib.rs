//! The `incept` command: its arguments, and everything that it prints. The program calls [`run`],
//! and so does the command of the Python package.

mod bench;
mod board;
mod bounds;
mod classify;
mod config;
mod cross_check;
mod dashboard;
mod data;
mod datasets;
mod demo;
mod devices;
mod diagram;
mod download;
mod early_exit;
mod eval;
mod explain;
mod export;
mod fetch;
mod fit;
mod flags;
mod graph;
mod html;
mod import;
mod inspect;
mod interrupt;
mod kernels;
mod look;
#[cfg(test)]
mod mutations;
mod next;
mod numbers;
mod old_keys;
mod options;
mod pacing;
mod place;
mod plot;
mod pretrained;
mod preview;
mod profile;
mod raster;
mod record;
mod report;
mod run_report;
mod runs;
mod screen;
pub mod shared;
mod sheet;
mod shell;
mod summary;
mod sweep;
mod tiles;
mod train;
mod tune;
mod verify;

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use incept::Error;

use report::{Reporter, complain, is_unread, note};

/// How a command that ran to its end ended; maps to the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Success: exit code 0.
    Done,
    /// It finished, but some input or check failed: exit code 1.
    Failed,
    /// Stopped by a signal after saving: 128 + the signal's number.
    Interrupted,
}

impl Outcome {
    fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Interrupted => interrupt::code(),
        }
    }
}

type Result<T = Outcome, E = Error> = incept::Result<T, E>;

/// Train GoogLeNet with its two auxiliary classifiers on any GPU that has a driver, or on the CPU,
/// and classify images with it.
///
/// GoogLeNet (Inception v1) has 22 layers and three classifier heads. The auxiliary heads aux1 and
/// aux2, on inception 4a and 4d, send gradients directly into the lower layers during training.
/// Their losses are added to the main loss with weight 0.3; inference does not run them.
#[derive(Debug, Parser)]
#[command(name = "incept", version, about, long_about, after_long_help = EXAMPLES, arg_required_else_help = true)]
#[command(propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: options::Common,
}

const EXAMPLES: &str = "Examples:
  incept demo                                                   train on the embedded digits and draw the results
  incept train photos --width 0.5 --output photos.safetensors   train on a folder with one subfolder per class
  incept classify photos.safetensors cat.jpg holiday/           top-5 classes of each image
  incept summary --variant paper                                layers, parameters, multiply-adds, memory
  incept explain                                                what the auxiliary heads contribute in training";

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
    Kernels(Box<kernels::Kernels>),
    Completions(shell::Completions),
    Man(shell::Man),
    Runs(runs::Runs),
}

/// The command with negative numbers allowed as values of flags.
fn with_negative(command: clap::Command) -> clap::Command {
    let valued = |arg: &clap::Arg| arg.get_long().is_some() && arg.get_action().takes_values();
    let command = command.mut_args(|arg| if valued(&arg) { arg.allow_negative_numbers(true) } else { arg });
    command.mut_subcommands(with_negative)
}

/// Parses the arguments so that `--seed -1` fails as an invalid seed, and not as an unknown flag
/// `-1`. Returns the command's name too: `data_info`.
fn parse(arguments: &[OsString]) -> Result<(Cli, String), clap::Error> {
    let matches = with_negative(Cli::command()).try_get_matches_from(arguments).map_err(with_suggestion)?;
    let (mut names, mut inner) = (Vec::new(), &matches);
    while let Some((name, of_command)) = inner.subcommand() {
        names.push(name.replace('-', "_"));
        inner = of_command;
    }
    Ok((Cli::from_arg_matches(&matches)?, names.join("_")))
}

/// Flags of other programs, and the flags that do the same here.
const FOREIGN_FLAGS: &[(&str, &str)] = &[
    ("--amp", "--precision f16"),
    ("--bs", "--batch-size"),
    ("--ckpt", "--resume"),
    ("--ema", "--average 0.998"),
    ("--ema-decay", "--average"),
    ("--epoch", "--epochs"),
    ("--fp16", "--precision f16"),
    ("--gpu", "--device"),
    ("--half", "--precision f16"),
    ("--img-size", "--image-size"),
    ("--imgsz", "--image-size"),
    ("--learning-rate", "--lr"),
    ("--model", "--variant"),
    ("--num-classes", "--classes"),
    ("--num-workers", "--workers"),
    ("--opt", "--optimizer"),
    ("--pretrained", "--weights imagenet"),
    ("--project", "--runs-dir"),
    ("--sched", "--schedule"),
    ("--wd", "--weight-decay"),
];

/// Adds the right flag as a suggestion to the error about another program's flag.
fn with_suggestion(mut error: clap::Error) -> clap::Error {
    let wrong = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(wrong)) => wrong.split('=').next().unwrap_or_default().to_string(),
        _ => return error,
    };
    if error.kind() == ErrorKind::UnknownArgument
        && let Some((_, right)) = FOREIGN_FLAGS.iter().find(|(name, _)| *name == wrong)
    {
        error.insert(ContextKind::SuggestedArg, ContextValue::String((*right).into()));
    }
    error
}

/// Runs the command that the arguments name, of which the first is the program. Returns the exit
/// code: 0 for success, 1 for a failure, 2 for wrong arguments, 128 + the signal's number after an
/// orderly stop. A second signal ends the process.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let (cli, name) = match parse(&arguments) {
        Ok(parsed) => parsed,
        // Also help and the version, which are printed to standard output.
        Err(error) => {
            // A closed stream is not worth reporting here.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(u8::MAX);
        }
    };
    report::set_command_line(&arguments);
    let level = if cli.common.verbose { "info" } else { "warn" };
    // wgpu warns about features that a driver lacks; users cannot act on that.
    let filter = format!("error,incept={level}");
    // A process that runs several commands keeps the log of the first.
    let _ = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter))
        .format_timestamp(None)
        .format_target(false)
        .target(env_logger::Target::Pipe(Box::new(report::LogOutput)))
        .try_init();
    let reporter = Reporter::new(cli.common.json).named(name);
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
        Command::Kernels(command) => command.run(&reporter),
        Command::Completions(command) => command.run(&reporter),
        Command::Man(command) => command.run(&reporter),
        Command::Runs(command) => command.run(&reporter),
    };
    match result {
        Ok(outcome) => outcome.code(),
        // The reader of a pipe, such as `head`, has exited: not a failure.
        Err(error) if is_unread(&error) => Outcome::Done.code(),
        Err(Error::Interrupted) => {
            note("interrupted");
            Outcome::Interrupted.code()
        }
        Err(error) => {
            complain(&format!("error: {error}"));
            Outcome::Failed.code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numeric flags of a command and its subcommands: the command words and the flag.
    fn numeric(command: &clap::Command, before: &[String], found: &mut Vec<(Vec<String>, String)>) {
        const NUMBERS: [&str; 13] = [
            "COUNT",
            "NUMBER",
            "FRACTION",
            "RATE",
            "P",
            "FACTOR",
            "WEIGHT",
            "PIXELS",
            "EPOCHS",
            "NORM",
            "ALPHA",
            "PERCENT",
            "MEAN|R,G,B",
        ];
        for arg in command.get_opts() {
            let names = arg.get_value_names().unwrap_or_default();
            let takes_one = names.iter().any(|name| NUMBERS.contains(&name.as_str()));
            if let Some(long) = arg.get_long().filter(|_| takes_one) {
                found.push((before.to_vec(), format!("--{long}")));
            }
        }
        for sub in command.get_subcommands() {
            numeric(sub, &[before, &[sub.get_name().to_string()]].concat(), found);
        }
    }

    #[test]
    fn flags_of_other_programs_suggest_the_right_flag() {
        for (wrong, right) in FOREIGN_FLAGS {
            let arguments = ["incept", "train", "digits", &format!("{wrong}=1")];
            let error = Cli::command().try_get_matches_from(arguments).expect_err("an unknown flag");
            let said = with_suggestion(error).to_string();
            assert!(said.contains(&format!("'{right}'")), "{said}");
        }
    }

    #[test]
    fn old_flag_names_work_and_are_hidden() {
        let old = [
            ["--batch", "--batch-size"],
            ["--held-out", "--val-split"],
            ["--rate", "--lr"],
            ["--warmup", "--warmup-epochs"],
            ["--clip-norm", "--max-grad-norm"],
            ["--accumulate", "--grad-accum"],
            ["--input", "--image-size"],
            ["--smoothing", "--label-smoothing"],
            ["--out", "--output"],
            ["--adapter", "--device"],
        ];
        let mut command = Cli::command();
        let train = command.find_subcommand_mut("train").expect("a command");
        let help = train.render_long_help().to_string();
        for [name, now] in old {
            assert!(help.contains(&format!("{now} <")), "{now} is not in the help");
            assert!(!help.contains(&format!("{name} <")), "{name} is in the help");
            // A label smoothing of 1 is out of range.
            let value = if name == "--smoothing" { "0.1" } else { "1" };
            let given = ["incept", "train", "digits", name, value];
            Cli::command().try_get_matches_from(given).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    /// Numeric flags reject text, NaN, infinities and negative numbers, and name the valid range.
    #[test]
    fn numeric_flags_reject_invalid_values() {
        let command = with_negative(Cli::command());
        let mut flags = Vec::new();
        numeric(&command, &["incept".to_string()], &mut flags);
        assert!(flags.len() > 60, "{flags:?}");
        for (words, flag) in &flags {
            // Its range is checked later, together with the data set.
            let late = flag == "--val-split";
            for value in ["nan", "-1", "inf", "x", "1e999"] {
                if late && value != "x" {
                    continue;
                }
                // A mean may be negative.
                if flag == "--mean" && value == "-1" {
                    continue;
                }
                let arguments = [&words[..], &[flag.clone(), value.to_string()]].concat();
                let Err(error) = command.clone().try_get_matches_from(&arguments) else {
                    panic!("{arguments:?} is taken");
                };
                let said = error.to_string();
                assert_eq!(error.kind(), ErrorKind::ValueValidation, "{arguments:?}: {said}");
                assert!(said.contains(flag.as_str()) && said.contains(value), "{arguments:?}: {said}");
            }
        }
    }
}
