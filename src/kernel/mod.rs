//! A kernel is a value: WGSL with constants, geometry, the tensors that it binds and a workgroup
//! count. An operation offers a list of implementations, each made of kernels; choosing among them
//! is a policy apart from both (see [`choose`] and [`Choices`]).

mod include;
mod profile;
mod proof;
mod source;
mod traffic;

pub use profile::{AdapterClass, BUSY_GROUPS, Cooperative, Profile};
pub(crate) use source::geometry_bytes;
pub use source::pipeline_text;
pub use traffic::{TiledProduct, Traffic};

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::tensor::{Element, MAX_TENSOR_BYTES, Spec};

/// Each tensor of a region starts at a multiple of this many elements: 256 bytes, which every
/// device can bind.
pub const BLOCK: usize = 64;

/// The values that change from step to step; every kernel can read them as `step`. With a node's
/// number and an element's position they determine every random draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Low half of the run's seed.
    pub seed: u32,
    /// High half of the run's seed.
    pub seed_high: u32,
    /// Number of the micro-batch, from 0: what dropout's masks depend on.
    pub step: u32,
    /// Number of optimizer updates done before this step, from 0: Adam's bias correction and
    /// averaging use it.
    pub update: u32,
    /// Learning rate of this step.
    pub rate: f32,
    /// Momentum of this step; of Adam, the decay of the mean of gradients (beta1).
    pub momentum: f32,
    /// Weight decay of this step.
    pub decay: f32,
    /// Factor that losses are scaled by before the backward pass and gradients divided by after it.
    pub loss_scale: f32,
    /// Which part of an accumulation of gradients this micro-batch is.
    pub window: Window,
}

/// What becomes of the gradients of a micro-batch whose update comes after several: sum = (sum +
/// gradients / divisor) completion, with a sum of zero at the start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Whether the sum starts with this micro-batch.
    pub starts: bool,
    /// What the gradients are divided by: the images of all micro-batches that the window may have,
    /// over those of this one.
    pub divisor: f32,
    /// What the sum is multiplied by then: 1, but where a window ends with fewer images than it may
    /// have.
    pub completion: f32,
}

impl Default for Window {
    /// One micro-batch by itself.
    fn default() -> Self {
        Self { starts: true, divisor: 1.0, completion: 1.0 }
    }
}

impl Step {
    /// Bytes of the uniform that kernels read.
    pub(crate) const BYTES: u64 = 48;

    /// The uniform that kernels read, as source.rs declares it.
    pub(crate) fn bytes(&self) -> [u8; Self::BYTES as usize] {
        let Window { starts, divisor, completion } = self.window;
        let words: [u32; 12] = [
            self.seed,
            self.seed_high,
            self.step,
            self.update,
            self.rate.to_bits(),
            self.momentum.to_bits(),
            self.decay.to_bits(),
            self.loss_scale.to_bits(),
            // WGSL's logarithm is not exact enough near 1. Finite for 0 too: the exponential of
            // this is 0 as well.
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
            rate: 0.01,
            momentum: 0.9,
            decay: 0.0,
            loss_scale: 1.0,
            window: Window::default(),
        }
    }
}

/// A tensor as a kernel sees it: a window of the elements of its binding.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// Shape and element type.
    pub spec: Spec,
    /// Elements before the first one, in the binding.
    pub offset: usize,
    /// Elements from one item of the batch to the next. All inner dimensions are dense.
    pub batch_stride: usize,
}

impl Operand {
    /// An operand that lies densely in its own binding.
    pub fn dense(spec: Spec) -> Self {
        let batch_stride = spec.shape.item();
        Self { spec, offset: 0, batch_stride }
    }

    /// The extents, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.spec.dims()
    }

    /// Number of elements.
    pub fn volume(&self) -> usize {
        self.spec.shape.volume()
    }

    /// Whether it lies densely, so that the batch need not be told from the rest.
    pub fn is_dense(&self) -> bool {
        self.batch_stride == self.spec.shape.item()
    }

    /// Bytes from the start of its binding to the end of its last element; nothing if they cannot
    /// be counted.
    pub(crate) fn extent(&self) -> Option<u64> {
        let before = self.dims().first().copied().unwrap_or(1).saturating_sub(1);
        let elements = before.checked_mul(self.batch_stride)?.checked_add(self.offset)?;
        let bytes = elements.checked_add(self.spec.shape.item())?.checked_mul(self.spec.element.size())?;
        u64::try_from(bytes).ok().filter(|bytes| *bytes <= MAX_TENSOR_BYTES)
    }

    /// Whether loads and stores of `width` elements that are aligned within an item are aligned in
    /// memory.
    pub fn is_aligned(&self, width: usize) -> bool {
        self.offset.is_multiple_of(width) && self.batch_stride.is_multiple_of(width)
    }
}

