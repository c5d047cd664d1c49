//! How the pixels that a network was trained with were made from images.

use super::{GoogLeNet, Plane, Variant};
use crate::data::{Fit, IMAGENET_CROP, Preprocessing};

/// Classes of ImageNet, and the side that networks take its images with.
const IMAGENET_CLASSES: usize = 1000;
const IMAGENET_INPUT: usize = 224;

/// How the pixels that a network was trained with were made from images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pixels {
    /// Whether the network's first channel is blue.
    pub bgr: bool,
    /// What is taken from red, green and blue, where 0 is black and 1 is 255.
    pub mean: [f32; 3],
    /// What they are divided by then, on the same scale.
    pub std: [f32; 3],
}

impl Pixels {
    /// Red, green and blue with ImageNet's mean and standard deviation: what torchvision's
    /// `googlenet` takes with `transform_input=False`.
    pub const IMAGENET: Self = Self { bgr: false, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// From -1 to 1: what torchvision's `googlenet` makes of its input with `transform_input=True`,
    /// as its ImageNet weights need it. The normalisation with ImageNet's numbers is undone there:
    /// ((p - m) / s) (s / 0.5) + (m - 0.5) / 0.5 = (p - 0.5) / 0.5.
    pub const TRANSFORM_INPUT: Self = Self { bgr: false, mean: [0.5; 3], std: [0.5; 3] };

    /// Blue, green and red from 0 to 255 without their means 104, 117 and 123, as Caffe's
    /// `bvlc_googlenet` has it.
    pub const CAFFE: Self =
        Self { bgr: true, mean: [123.0 / 255.0, 117.0 / 255.0, 104.0 / 255.0], std: [1.0 / 255.0; 3] };

    /// These pixels of images as the publishers of such weights measured them: 224 pixels from the
    /// middle of 256, where Caffe squashes images to 256 x 256. Small images of other classes were
    /// not resized to be cut.
    pub(crate) fn preprocessing(self, network: &GoogLeNet) -> Preprocessing {
        let Self { mean, std, .. } = self;
        let plain = Preprocessing { mean, std, ..Preprocessing::new(network.input) };
        if network.classes != IMAGENET_CLASSES && network.input < IMAGENET_INPUT {
            return plain;
        }
        let fit = if self.bgr { Fit::Squash } else { Fit::Crop };
        Preprocessing { fit, crop_pct: IMAGENET_CROP, ..plain }
    }

    /// What the network gets from images after the planes, as preprocessing of red, green and blue;
    /// and for each plane which of them it is.
    pub(crate) fn with(self, planes: &[Plane; 3], network: &GoogLeNet) -> (Preprocessing, [usize; 3]) {
        let mut preprocessing = self.preprocessing(network);
        let colours = planes.map(|plane| if self.bgr { 2 - plane.channel } else { plane.channel });
        for (plane, colour) in planes.iter().zip(colours) {
            // scale (p - mean) / std + shift, written as one mean and one standard deviation.
            preprocessing.mean[colour] = self.mean[colour] - plane.shift * self.std[colour] / plane.scale;
            preprocessing.std[colour] = self.std[colour] / plane.scale;
        }
        (preprocessing, colours)
    }

    /// What networks were trained with whose tensors have PyTorch's names and nothing is known
    /// beside.
    pub(crate) fn of_tensors(variant: Variant) -> Self {
        match variant {
            Variant::Paper => Self::IMAGENET,
            Variant::Torchvision => Self::TRANSFORM_INPUT,
        }
    }
}
