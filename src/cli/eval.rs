//! `incept eval`

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use incept::Error;
use incept::data::{Loader, OpenOptions};
use incept::train::{Classifier, Evaluation, InferenceGraph, evaluate};
use incept::weights::Checkpoint;
use serde::Serialize;

use super::data::{FORMATS, LoadArgs, describe, report_bad};
use super::fit::Run;
use super::options::{Common, PrecisionArgs};
use super::report::{Rate, Reporter};
use super::sweep::Subject;
use super::tune::Worth;
use super::{Outcome, Result};

/// Measure a checkpoint's accuracy on a data set.
///
/// The parameters are the averaged ones if the run averaged them.
#[derive(Args, Debug)]
#[command(after_long_help = FORMATS)]
pub(crate) struct Eval {
    /// The checkpoint.
    checkpoint: PathBuf,
    /// `digits`, or a folder with a data set [default: what the checkpoint was trained on].
    data: Option<String>,
    /// Which part of it.
    #[arg(long, value_name = "PART", default_value = "held-out", help_heading = "Data")]
    part: Part,
    /// Pictures of a batch.
    #[arg(long, value_name = "COUNT", default_value_t = 32)]
    batch: usize,
    /// Sweep the thresholds of early exit instead: which share of the pictures each softmax could answer, and what that costs and saves.
    ///
    /// A fifth of the pictures is set aside to fit a temperature for each softmax, so that its probabilities mean what they say; the
    /// others are measured. The threshold that saves most for at most half a point of accuracy is really run, against the whole
    /// network. Temperatures are kept in a file beside the checkpoint, where `incept classify --early-exit` finds them.
    #[arg(long, help_heading = "Early exit")]
    early_exit: bool,
    /// The sweep's plots, .png or .svg [default: incept-early-exit.png and incept-early-exit.svg].
    #[arg(long, value_name = "FILE", help_heading = "Early exit", requires = "early_exit")]
    plot: Vec<PathBuf>,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    HeldOut,
    Train,
}

#[derive(Serialize)]
struct ClassResult<'a> {
    class: &'a str,
    count: usize,
    correct: usize,
}

#[derive(Serialize)]
struct EvalResult<'a> {
    #[serde(flatten)]
    evaluation: &'a Evaluation,
    accuracy: f64,
    accuracy5: f64,
    images_per_s: f64,
    classes: &'a [ClassResult<'a>],
    unreadable: usize,
}

impl Eval {
    /// The sweep's files.
    fn plots(&self) -> Vec<PathBuf> {
        if !self.plot.is_empty() {
            return self.plot.clone();
        }
        ["incept-early-exit.png", "incept-early-exit.svg"].map(PathBuf::from).to_vec()
    }

    pub(crate) fn run(&self, common: &Common, reporter: &Reporter) -> Result {
        self.plots().iter().try_for_each(|path| super::plot::check(path))?;
        let Checkpoint { state, metadata } = Checkpoint::load(&self.checkpoint)?;
        // What held out means is the run's decision: its split must be made again alike.
        let run: Option<Run> = serde_json::from_value(metadata.run.clone()).ok();
        let what = self.data.clone().or_else(|| run.as_ref().map(|r| r.data.clone()));
        let what = what.ok_or_else(|| Error::Config("name a data set: the checkpoint does not".into()))?;
        let options = run.map_or_else(OpenOptions::default, |r| OpenOptions {
            held_out: r.held_out,
            limit: r.limit,
            seed: r.seed,
        });
        let data = describe(&what, &options)?;
        let set = if self.part == Part::Train { data.train } else { data.held_out };
        if set.classes() != metadata.classes {
            let (here, there) = (set.classes().join(", "), metadata.classes.join(", "));
            let reason = format!("{what} has the classes {here}, and the checkpoint knows {there}");
            return Err(Error::Config(reason));
        }
        let gpu = common.open()?;
        let loader = Loader::new(Arc::clone(&set), self.load.options(self.batch, &metadata.preprocessing))?;
        let (network, element) = (&metadata.network, self.precision.element(&gpu));
        common.tune(&gpu, reporter, Worth::Classifying, None, || {
            InferenceGraph::new(network, self.batch, element)?.plan(&gpu, None)
        })?;
        let state = state.averaged();
        if self.early_exit {
            super::early_exit::require_heads(&self.checkpoint, network.has_aux())?;
            let subject = Subject {
                gpu: &gpu,
                checkpoint: &self.checkpoint,
                network,
                state: &state,
                progress: &metadata.progress,
                element,
                set,
                data: &what,
                options: self.load.options(self.batch, &metadata.preprocessing),
            };
            subject.sweep(&self.plots(), reporter)?;
            return Ok(Outcome::Done);
        }
        let mut classifier = gpu.block_on(Classifier::new(&gpu, network, self.batch, element, &state))?;
        let mut classes: Vec<ClassResult<'_>> =
            metadata.classes.iter().map(|class| ClassResult { class, count: 0, correct: 0 }).collect();
        let mut rate = Rate::new();
        let evaluation = {
            let mut bar = reporter.bar("classifying", loader.len() as u64);
            let mut done = 0;
            gpu.block_on(evaluate(&mut classifier, &loader, |batch, rows| {
                let labels = batch.labels.iter().filter(|l| (**l as usize) < classes.len());
                for (row, label) in rows.iter().zip(labels.copied().collect::<Vec<_>>()) {
                    let class = &mut classes[label as usize];
                    class.count += 1;
                    let best = incept::train::top(row, 1);
                    class.correct += usize::from(best.first().is_some_and(|b| b.class == label as usize));
                }
                done += batch.count;
                rate.add(batch.count);
                let left = rate.left(loader.len().saturating_sub(done));
                bar.update(done as u64, || format!("{:.0} images/s  {left} left", rate.per_second()));
                ControlFlow::Continue(())
            }))?
        };
        report_bad(&loader);
        let width = classes.iter().map(|c| c.class.chars().count()).max().unwrap_or(0);
        for ClassResult { class, count, correct } in &classes {
            let share = 100.0 * *correct as f64 / (*count).max(1) as f64;
            reporter.line(&format!("{class:>width$}  {correct:>6} of {count:<6} {share:6.2}%"))?;
        }
        reporter.line(&format!(
            "top-1 {:.2}%  top-5 {:.2}%  loss {:.4}  {} pictures, {:.0} images/s",
            100.0 * evaluation.accuracy(),
            100.0 * evaluation.accuracy5(),
            evaluation.loss,
            evaluation.count,
            rate.per_second()
        ))?;
        reporter.event(&EvalResult {
            accuracy: evaluation.accuracy(),
            accuracy5: evaluation.accuracy5(),
            evaluation: &evaluation,
            images_per_s: rate.per_second(),
            classes: &classes,
            unreadable: loader.bad().len(),
        })?;
        Ok(Outcome::Done)
    }
}
