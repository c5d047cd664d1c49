//! Preprocessing: from an image to the network's input values.

use image::imageops::FilterType;
use serde::{Deserialize, Serialize};

use super::augment::Drawn;
use super::resample::{Region, Shown, cut, letterbox, part, resized, shorter_side, within};
use super::{Dataset, Image};
use crate::error::{Error, Result};

/// How a non-square image is made square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// The largest central square.
    #[default]
    Crop,
    /// The whole image, with a changed aspect ratio.
    Squash,
    /// The whole image with its aspect ratio, letterboxed with the mean color.
    Pad,
}

/// Input size, normalization and resizing; stored in every checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Preprocessing {
    /// Height and width in pixels.
    pub input: usize,
    /// Per-channel mean to subtract, in [0, 1].
    pub mean: [f32; 3],
    /// Per-channel standard deviation to divide by, on the same scale.
    pub std: [f32; 3],
    /// How a non-square image is made square.
    pub fit: Fit,
    /// Center crop as a share of the side, as timm's `crop_pct`: 0.875 resizes to 256 pixels and
    /// crops 224, as usual for ImageNet; 1 does not crop.
    #[serde(default = "all_of_it", skip_serializing_if = "is_all_of_it")]
    pub crop_pct: f64,
}

/// Default of `crop_pct`, also for checkpoints that do not have the field.
fn all_of_it() -> f64 {
    1.0
}

fn is_all_of_it(share: &f64) -> bool {
    *share == 1.0
}

/// Per-channel sums over the pixels of an image.
#[derive(Default)]
struct Moments {
    sums: [f64; 3],
    squares: [f64; 3],
    pixels: usize,
}

/// Usual `crop_pct` for ImageNet: 224 of 256 pixels.
pub const IMAGENET_CROP: f64 = 224.0 / 256.0;

/// Smallest effective `crop_pct`: a smaller one would enlarge images without limit.
const LEAST_CROP: f64 = 0.1;

impl Preprocessing {
    /// Preprocessing to `input` x `input` with mean 0.5 and standard deviation 0.25.
    pub fn new(input: usize) -> Self {
        Self { input, mean: [0.5; 3], std: [0.25; 3], fit: Fit::default(), crop_pct: all_of_it() }
    }

    /// Height and width in pixels.
    #[must_use]
    pub fn input(self, input: usize) -> Self {
        Self { input, ..self }
    }

    /// Per-channel mean to subtract, in [0, 1].
    #[must_use]
    pub fn mean(self, mean: [f32; 3]) -> Self {
        Self { mean, ..self }
    }

    /// Per-channel standard deviation to divide by, on the same scale.
    #[must_use]
    pub fn std(self, std: [f32; 3]) -> Self {
        Self { std, ..self }
    }

    /// How a non-square image is made square.
    #[must_use]
    pub fn fit(self, fit: Fit) -> Self {
        Self { fit, ..self }
    }

    /// Center crop as a share of the side.
    #[must_use]
    pub fn crop_pct(self, crop_pct: f64) -> Self {
        Self { crop_pct, ..self }
    }

    /// Description in words: how an image is made square, and the resize filter.
    pub fn described(&self) -> String {
        let (n, side) = (self.input, self.resized_side());
        let filter = "bilinear with antialiasing";
        match (self.fit, side == n) {
            (Fit::Crop, true) => format!("the central square, resized to {n} x {n} ({filter})"),
            (Fit::Squash, true) => format!("squashed to {n} x {n} ({filter})"),
            (Fit::Pad, _) => format!("letterboxed to {n} x {n}, padded with the mean color ({filter})"),
            (Fit::Crop, false) => {
                format!("shorter side resized to {side} ({filter}), then the central {n} x {n}")
            }
            (Fit::Squash, false) => {
                format!("squashed to {side} x {side} ({filter}), then the central {n} x {n}")
            }
        }
    }

