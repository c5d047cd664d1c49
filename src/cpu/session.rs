//! A plan on the CPU: its memory, and the operands of its nodes as ranges of it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use web_time::Instant;

use super::operands::{Call, Input, Output};
use super::regions::{Regions, zeros};
use super::{Cpu, kernels};
use crate::error::{Error, Result};
use crate::gpu::element::{decode, encode};
use crate::gpu::{DispatchTime, Interval, Metrics};
use crate::graph::{Alias, Node, NodeId, Role, TensorId};
use crate::kernel::Step;
use crate::plan::{METRIC_STRIDE, Member, Plan, Store, View};
use crate::reference::{self, Array};
use crate::tensor::{Element, Spec};

/// The memory of a session, beside the regions.
type Memory = BTreeMap<Store, Vec<f32>>;

/// A plan that is ready to run on the CPU.
#[derive(Debug)]
pub struct Session {
    cpu: Cpu,
    plan: Arc<Plan>,
    regions: Arc<Regions>,
    memory: Mutex<Memory>,
    nodes: Vec<Bound>,
    runs: u64,
    finished: VecDeque<Metrics>,
    /// Seconds in runs, if watched.
    busy: Option<f64>,
}

/// A tensor that was read after a run.
#[derive(Debug)]
pub struct Reading {
    values: Vec<f32>,
}

/// A node with the places of its operands.
#[derive(Debug)]
struct Bound {
    node: NodeId,
    /// The ranges of memory that its operands are in, in the order of the memory, disjoint.
    slots: Vec<Slot>,
    inputs: Vec<Place>,
    outputs: Vec<Place>,
}

/// A range of memory, in elements of 4 bytes.
#[derive(Clone, Debug)]
struct Slot {
    store: Store,
    range: Range<usize>,
}

/// The place of an operand.
#[derive(Clone, Debug)]
struct Place {
    slot: usize,
    /// Elements of 4 bytes before the storage of its root, in the slot.
    base: usize,
    /// Elements of its type from there to its first element.
    offset: usize,
    stride: usize,
    spec: Spec,
    access: Access,
}

/// How an operand is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// In its place.
    Direct,
    /// In a dense f32 copy: values stored as f16, or in memory that another operand writes.
    Copied,
    /// An input whose values are in an output.
    InPlace(usize),
}

impl Place {
    /// Elements of the storage type from the first to the last.
    fn span(&self) -> usize {
        let count = self.spec.dims().first().copied().unwrap_or(1).max(1);
        (count - 1) * self.stride + self.spec.shape.item()
    }

    /// The values in a slot, dense; u32 values as their bits.
    fn load(&self, slot: &[f32]) -> Vec<f32> {
        let storage = &slot[self.base..];
        if self.spec.element != Element::F16 {
            return dense(&self.spec, &storage[self.offset..], self.stride);
        }
        let halves: &[half::f16] = bytemuck::cast_slice(storage);
        let bytes = bytemuck::cast_slice(&halves[self.offset..][..self.span()]);
        dense(&self.spec, &decode(Element::F16, bytes), self.stride)
    }

    /// Writes dense values to a slot; the opposite of [`Place::load`].
    fn store(&self, values: &[f32], slot: &mut [f32]) {
        let storage = &mut slot[self.base..];
        let item = self.spec.shape.item().max(1);
        if self.spec.element != Element::F16 {
            for (to, from) in storage[self.offset..].chunks_mut(self.stride).zip(values.chunks(item)) {
                to[..from.len()].copy_from_slice(from);
            }
            return;
        }
        let encoded = encode(Element::F16, values);
        let rounded: &[half::f16] = bytemuck::cast_slice(encoded.bytes());
        let halves: &mut [half::f16] = bytemuck::cast_slice_mut(storage);
        for (to, from) in halves[self.offset..].chunks_mut(self.stride).zip(rounded.chunks(item)) {
            to[..from.len()].copy_from_slice(from);
        }
    }
}

/// The elements of a tensor whose batch items are `stride` apart.
fn dense(spec: &Spec, values: &[f32], stride: usize) -> Vec<f32> {
    let item = spec.shape.item();
    let count = spec.shape.volume() / item.max(1);
    (0..count).flat_map(|n| &values[n * stride..][..item]).copied().collect()
}