/// The tensors of the node that kernels are made for.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a> {
    /// The layer's name, for labels.
    pub layer: &'a str,
    /// The inputs in order.
    pub inputs: &'a [Operand],
    /// The outputs in order.
    pub outputs: &'a [Operand],
}

/// A value given to a shader.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// An unsigned integer.
    U32(u32),
    /// A floating-point number.
    F32(f32),
    /// A truth value, for `#if` and for constants.
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

/// What a binding is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// An input of the node.
    Input(usize),
    /// An output of the node.
    Output(usize),
    /// A scratch buffer of the implementation, dense f32 or u32.
    Scratch(usize),
}

/// One storage binding of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// The name of the array in WGSL.
    pub name: &'static str,
    /// What it is bound to.
    pub slot: Slot,
    /// The type of the array's elements in WGSL, for example `f32` or `vec4<f16>`.
    pub element: &'static str,
    /// Bytes of the tensor's binding that are bound, or all of them: how flat operations go through
    /// buffers larger than a binding may be.
    pub range: Option<Range<u64>>,
}

/// One dispatch, as a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// What error messages and profiles call it: layer and entry point.
    pub label: String,
    /// The operation's WGSL file.
    pub source: &'static str,
    /// The section of the file to use; see `source.rs` for the file's form.
    pub entry: &'static str,
    /// Always compiled in as WGSL constants.
    pub constants: Vec<(&'static str, Scalar)>,
    /// Fields of `p`: compiled in on real GPUs, given in a uniform where compiling is dear.
    pub geometry: Vec<(&'static str, Scalar)>,
    /// The storage bindings in order.
    pub bindings: Vec<Binding>,
    /// Invocations of a workgroup.
    pub workgroup: [u32; 3],
    /// Workgroups.
    pub groups: [u32; 3],
    /// Whether it needs cooperative matrices.
    pub cooperative: bool,
    /// The tensors that are stored as f16.
    half: Vec<Slot>,
    /// What it computes and moves; without it, every tensor that it binds counts as moved once.
    pub traffic: Option<Traffic>,
}

impl Kernel {
    /// A kernel that runs the section `entry` of the WGSL file `source` on these tensors.
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
            half: half.map(|(slot, _)| slot).collect(),
            traffic: None,
        }
    }

    /// Adds a constant that is always compiled in; a boolean one can be asked for by `#if`.
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

    /// Binds a tensor as `array<f32>` called `name`, or as `array<f16>` where it is stored so.
    #[must_use]
    pub fn bind(self, name: &'static str, slot: Slot) -> Self {
        self.bind_as(name, slot, "f32")
    }

    /// Binds a tensor as an array of `element` called `name`; where the tensor is stored as f16,
    /// f16 takes the place of f32 in it.
    #[must_use]
    pub fn bind_as(mut self, name: &'static str, slot: Slot, element: &'static str) -> Self {
        let element = self.stored(slot, element);
        self.bindings.push(Binding { name, slot, element, range: None });
        self
    }

    /// Binds only the bytes of `range` of a tensor, as an array of `element`.
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

    /// The type in which a tensor lies in memory, for the one in which a kernel works on it.
    fn stored(&self, slot: Slot, element: &'static str) -> &'static str {
        match element {
            "f32" if self.half.contains(&slot) => "f16",
            "vec2<f32>" if self.half.contains(&slot) => "vec2<f16>",
            "vec4<f32>" if self.half.contains(&slot) => "vec4<f16>",
            same => same,
        }
    }

    /// Says that it needs cooperative matrices.
    #[must_use]
    pub fn cooperative(mut self) -> Self {
        self.cooperative = true;
        self
    }

    /// Sets the workgroup's shape.
    #[must_use]
    pub fn workgroup(mut self, x: u32, y: u32, z: u32) -> Self {
        self.workgroup = [x, y, z];
        self
    }

    /// Sets the workgroup counts. With more than [`MOST_GROUPS`] in a dimension the kernel fits no
    /// device.
    #[must_use]
    pub fn groups(mut self, x: usize, y: usize, z: usize) -> Self {
        let count = |n: usize| u32::try_from(n.max(1)).unwrap_or(u32::MAX);
        self.groups = [count(x), count(y), count(z)];
        self
    }

    /// Says what it computes and moves: for kernels that load anything more than once.
    #[must_use]
    pub fn traffic(mut self, traffic: Traffic) -> Self {
        self.traffic = Some(traffic);
        self
    }

    /// Its file with all that it includes.
    ///
    /// # Errors
    /// [`Error::Kernel`] if it includes what there is not, or itself.
    pub(crate) fn whole_source(&self) -> Result<String> {
        let refused = |reason| Error::Kernel { kernel: self.label.clone(), reason, source: None };
        include::included(self.source).map_err(refused)
    }

    /// Invocations of a workgroup.
    fn invocations(&self) -> u64 {
        self.workgroup.iter().fold(1, |product, n| product.saturating_mul(u64::from(*n)))
    }

    /// The bytes that one of its bindings takes of a place of `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::Kernel`] if they are not all there, or none.
    pub(crate) fn bound(&self, binding: &Binding, bytes: u64) -> Result<Range<u64>> {
        let range = binding.range.clone().unwrap_or(0..bytes);
        // Bindings are of whole words; what is behind an odd number of f16 belongs to no other
        // tensor.
        let whole = range.start..range.end.next_multiple_of(4);
        if range.start < range.end && range.end <= bytes {
            return Ok(whole);
        }
        let (name, Range { start, end }) = (binding.name, range);
        let reason = format!("it binds the bytes from {start} to {end} of `{name}`, which has {bytes}");
        Err(Error::Kernel { kernel: self.label.clone(), reason, source: None })
    }

    /// That one of its bindings is of a tensor or scratch buffer that is not there.
    pub(crate) fn unbound(&self, binding: &Binding) -> Error {
        let reason = format!("`{}` is {:?}, and there is none", binding.name, binding.slot);
        Error::Kernel { kernel: self.label.clone(), reason, source: None }
    }

    /// What is wrong with it on any device, or on one that takes so many storage bindings in one
    /// kernel.
    pub(crate) fn fault(&self, most_bindings: u32, bake: bool) -> Option<String> {
        let (count, constants) = (self.bindings.len(), self.constants.iter());
        let baked = self.geometry.iter().filter(|_| bake);
        let endless = |value: &Scalar| matches!(value, Scalar::F32(v) if !v.is_finite());
        if let Some((name, _)) = constants.chain(baked).find(|(_, value)| endless(value)) {
            return Some(format!("the constant {name} is not finite, and WGSL has no such number"));
        }
        if let Some(groups) = self.groups.iter().find(|groups| **groups > MOST_GROUPS) {
            return Some(format!(
                "{groups} workgroups in a row are more than {MOST_GROUPS}: use `linear` or `linear_groups`"
            ));
        }
        let fits = u32::try_from(count).is_ok_and(|count| count <= most_bindings);
        (!fits)
            .then(|| format!("it binds {count} tensors, and this device takes {most_bindings} in one kernel"))
    }

    /// Sets the workgroup counts for at least `invocations` invocations in one line. More than
    /// [`MOST_GROUPS`] workgroups are folded into two dimensions: the shader gets its place from
    /// `linear_index`, and must check it against the total.
    #[must_use]
    pub fn linear(self, invocations: usize) -> Self {
        let size = usize::try_from(self.invocations()).unwrap_or(usize::MAX).max(1);
        self.linear_groups(invocations.div_ceil(size))
    }

    /// Sets the workgroup counts for at least `groups` workgroups in one line; the shader gets its
    /// workgroup's number from `linear_group`, and must check it against the total.
    #[must_use]
    pub fn linear_groups(self, groups: usize) -> Self {
        let rows = groups.div_ceil(MOST_GROUPS as usize).max(1);
        self.groups(groups.div_ceil(rows), rows, 1)
    }
}

