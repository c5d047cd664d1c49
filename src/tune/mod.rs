//! Tuning: choosing implementations by measurement, for a device and a plan's shapes.
//!
//! ```no_run
//! # use std::ops::ControlFlow;
//! # use incept::{gpu::*, model::GoogLeNet, optim::Optimizer, train::*, tune::*};
//! # fn main() -> incept::Result<()> {
//! # let gpu = Gpu::open_blocking(&AdapterOptions::default())?;
//! # let (network, optimizer) = (GoogLeNet::paper(), Optimizer::default());
//! let plan = TrainingGraph::new(&network, &optimizer, 32)?.plan(&gpu)?;
//! gpu.block_on(tune(&gpu, &plan, &TuneOptions::fast(), |_| ControlFlow::Continue(())))?;
//! // Trainers and classifiers created on `gpu` from now on use the results.
//! # Ok(())
//! # }
//! ```
//!
//! [`TuneCache`] stores the results on disk. An implementation's results are checked before it is
//! timed; see `check.rs`. This module is async and uses neither threads nor files, and only
//! `web-time`'s clock.

#[cfg(not(target_arch = "wasm32"))]
mod cache;
mod check;
mod cooperative;
mod opening;
mod trial;

#[cfg(not(target_arch = "wasm32"))]
pub use cache::TuneCache;
pub(crate) use trial::{Pool, Prepared, Stage};
pub use trial::{Trial, TrialOutput};

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use web_time::{Duration, Instant};

use crate::error::{Error, Result};
#[cfg(not(target_arch = "wasm32"))]
use crate::gpu::Form;
use crate::gpu::Gpu;
use crate::graph::{Operation, TensorId};
use crate::kernel::{Implementation, Operand, Operands, Step, choose};
use crate::ops::offers;
use crate::plan::Plan;
use crate::plan::{Choice, Choices, Effort, fingerprint};
use crate::tensor::{Element, Spec};
use check::{Expected, noise};

/// Options of tuning: `TuneOptions::fast().budget(None)`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TuneOptions {
    /// Effort of measurements.
    pub effort: Effort,
    /// Time limit, after which unmeasured operations keep their default; a running measurement is
    /// finished. `None`: no limit.
    pub budget: Option<Duration>,
}

impl TuneOptions {
    /// The most expensive operations first, for up to 20 seconds.
    pub fn fast() -> Self {
        Self { effort: Effort::Fast, budget: Some(Duration::from_secs(20)) }
    }

    /// All operations, with many repetitions.
    pub fn full() -> Self {
        Self { effort: Effort::Full, budget: None }
    }

    /// Effort of measurements.
    #[must_use]
    pub fn effort(self, effort: Effort) -> Self {
        Self { effort, ..self }
    }

    /// Time limit.
    #[must_use]
    pub fn budget(self, budget: impl Into<Option<Duration>>) -> Self {
        Self { budget: budget.into(), ..self }
    }
}

/// Progress of tuning.
#[derive(Clone, Copy, Debug)]
pub struct TuneProgress<'a> {
    /// Implementations measured or skipped so far.
    pub done: usize,
    /// Total implementations.
    pub total: usize,
    /// Layer of the next measurement.
    pub layer: &'a str,
    /// Estimated remaining time, limited by the budget; `None` if unknown.
    pub left: Option<Duration>,
}

/// An implementation that failed on this device.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Rejected {
    /// Layer that it was tried for first.
    pub layer: String,
    /// Its name.
    pub implementation: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Results of tuning.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    /// New choices, already added to the device.
    pub choices: Choices,
    /// Operations with a known choice.
    pub known: usize,
    /// Measured operations.
    pub measured: usize,
    /// Measured operations for which another implementation than the default was chosen.
    pub changed: usize,
    /// Operations that kept their default, because of the time limit or because they could not be
    /// checked or run.
    pub left: usize,
    /// Implementations that failed their check.
    pub rejected: Vec<Rejected>,
    /// Milliseconds of all measured nodes of the plan with defaults.
    pub before_ms: f64,
    /// The same with the chosen implementations.
    pub after_ms: f64,
}

/// A non-default implementation is chosen only if it takes at most this share of the default's
/// time: smaller gains are noise, and a choice that varies between runs changes the last digits of
/// results.
const WORTHWHILE: f64 = 0.97;

/// Assumed ratio of an implementation's time to the longest one so far, to decide whether it fits
/// the time limit.
const PATIENCE: u32 = 4;