/// Finds the places of a node's operands.
fn bind(plan: &Plan, regions: &Regions, id: NodeId, node: &Node) -> Result<Bound> {
    let mut slots: Vec<Slot> = Vec::new();
    let mut operands: Vec<(Store, usize, View, Spec)> = Vec::new();
    for tensor in node.inputs.iter().chain(&node.outputs) {
        let (tensor, place, view) = plan.lookup(*tensor)?;
        let store = match place.store {
            Store::Region(region) => Store::Region(regions.place(region)?),
            store => store,
        };
        let words = |bytes: u64| usize::try_from(bytes / 4).unwrap_or(usize::MAX);
        let start = words(place.offset);
        slots.push(Slot { store, range: start..start.saturating_add(words(place.bytes + 3)) });
        operands.push((store, start, view, tensor.spec.clone()));
    }
    slots.sort_by_key(|slot| (slot.store, slot.range.start));
    // Whole regions and tensors in them overlap.
    slots.dedup_by(|next, slot| {
        let same = next.store == slot.store && next.range.start < slot.range.end;
        if same {
            slot.range.end = slot.range.end.max(next.range.end);
        }
        same
    });
    let mut places = Vec::with_capacity(operands.len());
    for (store, start, view, spec) in operands {
        let slot = slots.iter().position(|slot| slot.store == store && slot.range.contains(&start));
        let slot = slot.ok_or_else(|| Error::internal("an operand has no memory"))?;
        let base = start - slots[slot].range.start;
        let access = if spec.element == Element::F16 { Access::Copied } else { Access::Direct };
        places.push(Place {
            slot,
            base,
            offset: view.offset,
            stride: view.batch_stride.max(1),
            spec,
            access,
        });
    }
    let outputs = places.split_off(node.inputs.len());
    let mut bound = Bound { node: id, slots, inputs: places, outputs };
    bound.share(&node.op.aliases(&plan.graph.input_specs(node)));
    Ok(bound)
}

impl Bound {
    /// Decides how operands in the same memory are accessed.
    fn share(&mut self, aliases: &[Alias]) {
        let mut written = Vec::new();
        for output in &mut self.outputs {
            if written.contains(&output.slot) {
                output.access = Access::Copied;
            }
            written.push(output.slot);
        }
        for (i, input) in self.inputs.iter_mut().enumerate() {
            if !written.contains(&input.slot) {
                continue;
            }
            input.access = Access::Copied;
            for alias in aliases {
                let Alias::InPlace { output, input: position } = *alias else { continue };
                let same = self.outputs.get(output).is_some_and(|output| {
                    (output.slot, output.base, output.offset) == (input.slot, input.base, input.offset)
                });
                if position == i && same {
                    input.access = Access::InPlace(output);
                }
            }
        }
    }
}

impl Session {
    /// Allocates the plan's memory. With `regions`, it shares the memory of another session with
    /// the same layout.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the system has too little memory, [`Error::Tensor`] if a tensor of
    /// the plan has no memory, [`Error::Layer`] for an operation without a CPU implementation,
    /// [`Error::Config`] if `regions` has another layout.
    pub fn new(cpu: &Cpu, plan: Arc<Plan>, regions: Option<Arc<Regions>>) -> Result<Self> {
        let regions = match regions {
            Some(regions) if regions.layout == plan.layout => regions,
            Some(_) => return Err(Error::Config("sessions that share memory must share the layout".into())),
            None => Arc::new(Regions::new(&plan)?),
        };
        let mut memory = Memory::new();
        for (store, bytes) in &plan.stores {
            if !matches!(store, Store::Region(_)) {
                memory.insert(*store, zeros(&format!("{store:?}"), *bytes)?);
            }
        }
        let mut nodes = Vec::with_capacity(plan.nodes.len());
        for planned in &plan.nodes {
            let node = plan.graph.node(planned.node);
            let op = node.op.as_ref();
            if kernels::of(op).is_none() && reference::of::<f32>(op).is_none() {
                return Err(Error::Layer {
                    layer: node.name.clone(),
                    operation: op.name(),
                    reason: "does not run on the CPU: `incept::reference::register` adds its CPU reference"
                        .into(),
                });
            }
            nodes.push(bind(&plan, &regions, planned.node, node)?);
        }
        let (cpu, memory) = (cpu.clone(), Mutex::new(memory));
        let session =
            Self { cpu, plan, regions, memory, nodes, runs: 0, finished: VecDeque::new(), busy: None };
        for (id, tensor) in session.plan.graph.tensors() {
            if let Role::Constant(values) = &tensor.role {
                session.write(id, values)?;
            }
        }
        Ok(session)
    }

    /// The device.
    pub(crate) fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The persistent memory.
    pub fn regions(&self) -> &Arc<Regions> {
        &self.regions
    }

