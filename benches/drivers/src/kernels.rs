//! The kernels that do the arithmetic of single convolutions.

use incept::graph::{Operation, Spec};
use incept::kernel::{Kernel, Operand, Operands, Profile, choose};
use incept::ops::{Conv, ConvInputGrad, ConvWeightGrad};
use serde::Serialize;

use crate::Result;

/// A convolution with square pictures, kernels, strides and padding.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Layer {
    /// What is printed.
    pub name: &'static str,
    /// Channels of the input.
    pub channels: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Height and width of the input.
    pub size: usize,
    /// Kernel, stride and padding.
    pub window: [usize; 3],
}

/// One of each kind that the network has.
pub const LAYERS: [Layer; 5] = [
    layer("7x7/2 3>64 @224", [3, 64], 224, [7, 2, 3]),
    layer("3x3 64>192 @56", [64, 192], 56, [3, 1, 1]),
    layer("1x1 480>192 @14", [480, 192], 14, [1, 1, 0]),
    layer("5x5 32>96 @28", [32, 96], 28, [5, 1, 2]),
    layer("5x5 48>128 @7", [48, 128], 7, [5, 1, 2]),
];

const fn layer(name: &'static str, channels: [usize; 2], size: usize, window: [usize; 3]) -> Layer {
    Layer { name, channels: channels[0], outputs: channels[1], size, window }
}

/// What is computed of a convolution.
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

/// The main kernel of the default implementation, or with `all` of every one, with the implementation's name.
pub fn of(
    layer: &Layer,
    direction: Direction,
    batch: usize,
    profile: &Profile,
    all: bool,
) -> Result<Vec<(&'static str, Kernel)>> {
    let [kernel, stride, padding] = layer.window;
    let forward = Conv::new(stride, padding);
    let x = Spec::f32([batch, layer.channels, layer.size, layer.size]);
    let weight = Spec::f32([layer.outputs, layer.channels, kernel, kernel]);
    let y = forward.infer(&[&x, &weight])?.remove(0);
    let (stride, padding) = ([stride; 2], [padding; 2]);
    let (op, inputs, output): (Box<dyn Operation>, _, _) = match direction {
        Direction::Forward => (Box::new(forward), [x, weight], y),
        Direction::InputGradient => {
            let size = [layer.size; 2];
            let op = ConvInputGrad { stride, padding, size, accumulate: false, masked: false };
            (Box::new(op), [y, weight], x)
        }
        Direction::WeightGradient => {
            (Box::new(ConvWeightGrad { stride, padding, kernel: [kernel; 2] }), [x, y], weight)
        }
    };
    let inputs = inputs.map(Operand::dense);
    let outputs = [Operand::dense(output)];
    let operands = Operands { layer: layer.name, inputs: &inputs, outputs: &outputs };
    let list = op.kernels(&operands, profile);
    let chosen = choose(&list, profile).map(|i| i.name);
    let wanted = list.iter().filter(|i| i.fits(profile) && (all || Some(i.name) == chosen));
    // The kernel that computes a product says what it moves.
    let main = |kernels: &[Kernel]| {
        let flops = |k: &&Kernel| k.traffic.as_ref().map_or(0, |t| t.flops);
        kernels.iter().max_by_key(flops).cloned()
    };
    Ok(wanted.filter_map(|i| Some((i.name, main(&i.kernels)?))).collect())
}
