//! Import of pretrained weights: recognizes the network and its preprocessing.

use std::path::Path;

use super::{Checkpoint, Metadata, default_classes, validate};
use crate::data::Preprocessing;
use crate::error::{Error, Result};
use crate::formats::{Content, Foreign, Format};
use crate::model::{GoogLeNet, Pixels, Recognized, Variant};
use crate::optim::{Progress, TrainingState};
use crate::tensor::HostTensor;
use crate::text::plural;

/// Properties of a network that its file may lack: `ImportOptions::default().input(96)`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Height and width of the input in pixels [default: the file's, or 224].
    pub input: Option<usize>,
    /// The names of the classes [default: the file's, ImageNet's for 1000, or numbers].
    pub classes: Option<Vec<String>>,
    /// Preprocessing [default: the file's, or that of the publishers of its format].
    pub pixels: Option<Pixels>,
    /// Prefix of the network's tensors, for files with several networks.
    pub prefix: Option<String>,
}

impl ImportOptions {
    /// Height and width of the input in pixels.
    #[must_use]
    pub fn input(self, input: impl Into<Option<usize>>) -> Self {
        Self { input: input.into(), ..self }
    }

    /// The names of the classes.
    #[must_use]
    pub fn classes(self, classes: impl Into<Option<Vec<String>>>) -> Self {
        Self { classes: classes.into(), ..self }
    }

    /// Preprocessing.
    #[must_use]
    pub fn pixels(self, pixels: impl Into<Option<Pixels>>) -> Self {
        Self { pixels: pixels.into(), ..self }
    }

    /// Prefix of the network's tensors, for files with several networks.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<Option<String>>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }
}

impl Checkpoint {
    /// The network in a file of pretrained weights as a checkpoint, for inference and training, and
    /// the tensors that were skipped on purpose.
    ///
    /// # Errors
    /// [`Error::Weights`] with the names of all tensors that are missing, extra or have the wrong
    /// shape; [`Error::Format`] if it is not a GoogLeNet; [`Error::Config`] for options that do not
    /// match it.
    pub fn import(path: &Path, file: &Foreign, options: &ImportOptions) -> Result<(Self, Vec<String>)> {
        let own = Metadata::of(path, file)?;
        if own.is_some() && file.format == Format::Safetensors {
            let reason = "is a checkpoint of incept already: use it directly with classify and eval";
            return Err(Error::format(path, reason));
        }
        let mut recognized = GoogLeNet::recognize(path, file, options.prefix.as_deref())?;
        if let Some(own) = &own {
            // Dropout, smoothing and the like cannot be derived from shapes.
            let found = recognized.network;
            let aux_weight = if found.has_aux() { own.network.aux_weight } else { 0.0 };
            let (variant, classes) = (found.variant, found.classes);
            recognized.network =
                GoogLeNet { variant, classes, channels: found.channels, aux_weight, ..own.network.clone() };
        }
        if let Some(input) = options.input {
            recognized = recognized.with_input(path, input)?;
        }
        let Recognized { network, mut parameters, state, planes, ignored, .. } = recognized;
        let no_number = |tensor: &HostTensor| tensor.data.iter().any(|v| !v.is_finite());
        if let Some((name, _)) = parameters.iter().chain(&state).find(|(_, tensor)| no_number(tensor)) {
            let reason =
                format!("`{name}` has NaN or infinite values: training diverged, or values overflowed f16");
            return Err(Error::format(path, reason));
        }
        let pixels = match options.pixels {
            Some(pixels) => pixels,
            None => Pixels::usual(path, file, network.variant)?,
        };
        let (preprocessing, colors) = match (&own, options.pixels) {
            (Some(own), None) => {
                (Preprocessing { input: network.input, ..own.preprocessing.clone() }, [0, 1, 2])
            }
            _ => pixels.with(&planes, &network),
        };
        if colors != [0, 1, 2] {
            let first = network.first_weight();
            let weight = parameters.get_mut(&first).ok_or_else(|| Error::tensor(first, "is missing"))?;
            reorder(&mut weight.data, weight.dims.iter().skip(2).product(), colors);
        }
        let classes = match (&options.classes, own) {
            (Some(classes), _) => classes.clone(),
            (None, Some(own)) => own.classes,
            (None, None) => default_classes(network.classes),
        };
        if classes.len() != network.classes {
            return Err(Error::Config(format!(
                "the classifier of {} has {}, but the list has {}: write one class per line",
                path.display(),
                plural(network.classes, "class"),
                classes.len()
            )));
        }
        network.validate()?;
        let metadata = Metadata {
            version: env!("CARGO_PKG_VERSION").into(),
            network,
            classes,
            preprocessing,
            progress: Progress::default(),
            run: serde_json::Value::Null,
            command_line: Vec::new(),
        };
        let state = TrainingState { parameters, state, ..TrainingState::default() };
        validate::check(path, &metadata, &state)?;
        Ok((Self { state, metadata }, ignored))
    }
}

impl Pixels {
    /// The preprocessing in the file's description, or that of the publishers of weights in this
    /// format.
    ///
    /// # Errors
    /// [`Error::Format`] if the file's description is damaged.
    pub fn usual(path: &Path, file: &Foreign, variant: Variant) -> Result<Self> {
        if let Some(own) = Metadata::of(path, file)? {
            let Preprocessing { mean, std, .. } = own.preprocessing;
            return Ok(Self { bgr: false, mean, std });
        }
        Ok(match (&file.content, variant) {
            // PyTorch networks use the usual preprocessing of PyTorch's data sets, whatever their
            // layers are called.
            (Content::Graph(graph), Variant::Paper) if graph.producer.starts_with("pytorch") => {
                Self::IMAGENET
            }
            (Content::Layers(_), _) | (Content::Graph(_), Variant::Paper) => Self::CAFFE,
            // A graph contains the transform of its input.
            (Content::Graph(_), Variant::Torchvision) => Self::IMAGENET,
            (Content::Tensors(_), variant) => Self::of_tensors(variant),
        })
    }
}

/// Reorders the input channels of a first convolution: plane j moves to color `colors[j]`.
fn reorder(weight: &mut [f32], window: usize, colors: [usize; 3]) {
    for filter in weight.chunks_exact_mut(3 * window.max(1)) {
        let planes: Vec<f32> = filter.to_vec();
        for (plane, colour) in planes.chunks_exact(window.max(1)).zip(colors) {
            filter[colour * window..(colour + 1) * window].copy_from_slice(plane);
        }
    }
}
