//! The lists that name every operation of the library: a type that is missing in one of them
//! compiles and silently runs more slowly or not at all.

#![allow(missing_docs, reason = "a test program has no public API")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a source can be read")
}

/// The types with `impl Operation for` in a text.
fn implemented(text: &str) -> BTreeSet<String> {
    let word = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    text.split("impl Operation for ").skip(1).map(word).collect()
}

/// The types with `impl Operation for` in a folder.
fn operations(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.append(&mut operations(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.append(&mut implemented(&read(&path)));
        }
    }
    found
}

/// The words between `start` and the next `end` of a text.
fn listed(text: &str, start: &str, end: &str) -> BTreeSet<String> {
    let (_, rest) = text.split_once(start).expect("the list begins");
    let (list, _) = rest.split_once(end).expect("the list ends");
    list.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty()).map(String::from).collect()
}

/// All operations that a list does not name.
fn missing(list: &BTreeSet<String>) -> Vec<String> {
    let all: BTreeSet<String> =
        ["ops", "graph"].iter().flat_map(|folder| operations(&source(folder))).collect();
    assert!(all.len() > 30 && all.contains("Relu") && all.contains("Fill"), "only {all:?} were found");
    all.difference(list).cloned().collect()
}

/// Kernels of an operation that is missing in `is_own` run with bounds checks.
#[test]
fn every_operation_is_in_is_own() {
    let missing = missing(&listed(&read(&source("ops/mod.rs")), "let own = own![", "];"));
    assert!(missing.is_empty(), "`is_own` in src/ops/mod.rs does not name {}", missing.join(", "));
}

/// An operation without a CPU reference cannot be tested and does not run on the CPU.
#[test]
fn every_operation_has_a_cpu_reference() {
    let missing = missing(&listed(&read(&source("reference/mod.rs")), "\n    table!(", ");"));
    assert!(missing.is_empty(), "`of` in src/reference/mod.rs does not name {}", missing.join(", "));
}

#[test]
fn operations_are_found_in_sources_and_lists() {
    let text = "impl Operation for Silu {\n}\nimpl Operation for SiluGrad {";
    assert_eq!(implemented(text), ["Silu", "SiluGrad"].map(String::from).into());
    assert_eq!(listed("own![\n    Relu Silu\n    Sgd\n];", "own![", "];").len(), 3);
    assert_eq!(listed("table!(Relu, Silu,)", "table!(", ")").len(), 2);
}
