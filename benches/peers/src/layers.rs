//! Single convolutions, three directions each.

use burn::backend::ops::{ConvOptions, ModuleOps};
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Device, Tensor, TensorData};

use crate::Result;
use crate::shared::{Direction, Layer};
use crate::timing::Contender;
use crate::work;

impl Layer {
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

/// An activation in the layout of burn's convolutions: channels last in memory, channels second in
/// its shape.
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
