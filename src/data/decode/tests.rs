//! Images of many formats against the pixels that Pillow decodes, and files that would exhaust
//! memory or time or cause a panic.

use std::path::PathBuf;

use super::*;

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let list = std::fs::read_dir(folder).expect("fixtures");
    let files = list.map(|entry| entry.expect("a file").path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// Images that Pillow reads and this crate rejects, with a part of the error.
const SKIPPED: [(&str, &str); 6] = [
    ("jpeg_odd_cb.jpg", "sampling 1x1,2x2,1x1"),
    ("jpeg_odd_cb21.jpg", "sampling 1x1,2x1,1x1"),
    ("jpeg_odd_chroma.jpg", "sampling 1x1,2x2,2x2"),
    ("tiff_grey_alpha.tif", "color type"),
    ("tiff_palette.tif", "RGBPalette"),
    ("tiff_planar_tiles.tif", "decoder failed"),
];

#[test]
fn decoded_pixels_match_pillow() {
    let mut compared = 0;
    for file in fixtures("images") {
        let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.ends_with(".pnm") {
            continue;
        }
        let decoded = Image::read(&file);
        if let Some((_, reason)) = SKIPPED.iter().find(|(skipped, _)| *skipped == name) {
            let error = decoded.expect_err(&name).to_string();
            assert!(error.contains(&name) && error.contains(reason), "{error}");
            continue;
        }
        let decoded = decoded.unwrap_or_else(|e| panic!("{e}"));
        let expected = Image::read(&file.with_file_name(format!("{name}.pnm"))).expect("pixels");
        assert_eq!((decoded.width, decoded.height), (expected.width, expected.height), "{name}");
        let rgb = |p: &Image| -> Vec<u8> {
            let pixel = |pixel: &[u8]| [pixel[0], pixel[1 % p.channels], pixel[2 % p.channels]];
            p.pixels.chunks_exact(p.channels).flat_map(pixel).collect()
        };
        let (ours, theirs) = (rgb(&decoded), rgb(&expected));
        let most = ours.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b)).max();
        // Decoders round the inverse DCT and chroma upsampling differently.
        let allowed = if name.starts_with("jpeg") || name.contains("lossy") { 4 } else { 1 };
        assert!(most.is_some_and(|most| most <= allowed), "{name}: {most:?}");
        compared += 1;
    }
    assert!(compared > 90, "{compared} images");
}

#[test]
fn oversized_headers_are_rejected_quickly_with_their_size() {
    let mut tried = 0;
    for file in fixtures("cases") {
        let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if !name.starts_with("bomb") && !name.starts_with("huge") {
            continue;
        }
        let start = std::time::Instant::now();
        let error = Image::read(&file).expect_err("too large").to_string();
        assert!(start.elapsed().as_secs_f64() < 1.0, "{name}");
        let sizes = ["1000000 x 1000000", "65535 x 65535", "65000 x 65000", "40000 x 40000"];
        assert!(error.contains(&name) && sizes.iter().any(|size| error.contains(size)), "{error}");
        tried += 1;
    }
    assert_eq!(tried, 7);
}

#[test]
fn empty_images_are_rejected() {
    let error = Image::decode(b"P5\n0 5\n255\n").expect_err("no pixels");
    assert!(error.contains("has no pixels: it is 0 x 5"), "{error}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases/zero_width.pgm");
    assert!(Image::read(&file).expect_err("no pixels").to_string().contains("zero_width.pgm"));
    let none = Image { width: 0, height: 5, channels: 1, pixels: Vec::new() };
    let short = Image { width: 2, height: 5, channels: 1, pixels: vec![0; 9] };
    let odd = Image { width: 1, height: 1, channels: 0, pixels: Vec::new() };
    for image in [none, short, odd] {
        assert!(image.check().is_err(), "{image:?}");
    }
}

#[test]
fn pixel_limit_covers_pixels_and_bytes() {
    let limit = Limit { max_pixels: 100 };
    assert!(limit.check((10, 10), 400).is_ok());
    for (extents, bytes, reason) in [
        ((101, 1), 101, "101 x 1 pixels, more than the 100"),
        ((u32::MAX, u32::MAX), u64::MAX, "more than the 100"),
        ((10, 10), 800, "pixels of 8 bytes"),
        ((0, 7), 0, "has no pixels"),
    ] {
        let error = limit.check(extents, bytes).expect_err(reason);
        assert!(error.contains(reason), "{error}");
    }
    assert!(limit.check((10, 5), 400).is_ok(), "half as many of eight bytes");
    assert!(Limit { max_pixels: u64::MAX }.check((u32::MAX, u32::MAX), u64::MAX).is_ok());
}

/// A planar RGB TIFF in tiles of 16 x 16, on which tiff 0.11.3 panics.
#[test]
fn decoder_panic_is_an_error_naming_the_file() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/tiff_planar_tiles.tif");
    let error = Image::read(&file).expect_err("the decoder cannot read it").to_string();
    assert!(error.contains("tiff_planar_tiles.tif") && error.contains("decoder failed"), "{error}");
}

#[test]
fn mutated_images_never_panic() {
    for file in fixtures("images").iter().chain(&fixtures("cases")) {
        let whole = std::fs::read(file).expect("a fixture");
        let mut state = 0x2545_f491_4f6c_dd1du64;
        for _ in 0..25 {
            let mut bytes = whole.clone();
            for _ in 0..4 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let at = (state >> 8) as usize % bytes.len().min(400);
                bytes[at] = state as u8;
            }
            bytes.truncate(if state & 1 == 0 { bytes.len() } else { bytes.len() / 2 });
            let decoded = contained(|| decode(&bytes, Some(file), Limit { max_pixels: 1 << 20 }));
            if let Ok(image) = decoded {
                assert_eq!(image.check(), Ok(()), "{}", file.display());
            }
        }
    }
}
