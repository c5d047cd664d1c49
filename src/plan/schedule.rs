//! The order of dispatches: kernels that are alike and do not depend on each other become one
//! dispatch.
//!
//! A list schedule. The next dispatch is that of the kernel with the longest chain of kernels after
//! it, with all kernels that are ready and alike. Kernels with little after them, as weight
//! gradients, so wait for others like them. Values live longer that way: a dispatch for which there
//! is no memory waits until others have freed some. Several limits are tried, and the schedule with
//! the fewest dispatches is taken among those that need little more memory than the graph's order.

use std::collections::HashMap;
use std::ops::Range;

use super::arena::{Block, pack, peak};
use super::{Place, Store, View};
use crate::graph::{Graph, NodeId, Role, TensorId};
use crate::kernel::{Implementation, Kernel, Slot, alike, workgroups};

/// A kernel of a planned node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// Index in [`Plan::nodes`](super::Plan::nodes).
    pub node: usize,
    /// Index of the kernel in the node's implementation.
    pub kernel: usize,
}

/// Distances in the graph's order over which kernels are grouped, and limits of memory relative to
/// the graph's order, in percent, that are tried.
const REACH: [usize; 6] = [1024, 512, 384, 256, 192, 128];
const LIMITS: [u64; 8] = [110, 108, 106, 105, 104, 103, 102, 100];

/// Schedules whose dispatches are bound: what cannot be bound together is split.
const TRIED: usize = 12;

/// Memory of a plan, relative to that of the graph's order, that a schedule may need, in percent.
const MOST_MEMORY: u64 = 104;

/// Bytes of a plan that is small, and bytes more that its schedule may need.
const SMALL: u64 = 16 << 20;
const SLACK: u64 = 2 << 20;

/// Part of the memory for weights that are packed before they are needed.
const EARLY: u64 = 32;

/// Part of the memory that a dispatch may need beyond the limit if there is one less in exchange.
const LITTLE: u64 = 32;

/// Values that a dispatch computes are one block if they live longer by no more than this part.
const LONGER: u64 = 8;

/// Largest grid of a group, in workgroups: two dimensions of every device hold more.
const MOST_WORKGROUPS: u64 = 1 << 28;

/// What a kernel reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Memory {
    /// The storage of a tensor in the arena.
    Root(TensorId),
    /// A buffer with fixed places.
    Fixed(Store),
    /// A scratch buffer of a node.
    Scratch(usize, usize),
}

#[derive(Clone, Debug)]
struct Access {
    memory: Memory,
    /// Elements within a batch item, or bytes of a buffer.
    range: Range<u64>,
    stride: u64,
    writes: bool,
}

/// Whether a buffer holds weights or what belongs to them.
fn is_of_weights(store: Store) -> bool {
    matches!(store, Store::Region(_) | Store::Constants)
}

impl Access {
    /// Whether the kernel changes weights or running statistics.
    fn changes_weights(&self) -> bool {
        self.writes && matches!(self.memory, Memory::Fixed(store) if is_of_weights(store))
    }

    /// Whether a kernel with only such accesses brings weights into another form.
    fn prepares(&self) -> bool {
        match self.memory {
            Memory::Fixed(store) => !self.writes && is_of_weights(store),
            Memory::Scratch(..) => true,
            Memory::Root(_) => false,
        }
    }

    fn conflicts(&self, other: &Self) -> bool {
        let apart = self.stride == other.stride
            && (self.range.end <= other.range.start || other.range.end <= self.range.start);
        self.memory == other.memory && (self.writes || other.writes) && !apart
    }
}

/// What the schedule is made of.
pub(super) struct Scheduler<'a> {
    pub graph: &'a Graph,
    pub views: &'a [View],
    pub places: &'a HashMap<TensorId, Place>,
    pub chosen: &'a [(NodeId, Implementation)],
    /// Whether the kernels of each chosen node may be grouped.
    pub may_group: Vec<bool>,
    /// Tensors that are read after the run.
    pub kept: &'a [TensorId],
    pub alignment: u64,
    /// Maximum bytes of a buffer.
    pub most: u64,
    /// Maximum bytes of a binding.
    pub bindable: u64,
    /// Bytes of memory that does not depend on the schedule.
    pub fixed: u64,
}

