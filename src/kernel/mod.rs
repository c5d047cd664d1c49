//! Kernels as values: WGSL source with constants, geometry, bindings and workgroup counts. An
//! operation offers a list of implementations, each with one or more kernels; the choice among them
//! is separate (see [`choose`] and [`Choices`]).

mod group;
mod include;
mod profile;
mod proof;
mod source;
mod traffic;

pub(crate) use group::{ENTRY as GROUPED_ENTRY, Problem, alike, grid, most_problems, table, workgroups};
pub use group::{MOST_PROBLEMS, grouped_text, text_for};
pub use profile::{AdapterClass, BUSY_GROUPS, Cooperative, Profile, Vendor};
pub(crate) use source::geometry_bytes;
pub use source::pipeline_text;
pub use traffic::{TiledProduct, Traffic};

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::tensor::{Element, MAX_TENSOR_BYTES, Spec};

/// Alignment of tensors in a region, in elements: 256 bytes, which every device can bind.
pub const BLOCK: usize = 64;

/// Values that change per step; every kernel can read them as `step`. With a layer's salt and an
/// element's index they determine every random draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Low half of the run's seed.
    pub seed: u32,
    /// High half of the run's seed.
    pub seed_high: u32,
    /// Index of the micro-batch, from 0; dropout masks depend on it.
    pub step: u32,
    /// Optimizer updates before this step, used by Adam's bias correction and averaging.
    pub update: u32,
    /// Learning rate.
    pub lr: f32,
    /// Momentum; beta1 for AdamW.
    pub momentum: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// Loss scale: losses are multiplied by it before the backward pass, gradients divided by it
    /// after.
    pub loss_scale: f32,
    /// Position of this micro-batch in gradient accumulation.
    pub window: Window,
}

/// Gradient accumulation of a micro-batch: sum = (sum + gradients / divisor) completion, starting
/// from zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Whether this is the first micro-batch of the sum.
    pub starts: bool,
    /// Divisor of the gradients: images of a full accumulation divided by those of this
    /// micro-batch.
    pub divisor: f32,
    /// Factor of the sum: above 1 if the accumulation ends with fewer images than a full one,
    /// otherwise 1.
    pub completion: f32,
}

impl Default for Window {
    /// No accumulation.
    fn default() -> Self {
        Self { starts: true, divisor: 1.0, completion: 1.0 }
    }
}

impl Step {
    /// Size of the uniform in bytes.
    pub(crate) const BYTES: u64 = 48;

    /// The content of the uniform `step`, as declared in source.rs.
    pub(crate) fn bytes(&self) -> [u8; Self::BYTES as usize] {
        let Window { starts, divisor, completion } = self.window;
        let words: [u32; 12] = [
            self.seed,
            self.seed_high,
            self.step,
            self.update,
            self.lr.to_bits(),
            self.momentum.to_bits(),
            self.weight_decay.to_bits(),
            self.loss_scale.to_bits(),
            // Computed here because WGSL's `log` is inaccurate near 1. For 0 it is finite, with an
            // exponential of 0.
            (f64::from(self.momentum).ln().max(-1e30) as f32).to_bits(),
            divisor.to_bits(),
            completion.to_bits(),
            u32::from(starts),
        ];
        bytemuck::cast(words)
    }
}

impl Default for Step {
    fn default() -> Self {
        Self {
            seed: 0,
            seed_high: 0,
            step: 0,
            update: 0,
            lr: 0.01,
            momentum: 0.9,
            weight_decay: 0.0,
            loss_scale: 1.0,
            window: Window::default(),
        }
    }
}

/// A tensor as a kernel operand: a window of its binding.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// Shape and element type.
    pub spec: Spec,
    /// Offset in the binding, in elements.
    pub offset: usize,
    /// Elements between batch items. All inner dimensions are dense.
    pub batch_stride: usize,
}

