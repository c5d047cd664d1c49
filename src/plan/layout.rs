//! The layout of what outlives a step: parameters, gradients and optimizer vectors lie alike, each
//! in one contiguous region.

use std::collections::HashMap;

use crate::graph::{Graph, ParameterInfo, Region, Role};
use crate::kernel::BLOCK;
use crate::tensor::Shape;

/// One tensor of a region.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The tensor's name.
    pub name: String,
    /// Its extents.
    pub shape: Shape,
    /// Elements before it in the region.
    pub offset: usize,
    /// What the optimizer needs to know, for parameters.
    pub info: Option<ParameterInfo>,
    /// The value that it starts with, for state.
    pub start: f32,
}

/// The tensors of the parameter and state regions with their places. Plans that share a layout
/// share the memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// Trained parameters; gradients and optimizer vectors have the same offsets.
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

    /// Rate and decay multiplier of each block of the parameter region: what optimizers take as
    /// `multipliers`.
    pub fn multipliers(&self) -> Vec<f32> {
        let pair = |e: &Entry| e.info.map_or([1.0, 1.0], |info| [info.rate, info.decay]);
        self.parameters.iter().flat_map(|e| pair(e).repeat(e.shape.volume().div_ceil(BLOCK))).collect()
    }

    /// The first block of each parameter and how many blocks it has, as [`Lars`](crate::ops::Lars)
    /// takes them.
    pub fn segments(&self) -> Vec<f32> {
        let pair = |e: &Entry| [e.offset / BLOCK, e.shape.volume().div_ceil(BLOCK)].map(|n| n as f32);
        self.parameters.iter().flat_map(pair).collect()
    }

    /// The offsets by name.
    pub(super) fn offsets(&self) -> HashMap<&str, &Entry> {
        self.parameters.iter().chain(&self.state).map(|e| (e.name.as_str(), e)).collect()
    }
}

fn length(entries: &[Entry]) -> usize {
    entries.last().map_or(0, |e| e.offset + e.shape.volume().next_multiple_of(BLOCK))
}
