//! Cropping and resizing, in memory that does not grow with an image's aspect ratio.

use image::imageops::{self, FilterType};
use image::{ImageBuffer, Luma, Rgb};

use super::Image;

/// A rectangle in pixels, which may extend beyond the image: (left, top, width, height).
pub(super) type Region = (f64, f64, f64, f64);

/// Columns times new rows above which a wide image is transposed for resizing. The resizer's
/// intermediate rows of f32 are as wide as the image, 16 bytes per pixel: for a line of a hundred
/// million pixels they would take hundreds of gigabytes.
const MOST_BETWEEN: usize = 1 << 24;

/// Resizes pixels from width x height to another size.
pub(super) fn resize(
    pixels: &[u8],
    channels: usize,
    (width, height): (usize, usize),
    (to_width, to_height): (usize, usize),
    filter: FilterType,
) -> Vec<u8> {
    if (width, height) == (to_width, to_height) {
        return pixels.to_vec();
    }
    if width > height && width.saturating_mul(to_height) > MOST_BETWEEN {
        let turned = transposed(pixels, channels, width, height);
        let resized = resize(&turned, channels, (height, width), (to_height, to_width), filter);
        return transposed(&resized, channels, to_height, to_width);
    }
    // Images have fewer than 2^32 pixels per side.
    let (w, h, to_w, to_h) = (width as u32, height as u32, to_width as u32, to_height as u32);
    let resized = if channels == 1 {
        let image = ImageBuffer::<Luma<u8>, _>::from_raw(w, h, pixels);
        image.map(|image| imageops::resize(&image, to_w, to_h, filter).into_raw())
    } else {
        let image = ImageBuffer::<Rgb<u8>, _>::from_raw(w, h, pixels);
        image.map(|image| imageops::resize(&image, to_w, to_h, filter).into_raw())
    };
    resized.unwrap_or_else(|| vec![0; to_width * to_height * channels])
}

/// Swaps rows and columns.
fn transposed(pixels: &[u8], channels: usize, width: usize, height: usize) -> Vec<u8> {
    let mut turned = Vec::with_capacity(pixels.len());
    for x in 0..width {
        for y in 0..height {
            let at = (y * width + x) * channels;
            turned.extend_from_slice(&pixels[at..at + channels]);
        }
    }
    turned
}

/// A region resized to `size` x `size`. Outside the image its border is repeated.
pub(super) fn cut(
    image: &Image,
    (left, top, width, height): Region,
    size: usize,
    filter: FilterType,
) -> Vec<u8> {
    let (w, h) = ((width.round() as usize).max(1), (height.round() as usize).max(1));
    let (left, top) = (left.round() as i64, top.round() as i64);
    if (left, top, w, h) == (0, 0, image.width, image.height) {
        return resize(&image.pixels, image.channels, (w, h), (size, size), filter);
    }
    let mut pixels = Vec::with_capacity(w * h * image.channels);
    let inside = |i: i64, extent: usize| i.clamp(0, extent as i64 - 1) as usize;
    for y in 0..h {
        let row = inside(top + y as i64, image.height) * image.width;
        for x in 0..w {
            let at = (row + inside(left + x as i64, image.width)) * image.channels;
            pixels.extend_from_slice(&image.pixels[at..at + image.channels]);
        }
    }
    resize(&pixels, image.channels, (w, h), (size, size), filter)
}