    /// `crop_pct` limited to its valid range, since it may come from a file.
    fn crop_share(&self) -> f64 {
        if self.crop_pct < 1.0 { self.crop_pct.max(LEAST_CROP) } else { 1.0 }
    }

    /// Side in pixels before the center crop.
    pub(crate) fn resized_side(&self) -> usize {
        (self.input as f64 / self.crop_share()).round() as usize
    }

    /// Measures mean and standard deviation on up to `sample` images, spread evenly over the data
    /// set. Unreadable images are skipped; the loader counts them.
    pub fn measure(self, set: &dyn Dataset, sample: usize) -> Self {
        let count = set.len().min(sample.max(1));
        let moments = |i: usize| -> Option<Moments> {
            let image = whole_image(set, i * set.len() / count).ok()?;
            let mut moments = Moments::default();
            for pixel in image.pixels.chunks_exact(image.channels) {
                for c in 0..3 {
                    let value = f64::from(pixel[c % image.channels]) / 255.0;
                    moments.sums[c] += value;
                    moments.squares[c] += value * value;
                }
                moments.pixels += 1;
            }
            Some(moments)
        };
        // Summed in a fixed order, so the result does not depend on threads.
        let each = each(count, moments);
        let pixels = each.iter().flatten().map(|m| m.pixels).sum::<usize>() as f64;
        if pixels == 0.0 {
            return self;
        }
        let mean = [0, 1, 2].map(|c| each.iter().flatten().map(|m| m.sums[c]).sum::<f64>() / pixels);
        let spread = |c: usize| {
            let squares = each.iter().flatten().map(|m| m.squares[c]).sum::<f64>() / pixels;
            // A data set of a single color has zero deviation.
            (squares - mean[c] * mean[c]).max(0.0).sqrt().max(1e-3) as f32
        };
        Self { mean: mean.map(|m| m as f32), std: [0, 1, 2].map(spread), ..self }
    }

    /// The image as 3 x input x input values, without augmentation. A grey channel is repeated
    /// three times.
    pub fn apply(&self, image: &Image) -> Vec<f32> {
        match self.centre(image) {
            Some(square) => {
                let side = self.input as f64;
                self.render(&square, (0.0, 0.0, side, side), &Drawn::default())
            }
            None => self.render(image, self.whole(image), &Drawn::default()),
        }
    }

    /// The center crop of the resized image, as torchvision's `Resize` and `CenterCrop`; `None`
    /// without a crop.
    fn centre(&self, image: &Image) -> Option<Image> {
        let (n, side) = (self.input, self.resized_side());
        if side == n {
            return None;
        }
        let larger = match self.fit {
            Fit::Crop => shorter_side(image, side, |extent, shorter| extent * side / shorter),
            Fit::Squash => resized(image, side, side),
            Fit::Pad => return None,
        };
        // Halves are rounded to even, as in Python.
        let first = |extent: usize| ((extent - n) as f64 / 2.0).round_ties_even() as usize;
        Some(part(&larger, (first(larger.width), first(larger.height)), (n, n)))
    }

    /// Converts 3 x input x input network input back to an image, rounded and clamped.
    pub fn undo(&self, values: &[f32]) -> Image {
        let n = self.input;
        let pixel = |i: usize| {
            (0..3).map(move |c| ((values[c * n * n + i] * self.std[c] + self.mean[c]) * 255.0).round() as u8)
        };
        Image { width: n, height: n, channels: 3, pixels: (0..n * n).flat_map(pixel).collect() }
    }

    /// The region used without augmentation; with padding it extends beyond the image.
    pub(super) fn whole(&self, image: &Image) -> Region {
        let (width, height) = (image.width as f64, image.height as f64);
        let (left, top, wide, high) = match self.fit {
            Fit::Squash => (0.0, 0.0, width, height),
            Fit::Crop => {
                let side = width.min(height);
                // Whole pixels, so nothing is blurred by a half-pixel offset.
                (((width - side) / 2.0).floor(), ((height - side) / 2.0).floor(), side, side)
            }
            Fit::Pad => letterbox(image),
        };
        let share = self.crop_share();
        let (w, h) = (wide * share, high * share);
        (left + (wide - w) / 2.0, top + (high - h) / 2.0, w, h)
    }

