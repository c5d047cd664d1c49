//! burn's side: the paper's network in idiomatic burn, with incept's tables and initial weights.

use burn::module::{Module, Param, ParamGroup};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{
    AdaptiveAvgPool2d, AdaptiveAvgPool2dConfig, AvgPool2d, AvgPool2dConfig, MaxPool2d, MaxPool2dConfig,
};
use burn::nn::{
    Dropout, DropoutConfig, Linear, LinearConfig, LocalResponseNorm, LocalResponseNormConfig, PaddingConfig2d,
};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::activation::{relu, softmax};
use burn::tensor::{Device, Int, Tensor, TensorData};
use incept::data::Batch;
use incept::model::{BLOCKS, GoogLeNet};
use incept::optim::TrainingState;

use crate::Result;
use crate::layers::host;
use crate::timing::Contender;
use crate::work;

/// One Inception block.
#[derive(Module, Debug)]
struct Inception {
    conv1: Conv2d,
    reduce3: Conv2d,
    conv3: Conv2d,
    reduce5: Conv2d,
    conv5: Conv2d,
    pool: MaxPool2d,
    project: Conv2d,
}

/// One auxiliary head, with one of the two pools.
#[derive(Module, Debug)]
struct AuxHead {
    fixed: Option<AvgPool2d>,
    adaptive: Option<AdaptiveAvgPool2d>,
    conv: Conv2d,
    hidden: Linear,
    dropout: Dropout,
    classifier: Linear,
}

/// The network.
#[derive(Module, Debug)]
struct Net {
    conv1: Conv2d,
    conv2: Conv2d,
    conv3: Conv2d,
    pool: MaxPool2d,
    norm: LocalResponseNorm,
    blocks: Vec<Inception>,
    aux: Vec<AuxHead>,
    average: AdaptiveAvgPool2d,
    dropout: Dropout,
    classifier: Linear,
}

impl Inception {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let branch1 = relu(self.conv1.forward(x.clone()));
        let branch2 = relu(self.conv3.forward(relu(self.reduce3.forward(x.clone()))));
        let branch3 = relu(self.conv5.forward(relu(self.reduce5.forward(x.clone()))));
        let branch4 = relu(self.project.forward(self.pool.forward(x)));
        Tensor::cat(vec![branch1, branch2, branch3, branch4], 1)
    }
}

impl AuxHead {
    fn forward(&self, mut x: Tensor<4>) -> Tensor<2> {
        if let Some(pool) = &self.fixed {
            x = pool.forward(x);
        }
        if let Some(pool) = &self.adaptive {
            x = pool.forward(x);
        }
        let x = relu(self.conv.forward(x)).flatten::<2>(1, 3);
        let x = self.dropout.forward(relu(self.hidden.forward(x)));
        self.classifier.forward(x)
    }
}

impl Net {
    /// The logits of the main head and, if asked for, those of the auxiliary heads.
    fn forward(&self, x: Tensor<4>, with_aux: bool) -> (Tensor<2>, Vec<Tensor<2>>) {
        let x = self.norm.forward(self.pool.forward(relu(self.conv1.forward(x))));
        let x = relu(self.conv3.forward(relu(self.conv2.forward(x))));
        let mut x = self.pool.forward(self.norm.forward(x));
        let mut aux = Vec::new();
        for ((name, _), block) in BLOCKS.iter().zip(&self.blocks) {
            x = block.forward(x);
            match *name {
                "4a" if with_aux => aux.extend(self.aux.first().map(|head| head.forward(x.clone()))),
                "4d" if with_aux => aux.extend(self.aux.get(1).map(|head| head.forward(x.clone()))),
                "3b" | "4e" => x = self.pool.forward(x),
                _ => (),
            }
        }
        let x = self.dropout.forward(self.average.forward(x).flatten::<2>(1, 3));
        (self.classifier.forward(x), aux)
    }
}

/// Makes layers with given weights.
struct Builder<'a> {
    weights: &'a TrainingState,
    device: &'a Device,
}

