//! Photometric distortions in random order: brightness, contrast, saturation and hue (Howard 2013,
//! "Some Improvements on Deep Convolutional Neural Network Based Image Classification", used in the
//! paper's section 6).

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Ranges of color jitter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Photometric {
    /// Brightness factor is drawn from 1 - this to 1 + this.
    pub brightness: f64,
    /// Contrast factor range, around the image's mean grey.
    pub contrast: f64,
    /// Saturation factor range, around the pixel's grey.
    pub saturation: f64,
    /// Maximum hue rotation in either direction, as a share of the full circle.
    pub hue: f64,
}

/// The distortions drawn for one image, in order of application.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Colours([Change; 4]);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Brightness(f32),
    Contrast(f32),
    Saturation(f32),
    /// In radians.
    Hue(f32),
}

/// Rec. 601 luma coefficients.
const GREY: [f32; 3] = [0.299, 0.587, 0.114];

impl Photometric {
    /// The same range for brightness, contrast and saturation, and a fifth of it for the hue; 0.5
    /// gives Howard's factors from 0.5 to 1.5.
    pub fn of(amount: f64) -> Self {
        Self { brightness: amount, contrast: amount, saturation: amount, hue: amount / 5.0 }
    }

    pub(super) fn draw(&self, random: &mut ChaCha8Rng) -> Colours {
        let mut around = |extent: f64| ((2.0 * random.random::<f64>() - 1.0) * extent) as f32;
        let mut changes = [
            Change::Brightness(1.0 + around(self.brightness)),
            Change::Contrast(1.0 + around(self.contrast)),
            Change::Saturation(1.0 + around(self.saturation)),
            Change::Hue(around(self.hue) * std::f32::consts::TAU),
        ];
        changes.shuffle(random);
        Colours(changes)
    }
}

impl Colours {
    /// Applies the distortions in place. Saturation and hue do nothing to grey images.
    pub(super) fn apply(&self, pixels: &mut [u8], channels: usize) {
        let mut values: Vec<f32> = pixels.iter().map(|v| f32::from(*v)).collect();
        for change in self.0 {
            change.apply(&mut values, channels);
            values.iter_mut().for_each(|v| *v = v.clamp(0.0, 255.0));
        }
        for (pixel, value) in pixels.iter_mut().zip(&values) {
            *pixel = value.round() as u8;
        }
    }
}

fn grey(pixel: &[f32]) -> f32 {
    if pixel.len() == 1 { pixel[0] } else { pixel.iter().zip(GREY).map(|(v, share)| v * share).sum() }
}

impl Change {
    fn apply(self, values: &mut [f32], channels: usize) {
        match self {
            Self::Brightness(factor) => values.iter_mut().for_each(|v| *v *= factor),
            Self::Contrast(factor) => {
                let pixels = values.chunks_exact(channels);
                let mean = pixels.clone().map(grey).sum::<f32>() / pixels.len().max(1) as f32;
                values.iter_mut().for_each(|v| *v = mean + (*v - mean) * factor);
            }
            Self::Saturation(factor) => {
                for pixel in values.chunks_exact_mut(channels) {
                    let grey = grey(pixel);
                    pixel.iter_mut().for_each(|v| *v = grey + (*v - grey) * factor);
                }
            }
            Self::Hue(angle) if channels == 3 => {
                let turn = hue_rotation(angle);
                for pixel in values.chunks_exact_mut(3) {
                    let old = [pixel[0], pixel[1], pixel[2]];
                    for (value, row) in pixel.iter_mut().zip(&turn) {
                        *value = row.iter().zip(old).map(|(a, b)| a * b).sum();
                    }
                }
            }
            Self::Hue(_) => {}
        }
    }
}

/// The matrix of a hue rotation around the grey axis, as in CSS `hue-rotate`; grey is unchanged.
fn hue_rotation(angle: f32) -> [[f32; 3]; 3] {
    let (sin, cos) = angle.sin_cos();
    [
        [
            0.213 + 0.787 * cos - 0.213 * sin,
            0.715 - 0.715 * cos - 0.715 * sin,
            0.072 - 0.072 * cos + 0.928 * sin,
        ],
        [
            0.213 - 0.213 * cos + 0.143 * sin,
            0.715 + 0.285 * cos + 0.140 * sin,
            0.072 - 0.072 * cos - 0.283 * sin,
        ],
        [
            0.213 - 0.213 * cos - 0.787 * sin,
            0.715 - 0.715 * cos + 0.715 * sin,
            0.072 + 0.928 * cos + 0.072 * sin,
        ],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(change: Change, pixels: &[u8], channels: usize) -> Vec<u8> {
        let mut pixels = pixels.to_vec();
        let none = Change::Brightness(1.0);
        Colours([change, none, none, none]).apply(&mut pixels, channels);
        pixels
    }

    #[test]
    fn distortions_change_only_their_property() {
        let pixels = [200, 100, 0, 10, 20, 30];
        assert_eq!(change(Change::Brightness(0.5), &pixels, 3), [100, 50, 0, 5, 10, 15]);
        // Contrast 0 makes every pixel the mean grey.
        let flat = change(Change::Contrast(0.0), &pixels, 3);
        assert!(flat.iter().all(|v| *v == flat[0]) && (60..80).contains(&flat[0]), "{flat:?}");
        let grey = change(Change::Saturation(0.0), &pixels, 3);
        assert!(grey[..3] == [119; 3] && grey[3..] == [18; 3], "{grey:?}");
        // A third of the circle turns red to green and leaves grey unchanged.
        let turned = change(Change::Hue(std::f32::consts::TAU / 3.0), &[120, 0, 0, 77, 77, 77], 3);
        assert!(turned[1] > turned[0] && turned[1] > turned[2] && turned[3..] == [77; 3], "{turned:?}");
        assert_eq!(change(Change::Hue(1.0), &[1, 2, 3], 1), [1, 2, 3]);
        assert_eq!(change(Change::Saturation(0.0), &[1, 2, 3], 1), [1, 2, 3]);
    }
}
