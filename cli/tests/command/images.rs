//! Images with huge dimensions, and images that are not square.

use std::path::Path;
use std::process::Command;

use incept::checkpoint::Checkpoint;
use incept::data::Fit;
use serde_json::Value;

use crate::program::{fails_with, fixtures, run, stdout, temporary, text};

/// A folder with two classes of landscape images; one also has files with huge dimensions in their
/// headers, files without an image, and files that make their decoder panic.
fn hostile_folder() -> tempfile::TempDir {
    let folder = temporary();
    for class in ["a", "b"] {
        std::fs::create_dir(folder.path().join(class)).expect("a folder");
        for i in 0..6u32 {
            let value = if class == "a" { 30 + i } else { 200 + i } as u8;
            let image = image::RgbImage::from_pixel(48, 36, image::Rgb([value, 255 - value, 9]));
            image.save(folder.path().join(format!("{class}/{i}.png"))).expect("can be written");
        }
    }
    for name in
        ["cases/bomb_1M.png", "cases/huge.jpg", "cases/zero_width.pgm", "images/tiff_planar_tiles.tif"]
    {
        let to = Path::new(name).file_name().expect("a name");
        std::fs::copy(fixtures().join(name), folder.path().join("a").join(to)).expect("can be copied");
    }
    folder
}

#[test]
fn every_command_skips_images_with_huge_dimensions() {
    let folder = hostile_folder();
    let data = text(folder.path());
    let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (code, errors) = fails_with(&["data", "info", data, "--json"]);
    assert!(code == 1 && !errors.contains("panicked"), "{errors}");
    let info = run(&["data", "info", data, "--json"]).stdout;
    let info: Value = serde_json::from_slice(&info).expect("JSON");
    let unreadable =
        ["train", "validation"].map(|part| info[part]["unreadable"].as_array().map_or(0, Vec::len));
    assert_eq!(unreadable.iter().sum::<usize>(), 4, "{info}");
    let (_, errors) = fails_with(&["classify", "included", &file("a")]);
    for (name, reason) in
        [("bomb_1M.png", "1000000 x 1000000 pixels"), ("tiff_planar_tiles.tif", "decoder failed")]
    {
        assert!(errors.lines().any(|l| l.contains(name) && l.contains(reason)), "{errors}");
    }
    assert!(errors.contains("4 of 10"), "{errors}");
    let preview = file("sheet.png");
    stdout(&["data", "preview", data, "--output", &preview]);
    let split = file("split");
    stdout(&["data", "split", data, "--output", &split]);
    let cam = file("cam.png");
    let (code, errors) = fails_with(&["look", "gradcam", "included", &file("a"), "--output", &cam]);
    assert!(code == 1 && errors.contains("huge.jpg") && Path::new(&cam).exists(), "{errors}");
    // --max-pixels changes the limit.
    let (_, errors) = fails_with(&["classify", "included", &file("b/0.png"), "--max-pixels", "100"]);
    assert!(errors.contains("48 x 36 pixels, more than the 100 that --max-pixels allows"), "{errors}");
    assert!(
        fails_with(&["classify", "included", &file("b/0.png"), "--max-pixels", "0"])
            .1
            .contains("--max-pixels")
    );
}

/// Decoders trust headers: without a check in advance, each of these images takes gigabytes.
#[test]
#[cfg(target_os = "linux")]
fn huge_images_do_not_allocate_memory() {
    let folder = hostile_folder();
    let run = format!(
        "ulimit -v 1500000; exec '{}' data info '{}'",
        env!("CARGO_BIN_EXE_incept"),
        text(folder.path())
    );
    let output =
        Command::new("sh").args(["-c", &run]).env("MALLOC_ARENA_MAX", "1").output().expect("a shell");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1000000 x 1000000 pixels"), "{errors}");
}

#[test]
fn train_notes_non_square_images_and_saves_fit_in_the_checkpoint() {
    let folder = hostile_folder();
    let data = text(folder.path());
    let out = folder.path().join("net.safetensors");
    let train = |more: &[&str]| {
        let base =
            ["train", data, "--width", "0.0625", "--image-size", "32", "--batch-size", "4", "--epochs", "1"];
        let rest = ["--tune", "off", "--output", text(&out)];
        let output = run(&[&base[..], &rest, more].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        errors
    };
    let notes = train(&[]);
    let advice =
        "sampled images are not square: the central square is used (--fit squash|pad keeps the whole image)";
    assert!(notes.matches(advice).count() == 1, "{notes}");
    let fit = || Checkpoint::load(&out).expect("a checkpoint").metadata.preprocessing.fit;
    assert_eq!(fit(), Fit::Crop);
    let notes = train(&["--fit", "pad"]);
    assert!(notes.contains("letterboxed") && !notes.contains(advice), "{notes}");
    assert_eq!(fit(), Fit::Pad);
    let image = folder.path().join("b/0.png");
    let output = run(&["classify", text(&out), text(&image)]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.contains("letterboxed to 32 x 32"), "{errors}");
    // Pretrained weights come with their preprocessing, which a flag overrides.
    let more = folder.path().join("more.safetensors");
    let begin = ["train", data, "--init", text(&out), "--epochs", "1", "--batch-size", "4", "--tune", "off"];
    stdout(&[&begin[..], &["--output", text(&more)]].concat());
    assert_eq!(Checkpoint::load(&more).expect("a checkpoint").metadata.preprocessing.fit, Fit::Pad);
    stdout(&[&begin[..], &["--fit", "squash", "--output", text(&more)]].concat());
    assert_eq!(Checkpoint::load(&more).expect("a checkpoint").metadata.preprocessing.fit, Fit::Squash);
    assert!(run(&["train", "--help"]).stdout.windows(8).any(|w| w == b"bilinear"));
}