/// One operation on one set of shapes.
struct Job<'a> {
    key: String,
    layer: &'a str,
    op: &'a dyn Operation,
    inputs: Vec<Operand>,
    outputs: Vec<Operand>,
    /// Fitting implementations, the default first.
    candidates: Vec<Implementation>,
    kernels: String,
    /// Number of nodes in the plan.
    nodes: usize,
    /// Estimated cost of its nodes: multiply-adds and elements.
    work: u64,
}

/// Measures the implementations of a plan's nodes and adds the fastest correct ones to the device's
/// choices. Operations with a choice are skipped. `progress` may stop it; results so far are kept.
///
/// # Errors
/// [`Error::DeviceLost`], and [`Error::OutOfMemory`] if the device has no memory for timestamps. An
/// implementation that fails is logged and not chosen.
pub async fn tune(
    gpu: &Gpu,
    plan: &Plan,
    options: &TuneOptions,
    progress: impl FnMut(&TuneProgress<'_>) -> ControlFlow<()>,
) -> Result<Tuning> {
    let start = Instant::now();
    let mut tuning = Tuning::default();
    let jobs = jobs(gpu, plan, options.effort, &mut tuning.known);
    let unit = jobs.iter().map(Job::unit).sum::<f64>() / jobs.len().max(1) as f64;
    let weight = |job: &Job<'_>| (job.unit() + unit) * job.candidates.len() as f64;
    let mut tuner = Tuner {
        gpu,
        effort: options.effort,
        start,
        deadline: options.budget.map(|budget| start + budget),
        pool: Pool::default(),
        progress,
        done: 0,
        total: jobs.iter().map(|j| j.candidates.len()).sum(),
        weight_done: 0.0,
        weight: jobs.iter().map(weight).sum(),
        rejected: Vec::new(),
        ended: false,
    };
    let mut before = 0;
    for job in &jobs {
        let found = tuner.measure(job).await?;
        // A job stopped in the middle has no comparable times.
        if tuner.ended {
            break;
        }
        before += job.candidates.len();
        tuner.done = before;
        tuner.weight_done += weight(job);
        tuning.take(job, &found, options.effort);
    }
    tuning.rejected = tuner.rejected;
    gpu.add_choices(tuning.choices.clone());
    Ok(tuning)
}

impl Tuning {
    /// Records the choice for a job from its measurements.
    fn take(&mut self, job: &Job<'_>, found: &Found, effort: Effort) {
        let times = &found.times;
        // No choice is stored if the default is wrong or memory was short, so that it is measured
        // again another time.
        if found.unsettled || times.is_empty() && found.refused {
            self.left += 1;
            return;
        }
        let default = job.candidates[0].name;
        let time = |name| times.iter().find(|(n, _)| *n == name).map(|(_, t)| t.as_secs_f64());
        let fastest = times.iter().min_by_key(|(_, time)| *time).map_or(default, |(name, _)| name);
        let worthwhile = time(fastest) <= time(default).map(|t| WORTHWHILE * t).or(time(fastest));
        let chosen = if worthwhile { fastest } else { default };
        if times.is_empty() {
            self.left += 1;
        } else {
            self.measured += 1;
            self.changed += usize::from(chosen != default);
            let ms = |time: Option<f64>| 1e3 * job.nodes as f64 * time.unwrap_or(0.0);
            self.before_ms += ms(time(default).or(time(chosen)));
            self.after_ms += ms(time(chosen));
        }
        let tenths = |time: &Duration| (time.as_secs_f64() * 1e7).round() / 10.0;
        let microseconds: BTreeMap<String, f64> =
            times.iter().map(|(name, time)| ((*name).to_string(), tenths(time))).collect();
        log::info!("{chosen} of {microseconds:?} for {}", job.key);
        let (implementation, kernels) = (chosen.to_string(), job.kernels.clone());
        self.choices.insert(&*job.key, Choice { implementation, kernels, effort, microseconds });
    }
}

/// Measurements of a job.
#[derive(Debug, Default)]
struct Found {
    /// Times of correct implementations.
    times: Vec<(&'static str, Duration)>,
    /// Whether an implementation was wrong or rejected by the driver.
    refused: bool,
    /// Whether memory was short, which may differ another time.
    unsettled: bool,
}

impl Job<'_> {
    /// Estimated cost per node.
    fn unit(&self) -> f64 {
        self.work as f64 / self.nodes.max(1) as f64
    }
}

/// The jobs of a plan, most expensive first; counts operations with a known choice.
fn jobs<'a>(gpu: &Gpu, plan: &'a Plan, effort: Effort, known: &mut usize) -> Vec<Job<'a>> {
    let (profile, choices) = (gpu.profile(), gpu.choices());
    let mut jobs: BTreeMap<String, Job<'a>> = BTreeMap::new();
    let mut done = BTreeSet::new();
    for planned in &plan.nodes {
        let node = plan.graph.node(planned.node);
        let inputs: Vec<Operand> = node.inputs.iter().map(|t| plan.operand(*t)).collect();
        let outputs: Vec<Operand> = node.outputs.iter().map(|t| plan.operand(*t)).collect();
        let operands = Operands { layer: &node.name, inputs: &inputs, outputs: &outputs };
        let key = Choices::key(node.op.as_ref(), &operands);
        let specs = |list: &'a [TensorId]| -> Vec<&'a Spec> {
            list.iter().map(|t| &plan.graph.tensor(*t).spec).collect()
        };
        let volume: usize = inputs.iter().chain(&outputs).map(Operand::volume).sum();
        let work = node.op.macs(&specs(&node.inputs), &specs(&node.outputs)) + volume as u64;
        if let Some(job) = jobs.get_mut(&key) {
            job.nodes += 1;
            job.work += work;
            continue;
        }
        let list = offers(node.op.as_ref(), &operands, profile);
        let Some(default) = choose(&list, profile).map(|i| i.name) else { continue };
        let kernels = fingerprint(&list, profile);
        let tried = |i: &Implementation| i.name == default || i.may_be_faster(profile);
        let mut candidates: Vec<Implementation> = list.into_iter().filter(tried).collect();
        // Indices computed by another node have a meaning; random ones would test and measure
        // nothing useful.
        let drawn = |t: &TensorId| {
            let tensor = plan.graph.tensor(*t);
            tensor.spec.element != Element::U32 || tensor.producer.is_none()
        };
        if candidates.len() < 2 || !node.inputs.iter().all(drawn) {
            continue;
        }
        if choices.get(&key).is_some_and(|c| c.kernels == kernels && c.effort >= effort) {
            done.insert(key);
            continue;
        }
        candidates.sort_by_key(|i| i.name != default);
        let (layer, op) = (node.name.as_str(), node.op.as_ref());
        let job = Job { key: key.clone(), layer, op, inputs, outputs, candidates, kernels, nodes: 1, work };
        jobs.insert(key, job);
    }
    *known = done.len();
    let mut jobs: Vec<Job<'a>> = jobs.into_values().collect();
    jobs.sort_by_key(|job| std::cmp::Reverse(job.work));
    jobs
}

