//! `incept eval`: metrics, crops, ensembles and plots.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use crate::program::{self, drawing, fails, stdout, text};

/// The last line of a command's output, parsed as JSON.
fn json(arguments: &[&str]) -> Value {
    program::json(arguments).pop().expect("a line")
}

/// Two small networks, trained briefly on digits from different seeds.
fn checkpoints() -> [&'static str; 2] {
    static MADE: OnceLock<[String; 2]> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("evaluation");
        std::fs::create_dir_all(&folder).expect("a folder");
        ["1", "2"].map(|seed| {
            let out = folder.join(format!("{seed}.safetensors"));
            let base = [
                "train",
                "digits",
                "--width",
                "0.125",
                "--image-size",
                "32",
                "--limit",
                "160",
                "--batch-size",
                "16",
            ];
            // Other epochs and seed, but the same validation set.
            let rest = ["--epochs", seed, "--no-validation", "--tune", "off", "--output", text(&out)];
            stdout(&base.iter().chain(&rest).chain(&["--seed", seed]).copied().collect::<Vec<_>>());
            text(&out).to_string()
        })
    });
    [&made[0], &made[1]]
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

/// Equality up to rounding in the text format.
fn near(value: &Value, expected: f64) -> bool {
    (number(value) - expected).abs() < 1e-12
}

/// Class metrics, calibration and mistakes in the JSON output agree with its confusion matrix.
#[test]
fn metrics_agree_with_the_confusion_matrix() {
    let [checkpoint, _] = checkpoints();
    let result = json(&["eval", checkpoint, "--json", "--worst", "5"]);
    let rows = result["confusion"].as_array().expect("rows");
    let cell = |label: usize, prediction: usize| number(&rows[label][prediction]);
    let total: f64 = (0..100).map(|i| cell(i / 10, i % 10)).sum();
    let diagonal: f64 = (0..10).map(|i| cell(i, i)).sum();
    assert_eq!((total, rows.len()), (359.0, 10));
    assert!(near(&result["accuracy"], diagonal / total));
    assert_eq!(number(&result["correct"]), diagonal);
    let five = number(&result["accuracy5"]);
    assert!(five > number(&result["accuracy"]) && five < 1.0, "{five}");
    for (i, class) in result["classes"].as_array().expect("classes").iter().enumerate() {
        let (row, column): (f64, f64) =
            ((0..10).map(|j| cell(i, j)).sum(), (0..10).map(|j| cell(j, i)).sum());
        assert_eq!((number(&class["count"]), number(&class["predicted"])), (row, column));
        assert!(near(&class["recall"], cell(i, i) / row));
        if column > 0.0 {
            assert!(near(&class["precision"], cell(i, i) / column));
        } else {
            assert!(class["precision"].is_null());
        }
        assert!((number(&class["f1"]) - 2.0 * cell(i, i) / (row + column)).abs() < 1e-12);
    }
    let bins = result["calibration"]["bins"].as_array().expect("bins");
    assert_eq!(bins.len(), 15);
    let gap = |b: &Value| number(&b["count"]) * (number(&b["accuracy"]) - number(&b["confidence"])).abs();
    let ece = bins.iter().map(gap).sum::<f64>() / total;
    assert!((ece - number(&result["calibration"]["ece"])).abs() < 1e-9);
    let mistakes = result["mistakes"].as_array().expect("mistakes");
    let wrong = total - diagonal;
    assert_eq!(mistakes.len() as f64, wrong.min(5.0));
    let probabilities: Vec<f64> = mistakes.iter().map(|m| number(&m["probability"])).collect();
    assert!(probabilities.is_sorted_by(|a, b| a >= b), "{probabilities:?}");
    assert!(mistakes.iter().all(|m| m["label"] != m["prediction"] && m["name"].as_str().is_some()));
    // The text output has the same values.
    let printed = stdout(&["eval", checkpoint]);
    let accuracy = format!("top-1 {:.2}%", 100.0 * diagonal / total);
    assert!(printed.contains(&accuracy) && printed.contains("calibration"), "{printed}");
    assert!(printed.contains("precision") && printed.contains("rows: true class"), "{printed}");
}

