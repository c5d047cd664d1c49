//! Runs a single implementation of an operation on given inputs, to check a kernel against the CPU
//! reference in tests and before tuning.

use std::ops::Range;
use std::sync::Arc;

use web_time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::gpu::element::{decode, encode};
use crate::gpu::{Checks, Gpu, Pipeline};
use crate::graph::{Alias, Operation};
use crate::kernel::{Binding, Cooperative, Implementation, Operand, Operands, Profile, Slot, Step};
use crate::ops::offers;
use crate::reference::Array;
use crate::tensor::{Element, Spec};
use crate::text::plural;

/// Content of guard regions around and between the items of tensors, and of scratch memory before a
/// run: a NaN in f32, and two in f16, which spoils any result that it gets into. Kernels must not
/// write outside their outputs.
const GUARD_WORD: u32 = 0x7fc5_7ea5;

/// Bytes of the guard regions before and after each binding; a multiple of every binding alignment.
const GUARD: u64 = 64 << 10;

/// An operation with its operands, ready to run.
#[derive(Debug)]
pub struct Trial<'a> {
    op: &'a dyn Operation,
    inputs: Vec<Operand>,
    outputs: Vec<Operand>,
    aliases: Vec<Alias>,
    /// Cooperative matrices under test.
    candidate: Option<Cooperative>,
}

/// The outputs of a run.
#[derive(Debug)]
pub struct TrialOutput {
    /// The operation's outputs.
    pub arrays: Vec<Array<f32>>,
    /// Whether every element outside the tensors kept its value.
    pub intact: bool,
}

impl<'a> Trial<'a> {
    /// Prepares an operation. With `pad` above zero, activations (4-D tensors) are windows of
    /// larger tensors, with `pad` elements before and after each batch item.
    ///
    /// # Errors
    /// [`Error::Layer`] if the operation does not support these inputs.
    pub fn new(op: &'a dyn Operation, inputs: &[Spec], pad: usize) -> Result<Self> {
        let specs: Vec<&Spec> = inputs.iter().collect();
        let outputs = op.infer(&specs).map_err(|reason| Error::Layer {
            layer: "trial".into(),
            operation: op.name(),
            reason,
        })?;
        let operand = |spec: &Spec| {
            let mut operand = Operand::dense(spec.clone());
            // Parameters are never windows, nor are tensors that could not be a channel slice of a
            // concat.
            if pad > 0 && spec.shape.rank() == 4 && spec.element != Element::U32 {
                operand.offset = pad;
                operand.batch_stride += 2 * pad;
            }
            operand
        };
        Ok(Self {
            op,
            inputs: inputs.iter().map(operand).collect(),
            outputs: outputs.iter().map(operand).collect(),
            aliases: op.aliases(&specs),
            candidate: None,
        })
    }

    /// Enables kernels on untested cooperative matrices.
    pub(super) fn on(mut self, candidate: Cooperative) -> Self {
        self.candidate = Some(candidate);
        self
    }

    /// Prepares an operation on a plan's operands.
    pub fn of(op: &'a dyn Operation, inputs: Vec<Operand>, outputs: Vec<Operand>) -> Self {
        let specs: Vec<&Spec> = inputs.iter().map(|o| &o.spec).collect();
        let aliases = op.aliases(&specs);
        Self { op, inputs, outputs, aliases, candidate: None }
    }

    /// Makes input `index` dense, for 4-D parameters, which are never windows.
    #[must_use]
    pub fn dense_input(mut self, index: usize) -> Self {
        self.inputs[index] = Operand::dense(self.inputs[index].spec.clone());
        self
    }

    /// Makes output `index` dense, for gradients of parameters.
    #[must_use]
    pub fn dense_output(mut self, index: usize) -> Self {
        self.outputs[index] = Operand::dense(self.outputs[index].spec.clone());
        self
    }

    /// Input operands.
    pub fn inputs(&self) -> &[Operand] {
        &self.inputs
    }

