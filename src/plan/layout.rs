//! Layout of persistent memory: parameters, gradients and optimizer vectors are contiguous regions
//! with the same offsets.

use std::collections::HashMap;

use crate::graph::{Graph, ParameterInfo, Region, Role};
use crate::kernel::BLOCK;
use crate::tensor::Shape;

/// One tensor of a region.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Tensor name.
    pub name: String,
    /// Shape.
    pub shape: Shape,
    /// Offset in the region, in elements.
    pub offset: usize,
    /// Optimizer properties of a parameter; `None` for state.
    pub info: Option<ParameterInfo>,
    /// Initial value of state.
    pub start: f32,
}

/// Tensors and offsets of the parameter and state regions. Plans can share memory if they share a
/// layout.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// Parameters; gradients and optimizer vectors have the same offsets.
    pub parameters: Vec<Entry>,
    /// Running statistics.
    pub state: Vec<Entry>,
}

impl Layout {
    /// The layout of a graph's parameters and state, in the order in which they were added.
    pub fn of(graph: &Graph) -> Self {
        let mut layout = Self::default();
        for (_, tensor) in graph.tensors() {
            let (list, info, start) = match &tensor.role {
                Role::Parameter(info) => (&mut layout.parameters, Some(*info), 0.0),
                Role::State(start) => (&mut layout.state, None, *start),
                _ => continue,
            };
            let offset = length(list);
            list.push(Entry {
                name: tensor.name.clone(),
                shape: tensor.spec.shape.clone(),
                offset,
                info,
                start,
            });
        }
        layout
    }

    /// The tensors of a region.
    pub fn entries(&self, region: Region) -> &[Entry] {
        match region {
            Region::State | Region::AveragedState => &self.state,
            Region::Parameters | Region::Gradients | Region::Slots(_) => &self.parameters,
        }
    }

    /// Elements of the parameter region, padding included.
    pub fn parameter_length(&self) -> usize {
        length(&self.parameters)
    }

    /// Elements of the state region, padding included.
    pub fn state_length(&self) -> usize {
        length(&self.state)
    }

    /// Learning rate and weight decay multipliers per block of the parameter region, the
    /// `multipliers` input of optimizers.
    pub fn multipliers(&self) -> Vec<f32> {
        let pair = |e: &Entry| e.info.map_or([1.0, 1.0], |info| [info.lr, info.weight_decay]);
        self.parameters.iter().flat_map(|e| pair(e).repeat(e.shape.volume().div_ceil(BLOCK))).collect()
    }

    /// First block and number of blocks of each parameter, the `segments` input of
    /// [`Lars`](crate::ops::Lars).
    pub fn segments(&self) -> Vec<f32> {
        let pair = |e: &Entry| [e.offset / BLOCK, e.shape.volume().div_ceil(BLOCK)].map(|n| n as f32);
        self.parameters.iter().flat_map(pair).collect()
    }

    /// Entries by name.
    pub(super) fn offsets(&self) -> HashMap<&str, &Entry> {
        self.parameters.iter().chain(&self.state).map(|e| (e.name.as_str(), e)).collect()
    }
}

fn length(entries: &[Entry]) -> usize {
    entries.last().map_or(0, |e| e.offset + e.shape.volume().next_multiple_of(BLOCK))
}
