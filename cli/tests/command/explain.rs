//! `incept explain` and `incept graph`: gradients of each loss compared with a training step, plots
//! and output.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use incept::data::{Batch, Loader, LoaderOptions, OpenOptions, Preprocessing, open};
use incept::explain::GradientFlow;
use incept::graph::Region;
use incept::model::{GoogLeNet, Topology, summary};
use incept::optim::Optimizer;
use incept::train::Trainer;
use serde_json::Value;

use crate::program::cpu;
use crate::program::{drawing, fails, json, stdout, text};

/// Checks the files of a plot: the PNG has this size and is not blank, the SVG has half the size
/// and contains these words.
fn check_plot(png: &Path, size: (u32, u32), svg: &Path, words: &[&str]) {
    let image = image::open(png).expect("an image").to_rgb8();
    assert_eq!(image.dimensions(), size);
    let drawn = image.pixels().filter(|p| p.0 != [255; 3]).count();
    assert!(drawn > image.pixels().len() / 100, "{}: {drawn} pixels are drawn", png.display());
    for color in [[0x00, 0x72, 0xb2], [0xd5, 0x5e, 0x00], [0x00, 0x9e, 0x73]] {
        assert!(image.pixels().any(|p| p.0 == color), "{}: no {color:?}", png.display());
    }
    // A PNG has two pixels per pixel of the layout.
    let svg = drawing(svg, (size.0 / 2, size.1 / 2));
    words.iter().for_each(|word| assert!(svg.contains(word), "no `{word}` in the drawing"));
}

fn small() -> GoogLeNet {
    GoogLeNet::paper().width(0.0625).classes(10).input(32)
}

fn digits(batch: usize) -> Batch {
    let data = open("digits", &OpenOptions::default()).expect("digits");
    let preprocessing = Preprocessing::new(32).measure(data.train.as_ref(), 200);
    let loader = Loader::new(Arc::clone(&data.train), LoaderOptions::new(batch, preprocessing));
    loader.expect("a loader").epoch(0, 0).next().expect("a batch").expect("is read")
}

#[test]
fn weighted_gradients_sum_to_the_gradient_of_a_step() {
    let device = cpu();
    let (network, batch, seed) = (small(), digits(8), 3);
    let flow = device.block_on(GradientFlow::measure(&device, &network, None, seed, &batch)).expect("flows");
    assert_eq!(flow.losses.iter().map(|l| l.name).collect::<Vec<_>>(), ["main", "aux1", "aux2"]);

    // Gradients of a network trained with mixup are measured on plain images.
    let mixing = network.clone().mixed_labels(true);
    let same = device.block_on(GradientFlow::measure(&device, &mixing, None, seed, &batch)).expect("flows");
    assert_eq!(
        same.losses.iter().map(|l| l.loss).collect::<Vec<_>>(),
        flow.losses.iter().map(|l| l.loss).collect::<Vec<_>>()
    );

    // The gradient of the sum is that of a training step with the same seed, including dropout.
    let optimizer = Optimizer::default();
    let trainer = Trainer::new(&device, &network, &optimizer, 8, seed, |_, _| ());
    let mut trainer = device.block_on(trainer).expect("a trainer");
    trainer.step(&batch, 0.0).expect("a step");
    let metrics = device.block_on(trainer.metrics(0)).expect("metrics");
    for (head, loss) in metrics[0].heads.iter().zip(&flow.losses) {
        assert!((head.loss - loss.loss).abs() < 1e-5, "{head:?} {loss:?}");
    }
    let regions = trainer.session().regions().clone();
    let gradients = device.block_on(regions.get(&device, Region::Gradients)).expect("gradients");
    let mut alive = 0;
    for layer in &flow.layers {
        let own = gradients.iter().filter(|(entry, _)| {
            entry.name.strip_prefix(&layer.layer).is_some_and(|rest| [".weight", ".bias"].contains(&rest))
        });
        let square: f64 = own.flat_map(|(_, values)| values).map(|v| f64::from(*v).powi(2)).sum();
        assert!((square.sqrt() - layer.sum).abs() <= 1e-5 * layer.sum, "{layer:?}: {}", square.sqrt());
        // All ReLUs of a layer with one or two channels may be inactive.
        if layer.sum == 0.0 {
            continue;
        }
        alive += 1;
        // Shares add up to 1 only if the weighted gradients add up to the gradient of the sum.
        let shares: f64 = layer.losses.iter().map(|l| l.share).sum();
        assert!((shares - 1.0).abs() < 1e-3, "{layer:?}: {shares}");
    }
    assert!(alive > 50, "{alive} layers of {} get a gradient", flow.layers.len());
}

