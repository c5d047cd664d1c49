//! Early exit: stages compared with the whole network, dispatches, and the commands.

use std::path::Path;
use std::sync::Arc;

use incept::data::{Batch, Loader, LoaderOptions, OpenOptions, Preprocessing, Subset, open};
use incept::device::Device;
use incept::infer::{Answer, Classifier, EarlyExit, Exit, softmax};
use incept::model::GoogLeNet;
use incept::optim::Optimizer;
use incept::tensor::Element;
use incept::train::Trainer;

use crate::gpu::{missing, open as gpu};
use crate::program::cpu;
use crate::program::{drawing, json, run, stdout, text};

/// Without dropout, so that training and evaluation of the paper variant agree.
fn network() -> GoogLeNet {
    GoogLeNet::paper().width(0.0625).classes(10).input(32).dropout(0.0, 0.0)
}

/// Batches of `batch` from the first `count` digits; the last one may have missing rows.
fn batches(batch: usize, count: usize, input: usize) -> Vec<Batch> {
    let data = open("digits", &OpenOptions::default()).expect("digits");
    let preprocessing = Preprocessing::new(input).measure(data.train.as_ref(), 200);
    let set = Arc::new(Subset::new(data.train, (0..count).collect()));
    let loader = Loader::new(set, LoaderOptions::new(batch, preprocessing)).expect("a loader");
    loader.epoch(0, 0).map(|b| b.expect("is read")).collect()
}

fn trainer(device: &Device, network: &GoogLeNet, batch: usize) -> Trainer {
    let optimizer = Optimizer::default();
    device.block_on(Trainer::new(device, network, &optimizer, batch, 5, |_, _| ())).expect("a trainer")
}

fn never() -> Exit {
    Exit::new(2.0)
}

/// All answers in the order of the images.
fn answers(device: &Device, staged: &mut EarlyExit, batches: &[Batch], exit: &Exit) -> Vec<Answer> {
    let mut list = Vec::new();
    for batch in batches {
        list.extend(device.block_on(staged.push(batch, exit)).expect("answers"));
    }
    list.extend(device.block_on(staged.finish(exit)).expect("answers"));
    list.sort_by_key(|a| a.image);
    list
}

#[test]
fn stages_agree_with_the_whole_network() {
    let device = cpu();
    let batch = &batches(4, 4, 32)[0];
    for network in [network(), GoogLeNet::torchvision().width(0.0625).classes(10).input(32).dropout(0.0, 0.0)]
    {
        let mut trainer = trainer(&device, &network, 4);
        trainer.step(batch, 0.0).expect("a step");
        let mut staged = device.block_on(trainer.early_exit(4)).expect("stages");
        assert_eq!(staged.heads(), ["main", "aux1", "aux2"]);
        let all = device.block_on(staged.all_heads(batch)).expect("logits");
        let close =
            |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-4 * (1.0 + b.abs()));
        if network.variant == incept::model::Variant::Paper {
            for (name, logits) in device.block_on(trainer.logits()).expect("logits") {
                let head = staged.heads().iter().position(|h| *h == name).expect("a head");
                assert!(close(&all.logits[head].concat(), &logits), "{name}");
            }
        }
        let state = device.block_on(trainer.state()).expect("a state");
        let whole = Classifier::new(&device, &network, 4, Element::F32, &state);
        let mut whole = device.block_on(whole).expect("a classifier");
        let rows = device.block_on(whole.probabilities(batch)).expect("probabilities");
        let own = EarlyExit::new(&device, &network, 4, Element::F32, &state);
        let mut own = device.block_on(own).expect("stages");
        for answer in answers(&device, &mut own, std::slice::from_ref(batch), &never()) {
            assert_eq!(answer.head, "main");
            assert!(close(&answer.probabilities, &rows[answer.image as usize]), "{answer:?}");
        }
    }
}

