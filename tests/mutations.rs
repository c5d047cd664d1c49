//! Mutated files of every format: reading must give a value or an error within 1 GiB and 20 s, and
//! never panic.
//!
//! Run more mutants with `INCEPT_MUTANTS=100000 cargo test --test mutations -- --nocapture`;
//! `INCEPT_MUTANTS_SEED` gives different ones.

#![allow(missing_docs, reason = "a test program has no public API")]

#[path = "../fuzz/src/kinds.rs"]
mod kinds;
#[path = "../fuzz/src/mutate.rs"]
mod mutate;
#[path = "../fuzz/src/trial.rs"]
mod trial;

use kinds::KINDS;

#[global_allocator]
static MEMORY: trial::Counting = trial::Counting;

/// Default number of mutants per format.
const USUAL: usize = 3000;

fn survives(name: &str) {
    let kind = KINDS.iter().find(|kind| kind.name == name).expect("a kind");
    let seeds = (kind.seeds)();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let whole = seeds.iter().filter(|seed| (kind.read)(folder.path(), seed).is_ok()).count();
    assert!(whole > 0, "none of {} seeds can be read", seeds.len());
    let figures = trial::run(name, &seeds, trial::count(USUAL), kind.read);
    println!(
        "{name}: {} mutants of {} files, {} read successfully, {} panics of parsers contained, slowest {:.2?}, peak memory {} MiB",
        figures.mutants,
        seeds.len(),
        figures.whole,
        figures.contained,
        figures.slowest,
        figures.peak >> 20
    );
    assert!(figures.failures.is_empty(), "{:#?}", figures.failures);
}

macro_rules! kinds {
    ($($test:ident $name:literal)*) => {$(
        #[test]
        fn $test() {
            survives($name);
        }
    )*};
}
kinds! {
    images_survive_damage "images"
    idx_files_survive_damage "idx"
    cifar_files_survive_damage "cifar"
    manifests_survive_damage "csv"
    tars_survive_damage "tar"
    parquet_files_survive_damage "parquet"
    torch_files_survive_damage "pickle"
    caffemodels_survive_damage "caffemodel"
    onnx_models_survive_damage "onnx"
    safetensors_survive_damage "safetensors"
    logs_survive_damage "logs"
    configurations_survive_damage "toml"
}
