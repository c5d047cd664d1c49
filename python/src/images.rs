//! Images from Python: paths and arrays.

use std::path::PathBuf;
use std::sync::Arc;

use image::{DynamicImage, RgbaImage};
use incept::data::{Dataset, Image, InMemory};
use incept::{Error, Result};
use incept_cli::shared::Source;
use numpy::{PyReadonlyArray3, PyUntypedArrayMethods as _};
use pyo3::prelude::*;

/// An image as the Python side passes it: a contiguous array of height x width x channels, or a
/// file.
#[derive(FromPyObject)]
pub(crate) enum Item<'py> {
    #[pyo3(transparent)]
    Array(PyReadonlyArray3<'py, u8>),
    #[pyo3(transparent)]
    File(PathBuf),
}

/// An image without Python: its pixels, or a file that is read later.
#[derive(Debug)]
pub(crate) enum Loaded {
    Pixels { size: [usize; 3], pixels: Vec<u8> },
    File(PathBuf),
}

/// Copies arrays, so that the GIL can be released.
pub(crate) fn loaded(items: Vec<Item<'_>>) -> PyResult<Vec<Loaded>> {
    let copied = |item| match item {
        Item::Array(array) => {
            let size = [array.shape()[0], array.shape()[1], array.shape()[2]];
            Ok(Loaded::Pixels { size, pixels: array.as_slice()?.to_vec() })
        }
        Item::File(path) => Ok(Loaded::File(path)),
    };
    items.into_iter().map(copied).collect()
}

impl Loaded {
    /// The image: one channel is grey, three are RGB, four are RGBA, which is blended with white as
    /// in files.
    pub(crate) fn image(self) -> Result<Image> {
        let ([height, width, channels], pixels) = match self {
            Self::File(path) => return Image::read(&path),
            Self::Pixels { size, pixels } => (size, pixels),
        };
        let invalid =
            |reason: String| Error::Config(format!("an array of {height} x {width} x {channels} {reason}"));
        if channels == 4 {
            let size = u32::try_from(width).ok().zip(u32::try_from(height).ok());
            let image = size.and_then(|(width, height)| RgbaImage::from_raw(width, height, pixels));
            let image = image.ok_or_else(|| invalid("is too large".into()))?;
            return Ok(Image::from_image(&DynamicImage::ImageRgba8(image)));
        }
        let image = Image { width, height, channels, pixels };
        image.check().map_err(invalid)?;
        Ok(image)
    }
}

/// Labelled images.
#[derive(Debug)]
pub(crate) struct Labelled {
    pub images: Vec<Loaded>,
    pub labels: Vec<u32>,
}

impl Labelled {
    fn dataset(self, classes: &[String]) -> Result<Arc<dyn Dataset>> {
        let mut set = InMemory::new(classes.iter().cloned());
        for (image, label) in self.images.into_iter().zip(self.labels) {
            set.push(image.image()?, label)?;
        }
        Ok(Arc::new(set))
    }
}

/// A data set in memory, before its files are read.
#[derive(Debug)]
pub(crate) struct Memory {
    pub classes: Vec<String>,
    pub train: Labelled,
    pub validation: Option<Labelled>,
}

impl Memory {
    pub(crate) fn source(self) -> Result<Source> {
        let train = self.train.dataset(&self.classes)?;
        let validation = self.validation.map(|set| set.dataset(&self.classes)).transpose()?;
        Ok(Source { train, validation })
    }
}

/// Labelled images as the Python side passes them.
pub(crate) type LabelledItems<'py> = (Vec<Item<'py>>, Vec<u32>);

/// A data set in memory as the Python side passes it: classes, training and validation images.
pub(crate) type MemoryItems<'py> = (Vec<String>, LabelledItems<'py>, Option<LabelledItems<'py>>);

/// Copies a data set.
pub(crate) fn memory((classes, train, validation): MemoryItems<'_>) -> PyResult<Memory> {
    let labelled =
        |(items, labels): LabelledItems<'_>| Ok::<_, PyErr>(Labelled { images: loaded(items)?, labels });
    Ok(Memory { classes, train: labelled(train)?, validation: validation.map(labelled).transpose()? })
}