/// A schedule: dispatches in order, and when memory is in use.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    pub dispatches: Vec<Vec<Member>>,
    /// First and last dispatch that touches the storage of a tensor in the arena.
    pub roots: Vec<(TensorId, Range<usize>)>,
    /// The same for each scratch buffer of each chosen node.
    pub scratch: Vec<Vec<Range<usize>>>,
    /// Which scratch buffers hold nothing but weights in another form.
    pub packed: Vec<Vec<bool>>,
    /// How many of the first dispatches only prepare weights that no dispatch changes: they run
    /// when weights were changed from outside.
    pub preparing: usize,
    /// Whether a kernel changes weights or running statistics.
    pub changes_weights: bool,
}

/// Blocks of memory, and what is where in them.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    pub values: Vec<Block>,
    /// Packed weights.
    pub packed: Vec<Block>,
    /// For each of [`Schedule::roots`], its block and its offset in bytes.
    pub roots: Vec<(usize, u64)>,
    /// For each scratch buffer, whether it is packed weights, and its block.
    pub scratch: Vec<Vec<(bool, usize)>>,
}

struct Item {
    member: Member,
    accesses: Vec<Access>,
    /// Kernels with the same number can be one dispatch.
    kind: Option<usize>,
    before: Vec<usize>,
    after: Vec<usize>,
    /// The longest chain of kernels from this one to the end.
    height: usize,
    workgroups: u64,
    /// The memory that it touches: positions in a list of all, and bytes.
    touches: Vec<(usize, u64)>,
    /// Whether it only brings weights into another form.
    prepares: bool,
}

