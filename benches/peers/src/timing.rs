//! Fair timing: warm-up, then alternating blocks of the contenders, A B A B, and ratios within a
//! round. Disturbances longer than a round affect both sides of a ratio.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Result;

/// One side of a comparison.
pub trait Contender {
    /// Its name in tables.
    fn name(&self) -> &'static str;

    /// Runs this many iterations and returns when the device has completed them.
    fn run(&mut self, times: u32) -> Result<()>;
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Blocks of each contender.
    pub rounds: u32,
    /// The least time of one block.
    pub block: Duration,
    /// The least number of iterations before the first block.
    pub warm_up: u32,
}

/// Median and range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Minimum.
    pub min: f64,
    /// Maximum.
    pub max: f64,
}

impl Spread {
    /// The spread of at least one value.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Self { median, min: values[0], max: values[values.len() - 1] }
    }
}

/// The times of one contender.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// The contender.
    pub name: &'static str,
    /// Milliseconds of one iteration, over the rounds.
    pub ms: Spread,
    /// This contender's time divided by the first one's in the same round, over the rounds: above
    /// 1, the first is faster.
    pub ratio: Spread,
    /// Seconds from the first iteration until times were steady, including compilation and tuning.
    pub warm_up_s: f64,
}

/// A contender that is ready to be measured.
struct Ready<'a> {
    contender: &'a mut dyn Contender,
    warm_up_s: f64,
    times: u32,
}

/// Warms up all contenders, then measures them in turn.
pub fn compare(contenders: &mut [Box<dyn Contender>], schedule: Schedule) -> Result<Vec<Timing>> {
    let mut list = Vec::new();
    for contender in contenders {
        eprintln!("warming up {}", contender.name());
        let (warm_up_s, once) = warm_up(contender.as_mut(), schedule)?;
        let times = (schedule.block.as_secs_f64() / once).ceil().clamp(1.0, 1e6) as u32;
        list.push(Ready { contender: contender.as_mut(), warm_up_s, times });
    }
    let mut rounds = vec![Vec::new(); list.len()];
    for _ in 0..schedule.rounds.max(1) {
        for (ready, seconds) in list.iter_mut().zip(&mut rounds) {
            seconds.push(timed(ready.contender, ready.times)? / f64::from(ready.times));
        }
    }
    let timing = |(ready, seconds): (&Ready<'_>, &Vec<f64>)| Timing {
        name: ready.contender.name(),
        ms: Spread::of(seconds.iter().map(|s| s * 1e3).collect()),
        ratio: Spread::of(seconds.iter().zip(&rounds[0]).map(|(s, first)| s / first).collect()),
        warm_up_s: ready.warm_up_s,
    };
    Ok(list.iter().zip(&rounds).map(timing).collect())
}

fn timed(contender: &mut dyn Contender, times: u32) -> Result<f64> {
    let start = Instant::now();
    contender.run(times)?;
    Ok(start.elapsed().as_secs_f64().max(1e-9))
}

/// Runs single iterations until three consecutive ones take a similar time, which excludes
/// compilation and tuning; the number of iterations is limited, for busy machines. Returns the
/// total time and the time of one iteration.
fn warm_up(contender: &mut dyn Contender, schedule: Schedule) -> Result<(f64, f64)> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let start = Instant::now();
    let mut last = [f64::INFINITY; 3];
    for _ in 0..schedule.warm_up.max(3) {
        last.rotate_left(1);
        last[2] = timed(contender, 1)?;
    }
    let enough = Instant::now();
    let steady = |last: [f64; 3]| {
        let Spread { min, max, .. } = Spread::of(last.to_vec());
        max < 1.25 * min
    };
    while !steady(last) && enough.elapsed() < PATIENCE {
        last.rotate_left(1);
        last[2] = timed(contender, 1)?;
    }
    let warm_up_s = start.elapsed().as_secs_f64();
    let block = schedule.block.as_secs_f64();
    if last[2] > block {
        return Ok((warm_up_s, last[2]));
    }
    // Iterations within a block overlap, unlike single ones: the length of a block is measured with
    // a block.
    let times = (block / 4.0 / last[2]).ceil().clamp(1.0, 1e4) as u32;
    Ok((warm_up_s, timed(contender, times)? / f64::from(times)))
}

/// The geometric mean of values above zero.
pub fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|v| v.ln()).sum::<f64>() / values.len().max(1) as f64).exp()
}
