//! `incept profile`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use incept::Error;
use incept::device::Device;
use incept::gpu::{AdapterSummary, Bound, Clock, DispatchTime, Roofline};
use incept::infer::{Classifier, InferenceGraph};
use incept::kernel::{AdapterClass, Profile as DeviceProfile};
use incept::low_level::output::check_file;
use incept::low_level::output::write_atomically;
use incept::model::GoogLeNet;
use incept::plan::{NodeCost, Plan, PlanOptions};
use incept::train::{Trainer, TrainingGraph};
use serde::Serialize;
use serde_json::json;

use super::bench::WorkArgs;
use super::numbers::whole;
use super::options::DeviceArgs;
use super::report::{Reporter, note, plural};
use super::tune::Worth;
use super::{Outcome, Result};

/// Profile every kernel of a training step against the device's measured peaks.
///
/// Each dispatch runs in its own pass between two timestamps (or host clock readings, where the
/// device has no timestamps), so their sum is longer than a step in training. The peaks are
/// measured first: multiply-adds in registers, and a copy through memory. GFLOPS are those of the
/// kernel's algorithm; bytes count each bound tensor once, a lower bound of the memory traffic. A
/// dispatch is latency-bound if it takes less than three times as long as an empty one, else bound
/// by the peak that it is closer to.
///
/// `--static` runs nothing: it counts the FLOPs and bytes of the selected kernels, and flags
/// kernels that cannot keep a large GPU busy.
#[derive(Args, Debug)]
pub(crate) struct Profile {
    #[command(flatten)]
    work: WorkArgs,
    /// Profile inference instead of a training step.
    #[arg(long, conflicts_with = "checkpointing")]
    infer: bool,
    /// Number of timed steps; results are the median per dispatch.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = whole::<u32>(1), conflicts_with = "static_")]
    rounds: u32,
    /// Order of the table.
    #[arg(long, value_name = "ORDER", default_value = "order", conflicts_with = "static_")]
    sort: Sort,
    /// Write the last timed step as a trace for ui.perfetto.dev.
    #[arg(long, value_name = "FILE", conflicts_with = "static_")]
    trace: Option<PathBuf>,
    /// Count FLOPs and bytes without running; needs no device.
    #[arg(long = "static")]
    static_: bool,
    /// With `--static`: adapter class to select kernels for.
    #[arg(long, value_name = "CLASS", default_value = "discrete", requires = "static_")]
    class: Class,
    /// With `--static`: select kernels for a discrete GPU with 16 x 16 f16 cooperative matrices
    /// (tensor cores).
    #[arg(long, requires = "static_", conflicts_with = "class")]
    matrices: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// Execution order.
    Order,
    /// Slowest first.
    Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Class {
    Discrete,
    Integrated,
    Software,
}

impl Class {
    pub(super) fn adapter(self) -> AdapterClass {
        match self {
            Self::Discrete => AdapterClass::Discrete,
            Self::Integrated => AdapterClass::Integrated,
            Self::Software => AdapterClass::Software,
        }
    }
}

/// A timed dispatch.
#[derive(Clone, Debug, Serialize)]
struct Row {
    layer: String,
    operation: &'static str,
    implementation: &'static str,
    kernel: &'static str,
    seconds: f64,
    flops: u64,
    bytes: u64,
    gflops: f64,
    gbytes_per_s: f64,
    /// Fractions of the measured peaks.
    compute_share: f64,
    bandwidth_share: f64,
    bound: Bound,
}

/// Totals of all dispatches of an operation.
#[derive(Clone, Debug, Default, Serialize)]
struct Total {
    operation: &'static str,
    dispatches: usize,
    seconds: f64,
    share: f64,
    flops: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct ProfileResult<'a> {
    device: &'a AdapterSummary,
    network: &'a GoogLeNet,
    batch: usize,
    pass: &'static str,
    roofline: Roofline,
    /// Sum over all dispatches.
    seconds: f64,
    gflops: f64,
    kernels: &'a [Row],
    operations: &'a [Total],
}

impl Profile {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let device_args = &self.device;
        let network = self.work.network()?;
        if self.static_ {
            return self.count(&network, reporter);
        }
        self.trace.as_deref().map_or(Ok(()), check_file)?;
        let device = device_args.open()?;
        let roofline = device.block_on(device.roofline())?;
        let precision = self.work.precision.training(&device);
        device_args.tune(&device, reporter, Worth::Classifying, None, || {
            let batch = self.work.batch;
            if self.infer {
                return InferenceGraph::new(&network, batch, precision.element())?.plan(&device, None);
            }
            TrainingGraph::new(&network, &self.work.optimizer(precision), batch)?.plan(&device)
        })?;
        let (plan, rounds) = self.measure(&device, roofline.clock, &network, reporter)?;
        let costs = plan.costs();
        let seconds = medians(&plan, &rounds);
        let mut rows = rows(&costs, &seconds, &roofline);
        if let (Some(path), Some(last)) = (&self.trace, rounds.last()) {
            write_trace(path, device.summary(), &plan, &rows, last)?;
            note(&format!("trace: {}", path.display()));
        }
        let totals = totals(&rows);
        let sum: f64 = seconds.iter().sum();
        let flops: u64 = costs.iter().map(|c| c.flops).sum();
        let gflops = 1e-9 * flops as f64 / sum.max(1e-12);
        if self.sort == Sort::Time {
            rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        }
        let result = ProfileResult {
            device: device.summary(),
            network: &network,
            batch: self.work.batch,
            pass: self.pass(),
            roofline,
            seconds: sum,
            gflops,
            kernels: &rows,
            operations: &totals,
        };
        result.print(reporter)?;
        reporter.event(&result)?;
        Ok(Outcome::Done)
    }