impl Builder<'_> {
    fn take(&self, name: &str) -> Result<(Vec<f32>, &[usize])> {
        let tensor = self.weights.parameters.get(name).ok_or_else(|| format!("no weights for `{name}`"))?;
        Ok((tensor.data.clone(), &tensor.dims))
    }

    fn bias(&self, layer: &str) -> Result<Option<Param<Tensor<1>>>> {
        let (data, dims) = self.take(&format!("{layer}.bias"))?;
        Ok(Some(Param::from_data(TensorData::new(data, dims.to_vec()), self.device)))
    }

    fn conv(&self, layer: &str, stride: usize, padding: usize) -> Result<Conv2d> {
        let (data, dims) = self.take(&format!("{layer}.weight"))?;
        let [outputs, inputs, height, width] = *dims else {
            return Err(format!("`{layer}.weight` has shape {dims:?}").into());
        };
        let mut conv = Conv2dConfig::new([inputs, outputs], [height, width])
            .with_stride([stride; 2])
            .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
            .init(self.device);
        conv.weight = Param::from_data(TensorData::new(data, dims.to_vec()), self.device);
        conv.bias = self.bias(layer)?;
        Ok(conv)
    }

    fn linear(&self, layer: &str) -> Result<Linear> {
        let (data, dims) = self.take(&format!("{layer}.weight"))?;
        let [outputs, inputs] = *dims else {
            return Err(format!("`{layer}.weight` has shape {dims:?}").into());
        };
        // burn's linear layers keep their weights inputs x outputs.
        let transposed: Vec<f32> =
            (0..inputs * outputs).map(|i| data[i % outputs * inputs + i / outputs]).collect();
        let mut linear = LinearConfig::new(inputs, outputs).init(self.device);
        linear.weight = Param::from_data(TensorData::new(transposed, [inputs, outputs]), self.device);
        linear.bias = self.bias(layer)?;
        Ok(linear)
    }

    fn block(&self, name: &str) -> Result<Inception> {
        let conv = |layer: &str, padding| self.conv(&format!("inception_{name}/{layer}"), 1, padding);
        Ok(Inception {
            conv1: conv("1x1", 0)?,
            reduce3: conv("3x3_reduce", 0)?,
            conv3: conv("3x3", 1)?,
            reduce5: conv("5x5_reduce", 0)?,
            conv5: conv("5x5", 2)?,
            pool: MaxPool2dConfig::new([3, 3])
                .with_strides([1, 1])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(),
            project: conv("pool_proj", 0)?,
        })
    }

    fn aux(&self, head: usize, fixed: bool, dropout: f32) -> Result<AuxHead> {
        let average = AvgPool2dConfig::new([5, 5]).with_strides([3, 3]);
        Ok(AuxHead {
            fixed: fixed.then(|| average.init()),
            adaptive: (!fixed).then(|| AdaptiveAvgPool2dConfig::new([4, 4]).init()),
            conv: self.conv(&format!("loss{head}/conv"), 1, 0)?,
            hidden: self.linear(&format!("loss{head}/fc"))?,
            dropout: DropoutConfig::new(f64::from(dropout)).init(),
            classifier: self.linear(&format!("loss{head}/classifier"))?,
        })
    }

    fn net(&self, network: &GoogLeNet) -> Result<Net> {
        let stride = if network.input < 64 { 1 } else { 2 };
        // Where the blocks 4a to 4e see 14 x 14 pixels, pooling 5x5 with stride 3 gives 4 x 4;
        // elsewhere incept pools to 4 x 4.
        let mut pixels = (network.input + 6 - 7) / stride + 1;
        for _ in 0..3 {
            pixels = (pixels - 3).div_ceil(2) + 1;
        }
        let fixed = pixels >= 5 && (pixels - 5) / 3 + 1 == 4;
        let heads = if network.has_aux() { 1..3 } else { 1..1 };
        Ok(Net {
            conv1: self.conv("conv1/7x7_s2", stride, 3)?,
            conv2: self.conv("conv2/3x3_reduce", 1, 0)?,
            conv3: self.conv("conv2/3x3", 1, 1)?,
            pool: MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_ceil_mode(true).init(),
            norm: LocalResponseNormConfig::new(5).with_alpha(1e-4).with_beta(0.75).with_k(1.0).init(),
            blocks: BLOCKS.iter().map(|(name, _)| self.block(name)).collect::<Result<_>>()?,
            aux: heads.map(|head| self.aux(head, fixed, network.aux_dropout)).collect::<Result<_>>()?,
            average: AdaptiveAvgPool2dConfig::new([1, 1]).init(),
            dropout: DropoutConfig::new(f64::from(network.dropout)).init(),
            classifier: self.linear("loss3/classifier")?,
        })
    }
}

