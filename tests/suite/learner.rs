//! Training with a learner: validation, best epoch, early stopping, resuming, run folders.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use incept::checkpoint::Checkpoint;
use incept::data::{Image, InMemory, Mix};
use incept::device::Device;
use incept::learner::{History, Learner, LearnerBuilder, Observer, StepProgress};
use incept::model::GoogLeNet;
use incept::runs::{Record, RunFolder, StopReason};
use incept::train::StepMetrics;
use incept::{Error, Result};

use crate::support::cpu;

/// Stripes in two directions, which a network learns within two epochs.
fn stripes(count: usize) -> InMemory {
    let mut set = InMemory::new(["horizontal", "vertical"]);
    for i in 0..count {
        let stripe = |p: usize| [p / 32, p % 32][i % 2] / (3 + i % 5) % 2 * 200;
        let pixels = (0..32 * 32).map(|p| (stripe(p) + (p * 31 + i * 17) % 50) as u8).collect();
        set.push(Image { width: 32, height: 32, channels: 1, pixels }, (i % 2) as u32).expect("an image");
    }
    set
}

fn builder() -> LearnerBuilder {
    let network = GoogLeNet::paper().width(0.0625).input(32).classes(2);
    Learner::builder(network).data(Arc::new(stripes(60))).batch_size(8).learning_rate(0.02).seed(3).workers(1)
}

fn fit(device: &Device, builder: LearnerBuilder) -> (History, Learner) {
    let mut learner = builder.build_blocking(device).expect("can be built");
    let history = learner.fit_blocking(&mut ()).expect("trains");
    (history, learner)
}

fn load(file: &Path) -> Checkpoint {
    Checkpoint::load(file).expect("a checkpoint")
}

/// Sets a flag after a number of steps.
struct StopAfter(usize, Arc<AtomicBool>);

