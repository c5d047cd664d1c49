//! Data sets: pictures with labels, read from the formats that people have, turned into batches.

mod augment;
mod cifar;
mod crops;
mod digits;
mod duplicates;
mod find;
mod folder;
mod idx;
mod imagenet;
#[path = "decode/kind.rs"]
mod kind;
#[cfg(feature = "formats")]
mod labels;
mod layout;
mod loader;
#[cfg(feature = "formats")]
mod manifest;
mod mix;
mod open;
#[cfg(feature = "formats")]
mod parquet;
mod parts;
mod photometric;
mod preprocess;
mod read;
mod reclass;
#[cfg(feature = "formats")]
mod shards;
mod split;
mod walk;
#[cfg(feature = "formats")]
mod webdataset;

pub use augment::{AreaCrop, Augmentation};
pub use crops::{CropSet, CropTest};
pub use digits::{Digits, digits};
pub use folder::Folder;
pub use imagenet::imagenet_classes;
pub use kind::{ImageKind, image_kind, is_picture, sniff};
pub use loader::{Batch, Loader, LoaderOptions};
pub use mix::{Mix, MixedLabels};
pub use open::{OpenOptions, OpenedData, OpenedPart, at_most, open, open_part};
#[cfg(feature = "formats")]
pub use parquet::Parquet;
pub use parts::Part;
pub use photometric::Photometric;
pub use preprocess::{Fit, Preprocessing};
pub use reclass::with_classes;
pub use split::{Subset, permutation, stratified};
pub use walk::list_images;
#[cfg(feature = "formats")]
pub use webdataset::WebDataset;

use std::fmt::Debug;
use std::path::Path;

use image::ImageDecoder as _;

use crate::error::Result;
use find::Found;

/// A decoded picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 for grey, 3 for red, green and blue.
    pub channels: usize,
    /// height x width x channels values from 0 to 255.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// Decodes what the `image` crate reads. Grey pictures stay grey, everything else becomes RGB; transparency shows white.
    ///
    /// # Errors
    /// The decoder's words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        Self::decode_as(bytes, None)
    }

    /// As [`Picture::decode`]. A format that has no signature, as TGA, is known by the file's name. The picture stands as its camera was held,
    /// where the file says so (EXIF).
    ///
    /// # Errors
    /// The decoder's words.
    pub fn decode_as(bytes: &[u8], file: Option<&Path>) -> Result<Self, String> {
        let by_content = image::guess_format(bytes);
        let by_name = || file.and_then(|file| image::ImageFormat::from_path(file).ok());
        let format = by_content.or_else(|e| by_name().ok_or(e)).map_err(|e| e.to_string())?;
        if format == image::ImageFormat::Jpeg && !is_whole_jpeg(bytes) {
            return Err("is cut off: the end of the JPEG is missing".into());
        }
        let reader = image::ImageReader::with_format(std::io::Cursor::new(bytes), format);
        let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
        let orientation = decoder.orientation().map_err(|e| e.to_string())?;
        let mut picture = image::DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
        picture.apply_orientation(orientation);
        Ok(Self::from_image(&picture))
    }

    /// Takes up a picture of the `image` crate.
    pub fn from_image(picture: &image::DynamicImage) -> Self {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let color = picture.color();
        if !color.has_color() && !color.has_alpha() {
            return Self { width, height, channels: 1, pixels: picture.to_luma8().into_raw() };
        }
        let mut pixels = Vec::with_capacity(width * height * 3);
        for pixel in picture.to_rgba8().pixels() {
            let [rgb @ .., alpha] = pixel.0;
            let alpha = u32::from(alpha);
            // A weighted mean of two bytes is a byte.
            pixels.extend(rgb.map(|v| ((u32::from(v) * alpha + 255 * (255 - alpha) + 127) / 255) as u8));
        }
        Self { width, height, channels: 3, pixels }
    }
}

/// Whether a JPEG has an end behind its scans. Decoders fill what is missing with grey. What follows the end is of no interest: phones put films there.
fn is_whole_jpeg(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // Within a scan 0xff is followed by a zero or a restart marker; between segments it may be repeated.
        let marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xd0..=0xd7 | 0xff);
        let Some(next) = bytes.get(at..).and_then(|rest| rest.windows(2).position(marker)) else {
            return false;
        };
        at += next;
        if bytes[at + 1] == 0xd9 {
            return true;
        }
        // The length of a segment counts itself; a scan's data follow its segment.
        let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { return false };
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
}

/// Pictures with labels. Reading one must not change anything: workers read at the same time.
pub trait Dataset: Send + Sync + Debug {
    /// Number of pictures.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of the classes, by number.
    fn classes(&self) -> &[String];

    /// The class of a picture, below the number of classes. This, and what follows, may panic for an index that is not below [`Dataset::len`].
    fn label(&self, index: usize) -> u32;

    /// A picture.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file.
    fn picture(&self, index: usize) -> Result<Picture>;

    /// What messages call a picture: its file, or its place.
    fn name(&self, index: usize) -> String;

    /// Bytes that an image takes as it is stored, if it can be known without reading it.
    fn stored_bytes(&self, _index: usize) -> Option<u64> {
        None
    }

    /// The first `limit` bytes of an image as it is stored, or all if there are fewer: what tells whether two are the same.
    fn stored(&self, _index: usize, _limit: u64) -> Option<Vec<u8>> {
        None
    }
}

/// Pictures of one size in memory.
#[derive(Clone, Debug)]
pub(crate) struct InMemory {
    pub source: String,
    pub classes: Vec<String>,
    pub width: usize,
    pub height: usize,
    pub channels: usize,
    /// All pictures one after another, height x width x channels each.
    pub pixels: Vec<u8>,
    pub labels: Vec<u8>,
}

impl Dataset for InMemory {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> u32 {
        u32::from(self.labels[index])
    }

    fn picture(&self, index: usize) -> Result<Picture> {
        let size = self.width * self.height * self.channels;
        let pixels = self.pixels[index * size..(index + 1) * size].to_vec();
        Ok(Picture { width: self.width, height: self.height, channels: self.channels, pixels })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A JPEG of some texture.
    fn jpeg() -> Vec<u8> {
        let picture =
            image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([(x * y) as u8, (7 * x) as u8, y as u8]));
        let mut bytes = Vec::new();
        picture
            .write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut bytes))
            .expect("can be encoded");
        bytes
    }

    #[test]
    fn jpegs_are_whole_whatever_follows_their_end() {
        let whole = jpeg();
        assert!(is_whole_jpeg(&whole));
        // A film behind it, as phones append, may hold any marker.
        let film = [&whole[..], &[0, 0, 0, 24, 0xff, 0xda, 0xff, 0xd8, 1, 2, 3]].concat();
        assert!(is_whole_jpeg(&film));
        assert_eq!(Picture::decode(&film).expect("a picture"), Picture::decode(&whole).expect("a picture"));
        // A preview inside a segment ends, and the picture does not.
        let preview = [&[0xff, 0xd8, 0xff, 0xe1, 0, 8, 0xff, 0xd9, 0xff, 0xda, 0, 0], &whole[2..]].concat();
        assert!(is_whole_jpeg(&preview) && !is_whole_jpeg(&preview[..preview.len() / 2]));
        for end in [0, 1, 2, 3, 20, whole.len() / 2, whole.len() - 2, whole.len() - 1] {
            assert!(!is_whole_jpeg(&whole[..end]), "{end} of {}", whole.len());
        }
    }
}
