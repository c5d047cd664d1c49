//! Runs one implementation of one operation by itself, on given numbers: how a kernel is checked
//! against its CPU twin, in tests and before a kernel may be chosen by measurement.

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

/// What lies around and between the items of tensors, and in scratch memory before a run: a NaN,
/// and two as f16, so that a kernel which lets any of it into a result cannot hide it. Kernels must
/// leave what is outside of their outputs as it is.
const CANARY: u32 = 0x7fc5_7ea5;

/// Bytes of canaries before and after each binding. A multiple of every alignment of bindings.
const GUARD: u64 = 64 << 10;

/// An operation with its input shapes, ready to run.
#[derive(Debug)]
pub struct Trial<'a> {
    op: &'a dyn Operation,
    inputs: Vec<Operand>,
    outputs: Vec<Operand>,
    aliases: Vec<Alias>,
    /// Matrices of the device that have not passed their test yet.
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
    /// Prepares an operation. With `pad` above zero, activations (tensors of rank four) lie as
    /// windows in larger tensors, with that many elements before and after each item of the batch.
    ///
    /// # Errors
    /// [`Error::Layer`] if the operation cannot work on these inputs.
    pub fn new(op: &'a dyn Operation, inputs: &[Spec], pad: usize) -> Result<Self> {
        let specs: Vec<&Spec> = inputs.iter().collect();
        let outputs = op.infer(&specs).map_err(|reason| Error::Layer {
            layer: "trial".into(),
            operation: op.name(),
            reason,
        })?;
        let operand = |spec: &Spec| {
            let mut operand = Operand::dense(spec.clone());
            // Parameters are never windows, and neither is what only one channel slice of a concat
            // could be.
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

    /// Runs kernels on matrices that have not passed their test yet: to test them.
    pub(super) fn on(mut self, candidate: Cooperative) -> Self {
        self.candidate = Some(candidate);
        self
    }

    /// Prepares an operation on operands as they lie in a plan.
    pub fn of(op: &'a dyn Operation, inputs: Vec<Operand>, outputs: Vec<Operand>) -> Self {
        let specs: Vec<&Spec> = inputs.iter().map(|o| &o.spec).collect();
        let aliases = op.aliases(&specs);
        Self { op, inputs, outputs, aliases, candidate: None }
    }

    /// Lays the input number `index` densely again: for parameters of rank four, which are never
    /// windows.
    #[must_use]
    pub fn dense_input(mut self, index: usize) -> Self {
        self.inputs[index] = Operand::dense(self.inputs[index].spec.clone());
        self
    }

    /// Lays the output number `index` densely again: for gradients of parameters.
    #[must_use]
    pub fn dense_output(mut self, index: usize) -> Self {
        self.outputs[index] = Operand::dense(self.outputs[index].spec.clone());
        self
    }

    /// Where the inputs lie.
    pub fn inputs(&self) -> &[Operand] {
        &self.inputs
    }

    /// Where the outputs lie.
    pub fn outputs(&self) -> &[Operand] {
        &self.outputs
    }

    /// The implementations that the operation offers for these operands on this device and that fit
    /// it.
    pub fn implementations(&self, gpu: &Gpu) -> Vec<Implementation> {
        let operands = Operands { layer: "trial", inputs: &self.inputs, outputs: &self.outputs };
        let mut list = offers(self.op, &operands, gpu.profile());
        list.retain(|i| i.fits(gpu.profile()));
        list
    }

    /// What has to be checked while an implementation runs on these operands.
    pub(crate) fn checks(&self, gpu: &Gpu, implementation: &Implementation) -> Checks {
        let profile = gpu.profile();
        let cooperative = self.candidate.or(profile.cooperative);
        let profile = Profile { cooperative, ..profile.clone() };
        Checks::of(implementation, &self.inputs, &self.outputs, &profile)
    }

    /// Refuses inputs of other shapes, and operands whose items lie on top of each other or cannot
    /// be counted.
    fn check(&self, inputs: &[&Array<f32>]) -> Result<()> {
        let at_fault = |reason| Err(Error::tensor("trial", reason));
        if inputs.len() != self.inputs.len() {
            return at_fault(format!("has {} inputs, not {}", self.inputs.len(), inputs.len()));
        }
        for (operand, array) in self.inputs.iter().zip(inputs) {
            if operand.volume() != array.data.len() {
                return at_fault(format!("takes {} and not {} values", operand.spec, array.data.len()));
            }
        }
        for operand in self.inputs.iter().chain(&self.outputs) {
            let (end, bytes) = (operand.extent(), binding_words(operand).checked_mul(4));
            let fits = |end| bytes.is_some_and(|bytes| end <= bytes as u64);
            if !end.is_some_and(fits) {
                return at_fault(format!(
                    "cannot lay {} at {} with a stride of {}",
                    operand.spec, operand.offset, operand.batch_stride
                ));
            }
        }
        Ok(())
    }

    /// Runs one implementation on these inputs.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the inputs do not have the shapes of the trial or an operand does not
    /// lie in memory as kernels expect it, [`Error::Kernel`] if the driver refuses a kernel,
    /// [`Error::Driver`] if it fails.
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

/// Buffers that are not in use, to be used again.
#[derive(Debug, Default)]
pub(crate) struct Pool(Vec<wgpu::Buffer>);

impl Pool {
    /// A buffer of at least `bytes`, with any content. If none fits, those that are not in use go
    /// first: memory is for one trial at a time.
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

/// A binding between two guards.
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
            let advice = "a trial needs room for guards around it".to_string();
            return Err(Error::TooLarge { tensor: "trial".into(), needed: bytes + 2 * GUARD, limit, advice });
        }
        Ok(Self { buffer: pool.take(gpu, bytes + 2 * GUARD).await?, bytes })
    }

    /// Writes the words of the binding, and canaries around them.
    fn write(&self, gpu: &Gpu, words: &[u32]) {
        let guard = vec![CANARY; usize::try_from(GUARD / 4).unwrap_or(0)];
        for (offset, part) in [(0, &guard[..]), (GUARD, words), (GUARD + self.bytes, &guard[..])] {
            gpu.queue().write_buffer(&self.buffer, offset, bytemuck::cast_slice(part));
        }
    }

    /// The whole of it.
    fn size(&self) -> u64 {
        self.bytes + 2 * GUARD
    }

    /// What a kernel binds: these bytes, or everything with the guard behind it. Many drivers drop
    /// accesses behind a binding, and then a kernel's mistake would show only on those that do not.
    fn binding(&self, gpu: &Gpu, range: Option<Range<u64>>) -> wgpu::BufferBinding<'_> {
        let all = (self.bytes + GUARD).min(gpu.profile().binding).max(self.bytes);
        let range = range.unwrap_or(0..all);
        let size = std::num::NonZeroU64::new((range.end - range.start).next_multiple_of(4));
        wgpu::BufferBinding { buffer: &self.buffer, offset: GUARD + range.start, size }
    }
}

