//! Running the `incept` command: shared by its tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use incept::cpu::Cpu;
use incept::device::Device;
use incept::formats::read_tensors;
use incept::tensor::HostTensor;
use serde_json::Value;

use crate::skipped::skipped;

/// The CPU as a device, as the command opens it here.
pub fn cpu() -> Device {
    Cpu::new(None).expect("threads").into()
}

/// The root of the repository, with the fixtures of both packages.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is a folder of the repository")
}

/// The command in the root of the repository, without this computer's tuning cache, and with its
/// runs in the build's temporary folder.
pub fn incept() -> Command {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_incept"));
    command.current_dir(repository()).env_remove("RUST_LOG").env("INCEPT_CACHE_DIR", temporary);
    command.env("INCEPT_RUNS_DIR", temporary.join("runs"));
    command
}

pub fn run(arguments: &[&str]) -> Output {
    incept().args(arguments).output().expect("the program can be started")
}

/// The standard output of a command that must succeed.
pub fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "incept {arguments:?} failed: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// The standard output of a command line that incept printed, with more arguments.
pub fn as_printed(command: &str, more: &[&str]) -> String {
    let mut words = command.split(' ');
    assert_eq!(words.next(), Some("incept"), "{command}");
    stdout(&words.chain(more.iter().copied()).collect::<Vec<_>>())
}

/// The lines of a command's output, parsed as JSON.
pub fn json(arguments: &[&str]) -> Vec<Value> {
    let text = stdout(arguments);
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("`{l}`: {e}"))).collect()
}

/// The standard error of a command that must fail.
pub fn fails(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(!output.status.success(), "incept {arguments:?} should fail");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A Python with these modules: that of `INCEPT_PYTHON`, which must have them, or the default one,
/// if it has them.
pub fn python_with(modules: &str) -> Option<String> {
    let named = std::env::var("INCEPT_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let found = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    assert!(named.is_none(), "INCEPT_PYTHON is {python}, which has no {modules}");
    let what = modules.split([',', '.']).next().unwrap_or(modules);
    skipped(what, &format!("{python} has no {modules}; INCEPT_PYTHON names another"));
    None
}

/// The text of an SVG file, checked to be complete and of this width and height.
pub fn drawing(path: &Path, (width, height): (u32, u32)) -> String {
    let svg = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{}: {svg}", path.display());
    let root = svg.split_once('>').map_or("", |(root, _)| root);
    let size = format!("width=\"{width}\" height=\"{height}\"");
    assert!(root.contains(&size), "{}: {root}, and not {size}", path.display());
    svg
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Runs a command with this limit on its address space, in KiB.
#[cfg(unix)]
pub fn limited(kib: u64, arguments: &[&str]) -> Output {
    let program = incept();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -v {kib}; exec \"$@\""), "sh"]);
    shell.arg(program.get_program()).args(arguments);
    shell.current_dir(repository()).env_remove("RUST_LOG");
    shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.output().expect("the program can be started")
}

/// The exit code and the standard error of a command that must fail.
pub fn fails_with(arguments: &[&str]) -> (i32, String) {
    let output = run(arguments);
    assert!(!output.status.success(), "incept {arguments:?} should fail");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

pub fn fixtures() -> PathBuf {
    repository().join("tests/fixtures")
}

pub fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Arguments of a run that takes a second or two: 60 digits at width 1/16.
pub fn quick<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base =
        ["train", "digits", "--width", "0.0625", "--image-size", "32", "--limit", "60", "--batch-size", "8"];
    // Tests compare runs bit for bit, which requires the same kernels.
    let rest = ["--schedule", "constant", "--no-validation", "--tune", "off", "--output", out];
    base.into_iter().chain(rest).chain(more.iter().copied()).collect()
}

pub fn tensors(path: &Path) -> BTreeMap<String, HostTensor> {
    read_tensors(path).expect("a checkpoint").0
}
