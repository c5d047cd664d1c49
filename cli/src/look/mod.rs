//! `incept look`

mod features;
mod filters;
mod gradcam;
mod occlusion;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use image::RgbImage;
use incept::Error;
use incept::checkpoint::{Checkpoint, Metadata};
use incept::optim::TrainingState;

use super::classify::read;
use super::data::{ImageArgs, images};
use super::plot::class_label;
use super::raster::raster;
use super::record;
use super::report::{Reporter, note, shown};
use super::{Outcome, Result};

const EXAMPLES: &str = "Examples:
  incept look gradcam photos.safetensors cat.jpg dog.jpg       HiResCAM heat maps of every head
  incept look occlusion photos.safetensors cat.jpg             which parts of the image the class depends on
  incept look features photos.safetensors cat.jpg --layer inception_3b/output
  incept look filters photos.safetensors --output filters.svg  the first convolution's filters";

/// Visualize what a network has learned: HiResCAM and Grad-CAM, occlusion maps, feature maps,
/// filters.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Look {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Gradcam(gradcam::Gradcam),
    Occlusion(occlusion::OcclusionArgs),
    Features(features::FeaturesArgs),
    Filters(filters::FiltersArgs),
}

impl Look {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        match &self.what {
            What::Gradcam(command) => command.run(reporter),
            What::Occlusion(command) => command.run(reporter),
            What::Features(command) => command.run(reporter),
            What::Filters(command) => command.run(reporter),
        }
    }
}

/// Maximum number of images per figure.
const MOST: usize = 12;

/// A network to visualize, with averaged parameters if it has them.
struct Subject {
    metadata: Metadata,
    state: TrainingState,
}

/// An image, before and after normalization.
struct Seen {
    file: PathBuf,
    /// The resized square, before normalization.
    square: RgbImage,
    values: Vec<f32>,
}

impl Subject {
    fn load(path: &Path) -> Result<Self> {
        let Checkpoint { state, metadata } = record::load(path)?;
        Ok(Self { metadata, state: state.averaged() })
    }

    fn class(&self, class: usize) -> &str {
        self.metadata.classes.get(class).map_or("?", String::as_str)
    }

    /// The label of a class in the figure.
    fn label(&self, class: usize) -> String {
        class_label(self.class(class), class)
    }

    /// The index of a class by name.
    fn number(&self, name: &str) -> Result<usize> {
        let found = self.metadata.classes.iter().position(|c| c == name);
        found.ok_or_else(|| {
            let classes = self.metadata.classes.join(", ");
            Error::Config(format!("unknown class `{name}`; the classes are {classes}"))
        })
    }

    /// Reads the images that arguments name. Unreadable ones are skipped and reported, and the exit
    /// code is 1 then.
    fn see(&self, arguments: &[PathBuf], loading: &ImageArgs) -> Result<(Vec<Seen>, Outcome)> {
        loading.set_limit()?;
        let files = images(arguments)?;
        if files.len() > MOST {
            let reason = format!("{} images are too many for one figure: it has up to {MOST}", files.len());
            return Err(Error::Config(reason));
        }
        let see = |file: PathBuf| {
            let values = self.metadata.preprocessing.apply(&read(&file)?);
            let square = raster(&self.metadata.preprocessing.undo(&values));
            Ok(Seen { file, square, values })
        };
        let (mut seen, mut unreadable) = (Vec::new(), Vec::new());
        for result in files.into_iter().map(see) {
            match result {
                Ok(one) => seen.push(one),
                Err(error) => unreadable.push(error),
            }
        }
        let outcome = if unreadable.is_empty() { Outcome::Done } else { Outcome::Failed };
        match unreadable.pop() {
            Some(last) if seen.is_empty() => return Err(last),
            last => unreadable.extend(last),
        }
        unreadable.iter().for_each(|error| note(&format!("skipped: {error}")));
        Ok((seen, outcome))
    }
}

/// The file name without folders.
fn name(file: &Path) -> String {
    file.file_name().map_or_else(|| shown(file), |n| n.to_string_lossy().into_owned())
}