/// A trial with its inputs on the device, on which one implementation after another runs.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    trial: &'a Trial<'a>,
    inputs: Vec<Guarded>,
    /// What the outputs are before a run.
    before: Vec<Guarded>,
    outputs: Vec<Guarded>,
    step: wgpu::Buffer,
}

/// An implementation that has run on a stage and can run again.
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

    /// The mean time of `repetitions` runs one after another.
    pub(crate) async fn time(&self, gpu: &Gpu, repetitions: u32) -> Result<Duration> {
        let begin = Instant::now();
        let fill = |_, pass: &mut wgpu::ComputePass<'_>| (0..repetitions).for_each(|_| self.encode(pass));
        let intervals = gpu.time(gpu.clock(), 1, fill).await?;
        let waited = begin.elapsed();
        gpu.check("a trial")?;
        let measured = intervals.first().map_or(Duration::ZERO, |i| Duration::from_secs_f64(i.seconds));
        // Some drivers offer timestamps and leave them zero, or in other units than they say.
        let time = if measured.is_zero() || measured > waited { waited } else { measured };
        Ok(time / repetitions.max(1))
    }

    /// Gives its memory back.
    pub(crate) fn release(self, pool: &mut Pool) {
        pool.give(self.scratch);
    }
}

impl<'a> Stage<'a> {
    /// Sends the inputs to the device.
    ///
    /// # Errors
    /// [`Error::Tensor`] if they do not have the shapes of the trial or an operand does not lie in
    /// memory as kernels expect it, [`Error::OutOfMemory`] or [`Error::TooLarge`] if there is no
    /// room for them.
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

    /// Runs an implementation once, from the same start as any other.
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
        output.intact &= is_untouched(&read(gpu, &guards, 0, guards.size()).await?);
        gpu.check("a trial")?;
        Ok((output, prepared))
    }

    /// Sends one run on its way; all guards come out in one buffer.
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
            block.write(gpu, &vec![CANARY; words]);
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

    /// Binds and submits what [`Stage::submit`] has made ready; waits for nothing.
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
            let group = gpu.bind(kernel, &pipeline, &bindings, &self.step);
            dispatches.push((pipeline, group, kernel.groups));
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

    /// Gives its memory back.
    pub(crate) fn release(self, pool: &mut Pool) {
        pool.give(self.inputs.into_iter().chain(self.before).chain(self.outputs));
    }
}

async fn read(gpu: &Gpu, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u32>> {
    let bytes = gpu.download(buffer, offset, bytes).await?;
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

fn is_untouched(words: &[u32]) -> bool {
    words.iter().all(|word| *word == CANARY)
}

/// Words of the binding that an operand lies in.
fn binding_words(operand: &Operand) -> usize {
    let batch = operand.dims().first().copied().unwrap_or(1);
    let elements = batch.saturating_mul(operand.batch_stride);
    elements.saturating_mul(operand.spec.element.size()).div_ceil(4).max(1)
}

/// Where the operand's elements lie in its binding, in bytes and in stretches that are dense.
fn stretches(operand: &Operand) -> impl Iterator<Item = Range<usize>> {
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
    let mut words = vec![CANARY; binding_words(operand)];
    if let Some(array) = array {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        let encoded = encode(operand.spec.element, &array.data);
        let mut values = encoded.bytes();
        for stretch in stretches(operand) {
            let (now, later) = values.split_at(stretch.len().min(values.len()));
            bytes[stretch][..now.len()].copy_from_slice(now);
            values = later;
        }
    }
    let block = Guarded::new(gpu, pool, words.len()).await?;
    block.write(gpu, &words);
    Ok(block)
}

/// The elements, and whether all else is untouched.
fn unpack(operand: &Operand, words: &[u32]) -> (Array<f32>, bool) {
    let bytes: &[u8] = bytemuck::cast_slice(words);
    let canary = CANARY.to_ne_bytes();
    let untouched = |range: Range<usize>| range.into_iter().all(|i| bytes[i] == canary[i % 4]);
    let mut data = Vec::with_capacity(operand.volume());
    let (mut intact, mut end) = (true, 0);
    for stretch in stretches(operand) {
        intact &= untouched(end..stretch.start);
        end = stretch.end;
        data.extend(decode(operand.spec.element, &bytes[stretch]));
    }
    intact &= untouched(end..bytes.len());
    (Array::new(operand.dims(), data), intact)
}
