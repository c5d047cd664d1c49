//! Decoding speed for photographs of a typical size, 500 x 375 pixels.

use std::hint::black_box;
use std::io::Cursor;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use image::{DynamicImage, ImageFormat, Rgba, RgbaImage};
use incept::data::{Image, Preprocessing};

fn photo() -> DynamicImage {
    let pixel = |x: u32, y: u32| [(x * y / 50) as u8, (x / 2) as u8, ((x ^ y) / 3) as u8, (x + y) as u8];
    DynamicImage::from(RgbaImage::from_fn(500, 375, |x, y| Rgba(pixel(x, y))))
}

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    let (transparent, opaque) = (photo(), DynamicImage::from(photo().to_rgb8()));
    for (name, image, format) in [
        ("jpeg", &opaque, ImageFormat::Jpeg),
        ("png", &opaque, ImageFormat::Png),
        ("png with alpha", &transparent, ImageFormat::Png),
    ] {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).expect("memory can be written");
        let bytes = bytes.into_inner();
        group.bench_function(name, |bencher| bencher.iter(|| Image::decode(black_box(&bytes))));
    }
    let image = Image::from_image(&opaque);
    let preprocessing = Preprocessing::new(224);
    group.bench_function("preprocess to 224", |bencher| {
        bencher.iter(|| preprocessing.apply(black_box(&image)));
    });
    group.finish();
}

criterion_group!(benches, decoding);
criterion_main!(benches);