    fn pass(&self) -> &'static str {
        if self.infer { "inference" } else { "training" }
    }

    /// The plan, and the times of all dispatches per round.
    fn measure(
        &self,
        device: &Device,
        clock: Clock,
        network: &GoogLeNet,
        reporter: &Reporter,
    ) -> Result<(Arc<Plan>, Vec<Vec<DispatchTime>>)> {
        let WorkArgs { batch, seed, .. } = self.work;
        let images = self.work.images(network);
        let mut bar = None;
        let prepared = |done: usize, of: usize| {
            let bar = bar.get_or_insert_with(|| reporter.bar("compiling kernels", of as u64));
            bar.update(done as u64, String::new);
        };
        // Labels are arbitrary: a small learning rate keeps the loss finite.
        let rate = 1e-4;
        let precision = self.work.precision.training(device);
        device.block_on(async {
            let mut rounds = Vec::new();
            // The first round warms up.
            if self.infer {
                let classifier =
                    Classifier::untrained(device, network, batch, precision.element(), seed).await?;
                for _ in 0..=self.rounds {
                    rounds.push(classifier.profile(&images, clock).await?);
                }
                rounds.remove(0);
                return Ok((Arc::clone(classifier.session().plan()), rounds));
            }
            let optimizer = self.work.optimizer(precision);
            let mut trainer = Trainer::new(device, network, &optimizer, batch, seed, prepared).await?;
            for _ in 0..=self.rounds {
                rounds.push(trainer.profile(&images, rate, clock).await?);
            }
            rounds.remove(0);
            Ok((Arc::clone(trainer.session().plan()), rounds))
        })
    }

    fn count(&self, network: &GoogLeNet, reporter: &Reporter) -> Result {
        let class = self.class.adapter();
        let device =
            if self.matrices { DeviceProfile::with_matrices() } else { DeviceProfile::webgpu(class) };
        // No limits on tensor sizes: devices of this class exceed WebGPU's defaults.
        let profile = DeviceProfile { binding: u64::from(u32::MAX), buffer: u64::MAX, ..device };
        let plan = |graph, outputs: &[_], metrics: &[_]| {
            Plan::new(graph, &PlanOptions::new(&profile).outputs(outputs).metrics(metrics))
        };
        let precision = self.work.precision.of(&profile);
        let costs = if self.infer {
            let inference = InferenceGraph::new(network, self.work.batch, precision.element())?;
            plan(&inference.graph, &[inference.probabilities], &[])?.costs()
        } else {
            let training = TrainingGraph::new(network, &self.work.optimizer(precision), self.work.batch)?;
            plan(&training.graph, &[], &training.metrics)?.costs()
        };
        print_costs(&costs, reporter)?;
        reporter.event(&json!({
            "network": network,
            "batch": self.work.batch,
            "pass": self.pass(),
            "precision": precision.element(),
            "class": class,
            "nodes": costs.iter().map(described).collect::<Vec<_>>(),
        }))?;
        Ok(Outcome::Done)
    }
}

/// A node's cost with derived figures.
#[derive(Serialize)]
struct Described<'a> {
    #[serde(flatten)]
    cost: &'a NodeCost,
    storage_bytes: u64,
    intensity: f64,
    intensity_bound: f64,
    flags: Vec<String>,
}

fn described(cost: &NodeCost) -> Described<'_> {
    Described {
        cost,
        storage_bytes: cost.storage(),
        intensity: cost.intensity(),
        intensity_bound: cost.intensity_bound(),
        flags: cost.flags(),
    }
}

/// The median seconds of each kernel; those of one dispatch have parts of its time.
fn medians(plan: &Plan, rounds: &[Vec<DispatchTime>]) -> Vec<f64> {
    let rounds: Vec<Vec<f64>> = rounds
        .iter()
        .map(|times| plan.seconds(times.iter().map(|t| (t.members.as_slice(), t.interval.seconds))))
        .collect();
    let median = |i: usize| {
        let mut times: Vec<f64> = rounds.iter().filter_map(|round| round.get(i)).copied().collect();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or(0.0)
    };
    (0..rounds.first().map_or(0, Vec::len)).map(median).collect()
}

