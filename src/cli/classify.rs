//! `incept classify`

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use incept::Error;
use incept::data::Picture;
use incept::train::{Classifier, InferenceGraph, Prediction};
use incept::weights::Checkpoint;
use serde::Serialize;

use super::data::pictures;
use super::options::{Common, PrecisionArgs};
use super::report::{Reporter, note, share_bar, shown};
use super::tune::Worth;
use super::{Outcome, Result};

/// Tell what is on pictures: the most probable classes of each.
///
/// Pictures that cannot be read are named, and the exit code is 1 then.
#[derive(Args, Debug)]
pub(crate) struct Classify {
    /// The checkpoint.
    checkpoint: PathBuf,
    /// Pictures, folders with pictures, or `-` for one picture on standard input.
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// How many classes to print for each picture.
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    top: usize,
    /// Pictures of a batch.
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    batch: usize,
    #[command(flatten)]
    precision: PrecisionArgs,
}

#[derive(Serialize)]
struct Line<'a> {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    predictions: Option<Vec<Named<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Named<'a> {
    class: &'a str,
    probability: f32,
}

fn read(path: &Path) -> Result<Picture> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        read.map_err(|e| Error::io("standard input", e))?;
        bytes
    } else {
        std::fs::read(path).map_err(|e| Error::io(path, e))?
    };
    Picture::decode(&bytes).map_err(|reason| Error::format(path, reason))
}

impl Classify {
    pub(crate) fn run(&self, common: &Common, reporter: &Reporter) -> Result {
        let Checkpoint { state, metadata } = Checkpoint::load(&self.checkpoint)?;
        let files = pictures(&self.pictures)?;
        let gpu = common.open()?;
        let batch = self.batch.clamp(1, files.len().max(1));
        let (network, element) = (&metadata.network, self.precision.element(&gpu));
        common.tune(&gpu, reporter, Worth::Classifying, None, || {
            InferenceGraph::new(network, batch, element)?.plan(&gpu, None)
        })?;
        let state = state.averaged();
        let mut classifier = gpu.block_on(Classifier::new(&gpu, network, batch, element, &state))?;
        let mut failed = 0;
        for chunk in files.chunks(batch) {
            let mut readable = Vec::new();
            for file in chunk {
                match read(file) {
                    Ok(picture) => readable.push((file, metadata.preprocessing.apply(&picture))),
                    Err(error) => {
                        failed += 1;
                        note(&format!("passed over: {error}"));
                        let error = Some(error.to_string());
                        reporter.event(&Line { file: shown(file), predictions: None, error })?;
                    }
                }
            }
            let (names, values): (Vec<_>, Vec<_>) = readable.into_iter().unzip();
            let results = gpu.block_on(classifier.classify(&values))?;
            for (file, predictions) in names.iter().zip(&results) {
                let top = &predictions[..self.top.min(predictions.len())];
                print(file, top, &metadata.classes, reporter)?;
            }
        }
        if failed > 0 {
            note(&format!("{failed} of {} pictures could not be read", files.len()));
            return Ok(Outcome::Failed);
        }
        Ok(Outcome::Done)
    }
}

/// Prints the classes of one picture.
fn print(file: &Path, top: &[Prediction], classes: &[String], reporter: &Reporter) -> Result<()> {
    let name = |p: &Prediction| classes.get(p.class).map_or("?", String::as_str);
    let width = top.iter().map(|p| name(p).chars().count()).max().unwrap_or(0);
    reporter.line(&shown(file))?;
    for p in top {
        let (bar, percent) = (share_bar(p.probability, 24), 100.0 * p.probability);
        reporter.line(format!("  {:<width$}  {percent:5.1}%  {bar}", name(p)).trim_end())?;
    }
    let named = |p: &Prediction| Named { class: name(p), probability: p.probability };
    let predictions = Some(top.iter().map(named).collect());
    reporter.event(&Line { file: shown(file), predictions, error: None })
}
