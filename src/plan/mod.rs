//! From a graph to memory and dispatches: which tensors share storage, where each lies, which
//! kernels run.

mod alias;
mod arena;
mod choices;
mod cost;
mod layout;

pub use alias::View;
pub use arena::{Block, Placement, pack, peak};
pub use choices::{Choice, Choices, Effort, fingerprint};
pub use cost::{DispatchCost, ENOUGH_INTENSITY, NodeCost};
pub use layout::{Entry, Layout};

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId, Region, Role, Tensor, TensorId};
use crate::kernel::{Implementation, Operand, Operands, Profile, choose};
use crate::ops::offers;
use crate::tensor::Shape;

/// A buffer of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Store {
    /// A region that outlives the step; see [`Layout`].
    Region(Region),
    /// A chunk of the arena, whose parts serve one tensor after another.
    Arena(usize),
    /// What the host writes before each run.
    Inputs,
    /// Scalars that are read back after each run.
    Metrics,
    /// What the host writes once.
    Constants,
}

/// A stretch of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The buffer.
    pub store: Store,
    /// Bytes from its start.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// What one node runs.
#[derive(Clone, Debug)]
pub struct PlannedNode {
    /// The node in [`Plan::graph`].
    pub node: NodeId,
    /// The chosen way to run it.
    pub implementation: Implementation,
    /// The places of its scratch buffers.
    pub scratch: Vec<Place>,
}

/// Bytes that a plan takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// All values with a buffer of their own each.
    pub naive_bytes: u64,
    /// The arena.
    pub planned_bytes: u64,
    /// The most bytes of values that live at one time: no plan can need less.
    pub bound_bytes: u64,
    /// Inputs, metrics and constants.
    pub io_bytes: u64,
    /// Parameters, running statistics, gradients and optimizer vectors.
    pub persistent_bytes: u64,
}

impl Memory {
    /// Everything that the plan takes on the device.
    pub fn total_bytes(&self) -> u64 {
        self.planned_bytes + self.io_bytes + self.persistent_bytes
    }
}

/// What a plan is made for, beside the graph.
#[derive(Clone, Debug)]
pub struct PlanOptions<'a> {
    /// The device.
    pub profile: &'a Profile,
    /// Tensors that stay readable after a run.
    pub outputs: &'a [TensorId],
    /// Scalars that come back to the host after each run, in this order.
    pub metrics: &'a [TensorId],
    /// The layout to use, which must have all parameters and state of the graph: to share the
    /// memory of another plan.
    pub layout: Option<Arc<Layout>>,
    /// Implementations to prefer to the defaults, where they were measured.
    pub choices: Option<&'a Choices>,
}

/// Where everything lies and what runs, in order.
#[derive(Debug)]
pub struct Plan {
    /// The graph with the copies that storage needs.
    pub graph: Graph,
    /// The layout of what outlives a step.
    pub layout: Arc<Layout>,
    /// What runs, in order.
    pub nodes: Vec<PlannedNode>,
    /// Bytes of each buffer.
    pub stores: BTreeMap<Store, u64>,
    /// What it takes.
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
    /// [`Error::TooLarge`] with what would fit, if a tensor exceeds a binding of the device;
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
        let lifetimes = lifetimes(&resolved, &kept, |root| !builder.places.contains_key(&root));
        let chosen = builder.choose()?;
        let (nodes, memory) = builder.place_values(&lifetimes, chosen)?;
        let Builder { stores, places, .. } = builder;
        let mut plan = Self {
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
                Store::Arena(_) => plan.memory.planned_bytes += bytes,
                Store::Inputs | Store::Metrics | Store::Constants => plan.memory.io_bytes += bytes,
            }
        }
        Ok(plan)
    }

    /// The tensor of [`Plan::graph`] that stands for a tensor of the graph that was planned.
    ///
    /// # Errors
    /// [`Error::Tensor`] if that graph has no such tensor.
    pub fn tensor(&self, original: TensorId) -> Result<TensorId> {
        let found = self.map.get(&original).copied();
        found.ok_or_else(|| Error::tensor(format!("#{}", original.0), "is not in the planned graph"))
    }

    /// The place of the storage that a tensor of [`Plan::graph`] lies in, and its view of it.
    pub fn place(&self, tensor: TensorId) -> (Place, View) {
        let view = self.views[tensor.0];
        (self.places[&view.root], view)
    }

    /// A tensor of [`Plan::graph`] with its place and its view.
    ///
    /// # Errors
    /// [`Error::Tensor`] if that graph has no such tensor, or nothing of the plan uses it.
    pub(crate) fn lookup(&self, id: TensorId) -> Result<(&Tensor, Place, View)> {
        let tensor = self.graph.get(id).zip(self.views.get(id.0));
        let found = tensor.and_then(|(tensor, view)| Some((tensor, *self.places.get(&view.root)?, *view)));
        found.ok_or_else(|| {
            Error::tensor(format!("#{}", id.0), "is not in the planned graph, or has no place")
        })
    }

    /// A tensor of [`Plan::graph`] as kernels see it.
    pub fn operand(&self, tensor: TensorId) -> Operand {
        operand(&self.graph, &self.views, tensor)
    }

    /// Number of scalars that come back after each run.
    pub fn metric_count(&self) -> usize {
        self.metrics
    }
}

