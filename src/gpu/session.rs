//! A plan on a device: buffers, pipelines and bind groups are created once; then each run is one
//! submission, or several if one would trigger the driver's timeout. Scalars are read back through
//! a ring of staging buffers without stalling the device.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;

use super::element::{decode, encode};
use super::{Checks, Clock, Download, Form, Gpu, Interval, Regions, Signal, take_mapped};
use crate::error::{Error, Result};
use crate::graph::{NodeId, Role, TensorId};
use crate::kernel::{Kernel, Problem, Step, grid, table, workgroups};
use crate::plan::{self as planned, METRIC_STRIDE, Member, Place, Plan, PlannedNode, Store, View, Window};
use crate::tensor::Spec;
use crate::text::plural;

/// The scalars of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Index of the run in this session, from 0.
    pub run: u64,
    /// The values, in the order of [`PlanOptions::metrics`](crate::plan::PlanOptions::metrics).
    pub values: Vec<f32>,
}

/// A started read-back of a tensor.
#[derive(Debug)]
pub struct Reading {
    gpu: Gpu,
    spec: Spec,
    view: View,
    download: Download,
}

/// A plan that is ready to run.
#[derive(Debug)]
pub struct Session {
    gpu: Gpu,
    plan: Arc<Plan>,
    regions: Arc<Regions>,
    buffers: BTreeMap<Store, wgpu::Buffer>,
    step: wgpu::Buffer,
    dispatches: Vec<Dispatch>,
    /// Dispatches before the first run and after the weights were changed by others.
    preparation: Vec<Dispatch>,
    /// The version of the weights at the last preparation.
    prepared: Option<u64>,
    runs: u64,
    idle: Vec<wgpu::Buffer>,
    pending: VecDeque<Pending>,
    watch: Option<Watch>,
    /// Maximum work per submission, in multiply-adds.
    most_work: u64,
}

/// Timing of one dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct DispatchTime {
    /// The kernels that it runs, indices in [`Plan::nodes`].
    pub members: Vec<Member>,
    /// Start and duration.
    pub interval: Interval,
}

/// Measures the device's busy time by timestamps.
#[derive(Debug)]
struct Watch {
    /// Timestamps at the start and end of a run, and the buffer to resolve them.
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    seconds: f64,
}

/// Bytes of the two timestamps.
const TICKS: u64 = 16;

#[derive(Debug)]
struct Dispatch {
    /// The node of the first member.
    node: NodeId,
    members: Vec<Member>,
    pipeline: Arc<super::Pipeline>,
    group: wgpu::BindGroup,
    groups: [u32; 3],
    /// Estimated work in multiply-adds, memory traffic included.
    work: u64,
}

impl Dispatch {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        let [x, y, z] = self.groups;
        pass.dispatch_workgroups(x, y, z);
    }
}

/// A run with a pending read-back of scalars.
#[derive(Debug)]
struct Pending {
    run: u64,
    buffer: wgpu::Buffer,
    mapping: Signal,
    submission: wgpu::SubmissionIndex,
}

/// Estimated cost of moving a value, in multiply-adds.
const MOVE: u64 = 8;

/// Estimated work per kernel of a node, split evenly.
fn work(plan: &Plan, node: &PlannedNode) -> u64 {
    let spec = |id: &TensorId| &plan.graph.tensor(*id).spec;
    let graph_node = plan.graph.node(node.node);
    let inputs: Vec<&Spec> = graph_node.inputs.iter().map(spec).collect();
    let outputs: Vec<&Spec> = graph_node.outputs.iter().map(spec).collect();
    let values: usize = inputs.iter().chain(&outputs).map(|spec| spec.shape.volume()).sum();
    let all = graph_node.op.macs(&inputs, &outputs) + MOVE * values as u64;
    all / node.implementation.kernels.len().max(1) as u64
}

/// Number of leading dispatches that fit one submission, at least one if there is any.
fn fitting(dispatches: &[&Dispatch], most: u64) -> usize {
    let mut sum = 0u64;
    let fit = dispatches.iter().take_while(|dispatch| {
        sum = sum.saturating_add(dispatch.work);
        sum <= most
    });
    fit.count().max(1).min(dispatches.len())
}

