//! From a picture to the numbers that a network takes.

use image::imageops::{FilterType, resize};
use image::{GrayImage, ImageBuffer, Rgb, RgbImage};
use serde::{Deserialize, Serialize};

use super::augment::Drawn;
use super::{Dataset, Picture};
use crate::error::Result;

/// How a picture of another shape is made square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// The largest square in the middle.
    #[default]
    Crop,
    /// Everything, with its proportions changed.
    Squash,
}

/// Size, range and proportions of what a network takes; a part of every checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    /// Height and width in pixels.
    pub input: usize,
    /// What is taken from red, green and blue, where 0 is black and 1 is 255.
    pub mean: [f32; 3],
    /// What they are divided by then, on the same scale.
    pub std: [f32; 3],
    /// How a picture is made square.
    pub fit: Fit,
}

/// Sums over the pixels of a picture, by colour.
#[derive(Default)]
struct Moments {
    sums: [f64; 3],
    squares: [f64; 3],
    pixels: usize,
}

/// A rectangle of a picture in pixels, which may reach beyond it: (left, top, width, height).
pub(super) type Region = (f64, f64, f64, f64);

impl Preprocessing {
    /// For pictures of `input` pixels with values around zero.
    pub fn new(input: usize) -> Self {
        Self { input, mean: [0.5; 3], std: [0.25; 3], fit: Fit::default() }
    }

    /// The mean and standard deviation of a data set's pictures, from at most `sample` of them, spread evenly. Pictures that
    /// cannot be read are left out here; the loader counts them.
    pub fn measure(self, set: &dyn Dataset, sample: usize) -> Self {
        let count = set.len().min(sample.max(1));
        let moments = |i: usize| -> Option<Moments> {
            let picture = set.picture(i * set.len() / count).ok()?;
            let mut moments = Moments::default();
            for pixel in picture.pixels.chunks_exact(picture.channels) {
                for c in 0..3 {
                    let value = f64::from(pixel[c % picture.channels]) / 255.0;
                    moments.sums[c] += value;
                    moments.squares[c] += value * value;
                }
                moments.pixels += 1;
            }
            Some(moments)
        };
        // Added in their order, whichever thread was first: the same data give the same numbers.
        let each = each(count, moments);
        let pixels = each.iter().flatten().map(|m| m.pixels).sum::<usize>() as f64;
        if pixels == 0.0 {
            return self;
        }
        let mean = [0, 1, 2].map(|c| each.iter().flatten().map(|m| m.sums[c]).sum::<f64>() / pixels);
        let spread = |c: usize| {
            let squares = each.iter().flatten().map(|m| m.squares[c]).sum::<f64>() / pixels;
            // A data set of one colour has no spread to divide by.
            (squares - mean[c] * mean[c]).max(0.0).sqrt().max(1e-3) as f32
        };
        Self { mean: mean.map(|m| m as f32), std: [0, 1, 2].map(spread), ..self }
    }

    /// The picture as 3 x input x input values, without augmentation. Grey pictures are repeated in all three.
    pub fn apply(&self, picture: &Picture) -> Vec<f32> {
        self.render(picture, self.whole(picture), &Drawn::default())
    }

    /// The numbers that a network takes as a picture again, 3 x input x input of them; rounded, and cut off where they are out of range.
    pub fn undo(&self, values: &[f32]) -> Picture {
        let n = self.input;
        let pixel = |i: usize| {
            (0..3).map(move |c| ((values[c * n * n + i] * self.std[c] + self.mean[c]) * 255.0).round() as u8)
        };
        Picture { width: n, height: n, channels: 3, pixels: (0..n * n).flat_map(pixel).collect() }
    }

    /// The part of the picture that is looked at without augmentation.
    pub(super) fn whole(&self, picture: &Picture) -> Region {
        let (width, height) = (picture.width as f64, picture.height as f64);
        match self.fit {
            Fit::Squash => (0.0, 0.0, width, height),
            Fit::Crop => {
                let side = width.min(height);
                // Whole pixels: nothing is blurred by half of one.
                (((width - side) / 2.0).floor(), ((height - side) / 2.0).floor(), side, side)
            }
        }
    }

    /// A region of the picture as the network takes it.
    pub(super) fn render(&self, picture: &Picture, region: Region, drawn: &Drawn) -> Vec<f32> {
        let filter = match drawn.interpolation {
            Some(0) => FilterType::Nearest,
            Some(2) => FilterType::CatmullRom,
            Some(3) => FilterType::Lanczos3,
            _ => FilterType::Triangle,
        };
        let mut square = cut(picture, region, self.input, filter);
        if let Some(colours) = &drawn.colours {
            colours.apply(&mut square, picture.channels);
        }
        let n = self.input;
        let mut values = vec![0.0; 3 * n * n];
        for c in 0..3 {
            let scale = 1.0 / (255.0 * self.std[c]);
            let shift = self.mean[c] / self.std[c];
            for y in 0..n {
                for x in 0..n {
                    let from = if drawn.mirror { n - 1 - x } else { x };
                    let row = if drawn.flip { n - 1 - y } else { y };
                    let value = square[(row * n + from) * picture.channels + c % picture.channels];
                    values[(c * n + y) * n + x] = f32::from(value) * scale - shift;
                }
            }
        }
        values
    }
}

