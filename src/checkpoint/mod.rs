//! Checkpoints: safetensors files with everything that is needed to resume a run.
//!
//! Parameters and running statistics have their plain names (Caffe's layers for the paper's
//! variant, torchvision's names for the other). Optimizer vectors are called `optimizer.0.NAME` and
//! so on, averages `average.NAME`, the state of the loss scale `loss_scale/NAME`. The metadata has
//! the configuration as JSON under `incept`.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};

mod card;
mod description;
mod export;
mod import;
mod included;
mod validate;

pub use crate::model::Pixels;
pub use export::OnnxOptions;
pub use import::ImportOptions;
pub use included::INCLUDED;

use description::describe;

use crate::data::{Preprocessing, imagenet_classes};
use crate::error::{Error, Result};
use crate::formats::{Foreign, Format, MAX_HEADER, decode};
use crate::model::{GoogLeNet, Model};
use crate::optim::{Progress, TrainingState, is_loss_scale};
use crate::output::write_atomically;
use crate::tensor::HostTensor;
use crate::untrusted::{MAX_FILE_BYTES, MAX_TEXT_BYTES, open_regular, read_file, read_up_to};

/// The description of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelMetadata<M> {
    /// The version of the engine that wrote it.
    pub version: String,
    /// The network.
    pub network: M,
    /// The names of the classes.
    pub classes: Vec<String>,
    /// The preprocessing of images.
    pub preprocessing: Preprocessing,
    /// Training progress.
    pub progress: Progress,
    /// The configuration of the run, with the optimizer.
    pub run: serde_json::Value,
    /// The training command.
    pub command_line: Vec<String>,
}

/// The description of a GoogLeNet's checkpoint.
pub type Metadata = ModelMetadata<GoogLeNet>;

/// A trained network with everything that inference and further training need.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCheckpoint<M> {
    /// The weights and the optimizer's state.
    pub state: TrainingState,
    /// The description.
    pub metadata: ModelMetadata<M>,
}

/// A checkpoint of a GoogLeNet; for other networks use [`ModelCheckpoint`].
pub type Checkpoint = ModelCheckpoint<GoogLeNet>;

/// Key of the metadata in files.
pub(super) const KEY: &str = "incept";

/// Rounds a parameter to f16.
fn in_half(name: &str, values: &[f32]) -> Result<Vec<half::f16>> {
    let rounded: Vec<half::f16> = values.iter().map(|v| half::f16::from_f32(*v)).collect();
    match values.iter().zip(&rounded).find(|(value, half)| value.is_finite() && !half.is_finite()) {
        Some((value, _)) => Err(Error::tensor(name, format!("{value} overflows f16: keep it in f32"))),
        None => Ok(rounded),
    }
}