/// The runtime checks that a node needs. Fails if its tensors or scratch buffers are smaller than
/// kernels assume.
fn checks(gpu: &Gpu, plan: &Plan, node: &PlannedNode) -> Result<Checks> {
    let Some((_, graph_node)) = plan.graph.nodes().nth(node.node.index()) else {
        return Err(Error::tensor(format!("node {}", node.node.index()), "is not in the planned graph"));
    };
    let operand = |id: &TensorId| {
        let (tensor, place, _) = plan.lookup(*id)?;
        let operand = plan.operand(*id);
        if operand.extent().is_some_and(|bytes| bytes <= place.bytes) {
            return Ok(operand);
        }
        let reason =
            format!("is {} and does not fit in the {} bytes allocated for it", tensor.spec, place.bytes);
        Err(Error::tensor(&tensor.name, reason))
    };
    let inputs = graph_node.inputs.iter().map(operand).collect::<Result<Vec<_>>>()?;
    let outputs = graph_node.outputs.iter().map(operand).collect::<Result<Vec<_>>>()?;
    let wanted = &node.implementation.scratch;
    if node.scratch.len() != wanted.len()
        || node.scratch.iter().zip(wanted).any(|(p, bytes)| p.bytes < *bytes)
    {
        return Err(Error::tensor(
            &graph_node.name,
            format!("has less scratch memory than the required {wanted:?} bytes"),
        ));
    }
    Ok(Checks::of(&node.implementation, &inputs, &outputs, gpu.profile()))
}

/// The kernels of a dispatch, and the form in which they are compiled; `None` without kernels.
fn form<'a>(
    plan: &'a Plan,
    dispatch: &'a planned::Dispatch,
    checks: &[Checks],
) -> Option<(Form<'a>, Vec<&'a Kernel>)> {
    let kernel = |member: &Member| plan.nodes.get(member.node)?.implementation.kernels.get(member.kernel);
    let kernels = dispatch.members.iter().map(kernel).collect::<Option<Vec<_>>>()?;
    let first = dispatch.members.first()?;
    let arrays = dispatch.grouped.then_some(dispatch.arrays.as_slice());
    let form = Form { kernel: *kernels.first()?, checks: *checks.get(first.node)?, arrays };
    Some((form, kernels))
}

impl Session {
    /// Allocates the plan's buffers and compiles its kernels. With `regions`, it shares the memory
    /// of another session with the same layout. `progress` is called with (prepared nodes, total
    /// nodes).
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the device has too little memory, [`Error::Kernel`] if the driver
    /// rejects a kernel, [`Error::Tensor`] if a tensor of the plan has no memory or too little,
    /// [`Error::Config`] if `regions` has another layout or is of another device.
    pub async fn new(
        gpu: &Gpu,
        plan: Arc<Plan>,
        regions: Option<Arc<Regions>>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        let regions = match regions {
            Some(regions) if regions.layout == plan.layout => regions,
            Some(_) => return Err(Error::Config("sessions that share memory must share the layout".into())),
            None => Arc::new(Regions::new(gpu, &plan).await?),
        };
        gpu.require_own(&regions.gpu)?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let mut buffers = BTreeMap::new();
        for (store, bytes) in &plan.stores {
            if !matches!(store, Store::Region(_)) {
                buffers.insert(*store, gpu.buffer(&format!("{store:?}"), *bytes, usage).await?);
            }
        }
        let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let step = gpu.buffer("step", Step::BYTES, uniform).await?;
        let mut session = Self {
            gpu: gpu.clone(),
            plan: Arc::clone(&plan),
            regions,
            buffers,
            step,
            dispatches: Vec::new(),
            preparation: Vec::new(),
            prepared: None,
            runs: 0,
            idle: Vec::new(),
            pending: VecDeque::new(),
            watch: None,
            most_work: gpu.profile().class.work_of_a_submission(),
        };
        for (id, tensor) in plan.graph.tensors() {
            if let Role::Constant(values) = &tensor.role {
                session.write(id, values)?;
            }
        }
        let checks = plan.nodes.iter().map(|node| checks(gpu, &plan, node)).collect::<Result<Vec<_>>>()?;
        let total = plan.preparation.len() + plan.dispatches.len();
        let mut prepared = Vec::with_capacity(total);
        let all: Vec<&planned::Dispatch> = plan.preparation.iter().chain(&plan.dispatches).collect();
        // Enough dispatches for all cores, few enough for frequent progress.
        for part in all.chunks(32) {
            #[cfg(not(target_arch = "wasm32"))]
            gpu.compile_together(part.iter().filter_map(|dispatch| Some(form(&plan, dispatch, &checks)?.0)))?;
            for dispatch in part {
                if let Some(dispatch) = session.prepare(&plan, dispatch, &checks).await? {
                    prepared.push(dispatch);
                }
                progress(prepared.len(), total);
            }
        }
        session.dispatches = prepared.split_off(plan.preparation.len().min(prepared.len()));
        session.preparation = prepared;
        gpu.check("preparing a session")?;
        Ok(session)
    }