impl Scheduler<'_> {
    /// The schedules that are found, those with the fewest dispatches first.
    pub(super) fn schedules(&self) -> Vec<Schedule> {
        let items = self.items();
        let in_order: Vec<Vec<Member>> = items.iter().map(|item| vec![item.member]).collect();
        let in_order = self.timed(&items, Vec::new(), in_order);
        if items.iter().all(|item| item.kind.is_none()) {
            return vec![in_order];
        }
        let peak = self.peak(&in_order);
        // Of a small network, packed weights are most of the memory, and a megabyte is nothing.
        let slack = if peak < SMALL { SLACK } else { 0 };
        let most = (self.fixed + self.placed(&in_order, false)) * MOST_MEMORY / 100 + slack;
        // Weights that no kernel changes are prepared once, and stay.
        let constant = !items.iter().any(|item| item.accesses.iter().any(Access::changes_weights));
        let mut found: Vec<Schedule> = Vec::new();
        for reach in REACH {
            for limit in LIMITS {
                let mut queue = Queue::new(&items, peak * limit / 100 + slack);
                let preparing = if constant { queue.preparing() } else { Vec::new() };
                let grouped = queue.grouped(reach, peak / EARLY + slack);
                if found.iter().all(|other| other.dispatches[other.preparing..] != grouped[..]) {
                    found.push(self.timed(&items, preparing, grouped));
                }
            }
        }
        found.sort_by_key(|schedule| schedule.dispatches.len());
        let fitting = found.into_iter().filter(|s| self.fixed + self.placed(s, constant) <= most);
        let mut best: Vec<Schedule> = fitting.take(TRIED).collect();
        if best.is_empty() {
            best.push(in_order);
        }
        best
    }

    /// Bytes of the schedule's memory when it is placed; without packed weights if these stay.
    fn placed(&self, schedule: &Schedule, constant: bool) -> u64 {
        let blocks = self.blocks(schedule);
        let bytes = |blocks: &[Block]| pack(blocks, self.alignment, self.most).1.iter().sum::<u64>();
        bytes(&blocks.values) + if constant { 0 } else { bytes(&blocks.packed) }
    }

    fn peak(&self, schedule: &Schedule) -> u64 {
        let mut blocks = self.blocks(schedule);
        blocks.values.append(&mut blocks.packed);
        peak(&blocks.values, self.alignment)
    }

    /// The blocks of memory of a schedule.
    pub(super) fn blocks(&self, schedule: &Schedule) -> Blocks {
        let mut blocks = Blocks::default();
        let size = |root: &TensorId| self.graph.tensor(*root).spec.bytes() as u64;
        let place_of: HashMap<TensorId, usize> =
            schedule.roots.iter().enumerate().map(|(i, (root, _))| (*root, i)).collect();
        // Results of a dispatch are one block, so that others can bind them together.
        let mut block_of: Vec<Option<usize>> = vec![None; schedule.roots.len()];
        blocks.roots = vec![(0, 0); schedule.roots.len()];
        for members in &schedule.dispatches {
            for slot in 0..self.results(members) {
                let mut set: Vec<usize> = members
                    .iter()
                    .filter_map(|member| {
                        let node = self.graph.node(self.chosen[member.node].0);
                        place_of.get(&self.views[node.outputs.get(slot)?.0].root).copied()
                    })
                    .filter(|i| block_of[*i].is_none())
                    .collect();
                set.sort_unstable();
                set.dedup();
                let lives = || set.iter().map(|i| &schedule.roots[*i].1);
                let (Some(first), Some(last)) =
                    (lives().map(|r| r.start).min(), lives().map(|r| r.end).max())
                else {
                    continue;
                };
                let bytes: u64 = set.iter().map(|i| self.aligned(size(&schedule.roots[*i].0))).sum();
                let area: u64 = set
                    .iter()
                    .map(|i| {
                        self.aligned(size(&schedule.roots[*i].0)) * (1 + schedule.roots[*i].1.len() as u64)
                    })
                    .sum();
                let wide = bytes * (last - first + 1) as u64;
                if set.len() < 2 || wide > area + area / LONGER || bytes > self.bindable {
                    continue;
                }
                let mut offset = 0;
                for i in set {
                    block_of[i] = Some(blocks.values.len());
                    blocks.roots[i] = (blocks.values.len(), offset);
                    offset += self.aligned(size(&schedule.roots[i].0));
                }
                blocks.values.push(Block { bytes, first, last });
            }
        }
        for (i, (root, range)) in schedule.roots.iter().enumerate() {
            if block_of[i].is_none() {
                blocks.roots[i] = (blocks.values.len(), 0);
                blocks.values.push(Block { bytes: size(root), first: range.start, last: range.end });
            }
        }
        for (node, (_, implementation)) in self.chosen.iter().enumerate() {
            let list = implementation.scratch.iter().enumerate().map(|(i, &bytes)| {
                let range = &schedule.scratch[node][i];
                let is_packed = schedule.packed[node][i];
                let list = if is_packed { &mut blocks.packed } else { &mut blocks.values };
                list.push(Block { bytes, first: range.start, last: range.end });
                (is_packed, list.len() - 1)
            });
            let list = list.collect();
            blocks.scratch.push(list);
        }
        blocks
    }

    fn aligned(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.alignment)
    }

    /// Outputs of the nodes of a dispatch of several kernels; none of a dispatch of one.
    fn results(&self, members: &[Member]) -> usize {
        match members {
            [first, _, ..] => self.graph.node(self.chosen[first.node].0).outputs.len(),
            _ => 0,
        }
    }

    fn items(&self) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        let mut kinds: Vec<(&Kernel, Vec<Option<Store>>)> = Vec::new();
        let mut known: HashMap<Memory, Vec<usize>> = HashMap::new();
        let mut places: HashMap<Memory, usize> = HashMap::new();
        let mut fence = None;
        for (node, (id, implementation)) in self.chosen.iter().enumerate() {
            let is_fence = self.works_on_regions(*id);
            let kernels = implementation.kernels.len().max(1);
            for kernel in 0..kernels {
                let index = items.len();
                let accesses = self.accesses(node, kernel);
                let mut before: Vec<usize> = Vec::new();
                if is_fence {
                    before.extend(fence.unwrap_or(0)..index);
                } else {
                    before.extend(fence);
                }
                for access in &accesses {
                    let earlier = known.entry(access.memory).or_default();
                    before.extend(earlier.iter().copied().filter(|earlier| {
                        *earlier != index
                            && items[*earlier].accesses.iter().any(|other| access.conflicts(other))
                    }));
                    if earlier.last() != Some(&index) {
                        earlier.push(index);
                    }
                }
                before.sort_unstable();
                before.dedup();
                let kind = implementation.kernels.get(kernel).filter(|k| k.groupable && self.may_group[node]);
                let kind = kind.map(|k| {
                    let stores = self.stores(node, k);
                    let found = kinds.iter().position(|(other, at)| alike(other, k) && *at == stores);
                    found.unwrap_or_else(|| {
                        kinds.push((k, stores));
                        kinds.len() - 1
                    })
                });
                let mut touches: Vec<(usize, u64)> = Vec::new();
                for access in accesses.iter().filter(|a| !matches!(a.memory, Memory::Fixed(_))) {
                    let next = places.len();
                    let place = *places.entry(access.memory).or_insert(next);
                    if touches.iter().all(|(other, _)| *other != place) {
                        touches.push((place, self.bytes(access.memory)));
                    }
                }
                let groups = implementation.kernels.get(kernel).map_or(1, workgroups);
                let prepares = !is_fence && kind.is_some() && accesses.iter().all(Access::prepares);
                for earlier in &before {
                    items[*earlier].after.push(index);
                }
                items.push(Item {
                    member: Member { node, kernel },
                    accesses,
                    kind,
                    before,
                    after: Vec::new(),
                    height: 0,
                    workgroups: groups,
                    touches,
                    prepares,
                });
                if is_fence {
                    fence = Some(index);
                }
            }
        }
        for index in (0..items.len()).rev() {
            items[index].height =
                1 + items[index].after.iter().map(|later| items[*later].height).max().unwrap_or(0);
        }
        items
    }

    /// Whether a node works on whole regions, as optimizers do: it stays where it is.
    fn works_on_regions(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        let whole =
            |tensor: &TensorId| matches!(self.graph.tensor(self.views[tensor.0].root).role, Role::Flat(_));
        node.inputs.iter().chain(&node.outputs).any(whole)
    }

    /// The buffers that a kernel binds; `None` for the arena.
    fn stores(&self, node: usize, kernel: &Kernel) -> Vec<Option<Store>> {
        let store = |tensor: Option<&TensorId>| {
            let root = self.views[tensor?.0].root;
            self.places.get(&root).map(|place| place.store)
        };
        let operands = self.graph.node(self.chosen[node].0);
        let of = |slot| match slot {
            Slot::Input(i) => store(operands.inputs.get(i)),
            Slot::Output(i) => store(operands.outputs.get(i)),
            Slot::Scratch(_) => None,
        };
        kernel.bindings.iter().map(|binding| of(binding.slot)).collect()
    }

    fn bytes(&self, memory: Memory) -> u64 {
        match memory {
            Memory::Root(root) => self.graph.tensor(root).spec.bytes() as u64,
            Memory::Fixed(_) => 0,
            Memory::Scratch(node, i) => self.chosen[node].1.scratch.get(i).copied().unwrap_or(0),
        }
    }

    fn accesses(&self, node: usize, kernel: usize) -> Vec<Access> {
        let (id, implementation) = &self.chosen[node];
        let operands = self.graph.node(*id);
        let last = kernel + 1 >= implementation.kernels.len();
        let bound = |slot: Slot| {
            let binds = |k: &Kernel| k.bindings.iter().any(|b| b.slot == slot);
            let here = implementation.kernels.get(kernel).is_some_and(binds);
            // What no kernel binds is in use until the node is done.
            here || (last && !implementation.kernels.iter().any(binds))
        };
        let inputs = operands.inputs.iter().enumerate().filter(|(i, _)| bound(Slot::Input(*i)));
        let outputs = operands.outputs.iter().enumerate().filter(|(i, _)| bound(Slot::Output(*i)));
        let inputs = inputs.map(|(_, tensor)| self.access(*tensor, false));
        let outputs = outputs.map(|(_, tensor)| self.access(*tensor, true));
        let scratch = (0..implementation.scratch.len()).filter(|i| bound(Slot::Scratch(*i)));
        let scratch = scratch.map(|i| Access {
            memory: Memory::Scratch(node, i),
            range: 0..1,
            stride: 1,
            writes: true,
        });
        inputs.chain(outputs).chain(scratch).collect()
    }

    fn access(&self, tensor: TensorId, writes: bool) -> Access {
        let View { root, offset, batch_stride } = self.views[tensor.0];
        if let Some(place) = self.places.get(&root) {
            let range = place.offset..place.offset + place.bytes.max(1);
            return Access { memory: Memory::Fixed(place.store), range, stride: 0, writes };
        }
        let start = offset as u64;
        let end = start + self.graph.tensor(tensor).spec.shape.item() as u64;
        Access { memory: Memory::Root(root), range: start..end, stride: batch_stride as u64, writes }
    }

    /// Finds when memory is in use.
    fn timed(&self, items: &[Item], preparing: Vec<Vec<Member>>, dispatches: Vec<Vec<Member>>) -> Schedule {
        let mut roots: HashMap<TensorId, Range<usize>> = HashMap::new();
        let mut scratch: Vec<Vec<Range<usize>>> = self
            .chosen
            .iter()
            .map(|(_, i)| vec![Range { start: usize::MAX, end: 0 }; i.scratch.len()])
            .collect();
        let widen = |range: &mut Range<usize>, at: usize| *range = range.start.min(at)..range.end.max(at);
        let mut packed: Vec<Vec<bool>> = scratch.iter().map(|list| vec![false; list.len()]).collect();
        for item in items.iter().filter(|item| item.prepares) {
            for access in &item.accesses {
                if let Memory::Scratch(node, i) = access.memory {
                    packed[node][i] = true;
                }
            }
        }
        let first = preparing.len();
        let dispatches: Vec<Vec<Member>> = preparing.into_iter().chain(dispatches).collect();
        let at_item: HashMap<Member, &Item> = items.iter().map(|item| (item.member, item)).collect();
        for (at, members) in dispatches.iter().enumerate() {
            for member in members {
                for access in &at_item[member].accesses {
                    match access.memory {
                        Memory::Root(root) => widen(roots.entry(root).or_insert(at..at), at),
                        Memory::Scratch(node, i) => widen(&mut scratch[node][i], at),
                        Memory::Fixed(_) => {}
                    }
                }
            }
        }
        for tensor in self.kept {
            let root = self.views[tensor.0].root;
            if !self.places.contains_key(&root) {
                widen(roots.entry(root).or_insert(dispatches.len()..dispatches.len()), dispatches.len());
            }
        }
        if first > 0 {
            for (range, _) in scratch.iter_mut().flatten().zip(packed.iter().flatten()).filter(|(_, p)| **p) {
                *range = 0..dispatches.len();
            }
        }
        let mut roots: Vec<_> = roots.into_iter().collect();
        roots.sort_unstable_by_key(|(root, _)| *root);
        let changes_weights = items.iter().any(|item| item.accesses.iter().any(Access::changes_weights));
        Schedule { dispatches, roots, scratch, packed, preparing: first, changes_weights }
    }
}