fn rows(costs: &[NodeCost], seconds: &[f64], roofline: &Roofline) -> Vec<Row> {
    let dispatches = costs.iter().flat_map(|node| node.dispatches.iter().map(move |d| (node, d)));
    let row = |((node, dispatch), &seconds): ((&NodeCost, &incept::plan::DispatchCost), &f64)| {
        let (flops, bytes) = (dispatch.traffic.flops, dispatch.least_bytes);
        // The clock may be too coarse for a short dispatch.
        let rate = |count: u64| count as f64 / seconds.max(1e-9);
        Row {
            layer: node.layer.clone(),
            operation: node.operation,
            implementation: node.implementation,
            kernel: dispatch.kernel,
            seconds,
            flops,
            bytes,
            gflops: 1e-9 * rate(flops),
            gbytes_per_s: 1e-9 * rate(bytes),
            compute_share: rate(flops) / roofline.flops,
            bandwidth_share: rate(bytes) / roofline.bandwidth,
            bound: roofline.bound(flops as f64, bytes as f64, seconds),
        }
    };
    dispatches.zip(seconds).map(row).collect()
}

/// Totals per operation, slowest first.
fn totals(rows: &[Row]) -> Vec<Total> {
    let mut totals: BTreeMap<&str, Total> = BTreeMap::new();
    let sum: f64 = rows.iter().map(|r| r.seconds).sum();
    for row in rows {
        let total = totals.entry(row.operation).or_default();
        total.operation = row.operation;
        total.dispatches += 1;
        total.seconds += row.seconds;
        total.share += row.seconds / sum.max(1e-12);
        total.flops += row.flops;
        total.bytes += row.bytes;
    }
    let mut totals: Vec<Total> = totals.into_values().collect();
    totals.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    totals
}

/// Writes Chrome's trace format, which Perfetto reads, with one slice per dispatch.
fn write_trace(
    path: &Path,
    device: &AdapterSummary,
    plan: &Plan,
    rows: &[Row],
    times: &[DispatchTime],
) -> Result<()> {
    let micro = 1e6;
    let mut events = vec![
        json!({"name": "process_name", "ph": "M", "pid": 1, "args": {"name": device.to_string()}}),
        json!({"name": "thread_name", "ph": "M", "pid": 1, "tid": 1, "args": {"name": "dispatches"}}),
    ];
    events.extend(times.iter().filter_map(|time| {
        let interval = time.interval;
        let places: Vec<usize> = time.members.iter().filter_map(|member| plan.place_of(*member)).collect();
        let rows: Vec<&Row> = places.iter().filter_map(|place| rows.get(*place)).collect();
        let row = rows.first()?;
        let flops: u64 = rows.iter().map(|row| row.flops).sum();
        let layers: Vec<&str> = rows.iter().map(|row| row.layer.as_str()).collect();
        Some(json!({
            "name": layers.join(", "),
            "cat": row.operation,
            "ph": "X",
            "pid": 1,
            "tid": 1,
            "ts": micro * interval.start,
            "dur": micro * interval.seconds,
            "args": {
                "operation": row.operation,
                "implementation": row.implementation,
                "kernel": row.kernel,
                "gflops": 1e-9 * flops as f64 / interval.seconds.max(1e-9),
                "bytes": rows.iter().map(|row| row.bytes).sum::<u64>(),
                "bound": row.bound,
            },
        }))
    }));
    let trace = json!({"displayTimeUnit": "ms", "traceEvents": events});
    let text = serde_json::to_vec(&trace).map_err(|e| Error::Config(e.to_string()))?;
    write_atomically(path, &text)
}

fn word(bound: Bound) -> &'static str {
    match bound {
        Bound::Compute => "compute",
        Bound::Bandwidth => "bandwidth",
        Bound::Latency => "latency",
    }
}

