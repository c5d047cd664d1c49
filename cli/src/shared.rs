//! What the Python package shares with the command: weights by their names, devices, and trainings
//! with the command's options and recipes. Not designed for others, and it may change in any
//! version.
//!
//! Messages name the command's flags; a program with other names can replace them ([`flags`]).

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use incept::checkpoint::Checkpoint;
use incept::data::list_images;
use incept::device::Device;
use incept::tensor::Element;
use incept::{Error, Result};
use serde::de::DeserializeOwned;

pub use crate::data::Source;
pub use crate::explain::{FlowOptions, gradient_flow};
use crate::options::{DeviceArgs, PrecisionArgs, PrecisionName};
pub use crate::train::{Training, TrainingOptions};
use crate::{record, report};

/// Which device to open.
#[derive(Clone, Debug, Default)]
pub struct DeviceSettings {
    /// `auto`, `cpu`, `gpu`, or an adapter's index or part of its name; `None` for `auto`.
    pub device: Option<String>,
    /// Threads of the CPU; `None` for one per core.
    pub threads: Option<usize>,
}

impl DeviceSettings {
    /// Opens the device, with the kernels that earlier runs chose by measuring.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] and errors of the device; [`Error::Config`] for threads of a GPU.
    pub fn open(&self) -> Result<Device> {
        self.args().open()
    }

    pub(crate) fn args(&self) -> DeviceArgs {
        DeviceArgs { device: self.device.clone(), threads: self.threads, ..DeviceArgs::default() }
    }
}

/// Loads a checkpoint, the best one of a run's folder, or weights by their name: `included`, or
/// `imagenet`, which are downloaded once.
///
/// # Errors
/// [`Error::Io`] or [`Error::Format`] naming the file, [`Error::NonFinite`] for weights with NaN.
pub fn load(path: &Path) -> Result<Checkpoint> {
    record::load(path)
}

/// The element type of activations on a device: `precision` is `f32`, `f16` or `auto`.
///
/// # Errors
/// [`Error::Unknown`] for another name.
pub fn element(device: &Device, precision: &str) -> Result<Element> {
    let precision = named::<PrecisionName>("precision", precision)?;
    Ok(PrecisionArgs { precision }.element(device))
}

/// The image files of a path: itself, or those in a folder.
///
/// # Errors
/// [`Error::Io`] or [`Error::Format`] naming a folder that cannot be read or has no images.
pub fn image_files(path: PathBuf) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path]);
    }
    let (files, _) = list_images(&path)?;
    if files.is_empty() { Err(Error::format(path, "has no images")) } else { Ok(files) }
}

/// Passes notes and progress lines, which the command prints to standard error, to a function.
pub fn listen(listener: fn(&str)) {
    report::listen(listener);
}

/// Replaces the library's fields in a message with the command's flags.
pub fn flags(text: &str) -> Cow<'_, str> {
    crate::flags::flags(text)
}

/// The value of an option with this name.
pub(crate) fn named<T: clap::ValueEnum>(what: &'static str, name: &str) -> Result<T> {
    T::from_str(name, false).map_err(|_| {
        let names: Vec<String> = T::value_variants()
            .iter()
            .filter_map(|value| Some(value.to_possible_value()?.get_name().to_string()))
            .collect();
        Error::Unknown { what, name: name.to_string(), known: format!("use {}", names.join(", ")) }
    })
}

/// Options from a value with the keys of a configuration file.
pub(crate) fn configured<T: DeserializeOwned>(value: serde_json::Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let key = e.path().to_string();
        // Without the section, which the caller may not have.
        let key = key.rsplit('.').next().unwrap_or_default().to_string();
        Error::Config(format!("--{key}: {}", e.into_inner()))
    })
}
