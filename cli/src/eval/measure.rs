//! Evaluation of checkpoints on a data set.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use incept::Error;
use incept::checkpoint::{Checkpoint, Metadata};
use incept::data::{self, CropTest, Dataset, Loader, OpenOptions, OpenedPart, open_part, with_classes};
use incept::device::Device;
use incept::infer::Classifier;
use incept::infer::{Assessment, Member, Scores, score};
use incept::low_level::untrusted::printable;
use incept::optim::TrainingState;
use incept::tensor::Element;

use super::Part;
use crate::Result;
use crate::data::{LoadArgs, note_all};
use crate::fit::Run;
use crate::record;
use crate::report::{Rate, Reporter, note, plural, shown};

/// A checkpoint to evaluate.
#[derive(Debug)]
pub(crate) struct Candidate<'a> {
    pub path: &'a Path,
    pub metadata: Metadata,
    /// With averaged parameters, if it has them.
    pub state: TrainingState,
}

impl<'a> Candidate<'a> {
    pub(crate) fn load(path: &'a Path) -> Result<Self> {
        let Checkpoint { state, metadata } = record::load(path)?;
        Ok(Self { path, metadata, state: state.averaged() })
    }
}

/// Opens a split of `data`, or of the data set that the first checkpoint was trained on. All
/// checkpoints must have its classes.
pub(crate) fn open_split(
    candidates: &[Candidate<'_>],
    data: Option<String>,
    part: Part,
) -> Result<(String, Arc<dyn Dataset>)> {
    let first = candidates.first().ok_or_else(|| Error::Config("no checkpoint given".into()))?;
    // Reproduces the run's split: its options decide which images are in the validation set.
    let run: Option<Run> = serde_json::from_value(first.metadata.run.clone()).ok();
    let what = data.or_else(|| run.as_ref().map(|r| r.data.clone()));
    let what =
        what.ok_or_else(|| Error::Config("give a data set: the checkpoint does not name one".into()))?;
    let options = run.map_or_else(OpenOptions::default, |r| {
        OpenOptions::default().val_split(r.val_split).limit(r.limit).limit_seed(r.seed)
    });
    let part = match part {
        Part::Validation => data::Part::Validation,
        Part::Train => data::Part::Train,
        Part::Test => data::Part::Test,
    };
    let OpenedPart { set, name, notes } = open_part(&what, &options, part)?;
    // The checkpoint defines the classes: a split may not have images of all of them.
    let set = with_classes(set, &first.metadata.classes)?;
    let (images, classes) = (plural(set.len() as u64, "image"), plural(set.classes().len() as u64, "class"));
    note(&format!("data: {name}, {images} of the {} set, {classes}", part.name()));
    note_all(&notes);
    for Candidate { path, metadata, .. } in &candidates[1..] {
        let other: Option<Run> = serde_json::from_value(metadata.run.clone()).ok();
        if let Some(other) = other.filter(|other| other.val_split.to_bits() != options.val_split.to_bits()) {
            note(&format!(
                "note: {} was trained with --val-split {} and {} with {}: one of them may have trained on images of this validation set",
                shown(first.path),
                options.val_split,
                shown(path),
                other.val_split
            ));
        }
    }
    for Candidate { path, metadata, .. } in candidates {
        if set.classes() != metadata.classes {
            let (here, there) = (set.classes().join(", "), metadata.classes.join(", "));
            let (here, there) = (printable(&here), printable(&there));
            let reason =
                format!("{} has the classes {here}, and {} has {there}", shown(first.path), shown(path));
            return Err(Error::Config(reason));
        }
    }
    Ok((what, set))
}

/// An evaluation: data and options.
pub(crate) struct Job<'a> {
    pub device: &'a Device,
    pub element: Element,
    pub set: Arc<dyn Dataset>,
    pub crops: CropTest,
    pub batch: usize,
    pub load: &'a LoadArgs,
    /// Number of mistakes to keep.
    pub worst: usize,
}

/// The result of an evaluation.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Each checkpoint.
    pub members: Vec<Assessment>,
    /// The ensemble: mean probabilities of all checkpoints.
    pub ensemble: Assessment,
    pub classes: Vec<String>,
    pub images_per_s: f64,
    pub unreadable: usize,
}

impl Job<'_> {
    /// Classifies every image with every checkpoint; `observe` is called with the probabilities.
    pub(crate) fn measure(
        &self,
        candidates: &[Candidate<'_>],
        reporter: &Reporter,
        mut observe: impl FnMut(&Scores),
    ) -> Result<Measured> {
        let Self { device, element, set, crops, batch, load, worst } = self;
        let views = crops.views();
        let mut members = Vec::with_capacity(candidates.len());
        for Candidate { metadata, state, .. } in candidates {
            let options = load.options(*batch, &metadata.preprocessing);
            // An unreadable image counts once for each of its crops.
            let max_bad = options.max_bad.saturating_mul(views);
            let loader =
                Loader::new(crops.of(Arc::clone(set), &metadata.preprocessing), options.max_bad(max_bad))?;
            let classifier =
                device.block_on(Classifier::new(*device, &metadata.network, *batch, *element, state))?;
            members.push(Member { classifier, loader });
        }
        let blank = || Assessment::new(set.classes().len(), *worst);
        let (mut each, mut ensemble): (Vec<Assessment>, _) =
            (candidates.iter().map(|_| blank()).collect(), blank());
        let mut rate = Rate::new();
        {
            let mut bar = reporter.bar("classifying", set.len() as u64);
            let mut done = 0;
            device.block_on(score(&mut members, views, |scores| {
                for (assessment, row) in each.iter_mut().zip(&scores.members) {
                    assessment.add(scores.image, scores.label, row);
                }
                ensemble.add(scores.image, scores.label, &scores.mean());
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
            note(&format!("skipped {}:", plural(bad.len() as u64, "unreadable image")));
            bad.iter().for_each(|(_, reason)| note(&format!("  {reason}")));
        }
        Ok(Measured {
            members: each,
            ensemble,
            classes: set.classes().to_vec(),
            images_per_s: rate.per_second(),
            unreadable: bad.len(),
        })
    }
}
