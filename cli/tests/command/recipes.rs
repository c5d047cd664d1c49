//! Recipes, configuration files, runs and transfer learning.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use incept::checkpoint::Checkpoint;
use incept::data::{Loader, LoaderOptions, Mix, OpenOptions, Preprocessing, open};
use incept::formats::read_tensors;
use incept::infer::Classifier;
use incept::model::GoogLeNet;
use incept::optim::{Optimizer, Rule};
use incept::runs::{EpochRecord, Record, RunFolder};
use incept::tensor::{Element, HostTensor};
use incept::train::{Trainer, TrainingGraph};
use serde_json::Value;

use crate::program::cpu;
use crate::program::{self, drawing, python_with, repository, text};

fn incept(arguments: &[&str], runs: &Path) -> Output {
    let mut command = program::incept();
    command.env("INCEPT_RUNS_DIR", runs).args(arguments).output().expect("the program can be started")
}

fn stdout(arguments: &[&str], runs: &Path) -> String {
    let output = incept(arguments, runs);
    assert!(output.status.success(), "incept {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn json(arguments: &[&str], runs: &Path) -> Vec<Value> {
    stdout(arguments, runs).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

fn fails(arguments: &[&str], runs: &Path) -> String {
    let output = incept(arguments, runs);
    assert!(!output.status.success(), "incept {arguments:?} should fail");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Arguments of a run that takes a second or two.
fn quick<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let base =
        ["train", "digits", "--width", "0.0625", "--image-size", "32", "--limit", "40", "--batch-size", "8"];
    base.into_iter().chain(["--tune", "off"]).chain(more.iter().copied()).collect()
}

fn tensors(path: &Path) -> BTreeMap<String, HostTensor> {
    read_tensors(path).expect("a checkpoint").0
}

fn only_run(parent: &Path) -> RunFolder {
    let mut runs = RunFolder::list(parent).expect("runs");
    assert_eq!(runs.len(), 1, "{runs:?}");
    runs.remove(0)
}

#[test]
fn saved_configuration_reproduces_the_run() {
    let folder = temporary();
    let runs = folder.path();
    let mixed =
        ["--mixup", "0.2", "--cutmix", "1", "--photometric", "0.4", "--vflip", "--class-weights", "balanced"];
    let arguments =
        [&mixed[..], &["--epochs", "2", "--keep", "1", "--recipe", "caffe", "--init", "he"]].concat();
    let events = json(&[&quick(&arguments)[..], &["--json"]].concat(), runs);
    assert_eq!(events[0]["run"]["batch"], 8, "a flag wins over the recipe");
    assert_eq!(events[0]["network"]["bias_rate"], 2.0, "the recipe wins over the default");

    let run = only_run(runs);
    assert_eq!(run.title(), "0001-digits");
    let manifest = run.manifest().expect("a manifest");
    assert_eq!((manifest.recipe.as_deref(), manifest.train), (Some("caffe"), 40));
    let log = run.log().expect("a log");
    let count = |kind: fn(&Record) -> bool| log.iter().filter(|r| kind(r)).count();
    assert_eq!(count(|r| matches!(r, Record::Step(s) if s.heads.len() == 3)), 10);
    assert_eq!(count(|r| matches!(r, Record::Epoch(e) if e.validation.is_some() && e.memory_bytes > 0)), 2);
    assert!(matches!(log.last(), Some(Record::End { epochs: 2, .. })));
    assert!(run.best().is_file() && run.kept(2).is_file() && !run.kept(1).is_file());
    let accuracies = log.iter().filter_map(|r| match r {
        Record::Epoch(e) => Some((e.validation.as_ref()?.accuracy, e.epoch + 1)),
        _ => None,
    });
    // Of equally good epochs the first.
    let (_, best) = accuracies.fold((-1.0, 0), |best, next| if next.0 > best.0 { next } else { best });
    assert_eq!(Checkpoint::load(&run.best()).expect("a checkpoint").metadata.progress.epoch, best);

    // The saved configuration reproduces the run bit for bit, without other options.
    let config = run.path().join("config.toml");
    stdout(&["train", "--config", text(&config), "--tune", "off", "--name", "again"], runs);
    let again = RunFolder::find(runs, "again").expect("a second run");
    assert_eq!(again.title(), "0002-again");
    assert_eq!(tensors(&run.last()), tensors(&again.last()));

    // An interrupted and resumed run is identical, with one folder and one log.
    stdout(&["train", "--config", text(&config), "--tune", "off", "--name", "half", "--epochs", "1"], runs);
    let half = RunFolder::find(runs, "3").expect("by its number");
    stdout(&["train", "--resume", text(half.path()), "--epochs", "2", "--tune", "off"], runs);
    let steps =
        |run: &RunFolder| run.log().expect("a log").iter().filter(|r| matches!(r, Record::Step(_))).count();
    assert_eq!((steps(&half), RunFolder::list(runs).expect("runs").len()), (10, 3));
    let measured = |record: &Record| !matches!(record, Record::Step(s) if s.gradient_norm.is_none());
    assert!(half.log().expect("a log").iter().all(measured), "norms are measured after a resume too");
    validated_on_resume(&half, runs);
    // The same with the checkpoint outside of the folder, resumed by file or by run.
    let file = runs.join("elsewhere.safetensors");
    let begin = ["train", "--config", text(&config), "--tune", "off", "--name", "out", "--epochs", "1"];
    stdout(&[&begin[..], &["--output", text(&file)]].concat(), runs);
    let out = RunFolder::find(runs, "4").expect("by its number");
    stdout(&["train", "--resume", text(&file), "--epochs", "2", "--tune", "off"], runs);
    assert_eq!((steps(&out), tensors(&file)), (10, tensors(&half.last())));
    stdout(&["train", "--resume", text(out.path()), "--epochs", "3", "--tune", "off"], runs);
    assert_eq!((steps(&out), RunFolder::list(runs).expect("runs").len()), (15, 4));
    std::fs::remove_dir_all(out.path()).expect("can be removed");

    let listed = json(&["runs", "--json"], runs);
    assert_eq!(listed.len(), 3);
    assert_eq!(
        (&listed[0]["run"], &listed[0]["epochs"], &listed[0]["ended"]),
        (&"0001-digits".into(), &2.into(), &"done".into())
    );
    assert!(listed[0]["final_losses"]["aux2"].as_f64().is_some());
    assert!(stdout(&["runs"], runs).contains("0002-again"));
    let compared = &json(&["runs", "compare", "1", "half", "--json"], runs)[0];
    let different: Vec<&str> = compared["configuration"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|d| d["what"].as_str())
        .collect();
    assert_eq!(different, ["run.name"]);
    assert!(fails(&["runs", "compare", "1", "nothing"], runs).contains("nothing"));

    // Resuming from the best checkpoint writes to the latest one and does not change the best.
    std::fs::copy(half.last(), half.best()).expect("can be copied");
    let best = std::fs::read(half.best()).expect("a checkpoint");
    let more = ["--epochs", "3", "--no-validation", "--tune", "off"];
    stdout(&[&["train", "--resume", text(&half.best())][..], &more].concat(), runs);
    assert!(std::fs::read(half.best()).expect("a checkpoint") == best && steps(&half) == 15);
    assert_eq!(tensors(&half.last()), tensors(&file));
}

/// A run that rewinds to an earlier checkpoint moves later checkpoints aside: it neither uses nor
/// deletes them.
#[test]
fn rewinding_moves_later_checkpoints_aside() {
    let folder = temporary();
    let runs = folder.path();
    stdout(&quick(&["--epochs", "4", "--keep", "9", "--schedule", "constant"]), runs);
    let run = only_run(runs);
    // The last epoch is the best; then the run rewinds to the first.
    let mut log = run.log().expect("a log");
    for record in &mut log {
        if let Record::Epoch(EpochRecord { epoch, validation: Some(validation), best, .. }) = record {
            validation.accuracy = [0.98, 0.1, 0.1, 0.99][*epoch as usize];
            *best = matches!(epoch, 0 | 3);
        }
    }
    let lines: Vec<String> = log.iter().map(|r| serde_json::to_string(r).expect("JSON") + "\n").collect();
    std::fs::write(run.log_path(), lines.concat()).expect("can be written");
    std::fs::copy(run.last(), run.best()).expect("can be copied");
    let [best, first, third] = [run.best(), run.kept(1), run.kept(3)].map(|file| tensors(&file));

    let second = run.kept(2);
    let again = ["train", "--resume", text(&second), "--epochs", "3", "--keep", "2", "--tune", "off"];
    let output = incept(&again, runs);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("left-best.safetensors"), "{said}");
    let left = |name: &str| tensors(&run.path().join(name));
    assert!(left("left-best.safetensors") == best && left("left-epoch-0003.safetensors") == third);
    // After the same epoch again, kept checkpoints are those of this run, and the best one is from
    // an earlier epoch.
    assert!(tensors(&run.kept(3)) == third && tensors(&run.last()) == third);
    assert!(tensors(&run.best()) == first, "the best epoch's weights were kept and are not the best");
    assert!(run.kept(2).is_file() && !run.kept(1).is_file() && !run.kept(4).is_file());
    let listed = &json(&["runs", "--json"], runs)[0];
    assert_eq!((&listed["best_epoch"], &listed["epochs"]), (&0.into(), &3.into()));
}

/// Writes `classes` folders of images; with `damaged`, one validation image per class is
/// unreadable.
fn images(folder: &Path, classes: usize, damaged: bool) {
    for (part, count) in [("train", 4), ("val", 2)] {
        for class in 0..classes {
            let folder = folder.join(part).join(format!("class {class}"));
            std::fs::create_dir_all(&folder).expect("can be made");
            for number in 0..count {
                let shade = (60 * class + 7 * number) as u8;
                let file = folder.join(format!("{number}.png"));
                image::RgbImage::from_pixel(32, 32, image::Rgb([shade; 3]))
                    .save(&file)
                    .expect("can be written");
                if damaged && part == "val" && number == 0 {
                    std::fs::write(&file, [0u8; 40]).expect("can be written");
                }
            }
        }
    }
}

/// Unreadable validation images end a run, but its epoch is saved: the resumed run only validates.
#[test]
fn epoch_is_saved_if_validation_fails() {
    let folder = temporary();
    let (data, runs) = (folder.path().join("data"), folder.path().join("runs"));
    images(&data, 2, true);
    let network = ["--width", "0.0625", "--image-size", "32", "--batch-size", "4", "--tune", "off"];
    let begin = ["train", text(&data), "--epochs", "1", "--max-bad", "1", "--name", "mine"];
    let errors = fails(&[&begin[..], &network].concat(), &runs);
    assert!(errors.contains("unreadable images"), "{errors}");
    let run = only_run(&runs);
    let trained = tensors(&run.last());
    let more = ["train", "--resume", text(run.path()), "--max-bad", "2", "--tune", "off"];
    let said = stdout(&more, &runs);
    assert!(said.contains("epoch 1/1  validation"), "{said}");
    assert!(tensors(&run.last()) == trained && tensors(&run.best()) == trained);
}

/// A last batch of a single image has another variance in batch norm; accuracy must not suffer.
#[test]
fn single_image_in_the_last_batch_does_not_harm_batch_norm() {
    let folder = temporary();
    let whole = repository().join("tests/fixtures/cases/bn49");
    let less = folder.path().join("bn48");
    copy_but(&whole, &less, "p016.png");
    let accuracy = |data: &Path, name: &str, seed: &str| {
        let options = [
            "--variant",
            "torchvision",
            "--epochs",
            "10",
            "--batch-size",
            "16",
            "--width",
            "0.25",
            "--image-size",
            "32",
            "--lr",
            "0.02",
            "--schedule",
            "cosine",
            "--seed",
            seed,
            "--tune",
            "off",
            "--name",
            name,
            "--json",
        ];
        let events = json(&[&["train", text(data)][..], &options].concat(), folder.path());
        let epoch = events.iter().rev().find(|e| e["event"] == "epoch").expect("an epoch");
        epoch["validation_accuracy"].as_f64().expect("was measured")
    };
    // Sets as small as these are not learned within ten epochs from every seed.
    let both = ["1", "2", "3"].map(|seed| (accuracy(&whole, "49", seed), accuracy(&less, "48", seed)));
    let good = both.iter().filter(|(with, without)| (with - without).abs() <= 0.02 && *with > 0.95);
    assert!(good.count() >= 2, "with it and without it, by seed: {both:?}");
}

/// Copies a folder, except files of this name in the first class.
fn copy_but(from: &Path, to: &Path, name: &str) {
    std::fs::create_dir_all(to).expect("can be made");
    for entry in std::fs::read_dir(from).expect("a folder").map(|e| e.expect("an entry")) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_but(&entry.path(), &target, name);
        } else if entry.file_name() != name || !from.ends_with("train/class0") {
            std::fs::copy(entry.path(), target).expect("can be copied");
        }
    }
}

