//! A model of another crate: trained, saved and loaded. Copy this test for a new model.

use std::path::Path;

use incept::Result;
use incept::checkpoint::{ModelCheckpoint, ModelMetadata};
use incept::data::{Batch, Preprocessing};
use incept::device::Device;
use incept::infer::EarlyExit;
use incept::model::{Model, Network, NetworkBuilder};
use incept::optim::{Optimizer, TrainingState};
use incept::tensor::Element;
use incept::train::Trainer;
use serde::{Deserialize, Serialize};

use crate::support::cpu;
use crate::support::noise::noise;

/// Images of each batch.
const BATCH: usize = 4;

/// Two convolutions with an auxiliary head in between.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tiny {
    classes: usize,
    width: usize,
}

impl Model for Tiny {
    fn class_count(&self) -> usize {
        self.classes
    }

    fn input_size(&self) -> usize {
        8
    }

    fn build(&self, batch: usize) -> Result<Network> {
        let mut net = NetworkBuilder::new(batch, self.input_size());
        let images = net.images();
        let low = net.conv("conv1", images, self.width, [3, 2, 1])?;
        let low = net.batch_norm("bn1", low)?;
        let low = net.relu("relu1", low)?;
        let high = net.conv("conv2", low, self.width, [3, 1, 1])?;
        let high = net.relu("relu2", high)?;
        for (head, weight, tap) in [(Network::MAIN, 1.0, high), ("aux", 0.3, low)] {
            let pooled = net.global_avg_pool(&format!("{head}/pool"), tap)?;
            let logits = net.linear(&format!("{head}/fc"), pooled, self.classes)?;
            net.head(head, weight, tap, logits)?;
        }
        net.finish()
    }
}

fn batch(seed: u64) -> Batch {
    let images = noise(BATCH * 3 * 8 * 8, seed);
    let labels = (0..BATCH as u32).map(|i| i % 3).collect();
    Batch { images, labels, count: BATCH, indices: (0..BATCH).collect(), mixed: None }
}

/// The logits of every head for one batch: heads x images x classes.
fn logits(device: &Device, network: &Tiny, weights: &TrainingState) -> Vec<Vec<Vec<f32>>> {
    let made = EarlyExit::new(device, network, BATCH, Element::F32, weights);
    let mut classifier = device.block_on(made).expect("the weights fit");
    assert_eq!(classifier.heads(), [Network::MAIN, "aux"]);
    device.block_on(classifier.all_heads(&batch(9))).expect("runs").logits
}

fn save(file: &Path, network: &Tiny, state: TrainingState) {
    let metadata = ModelMetadata {
        version: env!("CARGO_PKG_VERSION").into(),
        network: network.clone(),
        classes: ["a", "b", "c"].map(String::from).into(),
        preprocessing: Preprocessing::new(network.input_size()),
        progress: state.progress.clone(),
        run: serde_json::Value::Null,
        command_line: Vec::new(),
    };
    ModelCheckpoint { state, metadata }.save(file).expect("is saved");
}

#[test]
fn custom_model_trains_and_is_the_same_after_saving_and_loading() {
    let (device, folder) = (cpu(), tempfile::tempdir().expect("a temporary folder"));
    let file = folder.path().join("tiny.safetensors");
    let network = Tiny { classes: 3, width: 6 };
    let optimizer = Optimizer::default();
    let trainer = Trainer::new(device, &network, &optimizer, BATCH, 1, |_, _| ());
    let mut trainer = device.block_on(trainer).expect("can train");
    let start = device.block_on(trainer.state()).expect("a state");
    for step in 0..2 {
        trainer.step(&batch(step), 0.05).expect("a step");
    }
    let metrics = device.block_on(trainer.metrics(0)).expect("metrics");
    assert!(metrics.len() == 2 && metrics.iter().all(|m| m.loss.is_finite() && m.heads.len() == 2));
    let state = device.block_on(trainer.state()).expect("a state");
    for (name, before) in &start.parameters {
        assert_ne!(state.parameters[name].data, before.data, "`{name}` was not trained");
    }

    save(&file, &network, state.clone());
    let loaded = ModelCheckpoint::<Tiny>::load(&file).expect("is read");
    assert_eq!((&loaded.metadata.network, &loaded.state), (&network, &state));
    let (want, got) = (logits(device, &network, &state), logits(device, &network, &loaded.state));
    assert!(want.len() == 2 && want[0].len() == BATCH && want[0][0].len() == 3);
    assert_eq!(want, got);
    assert_ne!(want, logits(device, &network, &start), "training changes the logits");
}

#[test]
fn checkpoint_of_another_model_is_refused() {
    let (device, folder) = (cpu(), tempfile::tempdir().expect("a temporary folder"));
    let file = folder.path().join("tiny.safetensors");
    let network = Tiny { classes: 3, width: 6 };
    let optimizer = Optimizer::default();
    let trainer = Trainer::new(device, &network, &optimizer, BATCH, 1, |_, _| ());
    let trainer = device.block_on(trainer).expect("can train");
    // A configuration that does not fit the tensors.
    let state = device.block_on(trainer.state()).expect("a state");
    save(&file, &Tiny { width: 7, ..network }, state);
    let error = ModelCheckpoint::<Tiny>::load(&file).expect_err("other shapes").to_string();
    assert!(error.contains("`aux/fc.weight`"), "{error}");
}
