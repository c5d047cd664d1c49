//! `incept look` and `incept report`, and Grad-CAM compared with class activation maps.

use std::path::Path;
use std::sync::OnceLock;

use incept::checkpoint::Checkpoint;
use incept::look::{CamMethod, Features, GradCam};
use incept::model::GoogLeNet;
use incept::optim::Optimizer;
use incept::train::Trainer;
use serde_json::Value;

use crate::program::cpu;
use crate::program::{drawing, fails, json, stdout, text};

/// A network that was trained briefly on digits, the folder of its run, and an image.
struct Made {
    checkpoint: String,
    run: String,
    image: String,
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).expect("what an earlier test left can be deleted");
        }
        std::fs::create_dir_all(&folder).expect("a folder");
        let [checkpoint, run, image] = ["runs/0001-digits/last.safetensors", "runs/0001-digits", "seven.png"]
            .map(|n| text(&folder.join(n)).to_string());
        stdout(&[
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
            "--epochs",
            "2",
            "--tune",
            "off",
            "--runs-dir",
            text(&folder.join("runs")),
        ]);
        let seven = |x: u32, y: u32| (4..7).contains(&y) && (5..20).contains(&x) || x + y / 2 == 20 && y > 5;
        image::GrayImage::from_fn(24, 24, |x, y| image::Luma([if seven(x, y) { 250 } else { 0 }]))
            .save(&image)
            .expect("can be written");
        Made { checkpoint, run, image }
    })
}

/// The size of an image, and its number of distinct colors.
fn stats(path: &Path) -> ((u32, u32), usize) {
    let image = image::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).to_rgb8();
    let colors: std::collections::BTreeSet<[u8; 3]> = image.pixels().map(|p| p.0).collect();
    (image.dimensions(), colors.len())
}