/// Kernels whose predecessors have been scheduled, and the memory in use.
struct Queue<'a> {
    items: &'a [Item],
    /// Predecessors that have not been scheduled.
    waits: Vec<usize>,
    ready: Vec<usize>,
    done: Vec<bool>,
    /// For each piece of memory, kernels that will touch it, and whether it is in use.
    users: Vec<usize>,
    used: Vec<bool>,
    live: u64,
    /// Bytes that should not be exceeded.
    limit: u64,
}

impl<'a> Queue<'a> {
    fn new(items: &'a [Item], limit: u64) -> Self {
        let waits: Vec<usize> = items.iter().map(|item| item.before.len()).collect();
        let ready = (0..items.len()).filter(|i| waits[*i] == 0).collect();
        let touched = || items.iter().flat_map(|item| &item.touches);
        let mut users = vec![0; touched().map(|(memory, _)| memory + 1).max().unwrap_or(0)];
        touched().for_each(|(memory, _)| users[*memory] += 1);
        let used = vec![false; users.len()];
        Self { items, waits, ready, done: vec![false; items.len()], users, used, live: 0, limit }
    }

    /// Takes a dispatch out of the queue.
    fn take(&mut self, group: &[usize]) -> Vec<Member> {
        self.ready.retain(|i| !group.contains(i));
        for &index in group {
            self.done[index] = true;
            for &(memory, bytes) in &self.items[index].touches {
                if !self.used[memory] {
                    (self.used[memory], self.live) = (true, self.live + bytes);
                }
            }
            for &later in &self.items[index].after {
                self.waits[later] -= 1;
                if self.waits[later] == 0 {
                    self.ready.push(later);
                }
            }
        }
        for &(memory, bytes) in group.iter().flat_map(|i| &self.items[*i].touches) {
            self.users[memory] -= 1;
            if self.users[memory] == 0 {
                self.live -= bytes;
            }
        }
        self.ready.sort_unstable();
        group.iter().map(|i| self.items[*i].member).collect()
    }

