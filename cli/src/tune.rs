//! Tuning from the command line: what `--tune` asks for, with progress, before a network is made.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::ValueEnum;
use incept::Result;
use incept::gpu::Gpu;
use incept::kernel::AdapterClass;
use incept::plan::Plan;
use incept::tune::{Rejected, TuneCache, TuneOptions, TuneProgress, Tuning, tune};
use serde::Serialize;

use super::options::DeviceArgs;
use super::report::{Reporter, duration, note, shown};

/// What `--tune` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tune {
    /// The default kernels, whatever was measured before.
    Off,
    /// Measure what is not known yet, the costliest first, for twenty seconds at most.
    Fast,
    /// Measure everything thoroughly.
    Full,
}

/// What is tuned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worth {
    /// Training wins the time back, so it measures without being asked, and says so to programs
    /// that read along.
    Training,
    /// Classifying is often over sooner than measuring would be: it measures only when asked, and
    /// prints nothing but results.
    Classifying,
}

#[derive(Serialize)]
struct TuneEvent<'a> {
    event: &'static str,
    cache: Option<PathBuf>,
    known: usize,
    measured: usize,
    changed: usize,
    left: usize,
    before_ms: f64,
    after_ms: f64,
    seconds: f64,
    rejected: &'a [Rejected],
}

impl DeviceArgs {
    /// Gives the device the choices that are kept for it.
    pub(super) fn recall(&self, gpu: &Gpu) {
        if self.tune == Some(Tune::Off) {
            return;
        }
        match TuneCache::new(gpu) {
            Ok(cache) => {
                let choices = cache.load();
                if !choices.is_empty() {
                    log::info!("kernels: {} choices from {}", choices.len(), shown(cache.path()));
                }
                gpu.add_choices(choices);
            }
            Err(error) => log::warn!("{error}"),
        }
    }

    /// Measures what the plan of a network can run, and keeps what was found.
    pub(crate) fn tune(
        &self,
        gpu: &Gpu,
        reporter: &Reporter,
        worth: Worth,
        stop: Option<&AtomicBool>,
        plan: impl FnOnce() -> Result<Plan>,
    ) -> Result<()> {
        // On software adapters measuring finds next to nothing that the defaults do not know.
        let real = gpu.summary().class != AdapterClass::Software;
        let default = if real && worth == Worth::Training { Tune::Fast } else { Tune::Off };
        let options = match self.tune.unwrap_or(default) {
            Tune::Off => return Ok(()),
            Tune::Fast => TuneOptions::fast(),
            Tune::Full => TuneOptions::full(),
        };
        let start = Instant::now();
        let mut bar = None;
        let progress = |at: &TuneProgress<'_>| {
            let bar = bar.get_or_insert_with(|| reporter.bar("tuning kernels", at.total as u64));
            let left = || at.left.map_or(String::new(), |left| format!("  {} left", duration(left)));
            bar.update(at.done as u64, || format!("{}{}", at.layer, left()));
            match stop {
                Some(stop) if stop.load(Ordering::SeqCst) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        let tuning = gpu.block_on(tune(gpu, &plan()?, &options, progress))?;
        drop(bar);
        let cache = if tuning.choices.is_empty() { Ok(None) } else { keep(gpu, &tuning) };
        // Training goes on without a file; the next start measures again.
        let cache = cache.unwrap_or_else(|error| {
            log::warn!("what tuning found is not kept: {error}");
            None
        });
        let Tuning { known, measured, changed, left, .. } = tuning;
        if measured + left > 0 {
            let rest = if left > 0 { format!(", {left} left at their defaults") } else { String::new() };
            note(&format!(
                "tuning: {measured} shapes measured in {}, {changed} of them faster than by default ({:.1} ms for {:.1} ms){rest}",
                duration(start.elapsed()),
                tuning.after_ms,
                tuning.before_ms,
            ));
        } else {
            note(&format!("tuning: all {known} shapes are known from an earlier start"));
        }
        if worth == Worth::Training {
            reporter.event(&TuneEvent {
                event: "tune",
                cache,
                known,
                measured,
                changed,
                left,
                before_ms: tuning.before_ms,
                after_ms: tuning.after_ms,
                seconds: start.elapsed().as_secs_f64(),
                rejected: &tuning.rejected,
            })?;
        }
        Ok(())
    }
}

/// Writes what was found to the device's file.
fn keep(gpu: &Gpu, tuning: &Tuning) -> Result<Option<PathBuf>> {
    let cache = TuneCache::new(gpu)?;
    cache.save(&tuning.choices)?;
    Ok(Some(cache.path().to_path_buf()))
}