/// Below global average pooling and one linear layer, Grad-CAM is the class activation map of Zhou
/// et al. (2016): the channels weighted with the classifier's row, divided by the number of
/// positions.
#[test]
fn grad_cam_of_the_main_head_is_its_class_activation_map() {
    let device = cpu();
    for (network, classifier) in
        [(GoogLeNet::paper(), "loss3/classifier.weight"), (GoogLeNet::torchvision(), "fc.weight")]
    {
        let network = network.width(0.0625).classes(3).input(64);
        let trainer =
            device.block_on(Trainer::new(&device, &network, &Optimizer::default(), 1, 7, |_, _| ()));
        let state = device.block_on(trainer.expect("a trainer").state()).expect("weights");
        let image: Vec<f32> = (0..3 * 64 * 64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
        let gradcam = device.block_on(GradCam::new(&device, &network, &state)).expect("a graph");
        let mut gradcam = gradcam.method(CamMethod::GradCam);
        assert_eq!(gradcam.heads(), ["main", "aux1", "aux2"]);
        let maps = device.block_on(gradcam.maps(&image, Some(1))).expect("maps");
        let features = Features::new(&device, &network, "inception_5b/output", &state);
        let features =
            device.block_on(device.block_on(features).expect("a layer").maps(&image)).expect("maps");
        let plane = features.height * features.width;
        assert!(plane > 1);
        let row = &state.parameters[classifier].data[features.channels..2 * features.channels];
        let mut cam = vec![0.0f32; plane];
        for (channel, weight) in features.values.chunks(plane).zip(row) {
            cam.iter_mut().zip(channel).for_each(|(sum, a)| *sum += weight * a / plane as f32);
        }
        let scale = cam.iter().fold(1e-6f32, |most, v| most.max(v.abs()));
        for (ours, theirs) in maps[0].values.iter().zip(&cam) {
            assert!((ours - theirs.max(0.0)).abs() < 1e-4 * scale, "{:?} {cam:?}", maps[0].values);
        }
        assert_eq!((maps[0].height, maps[0].width), (features.height, features.width));
        // The auxiliary heads are on blocks of higher resolution.
        assert!(maps[1].width > maps[0].width && maps[2].width == maps[1].width);
        // Without a class, all heads explain the main head's prediction.
        let maps = device.block_on(gradcam.maps(&image, None)).expect("maps");
        assert!(maps.iter().all(|m| m.class == maps[0].top.0), "{maps:?}");
        assert!(device.block_on(gradcam.maps(&image, Some(3))).is_err());
    }
}

#[test]
fn grad_cam_plots_every_head() {
    let Made { checkpoint, image, .. } = made();
    let folder = tempfile::tempdir().expect("a folder");
    let [png, svg] = ["cam.png", "cam.svg"].map(|n| folder.path().join(n));
    let events = json(&["look", "gradcam", checkpoint, image, "--output", text(&png), "--json"]);
    let heads = events[0]["heads"].as_array().expect("heads");
    assert_eq!(heads.len(), 3);
    let classified = &json(&["classify", checkpoint, image, "--json"])[0]["predictions"][0];
    assert_eq!(events[0]["class"], classified["class"]);
    let close =
        |a: &Value, b: &Value| (a.as_f64().expect("a number") - b.as_f64().expect("a number")).abs() < 1e-4;
    assert!(close(&heads[0]["probability"], &classified["probability"]), "{events:?} {classified}");
    // Captions have the probability, the maximum, and the head's own prediction if it is another.
    let lines = |event: &Value| {
        let heads = event["heads"].as_array().expect("heads");
        2 + u32::from(heads.iter().any(|head| head["top"] != event["class"]))
    };
    let (size, colors) = stats(&png);
    let height = 2 * (296 + 16 * lines(&events[0]));
    assert!(size == (2 * (56 + 4 * 190 - 14), height) && colors > 200, "{size:?}, {colors}");
    assert!(heads.iter().all(|head| head["maximum"].as_f64() >= Some(0.0)), "{heads:?}");
    let one = ["look", "gradcam", checkpoint, image, "--head", "aux1", "--class", "3", "--json"];
    let events = json(&[&one[..], &["--output", text(&svg)]].concat());
    let drawn = drawing(&svg, (560, 296 + 16 * lines(&events[0])));
    assert!(drawn.matches("<image ").count() == 2 && drawn.contains("aux1, on 4a"), "{drawn}");
    assert!(fails(&["look", "gradcam", checkpoint, image, "--class", "cat"]).contains("unknown class `cat`"));
    assert!(fails(&["look", "gradcam", checkpoint, "missing.png"]).contains("missing.png"));
}

#[test]
fn features_filters_and_occlusion_are_plotted() {
    let Made { checkpoint, image, .. } = made();
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let out = file("features.png");
    let features = &json(&[
        "look",
        "features",
        checkpoint,
        image,
        "--layer",
        "conv1/7x7_s2",
        "--output",
        text(&out),
        "--json",
    ])[0];
    // An eighth of 64 channels; below 64 pixels the first layer has stride 1.
    assert_eq!((&features["channels"], &features["height"]), (&8.into(), &32.into()), "{features}");
    let (size, colors) = stats(&out);
    assert!(size == (1848, 400) && colors > 100, "{size:?}, {colors}");
    let svg = file("features.svg");
    let layer = ["--layer", "conv1/7x7_s2", "--output", text(&svg)];
    stdout(&[&["look", "features", checkpoint, image][..], &layer].concat());
    assert!(drawing(&svg, (924, 200)).matches("data:image/png;base64,").count() > 8);
    let errors = fails(&["look", "features", checkpoint, image, "--layer", "conv9"]);
    assert!(errors.contains("inception_3a/output"), "{errors}");
    std::fs::copy(image, file("one.png")).expect("a copy");
    let errors = fails(&["look", "features", checkpoint, text(folder.path())]);
    assert!(errors.contains("has 2 images"), "{errors}");

    let out = file("filters.png");
    let filters = &json(&["look", "filters", checkpoint, "--output", text(&out), "--json"])[0];
    assert_eq!((&filters["filters"], &filters["width"]), (&8.into(), &7.into()));
    let (size, colors) = stats(&out);
    assert!(size == (1204, 304) && colors > 100, "{size:?}, {colors}");
    let svg = file("filters.svg");
    stdout(&["look", "filters", checkpoint, "--output", text(&svg)]);
    assert_eq!(drawing(&svg, (602, 152)).matches("data:image/png;base64,").count(), 8);

    let (out, png) = (file("occlusion.svg"), file("occlusion.png"));
    let occlusion = &json(&[
        "look",
        "occlusion",
        checkpoint,
        image,
        "--window",
        "8",
        "--stride",
        "8",
        "--output",
        text(&out),
        "--json",
    ])[0];
    let map: Vec<&Value> =
        occlusion["map"].as_array().expect("rows").iter().flat_map(|r| r.as_array()).flatten().collect();
    assert_eq!(map.len(), 16);
    let whole = occlusion["probability"].as_f64().expect("a number");
    assert!(map.iter().all(|v| v.as_f64().is_some_and(|lost| lost <= whole + 1e-6)));
    assert!(map.iter().any(|v| v.as_f64() != map[0].as_f64()), "occlusion changes the probability: {map:?}");
    assert_eq!(drawing(&out, (612, 312)).matches("<image ").count(), 3);
    stdout(&[
        "look",
        "occlusion",
        checkpoint,
        image,
        "--window",
        "16",
        "--stride",
        "16",
        "--output",
        text(&png),
    ]);
    let (size, colors) = stats(&png);
    assert!(size == (1224, 624) && colors > 100, "{size:?}, {colors}");
}

#[test]
fn report_is_self_contained() {
    let Made { checkpoint, run, .. } = made();
    let event = &json(&["report", run, "--json"])[0];
    let html = std::fs::read_to_string(Path::new(run).join("report.html")).expect("a page");
    assert_eq!((&event["bytes"], &event["epochs"]), (&html.len().into(), &2.into()));
    assert!(event["steps"].as_u64().is_some_and(|steps| steps >= 10), "{event}");
    for part in [
        "Loss per head",
        "Accuracy",
        "Learning rate",
        "Gradient norm",
        "Confusion matrix",
        "Calibration",
        "Samples",
        "Configuration",
        "limit = 160",
        "Machine",
        "prefers-color-scheme: dark",
        "--limit",
    ] {
        assert!(html.contains(part), "{part}");
    }
    assert!(html.matches("<svg").count() >= 6 && html.matches("data:image/png;base64,").count() >= 30);
    // The charts have curves: one per head for loss and accuracy, one in the others.
    let chart = |title: &str| {
        html.split("<svg").find(|svg| svg.contains(title)).unwrap_or_else(|| panic!("no {title}"))
    };
    for (title, curves) in [("Loss per head", 3), ("Accuracy", 3), ("Learning rate", 1), ("Gradient norm", 1)]
    {
        assert!(chart(title).matches("<polyline").count() >= curves, "{title}");
    }
    // No external resources: the only URLs are XML namespaces.
    let fetched = ["src=\"http", "href=\"http", "url(", "@import", "<script", "<link"];
    assert!(fetched.iter().all(|f| !html.contains(f)));
    // All commands use the best checkpoint of a run's folder.
    let accuracy = |what: &str| json(&["eval", what, "--json"])[0]["accuracy"].as_f64().expect("a number");
    let best = accuracy(run);
    assert_eq!(best, accuracy(text(&Path::new(run).join("best.safetensors"))));
    assert!(html.contains(&format!("<b>{:.2}%</b>", 100.0 * best)));

    // A checkpoint in a run's folder has curves; a copy elsewhere has none.
    let folder = tempfile::tempdir().expect("a folder");
    let page = |what: &str| {
        let out = folder.path().join("page.html");
        stdout(&["report", what, "--output", text(&out)]);
        std::fs::read_to_string(out).expect("a page")
    };
    assert!(page(checkpoint).contains("Loss per head"));
    let alone = folder.path().join("alone.safetensors");
    std::fs::copy(checkpoint, &alone).expect("a copy");
    let html = page(text(&alone));
    assert!(!html.contains("Loss per head") && html.contains("Confusion matrix"));
    assert!(fails(&["report", text(folder.path())]).contains("run.json"));
    assert_eq!(Checkpoint::load(Path::new(checkpoint)).expect("a checkpoint").metadata.classes.len(), 10);
}