/// A region resized to `size` x `size`. What lies outside the picture repeats its border.
fn cut(picture: &Picture, (left, top, width, height): Region, size: usize, filter: FilterType) -> Vec<u8> {
    let (w, h) = ((width.round() as usize).max(1), (height.round() as usize).max(1));
    let (left, top) = (left.round() as i64, top.round() as i64);
    let mut pixels = Vec::with_capacity(w * h * picture.channels);
    let inside = |i: i64, extent: usize| i.clamp(0, extent as i64 - 1) as usize;
    for y in 0..h {
        let row = inside(top + y as i64, picture.height) * picture.width;
        for x in 0..w {
            let at = (row + inside(left + x as i64, picture.width)) * picture.channels;
            pixels.extend_from_slice(&picture.pixels[at..at + picture.channels]);
        }
    }
    if (w, h) == (size, size) {
        return pixels;
    }
    // Pictures have fewer than 2^32 pixels a side.
    let (w, h, n) = (w as u32, h as u32, size as u32);
    if picture.channels == 1 {
        let image: Option<GrayImage> = ImageBuffer::from_raw(w, h, pixels);
        image.map_or_else(|| vec![0; size * size], |i| resize(&i, n, n, filter).into_raw())
    } else {
        let image: Option<RgbImage> = ImageBuffer::<Rgb<u8>, _>::from_raw(w, h, pixels);
        image.map_or_else(|| vec![0; 3 * size * size], |i| resize(&i, n, n, filter).into_raw())
    }
}

/// What a function makes of 0, 1, ... `count` - 1, on all cores: photographs take their time to be decoded.
#[cfg(not(target_arch = "wasm32"))]
fn each<T: Send>(count: usize, make: impl Fn(usize) -> T + Send + Sync) -> Vec<T> {
    use rayon::iter::{IntoParallelIterator, ParallelIterator};
    (0..count).into_par_iter().map(make).collect()
}

#[cfg(target_arch = "wasm32")]
fn each<T>(count: usize, make: impl Fn(usize) -> T) -> Vec<T> {
    (0..count).map(make).collect()
}

/// Preprocesses the picture number `index`, augmented if asked for.
pub(super) fn load(
    set: &dyn Dataset,
    index: usize,
    preprocessing: &Preprocessing,
    augmentation: Option<(&super::Augmentation, u64, u64)>,
) -> Result<Vec<f32>> {
    let picture = set.picture(index)?;
    let whole = preprocessing.whole(&picture);
    Ok(match augmentation {
        None => preprocessing.apply(&picture),
        Some((augmentation, seed, epoch)) => {
            let drawn = augmentation.draw(seed, epoch, index as u64);
            let region = drawn.region(&picture, whole, augmentation);
            preprocessing.render(&picture, region, &drawn)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_mirrored_turned_and_resized_as_drawn() {
        let picture = Picture { width: 2, height: 2, channels: 1, pixels: vec![0, 51, 102, 255] };
        let preprocessing = Preprocessing { mean: [0.0; 3], std: [1.0; 3], ..Preprocessing::new(2) };
        let render = |drawn: Drawn, input: usize| {
            let preprocessing = Preprocessing { input, ..preprocessing.clone() };
            let mut values = preprocessing.render(&picture, (0.0, 0.0, 2.0, 2.0), &drawn);
            values.truncate(input * input);
            values.iter().map(|v| (255.0 * v).round() as u8).collect::<Vec<_>>()
        };
        let plain = Drawn::default();
        assert_eq!(render(plain, 2), [0, 51, 102, 255]);
        assert_eq!(render(Drawn { mirror: true, ..plain }, 2), [51, 0, 255, 102]);
        assert_eq!(render(Drawn { flip: true, ..plain }, 2), [102, 255, 0, 51]);
        assert_eq!(render(Drawn { mirror: true, flip: true, ..plain }, 2), [255, 102, 51, 0]);
        // Four methods, four pictures; the nearest neighbour makes no new values.
        let methods: Vec<_> = (0..4).map(|i| render(Drawn { interpolation: Some(i), ..plain }, 8)).collect();
        assert!((0..4).all(|i| (0..i).all(|j| methods[i] != methods[j])), "{methods:?}");
        assert!(methods[0].iter().all(|v| picture.pixels.contains(v)), "{:?}", methods[0]);
    }
}