/// The most bytes of values that live at one time when this graph runs and `outputs` stay readable:
/// what a plan's arena needs at least, its kernels' scratch apart.
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

/// For each root that is `wanted`: the first and the last node that touches it.
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

fn operand(graph: &Graph, views: &[View], id: TensorId) -> Operand {
    let View { offset, batch_stride, .. } = views[id.0];
    Operand { spec: graph.tensor(id).spec.clone(), offset, batch_stride }
}

/// Bytes between the scalars of the metrics buffer: each is a binding of its own.
pub(crate) const METRIC_STRIDE: u64 = 256;

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
    /// Takes the next `bytes` of a buffer that only grows.
    fn grow(&mut self, store: Store, bytes: u64) -> Place {
        let size = self.stores.entry(store).or_default();
        let offset = *size;
        *size += bytes.next_multiple_of(METRIC_STRIDE.max(self.profile.alignment));
        Place { store, offset, bytes }
    }

    /// Places what nodes do not make, gradients, and metrics.
    fn place_persistent(&mut self, metrics: &[TensorId]) -> Result<()> {
        let offsets = self.layout.offsets();
        let bytes = |elements: usize| 4 * elements as u64;
        for (id, tensor) in self.graph.tensors() {
            let in_region = |region, name: &str, shape: &Shape| {
                let entry = offsets.get(name).filter(|e| e.shape == *shape);
                let entry = entry.ok_or_else(|| {
                    Error::tensor(name, format!("is not {shape} in the layout that is shared"))
                })?;
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
                    return Err(Error::tensor(&tensor.name, "is longer than its region"));
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
                    format!("({}) cannot be a metric: not a scalar of its own", tensor.spec),
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

    /// Refuses a tensor that no binding can hold, with what would fit.
    fn check(&self, id: TensorId, bytes: u64, in_parts: bool) -> Result<()> {
        let limit = self.profile.binding.min(self.profile.buffer);
        if bytes <= limit || in_parts {
            return Ok(());
        }
        let tensor = self.graph.tensor(id);
        let advice = match tensor.role {
            Role::Input | Role::Value => self.largest_batch(id, bytes, limit),
            // A weight is as large whatever the batch.
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

    /// The largest batch whose tensors fit a binding of `limit` bytes, if a smaller batch is what
    /// helps: if the tensor at fault is of a batch.
    fn largest_batch(&self, id: TensorId, bytes: u64, limit: u64) -> Option<u64> {
        let shape = &self.graph.tensor(id).spec.shape;
        let batch = shape.dims().first().copied().filter(|batch| *batch > 1 && shape.rank() > 1)?;
        // Where the batch of the network's images is another, this value is made from weights: a
        // gradient of one, for example.
        let images = self.graph.tensors().find(|(_, t)| t.role == Role::Input)?.1;
        if images.spec.dims().first() != Some(&batch) {
            return None;
        }
        // This tensor is the first that is too large, not always the largest.
        let batched =
            self.graph.tensors().map(|(_, t)| t).filter(|t| {
                matches!(t.role, Role::Input | Role::Value) && t.spec.dims().first() == Some(&batch)
            });
        let largest = batched.map(|t| t.spec.bytes() as u64).max().unwrap_or(bytes).max(bytes);
        Some(limit / (largest / batch as u64).max(1)).filter(|fits| *fits > 0)
    }

    /// The implementation of each node that runs anything.
    fn choose(&self) -> Result<Vec<(NodeId, Implementation)>> {
        let mut chosen = Vec::new();
        for (id, node) in self.graph.nodes() {
            let inputs: Vec<Operand> =
                node.inputs.iter().map(|t| operand(self.graph, self.views, *t)).collect();
            let outputs: Vec<Operand> =
                node.outputs.iter().map(|t| operand(self.graph, self.views, *t)).collect();
            let operands = Operands { layer: &node.name, inputs: &inputs, outputs: &outputs };
            let list = offers(node.op.as_ref(), &operands, self.profile);
            if list.is_empty() {
                continue;
            }
            let measured =
                self.choices.and_then(|c| c.pick(node.op.as_ref(), &operands, &list, self.profile));
            let implementation =
                measured.or_else(|| choose(&list, self.profile)).ok_or_else(|| Error::Layer {
                    layer: node.name.clone(),
                    operation: node.op.name(),
                    reason: "no kernel fits the limits of this device (workgroup memory, invocations, or 65,535 workgroups in a row); use a smaller `LoaderOptions::batch` or `GoogLeNet::input`".into(),
                })?;
            chosen.push((id, implementation.clone()));
        }
        Ok(chosen)
    }

    /// Packs values and scratch buffers into the arena.
    fn place_values(
        &mut self,
        lifetimes: &BTreeMap<TensorId, (usize, usize)>,
        chosen: Vec<(NodeId, Implementation)>,
    ) -> Result<(Vec<PlannedNode>, Memory)> {
        let mut blocks = Vec::new();
        for (root, &(first, last)) in lifetimes {
            let bytes = self.graph.tensor(*root).spec.bytes() as u64;
            self.check(*root, bytes, false)?;
            blocks.push(Block { bytes, first, last });
        }
        let roots = blocks.len();
        for (id, implementation) in &chosen {
            blocks.extend(implementation.scratch.iter().map(|&bytes| Block {
                bytes,
                first: id.0,
                last: id.0,
            }));
        }
        let alignment = self.profile.alignment.max(METRIC_STRIDE);
        let (placements, chunks) = pack(&blocks, alignment, self.profile.buffer);
        let place = |i: usize| Place {
            store: Store::Arena(placements[i].chunk),
            offset: placements[i].offset,
            bytes: blocks[i].bytes,
        };
        self.places.extend(lifetimes.keys().enumerate().map(|(i, root)| (*root, place(i))));
        self.stores.extend(chunks.iter().enumerate().map(|(i, bytes)| (Store::Arena(i), *bytes)));
        let mut next = roots;
        let nodes = chosen.into_iter().map(|(node, implementation)| {
            let scratch = (next..next + implementation.scratch.len()).map(place).collect();
            next += implementation.scratch.len();
            PlannedNode { node, implementation, scratch }
        });
        let memory = Memory {
            naive_bytes: self.naive_bytes(),
            bound_bytes: peak(&blocks, alignment),
            ..Memory::default()
        };
        Ok((nodes.collect(), memory))
    }

    /// Bytes if each value that a node makes had memory of its own.
    fn naive_bytes(&self) -> u64 {
        let values = self.graph.tensors().filter(|(_, t)| matches!(t.role, Role::Value));
        values.map(|(_, t)| t.spec.bytes() as u64).sum()
    }
}
