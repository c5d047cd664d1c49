//! A single operation on the CPU, for tests against its reference.

use super::operands::{Call, Input, Output};
use super::{Cpu, kernels};
use crate::graph::{Alias, Operation};
use crate::kernel::Step;
use crate::reference::Array;
use crate::tensor::{Element, Spec};

/// The outputs of an operation's fast kernel; `None` if it has only the CPU reference for these
/// inputs. Between the batch items of activations are `pad` elements that must not be read, as if
/// they were windows of larger tensors. `dense` are the inputs, then outputs, without padding:
/// parameters and their gradients.
///
/// # Errors
/// The reason, if the operation rejects the inputs or writes outside its outputs.
pub fn trial(
    cpu: &Cpu,
    op: &dyn Operation,
    specs: &[Spec],
    inputs: &[&Array<f32>],
    (pad, dense): (usize, [&[usize]; 2]),
    step: &Step,
) -> Result<Option<Vec<Array<f32>>>, String> {
    let specs: Vec<&Spec> = specs.iter().collect();
    let results = op.infer(&specs)?;
    let stride = |spec: &Spec, i: usize, dense: &[usize]| {
        let windows = spec.dims().len() == 4 && !dense.contains(&i);
        spec.shape.item() + if windows { pad } else { 0 }
    };
    let strides: Vec<usize> = specs.iter().enumerate().map(|(i, s)| stride(s, i, dense[0])).collect();
    let memory: Vec<Vec<f32>> =
        specs.iter().zip(inputs).zip(&strides).map(|((spec, x), stride)| spread(spec, x, *stride)).collect();
    let mut out_strides: Vec<usize> =
        results.iter().enumerate().map(|(i, s)| stride(s, i, dense[1])).collect();
    let mut out_memory: Vec<Vec<f32>> =
        results.iter().zip(&out_strides).map(|(s, stride)| vec![f32::NAN; length(s, *stride)]).collect();
    let mut in_place = vec![false; specs.len()];
    for alias in op.aliases(&specs) {
        if let Alias::InPlace { output, input } = alias {
            out_memory[output].clone_from(&memory[input]);
            out_strides[output] = strides[input];
            in_place[input] = true;
        }
    }
    let done = cpu.install(|| {
        let views = specs.iter().zip(&memory).zip(&strides).zip(&in_place);
        let inputs = views.map(|(((spec, data), stride), in_place)| {
            (!in_place).then(|| Input::new(spec.dims(), data, *stride))
        });
        let outputs = results.iter().zip(&mut out_memory).zip(&out_strides);
        let outputs = outputs.map(|((spec, data), stride)| Output::new(spec.dims(), data, *stride));
        let mut call = Call { inputs: inputs.collect(), outputs: outputs.collect(), step };
        kernels::of(op).and_then(|kernel| kernel.run(&mut call))
    });
    if done.is_none() {
        return Ok(None);
    }
    let results = results.iter().zip(&out_memory).zip(&out_strides);
    results.map(|((spec, data), stride)| gather(spec, data, *stride)).collect::<Result<_, _>>().map(Some)
}

/// Elements of memory for a tensor.
fn length(spec: &Spec, stride: usize) -> usize {
    let count = spec.dims().first().copied().unwrap_or(1);
    count * stride.max(1)
}

/// A tensor in memory whose other elements are NaN.
fn spread(spec: &Spec, array: &Array<f32>, stride: usize) -> Vec<f32> {
    let mut memory = vec![f32::NAN; length(spec, stride)];
    let bits = |x: f32| if spec.element == Element::U32 { f32::from_bits(x as u32) } else { x };
    let item = spec.shape.item().max(1);
    for (to, from) in memory.chunks_mut(stride.max(1)).zip(array.data.chunks(item)) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = bits(*from));
    }
    memory
}

/// The tensor in memory; an error if its gaps were written.
fn gather(spec: &Spec, memory: &[f32], stride: usize) -> Result<Array<f32>, String> {
    let value = |x: f32| if spec.element == Element::U32 { x.to_bits() as f32 } else { x };
    let item = spec.shape.item();
    let mut data = Vec::with_capacity(spec.shape.volume());
    for chunk in memory.chunks(stride.max(1)) {
        let (values, gap) = chunk.split_at(item.min(chunk.len()));
        if gap.iter().any(|x| !x.is_nan()) {
            return Err("writes between the batch items of an output".into());
        }
        data.extend(values.iter().map(|x| value(*x)));
    }
    Ok(Array::new(spec.dims(), data))
}
