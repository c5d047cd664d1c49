//! Images in plots: converted from data set images and heat maps, drawn into PNG files and embedded
//! in SVG files.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use colorgrad::{BasisGradient, Gradient, preset};
use image::imageops::{FilterType, replace, resize};
use image::{ImageFormat, Rgb, RgbImage};
use incept::data::Image;

use super::plot::Drawn;

/// An image with its position and size in the layout.
#[derive(Clone, Debug)]
pub(crate) struct Placed<'a> {
    pub image: &'a RgbImage,
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

impl Placed<'_> {
    /// Nearest-neighbor for images enlarged by 2 or more, so that their pixels are visible.
    fn filter(&self, scale: u32) -> FilterType {
        let enlarged = self.width * scale >= 2 * self.image.width();
        if enlarged { FilterType::Nearest } else { FilterType::Triangle }
    }

    /// Draws it on an image with `scale` pixels per pixel of the layout.
    pub(crate) fn overlay(&self, on: &mut RgbImage, scale: u32) {
        let scaled = resize(self.image, self.width * scale, self.height * scale, self.filter(scale));
        replace(on, &scaled, i64::from(self.left * scale), i64::from(self.top * scale));
    }

    /// The element of an SVG file.
    pub(crate) fn element(&self) -> Drawn<String> {
        let rendering = if self.filter(2) == FilterType::Nearest { "pixelated" } else { "auto" };
        let Self { left, top, width, height, .. } = self;
        let data = data_url(self.image)?;
        Ok(format!(
            r#"<image x="{left}" y="{top}" width="{width}" height="{height}" preserveAspectRatio="none" style="image-rendering:{rendering}" href="{data}"/>"#
        ))
    }
}

/// The image as a `data:` URL with a PNG.
pub(crate) fn data_url(image: &RgbImage) -> Drawn<String> {
    Ok(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png(image)?)))
}

/// The image as the bytes of a PNG file.
pub(crate) fn png(image: &RgbImage) -> Drawn<Vec<u8>> {
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png)?;
    Ok(png.into_inner())
}

/// Converts an image of a data set; grayscale is repeated in all channels.
pub(crate) fn raster(image: &Image) -> RgbImage {
    let Image { width, height, channels, pixels } = image;
    RgbImage::from_fn(*width as u32, *height as u32, |x, y| {
        let at = (y as usize * width + x as usize) * channels;
        Rgb([0, 1, 2].map(|c| pixels.get(at + c % channels).copied().unwrap_or(0)))
    })
}

/// An image scaled down to up to `size` pixels at its longer side.
pub(crate) fn thumbnail(image: &Image, size: u32) -> RgbImage {
    let image = raster(image);
    let longer = image.width().max(image.height());
    if longer <= size {
        return image;
    }
    let scale = |extent: u32| (extent * size / longer).max(1);
    resize(&image, scale(image.width()), scale(image.height()), FilterType::Triangle)
}

/// The viridis color map: perceptually uniform and color-blind safe.
pub(crate) struct Heat(BasisGradient);

impl Heat {
    pub(crate) fn new() -> Self {
        Self(preset::viridis())
    }

    /// The color of a value in [0, 1].
    pub(crate) fn color(&self, value: f32) -> [u8; 3] {
        let [red, green, blue, _] = self.0.at(value.clamp(0.0, 1.0)).to_rgba8();
        [red, green, blue]
    }

    /// A heat map of `width` columns with values in [0, 1] as an image.
    pub(crate) fn map(&self, values: &[f32], width: usize) -> RgbImage {
        let height = values.len() / width.max(1);
        RgbImage::from_fn(width as u32, height as u32, |x, y| {
            Rgb(self.color(values[y as usize * width + x as usize]))
        })
    }

    /// The heat map blended over the image in grayscale, more opaque at higher values.
    pub(crate) fn over(&self, image: &RgbImage, values: &[f32], width: usize) -> RgbImage {
        let height = values.len() / width.max(1);
        RgbImage::from_fn(image.width(), image.height(), |x, y| {
            let at = |i: u32, extent: u32, cells: usize| {
                ((i as f32 + 0.5) * cells as f32 / extent as f32 - 0.5).clamp(0.0, cells as f32 - 1.0)
            };
            let value = bilinear(values, width, at(x, image.width(), width), at(y, image.height(), height));
            let [red, green, blue] = image.get_pixel(x, y).0.map(f32::from);
            let grey = 0.299 * red + 0.587 * green + 0.114 * blue;
            let opacity = 0.4 + 0.4 * value;
            Rgb(self.color(value).map(|c| ((1.0 - opacity) * grey + opacity * f32::from(c)) as u8))
        })
    }
}

/// Bilinear interpolation in a map of `width` columns.
fn bilinear(values: &[f32], width: usize, x: f32, y: f32) -> f32 {
    let height = values.len() / width.max(1);
    let (left, top) = (x.floor() as usize, y.floor() as usize);
    let (right, bottom) = ((left + 1).min(width - 1), (top + 1).min(height - 1));
    let (fx, fy) = (x - left as f32, y - top as f32);
    let row = |y: usize| values[y * width + left] * (1.0 - fx) + values[y * width + right] * fx;
    row(top) * (1.0 - fy) + row(bottom) * fy
}

/// Values scaled to [0, 1]; all 0 if they are equal.
pub(crate) fn normalized(values: &[f32]) -> Vec<f32> {
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let spread = if most > least { most - least } else { f32::INFINITY };
    values.iter().map(|v| (v - least) / spread).collect()
}

/// Non-negative values divided by their maximum; all 0 if that is 0.
pub(crate) fn from_zero(values: &[f32]) -> Vec<f32> {
    let most = values.iter().copied().fold(0.0, f32::max);
    values.iter().map(|v| if most > 0.0 { v.max(0.0) / most } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_normalized_and_interpolated() {
        assert_eq!(normalized(&[1.0, 3.0, 2.0]), [0.0, 1.0, 0.5]);
        assert_eq!(normalized(&[4.0, 4.0]), [0.0, 0.0]);
        // The least value is not the scale's zero.
        assert_eq!(from_zero(&[2.0, 4.0, -1.0]), [0.5, 1.0, 0.0]);
        assert_eq!(from_zero(&[0.0, 0.0]), [0.0, 0.0]);
        assert_eq!(bilinear(&[0.0, 1.0, 2.0, 3.0], 2, 0.5, 0.5), 1.5);
        assert_eq!(bilinear(&[0.0, 1.0, 2.0, 3.0], 2, 1.0, 1.0), 3.0);
    }

    #[test]
    fn color_map_increases_in_lightness() {
        let heat = Heat::new();
        let lightness = |v: f32| {
            heat.color(v).map(u32::from).iter().zip([299, 587, 114]).map(|(c, w)| c * w).sum::<u32>()
        };
        assert!((0..20).all(|i| lightness(i as f32 / 20.0) < lightness((i + 1) as f32 / 20.0)));
    }

    #[test]
    fn large_images_become_thumbnails() {
        let image = Image { width: 300, height: 100, channels: 1, pixels: vec![7; 30_000] };
        assert_eq!(thumbnail(&image, 60).dimensions(), (60, 20));
        assert_eq!(raster(&image).get_pixel(3, 3).0, [7, 7, 7]);
        assert!(data_url(&thumbnail(&image, 4)).expect("a PNG").starts_with("data:image/png;base64,iVBOR"));
    }
}
