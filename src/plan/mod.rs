//! From a graph to memory and dispatches: shared storage, memory placement, choice of kernels.

mod alias;
mod alike;
mod arena;
mod choices;
mod cost;
mod dispatch;
mod layout;
mod schedule;

pub use alias::View;
pub use alike::ENOUGH_OF_A_GROUP;
pub use arena::{Block, Placement, pack, peak};
pub use choices::{Choice, Choices, Effort, fingerprint};
pub use cost::{DispatchCost, ENOUGH_INTENSITY, Launches, NodeCost, PlannedPipeline};
pub use dispatch::{Dispatch, Window};
pub use layout::{Entry, Layout};
pub use schedule::Member;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use alike::{Offer, unify};
use dispatch::Dispatcher;
use schedule::{Blocks, Schedule, Scheduler};

use crate::error::{Error, Result};
use crate::graph::{Alias, Graph, NodeId, Region, Role, Tensor, TensorId};
use crate::kernel::{AdapterClass, Implementation, Operand, Operands, Profile, choose};
use crate::ops::offers;
use crate::tensor::{Shape, Spec};

/// A device buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Store {
    /// A persistent region; see [`Layout`].
    Region(Region),
    /// A chunk of the arena, reused by tensors with disjoint lifetimes.
    Arena(usize),
    /// A chunk of the memory for packed weights.
    Packed(usize),
    /// Inputs, written by the host before each run.
    Inputs,
    /// Scalars, read back after each run.
    Metrics,
    /// Constants, written once.
    Constants,
}

/// A range of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The buffer.
    pub store: Store,
    /// Offset in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// A node with its implementation.
#[derive(Clone, Debug)]
pub struct PlannedNode {
    /// The node in [`Plan::graph`].
    pub node: NodeId,
    /// Chosen implementation.
    pub implementation: Implementation,
    /// Places of scratch buffers.
    pub scratch: Vec<Place>,
}

/// Memory use of a plan in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// Without sharing: each value in its own buffer.
    pub naive_bytes: u64,
    /// Size of the arena.
    pub planned_bytes: u64,
    /// Peak of live bytes, a lower bound for the arena.
    pub bound_bytes: u64,
    /// Inputs, metrics and constants.
    pub io_bytes: u64,
    /// Parameters, running statistics, gradients and optimizer vectors.
    pub persistent_bytes: u64,
}

impl Memory {
    /// Total device memory of the plan.
    pub fn total_bytes(&self) -> u64 {
        self.planned_bytes + self.io_bytes + self.persistent_bytes
    }
}

/// Options of a plan: `PlanOptions::new(device.profile()).outputs(&[logits])`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlanOptions<'a> {
    /// Limits and features of the device.
    pub profile: &'a Profile,
    /// Tensors that remain readable after a run.
    pub outputs: &'a [TensorId],
    /// Scalars that are read back after each run, in this order.
    pub metrics: &'a [TensorId],
    /// Layout of another plan to share memory with; it must contain all parameters and state of the
    /// graph.
    pub layout: Option<Arc<Layout>>,
    /// Tuned implementations, preferred to the defaults.
    pub choices: Option<&'a Choices>,
}

impl<'a> PlanOptions<'a> {
    /// A plan for a device with this profile: nothing remains readable, the layout is its own, and
    /// implementations are the defaults.
    pub fn new(profile: &'a Profile) -> Self {
        Self { profile, outputs: &[], metrics: &[], layout: None, choices: None }
    }

    /// Tensors that remain readable after a run.
    #[must_use]
    pub fn outputs(self, outputs: &'a [TensorId]) -> Self {
        Self { outputs, ..self }
    }

    /// Scalars that are read back after each run, in this order.
    #[must_use]
    pub fn metrics(self, metrics: &'a [TensorId]) -> Self {
        Self { metrics, ..self }
    }

    /// Layout of another plan to share memory with.
    #[must_use]
    pub fn layout(self, layout: impl Into<Option<Arc<Layout>>>) -> Self {
        Self { layout: layout.into(), ..self }
    }