#[test]
fn members_are_reported_and_averaged() {
    let [a, b] = checkpoints();
    let alone = [a, b].map(|path| json(&["eval", path, "--json"]));
    let both = json(&["eval", a, b, "digits", "--json"]);
    let members = both["members"].as_array().expect("members");
    for (member, alone) in members.iter().zip(&alone) {
        assert_eq!((&member["accuracy"], &member["loss"]), (&alone["accuracy"], &alone["loss"]));
    }
    // By Jensen's inequality the ensemble's loss cannot exceed the mean of its members' losses.
    let losses: f64 = alone.iter().map(|r| number(&r["loss"])).sum();
    assert!(number(&both["loss"]) < losses / 2.0, "{both}");
    // An ensemble of one checkpoint with itself is that checkpoint.
    let twice = json(&["eval", a, a, "--json"]);
    assert_eq!(twice["confusion"], alone[0]["confusion"]);
    assert!(stdout(&["eval", a, b]).contains("ensemble"));
    let errors = fails(&["eval", a, "digits", "more-digits"]);
    assert!(errors.contains("two data sets"), "{errors}");
    assert!(fails(&["eval", a, b, "--early-exit"]).contains("one checkpoint"));
}

#[test]
fn crops_are_averaged() {
    let [checkpoint, _] = checkpoints();
    // Few images, as each has 144 crops.
    let folder = tempfile::tempdir().expect("a folder");
    for class in 0..10 {
        let of_class = folder.path().join(format!("data/{class}"));
        std::fs::create_dir_all(&of_class).expect("a folder");
        for image in 0..2u8 {
            let path = of_class.join(format!("{image}.png"));
            let lit = |x: u32, y: u32| if (x + y * (class + 1)) % 7 < 3 { 200 + image } else { 20 };
            image::GrayImage::from_fn(40, 30, |x, y| image::Luma([lit(x, y)]))
                .save(path)
                .expect("can be written");
        }
    }
    let data = folder.path().join("data");
    let eval =
        |crops: &str| json(&["eval", checkpoint, text(&data), "--part", "train", "--crops", crops, "--json"]);
    let mut losses = Vec::new();
    for (name, views) in [("whole", 1), ("1", 1), ("10", 10), ("caffe10", 10), ("144", 144)] {
        let result = eval(name);
        assert_eq!((&result["crops"], &result["count"]), (&views.into(), &10.into()), "{result}");
        losses.push(number(&result["loss"]));
    }
    losses.sort_by(f64::total_cmp);
    losses.dedup();
    assert_eq!(losses.len(), 5, "each kind of crops has another loss");

    // An unreadable image counts once, whatever the number of crops.
    std::fs::write(data.join("3/broken.png"), "?").expect("can be written");
    let result = json(&["eval", checkpoint, text(&data), "--part", "train", "--crops", "144", "--json"]);
    let held = json(&["eval", checkpoint, text(&data), "--crops", "10", "--json"]);
    assert_eq!(number(&result["unreadable"]) + number(&held["unreadable"]), 1.0);
}

/// The size of an image, and its number of distinct colors.
fn stats(path: &Path) -> ((u32, u32), usize) {
    let image = image::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).to_rgb8();
    let colors: std::collections::BTreeSet<[u8; 3]> = image.pixels().map(|p| p.0).collect();
    (image.dimensions(), colors.len())
}

#[test]
fn plots_are_drawn() {
    let [checkpoint, _] = checkpoints();
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    for ending in ["png", "svg"] {
        let names = ["confusion", "reliability", "mistakes"].map(|n| file(&format!("{n}.{ending}")));
        let [confusion, reliability, mistakes] = &names;
        stdout(&[
            "eval",
            checkpoint,
            "--confusion",
            text(confusion),
            "--reliability",
            text(reliability),
            "--mistakes",
            text(mistakes),
            "--worst",
            "9",
        ]);
    }
    let (size, colors) = stats(&file("confusion.png"));
    assert!(size == (1240, 1182) && colors > 40, "{size:?}, {colors}");
    let (size, colors) = stats(&file("reliability.png"));
    assert!(size == (1360, 1380) && colors > 40, "{size:?}, {colors}");
    let (size, colors) = stats(&file("mistakes.png"));
    assert!(size == (2292, 924) && colors > 40, "{size:?}, {colors}");
    assert!(drawing(&file("confusion.svg"), (620, 591)).contains("predicted class"));
    assert!(drawing(&file("reliability.svg"), (680, 690)).contains("perfect calibration"));
    assert_eq!(drawing(&file("mistakes.svg"), (1146, 462)).matches("<image ").count(), 9);
    let errors = fails(&["eval", checkpoint, "--confusion", "confusion.gif"]);
    assert!(errors.contains(".png or .svg"), "{errors}");
}
