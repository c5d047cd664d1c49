//! Choosing implementations by measurement, on the device at hand and for the shapes at hand.
//!
//! ```no_run
//! # use std::ops::ControlFlow;
//! # use incept::{gpu::*, nn::GoogLeNet, train::*, tune::*};
//! # fn main() -> incept::Result<()> {
//! # let gpu = Gpu::open_blocking(&AdapterOptions::default())?;
//! # let (network, optimizer) = (GoogLeNet::paper(), Optimizer::default());
//! let plan = TrainingGraph::new(&network, &optimizer, 32)?.plan(&gpu)?;
//! gpu.block_on(tune(&gpu, &plan, &TuneOptions::fast(), |_| ControlFlow::Continue(())))?;
//! // Trainers and classifiers made on `gpu` from here on use what was found.
//! # Ok(())
//! # }
//! ```
//!
//! [`TuneCache`] keeps what was found for the next start. What an implementation computes is
//! checked before it is timed; see `check.rs` for how. This module is async and has no thread and
//! no file; of clocks it has only `web-time`'s.

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
use crate::gpu::Gpu;
use crate::graph::{Operation, TensorId};
use crate::kernel::{Implementation, Operand, Operands, Step, choose};
use crate::ops::offers;
use crate::plan::Plan;
use crate::plan::{Choice, Choices, Effort, fingerprint};
use crate::tensor::{Element, Spec};
use check::{Expected, noise};

/// How to tune.
#[derive(Clone, Copy, Debug)]
pub struct TuneOptions {
    /// How thoroughly.
    pub effort: Effort,
    /// After this time, what has not been measured keeps its default. The implementation that is
    /// running then is waited for.
    pub budget: Option<Duration>,
}

impl TuneOptions {
    /// The operations that cost most first, for at most twenty seconds.
    pub fn fast() -> Self {
        Self { effort: Effort::Fast, budget: Some(Duration::from_secs(20)) }
    }

    /// Everything, with many repetitions.
    pub fn full() -> Self {
        Self { effort: Effort::Full, budget: None }
    }
}

/// How far tuning is.
#[derive(Clone, Copy, Debug)]
pub struct TuneProgress<'a> {
    /// Implementations that have been measured or given up.
    pub done: usize,
    /// All there are.
    pub total: usize,
    /// The layer that comes next.
    pub layer: &'a str,
    /// An estimate of the time that is left, at most what the budget leaves.
    pub left: Option<Duration>,
}

/// An implementation that must not be used on this device.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Rejected {
    /// The first layer that it was tried for.
    pub layer: String,
    /// Its name.
    pub implementation: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What tuning found.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    /// The new choices; the device has them already.
    pub choices: Choices,
    /// Operations and shapes whose choice was known before.
    pub known: usize,
    /// Those that were measured.
    pub measured: usize,
    /// Those that were measured and for which another implementation than the default is faster.
    pub changed: usize,
    /// Those that kept their default because the time was used up, or because nothing could check
    /// or run them.
    pub left: usize,
    /// What failed its check.
    pub rejected: Vec<Rejected>,
    /// Milliseconds that all measured nodes of the plan take with their defaults.
    pub before_ms: f64,
    /// The same with what was chosen.
    pub after_ms: f64,
}

/// An implementation other than the default is chosen only if it takes at most this share of the
/// default's time: less is noise, and a choice that changes from run to run changes the last digits
/// of results.
const WORTHWHILE: f64 = 0.97;

/// How many times as long as the one before an implementation may take. Few defaults are so much
/// better than the others.
const PATIENCE: u32 = 4;

/// One operation on one set of shapes.
struct Job<'a> {
    key: String,
    layer: &'a str,
    op: &'a dyn Operation,
    inputs: Vec<Operand>,
    outputs: Vec<Operand>,
    /// What fits the device, the default first.
    candidates: Vec<Implementation>,
    kernels: String,
    /// Nodes of the plan that it is for.
    nodes: usize,
    /// What its nodes cost, about: multiply-adds and elements.
    work: u64,
}

/// Measures what the nodes of a plan can run on this device, and adds the fastest of what is right
/// to the device's choices. What the device has a choice for already is left out. `progress` may
/// end it; what was measured by then counts.
///
/// # Errors
/// [`Error::DeviceLost`], and [`Error::OutOfMemory`] if there is not even memory for a timer. An
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
        // A job that was ended in its middle has no fair winner.
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
    /// Decides for a job, given what was found out about it.
    fn take(&mut self, job: &Job<'_>, found: &Found, effort: Effort) {
        let times = &found.times;
        // A default that is wrong, or was short of memory this time, is nothing to keep: it is
        // asked again another time.
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

/// What was found out about a job.
#[derive(Debug, Default)]
struct Found {
    /// The times of the implementations that are right.
    times: Vec<(&'static str, Duration)>,
    /// Whether an implementation was not right, or the driver refused it.
    refused: bool,
    /// Whether memory was short, which may be otherwise another time.
    unsettled: bool,
}

impl Job<'_> {
    /// What one of its nodes costs, about.
    fn unit(&self) -> f64 {
        self.work as f64 / self.nodes.max(1) as f64
    }
}

/// What there is to measure, the dearest first; counts what is known already.
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
        let mut candidates: Vec<Implementation> = list.into_iter().filter(|i| i.fits(profile)).collect();
        // Indices that another node makes mean something: random ones would be no test and no
        // measure.
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

/// What tuning needs from one job to the next.
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
    /// Says where the work is; false once it is to end or the time is used up.
    fn go_on(&mut self, layer: &str) -> bool {
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

    /// Checks and times the implementations of a job, as far as time and memory suffice.
    async fn measure(&mut self, job: &Job<'_>) -> Result<Found> {
        let mut found = Found::default();
        if !self.go_on(job.layer) {
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
        // What a driver refuses is refused again, with its reason, when its turn comes.
        #[cfg(not(target_arch = "wasm32"))]
        drop(self.gpu.compile_together(job.candidates.iter().flat_map(|candidate| {
            let checks = trial.checks(self.gpu, candidate);
            candidate.kernels.iter().map(move |kernel| (kernel, checks))
        })));
        let mut quickest = None;
        let mut longest = Duration::ZERO;
        for candidate in &job.candidates {
            // What runs on a device cannot be stopped: what would likely outlast the time is not
            // started.
            let short = self.deadline.is_some_and(|at| Instant::now() + PATIENCE * longest > at);
            // Unless the ones before it are wrong: then the network needs this one.
            let needed = found.refused && found.times.is_empty();
            let in_time = self.go_on(job.layer) && !short;
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

    /// Checks an implementation, and only then times it.
    async fn candidate(
        &mut self,
        stage: &Stage<'_>,
        candidate: &Implementation,
        expected: &mut Expected,
        quickest: &mut Option<Duration>,
    ) -> Result<Duration> {
        // What the driver has still to say about the one before is not this one's fault.
        if let Err(lost @ Error::DeviceLost(_)) = self.gpu.check("tuning") {
            return Err(lost);
        }
        let (output, prepared) = stage.run(self.gpu, &mut self.pool, candidate).await?;
        let found = if output.intact {
            expected.check(output.arrays)
        } else {
            Err("it writes outside of its outputs".to_string())
        };
        let time = match found {
            Ok(()) => self.time(&prepared, quickest).await,
            Err(reason) => Err(Error::Kernel { kernel: candidate.name.to_string(), reason, source: None }),
        };
        prepared.release(&mut self.pool);
        time
    }

    /// The median time of one run. One that takes several times as long as another at first is not
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