#[test]
fn gradients_reach_only_layers_below_their_head() {
    let device = cpu();
    let flow = device.block_on(GradientFlow::measure(&device, &small(), None, 1, &digits(4))).expect("flows");
    let reached = |part: &str| {
        let part = flow.part(part).expect("there is such a part");
        part.losses.iter().map(|l| l.norm > 0.0).collect::<Vec<_>>()
    };
    for (part, [main, aux1, aux2]) in [
        ("conv1", [true, true, true]),
        ("4a", [true, true, true]),
        ("4b", [true, false, true]),
        ("4d", [true, false, true]),
        ("4e", [true, false, false]),
        ("classifier", [true, false, false]),
        ("aux1", [false, true, false]),
        ("aux2", [false, false, true]),
    ] {
        assert_eq!(reached(part), [main, aux1, aux2], "{part}");
    }
    let depths: Vec<usize> = ["conv1", "3a", "4a", "4d", "5b", "classifier"]
        .iter()
        .map(|p| flow.part(p).expect("there is such a part").depth)
        .collect();
    assert_eq!(depths, [1, 5, 9, 15, 21, 22]);
}

#[test]
fn explain_plots_gradients_of_new_and_trained_networks() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let (png, svg, checkpoint) = (file("flow.png"), file("flow.svg"), file("digits.safetensors"));
    let base = ["explain", "--batch-size", "8", "--output", text(&png), "--output", text(&svg)];
    let with =
        |more: &[&str]| [base.as_slice(), more].concat().iter().map(ToString::to_string).collect::<Vec<_>>();
    let arguments = with(&["--width", "0.0625", "--image-size", "32", "--json"]);
    let result = &json(&arguments.iter().map(String::as_str).collect::<Vec<_>>())[0];
    assert_eq!(result["event"], "gradient_flow");
    assert_eq!(result["layers"].as_array().map(Vec::len), Some(64));
    assert!(result["layers"][0]["losses"][1]["weighted"].as_f64() > Some(0.0), "{}", result["layers"][0]);
    check_plot(&png, (1920, 1280), &svg, &["aux1 on 4a", "aux2 on 4d", "share of the gradient", "5b (21)"]);

    stdout(&[
        "train",
        "digits",
        "--width",
        "0.0625",
        "--image-size",
        "32",
        "--limit",
        "40",
        "--batch-size",
        "8",
        "--epochs",
        "1",
        "--no-validation",
        "--tune",
        "off",
        "--output",
        text(&checkpoint),
    ]);
    let arguments = with(&["--checkpoint", text(&checkpoint)]);
    let said = stdout(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.contains("inception_4a/5x5_reduce") && said.contains("from the auxiliary losses"), "{said}");
    assert!(std::fs::read_to_string(&svg).expect("a drawing").contains("after 1 epoch,"));

    let errors = fails(&["explain", "--output", "flow.jpg"]);
    assert!(errors.contains("flow.jpg") && errors.contains(".svg"), "{errors}");
    let errors = fails(&["explain", "--checkpoint", text(&checkpoint), "--width", "1"]);
    assert!(errors.contains("--width"), "{errors}");
}

