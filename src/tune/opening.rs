//! Opening a device, with a self-test of its cooperative matrices.

use super::cooperative;
use crate::error::{Error, Result};
use crate::gpu::{AdapterOptions, Gpu, open_unproven};
use crate::kernel::Cooperative;

impl Gpu {
    /// Opens the selected adapter, or the fastest one. On devices with cooperative matrices this
    /// waits for their self-test.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] with the list of adapters, [`Error::Device`] if the driver fails.
    pub async fn open(options: &AdapterOptions) -> Result<Self> {
        let (gpu, matrices) = open_unproven(options, true).await?;
        match proven(&gpu, matrices).await {
            Ok(proven) => Ok(gpu.with_matrices(proven)),
            Err(_) => Ok(open_unproven(options, false).await?.0),
        }
    }

    /// As [`Gpu::open`], blocking.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_blocking(options: &AdapterOptions) -> Result<Self> {
        // Opening does not wait for the device, but the self-test does, and needs polling.
        let (gpu, matrices) = pollster::block_on(open_unproven(options, true))?;
        match gpu.block_on(proven(&gpu, matrices)) {
            Ok(proven) => Ok(gpu.with_matrices(proven)),
            Err(_) => Ok(pollster::block_on(open_unproven(options, false))?.0),
        }
    }
}

/// The matrices, if convolutions on them match the CPU reference. The test waits for the device, so
/// outside a browser it must be polled, as by [`Gpu::block_on`].
///
/// # Errors
/// [`Error::DeviceLost`] if the device was lost in the test: open it again without matrices.
async fn proven(gpu: &Gpu, matrices: Option<Cooperative>) -> Result<Option<Cooperative>> {
    let Some(matrices) = matrices else { return Ok(None) };
    let tested = cooperative::self_test(gpu, &matrices).await;
    // Any driver error during the test disables the matrices.
    match gpu.check("the test of cooperative matrices").and(tested) {
        Ok(()) => {
            let size = matrices.size;
            log::info!("{}: convolutions use cooperative matrices of {size}x{size}", gpu.summary());
            Ok(Some(matrices))
        }
        Err(error) => {
            log::info!("{}: cooperative matrices failed their test: {error}", gpu.summary());
            if matches!(error, Error::DeviceLost(_)) { Err(error) } else { Ok(None) }
        }
    }
}