    /// Tuned implementations, preferred to the defaults.
    #[must_use]
    pub fn choices(self, choices: impl Into<Option<&'a Choices>>) -> Self {
        Self { choices: choices.into(), ..self }
    }
}

/// Memory placement and dispatches of a graph.
#[derive(Debug)]
pub struct Plan {
    /// The graph with inserted copies.
    pub graph: Graph,
    /// Layout of persistent memory.
    pub layout: Arc<Layout>,
    /// Executed nodes in order.
    pub nodes: Vec<PlannedNode>,
    /// Dispatches that bring weights into the form that kernels read. They run before the first
    /// run, and after the weights were changed.
    pub preparation: Vec<Dispatch>,
    /// Dispatches of a run, in order.
    pub dispatches: Vec<Dispatch>,
    /// Whether a run changes parameters or running statistics.
    pub changes_weights: bool,
    /// Sizes of buffers in bytes.
    pub stores: BTreeMap<Store, u64>,
    /// Memory use.
    pub memory: Memory,
    views: Vec<View>,
    places: HashMap<TensorId, Place>,
    map: HashMap<TensorId, TensorId>,
    metrics: usize,
}

impl Plan {
    /// Plans a graph for a device.
    ///
    /// # Errors
    /// [`Error::TooLarge`] with advice, if a tensor exceeds the device's binding size;
    /// [`Error::Tensor`] if the layout does not have a parameter; [`Error::Layer`] if no
    /// implementation fits the device.
    pub fn new(graph: &Graph, options: &PlanOptions<'_>) -> Result<Self> {
        let kept: Vec<TensorId> = options.outputs.iter().chain(options.metrics).copied().collect();
        let resolved = alias::resolve(graph, &kept)?;
        let layout = options.layout.clone().unwrap_or_else(|| Arc::new(Layout::of(graph)));
        let metrics: Vec<TensorId> = options.metrics.iter().map(|t| resolved.map[t]).collect();
        let mut builder = Builder {
            profile: options.profile,
            choices: options.choices,
            graph: &resolved.graph,
            views: &resolved.views,
            layout: &layout,
            stores: BTreeMap::new(),
            places: HashMap::new(),
        };
        builder.place_persistent(&metrics)?;
        let kept: Vec<TensorId> = kept.iter().map(|t| resolved.map[t]).collect();
        let chosen = builder.choose()?;
        let may_group = builder.may_group(&chosen);
        let scheduler = Scheduler {
            graph: &resolved.graph,
            views: &resolved.views,
            places: &builder.places,
            chosen: &chosen,
            may_group,
            kept: &kept,
            alignment: options.profile.alignment.max(METRIC_STRIDE),
            most: options.profile.buffer,
            bindable: options.profile.binding,
            fixed: builder.stores.values().sum(),
        };
        let mut best: Option<(Bound, Builder<'_>)> = None;
        for schedule in scheduler.schedules() {
            let mut builder = builder.clone();
            let bound = builder.bind(&scheduler, &schedule, chosen.clone())?;
            if best.as_ref().is_none_or(|(other, _)| bound.dispatches.len() < other.dispatches.len()) {
                best = Some((bound, builder));
            }
        }
        let none = || Error::internal("no order of a plan's dispatches was found");
        let (bound, Builder { stores, places, .. }) = best.ok_or_else(none)?;
        let Bound { nodes, memory, preparation, dispatches, changes_weights } = bound;
        let mut plan = Self {
            preparation,
            dispatches,
            changes_weights,
            graph: resolved.graph,
            views: resolved.views,
            map: resolved.map,
            metrics: metrics.len(),
            layout,
            nodes,
            stores,
            memory,
            places,
        };
        for (store, bytes) in &plan.stores {
            match store {
                Store::Region(_) => plan.memory.persistent_bytes += bytes,
                Store::Arena(_) | Store::Packed(_) => plan.memory.planned_bytes += bytes,
                Store::Inputs | Store::Metrics | Store::Constants => plan.memory.io_bytes += bytes,
            }
        }
        Ok(plan)
    }

    /// Maps a tensor of the original graph to [`Plan::graph`].
    ///
    /// # Errors
    /// [`Error::Tensor`] if that graph has no such tensor.
    pub fn tensor(&self, original: TensorId) -> Result<TensorId> {
        let found = self.map.get(&original).copied();
        found.ok_or_else(|| Error::tensor(format!("#{}", original.0), "is not in the planned graph"))
    }

    /// The storage of a tensor of [`Plan::graph`], and its view in it.
    pub fn place(&self, tensor: TensorId) -> (Place, View) {
        let view = self.views[tensor.0];
        (self.places[&view.root], view)
    }

    /// A tensor of [`Plan::graph`] with its place and view.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the tensor is not in that graph or is unused.
    pub(crate) fn lookup(&self, id: TensorId) -> Result<(&Tensor, Place, View)> {
        let tensor = self.graph.get(id).zip(self.views.get(id.0));
        let found = tensor.and_then(|(tensor, view)| Some((tensor, *self.places.get(&view.root)?, *view)));
        found.ok_or_else(|| Error::tensor(format!("#{}", id.0), "is not in the planned graph, or is unused"))
    }

    /// A tensor of [`Plan::graph`] as a kernel operand.
    pub fn operand(&self, tensor: TensorId) -> Operand {
        operand(&self.graph, &self.views, tensor)
    }

    /// Scalars read back per run.
    pub fn metric_count(&self) -> usize {
        self.metrics
    }
}

/// Peak of live bytes when this graph runs and `outputs` remain readable: a lower bound of the
/// plan's arena without kernel scratch.
///
/// # Errors
/// [`Error::Tensor`] for a graph that cannot be planned.
pub fn value_bytes(graph: &Graph, outputs: &[TensorId]) -> Result<u64> {
    let resolved = alias::resolve(graph, outputs)?;
    let kept: Vec<TensorId> = outputs.iter().map(|t| resolved.map[t]).collect();
    let is_value = |root: TensorId| resolved.graph.tensor(root).role == Role::Value;
    let block = |(root, (first, last)): (TensorId, (usize, usize))| Block {
        bytes: resolved.graph.tensor(root).spec.bytes() as u64,
        first,
        last,
    };
    let blocks: Vec<Block> = lifetimes(&resolved, &kept, is_value).into_iter().map(block).collect();
    Ok(peak(&blocks, METRIC_STRIDE))
}

/// First and last node that accesses each `wanted` root.
fn lifetimes(
    resolved: &alias::Resolved,
    kept: &[TensorId],
    wanted: impl Fn(TensorId) -> bool,
) -> BTreeMap<TensorId, (usize, usize)> {
    let mut lifetimes: BTreeMap<TensorId, (usize, usize)> = BTreeMap::new();
    let mut touch = |tensor: TensorId, moment: usize| {
        let root = resolved.views[tensor.0].root;
        if wanted(root) {
            let entry = lifetimes.entry(root).or_insert((moment, moment));
            entry.0 = entry.0.min(moment);
            entry.1 = entry.1.max(moment);
        }
    };
    for (id, node) in resolved.graph.nodes() {
        for tensor in node.inputs.iter().chain(&node.outputs) {
            touch(*tensor, id.0);
        }
    }
    for tensor in kept {
        touch(*tensor, resolved.graph.len());
    }
    lifetimes
}

/// Whether a node has to run: not if all its outputs are windows or collections of others.
fn runs(aliases: &[Alias], outputs: usize) -> bool {
    let made = |output: usize| {
        aliases.iter().any(|alias| match *alias {
            Alias::Window { output: other, .. } | Alias::Gather { output: other, .. } => other == output,
            Alias::InPlace { .. } => false,
        })
    };
    !(0..outputs).all(made)
}

fn operand(graph: &Graph, views: &[View], id: TensorId) -> Operand {
    let View { offset, batch_stride, .. } = views[id.0];
    Operand { spec: graph.tensor(id).spec.clone(), offset, batch_stride }
}

/// Stride of the metrics buffer in bytes; each scalar is its own binding.
pub(crate) const METRIC_STRIDE: u64 = 256;

/// A schedule in memory, with its dispatches.
struct Bound {
    nodes: Vec<PlannedNode>,
    memory: Memory,
    preparation: Vec<Dispatch>,
    dispatches: Vec<Dispatch>,
    changes_weights: bool,
}

#[derive(Clone)]
struct Builder<'a> {
    profile: &'a Profile,
    choices: Option<&'a Choices>,
    graph: &'a Graph,
    views: &'a [View],
    layout: &'a Layout,
    stores: BTreeMap<Store, u64>,
    places: HashMap<TensorId, Place>,
}