    /// Output operands.
    pub fn outputs(&self) -> &[Operand] {
        &self.outputs
    }

    /// The implementations for these operands that fit the device.
    pub fn implementations(&self, gpu: &Gpu) -> Vec<Implementation> {
        let operands = Operands { layer: "trial", inputs: &self.inputs, outputs: &self.outputs };
        let mut list = offers(self.op, &operands, gpu.profile());
        list.retain(|i| i.fits(gpu.profile()));
        list
    }

    /// Runtime checks that an implementation needs on these operands.
    pub(crate) fn checks(&self, gpu: &Gpu, implementation: &Implementation) -> Checks {
        let profile = gpu.profile();
        let cooperative = self.candidate.or(profile.cooperative);
        let profile = Profile { cooperative, ..profile.clone() };
        Checks::of(implementation, &self.inputs, &self.outputs, &profile)
    }

    /// Checks the inputs' shapes, and that batch items of operands do not overlap or overflow.
    fn check(&self, inputs: &[&Array<f32>]) -> Result<()> {
        let at_fault = |reason| Err(Error::tensor("trial", reason));
        if inputs.len() != self.inputs.len() {
            return at_fault(format!("has {}, not {}", plural(self.inputs.len(), "input"), inputs.len()));
        }
        for (operand, array) in self.inputs.iter().zip(inputs) {
            if operand.volume() != array.data.len() {
                return at_fault(format!("expects {}, not {} values", operand.spec, array.data.len()));
            }
        }
        for operand in self.inputs.iter().chain(&self.outputs) {
            let (end, bytes) = (operand.extent(), binding_words(operand).checked_mul(4));
            let fits = |end| bytes.is_some_and(|bytes| end <= bytes as u64);
            if !end.is_some_and(fits) {
                return at_fault(format!(
                    "cannot place {} at offset {} with batch stride {}",
                    operand.spec, operand.offset, operand.batch_stride
                ));
            }
        }
        Ok(())
    }

    /// Runs one implementation on these inputs.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the inputs do not have the trial's shapes or an operand's placement is
    /// invalid, [`Error::Kernel`] if the driver rejects a kernel, [`Error::Driver`] if it fails.
    pub async fn run(
        &self,
        gpu: &Gpu,
        implementation: &Implementation,
        inputs: &[&Array<f32>],
        step: &Step,
    ) -> Result<TrialOutput> {
        let mut pool = Pool::default();
        let stage = Stage::new(gpu, &mut pool, self, inputs, step).await?;
        Ok(stage.run(gpu, &mut pool, implementation).await?.0)
    }
}

/// Pool of unused buffers.
#[derive(Debug, Default)]
pub(crate) struct Pool(Vec<wgpu::Buffer>);

impl Pool {
    /// A buffer of at least `bytes` with arbitrary content. If none fits, the pool is freed first:
    /// memory is needed for one trial at a time.
    async fn take(&mut self, gpu: &Gpu, bytes: u64) -> Result<wgpu::Buffer> {
        let fits = |b: &&wgpu::Buffer| b.size() >= bytes && b.size() / 2 <= bytes;
        let best = self.0.iter().filter(fits).min_by_key(|b| b.size()).cloned();
        if let Some(buffer) = best {
            self.0.retain(|b| *b != buffer);
            return Ok(buffer);
        }
        self.0.clear();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        gpu.buffer("trial", bytes, usage).await
    }

    fn give(&mut self, buffers: impl IntoIterator<Item = Guarded>) {
        self.0.extend(buffers.into_iter().map(|b| b.buffer));
    }
}

/// A binding between two guard regions.
#[derive(Debug)]
struct Guarded {
    buffer: wgpu::Buffer,
    bytes: u64,
}

