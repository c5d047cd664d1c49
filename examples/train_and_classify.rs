//! Trains a small GoogLeNet with auxiliary heads on the embedded digits, then classifies a
//! validation image.

use std::ops::ControlFlow;

use incept::data::{Loader, LoaderOptions, OpenOptions, Preprocessing, open};
use incept::device::{Device, DeviceOptions};
use incept::model::GoogLeNet;
use incept::optim::Optimizer;
use incept::train::{Trainer, train_epoch};

fn main() -> incept::Result<()> {
    let device = Device::open_blocking(&DeviceOptions::default())?.device;
    let data = open("digits", &OpenOptions::default())?;
    let preprocessing = Preprocessing::new(64).measure(data.train.as_ref(), 500);
    let loader = Loader::new(data.train, LoaderOptions::new(32, preprocessing.clone()).training(1, None))?;
    let network = GoogLeNet::paper().width(0.25).classes(10).input(64);
    let mut trainer =
        device.block_on(Trainer::new(&device, &network, &Optimizer::default(), 32, 1, |_, _| ()))?;
    for _ in 0..15 {
        let epoch =
            device.block_on(train_epoch(&mut trainer, &loader, |_| 0.01, |_| ControlFlow::Continue(())))?;
        println!("epoch {}: loss {:.3}, {:?}", epoch.epoch + 1, epoch.loss, epoch.heads);
    }
    let mut classifier = device.block_on(trainer.classifier(1))?;
    let image = preprocessing.apply(&data.validation.image(0)?);
    let top = device.block_on(classifier.classify(&[image]))?;
    println!("a {}: {:?}", data.validation.label(0), &top[0][..3]);
    Ok(())
}