/// If all images are unreadable, neither a checkpoint nor an accuracy may be written, even within
/// --max-bad.
#[test]
fn no_readable_images_is_an_error() {
    let folder = temporary();
    let (data, runs) = (folder.path().join("data"), folder.path().join("runs"));
    images(&data, 2, false);
    let network =
        ["--width", "0.0625", "--image-size", "32", "--batch-size", "4", "--tune", "off", "--epochs", "1"];
    let arguments = [&["train", text(&data), "--max-bad", "20"][..], &network].concat();
    let damage = |part: &str| {
        for entry in walk(&data.join(part)) {
            std::fs::write(entry, [0u8; 40]).expect("can be written");
        }
    };
    damage("val");
    let errors = fails(&arguments, &runs);
    assert!(errors.contains("none of the 4 images can be read"), "{errors}");
    let run = only_run(&runs);
    assert!(run.last().is_file() && !run.best().is_file(), "the epoch is not lost, and nothing is best");
    damage("train");
    let errors = fails(&[&arguments[..], &["--name", "nothing"]].concat(), &runs);
    assert!(
        errors.contains("none of the 8 images can be read") && errors.contains("no checkpoint was saved"),
        "{errors}"
    );
    let run = RunFolder::find(&runs, "nothing").ok();
    assert!(run.is_none_or(|run| !run.last().is_file() && !run.best().is_file()), "nothing is saved");
}

