//! Trains on images from memory, with early stopping and the best epoch's checkpoint:
//! `cargo run --release --example memory`.

use std::sync::Arc;

use incept::data::{Image, InMemory};
use incept::device::{Device, DeviceOptions};
use incept::learner::Learner;
use incept::model::GoogLeNet;

fn main() -> incept::Result<()> {
    let mut images = InMemory::new(["horizontal", "vertical"]);
    for i in 0..400 {
        let (class, period) = (i % 2, 3 + i / 2 % 5);
        let stripe = |p: usize| [p / 32, p % 32][class] / period % 2 * 200;
        let pixels = (0..32 * 32).map(|p| (stripe(p) + (p * 31 + i * 17) % 50) as u8).collect();
        images.push(Image { width: 32, height: 32, channels: 1, pixels }, class as u32)?;
    }
    let device = Device::open_blocking(&DeviceOptions::default())?.device;
    let network = GoogLeNet::paper().width(0.125).input(32).classes(2);
    let mut learner = Learner::builder(network)
        .data(Arc::new(images))
        .epochs(20)
        .patience(3)
        .batch_size(16)
        .learning_rate(0.02)
        .best_checkpoint("stripes.safetensors")
        .build_blocking(&device)?;
    let history = learner.fit_blocking(&mut ())?;
    let (accuracy, epoch) = history.best().unwrap_or_default();
    println!("best: {:.1}% after epoch {} of {}", 100.0 * accuracy, epoch + 1, history.epochs.len());
    Ok(())
}
