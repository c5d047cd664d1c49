//! Data sets in memory.

use super::{Dataset, Image};
use crate::error::{Error, Result};
use crate::text::plural;

/// Labelled images in memory, of any sizes.
///
/// ```
/// use incept::data::{Dataset, Image, InMemory};
///
/// # fn main() -> incept::Result<()> {
/// let mut set = InMemory::new(["dark", "bright"]);
/// set.push(Image { width: 2, height: 1, channels: 1, pixels: vec![10, 20] }, 0)?;
/// set.push(Image { width: 1, height: 1, channels: 3, pixels: vec![250, 240, 230] }, 1)?;
/// assert_eq!((set.len(), set.label(1)), (2, 1));
/// assert!(set.push(Image { width: 2, height: 2, channels: 1, pixels: vec![0] }, 0).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct InMemory {
    classes: Vec<String>,
    images: Vec<Image>,
    labels: Vec<u32>,
}

impl InMemory {
    /// An empty data set with these class names.
    pub fn new(classes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let classes = classes.into_iter().map(Into::into).collect();
        Self { classes, ..Self::default() }
    }

    /// Adds an image with its class.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for an unknown class, an empty image, a number of channels other than
    /// 1 or 3, or a number of pixels that does not match width, height and channels.
    pub fn push(&mut self, image: Image, class: u32) -> Result<()> {
        let count = self.classes.len();
        if class as usize >= count {
            return Err(Error::out_of_range("InMemory::push", format!("a class below {count}"), class));
        }
        let Image { width, height, channels, ref pixels } = image;
        let size = width.checked_mul(height).and_then(|area| area.checked_mul(channels));
        if size != Some(pixels.len()) || pixels.is_empty() || !matches!(channels, 1 | 3) {
            let found = format!("{width} x {height} x {channels} with {}", plural(pixels.len(), "byte"));
            return Err(Error::out_of_range(
                "InMemory::push",
                "an image of width x height x 1 or 3 bytes",
                found,
            ));
        }
        self.images.push(image);
        self.labels.push(class);
        Ok(())
    }
}

impl Dataset for InMemory {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    fn image(&self, index: usize) -> Result<Image> {
        Ok(self.images[index].clone())
    }

    fn name(&self, index: usize) -> String {
        format!("image #{index}")
    }

    fn stored_bytes(&self, index: usize) -> Option<u64> {
        Some(self.images.get(index)?.pixels.len() as u64)
    }

    fn stored(&self, index: usize, limit: u64) -> Option<Vec<u8>> {
        let pixels = &self.images.get(index)?.pixels;
        Some(pixels[..pixels.len().min(usize::try_from(limit).unwrap_or(usize::MAX))].to_vec())
    }
}