/// All files below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// A run resumed within a onecycle schedule and with gradient accumulation is identical to an
/// uninterrupted one.
#[test]
fn onecycle_and_gradient_accumulation_resume_bit_for_bit() {
    let folder = temporary();
    let options =
        ["--epochs", "2", "--grad-accum", "3", "--schedule", "onecycle", "--keep", "2", "--lr", "0.002"];
    stdout(&quick(&[&options[..], &["--optimizer", "adamw"]].concat()), folder.path());
    let run = only_run(folder.path());
    let whole = tensors(&run.last());
    // Five batches per epoch: updates accumulate three and two.
    let progress = Checkpoint::load(&run.last()).expect("a checkpoint").metadata.progress;
    assert_eq!((progress.step, progress.update, progress.waiting), (10, 4, 0));
    stdout(&["train", "--resume", text(&run.kept(1)), "--tune", "off"], folder.path());
    assert_eq!(tensors(&run.last()), whole);
}

/// The batch size is reduced to that of a smaller data set: copies would change the variance in
/// batch norm.
#[test]
fn batch_size_is_limited_to_the_data_set() {
    let folder = temporary();
    let with = |batch: &'static str, more: &[&'static str]| {
        let begin =
            ["train", "digits", "--width", "0.0625", "--image-size", "32", "--limit", "40", "--epochs", "1"];
        [&begin[..], &["--tune", "off", "--variant", "torchvision", "--batch-size", batch], more].concat()
    };
    let events = json(&with("64", &["--json"]), folder.path());
    assert_eq!(events[0]["run"]["batch"], 40);
    stdout(&with("40", &["--name", "same"]), folder.path());
    let [large, same] = ["1", "same"].map(|name| RunFolder::find(folder.path(), name).expect("a run").last());
    assert_eq!(tensors(&large), tensors(&same));
}

