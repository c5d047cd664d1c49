//! Limits and features of a device, and the class of its adapter.

/// Class of an adapter. Default kernels depend on it, because GPUs and CPUs need different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterClass {
    /// A GPU with its own memory.
    Discrete,
    /// A GPU that shares the CPU's memory, or an unknown one in a browser.
    Integrated,
    /// A driver that runs shaders on the CPU: lavapipe, SwiftShader, WARP.
    Software,
    /// The CPU itself, which runs no shaders.
    Cpu,
}

impl AdapterClass {
    /// All classes that run shaders.
    pub const ALL: &'static [Self] = &[Self::Discrete, Self::Integrated, Self::Software];
    /// Hardware GPUs.
    pub const GPU: &'static [Self] = &[Self::Discrete, Self::Integrated];
    /// CPU drivers.
    pub const SOFTWARE: &'static [Self] = &[Self::Software];
    /// No class, for implementations that are used only if tuning finds them fastest.
    pub const NONE: &'static [Self] = &[];

    /// Maximum multiply-adds per submission. Windows resets a GPU after a submission of two
    /// seconds, and other systems and browsers have similar limits. This takes 0.5 to 1 s on slow
    /// GPUs of the class and milliseconds on fast ones; CPU drivers have no such limit.
    pub fn work_of_a_submission(self) -> u64 {
        match self {
            Self::Discrete => 1 << 37,
            Self::Integrated => 1 << 34,
            Self::Software | Self::Cpu => u64::MAX,
        }
    }
}

/// Who made a GPU. Default kernels depend on it where compilers differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Vendor {
    /// AMD.
    Amd,
    /// Apple.
    Apple,
    /// Intel.
    Intel,
    /// NVIDIA.
    Nvidia,
    /// Any other, or an adapter that does not say it, as in some browsers: it gets what no known
    /// compiler spills.
    #[default]
    Unknown,
}

impl Vendor {
    /// The vendor of a PCI vendor number, or else of an adapter's or driver's name.
    pub fn of(pci: u32, name: &str) -> Self {
        const NAMES: [(Vendor, &[&str]); 4] = [
            (Vendor::Nvidia, &["nvidia", "geforce", "quadro", "tesla"]),
            (Vendor::Amd, &["amd", "radeon", "radv", "ati technologies"]),
            (Vendor::Intel, &["intel"]),
            (Vendor::Apple, &["apple"]),
        ];
        match pci {
            0x10de => return Self::Nvidia,
            0x1002 | 0x1022 => return Self::Amd,
            0x8086 => return Self::Intel,
            0x106b => return Self::Apple,
            _ => {}
        }
        let name = name.to_lowercase();
        let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let says = |wanted: &&str| words.contains(wanted) || (wanted.contains(' ') && name.contains(*wanted));
        let found = NAMES.iter().find(|(_, names)| names.iter().any(&says));
        found.map_or(Self::Unknown, |(vendor, _)| *vendor)
    }
}

/// Square cooperative matrices of a device (tensor cores, simdgroup matrices), which a subgroup
/// multiplies together with f32 accumulation.
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
    /// Whether the matrices are emulated by plain loops; only for tests.
    pub emulated: bool,
}

/// Limits and class of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The adapter's class.
    pub class: AdapterClass,
    /// Who made the GPU.
    pub vendor: Vendor,
    /// Maximum bytes of a storage binding.
    pub binding: u64,
    /// Maximum bytes of a buffer.
    pub buffer: u64,
    /// Maximum bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// Maximum invocations per workgroup.
    pub invocations: u32,
    /// Maximum workgroup size per dimension.
    pub workgroup: [u32; 3],
    /// Alignment of binding offsets in bytes.
    pub alignment: u64,
    /// Whether geometry is compiled into shaders: faster kernels, but one pipeline per shape.
    pub bake: bool,
    /// Whether kernels that are alike run as one dispatch; see
    /// [`Kernel::groupable`](super::Kernel).
    pub grouped: bool,
    /// Whether shaders support f16.
    pub f16: bool,
    /// Cooperative matrices that passed their self-test.
    pub cooperative: Option<Cooperative>,
    /// Subgroup size, if subgroup operations are supported and all subgroups have the same size.
    pub subgroup: Option<u32>,
}

/// Workgroups of at least 128 invocations that saturate a large discrete GPU: two per compute unit
/// of 132.
pub const BUSY_GROUPS: usize = 264;

impl Profile {
    /// Whether f16 activations are the better default: on GPUs with f16 cooperative matrices, where
    /// training gains most. Other GPUs would only save memory, and software adapters get slower.
    pub fn prefers_f16(&self) -> bool {
        self.f16 && AdapterClass::GPU.contains(&self.class) && self.cooperative.is_some_and(|c| c.f16)
    }

    /// Workgroups that saturate the device: [`BUSY_GROUPS`] for discrete GPUs, a tenth of it for
    /// integrated ones.
    pub fn busy_workgroups(&self) -> usize {
        if self.class == AdapterClass::Discrete { BUSY_GROUPS } else { 32 }
    }

    /// Workgroups that one kernel should have: those of a group occupy the device together.
    pub fn wanted_workgroups(&self) -> usize {
        if self.grouped { self.busy_workgroups() / 5 } else { self.busy_workgroups() }
    }

    /// Whether the device's compiler is known to hold about 150 values per invocation in registers,
    /// and 230 where tuning chose a tile. Those of AMD and NVIDIA do. Intel's spills with loads in
    /// flight or an unrolled K step (123 spills, 2.6 instead of 1.5 instructions per multiply-add
    /// on Tiger Lake), and those of unknown GPUs may.
    pub fn has_many_registers(&self) -> bool {
        matches!(self.vendor, Vendor::Amd | Vendor::Nvidia)
    }

    /// A discrete GPU with 16 x 16 f16 cooperative matrices, as NVIDIA's tensor cores in Vulkan;
    /// for static analysis without such a device.
    pub fn with_matrices() -> Self {
        let matrices = Cooperative { size: 16, subgroup: 32, f16: true, f32: false, emulated: false };
        Self {
            workgroup_memory: 48 << 10,
            invocations: 1024,
            workgroup: [1024, 1024, 64],
            f16: true,
            cooperative: Some(matrices),
            subgroup: Some(32),
            vendor: Vendor::Nvidia,
            ..Self::webgpu(AdapterClass::Discrete)
        }
    }

    /// The CPU: tensors of any size and element type.
    pub fn cpu() -> Self {
        /// Offsets in bytes stay far from overflow, also in sums.
        const MOST: u64 = 1 << 46;
        Self { binding: MOST, buffer: MOST, f16: true, ..Self::webgpu(AdapterClass::Cpu) }
    }

    /// WebGPU's default limits, for an adapter of this class.
    pub fn webgpu(class: AdapterClass) -> Self {
        Self {
            class,
            vendor: Vendor::Unknown,
            binding: 128 << 20,
            buffer: 256 << 20,
            workgroup_memory: 16 << 10,
            invocations: 256,
            workgroup: [256, 256, 64],
            alignment: 256,
            bake: class != AdapterClass::Software,
            grouped: AdapterClass::GPU.contains(&class),
            f16: false,
            cooperative: None,
            subgroup: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f16 is the default only with f16 matrices on a hardware GPU.
    #[test]
    fn f16_is_preferred_with_f16_matrices() {
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
