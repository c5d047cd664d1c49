//! The families of GPUs that a compiler here knows, and how its driver is made to compile for each.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// A driver that compiles without its hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// RADV, which compiles for any family.
    Amd,
    /// ANV, with a stub of the kernel interface in place of the hardware.
    Intel,
}

/// Whether a GPU has its own memory; default kernels depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It has.
    Discrete,
    /// It shares the CPU's.
    Integrated,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Discrete { "discrete" } else { "integrated" })
    }
}

/// A family of GPUs.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The driver's name for it.
    pub name: &'static str,
    /// Products.
    pub products: &'static str,
    /// Its driver.
    pub vendor: Vendor,
    /// The class whose default kernels it gets.
    pub class: Class,
    /// Vector registers of an invocation above which too few subgroups are resident, if the
    /// occupancy depends on them.
    pub most_registers: Option<f64>,
}

/// Registers that leave two subgroups per SIMD on GCN.
const GCN: Option<f64> = Some(128.0);

/// All of them; a driver may be too old for some.
pub const FAMILIES: [Family; 15] = [
    amd("renoir", "Ryzen 4000 and 5000 (GCN 5)", Class::Integrated, GCN),
    amd("vega10", "RX Vega 56 and 64 (GCN 5)", Class::Discrete, GCN),
    amd("navi10", "RX 5700 (RDNA 1)", Class::Discrete, None),
    amd("navi21", "RX 6800 and 6900 (RDNA 2)", Class::Discrete, None),
    amd("navi31", "RX 7900 (RDNA 3)", Class::Discrete, None),
    amd("navi33", "RX 7600 (RDNA 3)", Class::Discrete, None),
    amd("gfx1150", "Ryzen AI 300 (RDNA 3.5)", Class::Integrated, None),
    amd("gfx1200", "RX 9060 (RDNA 4)", Class::Discrete, None),
    intel("skl", "Skylake, HD 530 (Gen9)", Class::Integrated),
    intel("tgl", "Tiger Lake, Iris Xe (Gen12)", Class::Integrated),
    intel("adl", "Alder Lake, UHD 770 (Gen12)", Class::Integrated),
    intel("dg2", "Arc A770 (Xe-HPG)", Class::Discrete),
    intel("mtl", "Meteor Lake (Xe-LPG)", Class::Integrated),
    intel("lnl", "Lunar Lake (Xe2)", Class::Integrated),
    intel("bmg", "Arc B580 (Xe2)", Class::Discrete),
];

const fn amd(
    name: &'static str,
    products: &'static str,
    class: Class,
    most_registers: Option<f64>,
) -> Family {
    Family { name, products, vendor: Vendor::Amd, class, most_registers }
}

const fn intel(name: &'static str, products: &'static str, class: Class) -> Family {
    Family { name, products, vendor: Vendor::Intel, class, most_registers: None }
}

/// The drivers and validators that `setup` brought into a folder, or the system's.
pub enum Lab {
    /// The folder of `setup`.
    Folder(PathBuf),
    /// What Debian's mesa-vulkan-drivers and spirv-tools installed: no Intel, no DXC.
    System,
}

/// Where distributions put the file that names RADV's library.
const SYSTEM_RADV: &str = "/usr/share/vulkan/icd.d/radeon_icd.x86_64.json";

impl Lab {
    /// Configures a process so that its only Vulkan device is of this family.
    ///
    /// # Errors
    /// Why the driver is not available.
    pub fn configure(&self, family: &Family, command: &mut Command) -> Result<()> {
        // Cached pipelines have no statistics of this run; layers may ask for a window system.
        command.env("MESA_SHADER_CACHE_DISABLE", "true").env("NODEVICE_SELECT", "1");
        let (icd, stub) = match (self, family.vendor) {
            (Self::System, Vendor::Amd) => (existing(Path::new(SYSTEM_RADV))?, None),
            (Self::System, Vendor::Intel) => {
                return Err("the stub of Intel's kernel interface is not a package: run setup".into());
            }
            (Self::Folder(folder), vendor) => {
                command.env("LD_LIBRARY_PATH", folder.join("mesa/usr/lib/x86_64-linux-gnu"));
                match vendor {
                    Vendor::Amd => (existing(&folder.join("radv.json"))?, None),
                    Vendor::Intel => {
                        let stub = existing(&folder.join("libintel_noop_drm_shim.so"))?;
                        (existing(&folder.join("anv.json"))?, Some(stub))
                    }
                }
            }
        };
        command.env("VK_ICD_FILENAMES", &icd).env("VK_DRIVER_FILES", &icd);
        match stub {
            None => command.env("RADV_FORCE_FAMILY", family.name),
            Some(stub) => command.env("LD_PRELOAD", stub).env("INTEL_STUB_GPU_PLATFORM", family.name),
        };
        Ok(())
    }

    /// What `setup` recorded: parts with their versions, and parts that are missing with the
    /// reason.
    pub fn parts(&self) -> (Vec<String>, Vec<String>) {
        let Self::Folder(folder) = self else { return (Vec::new(), Vec::new()) };
        let text = std::fs::read_to_string(folder.join("versions")).unwrap_or_default();
        let of = |state: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(state)?.trim().split_once(' '));
            lines.map(|(name, rest)| format!("{name}: {rest}")).collect()
        };
        (of("available "), of("missing "))
    }
}

/// The file, if it is there.
///
/// # Errors
/// Advice.
pub fn existing(file: &Path) -> Result<PathBuf> {
    if file.exists() {
        return Ok(file.to_path_buf());
    }
    Err(format!("{} does not exist: run setup", file.display()).into())
}