fn images(batch: &Batch, network: &GoogLeNet, device: &Device) -> Tensor<4> {
    let shape = [batch.count, 3, network.input, network.input];
    Tensor::from_data(TensorData::new(batch.images.clone(), shape), device)
}

/// Training steps.
pub struct Training {
    device: Device,
    network: GoogLeNet,
    net: Option<Net>,
    optimizer: ModuleOptimizer,
    batch: Batch,
    losses: Vec<Tensor<1>>,
}

impl Training {
    pub fn new(device: &Device, network: &GoogLeNet, batch: usize) -> Result<Self> {
        let device = device.clone().autodiff();
        let weights = work::weights(network)?;
        let net = Builder { weights: &weights, device: &device }.net(network)?;
        let momentum = MomentumConfig::new().with_momentum(f64::from(work::MOMENTUM)).with_dampening(0.0);
        let sgd = SgdConfig::new().with_momentum(Some(momentum));
        let decay = WeightDecayConfig::new(work::DECAY);
        let optimizer = sgd.clone().with_weight_decay(Some(decay)).init().with_group(
            ParamGroup::from_predicate("bias"),
            sgd.build(),
            None,
        );
        let (network, batch) = (network.clone(), work::batch(network, batch));
        Ok(Self { device, network, net: Some(net), optimizer, batch, losses: Vec::new() })
    }

    /// The losses of the last step: total, main, aux1, aux2.
    pub fn losses(&self) -> Result<Vec<f32>> {
        self.losses.iter().map(|loss| Ok(host(loss.clone())?.first().copied().unwrap_or(f32::NAN))).collect()
    }

    fn step(&mut self) -> Result<()> {
        let net = self.net.take().ok_or("an earlier step failed")?;
        let x = images(&self.batch, &self.network, &self.device);
        let labels: Vec<i32> = self.batch.labels.iter().map(|l| l.cast_signed()).collect();
        let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [self.batch.count]), &self.device);
        let (main, aux) = net.forward(x, true);
        let criterion = CrossEntropyLossConfig::new().init(&self.device);
        let main = criterion.forward(main, labels.clone());
        let mut total = main.clone();
        let mut losses = vec![main];
        for logits in aux {
            let loss = criterion.forward(logits, labels.clone());
            total = total + loss.clone() * self.network.aux_weight;
            losses.push(loss);
        }
        let gradients = GradientsParams::from_grads(total.backward(), &net);
        self.net = Some(self.optimizer.step(f64::from(work::RATE), net, gradients));
        losses.insert(0, total);
        self.losses = losses.into_iter().map(Tensor::detach).collect();
        Ok(())
    }
}

impl Contender for Training {
    fn name(&self) -> &'static str {
        "burn"
    }

    fn run(&mut self, times: u32) -> Result<()> {
        for _ in 0..times {
            self.step()?;
        }
        Ok(self.device.sync()?)
    }
}

/// Inference: images to probabilities on the host.
pub struct Inference {
    device: Device,
    network: GoogLeNet,
    net: Net,
    batch: Batch,
    /// The probabilities of the last batch.
    pub probabilities: Vec<f32>,
}

impl Inference {
    pub fn new(device: &Device, network: &GoogLeNet, batch: usize) -> Result<Self> {
        let weights = work::weights(network)?;
        let net = Builder { weights: &weights, device }.net(network)?;
        let (network, batch) = (network.clone(), work::batch(network, batch));
        Ok(Self { device: device.clone(), network, net, batch, probabilities: Vec::new() })
    }
}

impl Contender for Inference {
    fn name(&self) -> &'static str {
        "burn"
    }

    fn run(&mut self, times: u32) -> Result<()> {
        for _ in 0..times {
            let (main, _) = self.net.forward(images(&self.batch, &self.network, &self.device), false);
            self.probabilities = host(softmax(main, 1))?;
        }
        Ok(())
    }
}
