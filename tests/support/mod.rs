//! Shared test code. The command's tests include some of these files too.

pub mod goldens;
pub mod gpu;
pub mod networks;
pub mod noise;
pub mod skipped;

use std::sync::OnceLock;

use incept::gpu::Gpu;

/// A shared device for tests that do not use its choices and counters: opening one takes longer
/// than most tests.
pub fn shared() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(gpu::open)
}