/// Class weights belong to a training and are not inherited with its weights.
#[test]
fn class_weights_are_not_inherited_with_init() {
    let folder = temporary();
    let (data, runs) = (folder.path().join("data"), folder.path().join("runs"));
    images(&data, 3, false);
    let out = folder.path().join("digits.safetensors");
    stdout(&quick(&["--epochs", "1", "--class-weights", "balanced", "--output", text(&out)]), &runs);
    let begin = ["train", text(&data), "--weights", text(&out), "--epochs", "1", "--batch-size", "4"];
    let out = folder.path().join("other.safetensors");
    stdout(&[&begin[..], &["--tune", "off", "--output", text(&out)]].concat(), &runs);
    let network = Checkpoint::load(&out).expect("a checkpoint").metadata.network;
    assert_eq!((network.classes, network.class_weights), (3, None));
}

#[test]
fn errors_in_configuration_files_name_the_line() {
    let folder = temporary();
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, "[optimizer]\nrte = 0.1\n").expect("can be written");
    let errors = fails(&["train", "digits", "--config", text(&file)], folder.path());
    assert!(errors.contains("wrong.toml") && errors.contains("rte") && errors.contains("line 2"), "{errors}");
    let errors = fails(&["train", "digits", "--freeze-until", "inception_4a"], folder.path());
    assert!(errors.contains("--weights"), "{errors}");
    for (option, value) in [
        ("--val-split", "20"),
        ("--lr", "nan"),
        ("--warmup-epochs", "-1"),
        ("--weight-decay", "inf"),
        ("--max-grad-norm", "nan"),
        ("--bias-rate", "-2"),
        ("--std", "0"),
        ("--mean", "0.5,0.5"),
    ] {
        let given = format!("{option}={value}");
        let errors = fails(&["train", "digits", &given], folder.path());
        assert!(errors.contains(option), "{given}: {errors}");
    }
    let errors = fails(&["train", "digits", "--tune", "off", "--output", text(folder.path())], folder.path());
    assert!(errors.contains("is a folder"), "{errors}");
    let errors = fails(&["train", "digits", "--view", "dashboard"], folder.path());
    assert!(errors.contains("terminal"), "{errors}");
    assert!(stdout(&["runs"], folder.path()).contains("no runs"));
}

