//! The trained weights that are included in the engine (see `assets/cifar10/README.md`).

use std::path::Path;

use super::Checkpoint;
use crate::error::Result;

/// A safetensors file written by [`Checkpoint::to_half_bytes`]: GoogLeNet with batch norm and a
/// width multiplier of 0.25, trained on CIFAR-10 with all three heads.
pub const INCLUDED: &[u8] = include_bytes!("../../assets/cifar10/googlenet.safetensors");

impl Checkpoint {
    /// The included weights.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if the included file is damaged.
    pub fn included() -> Result<Self> {
        Self::from_bytes(Path::new("included"), INCLUDED)
    }
}
