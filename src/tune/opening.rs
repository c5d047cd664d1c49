//! Opening a device: what it claims of cooperative matrices is believed after a test.

use super::cooperative;
use crate::error::{Error, Result};
use crate::gpu::{AdapterOptions, Gpu, open_unproven};
use crate::kernel::Cooperative;

impl Gpu {
    /// Opens the adapter that the options name, or the fastest one. On devices with cooperative
    /// matrices this waits for the test of those.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] with the list of what there is, [`Error::Device`] if the driver
    /// refuses.
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
        // Opening waits for no work of the device; the tests of its matrices do, and somebody has
        // to poll it.
        let (gpu, matrices) = pollster::block_on(open_unproven(options, true))?;
        match gpu.block_on(proven(&gpu, matrices)) {
            Ok(proven) => Ok(gpu.with_matrices(proven)),
            Err(_) => Ok(pollster::block_on(open_unproven(options, false))?.0),
        }
    }
}

/// The matrices, if convolutions on them give the CPU twin's results. The tests wait for the
/// device, so on a desktop something has to poll it meanwhile, as [`Gpu::block_on`] does.
///
/// # Errors
/// [`Error::DeviceLost`] if the device did not outlive the test: it is to be opened again, without
/// matrices.
async fn proven(gpu: &Gpu, matrices: Option<Cooperative>) -> Result<Option<Cooperative>> {
    let Some(matrices) = matrices else { return Ok(None) };
    let tested = cooperative::self_test(gpu, &matrices).await;
    // What the driver reports on its own in the test is answered by leaving the matrices alone.
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
