//! Devices for tests.

use incept::gpu::{AdapterOptions, Gpu};

/// A separate device for a test.
pub fn open() -> Gpu {
    Gpu::open_blocking(&AdapterOptions::default()).expect("the tests need a GPU driver")
}