impl Guarded {
    async fn new(gpu: &Gpu, pool: &mut Pool, words: usize) -> Result<Self> {
        let bytes = 4 * words as u64;
        let limit = gpu.profile().buffer;
        if bytes + 2 * GUARD > limit {
            let advice = "a trial also needs guard regions around it".to_string();
            return Err(Error::TooLarge { tensor: "trial".into(), needed: bytes + 2 * GUARD, limit, advice });
        }
        Ok(Self { buffer: pool.take(gpu, bytes + 2 * GUARD).await?, bytes })
    }

    /// Writes the binding and its guard regions.
    fn write(&self, gpu: &Gpu, words: &[u32]) {
        let guard = vec![GUARD_WORD; usize::try_from(GUARD / 4).unwrap_or(0)];
        for (offset, part) in [(0, &guard[..]), (GUARD, words), (GUARD + self.bytes, &guard[..])] {
            gpu.queue().write_buffer(&self.buffer, offset, bytemuck::cast_slice(part));
        }
    }

    /// Size with guard regions in bytes.
    fn size(&self) -> u64 {
        self.bytes + 2 * GUARD
    }

    /// The binding of a kernel: a range, or everything including the guard region after it. Many
    /// drivers discard accesses past a binding, which would hide errors of a kernel.
    fn binding(&self, gpu: &Gpu, range: Option<Range<u64>>) -> wgpu::BufferBinding<'_> {
        let all = (self.bytes + GUARD).min(gpu.profile().binding).max(self.bytes);
        let range = range.unwrap_or(0..all);
        let size = std::num::NonZeroU64::new((range.end - range.start).next_multiple_of(4));
        wgpu::BufferBinding { buffer: &self.buffer, offset: GUARD + range.start, size }
    }
}

/// A trial with its inputs on the device, on which implementations run in turn.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    trial: &'a Trial<'a>,
    inputs: Vec<Guarded>,
    /// Content of the outputs before a run.
    before: Vec<Guarded>,
    outputs: Vec<Guarded>,
    step: wgpu::Buffer,
}

/// An implementation that ran on a stage and can run again.
#[derive(Debug)]
pub(crate) struct Prepared {
    dispatches: Vec<(Arc<Pipeline>, wgpu::BindGroup, [u32; 3])>,
    scratch: Vec<Guarded>,
}

impl Prepared {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        for (pipeline, group, [x, y, z]) in &self.dispatches {
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(*x, *y, *z);
        }
    }

    /// Mean time of `repetitions` consecutive runs.
    pub(crate) async fn time(&self, gpu: &Gpu, repetitions: u32) -> Result<Duration> {
        let begin = Instant::now();
        let fill = |_, pass: &mut wgpu::ComputePass<'_>| (0..repetitions).for_each(|_| self.encode(pass));
        let intervals = gpu.time(gpu.clock(), 1, fill).await?;
        let waited = begin.elapsed();
        gpu.check("a trial")?;
        let measured = intervals.first().map_or(Duration::ZERO, |i| Duration::from_secs_f64(i.seconds));
        // Some drivers support timestamps but leave them zero or use other units than reported.
        let time = if measured.is_zero() || measured > waited { waited } else { measured };
        Ok(time / repetitions.max(1))
    }

    /// Returns its buffers to the pool.
    pub(crate) fn release(self, pool: &mut Pool) {
        pool.give(self.scratch);
    }
}

impl<'a> Stage<'a> {
    /// Uploads the inputs to the device.
    ///
    /// # Errors
    /// [`Error::Tensor`] if they do not have the trial's shapes or an operand's placement is
    /// invalid, [`Error::OutOfMemory`] or [`Error::TooLarge`] if they do not fit.
    pub(crate) async fn new(
        gpu: &Gpu,
        pool: &mut Pool,
        trial: &'a Trial<'a>,
        inputs: &[&Array<f32>],
        step: &Step,
    ) -> Result<Self> {
        trial.check(inputs)?;
        let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let step_buffer = gpu.buffer("step", Step::BYTES, uniform).await?;
        gpu.queue().write_buffer(&step_buffer, 0, &step.bytes());
        let mut stage =
            Self { trial, inputs: Vec::new(), before: Vec::new(), outputs: Vec::new(), step: step_buffer };
        for (operand, array) in trial.inputs.iter().zip(inputs) {
            stage.inputs.push(upload(gpu, pool, operand, Some(array)).await?);
        }
        for (i, operand) in trial.outputs.iter().enumerate() {
            let source = trial.aliases.iter().find_map(|a| match a {
                Alias::InPlace { output, input } if *output == i => inputs.get(*input).copied(),
                _ => None,
            });
            stage.before.push(upload(gpu, pool, operand, source).await?);
            stage.outputs.push(Guarded::new(gpu, pool, binding_words(operand)).await?);
        }
        Ok(stage)
    }

