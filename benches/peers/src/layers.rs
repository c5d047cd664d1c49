//! Single convolutions, three directions each.

use std::fmt;

use burn::backend::ops::{ConvOptions, ModuleOps};
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;

use crate::Result;
use crate::timing::Contender;
use crate::work;

/// A convolution with square pictures, kernels, strides and padding.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Layer {
    /// What tables call it.
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

/// One of each kind that the network has.
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
    /// Height and width of the output.
    pub fn out(&self) -> usize {
        (self.size + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// The shapes of input, weight and output.
    pub fn shapes(&self, batch: usize) -> [[usize; 4]; 3] {
        let Self { channels, outputs, size, kernel, .. } = *self;
        [
            [batch, channels, size, size],
            [outputs, channels, kernel, kernel],
            [batch, outputs, self.out(), self.out()],
        ]
    }

    /// Values of the two tensors that a direction reads.
    pub fn values(&self, direction: Direction, batch: usize) -> [Vec<f32>; 2] {
        let [x, weight, dy] = self.shapes(batch).map(|s| s.iter().product());
        let (first, second) = match direction {
            Direction::Forward => (x, weight),
            Direction::InputGradient => (dy, weight),
            Direction::WeightGradient => (x, dy),
        };
        [work::noise(first, 2), work::noise(second, 3)]
    }

    /// Floating-point operations of one direction.
    pub fn flops(&self, batch: usize) -> f64 {
        let [_, weight, [_, _, height, width]] = self.shapes(batch);
        2.0 * (batch * height * width) as f64 * weight.iter().product::<usize>() as f64
    }
}

/// The backend without autodiff, with fusion and autotune as they are by default.
type Backend = burn::backend::Wgpu;

/// burn's side: the module operations that its autodiff calls.
pub struct Single {
    device: Device,
    direction: Direction,
    options: ConvOptions<2>,
    x: FloatTensor<Backend>,
    weight: FloatTensor<Backend>,
    dy: FloatTensor<Backend>,
    output: Option<FloatTensor<Backend>>,
    repeats: u32,
}

impl Single {
    /// The operation `repeats` times for each iteration.
    pub fn new(
        device: &Device,
        layer: &Layer,
        direction: Direction,
        batch: usize,
        repeats: u32,
    ) -> Result<Self> {
        let [x, weight, dy] = layer.shapes(batch);
        let zeros = |shape: [usize; 4]| vec![0.0; shape.iter().product()];
        let [first, second] = layer.values(direction, batch);
        // What a direction does not read is there for its shape only.
        let (x_values, weight_values, dy_values) = match direction {
            Direction::Forward => (first, second, zeros(dy)),
            Direction::InputGradient => (zeros(x), second, first),
            Direction::WeightGradient => (first, zeros(weight), second),
        };
        Ok(Self {
            device: device.clone(),
            direction,
            options: ConvOptions::new([layer.stride; 2], [layer.padding; 2], [1; 2], 1),
            x: channels_last(device, x_values, x)?,
            weight: primitive(Tensor::from_data(TensorData::new(weight_values, weight), device))?,
            dy: channels_last(device, dy_values, dy)?,
            output: None,
            repeats: repeats.max(1),
        })
    }

    /// The last result, dense; once for each run.
    pub fn result(&mut self) -> Result<Vec<f32>> {
        let output = self.output.take().ok_or("nothing has run")?;
        host(Tensor::<4>::from_primitive::<Backend>(output))
    }
}

/// The values of a tensor.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    tensor.into_data().try_into_vec().map_err(|e| format!("reading a tensor of burn's: {e:?}").into())
}

fn primitive(tensor: Tensor<4>) -> Result<FloatTensor<Backend>> {
    tensor.try_into_primitive::<Backend>().map_err(|e| format!("no tensor of the wgpu backend: {e:?}").into())
}

/// An activation as burn's convolutions hand it on: channels last in memory, channels second in its shape.
fn channels_last(
    device: &Device,
    values: Vec<f32>,
    [batch, channels, height, width]: [usize; 4],
) -> Result<FloatTensor<Backend>> {
    let mut last = vec![0.0; values.len()];
    let pixels = height * width;
    for (i, value) in values.into_iter().enumerate() {
        let (item, channel, pixel) = (i / (channels * pixels), i / pixels % channels, i % pixels);
        last[(item * pixels + pixel) * channels + channel] = value;
    }
    let data = TensorData::new(last, [batch, height, width, channels]);
    primitive(Tensor::<4>::from_data(data, device).permute([0, 3, 1, 2]))
}

impl Contender for Single {
    fn name(&self) -> &'static str {
        "burn"
    }

    fn run(&mut self, times: u32) -> Result<()> {
        for _ in 0..times * self.repeats {
            let (x, weight, dy) = (self.x.clone(), self.weight.clone(), self.dy.clone());
            let options = self.options.clone();
            self.output = Some(match self.direction {
                Direction::Forward => Backend::conv2d(x, weight, None, options),
                Direction::InputGradient => Backend::conv2d_x_backward(x, weight, dy, options),
                Direction::WeightGradient => Backend::conv2d_weight_backward(x, weight, dy, options),
            });
        }
        Ok(self.device.sync()?)
    }
}