impl<M: Model> ModelCheckpoint<M> {
    /// The file's content.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tensor's shape does not match its number of elements.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.serialized(false)
    }

    /// The file's content with parameters as f16: half the size, for inference. Running statistics
    /// stay f32, as variances can be too small for f16.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a parameter overflows f16, or a tensor's shape does not match its
    /// number of elements.
    pub fn to_half_bytes(&self) -> Result<Vec<u8>> {
        self.serialized(true)
    }

    fn serialized(&self, half: bool) -> Result<Vec<u8>> {
        let mut tensors: Vec<(String, &HostTensor)> = Vec::new();
        let plain = self.state.parameters.iter().chain(&self.state.state);
        tensors.extend(plain.map(|(name, tensor)| (name.clone(), tensor)));
        for (i, slot) in self.state.slots.iter().enumerate() {
            tensors.extend(slot.iter().map(|(name, tensor)| (format!("optimizer.{i}.{name}"), tensor)));
        }
        let average = self.state.average.iter().flatten();
        tensors.extend(average.map(|(name, tensor)| (format!("average.{name}"), tensor)));
        // torchvision counts batches in each batch norm; this is the number of steps.
        let steps = i64::try_from(self.state.progress.step).unwrap_or(i64::MAX).to_le_bytes();
        let statistics: Vec<&str> = self.state.state.keys().map(String::as_str).collect();
        let counters = self.metadata.network.step_counters(&statistics);
        let invalid = |name: &str, e: safetensors::SafeTensorError| Error::tensor(name, e.to_string());
        let rounded: Vec<Option<Vec<half::f16>>> = tensors
            .iter()
            .map(|(name, tensor)| {
                let halves = half && self.state.parameters.contains_key(name);
                halves.then(|| in_half(name, &tensor.data)).transpose()
            })
            .collect::<Result<_>>()?;
        let mut views = Vec::new();
        for ((name, tensor), rounded) in tensors.iter().zip(&rounded) {
            let (kind, bytes): (Dtype, &[u8]) = match rounded {
                Some(halves) => (Dtype::F16, bytemuck::cast_slice(halves)),
                None => (Dtype::F32, bytemuck::cast_slice(&tensor.data)),
            };
            let view = TensorView::new(kind, tensor.dims.clone(), bytes).map_err(|e| invalid(name, e))?;
            views.push((name.clone(), view));
        }
        for name in &counters {
            let view = TensorView::new(Dtype::I64, Vec::new(), &steps).map_err(|e| invalid(name, e))?;
            views.push((name.clone(), view));
        }
        let json = serde_json::to_string(&self.metadata).map_err(Error::unwritable)?;
        if json.len() > MAX_HEADER / 2 {
            let reason = format!(
                "the names of {} classes are too long for the file's description",
                self.metadata.classes.len()
            );
            return Err(Error::tensor(KEY, reason));
        }
        let metadata = HashMap::from([(KEY.to_string(), json), ("format".to_string(), "pt".to_string())]);
        safetensors::serialize(views, Some(metadata)).map_err(|e| invalid("checkpoint", e))
    }

    /// Writes the file atomically: a temporary file is synced and renamed.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file; a previous version is kept then.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, &self.to_bytes()?)
    }

    /// The training progress of a checkpoint, from the header of its file; tensors are not read.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file.
    pub fn progress_of(path: &Path) -> Result<Progress> {
        #[derive(Deserialize)]
        struct Description {
            progress: Progress,
        }
        let damaged = || Error::format(path, "does not start with the header of a checkpoint");
        let (mut file, length) = open_regular(path)?;
        let mut size = [0; 8];
        file.read_exact(&mut size).map_err(|e| Error::io(path, e))?;
        let size = u64::from_le_bytes(size);
        if size > length.min(MAX_TEXT_BYTES) {
            return Err(damaged());
        }
        let header = read_up_to(file.take(size), size).map_err(|e| Error::io(path, e))?;
        let header: serde_json::Value =
            header.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(damaged)?;
        let text = header.pointer(&format!("/__metadata__/{KEY}")).and_then(serde_json::Value::as_str);
        let description = text.and_then(|text| serde_json::from_str::<Description>(text).ok());
        description
            .map(|d| d.progress)
            .ok_or_else(|| Error::format(path, "has no training progress in its description"))
    }

    /// Reads a file of [`Checkpoint::save`], or any safetensors file with the weights of a
    /// GoogLeNet. Missing properties get the variant's defaults; classes are named by their
    /// numbers, or as in ImageNet if there are 1000.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file, and the inconsistent field or tensor.
    pub fn load(path: &Path) -> Result<Self> {
        Self::from_bytes(path, &read_file(path, MAX_FILE_BYTES)?)
    }

    /// As [`Checkpoint::load`], from the content of a file; `path` is only used in messages.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        let (tensors, strings) = decode(path, bytes)?;
        let mut state = TrainingState::default();
        for (name, tensor) in tensors {
            let slot = name.strip_prefix("optimizer.").and_then(|rest| rest.split_once('.'));
            if let Some((number, name)) = slot {
                let number: usize = number.parse().ok().filter(|n| *n < 8).ok_or_else(|| {
                    Error::format(path, format!("`optimizer.{number}` is not an optimizer vector"))
                })?;
                if state.slots.len() <= number {
                    state.slots.resize(number + 1, BTreeMap::new());
                }
                state.slots[number].insert(name.to_string(), tensor);
            } else if let Some(name) = name.strip_prefix("average.") {
                state.average.get_or_insert_default().insert(name.to_string(), tensor);
            } else if name.ends_with("running_mean") || name.ends_with("running_var") || is_loss_scale(&name)
            {
                state.state.insert(name, tensor);
            } else if !name.ends_with("num_batches_tracked") {
                state.parameters.insert(name, tensor);
            }
        }
        let metadata = match strings.get(KEY) {
            Some(json) => describe(path, json)?,
            None => ModelMetadata::guess(&state).map_err(|e| {
                let reason =
                    format!("is not an incept checkpoint, and {e}; use `incept import` for pretrained weights of other programs");
                Error::format(path, reason)
            })?,
        };
        state.progress = metadata.progress.clone();
        validate::check(path, &metadata, &state)?;
        Ok(Self { state, metadata })
    }
}

impl<M: Model> ModelMetadata<M> {
    /// The description in a file that incept wrote: a checkpoint or an ONNX export. `None` in other
    /// files.
    ///
    /// # Errors
    /// [`Error::Format`] naming the field that cannot be read.
    pub fn of(path: &Path, file: &Foreign) -> Result<Option<Self>> {
        let known = matches!(file.format, Format::Safetensors | Format::Onnx);
        file.metadata.get(KEY).filter(|_| known).map(|json| describe(path, json)).transpose()
    }

    /// The description that follows from the shapes of the weights.
    fn guess(state: &TrainingState) -> Result<Self> {
        let shapes =
            state.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.dims.clone())).collect();
        let (network, preprocessing) = M::recognize(&shapes)?;
        Ok(Self {
            version: String::new(),
            classes: default_classes(network.class_count()),
            network,
            preprocessing,
            progress: Progress::default(),
            run: serde_json::Value::Null,
            command_line: Vec::new(),
        })
    }
}

/// Default names of classes: ImageNet's if there are 1000, else numbers.
pub(super) fn default_classes(count: usize) -> Vec<String> {
    let names = imagenet_classes();
    if count == names.len() { names } else { (0..count).map(|class| class.to_string()).collect() }
}
