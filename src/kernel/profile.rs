//! What kernels may rely on: the limits of a device and the class of its adapter.

/// What kind of device runs the kernels: defaults differ, because what a GPU likes a CPU does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterClass {
    /// A GPU with its own memory.
    Discrete,
    /// A GPU that shares the CPU's memory, and whatever a browser does not tell more about.
    Integrated,
    /// A driver that runs shaders on the CPU: lavapipe, SwiftShader, WARP.
    Software,
}

impl AdapterClass {
    /// Every class.
    pub const ALL: &'static [Self] = &[Self::Discrete, Self::Integrated, Self::Software];
    /// The classes with a real GPU.
    pub const GPU: &'static [Self] = &[Self::Discrete, Self::Integrated];
    /// Only drivers that run on the CPU.
    pub const SOFTWARE: &'static [Self] = &[Self::Software];
}

/// Limits and class of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The adapter's class.
    pub class: AdapterClass,
    /// Bytes of one storage binding.
    pub binding: u64,
    /// Bytes of one buffer.
    pub buffer: u64,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// Invocations of a workgroup.
    pub invocations: u32,
    /// Bytes that offsets of bindings are multiples of.
    pub alignment: u64,
    /// Whether geometry is compiled into the shaders: fast kernels, but one pipeline a shape.
    pub bake: bool,
    /// Whether the shaders may use f16.
    pub f16: bool,
}

impl Profile {
    /// Whether activations are better stored as f16 where the caller has no opinion: on real GPUs, where half the bytes are half
    /// the time of what memory limits. Software adapters convert each number with instructions of their own.
    pub fn prefers_f16(&self) -> bool {
        self.f16 && self.class != AdapterClass::Software
    }

    /// What every WebGPU device has, for an adapter of this class.
    pub fn webgpu(class: AdapterClass) -> Self {
        Self {
            class,
            binding: 128 << 20,
            buffer: 256 << 20,
            workgroup_memory: 16 << 10,
            invocations: 256,
            alignment: 256,
            bake: class != AdapterClass::Software,
            f16: false,
        }
    }
}
