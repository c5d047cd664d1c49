//! `incept verify`

use std::path::PathBuf;

use clap::Args;
use incept::low_level::verify::{Check, Engine, Failure, Report, run};

use super::options::DeviceArgs;
use super::report::{Reporter, plural};
use super::{Outcome, Result};

/// Compare this device's results with float64 golden values.
///
/// The folder contains sets: op_NAME.safetensors with cases of one operation, and networks as
/// NAME_init, NAME_io, NAME_grads and NAME_stepN .safetensors. Width, classes, batch and input size
/// are read from the tensors. Errors are relative to the golden value, or to a floor where that is
/// near zero.
///
/// A result outside of its limit is compared with CPU reference results for parameters that differ
/// in their last bit. If it matches one of those, a ReLU or max pool had a near tie: this is
/// reported, but passes. The exit code is 1 if a result is outside of its limit or a set cannot be
/// checked; the other sets are still checked.
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// Folder with the golden sets.
    folder: PathBuf,
    /// Check the CPU reference too, in f32 and f64.
    #[arg(long = "reference", alias = "twins")]
    reference: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Verify {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let device_args = &self.device;
        let device = device_args.open()?;
        let engines = if self.reference { &Engine::ALL[..] } else { &[Engine::Device] };
        let report = {
            let mut bar = reporter.bar("checking", 0);
            device.block_on(run(&device, &self.folder, engines, |progress| {
                bar.set_length(progress.total as u64);
                let shown = || {
                    let checks = plural(progress.checks as u64, "check");
                    format!("{}, {}: {checks} done", progress.set, progress.engine.name())
                };
                bar.update(progress.done as u64, shown);
            }))?
        };
        let (set, engine, quantity) = ("set", "engine", "quantity");
        reporter.line(&format!(
            "{set:<26} {engine:<8}  {quantity:<23} {:>6}  {:>9}  {:>7}",
            "checks", "worst", "limit"
        ))?;
        for worst in report.worst() {
            let alike =
                |c: &&Check| (&c.set, c.engine, c.quantity) == (&worst.set, worst.engine, worst.quantity);
            let count = report.checks.iter().filter(alike).count();
            let verdict = match worst.passed() {
                true if worst.is_near_tie() => "  near tie",
                true => "",
                false => "  OUTSIDE",
            };
            reporter.line(&format!(
                "{:<26} {:<8}  {:<23} {count:>6}  {:>9.1e}  {:>7.0e}{verdict}",
                worst.set, worst.engine, worst.quantity, worst.error, worst.limit
            ))?;
        }
        list(&report, reporter)?;
        #[derive(serde::Serialize)]
        struct Result<'a> {
            passed: bool,
            device: &'a incept::gpu::AdapterSummary,
            checks: &'a [Check],
            failures: &'a [Failure],
        }
        reporter.event(&Result {
            passed: report.passed(),
            device: device.summary(),
            checks: &report.checks,
            failures: &report.failures,
        })?;
        Ok(if report.passed() { Outcome::Done } else { Outcome::Failed })
    }
}

/// Prints a line per result outside of its limit and per set that could not be checked, then the
/// totals.
fn list(report: &Report, reporter: &Reporter) -> Result<()> {
    let beyond = report.checks.iter().filter(|c| c.error > c.limit);
    for c in beyond {
        let Check { set, engine, quantity, subject, error, limit, .. } = c;
        let what = if c.is_near_tie() { "near tie" } else { "outside" };
        let witness = match c.witness {
            Some(distance) if c.is_near_tie() => {
                format!(", but {distance:.2e} from the other side of a near tie")
            }
            Some(distance) => format!(", and {distance:.2e} from the nearest side of a near tie"),
            None => String::new(),
        };
        reporter.line(&format!(
            "{what}: {set} {engine} {quantity} {subject}: {error:.2e} above {limit:.0e}{witness}"
        ))?;
    }
    for Failure { set, engine, reason } in &report.failures {
        reporter.line(&format!("not checked: {set} {engine}: {reason}"))?;
    }
    let count = |wanted: fn(&Check) -> bool| report.checks.iter().filter(|c| wanted(c)).count();
    let checks = plural(report.checks.len() as u64, "check");
    let mut text = format!("{}, {} outside of their limits", checks, count(|c| !c.passed()));
    let ties = count(Check::is_near_tie);
    if ties > 0 {
        text.push_str(&format!(", {}", plural(ties as u64, "near tie")));
    }
    if !report.failures.is_empty() {
        text.push_str(&format!(", {} not checked", plural(report.failures.len() as u64, "set")));
    }
    reporter.line(&text)
}
