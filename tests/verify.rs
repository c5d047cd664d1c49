//! The golden sets: both networks and every operation, on the device and on the CPU twins.

use std::path::Path;

use incept::gpu::{AdapterOptions, Gpu};
use incept::verify::{Engine, Report, run, sets};

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}

fn gpu() -> Gpu {
    Gpu::open_blocking(&AdapterOptions::default()).expect("the tests need a GPU driver")
}

fn report(engine: Engine) -> Report {
    let gpu = gpu();
    gpu.block_on(run(&gpu, folder(), &[engine], |_| ())).expect("the golden sets can be run")
}

fn holds(engine: Engine) {
    let report = report(engine);
    let outside: Vec<_> = report.checks.iter().filter(|c| !c.passed()).collect();
    assert!(report.passed(), "{outside:#?}");
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
    holds(Engine::Device);
}

#[test]
fn goldens_on_the_twins_in_f32() {
    holds(Engine::Twin32);
}

#[test]
fn goldens_on_the_twins_in_f64() {
    holds(Engine::Twin64);
}
