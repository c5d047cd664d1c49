//! The golden sets: both networks and every operation, on the device and on the CPU references.

use std::path::Path;

use incept::device::Device;
use incept::low_level::verify::{Check, Engine, Report, run, sets};
use incept::reference::Array;

use crate::support::cpu;
use crate::support::goldens::{Golden, change};
use crate::support::gpu::{missing, open as gpu};

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}

fn report(device: &Device, engine: Engine) -> Report {
    device.block_on(run(device, folder(), &[engine], |_| ())).expect("the golden sets can be run")
}

fn holds(device: &Device, engine: Engine) {
    let report = report(device, engine);
    let outside: Vec<_> = report.checks.iter().filter(|c| !c.passed()).collect();
    assert!(report.passed() && report.failures.is_empty(), "{outside:#?}, {:?}", report.failures);
    assert!(!report.checks.iter().any(Check::is_near_tie), "these goldens have no near ties");
    // Two networks of 128 and 187 parameters, and every file of operations.
    let count = |quantity: &str| report.checks.iter().filter(|c| c.quantity == quantity).count();
    assert_eq!(count("gradient"), 128 + 187);
    assert_eq!(count("after steps"), 128 + 187 + 2 * 59);
    assert_eq!(count("logits"), 6);
    assert_eq!(count("evaluation logits"), 2);
    for set in sets(folder()).expect("the folder can be read") {
        assert!(report.checks.iter().any(|c| c.set == set), "nothing was checked in {set}");
    }
}

#[test]
fn goldens_on_the_device() {
    if missing() {
        return;
    }
    holds(&gpu().into(), Engine::Device);
}

#[test]
fn goldens_on_the_cpu() {
    holds(cpu(), Engine::Device);
}

#[test]
fn goldens_on_the_f32_reference() {
    holds(cpu(), Engine::Reference32);
}

#[test]
fn goldens_on_the_f64_reference() {
    holds(cpu(), Engine::Reference64);
}

/// Failed checks, and sets that could not be checked.
fn faults(report: &Report) -> Vec<String> {
    let outside = report.checks.iter().filter(|c| !c.passed()).map(|c| format!("{c:?}"));
    outside.chain(report.failures.iter().map(|f| format!("{f:?}"))).collect()
}

#[test]
fn results_near_zero_use_an_error_floor() {
    let device = cpu();
    let edge = folder().join("edge");
    let report = device.block_on(run(device, &edge, &Engine::ALL, |_| ())).expect("the sets can be run");
    assert!(report.passed(), "{:#?}", faults(&report));
    let folder = tempfile::tempdir().expect("a folder");
    Golden::sure(1).write(folder.path(), "sure");
    let report =
        device.block_on(run(device, folder.path(), &Engine::ALL, |_| ())).expect("the set can be run");
    assert!(report.passed() && report.checks.len() > 300, "{:#?}", faults(&report));
    // The floor does not hide errors as large as other gradients.
    let wrong = |t: &mut Array<f32>| t.data.fill(1e-3);
    change(&folder.path().join("sure_grads.safetensors"), "loss3/classifier.bias", wrong);
    let report =
        device.block_on(run(device, folder.path(), &Engine::ALL, |_| ())).expect("the set can be run");
    assert!(!report.passed());
    assert!(faults(&report).iter().all(|f| f.contains("loss3/classifier.bias")), "{:#?}", faults(&report));
}

/// An activation that is zero up to rounding: the order of summation decides whether its ReLU
/// passes the gradient.
#[test]
fn near_ties_are_distinguished_from_failures() {
    let device = cpu();
    let folder = tempfile::tempdir().expect("a folder");
    let checked = || {
        let both = [Engine::Device, Engine::Reference32];
        device.block_on(run(device, folder.path(), &both, |_| ())).expect("the set can be run")
    };
    // In about half of the channels the device decides differently from f64.
    let flipped = (0..24).find(|channel| {
        let mut golden = Golden::draw(7);
        golden.tie("inception_5b/1x1", *channel);
        golden.write(folder.path(), "tie");
        let report = checked();
        assert!(report.passed(), "channel {channel}: {:#?}", faults(&report));
        report.checks.iter().any(Check::is_near_tie)
    });
    assert!(flipped.is_some(), "all 24 decisions were the same as in f64");
    // A value that matches neither side is a failure, in tensors affected by the tie and in others.
    for name in ["inception_5b/1x1.weight", "conv1/7x7_s2.weight"] {
        let file = folder.path().join("tie_grads.safetensors");
        let before = std::fs::read(&file).expect("the gradients");
        change(&file, name, |t| t.data.iter_mut().for_each(|v| *v *= 1.02));
        let report = checked();
        std::fs::write(&file, before).expect("can be written");
        let faults = faults(&report);
        assert!(!faults.is_empty() && faults.iter().all(|f| f.contains(name)), "{faults:#?}");
    }
}

#[test]
fn damaged_golden_set_does_not_stop_the_others() {
    let device = cpu();
    let folder = tempfile::tempdir().expect("a folder");
    let copy = |name: &str| {
        std::fs::copy(self::folder().join(name), folder.path().join(name)).expect("can be copied");
    };
    ["op_conv.safetensors", "op_sgd.safetensors", "op_softmax_cross_entropy.safetensors"]
        .into_iter()
        .for_each(copy);
    std::fs::write(folder.path().join("op_avgpool.safetensors"), b"no tensors").expect("can be written");
    std::fs::copy(folder.path().join("op_conv.safetensors"), folder.path().join("op_unknown.safetensors"))
        .expect("can be copied");
    change(&folder.path().join("op_sgd.safetensors"), "decay_0.parameters", |t| *t = Array::zeros(&[1]));
    let far = |labels: &mut Array<f32>| labels.data.fill(1e9);
    change(&folder.path().join("op_softmax_cross_entropy.safetensors"), "smoothing_0.labels", far);
    // An incomplete network set.
    copy("original_io.safetensors");
    let mut seen = Vec::new();
    let observe = |p: incept::low_level::verify::Progress<'_>| seen.push((p.done, p.total, p.checks));
    let report =
        device.block_on(run(device, folder.path(), &[Engine::Device], observe)).expect("all sets are tried");
    assert!(!report.passed());
    let failed: Vec<&str> = report.failures.iter().map(|f| f.set.as_str()).collect();
    for set in ["op_avgpool", "op_unknown", "op_sgd", "original"] {
        assert!(failed.contains(&set), "{set}: {failed:?}");
    }
    assert!(report.checks.iter().any(|c| c.set == "op_conv"), "the valid set was checked");
    assert_eq!((seen.first(), seen.last()), (Some(&(0, 6, 0)), Some(&(6, 6, report.checks.len()))));
}