impl Operand {
    /// A dense operand in its own binding.
    pub fn dense(spec: Spec) -> Self {
        let batch_stride = spec.shape.item();
        Self { spec, offset: 0, batch_stride }
    }

    /// Dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.spec.dims()
    }

    /// Number of elements.
    pub fn volume(&self) -> usize {
        self.spec.shape.volume()
    }

    /// Whether the operand is contiguous.
    pub fn is_dense(&self) -> bool {
        self.batch_stride == self.spec.shape.item()
    }

    /// Bytes from the start of the binding to the end of the last element; `None` on overflow.
    pub(crate) fn extent(&self) -> Option<u64> {
        let before = self.dims().first().copied().unwrap_or(1).saturating_sub(1);
        let elements = before.checked_mul(self.batch_stride)?.checked_add(self.offset)?;
        let bytes = elements.checked_add(self.spec.shape.item())?.checked_mul(self.spec.element.size())?;
        u64::try_from(bytes).ok().filter(|bytes| *bytes <= MAX_TENSOR_BYTES)
    }

    /// Whether vectors of `width` elements that are aligned within a batch item are aligned in
    /// memory.
    pub fn is_aligned(&self, width: usize) -> bool {
        self.offset.is_multiple_of(width) && self.batch_stride.is_multiple_of(width)
    }
}

/// The operands of the node that kernels are created for.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a> {
    /// Layer name, for labels.
    pub layer: &'a str,
    /// Inputs in order.
    pub inputs: &'a [Operand],
    /// Outputs in order.
    pub outputs: &'a [Operand],
}

/// A constant or geometry value of a shader.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// An unsigned integer.
    U32(u32),
    /// A floating-point number.
    F32(f32),
    /// A boolean, for `#if` and constants.
    Bool(bool),
}

impl From<usize> for Scalar {
    fn from(value: usize) -> Self {
        Self::U32(u32::try_from(value).unwrap_or(u32::MAX))
    }
}

