//! Data sets: pictures with labels, read from the formats that people have, turned into batches.

mod augment;
mod cifar;
mod crops;
mod digits;
mod folder;
mod idx;
mod loader;
mod preprocess;
mod split;

pub use augment::{AreaCrop, Augmentation};
pub use crops::{CropSet, CropTest};
pub use digits::{Digits, digits};
pub use folder::{Folder, is_picture};
pub use loader::{Batch, Loader, LoaderOptions};
pub use preprocess::{Fit, Preprocessing};
pub use split::{Subset, permutation, stratified};

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

/// A decoded picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 for grey, 3 for red, green and blue.
    pub channels: usize,
    /// height x width x channels values from 0 to 255.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// Decodes what the `image` crate reads. Grey pictures stay grey, everything else becomes RGB; transparency shows white.
    ///
    /// # Errors
    /// The decoder's words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let picture = image::load_from_memory(bytes).map_err(|e| e.to_string())?;
        Ok(Self::from_image(&picture))
    }

    /// Takes up a picture of the `image` crate.
    pub fn from_image(picture: &image::DynamicImage) -> Self {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let color = picture.color();
        if !color.has_color() && !color.has_alpha() {
            return Self { width, height, channels: 1, pixels: picture.to_luma8().into_raw() };
        }
        let mut pixels = Vec::with_capacity(width * height * 3);
        for pixel in picture.to_rgba8().pixels() {
            let [rgb @ .., alpha] = pixel.0;
            let alpha = u32::from(alpha);
            // A weighted mean of two bytes is a byte.
            pixels.extend(rgb.map(|v| ((u32::from(v) * alpha + 255 * (255 - alpha) + 127) / 255) as u8));
        }
        Self { width, height, channels: 3, pixels }
    }
}

/// Pictures with labels. Reading one must not change anything: workers read at the same time.
pub trait Dataset: Send + Sync + Debug {
    /// Number of pictures.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of the classes, by number.
    fn classes(&self) -> &[String];

    /// The class of a picture.
    fn label(&self, index: usize) -> u32;

    /// A picture.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file.
    fn picture(&self, index: usize) -> Result<Picture>;

    /// What messages call a picture: its file, or its place.
    fn name(&self, index: usize) -> String;
}

/// Pictures of one size in memory.
#[derive(Clone, Debug)]
pub(crate) struct InMemory {
    pub source: String,
    pub classes: Vec<String>,
    pub width: usize,
    pub height: usize,
    pub channels: usize,
    /// All pictures one after another, height x width x channels each.
    pub pixels: Vec<u8>,
    pub labels: Vec<u8>,
}

impl Dataset for InMemory {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> u32 {
        u32::from(self.labels[index])
    }

    fn picture(&self, index: usize) -> Result<Picture> {
        let size = self.width * self.height * self.channels;
        let pixels = self.pixels[index * size..(index + 1) * size].to_vec();
        Ok(Picture { width: self.width, height: self.height, channels: self.channels, pixels })
    }

    fn name(&self, index: usize) -> String {
        format!("{} #{index}", self.source)
    }
}

/// A data set with the part that is held out of training.
#[derive(Clone, Debug)]
pub struct OpenedData {
    /// What to train on.
    pub train: Arc<dyn Dataset>,
    /// What to test on.
    pub held_out: Arc<dyn Dataset>,
    /// What it is, for people.
    pub name: String,
    /// The augmentation that suits this kind of pictures: digits must not be mirrored.
    pub suits: Augmentation,
}

/// How to open a data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpenOptions {
    /// Share that is held out where the format has no fixed test part.
    pub held_out: f64,
    /// Use at most this many training pictures, chosen evenly over the classes.
    pub limit: Option<usize>,
    /// Seed of the split.
    pub seed: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { held_out: 0.2, limit: None, seed: 0 }
    }
}

/// Opens `digits` (the embedded set), a folder with MNIST's idx files (plain or gz), a folder with CIFAR's binary files, or a
/// folder whose sub-folders are the classes, by itself or under `train` and `val` or `test`.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be read, [`Error::Format`] if it is none of these or a file is damaged.
pub fn open(what: &str, options: &OpenOptions) -> Result<OpenedData> {
    let Found { train, held_out, name, suits } = find(what)?;
    let (train, held_out) = match held_out {
        Some(held_out) => (train, held_out),
        None => {
            let (rest, part) = stratified(train.as_ref(), options.held_out, options.seed);
            if rest.is_empty() || part.is_empty() {
                let reason = format!("{} pictures cannot be split into two parts", train.len());
                return Err(Error::format(what, reason));
            }
            let part: Arc<dyn Dataset> = Arc::new(Subset::new(Arc::clone(&train), part));
            (Arc::new(Subset::new(train, rest)) as Arc<dyn Dataset>, part)
        }
    };
    let train = match options.limit {
        Some(limit) if limit < train.len() => {
            let share = limit as f64 / train.len() as f64;
            let (_, mut chosen) = stratified(train.as_ref(), share, options.seed);
            // Each class rounds its share by itself.
            chosen.truncate(limit);
            Arc::new(Subset::new(train, chosen)) as Arc<dyn Dataset>
        }
        _ => train,
    };
    Ok(OpenedData { train, held_out, name, suits })
}

/// A data set that may have no fixed test part.
struct Found {
    train: Arc<dyn Dataset>,
    held_out: Option<Arc<dyn Dataset>>,
    name: String,
    suits: Augmentation,
}

fn find(what: &str) -> Result<Found> {
    let found =
        |train: Arc<dyn Dataset>, held_out, name: String, suits| Found { train, held_out, name, suits };
    if what == "digits" {
        let name = "UCI handwritten digits".to_string();
        return Ok(found(Arc::new(digits()?), None, name, Augmentation::shifts()));
    }
    let folder = Path::new(what);
    if !folder.is_dir() {
        let reason = "is neither `digits` nor a folder; see --help for the formats";
        return Err(Error::format(folder, reason));
    }
    if let Some((train, test)) = idx::open(folder)? {
        let name = format!("idx files in {what}");
        return Ok(found(Arc::new(train), Some(Arc::new(test)), name, Augmentation::shifts()));
    }
    if let Some((train, test)) = cifar::open(folder)? {
        let name = format!("CIFAR files in {what}");
        return Ok(found(Arc::new(train), Some(Arc::new(test)), name, Augmentation::standard()));
    }
    let name = format!("pictures in {what}");
    let train = folder.join("train");
    if !train.is_dir() {
        return Ok(found(Arc::new(Folder::open(folder)?), None, name, Augmentation::standard()));
    }
    let train = Folder::open(&train)?;
    let test = ["val", "test", "valid"].map(|n| folder.join(n)).into_iter().find(|p| p.is_dir());
    let held_out = match test {
        Some(test) => Some(Arc::new(Folder::open_with(&test, train.classes())?) as Arc<dyn Dataset>),
        None => None,
    };
    Ok(found(Arc::new(train), held_out, name, Augmentation::standard()))
}

/// Reads a file, unpacked if its name ends in `.gz`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    if path.extension().is_none_or(|e| e != "gz") {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes.as_slice()), &mut unpacked)
        .map_err(|e| Error::format(path, format!("cannot be unpacked: {e}")))?;
    Ok(unpacked)
}

/// The first of these files that exists in a folder, plain or gz.
pub(crate) fn first_of(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    let candidates = names.iter().flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))]);
    candidates.into_iter().find(|path| path.is_file())
}