    /// Nodes that run.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an input of [`Plan::graph`] for the next run, rounded to f16 if stored as such.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the size differs.
    pub fn write(&self, tensor: TensorId, values: &[f32]) -> Result<()> {
        let element = self.plan.lookup(tensor)?.0.spec.element;
        self.write_bytes(tensor, values.len(), encode(element, values).bytes())
    }

    /// Writes an input of u32 for the next run, as [`Session::write`].
    ///
    /// # Errors
    /// [`Error::Tensor`] if the size differs.
    pub fn write_labels(&self, tensor: TensorId, values: &[u32]) -> Result<()> {
        self.write_bytes(tensor, values.len(), bytemuck::cast_slice(values))
    }

    fn write_bytes(&self, id: TensorId, count: usize, bytes: &[u8]) -> Result<()> {
        let (tensor, place, _) = self.plan.lookup(id)?;
        if count != tensor.spec.shape.volume() || bytes.len() != tensor.spec.bytes() {
            let reason = format!("is {} and cannot receive {count} values", tensor.spec);
            return Err(Error::tensor(&tensor.name, reason));
        }
        let start = usize::try_from(place.offset).unwrap_or(usize::MAX);
        let write = |memory: Option<&mut Vec<f32>>| {
            let all: &mut [u8] = bytemuck::cast_slice_mut(memory?);
            all.get_mut(start..)?.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Some(())
        };
        let done = match place.store {
            Store::Region(region) => write(self.regions.lock().get_mut(&self.regions.place(region)?)),
            store => write(self.lock().get_mut(&store)),
        };
        done.ok_or_else(|| Error::tensor(&tensor.name, "has no memory in this session"))
    }

    /// Runs the whole plan and keeps its scalars. Returns the [`Metrics::run`] of the run.
    ///
    /// # Errors
    /// [`Error::Layer`] for operands that an operation rejects.
    pub fn submit(&mut self, step: &Step) -> Result<u64> {
        self.submit_nodes(step, 0..usize::MAX, true)?;
        Ok(self.runs - 1)
    }

    /// Runs a range of nodes of [`Plan::graph`]. With `send`, they count as a run and its scalars
    /// are kept.
    ///
    /// # Errors
    /// As [`Session::submit`].
    pub fn submit_nodes(&mut self, step: &Step, nodes: Range<usize>, send: bool) -> Result<()> {
        let start = Instant::now();
        let wanted: Vec<&Bound> = self.nodes.iter().filter(|b| nodes.contains(&b.node.index())).collect();
        self.run(&wanted, step, |_| ())?;
        if !send {
            return Ok(());
        }
        if let Some(busy) = &mut self.busy {
            *busy += start.elapsed().as_secs_f64();
        }
        let run = self.runs;
        self.runs += 1;
        if self.plan.metric_count() > 0 {
            let stride = usize::try_from(METRIC_STRIDE / 4).unwrap_or(1);
            let memory = self.lock();
            let all = memory.get(&Store::Metrics).into_iter().flatten();
            let values = all.step_by(stride).take(self.plan.metric_count()).copied().collect();
            drop(memory);
            self.finished.push_back(Metrics { run, values });
        }
        Ok(())
    }

    /// Runs nodes in order, and calls `after` with the number of each finished one.
    fn run(&self, nodes: &[&Bound], step: &Step, mut after: impl FnMut(usize) + Send) -> Result<()> {
        let (mut memory, mut regions) = (self.lock(), self.regions.lock());
        // Regions come first in the order of stores.
        let regions = regions.iter_mut().map(|(region, values)| (Store::Region(*region), values));
        let stores = regions.chain(memory.iter_mut().map(|(store, values)| (*store, values)));
        let mut stores: Vec<(Store, &mut [f32])> =
            stores.map(|(store, values)| (store, values.as_mut_slice())).collect();
        let graph = &self.plan.graph;
        self.cpu.install(|| {
            for (number, bound) in nodes.iter().enumerate() {
                let node = graph.node(bound.node);
                bound.run(node, split(&mut stores, &bound.slots)?, step)?;
                after(number);
            }
            Ok(())
        })
    }

    /// The scalars of finished runs, oldest first.
    pub fn arrived(&mut self) -> Vec<Metrics> {
        self.finished.drain(..).collect()
    }