    /// Compiles and binds a dispatch.
    async fn prepare(
        &self,
        plan: &Plan,
        dispatch: &planned::Dispatch,
        checks: &[Checks],
    ) -> Result<Option<Dispatch>> {
        let Some((form, kernels)) = form(plan, dispatch, checks) else { return Ok(None) };
        let kernel = form.kernel;
        let pipeline = self.gpu.pipeline_in(form).await?;
        let binding = |window: &Window| {
            let Window { store, range } = window;
            let size = std::num::NonZeroU64::new(range.end - range.start);
            Ok(wgpu::BufferBinding { buffer: self.store(*store)?, offset: range.start, size })
        };
        let bindings = dispatch.windows.iter().map(binding).collect::<Result<Vec<_>>>()?;
        let problems = kernels.iter().zip(&dispatch.bases);
        let problems: Vec<Problem<'_>> =
            problems.map(|(kernel, bases)| Problem { kernel, bases: bases.clone() }).collect();
        let (values, groups) = if dispatch.grouped {
            (table(&problems), grid(kernels.iter().map(|kernel| workgroups(kernel)).sum()))
        } else {
            (pipeline.values(kernel), kernel.groups)
        };
        let scope = self.gpu.device().push_error_scope(wgpu::ErrorFilter::Validation);
        let group = self.gpu.bind(&kernel.label, &pipeline, &bindings, &values, &self.step);
        if let Some(error) = scope.pop().await {
            return Err(Error::refused(&kernel.label, error));
        }
        let nodes = dispatch.members.iter().filter_map(|member| plan.nodes.get(member.node));
        let work = nodes.map(|node| work(plan, node)).sum();
        let node = dispatch.members.first().and_then(|member| plan.nodes.get(member.node));
        let node = node.map(|node| node.node).ok_or(Error::Interrupted)?;
        Ok(Some(Dispatch { node, members: dispatch.members.clone(), pipeline, group, groups, work }))
    }

    /// Splits runs into submissions of up to `multiply_adds`, instead of the default of the
    /// adapter's class. A dispatch is never split.
    pub fn limit_submissions(&mut self, multiply_adds: u64) {
        self.most_work = multiply_adds;
    }

    pub(super) fn buffer(&self, place: Place) -> Result<&wgpu::Buffer> {
        self.store(place.store)
    }

    fn store(&self, store: Store) -> Result<&wgpu::Buffer> {
        match store {
            Store::Region(region) => self.regions.buffer(region),
            store => {
                let missing = || Error::tensor(format!("{store:?}"), "does not exist in this session");
                self.buffers.get(&store).ok_or_else(missing)
            }
        }
    }

    /// The device.
    pub(crate) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The persistent memory.
    pub fn regions(&self) -> &Arc<Regions> {
        &self.regions
    }

