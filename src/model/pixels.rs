//! Preprocessing of published networks.

use super::{GoogLeNet, Plane, Variant};
use crate::data::{Fit, IMAGENET_CROP, Preprocessing};

/// Number of ImageNet's classes, and the usual input size in pixels.
const IMAGENET_CLASSES: usize = 1000;
const IMAGENET_INPUT: usize = 224;

/// The preprocessing of the pixels that a network was trained with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pixels {
    /// Whether the channel order is BGR.
    pub bgr: bool,
    /// Mean of red, green and blue to subtract; 1 is a value of 255.
    pub mean: [f32; 3],
    /// Standard deviation to divide by, on the same scale.
    pub std: [f32; 3],
}

impl Pixels {
    /// RGB with ImageNet's mean and standard deviation: the input of torchvision's `googlenet` with
    /// `transform_input=False`.
    pub const IMAGENET: Self = Self { bgr: false, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// RGB in [-1, 1]: the internal input of torchvision's `googlenet` with `transform_input=True`,
    /// which its ImageNet weights need. It reverses ImageNet's normalization: ((p - m) / s) (s /
    /// 0.5) + (m - 0.5) / 0.5 = (p - 0.5) / 0.5.
    pub const TRANSFORM_INPUT: Self = Self { bgr: false, mean: [0.5; 3], std: [0.5; 3] };

    /// BGR from 0 to 255 minus the means 104, 117 and 123, as in Caffe's `bvlc_googlenet`.
    pub const CAFFE: Self =
        Self { bgr: true, mean: [123.0 / 255.0, 117.0 / 255.0, 104.0 / 255.0], std: [1.0 / 255.0; 3] };

    /// The preprocessing with these pixels that the publishers evaluated with: a central crop of
    /// 224 from 256 pixels, where Caffe squashes images to 256 x 256. Data sets of small images are
    /// not resized before the crop.
    pub(crate) fn preprocessing(self, network: &GoogLeNet) -> Preprocessing {
        let Self { mean, std, .. } = self;
        let plain = Preprocessing { mean, std, ..Preprocessing::new(network.input) };
        if network.classes != IMAGENET_CLASSES && network.input < IMAGENET_INPUT {
            return plain;
        }
        let fit = if self.bgr { Fit::Squash } else { Fit::Crop };
        Preprocessing { fit, crop_pct: IMAGENET_CROP, ..plain }
    }

    /// The equivalent preprocessing in RGB order, and the color of each of the network's input
    /// planes.
    pub(crate) fn with(self, planes: &[Plane; 3], network: &GoogLeNet) -> (Preprocessing, [usize; 3]) {
        let mut preprocessing = self.preprocessing(network);
        let colors = planes.map(|plane| if self.bgr { 2 - plane.channel } else { plane.channel });
        for (plane, colour) in planes.iter().zip(colors) {
            // scale (p - mean) / std + shift, written as one mean and one standard deviation.
            preprocessing.mean[colour] = self.mean[colour] - plane.shift * self.std[colour] / plane.scale;
            preprocessing.std[colour] = self.std[colour] / plane.scale;
        }
        (preprocessing, colors)
    }

    /// The preprocessing of networks of which only PyTorch's tensor names are known.
    pub(crate) fn of_tensors(variant: Variant) -> Self {
        match variant {
            Variant::Paper => Self::IMAGENET,
            Variant::Torchvision => Self::TRANSFORM_INPUT,
        }
    }
}
