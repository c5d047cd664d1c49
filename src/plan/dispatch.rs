//! Dispatches of a plan: which kernels run together, and the parts of buffers that they bind.

use std::collections::HashMap;
use std::ops::Range;

use super::schedule::Member;
use super::{Place, PlannedNode, Store, View};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::kernel::{Binding, Kernel, Profile, Slot, most_problems};

/// A part of a buffer that a dispatch binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The buffer.
    pub store: Store,
    /// Bytes.
    pub range: Range<u64>,
}

/// One dispatch: a kernel, or several that are alike and run as problems of one.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The kernels.
    pub members: Vec<Member>,
    /// Whether problems are found in a table; see [`grouped_text`](crate::kernel::grouped_text).
    pub grouped: bool,
    /// For each binding, the part of a buffer that has the tensors of all problems.
    pub windows: Vec<Window>,
    /// For each problem and binding, elements before its tensor in the window.
    pub bases: Vec<Vec<u32>>,
    /// For each binding, the binding whose array it uses: another one where both windows overlap.
    pub arrays: Vec<usize>,
}

/// Bytes of an element of a binding.
fn element_bytes(element: &str) -> u64 {
    let scalar = if element.contains("f16") { 2 } else { 4 };
    let width = if element.starts_with("vec4") {
        4
    } else if element.starts_with("vec2") {
        2
    } else {
        1
    };
    scalar * width
}

/// Chooses the binding that declares the array of each set of bindings that share one. Scalars can
/// be read from an array of vectors, and vectors from an array of scalars, but not written, and no
/// type is read from an array of another precision: returns whether that suffices.
fn share(kernel: &Kernel, arrays: &mut [usize]) -> bool {
    let is_vector = |i: usize| kernel.bindings[i].element.starts_with("vec");

    let is_written = |i: usize| !matches!(kernel.bindings[i].slot, Slot::Input(_));
    for set in 0..arrays.len() {
        let of_set: Vec<usize> = (0..arrays.len()).filter(|i| arrays[*i] == set).collect();
        let is_half = |i: &usize| kernel.bindings[*i].element.contains("f16");
        if of_set.iter().any(is_half) && !of_set.iter().all(is_half) {
            return false;
        }
        let written = |vector: bool| of_set.iter().any(|i| is_vector(*i) == vector && is_written(*i));
        let first = |vector: bool| of_set.iter().copied().find(|i| is_vector(*i) == vector);
        let (Some(scalar), Some(vector)) = (first(false), first(true)) else { continue };
        let declares = match (written(false), written(true)) {
            (true, true) => return false,
            (false, true) => vector,
            _ => scalar,
        };
        of_set.iter().for_each(|i| arrays[*i] = declares);
    }
    true
}

/// What the dispatches are made of.
pub(super) struct Dispatcher<'a> {
    pub profile: &'a Profile,
    pub graph: &'a Graph,
    pub views: &'a [View],
    pub places: &'a HashMap<TensorId, Place>,
    pub nodes: &'a [PlannedNode],
    /// Whether the kernels of each node may be grouped.
    pub may_group: &'a [bool],
}

