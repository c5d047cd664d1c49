//! Static cost model of a plan: FLOP and bytes per node and dispatch, and flags for nodes that
//! would starve a large GPU.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Dispatch, Member, Plan, PlannedNode, Store};
use crate::error::Result;
use crate::graph::{Alias, Node};
use crate::kernel::{
    BUSY_GROUPS, GROUPED_ENTRY, Kernel, Profile, Slot, Traffic, grouped_text, pipeline_text, workgroups,
};
use crate::text::plural;

/// FLOP per byte of storage traffic above which a large GPU is not limited by memory.
pub const ENOUGH_INTENSITY: f64 = 16.0;

/// Cost of a dispatch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DispatchCost {
    /// Entry point.
    pub kernel: &'static str,
    /// Workgroups.
    pub workgroups: u64,
    /// Workgroup size.
    pub invocations: u64,
    /// FLOP and bytes.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Widest load or store in elements: 4 if an operand is bound as `vec4`.
    pub vector: u32,
    /// Bytes of all bound tensors, each moved once: a lower bound of traffic.
    pub least_bytes: u64,
}

/// What a device does in a run besides arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Launches {
    /// Dispatches.
    pub dispatches: usize,
    /// Kernels that run in them.
    pub kernels: usize,
    /// Dispatches of fewer workgroups than a large GPU has compute units.
    pub with_few_workgroups: usize,
    /// Barriers that wgpu inserts between dispatches.
    pub barriers: usize,
    /// Distinct pipelines, those that prepare weights included.
    pub pipelines: usize,
    /// Bytes of their WGSL.
    pub wgsl_bytes: usize,
}

/// A pipeline of a plan.
#[derive(Clone, Debug)]
pub struct PlannedPipeline<'a> {
    /// Its WGSL.
    pub text: String,
    /// The entry point in the text.
    pub entry: &'static str,
    /// A kernel that it runs; the others are alike.
    pub kernel: &'a Kernel,
    /// The node of that kernel, an index in [`Plan::nodes`].
    pub node: usize,
    /// How often it is dispatched, preparation included.
    pub dispatches: usize,
}

/// Cost of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeCost {
    /// Layer name.
    pub layer: String,
    /// Operation, forward or backward.
    pub operation: &'static str,
    /// Chosen implementation.
    pub implementation: &'static str,
    /// FLOP by definition of the operation, two per multiply-add, independent of the algorithm.
    pub flops: u64,
    /// Share of the plan's FLOP, in [0, 1].
    pub share: f64,
    /// Whether the channels of all operands are multiples of four, which allows vec4 loads.
    pub wide: bool,
    /// Dispatches in order.
    pub dispatches: Vec<DispatchCost>,
}

impl NodeCost {
    /// Storage traffic of all dispatches in bytes.
    pub fn storage(&self) -> u64 {
        self.dispatches.iter().map(|d| d.traffic.storage()).sum()
    }

    /// FLOP per byte of storage traffic, without the loads of fused operations.
    pub fn intensity(&self) -> f64 {
        let fused: u64 = self.dispatches.iter().map(|d| d.traffic.fused).sum();
        self.flops as f64 / (self.storage() - fused).max(1) as f64
    }

    /// Upper bound of FLOP per byte for the algorithm: every dispatch moves each bound tensor and
    /// scratch buffer once, and matrix products move as much as tiles of 128 x 128 need.
    pub fn intensity_bound(&self) -> f64 {
        let least: u64 = self.dispatches.iter().map(|d| d.least_bytes.max(d.traffic.attainable)).sum();
        // Loads of fused operations are in `least_bytes` but not in `attainable`.
        (self.flops as f64 / least.max(1) as f64).max(self.intensity())
    }

    /// The dispatch with the most FLOP, or else the most traffic.
    pub fn main(&self) -> Option<&DispatchCost> {
        self.dispatches.iter().max_by_key(|d| (d.traffic.flops, d.traffic.storage()))
    }

