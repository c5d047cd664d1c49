//! Runs one implementation of one operation by itself, on given numbers: how a kernel is checked against its CPU twin, in tests
//! and before a kernel may be chosen by measurement.

use super::Gpu;
use super::element::{decode, encode};
use crate::error::{Error, Result};
use crate::graph::{Alias, Element, Operation, Spec};
use crate::kernel::{Implementation, Operand, Operands, Slot, Step};
use crate::reference::Array;

/// What lies around and between the items of tensors; kernels must leave it as it is. Both halves are f16 that no test computes.
const CANARY: [u8; 4] = 0xdf2b_5eefu32.to_le_bytes();

/// An operation with its input shapes, ready to run.
#[derive(Debug)]
pub struct Trial<'a> {
    op: &'a dyn Operation,
    inputs: Vec<Operand>,
    outputs: Vec<Operand>,
    aliases: Vec<Alias>,
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
    /// Prepares an operation. With `pad` above zero, activations (tensors of rank four) lie as windows in larger tensors, with that many
    /// elements before and after each item of the batch.
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
            // Parameters are never windows, and neither is what only one channel slice of a concat could be.
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
        })
    }

    /// Lays the input number `index` densely again: for parameters of rank four, which are never windows.
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

    /// The implementations that the operation offers for these operands on this device and that fit it.
    pub fn implementations(&self, gpu: &Gpu) -> Vec<Implementation> {
        let operands = Operands { layer: "trial", inputs: &self.inputs, outputs: &self.outputs };
        let mut list = self.op.kernels(&operands, gpu.profile());
        list.retain(|i| i.fits(gpu.profile()));
        list
    }

    /// Runs one implementation on these inputs.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the driver refuses a kernel, [`Error::Driver`] if it fails.
    pub async fn run(
        &self,
        gpu: &Gpu,
        implementation: &Implementation,
        inputs: &[&Array<f32>],
        step: &Step,
    ) -> Result<TrialOutput> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let mut input_buffers = Vec::new();
        for (operand, array) in self.inputs.iter().zip(inputs) {
            input_buffers.push(upload(gpu, operand, Some(array)).await?);
        }
        let mut output_buffers = Vec::new();
        for (i, operand) in self.outputs.iter().enumerate() {
            let source = self.aliases.iter().find_map(|a| match a {
                Alias::InPlace { output, input } if *output == i => Some(inputs[*input]),
                _ => None,
            });
            output_buffers.push(upload(gpu, operand, source).await?);
        }
        let mut scratch = Vec::new();
        for bytes in &implementation.scratch {
            scratch.push(gpu.buffer("scratch", *bytes, usage).await?);
        }
        let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let step_buffer = gpu.buffer("step", size_of::<Step>() as u64, uniform).await?;
        gpu.queue().write_buffer(&step_buffer, 0, bytemuck::bytes_of(step));

        let scope = gpu.device().push_error_scope(wgpu::ErrorFilter::Validation);
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for kernel in &implementation.kernels {
            let pipeline = gpu.pipeline(kernel).await?;
            let bindings: Vec<wgpu::BufferBinding<'_>> = kernel
                .bindings
                .iter()
                .map(|binding| {
                    let buffer = match binding.slot {
                        Slot::Input(i) => &input_buffers[i],
                        Slot::Output(i) => &output_buffers[i],
                        Slot::Scratch(i) => &scratch[i],
                    };
                    let range = binding.range.clone().unwrap_or(0..buffer.size());
                    let size = std::num::NonZeroU64::new(range.end - range.start);
                    wgpu::BufferBinding { buffer, offset: range.start, size }
                })
                .collect();
            let group = gpu.bind(kernel, &pipeline, &bindings, &step_buffer);
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(kernel.groups[0], kernel.groups[1], kernel.groups[2]);
        }
        gpu.queue().submit([encoder.finish()]);
        if let Some(error) = scope.pop().await {
            let label = implementation.kernels.first().map_or_else(String::new, |k| k.label.clone());
            return Err(Error::Kernel { kernel: label, reason: error.to_string() });
        }

        let mut output = TrialOutput { arrays: Vec::new(), intact: true };
        for (operand, buffer) in self.outputs.iter().zip(&output_buffers) {
            let bytes = gpu.download(buffer, 0, buffer.size()).await?;
            let (array, intact) = unpack(operand, &bytes);
            output.arrays.push(array);
            output.intact &= intact;
        }
        gpu.check("a trial")?;
        Ok(output)
    }
}

/// The positions of the operand's elements in its binding.
fn positions(operand: &Operand) -> impl Iterator<Item = usize> {
    let item = operand.spec.shape.item();
    let (offset, stride) = (operand.offset, operand.batch_stride);
    (0..operand.volume()).map(move |i| offset + i / item.max(1) * stride + i % item.max(1))
}

/// Bytes of the operand's binding, rounded up to whole words.
fn binding_bytes(operand: &Operand) -> usize {
    let batch = operand.dims().first().copied().unwrap_or(1);
    (batch * operand.batch_stride * operand.spec.element.size()).next_multiple_of(4).max(4)
}

async fn upload(gpu: &Gpu, operand: &Operand, array: Option<&Array<f32>>) -> Result<wgpu::Buffer> {
    let mut bytes = CANARY.repeat(binding_bytes(operand) / 4);
    if let Some(array) = array {
        let size = operand.spec.element.size();
        let values = encode(operand.spec.element, array.data.iter().copied());
        for (place, value) in positions(operand).zip(values.chunks(size)) {
            bytes[size * place..size * (place + 1)].copy_from_slice(value);
        }
    }
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let buffer = gpu.buffer("trial", bytes.len() as u64, usage).await?;
    gpu.queue().write_buffer(&buffer, 0, &bytes);
    Ok(buffer)
}

fn unpack(operand: &Operand, bytes: &[u8]) -> (Array<f32>, bool) {
    let size = operand.spec.element.size();
    let values = decode(operand.spec.element, &bytes[..binding_bytes(operand)]);
    let mut inside = vec![false; binding_bytes(operand)];
    let data = positions(operand).map(|place| {
        inside[size * place..size * (place + 1)].fill(true);
        values[place]
    });
    let array = Array::new(operand.dims(), data.collect());
    let canary = CANARY.iter().cycle();
    let intact =
        inside.iter().zip(bytes).zip(canary).all(|((inside, byte), canary)| *inside || byte == canary);
    (array, intact)
}