impl From<u32> for Scalar {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<f32> for Scalar {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<bool> for Scalar {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// The target of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// An input of the node.
    Input(usize),
    /// An output of the node.
    Output(usize),
    /// A scratch buffer of the implementation, dense f32 or u32.
    Scratch(usize),
}

/// A storage binding of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// Name of the array in WGSL.
    pub name: &'static str,
    /// Bound tensor or buffer.
    pub slot: Slot,
    /// Element type of the array in WGSL, for example `f32` or `vec4<f16>`.
    pub element: &'static str,
    /// Bound byte range of the tensor, `None` for all of it: flat operations process buffers larger
    /// than the binding limit in parts.
    pub range: Option<Range<u64>>,
}

/// A dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Name in error messages and profiles: layer and entry point.
    pub label: String,
    /// WGSL source of the operation.
    pub source: &'static str,
    /// Section and entry point to use; see `source.rs` for the format.
    pub entry: &'static str,
    /// WGSL constants, always compiled in.
    pub constants: Vec<(&'static str, Scalar)>,
    /// Fields of `p`: compiled in on hardware GPUs, passed in a uniform where compilation is slow.
    pub geometry: Vec<(&'static str, Scalar)>,
    /// Storage bindings in order.
    pub bindings: Vec<Binding>,
    /// Invocations of a workgroup.
    pub workgroup: [u32; 3],
    /// Workgroup counts.
    pub groups: [u32; 3],
    /// Whether cooperative matrices are required.
    pub cooperative: bool,
    /// Whether it can be a part of a larger dispatch; see [`Kernel::groupable`].
    pub groupable: bool,
    /// Operands stored as f16.
    half: Vec<Slot>,
    /// FLOP and traffic; `None` counts every bound tensor as moved once.
    pub traffic: Option<Traffic>,
}

impl Kernel {
    /// A kernel with entry point `entry` of the WGSL `source`, for these operands.
    pub fn new(operands: &Operands<'_>, source: &'static str, entry: &'static str) -> Self {
        let inputs = operands.inputs.iter().enumerate().map(|(i, o)| (Slot::Input(i), o));
        let outputs = operands.outputs.iter().enumerate().map(|(i, o)| (Slot::Output(i), o));
        let half = inputs.chain(outputs).filter(|(_, o)| o.spec.element == Element::F16);
        Self {
            label: format!("{} {entry}", operands.layer),
            source,
            entry,
            constants: Vec::new(),
            geometry: Vec::new(),
            bindings: Vec::new(),
            workgroup: [64, 1, 1],
            groups: [1, 1, 1],
            cooperative: false,
            groupable: false,
            half: half.map(|(slot, _)| slot).collect(),
            traffic: None,
        }
    }

    /// Adds a compiled-in constant; boolean ones can be used in `#if`.
    #[must_use]
    pub fn constant(mut self, name: &'static str, value: impl Into<Scalar>) -> Self {
        self.constants.push((name, value.into()));
        self
    }

    /// Adds a field of `p`.
    #[must_use]
    pub fn geometry(mut self, name: &'static str, value: impl Into<Scalar>) -> Self {
        self.geometry.push((name, value.into()));
        self
    }

    /// Adds several fields of `p`.
    #[must_use]
    pub fn geometries(mut self, fields: impl IntoIterator<Item = (&'static str, usize)>) -> Self {
        self.geometry.extend(fields.into_iter().map(|(name, value)| (name, value.into())));
        self
    }

    /// Binds a tensor as `array<f32>` named `name`, or `array<f16>` if stored as f16.
    #[must_use]
    pub fn bind(self, name: &'static str, slot: Slot) -> Self {
        self.bind_as(name, slot, "f32")
    }

    /// Binds a tensor as an array of `element` named `name`; if the tensor is stored as f16, f32 in
    /// `element` becomes f16.
    #[must_use]
    pub fn bind_as(mut self, name: &'static str, slot: Slot, element: &'static str) -> Self {
        let element = self.stored(slot, element);
        self.bindings.push(Binding { name, slot, element, range: None });
        self
    }

    /// Binds a byte range of a tensor as an array of `element`.
    #[must_use]
    pub fn bind_range(
        mut self,
        name: &'static str,
        slot: Slot,
        element: &'static str,
        range: Range<u64>,
    ) -> Self {
        let element = self.stored(slot, element);
        self.bindings.push(Binding { name, slot, element, range: Some(range) });
        self
    }

    /// The element type in memory for an element type used in a kernel.
    fn stored(&self, slot: Slot, element: &'static str) -> &'static str {
        match element {
            "f32" if self.half.contains(&slot) => "f16",
            "vec2<f32>" if self.half.contains(&slot) => "vec2<f16>",
            "vec4<f32>" if self.half.contains(&slot) => "vec4<f16>",
            same => same,
        }
    }

    /// Lets the kernel run in one dispatch with others of the same source, entry point and
    /// constants (see [`grouped_text`]). Everything in which such kernels differ must be geometry,
    /// its shader must use bindings only as `NAME[...]`, and its entry point must have no
    /// parameters but `workgroup_id`, `num_workgroups`, indices of the local invocation and those
    /// of subgroups.
    #[must_use]
    pub fn groupable(mut self) -> Self {
        self.groupable = true;
        self
    }

    /// Requires cooperative matrices.
    #[must_use]
    pub fn cooperative(mut self) -> Self {
        self.cooperative = true;
        self
    }

    /// Sets the workgroup size.
    #[must_use]
    pub fn workgroup(mut self, x: u32, y: u32, z: u32) -> Self {
        self.workgroup = [x, y, z];
        self
    }

    /// Sets the workgroup counts. A kernel with more than [`MOST_GROUPS`] in a dimension fits no
    /// device.
    #[must_use]
    pub fn groups(mut self, x: usize, y: usize, z: usize) -> Self {
        let count = |n: usize| u32::try_from(n.max(1)).unwrap_or(u32::MAX);
        self.groups = [count(x), count(y), count(z)];
        self
    }

    /// Sets FLOP and traffic, for kernels that load anything more than once.
    #[must_use]
    pub fn traffic(mut self, traffic: Traffic) -> Self {
        self.traffic = Some(traffic);
        self
    }

    /// Its source with all includes resolved.
    ///
    /// # Errors
    /// [`Error::Kernel`] for an invalid include.
    pub(crate) fn whole_source(&self) -> Result<String> {
        let refused = |reason| Error::Kernel { kernel: self.label.clone(), reason, source: None };
        include::included(self.source).map_err(refused)
    }

    /// Invocations of a workgroup.
    fn invocations(&self) -> u64 {
        self.workgroup.iter().fold(1, |product, n| product.saturating_mul(u64::from(*n)))
    }

    /// The byte range that a binding uses of a buffer range of `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the range is empty or too large.
    pub(crate) fn bound(&self, binding: &Binding, bytes: u64) -> Result<Range<u64>> {
        let range = binding.range.clone().unwrap_or(0..bytes);
        // Bindings are multiples of 4 bytes; the padding after an odd number of f16 is unused.
        let whole = range.start..range.end.next_multiple_of(4);
        if range.start < range.end && range.end <= bytes {
            return Ok(whole);
        }
        let (name, Range { start, end }) = (binding.name, range);
        let reason = format!("it binds the bytes from {start} to {end} of `{name}`, which has {bytes}");
        Err(Error::Kernel { kernel: self.label.clone(), reason, source: None })
    }

    /// Error for a binding of a missing tensor or scratch buffer.
    pub(crate) fn unbound(&self, binding: &Binding) -> Error {
        let reason = format!("`{}` is {:?}, and there is none", binding.name, binding.slot);
        Error::Kernel { kernel: self.label.clone(), reason, source: None }
    }

    /// Why the kernel is invalid, on any device or on one with this limit of storage bindings;
    /// `None` if valid.
    pub(crate) fn fault(&self, most_bindings: u32, bake: bool) -> Option<String> {
        let (count, constants) = (self.bindings.len(), self.constants.iter());
        let baked = self.geometry.iter().filter(|_| bake);
        let endless = |value: &Scalar| matches!(value, Scalar::F32(v) if !v.is_finite());
        if let Some((name, _)) = constants.chain(baked).find(|(_, value)| endless(value)) {
            return Some(format!("the constant {name} is not finite, which WGSL does not support"));
        }
        if let Some(groups) = self.groups.iter().find(|groups| **groups > MOST_GROUPS) {
            return Some(format!(
                "{groups} workgroups in one dimension are more than {MOST_GROUPS}: use `linear` or `linear_groups`"
            ));
        }
        let fits = u32::try_from(count).is_ok_and(|count| count <= most_bindings);
        (!fits)
            .then(|| format!("it binds {count} tensors, but this device supports {most_bindings} per kernel"))
    }

    /// Sets the workgroup counts for at least `invocations` linear invocations. More than
    /// [`MOST_GROUPS`] workgroups are folded into two dimensions: the shader gets its index from
    /// `linear_index`, and must check it against the total.
    #[must_use]
    pub fn linear(self, invocations: usize) -> Self {
        let size = usize::try_from(self.invocations()).unwrap_or(usize::MAX).max(1);
        self.linear_groups(invocations.div_ceil(size))
    }

    /// Sets the workgroup counts for at least `groups` linear workgroups; the shader gets its
    /// workgroup index from `linear_group`, and must check it against the total.
    #[must_use]
    pub fn linear_groups(self, groups: usize) -> Self {
        let rows = groups.div_ceil(MOST_GROUPS as usize).max(1);
        self.groups(groups.div_ceil(rows), rows, 1)
    }
}

/// Maximum workgroups per dimension of a dispatch on every WebGPU device.
pub const MOST_GROUPS: u32 = 65_535;

/// An implementation of an operation: kernels that run in order, with scratch memory. They run with
/// bounds checks, unless the implementation is from [`offers`](crate::ops::offers) for one of the
/// crate's own operations, or its author declared it safe with [`Implementation::unchecked`].
#[derive(Clone, Debug, PartialEq)]
pub struct Implementation {
    /// Short name, unique in the operation's list.
    pub name: &'static str,
    /// Dispatches in order.
    pub kernels: Vec<Kernel>,
    /// Bytes of each scratch buffer.
    pub scratch: Vec<u64>,
    /// Adapter classes for which this is a default candidate; others use it only by choice.
    pub suits: &'static [AdapterClass],
    /// Required workgroup memory in bytes.
    pub workgroup_memory: u32,
    /// Whether it multiplies on cooperative matrices, or emulates them with loops.
    pub matrices: bool,
    /// Proof that it may run without bounds checks, and on which operands.
    proof: Option<Arc<proof::Proof>>,
}

impl Implementation {
    /// An implementation of these kernels, a default for every adapter class, without scratch or
    /// workgroup memory.
    pub fn new(name: &'static str, kernels: Vec<Kernel>) -> Self {
        Self {
            name,
            kernels,
            scratch: Vec::new(),
            suits: AdapterClass::ALL,
            workgroup_memory: 0,
            matrices: false,
            proof: None,
        }
    }

    /// Adds a scratch buffer of `elements` f32.
    #[must_use]
    pub fn scratch(mut self, elements: usize) -> Self {
        self.scratch.push(4 * elements as u64);
        self
    }

    /// Sets the adapter classes for which this is a default candidate.
    #[must_use]
    pub fn suits(mut self, classes: &'static [AdapterClass]) -> Self {
        self.suits = classes;
        self
    }

    /// Sets the required bytes of workgroup memory.
    #[must_use]
    pub fn workgroup_memory(mut self, bytes: usize) -> Self {
        self.workgroup_memory = u32::try_from(bytes).unwrap_or(u32::MAX);
        self
    }

    /// Says that it multiplies on cooperative matrices, or emulates them.
    #[must_use]
    pub fn on_matrices(mut self) -> Self {
        self.matrices = true;
        self
    }

    /// Whether it fits the limits of a device.
    pub fn fits(&self, profile: &Profile) -> bool {
        self.workgroup_memory <= profile.workgroup_memory
            && self.scratch.iter().all(|bytes| *bytes <= profile.binding.min(profile.buffer))
            && self.kernels.iter().all(|k| k.groups.iter().all(|count| *count <= MOST_GROUPS))
            && self.kernels.iter().all(|k| k.invocations() <= u64::from(profile.invocations))
            && self
                .kernels
                .iter()
                .all(|k| k.workgroup.iter().zip(&profile.workgroup).all(|(n, most)| n <= most))
            && (profile.cooperative.is_some_and(|c| !c.emulated)
                || self.kernels.iter().all(|k| !k.cooperative))
    }

    /// Whether tuning should try it: it fits, and the device's compiler is not known to spill it.
    /// Kernels for software drivers hold 8 x 8 sums beside unrolled windows (76 spills and 250
    /// fills on Tiger Lake).
    pub fn may_be_faster(&self, profile: &Profile) -> bool {
        let is_gpu = AdapterClass::GPU.contains(&profile.class);
        let for_software = self.suits == AdapterClass::SOFTWARE;
        self.fits(profile) && !(is_gpu && for_software && !profile.has_many_registers())
    }
}

/// The default policy: the first implementation that fits the device and suits its class, else the
/// first that fits.
pub fn choose<'a>(implementations: &'a [Implementation], profile: &Profile) -> Option<&'a Implementation> {
    let fitting = || implementations.iter().filter(|i| i.fits(profile));
    fitting().find(|i| i.suits.contains(&profile.class)).or_else(|| fitting().next())
}