/// A run whose last validation was interrupted completes it when resumed.
fn validated_on_resume(run: &RunFolder, runs: &Path) {
    let epochs = || -> Vec<EpochRecord> {
        let log = run.log().expect("a log");
        log.into_iter().filter_map(|r| if let Record::Epoch(e) = r { Some(e) } else { None }).collect()
    };
    let before = epochs();
    let cut = EpochRecord { validation: None, validation_aux: Vec::new(), best: false, ..before[1].clone() };
    let mut log = run.log().expect("a log");
    log.iter_mut()
        .filter(|r| matches!(r, Record::Epoch(e) if e.epoch == 1))
        .for_each(|r| *r = Record::Epoch(cut.clone()));
    let lines: Vec<String> = log.iter().map(|r| serde_json::to_string(r).expect("JSON") + "\n").collect();
    std::fs::write(run.log_path(), lines.concat()).expect("can be written");
    assert_eq!(epochs()[1].validation, None);
    let said = stdout(&["train", "--resume", text(run.path()), "--tune", "off"], runs);
    assert!(said.contains("epoch 2/2  validation"), "{said}");
    assert_eq!(epochs(), before, "as if nothing had been interrupted");
    // Only once.
    let said = stdout(&["train", "--resume", text(run.path()), "--tune", "off"], runs);
    assert!(!said.contains("  validation "), "{said}");
}

/// A run with NaN losses stops with an error, counts NaN as incorrect, and is still listed.
#[test]
fn diverged_run_fails_with_advice() {
    let folder = temporary();
    let errors = fails(&quick(&["--lr", "1000", "--epochs", "9"]), folder.path());
    assert!(errors.contains("diverged") && errors.contains("--lr"), "{errors}");
    let run = only_run(folder.path());
    let log = run.log().expect("a log with NaN");
    let epochs: Vec<_> =
        log.iter().filter_map(|r| if let Record::Epoch(e) = r { Some(e) } else { None }).collect();
    assert!(epochs.iter().any(|e| e.loss.is_nan()), "{epochs:?}");
    for epoch in &epochs {
        let accuracy = epoch.validation.as_ref().expect("was measured").accuracy;
        assert!(accuracy < 0.5 && epoch.heads[0].accuracy < 0.5, "{epoch:?}");
    }
    let listed = json(&["runs", "--json"], folder.path());
    assert_eq!((&listed[0]["epochs"], &listed[0]["ended"]), (&epochs.len().into(), &"failed".into()));
    assert!(listed[0]["message"].as_str().is_some_and(|m| m.contains("diverged")), "{listed:?}");
    // No checkpoint with non-finite weights was saved.
    assert!(!run.last().exists() && !run.best().exists());
    let errors = fails(&["train", "--resume", text(run.path())], folder.path());
    assert!(errors.contains("has no checkpoint") && errors.contains("config.toml"), "{errors}");
}

/// Every recipe, optimizer and schedule trains.
#[test]
fn recipes_optimizers_and_schedules_train() {
    let rates = |arguments: &[&str]| -> Vec<f64> {
        let folder = temporary();
        stdout(&quick(&[&["--epochs", "2"], arguments].concat()), folder.path());
        let log = only_run(folder.path()).log().expect("a log");
        let steps: Vec<_> =
            log.iter().filter_map(|r| if let Record::Step(s) = r { Some(s) } else { None }).collect();
        // Accumulated batches without an update have no gradient norm.
        let norms: Vec<f64> = steps.iter().filter_map(|s| s.gradient_norm).collect();
        assert_eq!(norms.len(), if arguments.contains(&"--grad-accum") { 6 } else { 10 }, "{arguments:?}");
        assert!(norms.iter().all(|n| *n > 0.0) && steps.iter().all(|s| s.loss.is_finite()), "{arguments:?}");
        steps.iter().map(|s| s.lr).collect()
    };
    for recipe in ["paper", "torchvision", "small"] {
        assert_eq!(rates(&["--recipe", recipe]).len(), 10, "{recipe}");
    }
    // The recipe's warm-up takes both epochs: the learning rate rises throughout.
    let rising = rates(&["--recipe", "small"]);
    assert!(rising.is_sorted() && rising[0] > 0.0 && rising[9] < 0.05, "{rising:?}");
    let warmed = rates(&["--warmup-epochs", "1", "--lr", "0.05", "--schedule", "cosine"]);
    assert!((warmed[0] / 5e-4 - 1.0).abs() < 1e-6 && warmed[5] == f64::from(0.05f32), "{warmed:?}");
    let halved = rates(&["--optimizer", "adamw", "--lr", "0.001", "--schedule", "step:1:0.5"]);
    assert!((halved[9] / halved[0] - 0.5).abs() < 1e-3, "{halved:?}");
    let cycle = rates(&["--optimizer", "lars", "--schedule", "onecycle:0.4", "--class-weights", "balanced"]);
    let highest = (0..10).max_by(|a, b| cycle[*a].total_cmp(&cycle[*b])).expect("ten steps");
    // As in torch: the peak after the four rising updates, and the minimum in the last update.
    assert!(highest == 3 && (cycle[9] / (0.01 / 25.0 / 1e4) - 1.0).abs() < 1e-5, "{cycle:?}");
    let more = ["--average", "polyak", "--label-smoothing", "0.1", "--grad-accum", "2"];
    let wave = rates(
        &[&["--optimizer", "nesterov", "--schedule", "cosine", "--warmup-epochs", "1"], &more[..]].concat(),
    );
    assert!(wave[0] < wave[5] && wave[9] < wave[5], "{wave:?}");
}

