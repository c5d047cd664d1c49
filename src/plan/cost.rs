//! What a plan computes and moves, counted without running it: each node with its dispatches, and
//! what would starve a large GPU.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Plan, PlannedNode, Store};
use crate::graph::{Alias, Node};
use crate::kernel::{BUSY_GROUPS, Kernel, Slot, Traffic};

/// FLOP per byte of storage traffic from which caches and memory keep up with the arithmetic of a
/// large GPU.
pub const ENOUGH_INTENSITY: f64 = 16.0;

/// One dispatch of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DispatchCost {
    /// The entry point.
    pub kernel: &'static str,
    /// Workgroups.
    pub workgroups: u64,
    /// Invocations of a workgroup.
    pub invocations: u64,
    /// What it computes and moves.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Elements of the widest load and store: 4 where an operand is bound as `vec4`.
    pub vector: u32,
    /// Bytes of the tensors that it binds, each moved once: what no cache can save.
    pub least_bytes: u64,
}

/// One node of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeCost {
    /// The layer's name.
    pub layer: String,
    /// The operation, which tells the direction too.
    pub operation: &'static str,
    /// The implementation that was chosen.
    pub implementation: &'static str,
    /// Floating-point operations that the result needs, two for a multiply-add, whatever the
    /// algorithm does.
    pub flops: u64,
    /// Share of the FLOPs of the whole plan.
    pub share: f64,
    /// Whether channels come in fours in all operands, so that loads can too.
    pub wide: bool,
    /// The dispatches in order.
    pub dispatches: Vec<DispatchCost>,
}

impl NodeCost {
    /// Bytes of storage that all its dispatches move.
    pub fn storage(&self) -> u64 {
        self.dispatches.iter().map(|d| d.traffic.storage()).sum()
    }

    /// FLOP per byte of storage traffic; what is loaded for operations that are taken along is left
    /// out.
    pub fn intensity(&self) -> f64 {
        let joined: u64 = self.dispatches.iter().map(|d| d.traffic.joined).sum();
        self.flops as f64 / (self.storage() - joined).max(1) as f64
    }

    /// The most FLOP per byte that its algorithm has: every tensor and scratch buffer moved once by
    /// each dispatch that binds it, and products moving what tiles of 128 x 128 move.
    pub fn intensity_bound(&self) -> f64 {
        let least: u64 = self.dispatches.iter().map(|d| d.least_bytes.max(d.traffic.attainable)).sum();
        // What is loaded for operations that are taken along is in the first and not in the second.
        (self.flops as f64 / least.max(1) as f64).max(self.intensity())
    }

    /// The dispatch that does most of the arithmetic, or else moves most.
    pub fn main(&self) -> Option<&DispatchCost> {
        self.dispatches.iter().max_by_key(|d| (d.traffic.flops, d.traffic.storage()))
    }

    /// What would starve a large GPU, in words. Nodes of less than a hundredth of the FLOPs have
    /// nothing to gain.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let Some(main) = self.main().filter(|_| self.share >= 0.01) else { return flags };
        if main.workgroups < BUSY_GROUPS as u64 {
            flags.push(format!("{} workgroups, below {BUSY_GROUPS}", main.workgroups));
        }
        let wanted = ENOUGH_INTENSITY.min(self.intensity_bound());
        if self.intensity() < wanted {
            flags.push(format!("{:.1} FLOP/B of storage, below {wanted:.1}", self.intensity()));
        }
        if self.wide && main.vector < 4 {
            flags.push("no vec4 loads".into());
        }
        if main.invocations < 32 {
            flags.push(format!("workgroups of {}", main.invocations));
        }
        flags
    }
}

impl Plan {
    /// The cost of each node that runs, in order; their dispatches are those of a
    /// [`Session`](crate::gpu::Session) in its order.
    pub fn costs(&self) -> Vec<NodeCost> {
        let total = self.graph.macs().saturating_mul(2);
        let cost = |planned: &PlannedNode| {
            let node = self.graph.node(planned.node);
            let (inputs, outputs) = (self.graph.input_specs(node), self.graph.output_specs(node));
            let flops = node.op.macs(&inputs, &outputs).saturating_mul(2);
            let in_fours = |dims: &[usize]| dims.len() < 4 || dims[1].is_multiple_of(4);
            NodeCost {
                layer: node.name.clone(),
                operation: node.op.name(),
                implementation: planned.implementation.name,
                flops,
                share: flops as f64 / total.max(1) as f64,
                wide: inputs.iter().chain(&outputs).all(|spec| in_fours(spec.dims())),
                dispatches: self.dispatches(planned, node, flops),
            }
        };
        self.nodes.iter().map(cost).collect()
    }