    /// A region as network input. Outside the image its border is repeated, or with padding the
    /// mean color is used.
    pub(super) fn render(&self, image: &Image, region: Region, drawn: &Drawn) -> Vec<f32> {
        let filter = match drawn.interpolation {
            Some(0) => FilterType::Nearest,
            Some(2) => FilterType::CatmullRom,
            Some(3) => FilterType::Lanczos3,
            _ => FilterType::Triangle,
        };
        let n = self.input;
        let mut shown = match self.fit {
            Fit::Crop | Fit::Squash => {
                let pixels = cut(image, region, n, filter);
                Shown { left: 0, top: 0, width: n, height: n, pixels }
            }
            Fit::Pad => within(image, region, n, filter),
        };
        if let Some(colours) = &drawn.colours {
            colours.apply(&mut shown.pixels, image.channels);
        }
        self.values(&shown, image.channels, drawn)
    }

    /// Normalizes a square; pixels outside the image are zero, the mean color.
    fn values(&self, shown: &Shown, channels: usize, drawn: &Drawn) -> Vec<f32> {
        let n = self.input;
        let mut values = vec![0.0; 3 * n * n];
        for c in 0..3 {
            let scale = 1.0 / (255.0 * self.std[c]);
            let shift = self.mean[c] / self.std[c];
            for row in 0..shown.height {
                let down = shown.top + row;
                let y = if drawn.vflip { n - 1 - down } else { down };
                for column in 0..shown.width {
                    let across = shown.left + column;
                    let x = if drawn.hflip { n - 1 - across } else { across };
                    let value = shown.pixels[(row * shown.width + column) * channels + c % channels];
                    values[(c * n + y) * n + x] = f32::from(value) * scale - shift;
                }
            }
        }
        values
    }

    /// The mean color as a pixel.
    pub(super) fn mean_colour(&self) -> [u8; 3] {
        // A conversion to a byte saturates.
        self.mean.map(|m| (255.0 * m).round() as u8)
    }
}

/// Counts the readable images and the non-square ones among up to `sample` images, spread evenly
/// over the data set.
pub fn not_square(set: &dyn Dataset, sample: usize) -> (usize, usize) {
    let count = set.len().min(sample);
    let square = |i: usize| {
        let image = whole_image(set, i * set.len() / count).ok()?;
        Some(image.width == image.height)
    };
    let shapes: Vec<bool> = each(count, square).into_iter().flatten().collect();
    (shapes.len(), shapes.iter().filter(|square| !**square).count())
}

/// Decodes and checks an image: a `Dataset` of another crate may return anything.
pub(super) fn whole_image(set: &dyn Dataset, index: usize) -> Result<Image> {
    let image = set.image(index)?;
    image.check().map_err(|reason| Error::format(set.name(index), reason))?;
    Ok(image)
}

/// Maps 0..count on all cores: decoding photographs is slow.
#[cfg(not(target_arch = "wasm32"))]
fn each<T: Send>(count: usize, make: impl Fn(usize) -> T + Send + Sync) -> Vec<T> {
    use rayon::iter::{IntoParallelIterator, ParallelIterator};
    (0..count).into_par_iter().map(make).collect()
}

#[cfg(target_arch = "wasm32")]
fn each<T>(count: usize, make: impl Fn(usize) -> T) -> Vec<T> {
    (0..count).map(make).collect()
}

