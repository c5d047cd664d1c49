//! Decoding of image files. Any input gives an image or an error in bounded memory: sizes are
//! checked before allocation, and panics of decoders are caught and returned as errors.

mod jpeg;
mod kind;
mod tiff;

use std::borrow::Cow;
use std::io::Cursor;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

#[cfg(feature = "formats")]
pub(super) use kind::{HEAD, kind_of_name};
pub use kind::{ImageKind, image_kind, is_image, sniff};

use super::resample::Region;
use crate::error::{Error, Result};
use crate::text::plural;
use crate::untrusted::{MAX_SAMPLE_BYTES, contained, read_file};

/// Default limit on pixels per image, see [`set_max_pixels`]: 512 MiB at four bytes per pixel.
pub const DEFAULT_MAX_PIXELS: u64 = 1 << 27;

static MAX_PIXELS: AtomicU64 = AtomicU64::new(DEFAULT_MAX_PIXELS);

/// Sets the process-wide limit on pixels per image. Larger images are rejected before allocation,
/// as are images with more than four bytes per pixel (16 bits per channel, floats) that need more
/// than 4 x `count` bytes.
pub fn set_max_pixels(count: u64) {
    MAX_PIXELS.store(count, Ordering::Relaxed);
}

/// A decoded image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// 1 for grey, 3 for RGB.
    pub channels: usize,
    /// height x width x channels values in 0..=255.
    pub pixels: Vec<u8>,
}

impl Image {
    /// Reads a regular file and decodes it.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = read_file(path, MAX_SAMPLE_BYTES)?;
        Self::decode_as(&bytes, Some(path)).map_err(|reason| Error::format(path, reason))
    }

    /// Decodes any format that the `image` crate reads. Grey images stay grey, everything else
    /// becomes RGB; transparent pixels are blended with white; of an animation the first frame is
    /// used.
    ///
    /// # Errors
    /// The decoder's message.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        Self::decode_as(bytes, None)
    }

    /// Like [`Image::decode`]; `file` gives the format where there is no signature, as in TGA. The
    /// EXIF orientation is applied.
    ///
    /// # Errors
    /// The decoder's message, or that the image has no pixels or too many ([`set_max_pixels`]).
    pub fn decode_as(bytes: &[u8], file: Option<&Path>) -> Result<Self, String> {
        let max_pixels = MAX_PIXELS.load(Ordering::Relaxed);
        contained(|| decode(bytes, file, Limit { max_pixels }))
    }

    /// Converts an image of the `image` crate.
    pub fn from_image(image: &DynamicImage) -> Self {
        Self::of(image.clone(), Alpha::Straight)
    }

    /// Converts an image of the `image` crate in place; it is copied, once, only if its samples
    /// have more than 8 bits.
    fn of(image: DynamicImage, alpha: Alpha) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let grey = |pixels| Self { width, height, channels: 1, pixels };
        let rgb = |pixels| Self { width, height, channels: 3, pixels };
        let color = image.color();
        match image {
            DynamicImage::ImageLuma8(image) => grey(image.into_raw()),
            DynamicImage::ImageRgb8(image) => rgb(image.into_raw()),
            image if color.has_alpha() => rgb(over_white(image.into_rgba8().into_raw(), alpha)),
            image if color.has_color() => rgb(image.into_rgb8().into_raw()),
            image => grey(image.into_luma8().into_raw()),
        }
    }

    /// The whole image as a region.
    pub(super) fn all(&self) -> Region {
        (0.0, 0.0, self.width as f64, self.height as f64)
    }

    /// Checks that the image is not empty, has 1 or 3 channels and as many values as its size says.
    ///
    /// # Errors
    /// The reason.
    pub fn check(&self) -> Result<(), String> {
        let Self { width, height, channels, ref pixels } = *self;
        if width == 0 || height == 0 {
            return Err(format!("has no pixels: it is {width} x {height}"));
        }
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(channels));
        if !matches!(channels, 1 | 3) || expected != Some(pixels.len()) {
            let count = plural(pixels.len(), "value");
            return Err(format!("has {count}, not {width} x {height} x {channels} (1 or 3 channels)"));
        }
        Ok(())
    }
}