    /// Dispatches per run.
    pub fn dispatch_count(&self) -> usize {
        self.dispatches.len()
    }

    /// Writes an input of [`Plan::graph`] for the next run, rounded to f16 if stored as such.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the size differs.
    pub fn write(&self, tensor: TensorId, values: &[f32]) -> Result<()> {
        let element = self.plan.lookup(tensor)?.0.spec.element;
        self.write_bytes(tensor, values.len(), encode(element, values).bytes())
    }

    /// Writes an input of u32 for the next run, as [`Session::write`].
    ///
    /// # Errors
    /// [`Error::Tensor`] if the size differs.
    pub fn write_labels(&self, tensor: TensorId, values: &[u32]) -> Result<()> {
        self.write_bytes(tensor, values.len(), bytemuck::cast_slice(values))
    }

    fn write_bytes(&self, id: TensorId, count: usize, bytes: &[u8]) -> Result<()> {
        let (tensor, place, _) = self.plan.lookup(id)?;
        if count != tensor.spec.shape.volume() || bytes.len() != tensor.spec.bytes() {
            let reason = format!("is {} and cannot receive {}", tensor.spec, plural(count, "value"));
            return Err(Error::tensor(&tensor.name, reason));
        }
        // Writes are multiples of 4 bytes; the padding after an odd number of f16 is unused.
        let (whole, rest) = bytes.split_at(bytes.len() / 4 * 4);
        let (queue, buffer) = (self.gpu.queue(), self.buffer(place)?);
        queue.write_buffer(buffer, place.offset, whole);
        if !rest.is_empty() {
            let mut word = [0; 4];
            word[..rest.len()].copy_from_slice(rest);
            queue.write_buffer(buffer, place.offset + whole.len() as u64, &word);
        }
        Ok(())
    }

    /// Submits a run of the whole plan and starts reading back its scalars. Returns immediately,
    /// with the [`Metrics::run`] of the run.
    ///
    /// # Errors
    /// Errors that the driver reported since the last call.
    pub fn submit(&mut self, step: &Step) -> Result<u64> {
        self.submit_nodes(step, 0..usize::MAX, true)?;
        Ok(self.runs - 1)
    }