/// The part of a square that shows the image: position, size and pixels.
pub(super) struct Shown {
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

/// A region resized to a square of `size` x `size`, without the part outside the image, which is
/// padding.
pub(super) fn within(image: &Image, region: Region, size: usize, filter: FilterType) -> Shown {
    let (left, top, width, height) = region;
    let across = overlap(left, width, image.width, size);
    let down = overlap(top, height, image.height, size);
    let (Some((x, columns)), Some((y, rows))) = (across, down) else {
        return Shown { left: 0, top: 0, width: 0, height: 0, pixels: Vec::new() };
    };
    let part = part(image, (columns.0, rows.0), (columns.1, rows.1));
    let pixels = resize(&part.pixels, part.channels, (part.width, part.height), (x.1, y.1), filter);
    Shown { left: x.0, top: y.0, width: x.1, height: y.1, pixels }
}

/// (start, length).
type Stretch = (usize, usize);

/// Along one axis: the range of the square that shows the image, and the range of the image that it
/// shows. `None` if they do not overlap.
fn overlap(start: f64, length: f64, extent: usize, size: usize) -> Option<(Stretch, Stretch)> {
    let (from, to) = (start.max(0.0), (start + length).min(extent as f64));
    if from >= to || length <= 0.0 {
        return None;
    }
    // At least one pixel of both.
    let stretch = |from: f64, to: f64, extent: usize| {
        let first = (from.round() as usize).min(extent - 1);
        (first, (to.round() as usize).clamp(first + 1, extent) - first)
    };
    let scale = size as f64 / length;
    Some((stretch((from - start) * scale, (to - start) * scale, size), stretch(from, to, extent)))
}

/// Copies a rectangle that is inside the image.
pub(super) fn part(image: &Image, (left, top): (usize, usize), (width, height): (usize, usize)) -> Image {
    let channels = image.channels;
    let row = |y: usize| {
        let from = ((top + y) * image.width + left) * channels;
        &image.pixels[from..from + width * channels]
    };
    let mut pixels = Vec::with_capacity(width * height * channels);
    (0..height).for_each(|y| pixels.extend_from_slice(row(y)));
    Image { width, height, channels, pixels }
}

/// The whole image at another size.
pub(super) fn resized(image: &Image, width: usize, height: usize) -> Image {
    let from = (image.width, image.height);
    let pixels = resize(&image.pixels, image.channels, from, (width, height), FilterType::Triangle);
    Image { width, height, channels: image.channels, pixels }
}

/// The image with its shorter side resized to `side`. If its long side makes that many times its
/// own pixels, only the central square is kept.
pub(super) fn shorter_side(image: &Image, side: usize, longer: impl Fn(usize, usize) -> usize) -> Image {
    let (width, height) = (image.width, image.height);
    let shorter = width.min(height).max(1);
    if width.max(height).saturating_mul(side) / shorter > MOST_BETWEEN / side.max(1) {
        let from = ((width - shorter) / 2, (height - shorter) / 2);
        return resized(&part(image, from, (shorter, shorter)), side, side);
    }
    let scale = |extent: usize| longer(extent, shorter).max(side);
    resized(image, scale(width), scale(height))
}

/// The whole image letterboxed in a square of `size` pixels; the rest has this color.
pub(super) fn letterboxed(image: &Image, size: usize, colour: [u8; 3]) -> Image {
    let region = letterbox(image);
    let shown = within(image, region, size, FilterType::Triangle);
    let channels = image.channels;
    let grey = [(colour.map(u32::from).iter().sum::<u32>() / 3) as u8];
    let fill = if channels == 1 { &grey[..] } else { &colour[..] };
    let mut pixels = fill.repeat(size * size);
    for y in 0..shown.height {
        let to = ((shown.top + y) * size + shown.left) * channels;
        let row = &shown.pixels[y * shown.width * channels..(y + 1) * shown.width * channels];
        pixels[to..to + row.len()].copy_from_slice(row);
    }
    Image { width: size, height: size, channels, pixels }
}

/// The smallest centered square around the image.
pub(super) fn letterbox(image: &Image) -> Region {
    let (width, height) = (image.width as f64, image.height as f64);
    let side = width.max(height);
    // Whole pixels: nothing is blurred by half of one.
    (((width - side) / 2.0).floor(), ((height - side) / 2.0).floor(), side, side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extreme_aspect_ratios_are_resized_in_bounded_memory() {
        // Its intermediate rows would take 7 GB.
        let line = Image { width: 2_000_000, height: 1, channels: 3, pixels: vec![7; 6_000_000] };
        assert!(cut(&line, (0.0, 0.0, 2e6, 1.0), 224, FilterType::Triangle).iter().all(|v| *v == 7));
        let column = Image { width: 1, height: 2_000_000, ..line.clone() };
        for image in [&line, &column] {
            let short = shorter_side(image, 256, |extent, shorter| extent * 256 / shorter);
            assert_eq!((short.width, short.height), (256, 256));
            assert_eq!(letterboxed(image, 32, [1, 2, 3]).pixels.iter().filter(|v| **v == 7).count(), 3 * 32);
        }
    }

    #[test]
    fn resizing_commutes_with_transposing() {
        let pixels: Vec<u8> = (0..90u32 * 20).map(|i| (i * i % 251) as u8).collect();
        let upright = resize(&pixels, 1, (90, 20), (8, 8), FilterType::Triangle);
        let turned = resize(&transposed(&pixels, 1, 90, 20), 1, (20, 90), (8, 8), FilterType::Triangle);
        let back = transposed(&turned, 1, 8, 8);
        assert!(upright.iter().zip(&back).all(|(a, b)| a.abs_diff(*b) <= 1), "{upright:?} {back:?}");
    }
}