/// State of tuning.
struct Tuner<'a, P> {
    gpu: &'a Gpu,
    effort: Effort,
    start: Instant,
    deadline: Option<Instant>,
    pool: Pool,
    progress: P,
    done: usize,
    total: usize,
    weight_done: f64,
    weight: f64,
    rejected: Vec<Rejected>,
    ended: bool,
}

impl<P: FnMut(&TuneProgress<'_>) -> ControlFlow<()>> Tuner<'_, P> {
    /// Reports progress; returns false when stopped or out of time.
    fn report(&mut self, layer: &str) -> bool {
        let elapsed = self.start.elapsed();
        let rest = (self.weight_done > 0.0).then(|| self.weight / self.weight_done - 1.0);
        let budget = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let estimate = rest.map(|rest| elapsed.mul_f64(rest.max(0.0)));
        let left = match (estimate, budget) {
            (Some(estimate), Some(budget)) => Some(estimate.min(budget)),
            (estimate, budget) => estimate.or(budget),
        };
        let progress = TuneProgress { done: self.done, total: self.total, layer, left };
        self.ended |= (self.progress)(&progress).is_break();
        !self.ended && budget != Some(Duration::ZERO)
    }

    /// Checks and times the implementations of a job, as time and memory allow.
    async fn measure(&mut self, job: &Job<'_>) -> Result<Found> {
        let mut found = Found::default();
        if !self.report(job.layer) {
            return Ok(found);
        }
        let step = Step::default();
        let specs: Vec<&Spec> = job.inputs.iter().map(|o| &o.spec).collect();
        let outputs: Vec<&Spec> = job.outputs.iter().map(|o| &o.spec).collect();
        let arrays: Vec<_> = specs.iter().zip(1..).map(|(spec, seed)| noise(spec, seed)).collect();
        let arrays: Vec<_> = arrays.iter().collect();
        let Some(mut expected) = Expected::new(job.op, &specs, &outputs, &arrays, &step) else {
            return Ok(found);
        };
        let trial = Trial::of(job.op, job.inputs.clone(), job.outputs.clone());
        let stage = match Stage::new(self.gpu, &mut self.pool, &trial, &arrays, &step).await {
            Ok(stage) => stage,
            Err(lost @ Error::DeviceLost(_)) => return Err(lost),
            Err(error) => {
                log::warn!("{}: keeps its default: {error}", job.layer);
                return Ok(Found { unsettled: true, ..found });
            }
        };
        // Errors are ignored here: they are reported when the implementation is run.
        #[cfg(not(target_arch = "wasm32"))]
        let gpu = self.gpu;
        #[cfg(not(target_arch = "wasm32"))]
        drop(gpu.compile_together(job.candidates.iter().flat_map(|candidate| {
            let checks = trial.checks(gpu, candidate);
            candidate.kernels.iter().map(move |kernel| Form::alone(kernel, checks, gpu.profile()))
        })));
        let mut quickest = None;
        let mut longest = Duration::ZERO;
        for candidate in &job.candidates {
            // Running work cannot be stopped, so what would likely exceed the time limit is not
            // started.
            let short = self.deadline.is_some_and(|at| Instant::now() + PATIENCE * longest > at);
            // Except if all earlier ones are wrong: then the network needs this one.
            let needed = found.refused && found.times.is_empty();
            let in_time = self.report(job.layer) && !short;
            if self.ended || !(in_time || needed) {
                break;
            }
            let begin = Instant::now();
            match self.candidate(&stage, candidate, &mut expected, &mut quickest).await {
                Ok(time) => found.times.push((candidate.name, time)),
                Err(lost @ Error::DeviceLost(_)) => return Err(lost),
                Err(error) => {
                    let (layer, implementation) = (job.layer.to_string(), candidate.name.to_string());
                    found.unsettled |= matches!(error, Error::OutOfMemory { .. });
                    found.refused = true;
                    let reason = error.to_string();
                    log::warn!("`{implementation}` is not used for {}: {reason}", job.key);
                    self.rejected.push(Rejected { layer, implementation, reason });
                }
            }
            longest = longest.max(begin.elapsed());
            self.done += 1;
        }
        stage.release(&mut self.pool);
        Ok(found)
    }

    /// Checks an implementation, then times it.
    async fn candidate(
        &mut self,
        stage: &Stage<'_>,
        candidate: &Implementation,
        expected: &mut Expected,
        quickest: &mut Option<Duration>,
    ) -> Result<Duration> {
        // Discards late errors of the previous implementation.
        if let Err(lost @ Error::DeviceLost(_)) = self.gpu.check("tuning") {
            return Err(lost);
        }
        let (output, prepared) = stage.run(self.gpu, &mut self.pool, candidate).await?;
        let found = if output.intact {
            expected.check(output.arrays)
        } else {
            Err("it writes outside its outputs".to_string())
        };
        let time = match found {
            Ok(()) => self.time(&prepared, quickest).await,
            Err(reason) => Err(Error::Kernel { kernel: candidate.name.to_string(), reason, source: None }),
        };
        prepared.release(&mut self.pool);
        time
    }

    /// Median time of a run. An implementation that is several times slower at first is not
    /// measured again.
    async fn time(&self, prepared: &Prepared, quickest: &mut Option<Duration>) -> Result<Duration> {
        let (enough, count, hopeless) = match self.effort {
            Effort::Fast => (Duration::from_millis(2), 3, 2),
            Effort::Full => (Duration::from_millis(10), 9, 5),
        };
        let first = prepared.time(self.gpu, 1).await?;
        let beaten = quickest.is_some_and(|quickest| first > hopeless * quickest);
        *quickest = Some(quickest.map_or(first, |quickest| quickest.min(first)));
        let long = first > Duration::from_millis(100);
        if beaten || (long && self.effort == Effort::Fast) {
            return Ok(first);
        }
        let repetitions = (enough.as_secs_f64() / first.as_secs_f64().max(1e-7)).clamp(1.0, 200.0) as u32;
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            times.push(prepared.time(self.gpu, repetitions).await?);
        }
        times.sort_unstable();
        Ok(times[count / 2])
    }
}