    /// Submits a range of nodes of [`Plan::graph`]; consecutive ranges are equivalent to a whole
    /// run. With `send`, they count as a run and its scalars are read back.
    ///
    /// # Errors
    /// Errors that the driver reported since the last call.
    pub fn submit_nodes(&mut self, step: &Step, nodes: Range<usize>, send: bool) -> Result<()> {
        self.gpu.queue().write_buffer(&self.step, 0, &step.bytes());
        let version = self.regions.version();
        let stale = self.prepared != Some(version);
        let preparation = self.preparation.iter().filter(|_| stale);
        let running = self.dispatches.iter().filter(|d| nodes.contains(&d.node.index()));
        let wanted: Vec<&Dispatch> = preparation.chain(running).collect();
        if self.plan.changes_weights {
            self.regions.change();
        }
        let mut encoder = None;
        let mut rest = wanted.as_slice();
        while encoder.is_none() || !rest.is_empty() {
            if let Some(full) = encoder.take() {
                self.gpu.submit(full);
            }
            let first = rest.len() == wanted.len();
            let (now, later) = rest.split_at(fitting(rest, self.most_work));
            rest = later;
            encoder = Some(self.record(now, send.then_some((first, later.is_empty()))));
        }
        self.prepared = Some(version);
        let Some(mut encoder) = encoder else { return Ok(()) };
        if !send {
            self.gpu.submit(encoder);
            return self.gpu.check("a segment");
        }
        let run = self.runs;
        self.runs += 1;
        let Some(metrics) = self.buffers.get(&Store::Metrics).cloned() else {
            self.gpu.submit(encoder);
            return self.gpu.check("a run");
        };
        let ticks = if self.watch.is_some() { TICKS } else { 0 };
        let buffer = self.idle.pop().unwrap_or_else(|| {
            self.gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("metrics read-back"),
                size: metrics.size() + ticks,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        encoder.copy_buffer_to_buffer(&metrics, 0, &buffer, 0, metrics.size());
        if let Some(Watch { queries, resolved, .. }) = &self.watch {
            encoder.resolve_query_set(queries, 0..2, resolved, 0);
            encoder.copy_buffer_to_buffer(resolved, 0, &buffer, metrics.size(), TICKS);
        }
        let submission = self.gpu.submit(encoder);
        let mapping = self.gpu.map(&buffer, buffer.size());
        self.pending.push_back(Pending { run, buffer, mapping, submission });
        self.gpu.check("a run")
    }

    /// Encodes the dispatches of a submission. For a watched run, `ends` is (first submission, last
    /// submission).
    fn record(&self, dispatches: &[&Dispatch], ends: Option<(bool, bool)>) -> wgpu::CommandEncoder {
        let mut encoder =
            self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let watched = self.watch.as_ref().zip(ends).filter(|(_, (first, last))| *first || *last);
        let timestamp_writes = watched.map(|(watch, (first, last))| wgpu::ComputePassTimestampWrites {
            query_set: &watch.queries,
            beginning_of_pass_write_index: first.then_some(0),
            end_of_pass_write_index: last.then_some(1),
        });
        let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
        let mut pass = encoder.begin_compute_pass(&descriptor);
        dispatches.iter().for_each(|dispatch| dispatch.record(&mut pass));
        drop(pass);
        self.gpu.count_dispatches(dispatches.len());
        encoder
    }

    /// The scalars of finished runs, oldest first, without waiting.
    ///
    /// # Errors
    /// [`Error::Driver`] if reading failed, [`Error::DeviceLost`] or [`Error::OutOfMemory`] if that
    /// was the cause.
    pub fn arrived(&mut self) -> Result<Vec<Metrics>> {
        #[cfg(not(target_arch = "wasm32"))]
        self.gpu.poll()?;
        let mut arrived = Vec::new();
        while let Some(first) = self.pending.front() {
            let Poll::Ready(result) = first.mapping.poll(None) else { break };
            arrived.push(self.take(result)?);
        }
        Ok(arrived)
    }

    /// Takes the scalars of the oldest pending run.
    fn take(&mut self, result: Result<(), String>) -> Result<Metrics> {
        let Some(first) = self.pending.pop_front() else { return Err(Error::Interrupted) };
        let read = result.and_then(|()| take_mapped(&first.buffer, first.buffer.size()));
        let bytes = read.map_err(|reason| self.gpu.driver("reading metrics", reason))?;
        let metrics = self.buffers.get(&Store::Metrics).map_or(0, wgpu::Buffer::size);
        let (bytes, ticks) = bytes.split_at(bytes.len().min(usize::try_from(metrics).unwrap_or(usize::MAX)));
        if let (Some(watch), [start, end]) =
            (&mut self.watch, bytemuck::pod_collect_to_vec::<u8, u64>(ticks).as_slice())
        {
            let period = f64::from(self.gpu.queue().get_timestamp_period()) * 1e-9;
            watch.seconds += end.saturating_sub(*start) as f64 * period;
        }
        let words: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
        let stride = usize::try_from(METRIC_STRIDE / 4).unwrap_or(1);
        let values = words.iter().step_by(stride).take(self.plan.metric_count()).copied().collect();
        let ticks = if self.watch.is_some() { TICKS } else { 0 };
        if first.buffer.size() == metrics + ticks {
            self.idle.push(first.buffer);
        }
        Ok(Metrics { run: first.run, values })
    }

    /// Waits until at most `limit` runs are pending, and returns the scalars of finished runs,
    /// oldest first. With a small limit above zero the device stays busy and the host does not run
    /// far ahead.
    ///
    /// # Errors
    /// [`Error::Driver`] if reading failed, [`Error::DeviceLost`] or [`Error::OutOfMemory`] if that
    /// was the cause.
    pub async fn settle(&mut self, limit: usize) -> Result<Vec<Metrics>> {
        let mut arrived = self.arrived()?;
        while self.pending.len() > limit {
            let Some(first) = self.pending.front() else { break };
            let result = self.gpu.arrival(&first.mapping, Some(&first.submission)).await;
            arrived.push(self.take(result)?);
        }
        self.gpu.check("a run")?;
        Ok(arrived)
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// Errors that the driver reported since the last call.
    pub async fn wait(&self) -> Result<()> {
        self.gpu.finished().await
    }

    /// Runs the whole plan once with one pass per dispatch, and returns the timing of each in
    /// order. It has the effects of a run, but no scalars are read back.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn profile(&self, step: &Step, clock: Clock) -> Result<Vec<DispatchTime>> {
        self.gpu.queue().write_buffer(&self.step, 0, &step.bytes());
        let preparation: Vec<&Dispatch> = self.preparation.iter().collect();
        self.gpu.submit(self.record(&preparation, None));
        let record = |i: usize, pass: &mut wgpu::ComputePass<'_>| self.dispatches[i].record(pass);
        let intervals = self.gpu.time(clock, self.dispatches.len(), record).await?;
        self.gpu.check("a profiled run")?;
        let time =
            |(d, interval): (&Dispatch, Interval)| DispatchTime { members: d.members.clone(), interval };
        Ok(self.dispatches.iter().zip(intervals).map(time).collect())
    }

    /// Starts measuring the device's busy time in runs with scalars, by two timestamps per run.
    /// Returns whether the device supports timestamps.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the device has too little memory.
    pub async fn watch(&mut self) -> Result<bool> {
        if self.gpu.clock() != Clock::Device {
            return Ok(false);
        }
        let queries = self.gpu.device().create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("run"),
            ty: wgpu::QueryType::Timestamp,
            count: 2,
        });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = self.gpu.buffer("run", TICKS, usage).await?;
        // Existing staging buffers have no room for timestamps.
        self.idle.clear();
        self.watch = Some(Watch { queries, resolved, seconds: 0.0 });
        Ok(true)
    }