/// Loads and preprocesses image `index`; `augmentation` is (transforms, seed, epoch).
pub(super) fn load(
    set: &dyn Dataset,
    index: usize,
    preprocessing: &Preprocessing,
    augmentation: Option<(&super::Augmentation, u64, u64)>,
) -> Result<Vec<f32>> {
    let image = whole_image(set, index)?;
    let whole = preprocessing.whole(&image);
    Ok(match augmentation {
        None => preprocessing.apply(&image),
        Some((augmentation, seed, epoch)) => {
            let drawn = augmentation.draw(seed, epoch, index as u64);
            // Area crops are taken from the whole image, or with padding from the padded square.
            let from = if preprocessing.fit == Fit::Pad { letterbox(&image) } else { image.all() };
            let region = drawn.region(&image, whole, from, augmentation);
            preprocessing.render(&image, region, &drawn)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Image {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/preprocess");
        Image::read(&folder.join(name)).expect("a fixture")
    }

    #[test]
    fn imagenet_preprocessing_matches_torchvision_and_caffe() {
        let image = fixture("rule.png");
        let rule = |fit| Preprocessing { fit, crop_pct: IMAGENET_CROP, ..Preprocessing::new(28) };
        for (fit, file) in [(Fit::Crop, "rule_crop.png"), (Fit::Squash, "rule_squash.png")] {
            let (rule, expected) = (rule(fit), fixture(file));
            let seen = rule.undo(&rule.apply(&image));
            let most = seen.pixels.iter().zip(&expected.pixels).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(most.is_some_and(|most| most <= 2), "{fit:?}: {most:?}");
        }
        assert!(rule(Fit::Crop).described().contains("shorter side resized to 32"));
        // An image of exactly the input size is resized too.
        let small = Image { width: 28, height: 28, channels: 1, pixels: vec![9; 28 * 28] };
        assert_eq!(rule(Fit::Crop).apply(&small).len(), 3 * 28 * 28);
    }

    #[test]
    fn padding_keeps_the_whole_image_and_its_aspect_ratio() {
        // A red gradient from left to right, in landscape and portrait.
        let pixels: Vec<u8> = (0..40 * 20).flat_map(|i| [(i % 40 * 6) as u8, 0, 0]).collect();
        let wide = Image { width: 40, height: 20, channels: 3, pixels };
        let high = Image { width: 20, height: 40, channels: 3, pixels: vec![200; 2400] };
        let pad = Preprocessing { fit: Fit::Pad, mean: [0.3; 3], ..Preprocessing::new(40) };
        let values = pad.apply(&wide);
        let rows: Vec<&[f32]> = values[..1600].chunks(40).collect();
        let bar = |row: &&[f32]| row.iter().all(|v| *v == 0.0);
        assert!(rows[..10].iter().all(bar) && rows[30..].iter().all(bar));
        let red = |v: f32| ((v * pad.std[0] + pad.mean[0]) * 255.0).round();
        assert!((0..40).all(|x| (10..30).all(|y| red(rows[y][x]) == (x * 6) as f32)));
        let values = pad.apply(&high);
        assert!((0..40).all(|y| (0..40).all(|x| (values[y * 40 + x] != 0.0) == (10..30).contains(&x))));
        // Padding does not change a square; an image one pixel wide keeps one pixel of width.
        let square = Image { width: 20, height: 20, channels: 1, pixels: (0..200).chain(0..200).collect() };
        let crop = Preprocessing { fit: Fit::Crop, ..pad.clone() };
        assert_eq!(pad.apply(&square), crop.apply(&square));
        let line = Image { width: 1, height: 500, channels: 1, pixels: vec![255; 500] };
        assert_eq!(pad.apply(&line)[..1600].iter().filter(|v| **v != 0.0).count(), 40);
    }

    #[test]
    fn augmented_padded_images_are_never_all_padding() {
        let wide = Image { width: 300, height: 20, channels: 1, pixels: vec![255; 6000] };
        let pad = Preprocessing { fit: Fit::Pad, ..Preprocessing::new(32) };
        let flipped = Drawn { vflip: true, hflip: true, ..Drawn::default() };
        let shifted = (0.0, -200.0, 300.0, 300.0);
        let upright = pad.render(&wide, shifted, &Drawn::default());
        let turned = pad.render(&wide, shifted, &flipped);
        let reversed: Vec<f32> = upright[..1024].iter().rev().copied().collect();
        assert!(turned[..1024] == reversed[..] && turned != upright);
        let whole = pad.whole(&wide);
        for augmentation in [crate::data::Augmentation::crops(), crate::data::Augmentation::standard()] {
            for index in 0..200 {
                let drawn = augmentation.draw(1, 0, index);
                let region = drawn.region(&wide, whole, whole, &augmentation);
                let values = pad.render(&wide, region, &drawn);
                assert!(values.iter().any(|v| *v != 0.0), "{index}: {region:?}");
            }
        }
        // A region entirely outside the image is all padding, without a panic.
        assert!(pad.render(&wide, (400.0, 0.0, 50.0, 50.0), &Drawn::default()).iter().all(|v| *v == 0.0));
    }

    #[test]
    fn checkpoints_without_crop_pct_do_not_crop() {
        let old = r#"{"input": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "fit": "crop"}"#;
        let read: Preprocessing = serde_json::from_str(old).expect("an old file");
        assert_eq!(read, Preprocessing::new(32));
        assert!(!serde_json::to_string(&read).expect("JSON").contains("crop_pct"));
        let pad = Preprocessing { fit: Fit::Pad, crop_pct: IMAGENET_CROP, ..read };
        let text = serde_json::to_string(&pad).expect("JSON");
        assert!(text.contains("\"pad\"") && text.contains("\"crop_pct\":0.875"), "{text}");
        assert_eq!(serde_json::from_str::<Preprocessing>(&text).expect("JSON"), pad);
        // An extreme `crop_pct` does not enlarge the image without limit.
        for crop_pct in [0.0, -1.0, 1e-12, f64::NAN, f64::INFINITY] {
            let odd = Preprocessing { crop_pct, ..Preprocessing::new(8) };
            let image = Image { width: 9, height: 5, channels: 1, pixels: vec![1; 45] };
            assert_eq!(odd.apply(&image).len(), 3 * 64, "{crop_pct}");
        }
    }

    #[test]
    fn flips_and_interpolation_are_applied_as_drawn() {
        let image = Image { width: 2, height: 2, channels: 1, pixels: vec![0, 51, 102, 255] };
        let preprocessing = Preprocessing { mean: [0.0; 3], std: [1.0; 3], ..Preprocessing::new(2) };
        let render = |drawn: Drawn, input: usize| {
            let preprocessing = Preprocessing { input, ..preprocessing.clone() };
            let mut values = preprocessing.render(&image, (0.0, 0.0, 2.0, 2.0), &drawn);
            values.truncate(input * input);
            values.iter().map(|v| (255.0 * v).round() as u8).collect::<Vec<_>>()
        };
        let plain = Drawn::default();
        assert_eq!(render(plain, 2), [0, 51, 102, 255]);
        assert_eq!(render(Drawn { hflip: true, ..plain }, 2), [51, 0, 255, 102]);
        assert_eq!(render(Drawn { vflip: true, ..plain }, 2), [102, 255, 0, 51]);
        assert_eq!(render(Drawn { hflip: true, vflip: true, ..plain }, 2), [255, 102, 51, 0]);
        // The four methods give four different images; nearest neighbor makes no new values.
        let methods: Vec<_> = (0..4).map(|i| render(Drawn { interpolation: Some(i), ..plain }, 8)).collect();
        assert!((0..4).all(|i| (0..i).all(|j| methods[i] != methods[j])), "{methods:?}");
        assert!(methods[0].iter().all(|v| image.pixels.contains(v)), "{:?}", methods[0]);
    }
}
