//! Data sets: labelled images from common formats, and batches of them.

mod augment;
mod cifar;
mod cifar_python;
mod crops;
mod decode;
mod digits;
mod duplicates;
mod find;
mod folder;
mod idx;
mod imagenet;
#[cfg(feature = "formats")]
mod labels;
mod layout;
mod loader;
#[cfg(feature = "formats")]
mod manifest;
mod memory;
mod mix;
mod open;
#[cfg(feature = "formats")]
mod parquet;
mod parts;
mod photometric;
mod preprocess;
mod read;
mod reclass;
mod resample;
#[cfg(feature = "formats")]
mod shards;
mod split;
mod walk;
#[cfg(feature = "formats")]
mod webdataset;

pub use augment::{AreaCrop, Augmentation};
pub use crops::{CropSet, CropTest};
pub use decode::{DEFAULT_MAX_PIXELS, Image, ImageKind, image_kind, is_image, set_max_pixels, sniff};
pub use digits::{Digits, digits};
pub use duplicates::MAX_COMPARED_IMAGES;
pub use folder::Folder;
pub use imagenet::imagenet_classes;
pub use loader::{Batch, Loader, LoaderOptions};
pub use memory::InMemory;
pub use mix::{Mix, MixedLabels};
pub use open::{OpenOptions, OpenedData, OpenedPart, at_most, open, open_part};
#[cfg(feature = "formats")]
pub use parquet::Parquet;
pub use parts::Part;
pub use photometric::Photometric;
pub use preprocess::{Fit, IMAGENET_CROP, Preprocessing, not_square};
pub use reclass::with_classes;
pub use split::{Subset, permutation, stratified};
pub use walk::list_images;
#[cfg(feature = "formats")]
pub use webdataset::WebDataset;

use std::fmt::Debug;

use crate::error::Result;
use find::Found;

/// Labelled images. Several worker threads read at the same time.
pub trait Dataset: Send + Sync + Debug {
    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there are no images.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Class names, by label.
    fn classes(&self) -> &[String];

    /// Class of an image, below the number of classes. This and the following methods may panic if
    /// `index` is not below [`Dataset::len`].
    fn label(&self, index: usize) -> u32;

    /// Decodes an image.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file.
    fn image(&self, index: usize) -> Result<Image>;

    /// Name of an image in messages: its file, or its position.
    fn name(&self, index: usize) -> String;

    /// Bytes of an image as stored; `None` if unknown without reading it.
    fn stored_bytes(&self, _index: usize) -> Option<u64> {
        None
    }

    /// Up to `limit` first bytes of an image as stored, for finding duplicates; `None` if
    /// unavailable.
    fn stored(&self, _index: usize, _limit: u64) -> Option<Vec<u8>> {
        None
    }
}

/// Images of equal size in memory.
#[derive(Clone, Debug)]
pub(crate) struct Uniform {
    pub source: String,
    pub classes: Vec<String>,
    pub width: usize,
    pub height: usize,
    pub channels: usize,
    /// images x height x width x channels.
    pub pixels: Vec<u8>,
    pub labels: Vec<u8>,
}

impl Dataset for Uniform {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> u32 {
        u32::from(self.labels[index])
    }

    fn image(&self, index: usize) -> Result<Image> {
        let size = self.width * self.height * self.channels;
        let pixels = self.pixels[index * size..(index + 1) * size].to_vec();
        Ok(Image { width: self.width, height: self.height, channels: self.channels, pixels })
    }

    fn name(&self, index: usize) -> String {
        format!("{} #{index}", self.source)
    }

    fn stored_bytes(&self, _index: usize) -> Option<u64> {
        Some((self.width * self.height * self.channels) as u64)
    }

    fn stored(&self, index: usize, limit: u64) -> Option<Vec<u8>> {
        let size = self.width * self.height * self.channels;
        let image = self.pixels.get(index * size..(index + 1) * size)?;
        Some(image[..size.min(usize::try_from(limit).unwrap_or(size))].to_vec())
    }
}