    /// Runs an implementation once, from the same initial state as any other.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the driver refuses a kernel, [`Error::Driver`] if it fails.
    pub(crate) async fn run(
        &self,
        gpu: &Gpu,
        pool: &mut Pool,
        implementation: &Implementation,
    ) -> Result<(TrialOutput, Prepared)> {
        let (prepared, guards) = self.submit(gpu, pool, implementation).await?;
        let mut output = TrialOutput { arrays: Vec::new(), intact: true };
        for (operand, block) in self.trial.outputs.iter().zip(&self.outputs) {
            let (array, intact) = unpack(operand, &read(gpu, &block.buffer, GUARD, block.bytes).await?);
            output.arrays.push(array);
            output.intact &= intact;
        }
        output.intact &= is_unchanged(&read(gpu, &guards, 0, guards.size()).await?);
        gpu.check("a trial")?;
        Ok((output, prepared))
    }

    /// Submits a run; the guard regions are copied to one buffer.
    async fn submit(
        &self,
        gpu: &Gpu,
        pool: &mut Pool,
        implementation: &Implementation,
    ) -> Result<(Prepared, wgpu::Buffer)> {
        let mut scratch = Vec::new();
        for bytes in &implementation.scratch {
            let words = usize::try_from(bytes.div_ceil(4)).unwrap_or(usize::MAX);
            let block = Guarded::new(gpu, pool, words).await?;
            block.write(gpu, &vec![GUARD_WORD; words]);
            scratch.push(block);
        }
        let checks = self.trial.checks(gpu, implementation);
        let mut pipelines = Vec::new();
        for kernel in &implementation.kernels {
            pipelines.push(gpu.pipeline_with(kernel, checks).await?);
        }
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let blocks = self.inputs.len() + self.outputs.len() + scratch.len();
        let guards = gpu.buffer("guards", 2 * GUARD * blocks as u64, usage).await?;

        let scope = gpu.device().push_error_scope(wgpu::ErrorFilter::Validation);
        let prepared = self.record(gpu, implementation, pipelines, scratch, &guards);
        let refused = scope.pop();
        if let Some(error) = refused.await {
            let kernel = implementation.kernels.first().map_or_else(String::new, |k| k.label.clone());
            return Err(Error::refused(&kernel, error));
        }
        Ok((prepared?, guards))
    }

