//! Devices for tests.

use std::sync::OnceLock;

use incept::gpu::{AdapterOptions, Gpu};

/// Whether this machine has no adapter at all. Tests of kernels are skipped there
/// (`needs_gpu!`); those of networks, runs and commands use the CPU.
pub fn missing() -> bool {
    static MISSING: OnceLock<bool> = OnceLock::new();
    *MISSING.get_or_init(|| Gpu::open_blocking(&AdapterOptions::default()).is_err())
}

/// Skips the calling test, which returns nothing or the given value, where there is no adapter.
macro_rules! needs_gpu {
    ($($value:expr)?) => {
        if $crate::gpu_support::missing() {
            $crate::skipped_support::skipped("gpu", "this machine has no graphics driver");
            return $($value)?;
        }
    };
}
pub(crate) use needs_gpu;

/// A separate device for a test.
pub fn open() -> Gpu {
    Gpu::open_blocking(&AdapterOptions::default()).expect("the tests need a GPU driver")
}