    /// Takes all kernels that prepare weights.
    fn preparing(&mut self) -> Vec<Vec<Member>> {
        let mut dispatches = Vec::new();
        while let Some(pivot) = self.ready.iter().copied().find(|i| self.items[*i].prepares) {
            let alike = |i: &usize| self.items[*i].prepares && self.items[*i].kind == self.items[pivot].kind;
            let group: Vec<usize> = self.ready.iter().copied().filter(alike).collect();
            dispatches.push(self.take(&group));
        }
        // They stay in any case.
        for (users, used) in self.users.iter_mut().zip(&self.used) {
            *users += usize::from(*used);
        }
        self.live = 0;
        dispatches
    }

    /// The rest: kernels not farther than `reach` from the first that has not been scheduled, in
    /// the graph's order. Weights are packed with up to `early` bytes of others.
    fn grouped(&mut self, reach: usize, early: u64) -> Vec<Vec<Member>> {
        let mut dispatches = Vec::new();
        let mut first = 0;
        while !self.ready.is_empty() {
            while self.done.get(first) == Some(&true) {
                first += 1;
            }
            let mut urgent: Vec<usize> = self.ready.iter().copied().filter(|i| *i <= first + reach).collect();
            urgent.sort_unstable_by_key(|i| (std::cmp::Reverse(self.items[*i].height), *i));
            let mut tried: Vec<Option<usize>> = Vec::new();
            let mut least: Option<(i64, Vec<usize>)> = None;
            let mut fitting = None;
            for pivot in urgent {
                let kind = self.items[pivot].kind;
                if kind.is_some() && tried.contains(&kind) {
                    continue;
                }
                tried.push(kind);
                let group = self.members(pivot, first + reach, early);
                let (added, freed) = self.change(&group);
                if self.live + added <= self.limit {
                    fitting = Some(group);
                    break;
                }
                let net = added as i64 - freed as i64;
                if least.as_ref().is_none_or(|(other, _)| net < *other) {
                    least = Some((net, group));
                }
            }
            // The first that has not been scheduled waits for nothing, so there is one.
            let Some(group) = fitting.or(least.map(|(_, group)| group)) else { break };
            dispatches.push(self.take(&group));
        }
        dispatches
    }