#[test]
fn explain_train_compares_seeds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (png, svg) = (folder.path().join("curves.png"), folder.path().join("curves.svg"));
    let events = json(&[
        "explain",
        "--train",
        "--width",
        "0.0625",
        "--image-size",
        "32",
        "--limit",
        "40",
        "--batch-size",
        "8",
        "--epochs",
        "2",
        "--seeds",
        "2",
        "--val-split",
        "0.05",
        "--tune",
        "off",
        "--json",
        "--output",
        text(&png),
        "--output",
        text(&svg),
    ]);
    let validated: Vec<&Value> = events.iter().filter(|e| e["event"] == "validated").collect();
    assert_eq!(validated.len(), 2 * 2 * 3);
    let heads = |look: &Value| look["accuracies"].as_array().map_or(0, Vec::len);
    assert_eq!((heads(validated[0]), heads(validated[3])), (3, 1));
    let result = events.last().expect("an end");
    assert_eq!(result["event"], "comparison");
    let verdict = &result["verdict"];
    let of = |kind: &str, what: &str| verdict[kind][what].as_f64().expect("a number");
    assert!(
        of("with", "least") <= of("with", "mean") && of("with", "mean") <= of("with", "most"),
        "{verdict}"
    );
    let apart = of("with", "least") > of("without", "most") || of("without", "least") > of("with", "most");
    assert_eq!(verdict["overlap"], Value::Bool(!apart));
    let pairs = |which: &str| verdict["pairs"][which].as_u64().expect("a number");
    assert!(pairs("better") + pairs("worse") <= 2, "{verdict}");
    // With two pairs the p-value of the sign test is at least 0.5.
    assert!(verdict["p_value"].as_f64().is_some_and(|p| (0.5..=1.0).contains(&p)), "{verdict}");
    assert_eq!(verdict["chance"], verdict["p_value"]);
    // At initialization trunk and main head are the same with and without auxiliary heads.
    let first = |kind: &str| result[kind][0]["points"][0]["accuracies"][0].clone();
    assert_eq!(first("with"), first("without"));
    check_plot(&png, (2120, 940), &svg, &["with aux1 and aux2", "without", "aux2, on 4d"]);
    let errors = fails(&["explain", "--train", "--aux-weight", "0"]);
    assert!(errors.contains("--aux-weight"), "{errors}");
}

/// The page has every part, no external resources, and the numbers of the JSON event.
#[test]
fn explain_story_is_one_page() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let page = folder.path().join("why.html");
    let network = ["explain", "--story", "--width", "0.0625", "--image-size", "32", "--limit", "40"];
    let training = ["--batch-size", "8", "--epochs", "1", "--seeds", "2", "--val-split", "0.05"];
    let rest = ["--device", "cpu", "--json", "--output", text(&page)];
    let events = json(&[&network[..], &training, &rest].concat());
    let story = events.last().expect("an event");
    assert_eq!(story["event"], "story");
    let html = std::fs::read_to_string(&page).expect("the page");
    assert_eq!(story["bytes"], html.len());
    for title in [
        "The network and its three heads",
        "Gradients before training",
        "Gradients after training",
        "Accuracy of the three heads",
        "With and without auxiliary heads",
        "Early exit",
        "How it was measured",
    ] {
        assert!(html.contains(&format!("<h2>{title}</h2>")), "no `{title}`");
    }
    // Five plots, the overview, and the drawing of all layers.
    assert_eq!(html.matches("<svg ").count(), 7);
    let p_value = story["verdict"]["p_value"].as_f64().expect("a number");
    for words in [
        "softmax and cross-entropy: layer",
        "aux1 on 4a",
        "Gradient of each loss per block of the network",
        "at initialization",
        "seed 1, after 1 epoch",
        "Early exit: accuracy vs. compute",
        "prefers-color-scheme: dark",
        "explain --story",
        &format!("p = {p_value:.3}"),
    ] {
        assert!(html.contains(words), "no `{words}`");
    }
    // Addresses are those of the XML name space, and of places in the page.
    for (at, _) in html.match_indices("http") {
        assert!(html[at..].starts_with("http://www.w3.org/2000/svg"), "{}", &html[at..at + 40]);
    }
    assert!(!html.contains("<script") && !html.contains("src=") && !html.contains("@import"));
    // Each section explains its plot in two sentences or more.
    for about in html.split("</h2>").skip(1).take(6) {
        let about = about.trim_start().strip_prefix("<p>").and_then(|rest| rest.split("</p>").next());
        let sentences = about.map_or(0, |text| text.matches(". ").count() + 1);
        assert!(sentences >= 2, "{about:?}");
    }
    // Training changes the gradients.
    assert_ne!(story["before"]["parts"][0]["sum"], story["after"]["parts"][0]["sum"]);
    let errors = fails(&["explain", "--story", "--output", "flow.svg"]);
    assert!(errors.contains("flow.svg") && errors.contains(".html"), "{errors}");
}

