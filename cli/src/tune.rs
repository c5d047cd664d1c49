//! Autotuning with `--tune`, before a network is created.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::ValueEnum;
use incept::Result;
use incept::device::Device;
use incept::gpu::Gpu;
use incept::kernel::AdapterClass;
use incept::plan::Plan;
use incept::tune::{Rejected, TuneCache, TuneOptions, TuneProgress, Tuning, tune};
use serde::Serialize;

use super::options::DeviceArgs;
use super::report::{Reporter, duration, note, plural, shown};

/// The values of `--tune`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tune {
    /// Use the default kernels, and ignore the cache.
    Off,
    /// Measure what is not in the cache, most expensive first, for up to 20 seconds.
    Fast,
    /// Measure everything.
    Full,
}

/// The purpose of tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worth {
    /// Training is long enough for tuning to pay off: it tunes by default, with an event in the
    /// JSON output.
    Training,
    /// Classification is often shorter than tuning: it tunes only with `--tune`, without an event.
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
    /// Loads the device's cached choices.
    pub(super) fn load_cache(&self, device: &Device) {
        let Some(gpu) = device.gpu().filter(|_| self.tune != Some(Tune::Off)) else { return };
        match TuneCache::new(gpu) {
            Ok(cache) => {
                let choices = cache.load();
                if !choices.is_empty() {
                    log::info!(
                        "kernels: {} from {}",
                        plural(choices.len() as u64, "choice"),
                        shown(cache.path())
                    );
                }
                gpu.add_choices(choices);
            }
            Err(error) => log::warn!("{error}"),
        }
    }

    /// Measures the kernels that a network's plan can use, and caches the choices.
    pub(crate) fn tune(
        &self,
        device: &Device,
        reporter: &Reporter,
        worth: Worth,
        stop: Option<&AtomicBool>,
        plan: impl FnOnce() -> Result<Plan>,
    ) -> Result<()> {
        let Some(gpu) = device.gpu() else {
            if self.tune.is_some_and(|tune| tune != Tune::Off) {
                note("tuning: the CPU has no kernels to choose from");
            }
            return Ok(());
        };
        // On software adapters tuning gains next to nothing over the defaults.
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
        let cache = if tuning.choices.is_empty() { Ok(None) } else { save(gpu, &tuning) };
        // Training continues without a cache; the next start tunes again.
        let cache = cache.unwrap_or_else(|error| {
            log::warn!("cannot write the tuning cache: {error}");
            None
        });
        let Tuning { known, measured, changed, left, .. } = tuning;
        if measured + left > 0 {
            let rest = if left > 0 { format!(", {left} not measured") } else { String::new() };
            note(&format!(
                "tuning: measured {} in {}, {changed} faster than the default ({:.1} ms instead of {:.1} ms){rest}",
                plural(measured as u64, "shape"),
                duration(start.elapsed()),
                tuning.after_ms,
                tuning.before_ms,
            ));
        } else {
            note(&format!("tuning: all {known} shapes are in the cache"));
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

/// Saves the choices to the device's cache.
fn save(gpu: &Gpu, tuning: &Tuning) -> Result<Option<PathBuf>> {
    let cache = TuneCache::new(gpu)?;
    cache.save(&tuning.choices)?;
    Ok(Some(cache.path().to_path_buf()))
}
