//! The trained weights that come with the engine (see `assets/cifar10/README.md`).

use std::path::Path;

use super::Checkpoint;
use crate::error::Result;

/// A safetensors file as [`Checkpoint::to_half_bytes`] makes it: GoogLeNet with batch norm at a
/// quarter of its width, trained on CIFAR-10 with all three of its softmaxes.
pub const INCLUDED: &[u8] = include_bytes!("../../assets/cifar10/googlenet.safetensors");

impl Checkpoint {
    /// The weights that come with the engine.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if the program's own copy is damaged.
    pub fn included() -> Result<Self> {
        Self::from_bytes(Path::new("included"), INCLUDED)
    }
}