/// How colors are stored in an image with alpha.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alpha {
    /// Not multiplied by alpha.
    Straight,
    /// Premultiplied by alpha.
    Associated,
}

/// Blends RGBA pixels with white, in place, to RGB.
fn over_white(mut pixels: Vec<u8>, alpha: Alpha) -> Vec<u8> {
    let count = pixels.len() / 4;
    for i in 0..count {
        let a = u32::from(pixels[4 * i + 3]);
        for c in 0..3 {
            let value = u32::from(pixels[4 * i + c]);
            let shown = match alpha {
                Alpha::Straight => (value * a + 255 * (255 - a) + 127) / 255,
                Alpha::Associated => (value + 255 - a).min(255),
            };
            // A weighted mean of two bytes fits a byte.
            pixels[3 * i + c] = shown as u8;
        }
    }
    pixels.truncate(3 * count);
    pixels.shrink_to_fit();
    pixels
}

/// Limit on the size of an image.
#[derive(Clone, Copy, Debug)]
struct Limit {
    max_pixels: u64,
}

impl Limit {
    /// Maximum bytes of the decoded image.
    fn bytes(self) -> u64 {
        self.max_pixels.saturating_mul(4)
    }

    /// Checks the size before decoding: `from_decoder` allocates whatever the header claims.
    fn check(self, (width, height): (u32, u32), bytes: u64) -> Result<(), String> {
        if width == 0 || height == 0 {
            return Err(format!("has no pixels: it is {width} x {height}"));
        }
        let pixels = u64::from(width) * u64::from(height);
        let allowed = self.max_pixels;
        if pixels > allowed {
            return Err(format!(
                "is {width} x {height} pixels, more than the {allowed} that `data::set_max_pixels` allows"
            ));
        }
        if bytes > self.bytes() {
            let each = bytes / pixels;
            return Err(format!(
                "is {width} x {height} pixels of {each} bytes, more memory than the {allowed} pixels of 4 bytes that `data::set_max_pixels` allows"
            ));
        }
        Ok(())
    }

    /// The limit on decoders' own allocations, up to two more images.
    fn of_decoders(self) -> image::Limits {
        let mut limits = image::Limits::default();
        // Even a small pixel limit leaves decoders enough memory to read the header.
        limits.max_alloc = Some(self.bytes().saturating_mul(3).max(64 << 20));
        limits
    }
}

/// The format by the content's signature, or else by the file's extension.
fn format_of(bytes: &[u8], file: Option<&Path>) -> Result<ImageFormat, String> {
    let by_name = || file.and_then(kind::format_of_ending);
    image::guess_format(bytes).or_else(|e| by_name().ok_or(e)).map_err(|e| e.to_string())
}

fn decode(bytes: &[u8], file: Option<&Path>, limit: Limit) -> Result<Image, String> {
    let format = format_of(bytes, file)?;
    let (mut bytes, mut alpha) = (Cow::Borrowed(bytes), Alpha::Straight);
    match format {
        ImageFormat::Jpeg => jpeg::check(&bytes)?,
        ImageFormat::Tiff => (bytes, alpha) = tiff::prepared(bytes)?,
        _ => (),
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes.as_ref()), format);
    reader.limits(limit.of_decoders());
    let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    limit.check(decoder.dimensions(), decoder.total_bytes())?;
    let orientation = orientation(&mut decoder, format)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    image.apply_orientation(orientation);
    let image = Image::of(image, alpha);
    image.check()?;
    Ok(image)
}

/// Orientation by TIFF's own tag or EXIF.
fn orientation(decoder: &mut impl ImageDecoder, format: ImageFormat) -> Result<Orientation, String> {
    if format == ImageFormat::Tiff {
        return decoder.orientation().map_err(|e| e.to_string());
    }
    let exif = decoder.exif_metadata().map_err(|e| e.to_string())?;
    let oriented = exif.as_deref().and_then(|exif| {
        // The prefix of JPEG's EXIF segment, which many programs also write to WebP and PNG chunks.
        Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))
    });
    Ok(oriented.unwrap_or(Orientation::NoTransforms))
}

#[cfg(test)]
mod tests;
