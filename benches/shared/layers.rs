//! The single convolutions of all benchmarks, one of each kind in GoogLeNet. Benchmarks include
//! this module by its path.

use std::fmt;
use std::sync::Arc;

use incept::graph::Operation;
use incept::ops::{Conv, ConvInputGrad, ConvWeightGrad};
use incept::tensor::Spec;
use serde::Serialize;

/// A convolution with square images, kernels, strides and padding.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Layer {
    /// Its name in tables.
    pub name: &'static str,
    /// Channels of the input.
    pub channels: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Height and width of the input.
    pub size: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step between windows.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
}

/// Stem, 3x3, 1x1 and two sizes of 5x5.
pub const LAYERS: [Layer; 5] = [
    layer("7x7/2 3>64 @224", [3, 64], 224, [7, 2, 3]),
    layer("3x3 64>192 @56", [64, 192], 56, [3, 1, 1]),
    layer("1x1 480>192 @14", [480, 192], 14, [1, 1, 0]),
    layer("5x5 32>96 @28", [32, 96], 28, [5, 1, 2]),
    layer("5x5 48>128 @7", [48, 128], 7, [5, 1, 2]),
];

const fn layer(name: &'static str, channels: [usize; 2], size: usize, window: [usize; 3]) -> Layer {
    let ([channels, outputs], [kernel, stride, padding]) = (channels, window);
    Layer { name, channels, outputs, size, kernel, stride, padding }
}

/// The three directions of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The output from input and weight.
    Forward,
    /// The gradient of the input from that of the output and the weight.
    InputGradient,
    /// The gradient of the weight from the input and the gradient of the output.
    WeightGradient,
}

impl Direction {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Forward, Self::InputGradient, Self::WeightGradient];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Forward => "forward",
            Self::InputGradient => "input grad",
            Self::WeightGradient => "weight grad",
        })
    }
}

impl Layer {
    /// The shapes of input, weight and output.
    pub fn shapes(&self, batch: usize) -> [[usize; 4]; 3] {
        let Self { channels, outputs, size, kernel, stride, padding, .. } = *self;
        let out = (size + 2 * padding - kernel) / stride + 1;
        [[batch, channels, size, size], [outputs, channels, kernel, kernel], [batch, outputs, out, out]]
    }

    /// The operation of a direction, and its inputs.
    pub fn operation(&self, direction: Direction, batch: usize) -> (Arc<dyn Operation>, [Spec; 2]) {
        let [x, weight, y] = self.shapes(batch).map(Spec::f32);
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        match direction {
            Direction::Forward => (Arc::new(Conv::new(self.stride, self.padding)), [x, weight]),
            Direction::InputGradient => {
                let size = [self.size; 2];
                let op = ConvInputGrad { stride, padding, size, accumulate: false, masked: false };
                (Arc::new(op), [y, weight])
            }
            Direction::WeightGradient => {
                (Arc::new(ConvWeightGrad { stride, padding, kernel: [self.kernel; 2] }), [x, y])
            }
        }
    }
}