/// Workgroups that every WebGPU device takes in one dimension of a dispatch.
pub const MOST_GROUPS: u32 = 65_535;

/// One way to run an operation: kernels that run one after another, with scratch memory between
/// them. They are checked for accesses out of bounds as they run, unless this comes from
/// [`offers`](crate::ops::offers) with one of the crate's own operations or its author vouches for
/// it with [`Implementation::unchecked`].
#[derive(Clone, Debug, PartialEq)]
pub struct Implementation {
    /// A short name, unique in the operation's list.
    pub name: &'static str,
    /// The dispatches in order.
    pub kernels: Vec<Kernel>,
    /// Bytes of each scratch buffer.
    pub scratch: Vec<u64>,
    /// The adapter classes that this is a good default for; others use it only when told to.
    pub suits: &'static [AdapterClass],
    /// Workgroup memory that it needs, in bytes.
    pub workgroup_memory: u32,
    /// Whether it multiplies on cooperative matrices, or emulates them with loops.
    pub matrices: bool,
    /// That it may run without checks of bounds, and on what.
    proof: Option<Arc<proof::Proof>>,
}

impl Implementation {
    /// An implementation of these kernels that suits every adapter and needs no scratch and no
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

    /// Says which adapter classes this is a good default for.
    #[must_use]
    pub fn suits(mut self, classes: &'static [AdapterClass]) -> Self {
        self.suits = classes;
        self
    }

    /// Says how many bytes of workgroup memory it needs.
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

    /// Whether it runs within the limits of a device.
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
}

/// The default policy: the first implementation that fits the device and suits its class, else the
/// first that fits.
pub fn choose<'a>(implementations: &'a [Implementation], profile: &Profile) -> Option<&'a Implementation> {
    let fitting = || implementations.iter().filter(|i| i.fits(profile));
    fitting().find(|i| i.suits.contains(&profile.class)).or_else(|| fitting().next())
}