#[test]
fn later_stages_run_only_for_unconfident_images() {
    if missing() {
        return;
    }
    let gpu = Device::from(gpu());
    let batches = batches(4, 18, 32);
    let trainer = trainer(&gpu, &network(), 4);
    let mut staged = gpu.block_on(trainer.early_exit(4)).expect("stages");
    let whole = gpu.block_on(trainer.classifier(4)).expect("a classifier");
    let mut all = incept::infer::HeadLogits::default();
    for batch in &batches {
        all.extend(gpu.block_on(staged.all_heads(batch)).expect("logits"));
    }
    assert_eq!(all.labels.len(), 18);
    let sure = |head: usize, image: usize| {
        softmax(&all.logits[head][image], 1.0).iter().copied().fold(0.0, f32::max)
    };

    // Everything exits at aux1: no other stage is dispatched, with one submission per batch.
    let (runs, dispatches, before) = (staged.runs(), staged.dispatches(), gpu.counters());
    let exit = Exit::new(0.0);
    let first = answers(&gpu, &mut staged, &batches, &exit);
    assert!(first.len() == 18 && first.iter().all(|a| a.head == "aux1"));
    assert_eq!(staged.runs(), [runs[0], runs[1] + 5, runs[2]]);
    let early = staged.dispatches() - dispatches;
    let full = 5 * whole.session().dispatch_count() as u64;
    assert!(early * 10 < full * 6, "{early} dispatches of {full}");
    // One run and one read-back each, and no other dispatch.
    let asked = gpu.counters().since(&before);
    assert_eq!((asked.submissions, asked.dispatches), (10, early));

    // A medium threshold: each image exits once, at the first confident head, and later stages run
    // compacted batches.
    let mut by_sureness: Vec<f32> = (0..18).map(|p| sure(1, p)).collect();
    by_sureness.sort_by(f32::total_cmp);
    let threshold = f32::midpoint(by_sureness[8], by_sureness[9]);
    let (runs, images) = (staged.runs(), staged.images());
    let exit = Exit::new(threshold);
    let list = answers(&gpu, &mut staged, &batches, &exit);
    assert_eq!(list.len(), 18);
    let mut reached = [0u64; 3];
    for (i, answer) in list.iter().enumerate() {
        assert_eq!(answer.image, images + i as u64);
        let head = (1..3).find(|h| sure(*h, i) >= threshold).unwrap_or(0);
        assert_eq!(answer.head, ["main", "aux1", "aux2"][head], "image {i}");
        let passed = if head == 0 { 3 } else { head };
        [1, 2, 0][..passed].iter().for_each(|h| reached[*h] += 1);
        let alone = softmax(&all.logits[head][i], 1.0);
        let same = answer.probabilities.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(same, "image {i}: {:?} and {alone:?}", answer.probabilities);
    }
    assert_eq!(reached[2], 9);
    let ran: Vec<u64> = staged.runs().iter().zip(&runs).map(|(after, before)| after - before).collect();
    assert_eq!(ran, [reached[0].div_ceil(4), 5, reached[2].div_ceil(4)]);
}

#[test]
fn odd_rows_of_f16_are_compacted_on_the_host() {
    let device = cpu();
    // 7 channels of 5 x 5 pixels after 4a and 4d: an odd number of f16 per row.
    let mut network = network().input(40);
    network.channels.blocks.iter_mut().for_each(|b| (b.conv1, b.conv3, b.conv5, b.project) = (2, 3, 1, 1));
    let trainer = trainer(&device, &network, 3);
    let state = device.block_on(trainer.state()).expect("a state");
    let logits = |element| {
        let staged = EarlyExit::new(&device, &network, 3, element, &state);
        let mut staged = device.block_on(staged).expect("stages");
        let exit = never();
        answers(&device, &mut staged, &batches(3, 5, 40), &exit)
    };
    let (half, single) = (logits(Element::F16), logits(Element::F32));
    assert_eq!((half.len(), single.len()), (5, 5));
    for (a, b) in half.iter().zip(&single) {
        let near = a.probabilities.iter().zip(&b.probabilities).all(|(a, b)| (a - b).abs() < 0.02);
        assert!(near, "{a:?} {b:?}");
    }
}

