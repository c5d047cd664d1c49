//! What tests share. The command's tests take some of it too, file by file.

pub mod goldens;
pub mod gpu;
pub mod networks;
pub mod noise;
pub mod skipped;

use std::sync::OnceLock;

use incept::gpu::Gpu;

/// One device for all tests that leave its choices and counters alone: opening one takes longer
/// than most of them.
pub fn shared() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(gpu::open)
}
