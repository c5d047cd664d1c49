//! Checkpoints over the images of a data set.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use incept::Error;
use incept::checkpoint::{Checkpoint, Metadata};
use incept::data::{
    self, CropTest, Dataset, Loader, LoaderOptions, OpenOptions, OpenedPart, open_part, with_classes,
};
use incept::gpu::Gpu;
use incept::infer::Classifier;
use incept::infer::{Assessment, Member, Scores, score};
use incept::optim::TrainingState;
use incept::tensor::Element;
use incept::untrusted::printable;

use super::Part;
use crate::Result;
use crate::data::{LoadArgs, say};
use crate::fit::Run;
use crate::record;
use crate::report::{Rate, Reporter, note, shown, thousands};

/// A checkpoint that is measured.
#[derive(Debug)]
pub(crate) struct Contestant<'a> {
    pub path: &'a Path,
    pub metadata: Metadata,
    /// With averaged parameters if it has them.
    pub state: TrainingState,
}

impl<'a> Contestant<'a> {
    pub(crate) fn load(path: &'a Path) -> Result<Self> {
        let Checkpoint { state, metadata } = record::load(path)?;
        Ok(Self { path, metadata, state: state.averaged() })
    }
}

/// A part of the data set that is named, or of what the first checkpoint was trained on; all
/// checkpoints must have its classes.
pub(crate) fn validation(
    contestants: &[Contestant<'_>],
    data: Option<String>,
    part: Part,
) -> Result<(String, Arc<dyn Dataset>)> {
    let first = contestants.first().ok_or_else(|| Error::Config("name a checkpoint".into()))?;
    // What held out means is the run's decision: its split must be made again alike.
    let run: Option<Run> = serde_json::from_value(first.metadata.run.clone()).ok();
    let what = data.or_else(|| run.as_ref().map(|r| r.data.clone()));
    let what = what.ok_or_else(|| Error::Config("name a data set: the checkpoint does not".into()))?;
    let options = run.map_or_else(OpenOptions::default, |r| OpenOptions {
        val_split: r.val_split,
        limit: r.limit,
        limit_seed: r.seed,
        ..OpenOptions::default()
    });
    let part = match part {
        Part::Validation => data::Part::Validation,
        Part::Train => data::Part::Train,
        Part::Test => data::Part::Test,
    };
    let OpenedPart { set, name, notes } = open_part(&what, &options, part)?;
    // The checkpoint says which classes there are: a part of a data set may lack some.
    let set = with_classes(set, &first.metadata.classes)?;
    let (images, classes) = (thousands(set.len() as u64), set.classes().len());
    note(&format!("data: {name}, {images} images of the {} set, {classes} classes", part.name()));
    say(&notes);
    for Contestant { path, metadata, .. } in &contestants[1..] {
        let other: Option<Run> = serde_json::from_value(metadata.run.clone()).ok();
        if let Some(other) = other.filter(|other| other.val_split.to_bits() != options.val_split.to_bits()) {
            note(&format!(
                "note: {} was trained with --val-split {} and {} with {}: where the data set has no test part, one has learned from images that are measured here",
                shown(first.path),
                options.val_split,
                shown(path),
                other.val_split
            ));
        }
    }
    for Contestant { path, metadata, .. } in contestants {
        if set.classes() != metadata.classes {
            let (here, there) = (set.classes().join(", "), metadata.classes.join(", "));
            let (here, there) = (printable(&here), printable(&there));
            let reason =
                format!("{} knows the classes {here}, and {} knows {there}", shown(first.path), shown(path));
            return Err(Error::Config(reason));
        }
    }
    Ok((what, set))
}

/// What is measured, and how.
pub(crate) struct Job<'a> {
    pub gpu: &'a Gpu,
    pub element: Element,
    pub set: Arc<dyn Dataset>,
    pub crops: CropTest,
    pub batch: usize,
    pub load: &'a LoadArgs,
    /// Mistakes that are kept.
    pub worst: usize,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Each checkpoint by itself.
    pub members: Vec<Assessment>,
    /// All of them, their softmaxes averaged.
    pub together: Assessment,
    pub classes: Vec<String>,
    pub images_per_s: f64,
    pub unreadable: usize,
}

impl Job<'_> {
    /// Classifies every image with every checkpoint; `observe` sees what they say.
    pub(crate) fn measure(
        &self,
        contestants: &[Contestant<'_>],
        reporter: &Reporter,
        mut observe: impl FnMut(&Scores),
    ) -> Result<Measured> {
        let Self { gpu, element, set, crops, batch, load, worst } = self;
        let views = crops.views();
        let mut members = Vec::with_capacity(contestants.len());
        for Contestant { metadata, state, .. } in contestants {
            let options = load.options(*batch, &metadata.preprocessing);
            // An image that cannot be read is missed in each of its crops.
            let options = LoaderOptions { max_bad: options.max_bad.saturating_mul(views), ..options };
            let loader = Loader::new(crops.of(Arc::clone(set), &metadata.preprocessing), options)?;
            let classifier =
                gpu.block_on(Classifier::new(gpu, &metadata.network, *batch, *element, state))?;
            members.push(Member { classifier, loader });
        }
        let blank = || Assessment::new(set.classes().len(), *worst);
        let (mut each, mut together): (Vec<Assessment>, _) =
            (contestants.iter().map(|_| blank()).collect(), blank());
        let mut rate = Rate::new();
        {
            let mut bar = reporter.bar("classifying", set.len() as u64);
            let mut done = 0;
            gpu.block_on(score(&mut members, views, |scores| {
                for (assessment, row) in each.iter_mut().zip(&scores.members) {
                    assessment.add(scores.image, scores.label, row);
                }
                together.add(scores.image, scores.label, &scores.mean());
                observe(&scores);
                done += 1;
                rate.add(1);
                let left = rate.left(set.len().saturating_sub(done));
                bar.update(done as u64, || format!("{:.0} images/s  {left} left", rate.per_second()));
                ControlFlow::Continue(())
            }))?;
        }
        let mut bad: Vec<(String, String)> = members.iter().flat_map(|m| m.loader.bad()).collect();
        bad.sort();
        bad.dedup();
        if !bad.is_empty() {
            note(&format!("{} unreadable images were passed over:", bad.len()));
            bad.iter().for_each(|(_, reason)| note(&format!("  {reason}")));
        }
        Ok(Measured {
            members: each,
            together,
            classes: set.classes().to_vec(),
            images_per_s: rate.per_second(),
            unreadable: bad.len(),
        })
    }
}
