//! Metadata and model cards of exported models.

use std::path::{Path, PathBuf};
use std::process::Command;

use incept::checkpoint::OnnxOptions;
use incept::formats::Foreign;

use super::{checkpoint_of, json};
use crate::program::{python_with, repository, stdout, text};

/// The first Python code block of a Markdown text.
fn program_of(card: &str) -> &str {
    let (_, after) = card.split_once("```python\n").expect("has a program");
    after.split_once("```").expect("the program ends").0
}

#[test]
fn exported_model_documents_its_preprocessing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (net, onnx) = (folder.path().join("net.safetensors"), folder.path().join("net.onnx"));
    let mut checkpoint = checkpoint_of("torchvision.pth", 64);
    checkpoint.metadata.preprocessing.mean = [0.125, 0.25, 0.375];
    checkpoint.metadata.classes[3] = "cat|dog\u{1b}[2J".into();
    checkpoint.save(&net).expect("can be saved");
    let result = json(&["export", text(&net), "--output", text(&onnx)]);
    let card = std::fs::read_to_string(folder.path().join("net.onnx.md")).expect("a model card");
    assert!(result["card"].as_str().is_some_and(|path| path.ends_with("net.onnx.md")), "{result}");
    let bytes = std::fs::read(&onnx).expect("is there");
    let description = String::from_utf8_lossy(&bytes);
    for words in ["64 x 64", "[0.125, 0.25, 0.375]", "red, green, blue", "largest central square", "BILINEAR"]
    {
        assert!(card.contains(words), "{words}: {card}");
        assert!(description.contains(words), "{words}");
    }
    assert!(card.contains("cat\\|dog\u{fffd}[2J") && !card.contains('\u{1b}'), "{card}");
    let metadata = Foreign::read(&onnx).expect("is ONNX").metadata;
    for (key, value) in [("input_size", "64"), ("mean", "[0.125,0.25,0.375]"), ("channel_order", "RGB")] {
        assert_eq!(metadata.get(key).map(String::as_str), Some(value));
    }
    let classes: Vec<String> = serde_json::from_str(&metadata["classes"]).expect("a list");
    assert_eq!(classes, checkpoint.metadata.classes);
    // `--help` has the same.
    let help = stdout(&["export", "--help"]);
    assert!(help.contains("central square") && help.contains(".onnx.md"), "{help}");
    // Without a crop in preprocessing, the program has none.
    checkpoint.metadata.preprocessing.fit = incept::data::Fit::Squash;
    let squashed = checkpoint.onnx_card(OnnxOptions::default(), "net.onnx").expect("a card");
    assert!(squashed.contains("squashed") && !program_of(&squashed).contains("crop"), "{squashed}");
}

/// Images of several aspect ratios, made of CIFAR-10 images in a row.
fn images(folder: &Path) -> Vec<PathBuf> {
    let data = repository().join("tests/fixtures/data/cifar10");
    let mut files = Vec::new();
    let mut open = vec![data];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).expect("a folder").flatten().map(|entry| entry.path()));
        } else if path.extension().is_some_and(|ending| ending == "png") {
            files.push(path);
        }
    }
    files.sort();
    assert!(files.len() >= 30, "{files:?}");
    // Wide and tall ones, of which the center is used.
    for (i, file) in files.clone().iter().enumerate().step_by(3) {
        let small = image::open(file).expect("an image").to_rgb8();
        let mut large = image::RgbImage::from_pixel(90 + i as u32, 61, image::Rgb([40, 90, 200]));
        if i % 2 == 1 {
            large = image::imageops::rotate90(&large);
        }
        let (x, y) = ((large.width() - 32) / 2, (large.height() - 32) / 2);
        image::imageops::replace(&mut large, &small, x.into(), y.into());
        let path = folder.join(format!("large_{i}.png"));
        large.save(&path).expect("can be saved");
        files.push(path);
    }
    files
}

/// The model card's Python program predicts the same classes as incept.
#[test]
fn model_card_program_predicts_the_same_classes() {
    let Some(python) = python_with("onnxruntime, PIL, numpy") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = images(folder.path());
    let names: Vec<&str> = files.iter().map(|file| text(file)).collect();
    stdout(&["export", "included", "--output", text(&folder.path().join("net.onnx"))]);
    let card = std::fs::read_to_string(folder.path().join("net.onnx.md")).expect("a model card");
    let program = program_of(&card);
    let lines = program.lines().filter(|line| !line.is_empty() && !line.contains("import ")).count();
    assert!(lines <= 6, "{program}");
    std::fs::write(folder.path().join("program.py"), program).expect("can be written");
    let each = "import sys\nprogram = open('program.py').read()\nfor path in sys.argv[1:]:\n    exec(program.replace('photo.jpg', path))\n";
    let output = Command::new(&python).args(["-c", each]).args(&names).current_dir(folder.path()).output();
    let output = output.expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect();
    let arguments = [&["classify", "included"], &names[..], &["--top", "1", "--json"]].concat();
    let ours = stdout(&arguments);
    let ours: Vec<String> = ours
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|line| line["predictions"][0]["class"].as_str().map(String::from))
        .collect();
    assert_eq!(ours.len(), names.len());
    assert_eq!(theirs, ours);
}