#[test]
fn early_stopping_ends_a_run_without_improvement() {
    let folder = temporary();
    // At learning rate 0 nothing changes: the first epoch is the best.
    let arguments = ["--epochs", "9", "--lr", "0", "--patience", "2", "--json"];
    let events = json(&quick(&arguments), folder.path());
    assert_eq!(events.iter().filter(|e| e["event"] == "epoch").count(), 3);
    let log = only_run(folder.path()).log().expect("a log");
    assert!(
        matches!(log.last(), Some(Record::End { reason: incept::runs::StopReason::Patience, .. })),
        "{log:?}"
    );
    let run = only_run(folder.path());
    assert!(stdout(&["inspect", text(run.path())], folder.path()).contains("conv1"));
    let errors = fails(&quick(&["--patience", "2", "--no-validation"]), folder.path());
    assert!(errors.contains("--patience"), "{errors}");
}

#[test]
fn fine_tuning_keeps_frozen_layers() {
    let folder = temporary();
    let runs = folder.path();
    let base = folder.path().join("base.safetensors");
    stdout(
        &quick(&["--variant", "torchvision", "--epochs", "1", "--no-validation", "--output", text(&base)]),
        runs,
    );
    let photos = folder.path().join("photos");
    for (class, grey) in [("dark", 40u8), ("bright", 200)] {
        std::fs::create_dir_all(photos.join(class)).expect("a folder");
        for i in 0..6u8 {
            let file = photos.join(class).join(format!("{i}.png"));
            image::RgbImage::from_fn(40, 40, |x, _| image::Rgb([grey, grey / 2 + i, x as u8]))
                .save(file)
                .expect("an image");
        }
    }
    let tuned = folder.path().join("tuned.safetensors");
    let command = [
        "train",
        text(&photos),
        "--init",
        text(&base),
        "--epochs",
        "2",
        "--batch-size",
        "4",
        "--tune",
        "off",
    ];
    assert!(fails(&[&command[..], &["--reset-head", "false"]].concat(), runs).contains("--reset-head"));
    let more = [
        "--freeze-until",
        "inception_4a",
        "--average",
        "0.9",
        "--weight-decay",
        "0.1",
        "--output",
        text(&tuned),
    ];
    stdout(&[&command[..], &more].concat(), runs);
    let (before, after) = (tensors(&base), tensors(&tuned));
    let frozen =
        |name: &str| ["conv1.", "conv2.", "conv3.", "inception3"].iter().any(|layer| name.starts_with(layer));
    let mut checked = 0;
    for (name, tensor) in
        after.iter().filter(|(n, _)| !n.starts_with("optimizer.") && !n.contains("num_batches"))
    {
        let plain = name.strip_prefix("average.").unwrap_or(name);
        if frozen(plain) {
            assert_eq!(tensor, &before[plain], "{name}");
            checked += 1;
        } else if plain.ends_with("weight") {
            assert_ne!(Some(tensor), before.get(plain), "{name}");
        }
    }
    assert!(checked > 60, "{checked}");
    assert_eq!(after["fc.weight"].dims[0], 2);
    assert!(stdout(&["eval", text(&tuned), "--json"], runs).contains("accuracy"));
}

