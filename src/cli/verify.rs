//! `incept verify`

use std::path::PathBuf;

use clap::Args;
use incept::verify::{Engine, run};

use super::options::DeviceArgs;
use super::report::Reporter;
use super::{Outcome, Result};

/// Compare this device with golden results in float64.
///
/// A folder holds sets: op_NAME.safetensors with cases of one operation, and whole networks as NAME_init, NAME_io, NAME_grads and NAME_stepN
/// .safetensors. Width, classes, batch and input size are read from the tensors. The exit code is 1 if anything is outside its limit.
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// The folder with the golden sets.
    folder: PathBuf,
    /// Check the CPU twins too, in f32 and in f64.
    #[arg(long)]
    twins: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Verify {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let device = &self.device;
        let gpu = device.open()?;
        let engines = if self.twins { &Engine::ALL[..] } else { &[Engine::Device] };
        let report = {
            let mut bar = reporter.bar("checking", 0);
            let mut done = 0;
            gpu.block_on(run(&gpu, &self.folder, engines, |check| {
                done += 1;
                bar.update(done, || format!("{} {}", check.set, check.quantity));
            }))?
        };
        let (set, engine, quantity) = ("set", "engine", "quantity");
        reporter.line(&format!(
            "{set:<26} {engine:<8}  {quantity:<23} {:>6}  {:>9}  {:>7}",
            "checks", "worst", "limit"
        ))?;
        for worst in report.worst() {
            let alike = |c: &&incept::verify::Check| {
                (&c.set, c.engine, c.quantity) == (&worst.set, worst.engine, worst.quantity)
            };
            let count = report.checks.iter().filter(alike).count();
            let verdict = if worst.passed() { "" } else { "  OUTSIDE" };
            reporter.line(&format!(
                "{:<26} {:<8}  {:<23} {count:>6}  {:>9.1e}  {:>7.0e}{verdict}",
                worst.set, worst.engine, worst.quantity, worst.error, worst.limit
            ))?;
        }
        let outside: Vec<_> = report.checks.iter().filter(|c| !c.passed()).collect();
        for check in &outside {
            reporter.line(&format!(
                "outside: {} {} {} {}: {:.2e} above {:.0e}",
                check.set, check.engine, check.quantity, check.subject, check.error, check.limit
            ))?;
        }
        reporter.line(&format!("{} checks, {} outside their limits", report.checks.len(), outside.len()))?;
        #[derive(serde::Serialize)]
        struct Result<'a> {
            passed: bool,
            device: &'a incept::gpu::AdapterSummary,
            checks: &'a [incept::verify::Check],
        }
        reporter.event(&Result { passed: report.passed(), device: gpu.summary(), checks: &report.checks })?;
        Ok(if report.passed() { Outcome::Done } else { Outcome::Failed })
    }
}
