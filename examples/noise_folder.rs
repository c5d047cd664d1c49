//! Writes an image folder of synthetic photographs in the size of ImageNet's, to measure whether
//! decoding keeps up with a GPU: `cargo run --release --example noise_folder -- FOLDER COUNT`, then
//! `incept train FOLDER`, which prints the device utilization per epoch.

use std::path::Path;

use image::{Rgb, RgbImage};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CLASSES: usize = 10;

/// An image with shapes of all sizes, so that it compresses like a photograph.
fn image(random: &mut ChaCha8Rng) -> RgbImage {
    let (width, height) = (random.random_range(375..=500u32), random.random_range(333..=375u32));
    let waves: Vec<[f32; 5]> = (0..12)
        .map(|i| {
            let frequency = 0.008 * 1.5f32.powi(i);
            let mut angle = || random.random_range(0.0..std::f32::consts::TAU);
            let (direction, phase) = (angle(), angle());
            [
                frequency * direction.cos(),
                frequency * direction.sin(),
                phase,
                angle().cos(),
                90.0 / (i + 1) as f32,
            ]
        })
        .collect();
    RgbImage::from_fn(width, height, |x, y| {
        let value = |c: f32| {
            let wave = |[fx, fy, phase, colour, height]: &[f32; 5]| {
                height * (fx * x as f32 + fy * y as f32 + phase + c * colour).sin()
            };
            (128.0 + waves.iter().map(wave).sum::<f32>()).clamp(0.0, 255.0) as u8
        };
        Rgb([value(0.0), value(1.0), value(2.0)])
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, count] = arguments.as_slice() else {
        return Err("usage: noise_folder FOLDER COUNT".into());
    };
    let count: usize = count.parse()?;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for i in 0..count {
        // Every sixteenth image is in the validation set.
        let part = if i % 16 == 15 { "val" } else { "train" };
        let of_class = Path::new(folder).join(part).join(format!("class{}", i / 16 % CLASSES));
        std::fs::create_dir_all(&of_class)?;
        image(&mut random).save(of_class.join(format!("{i:06}.jpg")))?;
    }
    println!("{count} images in {folder}");
    Ok(())
}