    /// Descriptions of what would starve a large GPU. Nodes below 1% of the FLOP are not flagged.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let Some(main) = self.main().filter(|_| self.share >= 0.01) else { return flags };
        if main.workgroups < BUSY_GROUPS as u64 {
            flags.push(format!("{}, below {BUSY_GROUPS}", plural(main.workgroups, "workgroup")));
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
    /// The cost of each executed node, in order; dispatches are in the order of a
    /// [`Session`](crate::gpu::Session).
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
        if kernels.is_empty() {
            return vec![self.on_cpu(node, flops)];
        }
        // Without traffic information, all FLOP are attributed to the first kernel.
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

    /// Cost of a node that runs on the CPU as a whole: every tensor moves once.
    fn on_cpu(&self, node: &Node, flops: u64) -> DispatchCost {
        let bytes = |list: &[crate::graph::TensorId]| {
            list.iter().map(|tensor| self.graph.tensor(*tensor).spec.bytes() as u64).sum()
        };
        let (loaded, stored) = (bytes(&node.inputs), bytes(&node.outputs));
        let traffic = Traffic { register: [1, 1], parts: 1, flops, loaded, stored, ..Traffic::default() };
        let least_bytes = traffic.storage();
        DispatchCost { kernel: "cpu", workgroups: 1, invocations: 1, traffic, vector: 1, least_bytes }
    }

    /// Traffic of a kernel that moves each of its tensors once. `written` contains the scratch
    /// buffers written so far.
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
                    // A tensor changed in place is also loaded through this binding.
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

    /// The seconds of each kernel in the order of [`Plan::costs`], from those of each dispatch with
    /// its members. The time of a dispatch of several kernels is divided by their estimated work.
    pub fn seconds<'a>(&self, times: impl IntoIterator<Item = (&'a [Member], f64)>) -> Vec<f64> {
        let dispatches: Vec<DispatchCost> =
            self.costs().into_iter().flat_map(|cost| cost.dispatches).collect();
        let work = |place: &usize| {
            let cost = dispatches.get(*place);
            cost.map_or(1.0, |d| 1.0 + d.traffic.flops as f64 + ENOUGH_INTENSITY * d.least_bytes as f64)
        };
        let mut seconds = vec![0.0; dispatches.len()];
        for (members, time) in times {
            let places: Vec<usize> = members.iter().filter_map(|member| self.place_of(*member)).collect();
            let all: f64 = places.iter().map(work).sum();
            for place in &places {
                if let Some(sum) = seconds.get_mut(*place) {
                    *sum += time * work(place) / all;
                }
            }
        }
        seconds
    }

    /// The place of a kernel in the order of [`Plan::costs`].
    pub fn place_of(&self, member: Member) -> Option<usize> {
        // A node of the CPU has no kernels and counts as one.
        let kernels = |planned: &PlannedNode| planned.implementation.kernels.len().max(1);
        let before = self.nodes.get(..member.node)?;
        (member.kernel < kernels(self.nodes.get(member.node)?))
            .then(|| before.iter().map(kernels).sum::<usize>() + member.kernel)
    }

    /// Barriers per run: dispatches that bind a buffer bound by an earlier one of the same pass.
    /// All storage bindings are writable, so wgpu inserts one barrier before each of them.
    pub fn barriers(&self) -> usize {
        let mut seen: BTreeSet<Store> = BTreeSet::new();
        let mut barriers = 0;
        for dispatch in &self.dispatches {
            let stores = || dispatch.windows.iter().map(|window| window.store);
            barriers += usize::from(stores().any(|store| seen.contains(&store)));
            seen.extend(stores());
        }
        barriers
    }

    /// What a device with this profile does in a run besides arithmetic.
    ///
    /// # Errors
    /// As [`Plan::pipelines`].
    pub fn launches(&self, profile: &Profile) -> Result<Launches> {
        let pipelines = self.pipelines(profile)?;
        Ok(Launches {
            dispatches: self.dispatches.len(),
            kernels: self.dispatches.iter().map(|dispatch| dispatch.members.len()).sum(),
            with_few_workgroups: self.workgroups().iter().filter(|n| **n < BUSY_GROUPS as u64 / 2).count(),
            barriers: self.barriers(),
            pipelines: pipelines.len(),
            wgsl_bytes: pipelines.iter().map(|pipeline| pipeline.text.len()).sum(),
        })
    }

    /// The distinct pipelines of the plan, as a device with this profile compiles them.
    ///
    /// # Errors
    /// [`Error::Kernel`](crate::Error::Kernel) if a shader cannot be expanded.
    pub fn pipelines(&self, profile: &Profile) -> Result<Vec<PlannedPipeline<'_>>> {
        let mut pipelines: BTreeMap<(String, &'static str), (usize, &Kernel, usize)> = BTreeMap::new();
        for dispatch in self.preparation.iter().chain(&self.dispatches) {
            let Some(kernel) = self.kernel_of(dispatch) else { continue };
            let key = if dispatch.grouped {
                (grouped_text(kernel, &dispatch.arrays)?, GROUPED_ENTRY)
            } else {
                (pipeline_text(kernel, profile.bake)?, kernel.entry)
            };
            let node = dispatch.members.first().map_or(0, |member| member.node);
            pipelines.entry(key).or_insert((0, kernel, node)).0 += 1;
        }
        let list = pipelines.into_iter();
        let planned = |((text, entry), (dispatches, kernel, node))| PlannedPipeline {
            text,
            entry,
            kernel,
            node,
            dispatches,
        };
        Ok(list.map(planned).collect())
    }

    /// The first kernel of a dispatch: all are alike.
    fn kernel_of(&self, dispatch: &Dispatch) -> Option<&Kernel> {
        let first = dispatch.members.first()?;
        self.nodes.get(first.node)?.implementation.kernels.get(first.kernel)
    }

    /// Workgroups of each dispatch.
    pub fn workgroups(&self) -> Vec<u64> {
        let kernel = |member: &Member| self.nodes[member.node].implementation.kernels.get(member.kernel);
        let sum = |dispatch: &Dispatch| dispatch.members.iter().filter_map(kernel).map(workgroups).sum();
        self.dispatches.iter().map(sum).collect()
    }
}