/// Frozen layers have no backward pass, and fewer nodes run.
#[test]
fn frozen_layers_have_no_backward_pass() {
    let device = cpu();
    let count = |freeze: Option<&str>| {
        let network = GoogLeNet::torchvision().freeze_until(freeze.map(String::from));
        let network = network.width(0.0625).classes(10).input(32);
        let training = TrainingGraph::new(&network, &Optimizer::default(), 2).expect("a graph");
        let plan = training.plan(&device).expect("a plan");
        plan.nodes.len()
    };
    let counts = [None, Some("conv2"), Some("inception_4a"), Some("heads")].map(count);
    assert!(counts.is_sorted_by(|a, b| a > b), "{counts:?}");
    // Two of nine blocks and the stem are below 4a; `heads` leaves little more than the forward
    // pass.
    assert!(counts[2] * 10 < counts[0] * 9 && counts[3] * 2 < counts[0], "{counts:?}");
}

/// Mixed batches are a pure function of seed, epoch and index; their labels and weights match the
/// pixels.
#[test]
fn mixed_batches_are_reproducible() {
    let data = open("digits", &OpenOptions::default().limit(30)).expect("digits");
    let preprocessing = Preprocessing::new(32).measure(data.train.as_ref(), 30);
    let batches = |mix: Option<Mix>, workers: usize, first: usize| {
        let options = LoaderOptions::new(8, preprocessing.clone()).training(3, None).mix(mix);
        let loader = Loader::new(data.train.clone(), options.workers(workers)).expect("a loader");
        loader.epoch(1, first).collect::<incept::Result<Vec<_>>>().expect("batches")
    };
    for mix in [Mix::default().mixup(0.4), Mix::default().cutmix(1.0), Mix::default().mixup(0.4).cutmix(1.0)]
    {
        let (all, plain) = (batches(Some(mix), 0, 0), batches(None, 0, 0));
        let mut pasted = 0;
        assert_eq!(all[2..], batches(Some(mix), 3, 2));
        for (batch, plain) in all.iter().zip(&plain) {
            let mixed = batch.mixed.as_ref().expect("second labels");
            assert_eq!(batch.labels, plain.labels);
            assert!(mixed.share.iter().all(|s| (0.0..=1.0).contains(s)), "{:?}", mixed.share);
            for (second, first) in mixed.second.iter().zip(&batch.labels) {
                assert_eq!(*second == u32::MAX, *first == u32::MAX, "a missing row stays missing");
            }
            if mix.cutmix == 0.0 {
                // Each image is blended with one other image of the batch by its weight; some
                // weights are below 1.
                let row = |i: usize| &plain.images[i * 3072..(i + 1) * 3072];
                let mut blended = 0;
                for (i, share) in mixed.share.iter().enumerate().take(batch.count) {
                    let image = &batch.images[i * 3072..(i + 1) * 3072];
                    let is_blend = |other: usize| {
                        plain.labels[other] == mixed.second[i]
                            && (image.iter().zip(row(i)).zip(row(other)))
                                .all(|((v, a), b)| (share * a + (1.0 - share) * b - v).abs() < 1e-5)
                    };
                    assert!((0..batch.count).any(is_blend), "row {i} with {share}");
                    blended += usize::from(image.iter().zip(row(i)).any(|(v, a)| (v - a).abs() > 1e-3));
                }
                assert!(blended > 0 || batch.count < 2, "nothing was blended");
            }
            if mix.mixup == 0.0 {
                // The weight is the fraction of the image's own pixels, up to pixels equal in both.
                for (i, share) in mixed.share.iter().enumerate().take(batch.count) {
                    let row = i * 3072..(i + 1) * 3072;
                    let same = batch.images[row.clone()]
                        .iter()
                        .zip(&plain.images[row])
                        .filter(|(a, b)| a == b)
                        .count();
                    assert!(same as f32 / 3072.0 >= share - 1e-6, "{same} {share}");
                    // The other pixels come from one other image of the batch.
                    let row = |i: usize| &plain.images[i * 3072..(i + 1) * 3072];
                    let image = &batch.images[i * 3072..(i + 1) * 3072];
                    let is_pasted = |other: usize| {
                        plain.labels[other] == mixed.second[i]
                            && image.iter().zip(row(i)).zip(row(other)).all(|((v, a), b)| v == a || v == b)
                    };
                    assert!((0..batch.count).any(is_pasted), "row {i} with {share}");
                    pasted += usize::from(same < 3072);
                }
            }
        }
        assert!(pasted > 0 || mix.mixup > 0.0, "nothing was pasted");
    }
}

