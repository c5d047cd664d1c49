//! Devices for tests.

use incept::gpu::{AdapterOptions, Gpu};

/// A device of this test's own.
pub fn open() -> Gpu {
    Gpu::open_blocking(&AdapterOptions::default()).expect("the tests need a GPU driver")
}
