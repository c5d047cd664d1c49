//! Images that claim too much, and images that are not square.

use std::path::Path;
use std::process::Command;

use incept::checkpoint::Checkpoint;
use incept::data::Fit;
use serde_json::Value;

use crate::program::{fails_with, fixtures, run, stdout, temporary, text};

/// A folder of two classes of landscapes, and in one of them files that claim huge images, have
/// none, or panic their decoder.
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
fn images_that_claim_too_much_are_skipped_by_every_command_that_reads_images() {
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
    // The limit can be lowered, and raised.
    let (_, errors) = fails_with(&["classify", "included", &file("b/0.png"), "--max-pixels", "100"]);
    assert!(errors.contains("48 x 36 pixels, more than the 100 that --max-pixels allows"), "{errors}");
    assert!(
        fails_with(&["classify", "included", &file("b/0.png"), "--max-pixels", "0"])
            .1
            .contains("--max-pixels")
    );
}

/// Headers are believed by decoders: without a check before, each of these takes gigabytes.
#[test]
#[cfg(target_os = "linux")]
fn huge_images_are_refused_in_little_memory() {
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
fn train_says_that_images_are_cut_and_the_checkpoint_keeps_how_they_are_made_square() {
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
    let said = train(&[]);
    let advice =
        "sampled images are not square: the central square is used; --fit squash|pad keeps everything";
    assert!(said.matches(advice).count() == 1, "{said}");
    let fit = || Checkpoint::load(&out).expect("a checkpoint").metadata.preprocessing.fit;
    assert_eq!(fit(), Fit::Crop);
    let said = train(&["--fit", "pad"]);
    assert!(said.contains("letterboxed") && !said.contains(advice), "{said}");
    assert_eq!(fit(), Fit::Pad);
    let image = folder.path().join("b/0.png");
    let output = run(&["classify", text(&out), text(&image)]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.contains("letterboxed to 32 x 32"), "{errors}");
    // Weights bring theirs, and a flag changes it.
    let more = folder.path().join("more.safetensors");
    let begin = ["train", data, "--init", text(&out), "--epochs", "1", "--batch-size", "4", "--tune", "off"];
    stdout(&[&begin[..], &["--output", text(&more)]].concat());
    assert_eq!(Checkpoint::load(&more).expect("a checkpoint").metadata.preprocessing.fit, Fit::Pad);
    stdout(&[&begin[..], &["--fit", "squash", "--output", text(&more)]].concat());
    assert_eq!(Checkpoint::load(&more).expect("a checkpoint").metadata.preprocessing.fit, Fit::Squash);
    assert!(run(&["train", "--help"]).stdout.windows(8).any(|w| w == b"bilinear"));
}