impl Dispatcher<'_> {
    /// The dispatches of a scheduled group: one, or more if the tensors of its members are not in
    /// one buffer, are too far apart for one binding, or cannot be bound without overlapping.
    pub(super) fn dispatches(&self, members: &[Member]) -> Result<Vec<Dispatch>> {
        let mut dispatches: Vec<Dispatch> = Vec::new();
        for &member in members {
            let Some(kernel) = self.kernel(member) else {
                // Nodes of the CPU have no kernels.
                dispatches.push(Dispatch {
                    members: vec![member],
                    grouped: false,
                    windows: Vec::new(),
                    bases: Vec::new(),
                    arrays: Vec::new(),
                });
                continue;
            };
            let windows = self.windows(member, kernel)?;
            let grouped = kernel.groupable && self.may_group[member.node];
            let joined = dispatches.iter_mut().rev().any(|dispatch| {
                grouped
                    && dispatch.members.len() < most_problems(kernel)
                    && self.join(dispatch, member, kernel, &windows)
            });
            if !joined {
                let arrays = (0..windows.len()).collect();
                let bases = vec![vec![0; windows.len()]];
                dispatches.push(Dispatch { members: vec![member], grouped, windows, bases, arrays });
            }
        }
        Ok(dispatches)
    }

    fn kernel(&self, member: Member) -> Option<&Kernel> {
        self.nodes.get(member.node)?.implementation.kernels.get(member.kernel)
    }

    /// The parts of buffers that a kernel binds.
    fn windows(&self, member: Member, kernel: &Kernel) -> Result<Vec<Window>> {
        let node = &self.nodes[member.node];
        let operands = self.graph.node(node.node);
        let tensor = |list: &[TensorId], i: usize| {
            list.get(i).and_then(|t| self.places.get(&self.views[t.0].root).copied())
        };
        let window = |binding: &Binding| {
            let place = match binding.slot {
                Slot::Input(i) => tensor(&operands.inputs, i),
                Slot::Output(i) => tensor(&operands.outputs, i),
                Slot::Scratch(i) => node.scratch.get(i).copied(),
            };
            let place = place.ok_or_else(|| kernel.unbound(binding))?;
            let range = kernel.bound(binding, place.bytes)?;
            Ok(Window { store: place.store, range: place.offset + range.start..place.offset + range.end })
        };
        kernel.bindings.iter().map(window).collect()
    }

    /// Adds a member to a dispatch, if all can be bound together.
    fn join(&self, dispatch: &mut Dispatch, member: Member, kernel: &Kernel, windows: &[Window]) -> bool {
        let most = self.profile.binding;
        let union = |a: &Range<u64>, b: &Range<u64>| a.start.min(b.start)..a.end.max(b.end);
        let mut wanted = dispatch.windows.clone();
        for (window, other) in wanted.iter_mut().zip(windows) {
            window.range = union(&window.range, &other.range);
            if window.store != other.store || window.range.end - window.range.start > most {
                return false;
            }
        }
        // No device may bind overlapping parts of a buffer twice for writing, and all bindings are.
        let mut arrays: Vec<usize> = (0..wanted.len()).collect();
        let mut changed = true;
        while changed {
            changed = false;
            for later in 1..wanted.len() {
                for earlier in 0..later {
                    let (a, b) = (&wanted[earlier], &wanted[later]);
                    let overlap =
                        a.store == b.store && a.range.start < b.range.end && b.range.start < a.range.end;
                    if !overlap || arrays[earlier] == arrays[later] {
                        continue;
                    }
                    let range = union(&a.range, &b.range);
                    if range.end - range.start > most {
                        return false;
                    }
                    let (into, from) =
                        (arrays[earlier].min(arrays[later]), arrays[earlier].max(arrays[later]));
                    for (array, window) in arrays.iter_mut().zip(&mut wanted) {
                        if *array == from || *array == into {
                            *array = into;
                            window.range = range.clone();
                        }
                    }
                    changed = true;
                }
            }
        }
        if !share(kernel, &mut arrays) {
            return false;
        }
        let mut all: Vec<Vec<u64>> = dispatch
            .bases
            .iter()
            .map(|bases| {
                let starts = bases.iter().zip(&dispatch.windows).zip(&kernel.bindings);
                starts
                    .map(|((base, window), b)| {
                        u64::from(*base) * element_bytes(b.element) + window.range.start
                    })
                    .collect()
            })
            .collect();
        all.push(windows.iter().map(|window| window.range.start).collect());
        let bases: Option<Vec<Vec<u32>>> = all
            .iter()
            .map(|starts| {
                let each = starts.iter().zip(&wanted).zip(&kernel.bindings);
                each.map(|((start, window), binding)| {
                    u32::try_from((start - window.range.start) / element_bytes(binding.element)).ok()
                })
                .collect()
            })
            .collect();
        let Some(bases) = bases else { return false };
        dispatch.members.push(member);
        (dispatch.windows, dispatch.bases, dispatch.arrays) = (wanted, bases, arrays);
        true
    }
}