    /// Bytes that a dispatch brings into use, and bytes that are not in use any more after it.
    fn change(&self, group: &[usize]) -> (u64, u64) {
        let mut touched: Vec<(usize, u64)> =
            group.iter().flat_map(|i| self.items[*i].touches.iter().copied()).collect();
        touched.sort_unstable();
        let (mut added, mut freed) = (0, 0);
        for same in touched.chunk_by(|a, b| a.0 == b.0) {
            let (memory, bytes) = same[0];
            added += if self.used[memory] { 0 } else { bytes };
            freed += if self.users[memory] == same.len() { bytes } else { 0 };
        }
        (added, freed)
    }

    /// The kernels that run with `pivot`: those that are ready, alike and not beyond `last`, as far
    /// as there is memory; of those that pack weights, up to `early` bytes.
    fn members(&self, pivot: usize, last: usize, early: u64) -> Vec<usize> {
        let items = self.items;
        let mut group = vec![pivot];
        let Some(kind) = items[pivot].kind else { return group };
        let mut groups = items[pivot].workgroups;
        let (mut added, _) = self.change(&group);
        let (mut beyond, mut more) = (0, 0);
        for &other in self.ready.iter().filter(|i| **i != pivot && items[**i].kind == Some(kind)) {
            let bytes: u64 =
                items[other].touches.iter().filter(|(m, _)| !self.used[*m]).map(|(_, b)| b).sum();
            if items[other].prepares {
                beyond += bytes;
                if beyond > early {
                    break;
                }
            } else if other > last {
                break;
            }
            // Little more is worth a dispatch less.
            more += bytes;
            let fits = self.live + added + bytes <= self.limit || more <= self.limit / LITTLE;
            if groups + items[other].workgroups > MOST_WORKGROUPS || !fits {
                more -= bytes;
                continue;
            }
            groups += items[other].workgroups;
            added += bytes;
            group.push(other);
        }
        group.sort_unstable();
        group
    }
}
