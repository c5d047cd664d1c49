//! Shared test code. The command's tests include some of these files too.

pub mod goldens;
pub mod gpu;
pub mod networks;
pub mod noise;
pub mod skipped;

use std::sync::OnceLock;

use incept::cpu::Cpu;
use incept::device::Device;
use incept::gpu::{AdapterOptions, Gpu};
use incept::kernel::AdapterClass;

/// A shared device for tests that do not use its choices and counters: opening one takes longer
/// than most tests.
pub fn shared() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(gpu::open)
}

/// A separate device that runs what adapters of this class run: on a GPU, kernels in groups.
pub fn open_as(class: AdapterClass) -> Gpu {
    Gpu::open_blocking(&AdapterOptions::default().class(class)).expect("the tests need a GPU driver")
}

/// As [`shared`], with the kernels of large GPUs.
pub fn shared_as_gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| open_as(AdapterClass::Discrete))
}

/// The CPU as a device, with two threads on every machine.
pub fn cpu() -> &'static Device {
    static CPU: OnceLock<Device> = OnceLock::new();
    CPU.get_or_init(|| Cpu::new(Some(2)).expect("threads").into())
}
