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
    /// None: for what is only taken where it was measured to be fastest.
    pub const NONE: &'static [Self] = &[];

    /// Multiply-adds of a submission at most. Windows resets a GPU that works on one for two
    /// seconds, and other systems and browsers have such a limit too: this is half a second to one
    /// of slow GPUs of the class, and milliseconds of fast ones. What a CPU does nobody resets.
    pub fn work_of_a_submission(self) -> u64 {
        match self {
            Self::Discrete => 1 << 37,
            Self::Integrated => 1 << 34,
            Self::Software => u64::MAX,
        }
    }
}

/// Cooperative matrices of a device (tensor cores, simdgroup matrices): square ones that a subgroup
/// multiplies together, with sums in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cooperative {
    /// Rows and columns: 8 or 16.
    pub size: usize,
    /// Invocations of the largest subgroup.
    pub subgroup: usize,
    /// Whether factors can be f16.
    pub f16: bool,
    /// Whether factors can be f32.
    pub f32: bool,
    /// Whether plain loops stand for the matrices, to test what is around them: no device is opened
    /// so.
    pub emulated: bool,
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
    /// Invocations of a workgroup in each dimension.
    pub workgroup: [u32; 3],
    /// Bytes that offsets of bindings are multiples of.
    pub alignment: u64,
    /// Whether geometry is compiled into the shaders: fast kernels, but one pipeline a shape.
    pub bake: bool,
    /// Whether the shaders may use f16.
    pub f16: bool,
    /// Cooperative matrices that have passed their test.
    pub cooperative: Option<Cooperative>,
    /// Invocations of a subgroup, where shaders may use subgroup operations and every subgroup has
    /// the same size.
    pub subgroup: Option<u32>,
}

/// Workgroups of 128 or more invocations that keep a large discrete GPU busy: two for each of 132
/// compute units.
pub const BUSY_GROUPS: usize = 264;

impl Profile {
    /// Whether activations are better stored as f16 where the caller has no opinion: on GPUs whose
    /// matrices multiply f16, which is what training gains most by. Others would save memory, which
    /// is a reason to ask for it, and software adapters only lose.
    pub fn prefers_f16(&self) -> bool {
        self.f16 && self.class != AdapterClass::Software && self.cooperative.is_some_and(|c| c.f16)
    }

    /// Workgroups that keep the device busy: those of a large GPU for a discrete one; an integrated
    /// one has a tenth of the compute units.
    pub fn busy_workgroups(&self) -> usize {
        if self.class == AdapterClass::Discrete { BUSY_GROUPS } else { 32 }
    }

    /// What a discrete GPU with f16 matrices of 16 x 16 has beside that, as NVIDIA's tensor cores
    /// do through Vulkan: for counts without one.
    pub fn with_matrices() -> Self {
        let matrices = Cooperative { size: 16, subgroup: 32, f16: true, f32: false, emulated: false };
        Self {
            workgroup_memory: 48 << 10,
            invocations: 1024,
            workgroup: [1024, 1024, 64],
            f16: true,
            cooperative: Some(matrices),
            subgroup: Some(32),
            ..Self::webgpu(AdapterClass::Discrete)
        }
    }

    /// What every WebGPU device has, for an adapter of this class.
    pub fn webgpu(class: AdapterClass) -> Self {
        Self {
            class,
            binding: 128 << 20,
            buffer: 256 << 20,
            workgroup_memory: 16 << 10,
            invocations: 256,
            workgroup: [256, 256, 64],
            alignment: 256,
            bake: class != AdapterClass::Software,
            f16: false,
            cooperative: None,
            subgroup: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f16 by itself only where matrices multiply it on a real GPU.
    #[test]
    fn f16_is_preferred_where_matrices_multiply_it() {
        let with = Profile::with_matrices();
        assert!(with.prefers_f16());
        let matrices = |change: fn(&mut Cooperative)| {
            let mut cooperative = with.cooperative;
            cooperative.iter_mut().for_each(change);
            Profile { cooperative, ..with.clone() }
        };
        assert!(!matrices(|c| (c.f16, c.f32) = (false, true)).prefers_f16());
        assert!(!Profile { f16: false, ..with.clone() }.prefers_f16());
        assert!(!Profile { class: AdapterClass::Software, ..with.clone() }.prefers_f16());
        for class in AdapterClass::ALL {
            assert!(
                !Profile::webgpu(*class).prefers_f16()
                    && !Profile { f16: true, ..Profile::webgpu(*class) }.prefers_f16()
            );
        }
    }
}