#[test]
fn eval_chooses_the_threshold_that_classify_uses() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let (checkpoint, png, svg) = (file("digits.safetensors"), file("exit.png"), file("exit.svg"));
    let image = file("seven.png");
    let runs = file("runs");
    let train = |out: &Path, more: &[&str]| {
        let base = [
            "train",
            "digits",
            "--width",
            "0.125",
            "--image-size",
            "32",
            "--limit",
            "300",
            "--variant",
            "torchvision",
            "--batch-size",
            "16",
            "--epochs",
            "10",
            "--lr",
            "0.05",
            "--no-validation",
            "--tune",
            "off",
            "--runs-dir",
            text(&runs),
            "--output",
            text(out),
        ];
        stdout(&[base.as_slice(), more].concat());
    };
    // With fewer than 200 calibration images the standard error exceeds half a point.
    train(&checkpoint, &["--val-split", "0.6"]);
    // For a run's folder the calibration is saved next to its best checkpoint.
    let result = &json(&[
        "eval",
        text(&runs.join("0001-digits")),
        "--early-exit",
        "--plot",
        text(&png),
        "--plot",
        text(&svg),
        "--json",
    ])[0];
    let points = result["points"].as_array().expect("points");
    let at = |i: usize, what: &str| points[i][what].as_f64().expect("a number");
    let last = points.len() - 1;
    assert_eq!(result["heads"], serde_json::json!(["main", "aux1", "aux2"]));
    assert_eq!(points[last]["shares"], serde_json::json!([1.0, 0.0, 0.0]));
    assert_eq!(points[last]["accuracy"], result["head_accuracies"][0]);
    assert!(at(last, "compute") > 1.0, "the heads on the way are not free");
    assert!((1..points.len()).all(|i| at(i, "compute") >= at(i - 1, "compute")));
    // The calibration set is disjoint from the evaluated images.
    let count = |what: &str| result[what].as_u64().expect("a number");
    assert_eq!(count("images") + count("calibration_images"), 1078);
    for head in result["calibration"].as_array().expect("heads") {
        assert!(head["after"].as_f64() <= head["before"].as_f64(), "{head}");
    }
    let measured = &result["measured"];
    assert_eq!(measured["accuracy"], result["recommended"]["accuracy"]);
    assert!(measured["dispatches"].as_u64() < measured["full_dispatches"].as_u64(), "{measured}");
    assert!(
        measured["seconds"].as_f64() > Some(0.0) && measured["full_seconds"].as_f64() > Some(0.0),
        "{measured}"
    );
    let drawn = image::open(&png).expect("an image").to_rgb8();
    assert_eq!(drawn.dimensions(), (1720, 1040));
    assert!(drawn.pixels().filter(|p| p.0 == [0x00, 0x72, 0xb2]).count() > 300, "a curve or a dot is drawn");
    assert!(drawing(&svg, (860, 520)).contains("main head alone"));
    assert!(file("digits.early-exit.json").is_file());

    image::GrayImage::from_fn(20, 20, |x, y| image::Luma([if x + y > 20 { 255 } else { 0 }]))
        .save(&image)
        .expect("can be written");
    let lines = json(&["classify", text(&checkpoint), text(&image), "--early-exit", "0.01", "--json"]);
    assert_eq!(lines[0]["head"], "aux1");
    assert_eq!(lines[1]["runs"], serde_json::json!({ "aux1": 1, "aux2": 0, "main": 0 }));
    assert!(
        lines[1]["seconds"].as_f64() == lines[1]["stage_seconds"]["aux1"].as_f64()
            && lines[1]["compute"].as_f64() < Some(1.0),
        "{}",
        lines[1]
    );
    let said = stdout(&["classify", text(&checkpoint), text(&image), "--early-exit", "0.01"]);
    assert!(said.contains("exit at aux1") && said.contains("of the multiply-adds"), "{said}");
    // `auto` uses the threshold that `eval` chose.
    let chosen = json(&["classify", text(&checkpoint), text(&image), "--early-exit", "auto", "--json"]);
    assert_eq!(chosen[1]["threshold"], result["recommended"]["threshold"], "{}", chosen[1]);
    let output = run(&["classify", text(&checkpoint), text(&image), "--early-exit", "0.5"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("not calibrated"), "{output:?}");
    let (wide, no) = (file("plain.safetensors"), &["--aux-weight", "0"]);
    train(&wide, no);
    for arguments in [
        vec!["eval", text(&wide), "--early-exit"],
        vec!["classify", text(&wide), text(&image), "--early-exit", "0.9"],
    ] {
        let output = run(&arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains("--aux-weight"), "{errors}");
    }
}