    /// Busy seconds of the device in runs whose scalars have arrived since [`Session::watch`];
    /// `None` if not watched.
    pub fn busy_seconds(&self) -> Option<f64> {
        self.watch.as_ref().map(|watch| watch.seconds)
    }

    /// Reads an output tensor of [`Plan::graph`], dense and as f32, after all runs submitted
    /// before.
    ///
    /// # Errors
    /// [`Error::Driver`] if it cannot be read, [`Error::DeviceLost`] or [`Error::OutOfMemory`] if
    /// that was the cause.
    pub async fn read(&self, tensor: TensorId) -> Result<Vec<f32>> {
        let reading = self.send(tensor).await?;
        self.receive(reading).await
    }

    /// Starts reading an output tensor of [`Plan::graph`], after all runs submitted before. More
    /// runs can be submitted meanwhile.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the device has too little memory.
    pub async fn send(&self, tensor: TensorId) -> Result<Reading> {
        let (tensor, place, view) = self.plan.lookup(tensor)?;
        let download = self.gpu.begin_download(self.buffer(place)?, place.offset, place.bytes).await?;
        Ok(Reading { gpu: self.gpu.clone(), spec: tensor.spec.clone(), view, download })
    }

    /// Waits for a started read, but not for later runs; dense and as f32.
    ///
    /// # Errors
    /// [`Error::Config`] if it was started by a session on another device, [`Error::Driver`] if it
    /// cannot be read, [`Error::DeviceLost`] or [`Error::OutOfMemory`] if that was the cause.
    pub async fn receive(&self, reading: Reading) -> Result<Vec<f32>> {
        let Reading { gpu, spec, view, download } = reading;
        self.gpu.require_own(&gpu)?;
        let bytes = self.gpu.end_download(download).await?;
        let values = decode(spec.element, &bytes);
        let item = spec.shape.item().max(1);
        let at = |i: usize| values[view.offset + i / item * view.batch_stride + i % item];
        Ok((0..spec.shape.volume()).map(at).collect())
    }
}
