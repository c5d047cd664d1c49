//! Saving under all conditions: kills, full disks, NaN, unwritable outputs, two processes on one
//! run.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use incept::checkpoint::Checkpoint;
use incept::formats::read_tensors;
use incept::runs::{EpochRecord, Record, RunFolder};
use incept::tensor::HostTensor;
use serde_json::Value;

use crate::program::{self, repository, text};
use crate::skipped::skipped;

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn command(runs: &Path, arguments: &[&str]) -> Command {
    let mut command = program::incept();
    command.env("INCEPT_RUNS_DIR", runs).args(arguments);
    command
}

fn incept(runs: &Path, arguments: &[&str]) -> Output {
    command(runs, arguments).output().expect("the program can be started")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeeds(runs: &Path, arguments: &[&str]) -> String {
    let output = incept(runs, arguments);
    assert!(output.status.success(), "incept {arguments:?}: {}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output)
}

fn fails(runs: &Path, arguments: &[&str]) -> String {
    let output = incept(runs, arguments);
    assert_eq!(output.status.code(), Some(1), "incept {arguments:?}: {}", stderr(&output));
    stderr(&output)
}

/// Arguments of a run that takes a second or two: three batches per epoch.
fn quick<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let base =
        ["train", "digits", "--width", "0.0625", "--image-size", "32", "--limit", "24", "--batch-size", "8"];
    let rest = ["--schedule", "constant", "--tune", "off"];
    base.into_iter().chain(rest).chain(more.iter().copied()).collect()
}

fn only_run(parent: &Path) -> RunFolder {
    let mut runs = RunFolder::list(parent).expect("runs");
    assert_eq!(runs.len(), 1, "{runs:?}");
    runs.remove(0)
}

fn tensors(path: &Path) -> BTreeMap<String, HostTensor> {
    read_tensors(path).unwrap_or_else(|e| panic!("{e}")).0
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn write_log(run: &RunFolder, log: &[Record]) {
    let lines: Vec<String> = log.iter().map(|r| serde_json::to_string(r).expect("JSON") + "\n").collect();
    std::fs::write(run.log_path(), lines.concat()).expect("can be written");
}

/// The steps and epochs of a log, without times.
fn measured(run: &RunFolder) -> Vec<Value> {
    let log = run.log().expect("a log");
    let timeless = |record: Record| {
        let mut record = match record {
            Record::Step(step) => serde_json::to_value(Record::Step(step)).expect("JSON"),
            Record::Epoch(epoch) => serde_json::to_value(Record::Epoch(epoch)).expect("JSON"),
            _ => return None,
        };
        let object = record.as_object_mut().expect("an object");
        ["seconds", "images_per_s", "time", "device_busy"].iter().for_each(|time| {
            object.remove(*time);
        });
        Some(record)
    };
    log.into_iter().filter_map(timeless).collect()
}

/// Modifies a saved checkpoint.
fn edit(path: &Path, change: impl FnOnce(&mut Checkpoint)) {
    let mut checkpoint = Checkpoint::load(path).expect("a checkpoint");
    change(&mut checkpoint);
    checkpoint.save(path).expect("can be written");
}

fn listed(runs: &Path) -> Vec<Value> {
    let output = incept(runs, &["runs", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(sent.expect("kill").success());
}

/// A long training, after its first epoch.
fn started(runs: &Path, more: &[&str]) -> (Child, impl Iterator<Item = String> + use<>) {
    let arguments = quick(&[&["--epochs", "10000", "--json"], more].concat());
    let child = command(runs, &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the program can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines().map_while(Result::ok);
    let saved = lines.by_ref().find(|line| line.contains("\"saved\""));
    assert!(saved.is_some(), "training ended before its first epoch");
    (child, lines)
}

#[test]
fn nan_does_not_replace_a_finite_checkpoint() {
    let folder = temporary();
    let runs = folder.path();
    // Three batches per epoch: the epoch ends before eight non-finite losses end the run.
    succeeds(runs, &quick(&["--epochs", "1"]));
    let run = only_run(runs);
    edit(&run.last(), |checkpoint| checkpoint.metadata.run["lr"] = 1e12.into());
    let (last, best) = (bytes(&run.last()), bytes(&run.best()));
    let errors = fails(runs, &["train", "--resume", text(run.path()), "--epochs", "4", "--tune", "off"]);
    assert!(errors.contains("diverged") && errors.contains("last.safetensors"), "{errors}");
    assert!(bytes(&run.last()) == last && bytes(&run.best()) == best, "a finite checkpoint was overwritten");
    let runs_now = listed(runs);
    assert_eq!((&runs_now[0]["ended"], &runs_now[0]["best_epoch"]), (&"failed".into(), &0.into()));
    assert!(succeeds(runs, &["runs"]).contains("failed: "), "the state is shown");
}

#[test]
fn non_finite_checkpoint_is_rejected_with_the_last_good_one() {
    let folder = temporary();
    let runs = folder.path();
    succeeds(runs, &quick(&["--epochs", "2", "--keep", "2"]));
    let run = only_run(runs);
    for part in 0..2 {
        edit(&run.last(), |checkpoint| {
            let state = &mut checkpoint.state;
            let tensors = if part == 0 { &mut state.parameters } else { &mut state.slots[0] };
            let tensor = tensors.values_mut().next_back().expect("has tensors");
            *tensor.data.last_mut().expect("has elements") = f32::NAN;
        });
        let last = text(&run.last()).to_string();
        for arguments in [vec!["train", "--resume", text(run.path())], quick(&["--init", &last])] {
            let errors = fails(runs, &arguments);
            let good =
                ["best.safetensors", "epoch-0002.safetensors"].iter().any(|good| errors.contains(good));
            assert!(good && errors.contains("NaN"), "{errors}");
        }
        std::fs::copy(run.kept(2), run.last()).expect("can be copied");
    }
}

/// A crash between saving the latest and the best checkpoint, as older versions left it: the log
/// names a best epoch whose weights are missing.
#[test]
fn outdated_best_checkpoint_is_repaired_on_resume() {
    let folder = temporary();
    let runs = folder.path();
    succeeds(runs, &quick(&["--epochs", "3", "--keep", "3"]));
    let run = only_run(runs);
    let original = run.log().expect("a log");
    let with_best = |best: &[u64]| {
        let mut log = original.clone();
        for record in &mut log {
            if let Record::Epoch(epoch) = record {
                epoch.best = best.contains(&epoch.epoch);
            }
        }
        log
    };
    // The missing weights are those of the latest checkpoint.
    write_log(&run, &with_best(&[0, 2]));
    std::fs::copy(run.kept(1), run.best()).expect("can be copied");
    let said = succeeds(runs, &["train", "--resume", text(run.path())]);
    assert!(said.contains("best checkpoint"), "{said}");
    assert_eq!(tensors(&run.best()), tensors(&run.kept(3)));
    // Here they are lost: the log is corrected.
    write_log(&run, &with_best(&[0, 1]));
    std::fs::copy(run.kept(1), run.best()).expect("can be copied");
    let said = succeeds(runs, &["train", "--resume", text(run.path())]);
    assert!(said.contains("best checkpoint"), "{said}");
    let is_best = |r: &Record| r.epoch().filter(|e| e.best).map(|e| e.epoch);
    assert_eq!(run.log().expect("a log").iter().filter_map(is_best).collect::<Vec<_>>(), [0]);
    assert_eq!(tensors(&run.best()), tensors(&run.kept(1)));
}

/// A crash after saving the checkpoints and before logging the epoch.
#[test]
fn missing_log_record_is_completed_on_resume() {
    let folder = temporary();
    let runs = folder.path();
    succeeds(runs, &quick(&["--epochs", "2"]));
    let run = only_run(runs);
    let log = run.log().expect("a log");
    let whole = measured(&run);
    let (rest, last): (Vec<Record>, Vec<Record>) = log
        .into_iter()
        .filter(|r| !matches!(r, Record::End { .. }))
        .partition(|r| r.epoch().is_none_or(|e| e.epoch == 0));
    write_log(&run, &rest);
    run.begin_save(&last[0]).expect("can be written");
    let said = succeeds(runs, &["train", "--resume", text(run.path())]);
    assert!(said.contains("epoch 2") && measured(&run) == whole, "{said}");
    assert!(matches!(run.log().expect("a log").last(), Some(Record::End { epochs: 2, .. })));
    // A note of a save that never happened has no effect.
    let Record::Epoch(epoch) = &last[0] else { panic!("{last:?}") };
    run.begin_save(&Record::Epoch(EpochRecord { step: 100, epoch: 9, ..epoch.clone() }))
        .expect("can be written");
    succeeds(runs, &["train", "--resume", text(run.path())]);
    assert_eq!(measured(&run), whole);
}

#[test]
fn resumed_run_has_the_log_of_the_uninterrupted_run() {
    let folder = temporary();
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    succeeds(&cut, &quick(&["--epochs", "1"]));
    let run = only_run(&cut);
    // In the middle of the second epoch.
    let more = ["train", "--resume", text(run.path()), "--tune", "off", "--epochs"];
    let child = command(&cut, &[&more[..], &["9999", "--json"]].concat()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("the program can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines().map_while(Result::ok);
    lines.by_ref().find(|line| line.contains("\"start\"")).expect("it starts");
    #[cfg(unix)]
    signal(&child, "INT");
    let rest = lines.count();
    child.wait().expect("it ends");
    let progress = Checkpoint::load(&run.last()).expect("a checkpoint").metadata.progress;
    // As far as a fast machine went before the signal, and one epoch more.
    let epochs = (progress.epoch + 1).to_string();
    succeeds(&cut, &[&more[..], &[&epochs]].concat());
    succeeds(&whole, &quick(&["--epochs", &epochs]));
    let whole = only_run(&whole);
    assert_eq!(measured(&run), measured(&whole), "{progress:?}, {rest}");
    assert!(tensors(&run.last()) == tensors(&whole.last()) && tensors(&run.best()) == tensors(&whole.best()));
}

#[cfg(unix)]
#[test]
fn second_process_cannot_write_the_same_run() {
    let folder = temporary();
    let runs = folder.path();
    let out = runs.join("out.safetensors");
    let (mut child, _lines) = started(runs, &["--output", text(&out)]);
    let run = only_run(runs);
    let process = format!("process {}", child.id());
    for arguments in [
        vec!["train", "--resume", text(run.path())],
        vec!["train", "--resume", text(&out)],
        quick(&["--output", text(&out)]),
    ] {
        let errors = fails(runs, &arguments);
        assert!(errors.contains(&process), "{errors}");
    }
    assert_eq!(listed(runs)[0]["process"], child.id());
    assert!(succeeds(runs, &["runs"]).contains("running"));
    child.kill().expect("can be killed");
    child.wait().expect("it ends");
    // The lock of a killed process is released, and its temporary files are removed.
    let left = [
        run.path().join(".last.safetensors.incept-aaaaaa.tmp"),
        runs.join(".out.safetensors.incept-bbbbbb.tmp"),
    ];
    left.iter().for_each(|file| std::fs::write(file, "half").expect("can be written"));
    let epochs = Checkpoint::load(&out).expect("a checkpoint").metadata.progress.epoch + 1;
    succeeds(
        runs,
        &["train", "--resume", text(run.path()), "--tune", "off", "--epochs", &epochs.to_string()],
    );
    assert!(left.iter().all(|file| !file.exists()) && !run.lock_path().exists());
    assert_eq!(listed(runs)[0]["process"], Value::Null);
}

#[cfg(unix)]
#[test]
fn exit_code_is_128_plus_the_signal() {
    for (name, code) in [("TERM", 143), ("HUP", 129)] {
        let folder = temporary();
        let (mut child, lines) = started(folder.path(), &["--no-validation"]);
        signal(&child, name);
        let last = lines.last().expect("events");
        assert!(last.contains("interrupted"), "{last}");
        assert_eq!(child.wait().expect("it ends").code(), Some(code), "SIG{name}");
        assert_eq!(listed(folder.path())[0]["ended"], "interrupted");
    }
}

#[test]
fn resuming_after_early_stopping_does_not_train() {
    let folder = temporary();
    let runs = folder.path();
    // At learning rate 0 nothing changes: the first epoch is the best.
    succeeds(runs, &quick(&["--epochs", "9", "--lr", "0", "--patience", "2"]));
    let run = only_run(runs);
    let (last, log) = (bytes(&run.last()), bytes(&run.log_path()));
    let said = succeeds(runs, &["train", "--resume", text(run.path()), "--tune", "off"]);
    assert!(said.contains("early stopping") && said.contains("--patience"), "{said}");
    assert!(bytes(&run.last()) == last && bytes(&run.log_path()) == log);
    succeeds(
        runs,
        &["train", "--resume", text(run.path()), "--tune", "off", "--patience", "0", "--epochs", "4"],
    );
    assert_eq!(listed(runs)[0]["epochs"], 4);
}

/// Unwritable outputs are errors before the device is opened and the work is done.
#[test]
fn unwritable_outputs_fail_before_the_device_is_opened() {
    let folder = temporary();
    let runs = folder.path().join("runs");
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("can be written");
    let below = |name: &str| file.join(name).to_str().expect("text").to_string();
    let (png, svg, page, weights, other) =
        (below("a.png"), below("a.svg"), below("a.html"), below("a.safetensors"), below("a"));
    let checkpoint = folder.path().join("included.safetensors");
    Checkpoint::included().expect("weights").save(&checkpoint).expect("can be written");
    let checkpoint = text(&checkpoint);
    let digits = repository().join("assets");
    let commands: Vec<Vec<&str>> = vec![
        quick(&["--output", &weights]),
        quick(&["--runs-dir", &other]),
        quick(&["--tensorboard", &other]),
        vec!["train", "digits", "--preview-augment", &png],
        vec!["demo", "--output", &png],
        vec!["demo", "--checkpoint", &weights],
        vec!["profile", "--trace", &other],
        vec!["explain", "--output", &png],
        vec!["explain", "--train", "--output", &svg],
        vec!["eval", checkpoint, text(&digits), "--confusion", &png],
        vec!["eval", checkpoint, text(&digits), "--reliability", &svg],
        vec!["eval", checkpoint, text(&digits), "--mistakes", &png],
        vec!["eval", checkpoint, text(&digits), "--early-exit", "--plot", &png],
        vec!["report", checkpoint, "--data", text(&digits), "--output", &page],
        vec!["look", "gradcam", checkpoint, text(&digits), "--output", &png],
        vec!["look", "occlusion", checkpoint, text(&digits), "--output", &png],
        vec!["look", "features", checkpoint, text(&digits), "--output", &png],
        vec!["look", "filters", checkpoint, "--output", &png],
        vec!["export", checkpoint, "--output", &weights],
        vec!["import", checkpoint, "--output", &weights],
        vec!["graph", "--output", &svg],
        vec!["man", "--output", &other],
        vec!["data", "split", "digits", "--output", &other],
        vec!["data", "preview", "digits", "--output", &png],
    ];
    for mut arguments in commands {
        // This adapter does not exist: opening a device first would be another error.
        let opens = ["train", "demo", "profile", "explain", "eval", "report", "look"].contains(&arguments[0]);
        if opens && !arguments.contains(&"filters") {
            arguments.extend(["--device", "no such adapter"]);
        }
        let output = command(&runs, &arguments).current_dir(folder.path()).output().expect("can be started");
        let errors = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
        assert!(errors.contains(text(&file)) && !errors.contains("adapter"), "{arguments:?}: {errors}");
    }
    assert!(bytes(&file).is_empty());
}

/// If the output becomes unwritable, the epoch is saved in the run's folder, and the run resumes
/// from there.
#[cfg(unix)]
#[test]
fn unwritable_output_saves_the_checkpoint_in_the_run_folder() {
    let folder = temporary();
    let runs = folder.path().join("runs");
    let place = folder.path().join("place");
    let out = place.join("out.safetensors");
    let (child, _lines) = started(&runs, &["--output", text(&out), "--no-validation"]);
    let run = only_run(&runs);
    // The folder is replaced with a file before the next save.
    std::fs::rename(&place, folder.path().join("moved")).expect("can be moved");
    while place.is_dir() || std::fs::write(&place, "").is_err() {
        let _ = std::fs::remove_dir_all(&place);
    }
    let output = child.wait_with_output().expect("it ends");
    let errors = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(text(&out)) && errors.contains(text(&run.last())), "{errors}");
    let saved = Checkpoint::load(&run.last()).expect("a checkpoint").metadata.progress;
    assert_eq!(run.newest(), run.last());
    std::fs::remove_file(&place).expect("can be removed");
    let epochs = (saved.epoch + 1).to_string();
    succeeds(&runs, &["train", "--resume", text(run.path()), "--tune", "off", "--epochs", &epochs]);
    assert_eq!(Checkpoint::progress_of(&run.newest()).expect("a checkpoint").epoch, saved.epoch + 1);
}

#[test]
fn special_file_as_output_saves_the_checkpoint_in_the_run_folder() {
    let folder = temporary();
    let runs = folder.path();
    succeeds(runs, &quick(&["--epochs", "1", "--output", "/dev/null"]));
    assert!(!Path::new("/dev/null").is_file(), "/dev/null was replaced");
    let run = only_run(runs);
    assert_eq!(Checkpoint::progress_of(&run.newest()).expect("a checkpoint").epoch, 1);
}

/// Damaged runs are listed with their readable parts, together with all others.
#[test]
fn damaged_runs_are_listed_with_the_others() {
    let folder = temporary();
    let runs = folder.path();
    succeeds(runs, &quick(&["--epochs", "1"]));
    let first = only_run(runs);
    let case = repository().join("tests/fixtures/cases/log_nan.jsonl");
    let null = String::from_utf8(bytes(&case)).expect("text");
    let logs: Vec<Vec<u8>> = vec![
        null.clone().into(),
        null.replace("\"seconds\":null", "\"seconds\":1e300").into(),
        null.replace("\"seconds\":null", "\"seconds\":-5").into(),
        null.replace("\"epoch\":0", "\"epoch\":18446744073709551615").into(),
        [&b"{\"kind\":\n\xff\xfe\n[[[[\n"[..], &bytes(&first.log_path())].concat(),
        [&bytes(&first.log_path())[..], b"{\"kind\":\"epoch\",\"epoch\":1"].concat(),
        "[".repeat(100_000).into(),
    ];
    for (i, log) in logs.iter().enumerate() {
        let copy = runs.join(format!("{:04}-copy", i + 2));
        std::fs::create_dir(&copy).expect("can be made");
        for file in ["run.json", "config.toml", "last.safetensors"] {
            std::fs::copy(first.path().join(file), copy.join(file)).expect("can be copied");
        }
        std::fs::write(copy.join("log.jsonl"), log).expect("can be written");
    }
    let broken = runs.join("0099-broken");
    std::fs::create_dir(&broken).expect("can be made");
    std::fs::write(broken.join("run.json"), "{").expect("can be written");
    let text_of = succeeds(runs, &["runs"]);
    let all = listed(runs);
    assert_eq!(all.len(), logs.len() + 2, "{text_of}");
    assert!(text_of.contains("0099-broken") && text_of.contains("0002-copy"), "{text_of}");
    assert_eq!((&all[1]["epochs"], &all[5]["epochs"]), (&1.into(), &1.into()));
    for run in ["0003-copy", "0005-copy", "0006-copy"] {
        let folder = runs.join(run);
        succeeds(runs, &["report", text(&folder)]);
        assert!(folder.join("report.html").is_file());
    }
    // Such a run can be resumed, and a copy of the damaged log is kept.
    succeeds(runs, &["train", "--resume", text(&runs.join("0006-copy")), "--epochs", "2", "--tune", "off"]);
    assert_eq!(bytes(&runs.join("0006-copy/log-damaged.jsonl")), logs[4]);
    assert_eq!(listed(runs)[5]["epochs"], 2);
}

/// Runs that are killed, or run out of disk space, at many moments.
#[cfg(target_os = "linux")]
mod kills {
    use super::*;
    use std::time::{Duration, Instant};

    const EPOCHS: &str = "6";

    /// Reproducible random moments.
    struct Moments(u64);

    impl Moments {
        fn next(&mut self, below: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % below
        }
    }

    /// Whether to try all moments instead of a few: `INCEPT_KILL_TEST=long`.
    fn is_long() -> bool {
        std::env::var("INCEPT_KILL_TEST").is_ok_and(|form| form == "long")
    }

    fn strace(options: &[String], arguments: &[&str], runs: &Path) -> Command {
        let mut traced = Command::new("strace");
        traced.args(["-f", "-qq"]).args(options);
        // Faster, but then strace cannot inject signals.
        if !options.iter().any(|option| option.contains("signal=")) {
            traced.arg("--seccomp-bpf");
        }
        let program = command(runs, arguments);
        traced.arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => traced.env(name, value),
                None => traced.env_remove(name),
            };
        }
        traced.stdout(Stdio::null()).stderr(Stdio::piped());
        traced
    }

    /// Whether strace is installed and permitted.
    fn has_strace() -> bool {
        let found = Command::new("strace").args(["-qq", "-e", "trace=none", "true"]).output();
        let found = found.is_ok_and(|output| output.status.success());
        if !found {
            skipped("strace", "there is none, or it may not trace here");
        }
        found
    }

    /// The undisturbed run, with the checkpoint of each epoch.
    struct Reference {
        run: RunFolder,
        measured: Vec<Value>,
        _folder: tempfile::TempDir,
    }

    impl Reference {
        fn new() -> Self {
            let folder = temporary();
            succeeds(folder.path(), &quick(&["--epochs", EPOCHS, "--keep", "99"]));
            let run = only_run(folder.path());
            Self { measured: measured(&run), run, _folder: folder }
        }

        /// Checks that all checkpoints are intact and equal to those of an epoch of this run.
        fn check(&self, runs: &Path, moment: &str) {
            // With a disk that was full from the start there is no folder.
            for run in RunFolder::list(runs).unwrap_or_default() {
                for file in run.checkpoints() {
                    let checkpoint = Checkpoint::load(&file).unwrap_or_else(|e| panic!("{moment}: {e}"));
                    let progress = &checkpoint.metadata.progress;
                    if progress.batch == 0 {
                        let same = tensors(&file) == tensors(&self.run.kept(progress.epoch));
                        assert!(same, "{moment}: {} is another", file.display());
                    }
                }
            }
        }

        /// Checks that a run has ended, and is identical to this one.
        fn is_same(&self, runs: &Path, moment: &str) {
            let run = only_run(runs);
            assert_eq!(measured(&run), self.measured, "{moment}");
            assert!(tensors(&run.last()) == tensors(&self.run.last()), "{moment}: last");
            assert!(tensors(&run.best()) == tensors(&self.run.best()), "{moment}: best");
            let entries = std::fs::read_dir(run.path()).expect("can be listed");
            let names = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned());
            let left: Vec<String> =
                names.filter(|n| n.starts_with('.') || n == "pending.json" || n == "run.lock").collect();
            assert!(left.is_empty(), "{moment}: {left:?}");
        }
    }

    /// The command that resumes the run in a folder, or starts it.
    fn next(runs: &Path) -> Vec<String> {
        let mut found = RunFolder::list(runs).unwrap_or_default();
        let going = found.pop().filter(|run| run.newest().is_file());
        if let Some(run) = going {
            let more = ["train", "--resume", text(run.path()), "--tune", "off"];
            return more.map(String::from).to_vec();
        }
        // No checkpoint was saved.
        let _ = std::fs::remove_dir_all(runs);
        quick(&["--epochs", EPOCHS]).into_iter().map(String::from).collect()
    }

    fn finish(runs: &Path, moment: &str) {
        let arguments = next(runs);
        let output = incept(runs, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{moment}: {}", stderr(&output));
    }

    #[test]
    fn kills_at_random_moments_lose_nothing() {
        let reference = Reference::new();
        let folder = temporary();
        let mut moments = Moments(7);
        let start = Instant::now();
        succeeds(&folder.path().join("timed"), &quick(&["--epochs", EPOCHS]));
        let whole = start.elapsed().as_millis() as u64;
        let wanted = if is_long() { 20 } else { 4 };
        let (mut kills, mut runs) = (0, 0);
        let mut place = folder.path().join("runs");
        while kills < wanted {
            let arguments = next(&place);
            let mut child = command(&place, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the program can be started");
            let moment = Duration::from_millis(whole / 4 + moments.next(whole));
            std::thread::sleep(moment);
            let ended = child.try_wait().expect("can be asked").is_some();
            child.kill().expect("can be killed");
            child.wait().expect("it ends");
            reference.check(&place, &format!("{moment:?}"));
            if ended {
                reference.is_same(&place, &format!("after {kills} kills"));
                runs += 1;
                place = folder.path().join(format!("runs-{runs}"));
            } else {
                kills += 1;
            }
        }
        finish(&place, "the last");
        reference.is_same(&place, "the last");
    }

    /// The number of these system calls by the main thread of a complete run.
    fn calls(names: &str) -> u64 {
        let folder = temporary();
        let log = folder.path().join("calls");
        let options = ["-e".to_string(), format!("trace={names}"), "-o".to_string(), text(&log).to_string()];
        let run = quick(&["--epochs", EPOCHS]);
        let output = strace(&options, &run, &folder.path().join("runs")).output().expect("strace");
        assert!(output.status.success(), "{}", stderr(&output));
        let lines = String::from_utf8_lossy(&bytes(&log)).into_owned();
        // The main thread is the oldest; a driver's threads may write its cache first.
        let thread = |line: &str| line.split_whitespace().next().and_then(|id| id.parse::<u64>().ok());
        let main = lines.lines().filter_map(thread).min();
        // A call that was interleaved with one of another thread has two lines.
        let begins = |line: &&str| !line.contains(" resumed>");
        let of_main = |line: &&str| thread(line) == main;
        // strace counts each of the names by itself.
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for line in lines.lines().filter(begins).filter(of_main) {
            let call = line.split_whitespace().nth(1).and_then(|call| call.split('(').next());
            *counts.entry(call.unwrap_or_default()).or_default() += 1;
        }
        counts.into_values().max().unwrap_or_default()
    }

    /// Injects a fault at the n-th of these system calls of the main thread, for each n of
    /// `moments`, and checks that the run can still be completed.
    fn at_each(names: &str, what: &str, moments: &[u64], killed: bool) {
        // A full disk stays full.
        let from = if killed { "" } else { "+" };
        let reference = Reference::new();
        let folder = temporary();
        for (i, n) in moments.iter().enumerate() {
            let place: PathBuf = folder.path().join(format!("runs-{i}"));
            let moment = format!("{names} {what} {n}");
            let inject = format!("inject={names}:{what}:when={n}{from}");
            let options = [
                "-e".to_string(),
                format!("trace={names}"),
                "-e".into(),
                inject,
                "-o".into(),
                "/dev/null".into(),
            ];
            let output = strace(&options, &quick(&["--epochs", EPOCHS]), &place).output().expect("strace");
            assert!(!output.status.success(), "{moment} should end it: {}", stderr(&output));
            assert_eq!(output.status.code().is_none(), killed, "{moment}: {}", stderr(&output));
            reference.check(&place, &moment);
            finish(&place, &moment);
            reference.is_same(&place, &moment);
        }
    }

    /// Evenly spaced numbers from 1 to `last`.
    fn some(last: u64, count: u64) -> Vec<u64> {
        (0..count).map(|i| 1 + i * last.saturating_sub(1) / count.saturating_sub(1).max(1)).collect()
    }

    #[test]
    fn kills_inside_renames_and_fsyncs_lose_nothing() {
        if !has_strace() {
            return;
        }
        for names in ["rename,renameat,renameat2", "fsync,fdatasync"] {
            let last = calls(names);
            let count = if is_long() { last.clamp(5, 10) } else { 2 };
            at_each(names, "signal=SIGKILL", &some(last, count), true);
        }
    }

    #[test]
    fn a_full_disk_loses_nothing() {
        if !has_strace() {
            return;
        }
        let last = calls("write");
        let count = if is_long() { last } else { 3 };
        at_each("write", "error=ENOSPC", &some(last, count), false);
    }
}
