//! Layering of the library: a module imports only modules above it in the list, so each can be
//! read, tested and replaced independently of those below.

#![allow(missing_docs, reason = "a test program has no public API")]

use std::path::{Path, PathBuf};

/// From basic to high-level modules.
const LAYERS: &[&str] = &[
    "text",
    "error",
    "untrusted",
    "output",
    "tensor",
    "kernel",
    "graph",
    "ops",
    "reference",
    "plan",
    "gpu",
    "cpu",
    "device",
    "tune",
    "optim",
    "formats",
    "data",
    "model",
    "checkpoint",
    "train",
    "infer",
    "explain",
    "look",
    "runs",
    "learner",
    "verify",
];

/// The files of convolution from basic to high-level; those in a row must not import each other.
const CONVOLUTION: &[&[&str]] = &[
    &["geometry"],
    &["shared"],
    &["blocking", "product"],
    &["implicit"],
    &["bias", "cooperative", "direct", "lanes", "tiled", "winograd"],
    &["offers"],
    &["operation"],
];

/// Names at the crate root that are not modules.
const ROOT: &[&str] = &["Error", "Result", "wgpu"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// A source without comments. String literals are kept, because they contain no paths.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// First segments of all paths that start with `root`, including those in groups.
fn imports(code: &str, root: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(root) {
        // Skips `$crate` and longer identifiers.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + root.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && depth == 0 && !c.is_whitespace() => {
                    found.push(word(&group[i..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Imports of modules below a module, or of unknown ones.
fn violations(module: &str, text: &str) -> Vec<String> {
    let place = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let own = place(module);
    let wrong = |name: &String| {
        name != module
            && !ROOT.contains(&name.as_str())
            && (own.is_none() || place(name) >= own || place(name).is_none())
    };
    imports(&code(text), "crate::").into_iter().filter(wrong).collect()
}

/// Imports of a convolution file from its own row, from one below, or by a path around `super`.
fn convolution_violations(file: &str, text: &str) -> Vec<String> {
    let row = |name: &str| CONVOLUTION.iter().position(|row| row.contains(&name));
    let own = row(file);
    let wrong = |name: &String| own.is_none() || row(name).is_none_or(|row| Some(row) >= own);
    let code = code(text);
    let around = imports(&code, "conv::").into_iter().map(|name| format!("conv::{name}"));
    // The glob of a module's own tests.
    let beside = imports(&code, "super::").into_iter().filter(|name| !name.is_empty());
    beside.filter(wrong).chain(around).collect()
}

#[test]
fn modules_import_only_from_above() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 150, "only {} sources were found", files.len());
    let mut wrong = Vec::new();
    for file in &files {
        let name = file.strip_prefix(&root).expect("in the root");
        let first = name.components().next().expect("a name").as_os_str().to_string_lossy();
        let module = first.strip_suffix(".rs").unwrap_or(&first).to_string();
        if module == "lib" {
            continue;
        }
        let text = std::fs::read_to_string(file).expect("UTF-8");
        assert!(LAYERS.contains(&module.as_str()), "{} is not in the list of layers", file.display());
        wrong.extend(
            violations(&module, &text).iter().map(|import| format!("{} imports {import}", name.display())),
        );
    }
    assert!(wrong.is_empty(), "imports from below or unknown:\n{}", wrong.join("\n"));
}

#[test]
fn convolution_files_import_only_from_above() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops/conv");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for file in &files {
        let name = file.file_stem().expect("a name").to_string_lossy();
        if name == "mod" {
            continue;
        }
        let text = std::fs::read_to_string(file).expect("UTF-8");
        wrong.extend(
            convolution_violations(&name, &text).iter().map(|import| format!("{name} imports {import}")),
        );
        seen += 1;
    }
    assert_eq!(seen, CONVOLUTION.concat().len(), "files that are not listed, or lists without a file");
    assert!(wrong.is_empty(), "imports from below or unknown:\n{}", wrong.join("\n"));
}

#[test]
fn imports_between_convolution_families_are_detected() {
    let wrong = convolution_violations;
    assert_eq!(wrong("tiled", "use super::lanes::product;"), ["lanes"]);
    assert_eq!(wrong("geometry", "use super::{shared::kernel, operation::Conv};"), ["shared", "operation"]);
    assert_eq!(wrong("implicit", "super::offers::product(a)"), ["offers"]);
    assert_eq!(wrong("product", "use super::Conv;"), ["Conv"]);
    assert_eq!(wrong("product", "use crate::ops::conv::Conv;"), ["conv::Conv"]);
    assert_eq!(wrong("stray", "use super::geometry::Extents;"), ["geometry"]);
    let fine = "use super::{geometry::{Extents, size}, shared::kernel}; mod tests { use super::*; }";
    assert!(wrong("tiled", fine).is_empty());
}

#[test]
fn imports_from_below_are_detected() {
    assert_eq!(violations("graph", "use crate::ops::Conv;"), ["ops"]);
    assert_eq!(
        violations("graph", "use crate::{tensor::{Shape, Spec}, plan::Plan, error::Error};"),
        ["plan"]
    );
    assert_eq!(violations("plan", "let x = crate::gpu::Gpu::open(); // crate::tune"), ["gpu"]);
    assert_eq!(violations("kernel", "use crate::nowhere::X;"), ["nowhere"]);
    assert_eq!(violations("stray", "use crate::tensor::Shape;"), ["tensor"]);
    assert!(
        violations("ops", "use crate::graph::{Graph, expect}; use crate::Result; crate::graph::Add")
            .is_empty()
    );
}