    /// Runs the whole plan once, and returns the timing of each node in order. It has the effects
    /// of a run, but no scalars are kept.
    ///
    /// # Errors
    /// As [`Session::submit`].
    pub fn profile(&self, step: &Step) -> Result<Vec<DispatchTime>> {
        let nodes: Vec<&Bound> = self.nodes.iter().collect();
        let start = Instant::now();
        let mut ends = Vec::with_capacity(nodes.len());
        self.run(&nodes, step, |_| ends.push(start.elapsed().as_secs_f64()))?;
        let mut before = 0.0;
        let time = |(node, end): (usize, f64)| {
            let interval = Interval { start: before, seconds: end - before };
            before = end;
            DispatchTime { members: vec![Member { node, kernel: 0 }], interval }
        };
        Ok(ends.into_iter().enumerate().map(time).collect())
    }

    /// Starts measuring the seconds in runs with scalars.
    pub fn watch(&mut self) {
        self.busy = Some(0.0);
    }

    /// Seconds in runs since [`Session::watch`]; `None` if not watched.
    pub fn busy_seconds(&self) -> Option<f64> {
        self.busy
    }

    /// Reads a tensor of [`Plan::graph`], dense and as f32.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the plan has no such tensor.
    pub fn read(&self, id: TensorId) -> Result<Vec<f32>> {
        let (tensor, place, view) = self.plan.lookup(id)?;
        let stored = Place {
            slot: 0,
            base: usize::try_from(place.offset / 4).unwrap_or(usize::MAX),
            offset: view.offset,
            stride: view.batch_stride.max(1),
            spec: tensor.spec.clone(),
            access: Access::Copied,
        };
        let values = match place.store {
            Store::Region(region) => {
                let region = self.regions.place(region)?;
                self.regions.lock().get(&region).map(|words| stored.load(words))
            }
            store => self.lock().get(&store).map(|words| stored.load(words)),
        };
        let value = |x: f32| if tensor.spec.element == Element::U32 { x.to_bits() as f32 } else { x };
        let values = values.map(|values| values.into_iter().map(value).collect());
        values.ok_or_else(|| Error::tensor(&tensor.name, "has no memory in this session"))
    }

    /// Copies rows of a tensor of another session to rows of an input of this one; `rows` are pairs
    /// of (source row, target row).
    ///
    /// # Errors
    /// [`Error::Tensor`] if rows differ in shape or do not exist.
    pub(crate) fn receive_rows(
        &self,
        input: TensorId,
        (source, output): (&Self, TensorId),
        rows: &[(usize, usize)],
    ) -> Result<()> {
        let (from, to) = (&source.plan.lookup(output)?.0.spec, self.plan.lookup(input)?.0);
        if from.element != to.spec.element || from.dims().get(1..) != to.spec.dims().get(1..) {
            let reason = format!("is {} and cannot receive rows of {from}", to.spec);
            return Err(Error::tensor(&to.name, reason));
        }
        let item = from.shape.item();
        let (values, mut there) = (source.read(output)?, self.read(input)?);
        for (a, b) in rows {
            let pair = values.get(a * item..(a + 1) * item).zip(there.get_mut(b * item..(b + 1) * item));
            let Some((from_row, to_row)) = pair else {
                let reason = format!("cannot copy row {a} of {from} to row {b} of {}", to.spec);
                return Err(Error::tensor(&to.name, reason));
            };
            to_row.copy_from_slice(from_row);
        }
        self.write(input, &there)
    }

    /// Reads a tensor, for [`Session::receive`].
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn send(&self, tensor: TensorId) -> Result<Reading> {
        Ok(Reading { values: self.read(tensor)? })
    }

    /// The values of a tensor that was read before.
    pub fn receive(reading: Reading) -> Vec<f32> {
        reading.values
    }
}

/// Cuts the memory into the slots of a node.
fn split<'a>(stores: &'a mut [(Store, &mut [f32])], slots: &[Slot]) -> Result<Vec<&'a mut [f32]>> {
    let mut found = Vec::with_capacity(slots.len());
    let mut slots = slots.iter().peekable();
    for (store, memory) in stores {
        let (mut rest, mut at): (&mut [f32], usize) = (memory, 0);
        while let Some(slot) = slots.next_if(|slot| slot.store == *store) {
            let skipped = slot.range.start.checked_sub(at);
            let part = skipped.and_then(|skipped| rest.split_at_mut_checked(skipped));
            let part = part.and_then(|(_, after)| after.split_at_mut_checked(slot.range.len()));
            let (part, after) = part.ok_or_else(|| Error::internal("an operand is outside its memory"))?;
            found.push(part);
            (rest, at) = (after, slot.range.end);
        }
    }
    match slots.next() {
        Some(slot) => Err(Error::tensor(format!("{:?}", slot.store), "does not exist in this session")),
        None => Ok(found),
    }
}

