//! Devices for tests.

use std::sync::OnceLock;

use incept::gpu::{AdapterOptions, Gpu};

use super::skipped::skipped;

/// Whether this machine has no adapter, so that the calling test is skipped, which is counted.
pub fn missing() -> bool {
    static MISSING: OnceLock<bool> = OnceLock::new();
    let missing = *MISSING.get_or_init(|| Gpu::open_blocking(&AdapterOptions::default()).is_err());
    if missing {
        skipped("gpu", "this machine has no graphics driver");
    }
    missing
}

/// A separate device for a test.
pub fn open() -> Gpu {
    Gpu::open_blocking(&AdapterOptions::default()).expect("the tests need a GPU driver")
}