impl Builder<'_> {
    /// Allocates the next `bytes` of a buffer.
    fn grow(&mut self, store: Store, bytes: u64) -> Place {
        let size = self.stores.entry(store).or_default();
        let offset = *size;
        *size += bytes.next_multiple_of(METRIC_STRIDE.max(self.profile.alignment));
        Place { store, offset, bytes }
    }

    /// Places inputs, constants, persistent tensors, gradients and metrics.
    fn place_persistent(&mut self, metrics: &[TensorId]) -> Result<()> {
        let offsets = self.layout.offsets();
        let bytes = |elements: usize| 4 * elements as u64;
        for (id, tensor) in self.graph.tensors() {
            let in_region = |region, name: &str, shape: &Shape| {
                let entry = offsets.get(name).filter(|e| e.shape == *shape);
                let entry = entry
                    .ok_or_else(|| Error::tensor(name, format!("is not {shape} in the shared layout")))?;
                Ok(Place {
                    store: Store::Region(region),
                    offset: bytes(entry.offset),
                    bytes: bytes(shape.volume()),
                })
            };
            let place = match &tensor.role {
                Role::Input => self.grow(Store::Inputs, tensor.spec.bytes() as u64),
                Role::Constant(_) => self.grow(Store::Constants, tensor.spec.bytes() as u64),
                Role::Parameter(_) => in_region(Region::Parameters, &tensor.name, &tensor.spec.shape)?,
                Role::State(_) => in_region(Region::State, &tensor.name, &tensor.spec.shape)?,
                Role::Gradient(parameter) => {
                    in_region(Region::Gradients, &self.graph.tensor(*parameter).name, &tensor.spec.shape)?
                }
                Role::Flat(region) => {
                    Place { store: Store::Region(*region), offset: 0, bytes: tensor.spec.bytes() as u64 }
                }
                Role::Value => continue,
            };
            if let Store::Region(region) = place.store {
                let length = match region {
                    Region::State | Region::AveragedState => self.layout.state_length(),
                    _ => self.layout.parameter_length(),
                };
                if place.offset + place.bytes > bytes(length) {
                    return Err(Error::tensor(&tensor.name, "is larger than its region"));
                }
                self.stores.insert(place.store, bytes(length));
            }
            self.check(id, place.bytes, matches!(tensor.role, Role::Flat(_)))?;
            self.places.insert(id, place);
        }
        for metric in metrics {
            let tensor = self.graph.tensor(*metric);
            if self.views[metric.0].root != *metric
                || tensor.spec.bytes() != 4
                || self.places.contains_key(metric)
            {
                return Err(Error::tensor(
                    &tensor.name,
                    format!("({}) cannot be a metric: it is not a separate scalar", tensor.spec),
                ));
            }
            let place = self.grow(Store::Metrics, 4);
            self.places.insert(*metric, place);
        }
        let largest = self.stores.iter().find(|(_, bytes)| **bytes > self.profile.buffer);
        if let Some((store, bytes)) = largest {
            let tensor = format!("{store:?}");
            let advice = "use a smaller `GoogLeNet::width`".to_string();
            return Err(Error::TooLarge { tensor, needed: *bytes, limit: self.profile.buffer, advice });
        }
        Ok(())
    }

    /// Rejects a tensor that exceeds the binding size, with advice.
    fn check(&self, id: TensorId, bytes: u64, in_parts: bool) -> Result<()> {
        let limit = self.profile.binding.min(self.profile.buffer);
        if bytes <= limit || in_parts {
            return Ok(());
        }
        let tensor = self.graph.tensor(id);
        let advice = match tensor.role {
            Role::Input | Role::Value => self.largest_batch(id, bytes, limit),
            // The size of a weight does not depend on the batch.
            _ => None,
        };
        let advice = match advice {
            Some(fits) => format!("the largest `LoaderOptions::batch` that fits is {fits}"),
            None if matches!(tensor.role, Role::Input | Role::Value) => {
                "use a smaller `GoogLeNet::input` or `GoogLeNet::width`".to_string()
            }
            None => "use a smaller `GoogLeNet::width` or fewer `GoogLeNet::classes`".to_string(),
        };
        Err(Error::TooLarge { tensor: tensor.name.clone(), needed: bytes, limit, advice })
    }

    /// The largest batch whose tensors fit a binding of `limit` bytes; `None` if the tensor's size
    /// does not depend on the batch.
    fn largest_batch(&self, id: TensorId, bytes: u64, limit: u64) -> Option<u64> {
        let shape = &self.graph.tensor(id).spec.shape;
        let batch = shape.dims().first().copied().filter(|batch| *batch > 1 && shape.rank() > 1)?;
        // A value with another first dimension than the images depends on weights, for example a
        // gradient.
        let images = self.graph.tensors().find(|(_, t)| t.role == Role::Input)?.1;
        if images.spec.dims().first() != Some(&batch) {
            return None;
        }
        // This is the first tensor that is too large, not necessarily the largest.
        let batched =
            self.graph.tensors().map(|(_, t)| t).filter(|t| {
                matches!(t.role, Role::Input | Role::Value) && t.spec.dims().first() == Some(&batch)
            });
        let largest = batched.map(|t| t.spec.bytes() as u64).max().unwrap_or(bytes).max(bytes);
        Some(limit / (largest / batch as u64).max(1)).filter(|fits| *fits > 0)
    }

    /// Chooses the implementation of each executed node.
    fn choose(&self) -> Result<Vec<(NodeId, Implementation)>> {
        let mut offered = Vec::new();
        for (id, node) in self.graph.nodes() {
            let inputs: Vec<Operand> =
                node.inputs.iter().map(|t| operand(self.graph, self.views, *t)).collect();
            let outputs: Vec<Operand> =
                node.outputs.iter().map(|t| operand(self.graph, self.views, *t)).collect();
            let operands = Operands { layer: &node.name, inputs: &inputs, outputs: &outputs };
            if self.profile.class == AdapterClass::Cpu {
                let specs: Vec<&Spec> = inputs.iter().map(|operand| &operand.spec).collect();
                if runs(&node.op.aliases(&specs), outputs.len()) {
                    let list = vec![Implementation::new("cpu", Vec::new())];
                    offered.push(Offer { node: id, list, choice: 0, measured: true });
                }
                continue;
            }
            let list = offers(node.op.as_ref(), &operands, self.profile);
            if list.is_empty() {
                continue;
            }
            let measured =
                self.choices.and_then(|c| c.pick(node.op.as_ref(), &operands, &list, self.profile));
            let chosen = measured.or_else(|| choose(&list, self.profile)).ok_or_else(|| Error::Layer {
                layer: node.name.clone(),
                operation: node.op.name(),
                reason: "no kernel fits the limits of this device (workgroup memory, invocations, or 65,535 workgroups per dimension); use a smaller `LoaderOptions::batch` or `GoogLeNet::input`".into(),
            })?;
            let choice = list.iter().position(|other| std::ptr::eq(other, chosen)).unwrap_or(0);
            let measured = measured.is_some();
            offered.push(Offer { node: id, list, choice, measured });
        }
        if self.profile.grouped {
            unify(self.graph, &mut offered, self.profile);
        }
        let chosen =
            offered.into_iter().map(|Offer { node, mut list, choice, .. }| (node, list.swap_remove(choice)));
        Ok(chosen.collect())
    }

    /// Whether the kernels of each chosen node may run in one dispatch with others.
    fn may_group(&self, chosen: &[(NodeId, Implementation)]) -> Vec<bool> {
        let may = |(id, implementation): &(NodeId, Implementation)| {
            let node = self.graph.node(*id);
            let operands = |list: &[TensorId]| -> Vec<Operand> {
                list.iter().map(|t| operand(self.graph, self.views, *t)).collect()
            };
            let (inputs, outputs) = (operands(&node.inputs), operands(&node.outputs));
            self.profile.grouped && implementation.is_proven(&inputs, &outputs, self.profile)
        };
        chosen.iter().map(may).collect()
    }

    /// Places what a schedule needs, and makes its dispatches.
    fn bind(
        &mut self,
        scheduler: &Scheduler<'_>,
        schedule: &Schedule,
        chosen: Vec<(NodeId, Implementation)>,
    ) -> Result<Bound> {
        let (nodes, memory) = self.place_values(schedule, &scheduler.blocks(schedule), chosen)?;
        let dispatcher = Dispatcher {
            profile: self.profile,
            graph: self.graph,
            views: self.views,
            places: &self.places,
            nodes: &nodes,
            may_group: &scheduler.may_group,
        };
        let (preparing, running) = schedule.dispatches.split_at(schedule.preparing);
        let all = |groups: &[Vec<Member>]| {
            let lists = groups.iter().map(|members| dispatcher.dispatches(members));
            Ok::<_, Error>(lists.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
        };
        let (preparation, dispatches) = (all(preparing)?, all(running)?);
        let changes_weights = schedule.changes_weights;
        Ok(Bound { nodes, memory, preparation, dispatches, changes_weights })
    }

    /// Packs values and scratch buffers into the arena, and packed weights into memory of their
    /// own.
    fn place_values(
        &mut self,
        schedule: &Schedule,
        blocks: &Blocks,
        chosen: Vec<(NodeId, Implementation)>,
    ) -> Result<(Vec<PlannedNode>, Memory)> {
        for (root, _) in &schedule.roots {
            self.check(*root, self.graph.tensor(*root).spec.bytes() as u64, false)?;
        }
        let values = self.pack(&blocks.values, Store::Arena);
        let weights = self.pack(&blocks.packed, Store::Packed);
        for ((root, _), (block, offset)) in schedule.roots.iter().zip(&blocks.roots) {
            let bytes = self.graph.tensor(*root).spec.bytes() as u64;
            let Place { store, offset: start, .. } = values[*block];
            self.places.insert(*root, Place { store, offset: start + offset, bytes });
        }
        let nodes = chosen.into_iter().zip(&blocks.scratch).map(|((node, implementation), list)| {
            let place = |(packed, i): &(bool, usize)| if *packed { weights[*i] } else { values[*i] };
            PlannedNode { node, implementation, scratch: list.iter().map(place).collect() }
        });
        let alignment = self.profile.alignment.max(METRIC_STRIDE);
        let memory = Memory {
            naive_bytes: self.naive_bytes(),
            bound_bytes: peak(&blocks.values, alignment) + peak(&blocks.packed, alignment),
            ..Memory::default()
        };
        Ok((nodes.collect(), memory))
    }

    /// Packs blocks into chunks, which are new buffers.
    fn pack(&mut self, blocks: &[Block], store: fn(usize) -> Store) -> Vec<Place> {
        let alignment = self.profile.alignment.max(METRIC_STRIDE);
        let (placements, chunks) = pack(blocks, alignment, self.profile.buffer);
        self.stores.extend(chunks.iter().enumerate().map(|(i, bytes)| (store(i), *bytes)));
        let places = placements.iter().zip(blocks);
        places
            .map(|(at, block)| Place { store: store(at.chunk), offset: at.offset, bytes: block.bytes })
            .collect()
    }

    /// Bytes of all computed values without sharing.
    fn naive_bytes(&self) -> u64 {
        let values = self.graph.tensors().filter(|(_, t)| matches!(t.role, Role::Value));
        values.map(|(_, t)| t.spec.bytes() as u64).sum()
    }
}