impl ProfileResult<'_> {
    fn print(&self, reporter: &Reporter) -> incept::Result<()> {
        let r = &self.roofline;
        let (gflops, bandwidth) = (1e-9 * r.flops, 1e-9 * r.bandwidth);
        reporter.line(&format!(
            "peaks  {gflops:.1} GFLOPS  {bandwidth:.1} GB/s  {:.1} us per empty dispatch  ({} clock)\n",
            1e6 * r.latency,
            if r.clock == Clock::Device { "device" } else { "host" }
        ))?;
        let width = |of: fn(&Row) -> usize| self.kernels.iter().map(of).max().unwrap_or(0);
        let (layer, kernel) = (width(|r| r.layer.len()), width(|r| r.kernel.len()));
        let implementation = width(|r| r.implementation.len());
        reporter.line(&format!(
            "{:<layer$}  {:<kernel$}  {:<implementation$}  {:>9}  {:>8}  {:>8}  {:>7}  {:>7}  bound by",
            "layer", "kernel", "chosen", "ms", "GFLOPS", "MB", "compute", "memory"
        ))?;
        for row in self.kernels {
            reporter.line(&format!(
                "{:<layer$}  {:<kernel$}  {:<implementation$}  {:>9.3}  {:>8.1}  {:>8.2}  {:>6.1}%  {:>6.1}%  {}",
                row.layer,
                row.kernel,
                row.implementation,
                1e3 * row.seconds,
                row.gflops,
                1e-6 * row.bytes as f64,
                100.0 * row.compute_share,
                100.0 * row.bandwidth_share,
                word(row.bound)
            ))?;
        }
        reporter.line(&format!(
            "\n{:<24}  {:>10}  {:>9}  {:>6}  {:>8}  {:>8}",
            "operation", "dispatches", "ms", "share", "GFLOPS", "GB/s"
        ))?;
        for t in self.operations {
            let seconds = t.seconds.max(1e-9);
            reporter.line(&format!(
                "{:<24}  {:>10}  {:>9.3}  {:>5.1}%  {:>8.1}  {:>8.1}",
                t.operation,
                t.dispatches,
                1e3 * t.seconds,
                100.0 * t.share,
                1e-9 * t.flops as f64 / seconds,
                1e-9 * t.bytes as f64 / seconds
            ))?;
        }
        reporter.line(&format!(
            "\n{}: {}, {:.3} ms, {:.1} GFLOPS, {:.1}% of the peak",
            self.pass,
            plural(self.kernels.len() as u64, "dispatch"),
            1e3 * self.seconds,
            self.gflops,
            100.0 * self.gflops / gflops
        ))
    }
}

fn print_costs(costs: &[NodeCost], reporter: &Reporter) -> incept::Result<()> {
    let layer = costs.iter().map(|c| c.layer.len()).max().unwrap_or(0);
    let kernel = costs.iter().flat_map(|c| &c.dispatches).map(|d| d.kernel.len()).max().unwrap_or(0);
    let chosen = costs.iter().map(|c| c.implementation.len()).max().unwrap_or(0);
    reporter.line(&format!(
        "{:<layer$}  {:<kernel$}  {:<chosen$}  {:>10}  {:>7}  {:>6}  {:>7}  {:>4}  {:>9}  {:>9}  {:>8}  {:>9}",
        "layer",
        "kernel",
        "chosen",
        "workgroups",
        "threads",
        "tile",
        "split-K",
        "load",
        "MFLOP",
        "MB moved",
        "FLOP/B",
        "workgroup"
    ))?;
    let ratio = |flops: u64, bytes: u64| {
        if flops == 0 || bytes == 0 { String::new() } else { format!("{:.1}", flops as f64 / bytes as f64) }
    };
    for cost in costs {
        for d in &cost.dispatches {
            let t = &d.traffic;
            let [rows, columns] = t.register;
            reporter.line(
                format!(
                    "{:<layer$}  {:<kernel$}  {:<chosen$}  {:>10}  {:>7}  {:>6}  {:>7}  {:>4}  {:>9.1}  {:>9.2}  {:>8}  {:>9}",
                    cost.layer,
                    d.kernel,
                    cost.implementation,
                    d.workgroups,
                    d.invocations,
                    format!("{rows}x{columns}"),
                    t.parts,
                    d.vector,
                    1e-6 * t.flops as f64,
                    1e-6 * t.storage() as f64,
                    ratio(t.flops, t.storage()),
                    ratio(t.flops, t.shared)
                )
                .trim_end(),
            )?;
        }
        if cost.share >= 0.01 {
            let flags = cost.flags();
            reporter.line(&format!(
                "    {:.1}% of the FLOPs, {:.1} FLOP/byte (with 128 x 128 tiles: {:.1}){}{}",
                100.0 * cost.share,
                cost.intensity(),
                cost.intensity_bound(),
                if flags.is_empty() { "" } else { "; LOW UTILIZATION ON A LARGE GPU: " },
                flags.join(", ")
            ))?;
        }
    }
    let (flops, moved): (u64, u64) =
        costs.iter().fold((0, 0), |(flops, moved), c| (flops + c.flops, moved + c.storage()));
    let flagged = costs.iter().filter(|c| !c.flags().is_empty()).count();
    reporter.line(&format!(
        "\n{}, {:.3} GFLOP, {:.1} MB moved in total, {} flagged",
        plural(costs.iter().map(|c| c.dispatches.len() as u64).sum(), "dispatch"),
        1e-9 * flops as f64,
        1e-6 * moved as f64,
        plural(flagged as u64, "node")
    ))
}
