//! Cuts operands into tasks, by their shapes only.

use super::super::operands::{Input, Output};
use super::super::parallel::GRAIN;

/// A part of the output of an operation on single elements, with the same part of its inputs.
pub(super) struct Piece<'a, const N: usize> {
    /// Index of the first element in the tensor.
    pub first: usize,
    /// That part of the inputs.
    pub inputs: [&'a [f32]; N],
    /// The part.
    pub output: &'a mut [f32],
}

/// The parts of an output and of inputs of the same shape; `None` if a shape differs.
pub(super) fn pieces<'a, const N: usize>(
    inputs: [Input<'a>; N],
    output: &'a mut Output<'_>,
) -> Option<Vec<Piece<'a, N>>> {
    let dims = output.dims();
    if inputs.iter().any(|x| x.dims() != dims) {
        return None;
    }
    let together = inputs.iter().all(|x| x.dense().is_some()) && output.dense().is_some();
    let mut all = Vec::new();
    let mut add = |start: usize, inputs: [&'a [f32]; N], output: &'a mut [f32]| {
        for (i, output) in output.chunks_mut(GRAIN).enumerate() {
            let (first, length) = (i * GRAIN, output.len());
            let inputs = inputs.map(|x| &x[first..][..length]);
            all.push(Piece { first: start + first, inputs, output });
        }
    };
    if together {
        add(0, inputs.map(|x| x.dense().unwrap_or_default()), output.dense()?);
    } else {
        let item: usize = dims.iter().skip(1).product();
        for (n, output) in output.items().into_iter().enumerate() {
            add(n * item, inputs.map(|x| x.item(n)), output);
        }
    }
    Some(all)
}

/// Whole planes of one batch item.
pub(super) struct Planes<'a, T> {
    /// The batch item.
    pub item: usize,
    /// Channel of the first plane.
    pub channel: usize,
    /// The planes, one after another.
    pub data: &'a mut [T],
}

/// Cuts batch items into groups of `group` planes of `plane` elements; both must be positive.
pub(super) fn planes<T>(items: Vec<&mut [T]>, plane: usize, group: usize) -> Vec<Planes<'_, T>> {
    let mut all = Vec::new();
    for (item, data) in items.into_iter().enumerate() {
        let groups = data.chunks_mut(group * plane).enumerate();
        all.extend(groups.map(|(i, data)| Planes { item, channel: i * group, data }));
    }
    all
}

/// Planes of this many elements per task.
pub(super) fn group(plane: usize) -> usize {
    (GRAIN / plane.max(1)).max(1)
}

/// The dimensions of a tensor with batch items, channels, rows and columns; `None` for another, and
/// for one without elements.
pub(super) fn nchw(dims: &[usize]) -> Option<[usize; 4]> {
    let dims: [usize; 4] = dims.try_into().ok()?;
    (!dims.contains(&0)).then_some(dims)
}

/// Sets a gradient to zero where an activation is not positive.
#[inline(always)]
pub(super) fn mask(gradient: &mut [f32], activation: &[f32]) {
    for (dx, y) in gradient.iter_mut().zip(activation) {
        *dx = if *y > 0.0 { *dx } else { 0.0 };
    }
}
