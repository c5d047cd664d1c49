//! Measures how faithful heat maps are, with the included weights: the areas under the deletion and
//! insertion curves of HiResCAM, Grad-CAM and random maps of the same resolution, per head, for the
//! class that the main head predicts. `cargo run --release --example faithfulness -- [DATA
//! [IMAGES]]`; without DATA, CIFAR-10 from the folder `cifar10`, or the embedded digits if there is
//! none.

use std::path::Path;
use std::sync::Arc;

use incept::checkpoint::Checkpoint;
use incept::data::{Dataset, OpenOptions, at_most, open};
use incept::device::{Device, DeviceOptions};
use incept::look::{ActivationMap, CamMethod, Faithfulness, GradCam};

/// Points of a curve besides the first.
const STEPS: usize = 14;

/// Sums over images.
#[derive(Clone, Copy, Default)]
struct Sums {
    deletion: f64,
    insertion: f64,
    /// Maps without any evidence.
    blank: usize,
    images: usize,
}

impl Sums {
    fn add(&mut self, curves: &Faithfulness, is_blank: bool) {
        self.deletion += curves.deletion_area();
        self.insertion += curves.insertion_area();
        self.blank += usize::from(is_blank);
        self.images += 1;
    }

    fn print(&self, head: &str, method: &str) {
        let mean = |sum: f64| sum / self.images.max(1) as f64;
        let (deletion, insertion) = (mean(self.deletion), mean(self.insertion));
        println!("{head:<5} {method:<9} {deletion:>8.3} {insertion:>9.3} {:>6}", self.blank);
    }
}

/// A map of zeros, whose curves are those of a random map.
fn random(map: &ActivationMap) -> ActivationMap {
    ActivationMap { values: vec![0.0; map.values.len()], ..map.clone() }
}

fn main() -> incept::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let default = if Path::new("cifar10").is_dir() { "cifar10" } else { "digits" };
    let what = arguments.next().unwrap_or_else(|| default.into());
    let count = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(100);
    let device = Device::open_blocking(&DeviceOptions::default().choice("cpu"))?.device;
    let Checkpoint { state, metadata } = Checkpoint::included()?;
    let state = state.averaged();
    let set: Arc<dyn Dataset> = at_most(open(&what, &OpenOptions::default())?.validation, count, 0);
    println!("{} of {what}, {}", set.len(), device.summary());
    println!("{:<5} {:<9} {:>8} {:>9} {:>6}", "head", "map", "deletion", "insertion", "blank");
    let make = || device.block_on(GradCam::new(&device, &metadata.network, &state));
    let (mut hirescam, mut gradcam) = (make()?, make()?.method(CamMethod::GradCam));
    let heads = hirescam.heads();
    let mut sums = vec![[Sums::default(); 3]; heads.len()];
    for i in 0..set.len() {
        let image = metadata.preprocessing.apply(&set.image(i)?);
        let theirs = device.block_on(gradcam.maps(&image, None))?;
        let ours = device.block_on(hirescam.maps(&image, None))?;
        for ((ours, theirs), sums) in ours.iter().zip(&theirs).zip(&mut sums) {
            for (map, sums) in [ours, theirs, &random(ours)].into_iter().zip(sums) {
                let curves = device.block_on(hirescam.faithfulness(&image, map, STEPS, i as u64))?;
                sums.add(&curves, map.maximum() == 0.0);
            }
        }
    }
    for (head, sums) in heads.iter().zip(&sums) {
        for (method, sums) in ["HiResCAM", "Grad-CAM", "random"].into_iter().zip(sums) {
            sums.print(head, method);
        }
    }
    Ok(())
}
