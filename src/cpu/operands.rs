//! Operands of a kernel on the CPU: slices of the device's memory.

use crate::kernel::Step;

/// A tensor that a kernel reads. Batch items are dense; they are `stride` elements apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input<'a> {
    dims: &'a [usize],
    data: &'a [f32],
    stride: usize,
}

/// A tensor that a kernel writes: every element of it, whatever the memory holds before, unless the
/// operation works in place.
#[derive(Debug)]
pub(super) struct Output<'a> {
    dims: &'a [usize],
    data: &'a mut [f32],
    stride: usize,
}

/// The operands of one run of an operation.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// The inputs; `None` for one that an output rewrites in place
    /// ([`Alias::InPlace`](crate::graph::Alias)): the output holds its values before the run.
    pub inputs: Vec<Option<Input<'a>>>,
    /// The outputs.
    pub outputs: Vec<Output<'a>>,
    /// The values of this step.
    pub step: &'a Step,
}

/// Elements of a batch item.
fn item(dims: &[usize]) -> usize {
    dims.iter().skip(1).product()
}

/// Batch items.
fn count(dims: &[usize]) -> usize {
    dims.first().copied().unwrap_or(1)
}

impl<'a> Input<'a> {
    /// `data` starts at the first element of the tensor.
    pub fn new(dims: &'a [usize], data: &'a [f32], stride: usize) -> Self {
        Self { dims, data, stride }
    }

    /// Dimensions, outermost first.
    pub fn dims(&self) -> &'a [usize] {
        self.dims
    }

    /// Batch item `n`.
    pub fn item(&self, n: usize) -> &'a [f32] {
        &self.data[n * self.stride..][..item(self.dims)]
    }

    /// The whole tensor, if its batch items are adjacent.
    pub fn dense(&self) -> Option<&'a [f32]> {
        let volume = self.dims.iter().product();
        (self.stride == item(self.dims) || count(self.dims) < 2).then(|| &self.data[..volume])
    }

    /// Batch item `n` of a tensor of u32.
    pub fn words(&self, n: usize) -> &'a [u32] {
        bytemuck::cast_slice(self.item(n))
    }
}

impl<'a> Output<'a> {
    /// `data` starts at the first element of the tensor.
    pub fn new(dims: &'a [usize], data: &'a mut [f32], stride: usize) -> Self {
        Self { dims, data, stride }
    }

    /// Dimensions, outermost first.
    pub fn dims(&self) -> &'a [usize] {
        self.dims
    }

    /// The batch items.
    pub fn items(&mut self) -> Vec<&mut [f32]> {
        let length = item(self.dims);
        let items = self.data.chunks_mut(self.stride.max(1)).take(count(self.dims));
        items.map(|chunk| &mut chunk[..length]).collect()
    }

    /// The batch items of a tensor of u32.
    pub fn words(&mut self) -> Vec<&mut [u32]> {
        self.items().into_iter().map(bytemuck::cast_slice_mut).collect()
    }

    /// The whole tensor, if its batch items are adjacent.
    pub fn dense(&mut self) -> Option<&mut [f32]> {
        let volume = self.dims.iter().product();
        (self.stride == item(self.dims) || count(self.dims) < 2).then(|| &mut self.data[..volume])
    }
}

impl<'a> Call<'a> {
    /// Input `i`; `None` if there is none, or if an output rewrites it in place.
    pub fn input(&self, i: usize) -> Option<Input<'a>> {
        self.inputs.get(i).copied().flatten()
    }
}
