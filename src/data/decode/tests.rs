//! Images of many kinds against Pillow, whose pixels lie beside them; and files that would take
//! memory, time or the program.

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

/// Images that are skipped with a reason: what Pillow reads of them, this crate does not.
const SKIPPED: [(&str, &str); 6] = [
    ("jpeg_odd_cb.jpg", "sampling 1x1,2x2,1x1"),
    ("jpeg_odd_cb21.jpg", "sampling 1x1,2x1,1x1"),
    ("jpeg_odd_chroma.jpg", "sampling 1x1,2x2,2x2"),
    ("tiff_grey_alpha.tif", "color type"),
    ("tiff_palette.tif", "RGBPalette"),
    ("tiff_planar_tiles.tif", "decoder failed"),
];

#[test]
fn pixels_are_those_of_other_readers_or_the_image_is_skipped_with_a_reason() {
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
        // Transforms and scaling of colours round differently from one reader to the next.
        let allowed = if name.starts_with("jpeg") || name.contains("lossy") { 4 } else { 1 };
        assert!(most.is_some_and(|most| most <= allowed), "{name}: {most:?}");
        compared += 1;
    }
    assert!(compared > 90, "{compared} images");
}

#[test]
fn headers_that_claim_more_than_the_limit_are_refused_with_the_size_and_at_once() {
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
fn images_without_extent_are_refused() {
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
fn the_limit_counts_pixels_and_the_bytes_that_they_take() {
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

/// A TIFF of RGB in tiles of 16 x 16, each plane by itself, as few programs write them: tiff 0.11.3
/// panics on it.
#[test]
fn a_decoder_that_panics_is_an_error_with_the_files_name() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/tiff_planar_tiles.tif");
    let error = Image::read(&file).expect_err("the decoder cannot read it").to_string();
    assert!(error.contains("tiff_planar_tiles.tif") && error.contains("decoder failed"), "{error}");
}

#[test]
fn mutated_images_are_images_or_errors() {
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
