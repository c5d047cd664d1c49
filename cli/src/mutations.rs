//! Mutated files that only the command reads: configurations, class names, and runs' folders as
//! `incept runs` lists them.
//!
//! `tests/mutations.rs` has those of the library, and describes how to run more.

use std::path::Path;

use incept::data::Augmentation;
use incept::low_level::untrusted::is_hostile;

use super::config::Config;
use super::import::read_classes;
use super::runs::{options, rows};

#[path = "../../fuzz/src/kinds.rs"]
#[allow(dead_code, reason = "the tests of the library use the rest")]
mod kinds;
#[path = "../../fuzz/src/mutate.rs"]
mod mutate;
#[path = "../../fuzz/src/trial.rs"]
mod trial;

use mutate::Outcome;

#[global_allocator]
static MEMORY: trial::Counting = trial::Counting;

/// Default number of mutants per kind.
const DEFAULT: usize = 2000;

fn survive(name: &str, seeds: &[Vec<u8>], read: impl Fn(&Path, &[u8]) -> Outcome) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert!(seeds.iter().any(|seed| read(folder.path(), seed).is_ok()), "no seed is read");
    let figures = trial::run(name, seeds, trial::count(DEFAULT), read);
    println!("{name}: {figures:?}");
    assert!(figures.failures.is_empty(), "{:#?}", figures.failures);
}

fn written(folder: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("can be written");
    path
}

#[test]
fn damaged_configurations_are_errors() {
    let recipes = ["paper", "caffe", "torchvision", "small"].map(|name| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/recipes").join(name);
        std::fs::read(file.with_extension("toml")).expect("a recipe")
    });
    survive("configurations", &recipes, |folder, bytes| {
        let file = written(folder, "x.toml", bytes);
        let text = |e: incept::Error| e.to_string();
        let mut config = Config::default().layered(None, Some(&file)).map_err(text)?;
        config.training.validate().and_then(|()| config.optimizer.validate()).map_err(text)?;
        config.optimizer.resolve();
        config.augment.resolve(Augmentation::standard()).map_err(text)?;
        config.network.network(10, 32).and_then(|network| network.build(1)).map_err(text)?;
        config.to_toml().map(drop).map_err(text)
    });
}

#[test]
fn damaged_class_names_are_errors() {
    let seeds = ["cat\ndog\n\u{732b}\n", "\u{feff}cat\r\ndog\r\n"].map(|text| text.as_bytes().to_vec());
    survive("classes", &seeds, |folder, bytes| {
        read_classes(&written(folder, "x.txt", bytes)).map(drop).map_err(|e| e.to_string())
    });
}

#[test]
fn damaged_runs_are_listed() {
    let mut seeds = kinds::logs();
    seeds.push(b"[training]\nepochs = 3\nseed = 1\n[run]\nname = \"x\"\n".to_vec());
    survive("runs", &seeds, |folder, bytes| {
        let run = folder.join("0001-cats");
        std::fs::create_dir_all(&run).expect("a folder");
        let whole =
            [("run.json", kinds::manifest().into_bytes()), ("log.jsonl", kinds::logs().swap_remove(0))];
        whole.iter().for_each(|(name, bytes)| drop(written(&run, name, bytes)));
        let config = written(&run, "config.toml", bytes);
        let folder = incept::runs::RunFolder::open(&run).map_err(|e| e.to_string())?;
        let read = options(&folder).map(drop);
        written(&run, "log.jsonl", bytes);
        let listed = rows(std::slice::from_ref(&folder));
        written(&run, "run.json", bytes);
        let described = rows(&[folder]);
        std::fs::remove_file(config).expect("can be removed");
        for row in listed.iter().chain(&described) {
            assert!(!row.iter().any(|cell| cell.contains(is_hostile)), "{row:?}");
        }
        read.map_err(|e| e.to_string()).or(if listed.is_empty() { Err("not listed".into()) } else { Ok(()) })
    });
}