#[test]
fn graph_has_every_layer_of_the_summary() {
    for network in [GoogLeNet::paper(), GoogLeNet::torchvision(), GoogLeNet::paper().aux_weight(0.0)] {
        let built = network.build(1).expect("builds");
        let (topology, summary) = (Topology::of(&built), summary(&built));
        let mut numbers: Vec<usize> = topology.nodes.iter().flat_map(|n| n.numbers.clone()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=summary.layers.len()).collect::<Vec<_>>());
        let name = |n: &incept::model::TopologyNode| summary.layers[n.numbers[0] - 1].name == n.name;
        assert!(topology.nodes[1..].iter().all(name));
        assert_eq!(topology.nodes.iter().map(|n| n.parameters).sum::<usize>(), summary.parameters);
        let weights: Vec<f32> = topology.edges.iter().filter_map(|e| e.weight).collect();
        assert_eq!(weights, if network.has_aux() { vec![1.0, 0.3, 0.3] } else { vec![1.0] });
        // Every box except the input has an incoming edge.
        let reached = |to: &usize| topology.edges.iter().any(|e| e.to == *to && e.from < *to);
        assert!((1..topology.nodes.len()).all(|i| reached(&i)));
    }
}

#[test]
fn graph_writes_svg_and_dot() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out: PathBuf = folder.path().join("net.svg");
    let errors = fails(&["graph", "photos.safetensors", "--width", "0.5"]);
    assert!(errors.contains("cannot be used with"), "{errors}");
    let said = stdout(&["graph", "--aux-weight", "0.25", "--output", text(&out)]);
    assert!(said.contains("96 boxes"), "{said}");
    let svg = drawing(&out, (1078, 3610));
    for words in
        ["inception 5b", "6,998,552", "0.25 x aux1", "0.25 x aux2", "1 x main", "aux2 loss", "480 x 28 x 28"]
    {
        assert!(svg.contains(words), "no `{words}` in the drawing");
    }
    let opened = svg.matches("<rect").count();
    assert_eq!(opened, 96 + 9 + 1, "boxes, panels and the background");
    let dot = stdout(&["graph", "--format", "dot", "--variant", "torchvision", "--classes", "7"]);
    assert!(dot.starts_with("digraph") && dot.matches('{').count() == dot.matches('}').count(), "{dot}");
    assert!(dot.contains("[label=\"x 0.3\"]") && dot.contains("inception4e.branch2.1"), "{dot}");
    let (gv, other) = (folder.path().join("net.gv"), folder.path().join("net.png"));
    stdout(&["graph", "--output", text(&gv)]);
    assert!(std::fs::read_to_string(&gv).expect("text").starts_with("digraph"));
    assert!(stdout(&["graph", "--format", "dot", "--output", "-"]).starts_with("digraph"));
    assert!(fails(&["graph", "--output", text(&other)]).contains(".svg, .dot or .gv"));
    assert!(fails(&["graph", "--output", text(&gv), "--format", "svg"]).contains("contradicts --format"));
    let result = &json(&["graph", "--json"])[0];
    let nodes = result["nodes"].as_array().expect("a list");
    assert_eq!(nodes.len(), 96);
    let count = |kind: &str| nodes.iter().filter(|node| node["kind"] == kind).count();
    // 57 convolutions on the trunk and one per auxiliary head.
    assert_eq!(["input", "conv", "linear", "lrn", "concat"].map(count), [1, 59, 5, 2, 9]);
    assert_eq!(["pool", "loss", "total_loss", "other"].map(count), [16, 3, 1, 0]);
}
