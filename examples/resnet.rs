//! A custom network: a small ResNet (He et al. 2016) with an auxiliary head is trained on the
//! embedded digits, saved, loaded, and exported as ONNX:
//! `cargo run --release --example resnet -- FOLDER`.

use std::path::PathBuf;

use incept::checkpoint::{ModelCheckpoint, OnnxOptions};
use incept::data::{OpenOptions, open};
use incept::device::{Device, DeviceOptions};
use incept::graph::TensorId;
use incept::infer::Classifier;
use incept::learner::{Learner, Observer};
use incept::model::{Model, Network, NetworkBuilder};
use incept::runs::EpochReport;
use incept::tensor::Element;
use incept::{Error, Result};
use serde::{Deserialize, Serialize};

/// The network's configuration, as checkpoints contain it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ResNet {
    classes: usize,
    input: usize,
    /// Channels of the first stage; each further stage doubles them and halves height and width.
    width: usize,
    /// Residual blocks per stage.
    blocks: usize,
}

impl Model for ResNet {
    fn class_count(&self) -> usize {
        self.classes
    }

    fn input_size(&self) -> usize {
        self.input
    }

    fn build(&self, batch: usize) -> Result<Network> {
        let mut net = NetworkBuilder::new(batch, self.input);
        let images = net.images();
        let mut x = layer(&mut net, "conv1", images, self.width, [3, 1, 1])?;
        x = net.relu("conv1.relu", x)?;
        for stage in 0..3 {
            for block in 0..self.blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                x = residual(&mut net, &format!("stage{stage}.{block}"), x, self.width << stage, stride)?;
            }
            if stage == 1 {
                let pooled = net.global_avg_pool("aux.pool", x)?;
                let logits = net.linear("aux.fc", pooled, self.classes)?;
                net.head("aux1", 0.3, x, logits)?;
            }
        }
        let pooled = net.global_avg_pool("pool", x)?;
        let logits = net.linear("fc", pooled, self.classes)?;
        net.head(Network::MAIN, 1.0, x, logits)?;
        net.finish()
    }
}

/// A convolution with batch norm.
fn layer(net: &mut NetworkBuilder, name: &str, x: TensorId, to: usize, by: [usize; 3]) -> Result<TensorId> {
    let y = net.conv(name, x, to, by)?;
    net.batch_norm(&format!("{name}.bn"), y)
}

/// A residual block of two convolutions.
fn residual(net: &mut NetworkBuilder, name: &str, x: TensorId, to: usize, stride: usize) -> Result<TensorId> {
    let y = layer(net, &format!("{name}.conv1"), x, to, [3, stride, 1])?;
    let y = net.relu(&format!("{name}.relu1"), y)?;
    let y = layer(net, &format!("{name}.conv2"), y, to, [3, 1, 1])?;
    let is_same = net.graph.tensor(x).spec == net.graph.tensor(y).spec;
    let x = if is_same { x } else { layer(net, &format!("{name}.down"), x, to, [1, stride, 0])? };
    let sum = net.add(&format!("{name}.add"), y, x)?;
    net.relu(&format!("{name}.relu2"), sum)
}

struct Lines;

impl Observer for Lines {
    fn epoch_ended(&mut self, epoch: &EpochReport) -> Result<()> {
        let accuracy = 100.0 * epoch.validation_accuracy.unwrap_or_default();
        let EpochReport { summary, .. } = epoch;
        println!("epoch {}  loss {:.3}  validation {accuracy:.1}%", summary.epoch + 1, summary.loss);
        Ok(())
    }
}

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| ".".into()));
    let (best, onnx) = (folder.join("resnet.safetensors"), folder.join("resnet.onnx"));
    let device = Device::open_blocking(&DeviceOptions::default())?.device;
    let data = open("digits", &OpenOptions::default())?;
    let network = ResNet { classes: data.train.classes().len(), input: 32, width: 8, blocks: 1 };
    let mut learner = Learner::builder(network)
        .data(data.train)
        .validation(data.validation.clone())
        .epochs(15)
        .target_accuracy(0.95)
        .learning_rate(0.05)
        .best_checkpoint(&best)
        .build_blocking(&device)?;
    let history = learner.fit_blocking(&mut Lines)?;
    assert!(history.best().is_some_and(|(accuracy, _)| accuracy >= 0.95), "accuracy after 15 epochs");
    let checkpoint = ModelCheckpoint::<ResNet>::load(&best)?;
    let metadata = &checkpoint.metadata;
    let classifier = Classifier::new(&device, &metadata.network, 1, Element::F32, &checkpoint.state);
    let image = metadata.preprocessing.apply(&data.validation.image(0)?);
    let top = device.block_on(async { classifier.await?.classify(&[image]).await })?[0][0];
    println!("a {} is classified as {}", data.validation.label(0), metadata.classes[top.class]);
    std::fs::write(&onnx, checkpoint.to_onnx(OnnxOptions::default().aux(true))?)
        .map_err(|e| Error::io(&onnx, e))
}
