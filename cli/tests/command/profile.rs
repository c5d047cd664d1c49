//! `incept profile` and `incept bench` with a network that takes about a second.

use std::process::Command;

use incept::data::Batch;
use incept::gpu::Clock;
use incept::model::GoogLeNet;
use incept::optim::Optimizer;
use incept::train::Trainer;
use serde_json::Value;

use crate::gpu::{self, missing};

const NETWORK: [&str; 8] =
    ["--width", "0.0625", "--image-size", "32", "--classes", "10", "--batch-size", "4"];

/// The output of a command that must succeed.
fn stdout(command: &str, more: &[&str]) -> String {
    let mut incept = Command::new(env!("CARGO_BIN_EXE_incept"));
    incept.env_remove("RUST_LOG").arg(command).args(NETWORK).args(more);
    let output = incept.output().expect("the program can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "incept {command} {more:?} failed: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

fn json(command: &str, more: &[&str]) -> Value {
    let text = stdout(command, more);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("`{text}`: {e}"))
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number {path} in {value}"))
}

#[test]
fn bench_measures_training_and_inference() {
    let result = json("bench", &["--rounds", "3", "--steps", "2", "--json"]);
    for path in ["train/images_per_s", "train/gflops", "infer/images_per_s", "infer/gflops", "infer/ms"] {
        let at = |what: &str| number(&result, &format!("/{path}/{what}"));
        let (min, median, max) = (at("min"), at("median"), at("max"));
        assert!(0.0 < min && min <= median && median <= max, "{path}: {min} {median} {max}");
    }
    // Two results for the time of four images.
    let per_second = 1e3 * 4.0 / number(&result, "/infer/ms/median");
    assert!((per_second / number(&result, "/infer/images_per_s/median") - 1.0).abs() < 1e-6);
    for path in ["start_up/device_s", "start_up/kernels_s", "start_up/first_step_s"] {
        assert!(number(&result, &format!("/{path}")) > 0.0, "{path}");
    }
    let memory = |what: &str| number(&result, &format!("/memory/{what}"));
    assert!(memory("planned_bytes") >= memory("bound_bytes") && memory("bound_bytes") > 0.0);
}

/// A step has one submission and one read-back, and creates no driver objects: those are created
/// before the first step.
#[test]
fn step_creates_no_driver_objects() {
    if missing() {
        return;
    }
    let result = json("bench", &["--rounds", "1", "--steps", "3", "--json", "--device", "0"]);
    let step = |what: &str| number(&result, &format!("/step/{what}"));
    assert_eq!(step("submissions"), 1.0);
    assert_eq!(step("read_backs"), 1.0);
    assert_eq!(step("bind_groups"), 0.0);
    assert_eq!(step("pipelines"), 0.0);
    assert!(step("dispatches") > 100.0 && step("barriers") < step("dispatches"));
    // One bind group per dispatch; pipelines are shared.
    assert_eq!(number(&result, "/start/bind_groups"), step("dispatches"));
    let pipelines = number(&result, "/start/pipelines");
    assert!(pipelines > 0.0 && pipelines <= step("dispatches"));
}

#[test]
fn bench_prints_what_it_measured() {
    let text = stdout("bench", &["--rounds", "1", "--steps", "1", "--device", "cpu"]);
    for word in ["start-up", "memory", "training", "inference", "images/s", "of the peak"] {
        assert!(text.contains(word), "no `{word}` in {text}");
    }
    if missing() {
        return;
    }
    let text = stdout("bench", &["--rounds", "1", "--steps", "1", "--device", "0"]);
    for word in ["start-up", "memory", "training", "inference", "per step", "images/s", "0 bind groups"] {
        assert!(text.contains(word), "no `{word}` in {text}");
    }
}

#[test]
fn bench_uses_a_supported_precision() {
    let mut incept = Command::new(env!("CARGO_BIN_EXE_incept"));
    let output = incept.args(["bench", "--precision", "f64"]).output().expect("the program can be started");
    assert_eq!(output.status.code(), Some(2));
    for precision in ["f32", "f16"] {
        let options =
            ["--rounds", "1", "--steps", "1", "--precision", precision, "--grad-checkpointing", "--json"];
        let result = json("bench", &options);
        assert_eq!(result["precision"], precision);
        assert_eq!(result["checkpointing"], true);
        let result = json("profile", &["--static", "--precision", precision, "--json"]);
        assert_eq!(result["precision"], precision);
    }
}

#[test]
fn profile_times_every_dispatch_and_writes_a_trace() {
    if missing() {
        return;
    }
    profile_and_trace("0");
}

#[test]
fn profile_times_every_node_of_the_cpu() {
    profile_and_trace("cpu");
}

fn profile_and_trace(device: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("trace.json");
    let trace = path.to_str().expect("temporary paths are text");
    let result = json("profile", &["--rounds", "1", "--json", "--trace", trace, "--device", device]);
    let kernels = result["kernels"].as_array().expect("a list");
    assert!(kernels.len() > 100);
    for peak in ["flops", "bandwidth"] {
        assert!(number(&result, &format!("/roofline/{peak}")) > 1e6, "{peak}");
    }
    let of_layer = |k: &&Value| k["layer"] == "inception_3a/3x3" && k["flops"].as_u64() > Some(0);
    let conv = kernels.iter().find(of_layer).expect("a convolution");
    for key in ["seconds", "flops", "bytes", "gflops", "compute_share", "bandwidth_share"] {
        assert!(conv[key].as_f64().is_some_and(|v| v > 0.0), "{key} of {conv}");
    }
    assert!(["compute", "bandwidth", "latency"].iter().any(|b| conv["bound"] == *b), "{conv}");
    let operations = result["operations"].as_array().expect("a list");
    let shares: f64 = operations.iter().filter_map(|o| o["share"].as_f64()).sum();
    assert!((shares - 1.0).abs() < 1e-6, "{shares}");
    for direction in ["conv", "conv_input_grad", "conv_weight_grad", "sgd"] {
        assert!(operations.iter().any(|o| o["operation"] == direction), "no {direction}");
    }

    let text = std::fs::read(&path).expect("the trace is there");
    let trace: Value = serde_json::from_slice(&text).expect("the trace is JSON");
    let events = trace["traceEvents"].as_array().expect("a list");
    let slices: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X").collect();
    assert_eq!(slices.len(), kernels.len());
    let mut last = 0.0;
    for slice in slices {
        let start = slice["ts"].as_f64().expect("a time");
        assert!(start >= last && slice["dur"].as_f64().is_some_and(|d| d >= 0.0), "{slice}");
        assert!(slice["args"]["kernel"].is_string() && slice["args"]["gflops"].is_number(), "{slice}");
        last = start;
    }
}

#[test]
fn inference_profile_has_no_gradients() {
    let text = stdout("profile", &["--rounds", "1", "--infer", "--sort", "time"]);
    assert!(text.contains("softmax") && text.contains("bound by") && !text.contains("grad"), "{text}");
}

#[test]
fn static_profile_needs_no_device() {
    let no_device = ["--static", "--json", "--device", "no such adapter"];
    let result = json("profile", &no_device);
    let nodes = result["nodes"].as_array().expect("a list");
    let conv = nodes.iter().find(|n| n["layer"] == "inception_3a/3x3").expect("a convolution");
    let dispatches = conv["dispatches"].as_array().expect("a list");
    let main = dispatches.iter().find(|d| d["flops"].as_u64() > Some(0)).expect("one multiplies");
    for key in ["workgroups", "invocations", "flops", "loaded", "stored", "least_bytes"] {
        assert!(main[key].as_u64().is_some_and(|v| v > 0), "{key} of {conv}");
    }
    // Such a narrow network cannot keep a large GPU busy, and is flagged.
    assert!(nodes.iter().any(|n| n["flags"].as_array().is_some_and(|f| !f.is_empty())));
    let text = stdout("profile", &["--static", "--class", "software"]);
    assert!(text.contains("workgroups") && text.contains("FLOP/B"), "{text}");
}

/// A profiled step updates parameters exactly like a usual step, with either clock.
#[test]
fn profiling_does_not_change_training() {
    if missing() {
        return;
    }
    let gpu = gpu::open();
    let network = GoogLeNet::paper().width(0.0625).classes(10).input(32);
    let images = (0..4 * 3 * 32 * 32).map(|i| (i % 101) as f32 / 50.0 - 1.0).collect();
    let batch = Batch { images, labels: vec![0, 1, 2, 3], count: 4, indices: (0..4).collect(), mixed: None };
    let parameters = |clock: Option<Clock>| {
        gpu.block_on(async {
            let mut trainer = Trainer::new(&gpu, &network, &Optimizer::default(), 4, 1, |_, _| ()).await?;
            let before = trainer.state().await?.parameters;
            if let Some(clock) = clock {
                let times = trainer.profile(&batch, 0.01, clock).await?;
                assert_eq!(times.len(), trainer.session().dispatch_count());
                assert!(times.iter().any(|t| t.interval.seconds > 0.0), "{clock:?} saw no time pass");
            } else {
                trainer.step(&batch, 0.01)?;
                trainer.metrics(0).await?;
            }
            let state = trainer.state().await?;
            assert_ne!(state.parameters, before);
            assert_eq!(state.progress.step, 1);
            Ok(state.parameters)
        })
        .expect("the device runs")
    };
    let usual = parameters(None);
    assert_eq!(parameters(Some(Clock::Host)), usual);
    assert_eq!(parameters(Some(gpu.clock())), usual);
}

/// Both commands tune with --tune, and share the cache.
#[test]
fn bench_and_profile_tune_and_share_the_cache() {
    if missing() {
        return;
    }
    let cache = tempfile::tempdir().expect("a folder");
    let said = |command: &str| {
        let mut incept = Command::new(env!("CARGO_BIN_EXE_incept"));
        incept.env_remove("RUST_LOG").env("INCEPT_CACHE_DIR", cache.path()).arg(command).args(NETWORK);
        incept.args(["--rounds", "1", "--tune", "fast", "--device", "0"]);
        if command == "bench" {
            incept.args(["--steps", "1", "--warm-up", "1"]);
        }
        let output = incept.output().expect("the program can be started");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        errors
    };
    let first = said("profile");
    assert!(first.contains("tuning: measured"), "{first}");
    let files = std::fs::read_dir(cache.path()).expect("a folder").count();
    assert_eq!(files, 1, "a file for this device");
    let second = said("bench");
    assert!(second.contains("tuning: "), "{second}");
}