impl Bound {
    /// Runs the node on its memory.
    fn run(&self, node: &Node, mut slots: Vec<&mut [f32]>, step: &Step) -> Result<()> {
        let loaded: Vec<Option<Vec<f32>>> = self
            .inputs
            .iter()
            .map(|place| (place.access == Access::Copied).then(|| place.load(slots[place.slot])))
            .collect();
        // What an output in place holds before the run counts.
        let mut copies: Vec<Option<Vec<f32>>> = self
            .outputs
            .iter()
            .map(|place| (place.access == Access::Copied).then(|| place.load(slots[place.slot])))
            .collect();
        {
            let written =
                |slot: usize| self.outputs.iter().any(|o| o.access == Access::Direct && o.slot == slot);
            let mut exclusive: Vec<Option<&mut [f32]>> = Vec::with_capacity(slots.len());
            let mut shared: Vec<&[f32]> = Vec::with_capacity(slots.len());
            for (number, slot) in slots.iter_mut().enumerate() {
                let direct = written(number);
                let slot: &mut [f32] = slot;
                if direct {
                    exclusive.push(Some(slot));
                    shared.push(&[]);
                } else {
                    exclusive.push(None);
                    shared.push(slot);
                }
            }
            let inputs =
                self.inputs.iter().zip(&loaded).map(|(place, loaded)| match (place.access, loaded) {
                    (Access::InPlace(_), _) => None,
                    (_, Some(values)) => Some(Input::new(place.spec.dims(), values, place.spec.shape.item())),
                    (_, None) => {
                        let data = &shared[place.slot][place.base + place.offset..];
                        Some(Input::new(place.spec.dims(), data, place.stride))
                    }
                });
            let inputs = inputs.collect();
            let mut outputs = Vec::with_capacity(self.outputs.len());
            for (place, copy) in self.outputs.iter().zip(&mut copies) {
                let item = place.spec.shape.item();
                outputs.push(match copy {
                    Some(values) => Output::new(place.spec.dims(), values, item),
                    None => {
                        let slot = exclusive[place.slot].take();
                        let slot = slot.ok_or_else(|| Error::internal("two outputs share memory"))?;
                        Output::new(place.spec.dims(), &mut slot[place.base + place.offset..], place.stride)
                    }
                });
            }
            let mut call = Call { inputs, outputs, step };
            if kernels::of(node.op.as_ref()).and_then(|kernel| kernel.run(&mut call)).is_none() {
                self.refer(node, &mut call)?;
            }
        }
        for (place, copy) in self.outputs.iter().zip(copies) {
            if let Some(values) = copy {
                place.store(&values, slots[place.slot]);
            }
        }
        Ok(())
    }

    /// Runs the CPU reference.
    fn refer(&self, node: &Node, call: &mut Call<'_>) -> Result<()> {
        let value = |spec: &Spec, x: f32| if spec.element == Element::U32 { x.to_bits() as f32 } else { x };
        let mut inputs: Vec<Array<f32>> = Vec::with_capacity(self.inputs.len());
        for (place, input) in self.inputs.iter().zip(&call.inputs) {
            let count = place.spec.shape.volume() / place.spec.shape.item().max(1);
            let data: Vec<f32> = match (place.access, input) {
                (Access::InPlace(output), _) => {
                    call.outputs[output].items().into_iter().flat_map(|item| item.iter().copied()).collect()
                }
                (_, Some(input)) => (0..count).flat_map(|n| input.item(n)).copied().collect(),
                (_, None) => return Err(Error::internal("an operand has no values")),
            };
            let data = data.into_iter().map(|x| value(&place.spec, x)).collect();
            inputs.push(Array::new(place.spec.dims(), data));
        }
        let specs: Vec<&Spec> = self.inputs.iter().map(|place| &place.spec).collect();
        let arrays: Vec<&Array<f32>> = inputs.iter().collect();
        let results = reference::run_operation::<f32>(node.op.as_ref(), &specs, &arrays, call.step);
        let results = results.map_err(|reason| Error::Layer {
            layer: node.name.clone(),
            operation: node.op.name(),
            reason,
        })?;
        for ((place, output), result) in self.outputs.iter().zip(&mut call.outputs).zip(results) {
            let bits = |x: f32| if place.spec.element == Element::U32 { f32::from_bits(x as u32) } else { x };
            let item = place.spec.shape.item().max(1);
            for (to, from) in output.items().into_iter().zip(result.data.chunks(item)) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = bits(*from));
            }
        }
        Ok(())
    }
}