/// A few steps on one batch with mixed labels reduce its loss.
#[test]
fn lars_trains() {
    let device = cpu();
    let network = GoogLeNet::torchvision().dropout(0.0, 0.0).mixed_labels(true);
    let network = network.width(0.0625).classes(10).input(32);
    let data = open("digits", &OpenOptions::default().limit(8)).expect("digits");
    let preprocessing = Preprocessing::new(32).measure(data.train.as_ref(), 8);
    let loader = Loader::new(data.train.clone(), LoaderOptions::new(8, preprocessing)).expect("a loader");
    let batch = loader.epoch(0, 0).next().expect("a batch").expect("is read");
    let optimizer = Optimizer::default().rule(Rule::lars(0.02));
    let losses = device.block_on(async {
        let mut trainer = Trainer::new(&device, &network, &optimizer, 8, 1, |_, _| ()).await?;
        let mut losses = Vec::new();
        for _ in 0..8 {
            trainer.step(&batch, 0.5)?;
            losses.extend(trainer.metrics(0).await?.iter().map(|m| m.loss));
        }
        let state = trainer.state().await?;
        Classifier::new(&device, &network, 8, Element::F32, &state).await?;
        Ok(losses)
    });
    let losses: Vec<f32> = losses.expect("it trains");
    assert!(losses[7] < 0.85 * losses[0], "{losses:?}");
}

#[test]
fn preview_shows_augmentations_of_several_epochs() {
    let folder = temporary();
    let sheet = folder.path().join("sheet.png");
    stdout(
        &["train", "digits", "--augment", "paper", "--mixup", "0.5", "--preview-augment", text(&sheet)],
        folder.path(),
    );
    let image = image::open(&sheet).expect("a PNG").to_rgb8();
    // Eight columns of 96 pixels and six rows with captions, at two pixels per layout pixel.
    assert_eq!(image.dimensions(), (2 * (2 * 28 + 8 * 110 - 14), 2 * (78 + 20 + 6 * (96 + 16 + 18) + 4)));
    let column = |n: u32| image::imageops::crop_imm(&image, 2 * (28 + n * 110), 196, 192, 192).to_image();
    assert!(column(0) != column(1) && column(1) != column(2), "each epoch has other augmentations");
    let svg = folder.path().join("sheet.svg");
    let arguments =
        ["train", "digits", "--augment", "paper", "--mixup", "0.5", "--preview-augment", text(&svg)];
    stdout(&arguments, folder.path());
    let svg = drawing(&svg, (922, 882));
    for words in
        ["original", "epoch 7", "augment paper, hflip, photometric 0.5, random interpolation, mixup 0.5"]
    {
        assert!(svg.contains(words), "{words}");
    }
    assert_eq!(svg.matches("<image").count(), 48);
    assert!(RunFolder::list(folder.path()).expect("a folder").is_empty(), "nothing is trained");
}

/// TensorBoard's own reader finds every scalar. Without the package, the golden file in the
/// library's tests is the only check.
#[test]
fn tensorboard_reads_event_files() {
    let folder = temporary();
    let events = folder.path().join("events");
    stdout(&quick(&["--epochs", "1", "--max-grad-norm", "5", "--tensorboard", text(&events)]), folder.path());
    let files: Vec<PathBuf> = std::fs::read_dir(events.join("0001-digits"))
        .expect("a folder")
        .map(|e| e.expect("a file").path())
        .collect();
    assert!(files.len() == 1 && std::fs::metadata(&files[0]).expect("is there").len() > 500, "{files:?}");
    let script = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}))";
    let Some(python) = python_with("tensorboard.backend") else { return };
    let output = Command::new(&python)
        .args(["-c", script, text(&events.join("0001-digits"))])
        .output()
        .expect("it starts");
    let read: BTreeMap<String, Vec<(u64, f64)>> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    let log = only_run(folder.path()).log().expect("a log");
    for name in ["main", "aux1", "aux2"] {
        let logged: Vec<(u64, f64)> = log
            .iter()
            .filter_map(|r| if let Record::Step(s) = r { Some(s) } else { None })
            .map(|s| (s.step, s.heads.iter().find(|h| h.name == name).expect("a head").loss))
            .collect();
        assert_eq!(read[&format!("loss/{name}")], logged);
    }
    for tag in [
        "loss/total",
        "accuracy/main",
        "learning_rate",
        "images_per_s",
        "gradient_norm",
        "validation/accuracy",
    ] {
        assert!(!read[tag].is_empty(), "{tag}");
    }
    // Every head has validation scalars.
    let epoch = log.iter().find_map(|r| if let Record::Epoch(e) = r { Some(e) } else { None });
    let aux = &epoch.expect("an epoch").validation_aux;
    assert_eq!(aux.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(), ["aux1", "aux2"]);
    for head in aux {
        let shown = read[&format!("validation/accuracy_{}", head.name)][0].1;
        assert!((shown - head.accuracy).abs() < 1e-6, "{shown} is not {}", head.accuracy);
    }
}