    /// Binds and submits what [`Stage::submit`] has prepared, without waiting.
    fn record(
        &self,
        gpu: &Gpu,
        implementation: &Implementation,
        pipelines: Vec<Arc<Pipeline>>,
        scratch: Vec<Guarded>,
        guards: &wgpu::Buffer,
    ) -> Result<Prepared> {
        let mut dispatches = Vec::new();
        for (kernel, pipeline) in implementation.kernels.iter().zip(pipelines) {
            let bound = |binding: &Binding| {
                let block = match binding.slot {
                    Slot::Input(i) => self.inputs.get(i),
                    Slot::Output(i) => self.outputs.get(i),
                    Slot::Scratch(i) => scratch.get(i),
                };
                let block = block.ok_or_else(|| kernel.unbound(binding))?;
                let range = kernel.bound(binding, block.bytes)?;
                Ok(block.binding(gpu, binding.range.is_some().then_some(range)))
            };
            let bindings = kernel.bindings.iter().map(bound).collect::<Result<Vec<_>>>()?;
            let values = pipeline.values(kernel);
            let group = gpu.bind(&kernel.label, &pipeline, &bindings, &values, &self.step);
            let grid = pipeline.grid(kernel);
            dispatches.push((pipeline, group, grid));
        }
        let prepared = Prepared { dispatches, scratch };
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (before, output) in self.before.iter().zip(&self.outputs) {
            encoder.copy_buffer_to_buffer(&before.buffer, 0, &output.buffer, 0, output.size());
        }
        prepared.encode(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        let all = || self.inputs.iter().chain(&self.outputs).chain(&prepared.scratch);
        for (i, block) in all().enumerate() {
            let to = 2 * GUARD * i as u64;
            encoder.copy_buffer_to_buffer(&block.buffer, 0, guards, to, GUARD);
            encoder.copy_buffer_to_buffer(&block.buffer, GUARD + block.bytes, guards, to + GUARD, GUARD);
        }
        gpu.submit(encoder);
        Ok(prepared)
    }

    /// Returns its buffers to the pool.
    pub(crate) fn release(self, pool: &mut Pool) {
        pool.give(self.inputs.into_iter().chain(self.before).chain(self.outputs));
    }
}

async fn read(gpu: &Gpu, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u32>> {
    let bytes = gpu.download(buffer, offset, bytes).await?;
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

fn is_unchanged(words: &[u32]) -> bool {
    words.iter().all(|word| *word == GUARD_WORD)
}

/// Size of an operand's binding in 32-bit words.
fn binding_words(operand: &Operand) -> usize {
    let batch = operand.dims().first().copied().unwrap_or(1);
    let elements = batch.saturating_mul(operand.batch_stride);
    elements.saturating_mul(operand.spec.element.size()).div_ceil(4).max(1)
}

/// Dense byte ranges of the operand's elements in its binding.
fn ranges(operand: &Operand) -> impl Iterator<Item = Range<usize>> {
    let (offset, stride, item) = (operand.offset, operand.batch_stride, operand.spec.shape.item());
    let size = operand.spec.element.size();
    let (count, length) = if operand.is_dense() {
        (1, operand.volume())
    } else {
        (operand.dims().first().copied().unwrap_or(1), item)
    };
    (0..count).map(move |i| size * (offset + i * stride)..size * (offset + i * stride + length))
}

async fn upload(
    gpu: &Gpu,
    pool: &mut Pool,
    operand: &Operand,
    array: Option<&Array<f32>>,
) -> Result<Guarded> {
    let mut words = vec![GUARD_WORD; binding_words(operand)];
    if let Some(array) = array {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        let encoded = encode(operand.spec.element, &array.data);
        let mut values = encoded.bytes();
        for stretch in ranges(operand) {
            let (now, later) = values.split_at(stretch.len().min(values.len()));
            bytes[stretch][..now.len()].copy_from_slice(now);
            values = later;
        }
    }
    let block = Guarded::new(gpu, pool, words.len()).await?;
    block.write(gpu, &words);
    Ok(block)
}

/// The elements, and whether everything else is unchanged.
fn unpack(operand: &Operand, words: &[u32]) -> (Array<f32>, bool) {
    let bytes: &[u8] = bytemuck::cast_slice(words);
    let guard = GUARD_WORD.to_ne_bytes();
    let unchanged = |range: Range<usize>| range.into_iter().all(|i| bytes[i] == guard[i % 4]);
    let mut data = Vec::with_capacity(operand.volume());
    let (mut intact, mut end) = (true, 0);
    for stretch in ranges(operand) {
        intact &= unchanged(end..stretch.start);
        end = stretch.end;
        data.extend(decode(operand.spec.element, &bytes[stretch]));
    }
    intact &= unchanged(end..bytes.len());
    (Array::new(operand.dims(), data), intact)
}