    fn dispatches(&self, planned: &PlannedNode, node: &Node, flops: u64) -> Vec<DispatchCost> {
        let aliases = node.op.aliases(&self.graph.input_specs(node));
        let kernels = &planned.implementation.kernels;
        // Where no kernel says what it computes, the first is taken to do it all.
        let told = kernels.iter().any(|k| k.traffic.is_some());
        let mut written = BTreeSet::new();
        let cost = |(i, kernel): (usize, &Kernel)| {
            let once = self.moved_once(planned, node, kernel, &aliases, &mut written);
            let counted = Traffic { flops: if i == 0 && !told { flops } else { 0 }, ..once };
            let width = |element: &str| match element {
                e if e.starts_with("vec4") => 4,
                e if e.starts_with("vec2") => 2,
                _ => 1,
            };
            DispatchCost {
                kernel: kernel.entry,
                workgroups: kernel.groups.iter().map(|n| u64::from(*n)).product(),
                invocations: kernel.workgroup.iter().map(|n| u64::from(*n)).product(),
                traffic: kernel.traffic.unwrap_or(counted),
                vector: kernel.bindings.iter().map(|b| width(b.element)).max().unwrap_or(1),
                least_bytes: once.storage(),
            }
        };
        kernels.iter().enumerate().map(cost).collect()
    }

    /// The traffic of a kernel that moves each of its tensors once. `written` has the scratch
    /// buffers that are filled already.
    fn moved_once(
        &self,
        planned: &PlannedNode,
        node: &Node,
        kernel: &Kernel,
        aliases: &[Alias],
        written: &mut BTreeSet<usize>,
    ) -> Traffic {
        let mut traffic = Traffic { register: [1, 1], parts: 1, ..Traffic::default() };
        let bytes = |tensor: crate::graph::TensorId| self.graph.tensor(tensor).spec.bytes() as u64;
        for binding in &kernel.bindings {
            let part = binding.range.as_ref().map(|r| r.end - r.start);
            match binding.slot {
                Slot::Input(i) => traffic.loaded += part.unwrap_or_else(|| bytes(node.inputs[i])),
                Slot::Output(o) => {
                    let size = part.unwrap_or_else(|| bytes(node.outputs[o]));
                    traffic.stored += size;
                    // What is changed in place is loaded through the same binding.
                    let changed = aliases.iter().any(|alias| {
                        matches!(alias, Alias::InPlace { output, input } if *output == o
                            && kernel.bindings.iter().all(|b| b.slot != Slot::Input(*input)))
                    });
                    traffic.loaded += if changed { size } else { 0 };
                }
                Slot::Scratch(i) => {
                    let size = part.unwrap_or(planned.scratch[i].bytes);
                    if written.insert(i) {
                        traffic.stored += size;
                    } else {
                        traffic.loaded += size;
                    }
                }
            }
        }
        traffic
    }

    /// Barriers of a run: dispatches that bind a buffer which an earlier one of the same pass has
    /// bound. Every storage binding can be written, so wgpu puts one barrier, for all such buffers
    /// together, in front of each of them.
    pub fn barriers(&self) -> usize {
        let mut seen: BTreeSet<Store> = BTreeSet::new();
        let mut barriers = 0;
        for planned in &self.nodes {
            let node = self.graph.node(planned.node);
            for kernel in &planned.implementation.kernels {
                let stores: Vec<Store> = kernel
                    .bindings
                    .iter()
                    .map(|binding| match binding.slot {
                        Slot::Input(i) => self.place(node.inputs[i]).0.store,
                        Slot::Output(o) => self.place(node.outputs[o]).0.store,
                        Slot::Scratch(i) => planned.scratch[i].store,
                    })
                    .collect();
                barriers += usize::from(stores.iter().any(|store| seen.contains(store)));
                seen.extend(stores);
            }
        }
        barriers
    }
}
