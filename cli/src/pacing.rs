//! The first steps of a training: signs of life until the first one is complete, then an estimate
//! of the whole run.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use incept::kernel::AdapterClass;

use super::report::{Rate, duration, note};

/// Interval between signs of life.
const EVERY: Duration = Duration::from_secs(15);

/// Steps after the first one that the estimate is based on; fewer if they take longer than
/// [`PATIENCE`].
const STEPS: usize = 10;

/// Longest time until the estimate, if there are any steps to base it on.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shorter runs need no estimate.
const WORTH_SAYING: Duration = Duration::from_secs(60);

/// Longer runs get advice.
const LONG: Duration = Duration::from_secs(3600);

/// A thread that prints how long the first step has taken so far, until it is dropped.
struct Heartbeat {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Without a thread, if the system has none left, nothing is printed.
    fn start() -> Self {
        let (end, ended) = channel::<()>();
        let start = Instant::now();
        let beat = move || {
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                note(&format!("waiting for the first training step: {}", duration(start.elapsed())));
            }
        };
        let thread = std::thread::Builder::new().name("heartbeat".into()).spawn(beat).ok();
        Self { end: Some(end), thread }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It only prints.
            let _ = thread.join();
        }
    }
}

/// What is known about the speed of a run.
pub(crate) struct Pacing {
    class: AdapterClass,
    heartbeat: Option<Heartbeat>,
    /// Images since the first step was complete.
    rate: Option<Rate>,
    steps: usize,
    told: bool,
}

impl Pacing {
    /// Of a run that begins its first step now, on a device of this class; with `beats`, lines tell
    /// how long the step takes.
    pub(crate) fn new(class: AdapterClass, beats: bool) -> Self {
        let heartbeat = beats.then(Heartbeat::start);
        Self { class, heartbeat, rate: None, steps: 0, told: false }
    }

    /// Counts a complete step of `images` images, with `left` images left in the whole run; returns
    /// the estimate once, when there is one and the run is long enough for it.
    pub(crate) fn step(&mut self, images: usize, left: usize) -> Option<String> {
        self.heartbeat = None;
        let Some(rate) = &mut self.rate else {
            // The first step also waits for memory and for the first images.
            self.rate = Some(Rate::new());
            return None;
        };
        rate.add(images);
        self.steps += 1;
        if self.told || self.steps < STEPS && rate.elapsed() < PATIENCE {
            return None;
        }
        self.told = true;
        let per_step = rate.elapsed().as_secs_f64() / self.steps as f64;
        let seconds = left as f64 / rate.per_second().max(1e-9);
        estimate(self.class, per_step, seconds)
    }
}

/// The estimate in words, with advice if it is long; none for a short run.
fn estimate(class: AdapterClass, per_step: f64, seconds: f64) -> Option<String> {
    let rest = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    if rest < WORTH_SAYING {
        return None;
    }
    let mut text = format!("estimate: {per_step:.2} s per step, {} for the rest of the run", duration(rest));
    if rest > LONG {
        text.push_str(match class {
            AdapterClass::Software => "; faster: --device cpu instead of this software adapter, ",
            _ => "; faster: ",
        });
        text.push_str(
            "smaller images (--image-size 96), a narrower network (--width 0.25), or fewer --epochs",
        );
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_get_an_estimate_and_advice() {
        assert_eq!(estimate(AdapterClass::Software, 0.1, 59.0), None);
        let minutes = estimate(AdapterClass::Software, 0.1, 120.0).expect("it is worth saying");
        assert_eq!(minutes, "estimate: 0.10 s per step, 2:00 min for the rest of the run");
        let hours = estimate(AdapterClass::Software, 12.0, 7200.0).expect("it is worth saying");
        assert!(hours.contains("2:00 h") && hours.contains("--device cpu"), "{hours}");
        let endless = estimate(AdapterClass::Software, f64::MAX, f64::INFINITY);
        assert!(endless.is_some_and(|text| text.contains("--image-size")));
    }

    #[test]
    fn the_first_step_does_not_count() {
        let mut pacing = Pacing::new(AdapterClass::Software, true);
        assert_eq!(pacing.step(8, usize::MAX), None);
        assert!(pacing.heartbeat.is_none());
        let told: Vec<Option<String>> = (0..2 * STEPS).map(|_| pacing.step(8, usize::MAX)).collect();
        assert!(told[STEPS - 1].is_some(), "{told:?}");
        assert_eq!(told.iter().flatten().count(), 1, "{told:?}");
    }
}