impl Observer for StopAfter {
    fn step(&mut self, _: &StepMetrics, _: &StepProgress) -> Result<()> {
        self.0 = self.0.saturating_sub(1);
        if self.0 == 0 {
            self.1.store(true, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Fails in the third step.
struct Fails;

impl Observer for Fails {
    fn step(&mut self, step: &StepMetrics, _: &StepProgress) -> Result<()> {
        if step.step < 2 { Ok(()) } else { Err(Error::Config("the observer has had enough".into())) }
    }
}

#[test]
fn early_stopping_saves_the_best_epoch() {
    let (device, folder) = (cpu(), tempfile::tempdir().expect("a temporary folder"));
    let file = folder.path().join("best.safetensors");
    let network = GoogLeNet::paper().width(0.125).input(32).classes(2);
    let builder = Learner::builder(network).data(Arc::new(stripes(240))).batch_size(16).learning_rate(0.02);
    let (history, learner) = fit(device, builder.epochs(30).patience(2).best_checkpoint(&file));
    let (accuracy, epoch) = history.best().expect("was validated");
    assert_eq!(learner.best(), Some((accuracy, epoch)));
    assert!(accuracy > 0.8, "{accuracy}");
    assert!(history.stopped_early && history.reason() == StopReason::Patience);
    assert_eq!(history.epochs.len() as u64, epoch + 3, "patience of two epochs");
    let best = load(&file);
    assert_eq!(best.metadata.progress.epoch, epoch + 1);
    assert_eq!(best.metadata.classes, ["horizontal", "vertical"]);
    assert_eq!(history.epochs.iter().rfind(|e| e.best).map(|e| e.summary.epoch), Some(epoch));
    assert_eq!(history.epochs[0].validation_aux.len(), 2, "all heads are validated");
}

#[test]
fn resumed_run_is_bit_identical() {
    let (device, folder) = (cpu(), tempfile::tempdir().expect("a temporary folder"));
    let file = folder.path().join("last.safetensors");
    let (whole, learner) = fit(device, builder().epochs(3));
    let want = device.block_on(learner.checkpoint()).expect("a checkpoint");
    let mut first = builder().epochs(3).checkpoint(&file).build_blocking(device).expect("can be built");
    // In the middle of the second epoch.
    let stop = first.stop_flag();
    let part = first.fit_blocking(&mut StopAfter(8, stop)).expect("trains");
    assert!(part.interrupted && part.reason() == StopReason::Interrupted);
    let left = load(&file);
    assert!(left.metadata.progress.batch > 0, "{:?}", left.metadata.progress);
    let (rest, learner) = fit(device, builder().epochs(3).resume(left));
    let got = device.block_on(learner.checkpoint()).expect("a checkpoint");
    assert!(got.state == want.state, "the resumed run has other weights");
    let last = |history: &History| history.epochs.last().and_then(|e| e.validation_accuracy);
    assert_eq!(last(&rest), last(&whole));
}

#[test]
fn observer_error_saves_a_checkpoint() {
    let (device, folder) = (cpu(), tempfile::tempdir().expect("a temporary folder"));
    let file = folder.path().join("last.safetensors");
    let mut learner = builder().epochs(2).checkpoint(&file).build_blocking(device).expect("can be built");
    let error = learner.fit_blocking(&mut Fails).expect_err("the observer fails").to_string();
    assert!(error.contains("had enough"), "{error}");
    assert!(load(&file).metadata.progress.step >= 3, "the trained steps are saved");
}

#[test]
fn run_folder_has_log_and_checkpoints() {
    let (device, folder) = (cpu(), tempfile::tempdir().expect("a temporary folder"));
    let (history, learner) = fit(device, builder().epochs(2).record_in(folder.path(), "stripes"));
    let run = RunFolder::open(&folder.path().join("0001-stripes")).expect("a run's folder");
    let manifest = run.manifest().expect("a manifest");
    assert_eq!((manifest.train, manifest.validation), (48, 12));
    let log = run.log().expect("a log");
    assert_eq!(log.iter().filter_map(Record::epoch).count(), 2);
    // The table has the log's numbers, under names that other tools use.
    let table = std::fs::read_to_string(run.table_path()).expect("a table");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|column| *column == name).expect("a column");
    assert_eq!(rows.len(), 3, "{table}");
    for (row, epoch) in rows[1..].iter().zip(log.iter().filter_map(Record::epoch)) {
        assert_eq!(row.len(), rows[0].len(), "{table}");
        let number = |name: &str| row[column(name)].parse::<f64>().expect("a number");
        assert_eq!((number("epoch"), number("lr")), ((epoch.epoch + 1) as f64, epoch.lr));
        assert_eq!(number("train_loss_aux1"), epoch.heads[1].loss);
        let validation = epoch.validation.as_ref().expect("was validated");
        assert_eq!(number("val_accuracy"), validation.accuracy);
        assert_eq!(number("val_loss_aux2"), epoch.validation_aux[1].loss);
    }
    assert!(matches!(log.last(), Some(Record::End { reason: StopReason::Done, epochs: 2, .. })), "{log:?}");
    assert_eq!(load(&run.last()).metadata.progress.epoch, 2);
    let (_, epoch) = history.best().expect("was validated");
    assert_eq!(load(&run.best()).metadata.progress.epoch, epoch + 1);
    assert_eq!(learner.recorder().and_then(incept::runs::Recorder::best), history.best());
}

#[test]
fn failed_run_is_logged() {
    let (device, folder) = (cpu(), tempfile::tempdir().expect("a temporary folder"));
    let mut learner =
        builder().epochs(2).record_in(folder.path(), "stripes").build_blocking(device).expect("can be built");
    learner.fit_blocking(&mut Fails).expect_err("the observer fails");
    let run = RunFolder::open(&folder.path().join("0001-stripes")).expect("a run's folder");
    let log = run.log().expect("a log");
    let Some(Record::End { reason, message: Some(message), .. }) = log.last() else {
        panic!("the run's end is not logged: {log:?}")
    };
    assert!(*reason == StopReason::Failed && message.contains("had enough"), "{log:?}");
}

#[test]
fn batches_are_mixed() {
    let device = cpu();
    let mix = Mix::default().mixup(0.2).cutmix(1.0);
    let (history, learner) = fit(device, builder().epochs(1).mix(mix));
    assert!(history.epochs[0].summary.loss.is_finite());
    assert!(learner.trainer().network().mixed_labels);
    assert_eq!(learner.train_loader().options().mix, Some(mix));
    assert!(learner.validation_loader().is_some_and(|loader| loader.options().mix.is_none()));
    let (_, plain) = fit(device, builder().epochs(1).mix(Mix::default()));
    assert!(!plain.trainer().network().mixed_labels, "alphas of 0 turn mixing off");
}

#[test]
fn target_accuracy_stops_training_and_validation_is_optional() {
    let device = cpu();
    let (history, _) = fit(device, builder().epochs(30).target_accuracy(0.6));
    assert!(history.epochs.len() < 30 && history.reason() == StopReason::Done);
    let (history, learner) = fit(device, builder().epochs(1).val_split(0.0));
    assert!(history.best().is_none() && learner.validation_loader().is_none());
    assert_eq!(learner.train_loader().len(), 60);
}

#[test]
fn contradicting_options_are_rejected() {
    let device = cpu();
    let network = || GoogLeNet::paper().width(0.0625).input(32);
    let refused = |builder: LearnerBuilder| builder.build_blocking(device).expect_err("refused").to_string();
    assert!(refused(Learner::builder(network())).contains("LearnerBuilder::data"));
    let three = Learner::builder(network().classes(3)).data(Arc::new(stripes(4)));
    assert!(refused(three).contains("2 classes"));
    for share in [-0.1, 1.0, f64::NAN] {
        assert!(refused(builder().val_split(share)).contains("val_split"));
    }
    let mix = Mix::default().mixup(0.2);
    assert!(refused(builder().mix(mix).batch_size(1)).contains("LearnerBuilder::mix"));
    assert!(refused(builder().mix(mix.mixup(-1.0))).contains("Mix::mixup"));
    let mut other = InMemory::new(["a", "b"]);
    other.push(Image { width: 1, height: 1, channels: 1, pixels: vec![0] }, 0).expect("an image");
    assert!(refused(builder().validation(Arc::new(other))).contains("classes of the validation set"));
}
