//! From a file of others to a checkpoint: the network that is recognised in it, and how images
//! become what it was trained on.

use std::path::Path;

use super::{Checkpoint, Metadata, default_classes, validate};
use crate::data::Preprocessing;
use crate::error::{Error, Result};
use crate::formats::{Content, Foreign, Format};
use crate::model::{GoogLeNet, Pixels, Recognised, Variant};
use crate::optim::{Progress, TrainingState};
use crate::tensor::HostTensor;

/// What a file does not say about its network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportOptions {
    /// Height and width of the input in pixels [default: what the file says, or 224].
    pub input: Option<usize>,
    /// The names of the classes [default: what the file says, ImageNet's for 1000, or numbers].
    pub classes: Option<Vec<String>>,
    /// How pixels are made [default: what the file says, or as the publishers of its format do].
    pub pixels: Option<Pixels>,
    /// What stands before the names of the network's tensors, where a file has several networks.
    pub prefix: Option<String>,
}

impl Checkpoint {
    /// The network in a file of others, as a checkpoint to classify with and to train from; what
    /// was left out knowingly.
    ///
    /// # Errors
    /// [`Error::Weights`] with the names of all tensors that are missing, extra or misshapen;
    /// [`Error::Format`] if it is no GoogLeNet; [`Error::Config`] for options that do not fit it.
    pub fn import(path: &Path, file: &Foreign, options: &ImportOptions) -> Result<(Self, Vec<String>)> {
        let own = Metadata::of(path, file)?;
        if own.is_some() && file.format == Format::Safetensors {
            let reason = "is a checkpoint of incept already: classify and eval take it as it is";
            return Err(Error::format(path, reason));
        }
        let mut recognised = GoogLeNet::recognise(path, file, options.prefix.as_deref())?;
        if let Some(own) = &own {
            // Shapes do not tell dropout, smoothing and the like.
            let found = recognised.network;
            let aux_weight = if found.has_aux() { own.network.aux_weight } else { 0.0 };
            let (variant, classes) = (found.variant, found.classes);
            recognised.network =
                GoogLeNet { variant, classes, channels: found.channels, aux_weight, ..own.network.clone() };
        }
        if let Some(input) = options.input {
            recognised = recognised.with_input(path, input)?;
        }
        let Recognised { network, mut parameters, state, planes, ignored, .. } = recognised;
        let no_number = |tensor: &HostTensor| tensor.data.iter().any(|v| !v.is_finite());
        if let Some((name, _)) = parameters.iter().chain(&state).find(|(_, tensor)| no_number(tensor)) {
            let reason = format!(
                "`{name}` has values that are no numbers: training diverged, or they were too large for f16"
            );
            return Err(Error::format(path, reason));
        }
        let pixels = match options.pixels {
            Some(pixels) => pixels,
            None => Pixels::usual(path, file, network.variant)?,
        };
        let (preprocessing, colours) = match (&own, options.pixels) {
            (Some(own), None) => {
                (Preprocessing { input: network.input, ..own.preprocessing.clone() }, [0, 1, 2])
            }
            _ => pixels.with(&planes, &network),
        };
        if colours != [0, 1, 2] {
            let first = network.first_weight();
            let weight = parameters.get_mut(&first).ok_or_else(|| Error::tensor(first, "is missing"))?;
            reorder(&mut weight.data, weight.dims.iter().skip(2).product(), colours);
        }
        let classes = match (&options.classes, own) {
            (Some(classes), _) => classes.clone(),
            (None, Some(own)) => own.classes,
            (None, None) => default_classes(network.classes),
        };
        if classes.len() != network.classes {
            return Err(Error::Config(format!(
                "the classifier of {} has {} classes, and {} are named: a list of classes has one line for each",
                path.display(),
                network.classes,
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
    /// What the file says it was trained with, or what the publishers of weights in this format
    /// did.
    ///
    /// # Errors
    /// [`Error::Format`] if the file's description is damaged.
    pub fn usual(path: &Path, file: &Foreign, variant: Variant) -> Result<Self> {
        if let Some(own) = Metadata::of(path, file)? {
            let Preprocessing { mean, std, .. } = own.preprocessing;
            return Ok(Self { bgr: false, mean, std });
        }
        Ok(match (&file.content, variant) {
            // PyTorch's networks take what its data sets give, whatever their layers are called.
            (Content::Graph(graph), Variant::Paper) if graph.producer.starts_with("pytorch") => {
                Self::IMAGENET
            }
            (Content::Layers(_), _) | (Content::Graph(_), Variant::Paper) => Self::CAFFE,
            // A graph says itself whether it transforms its input.
            (Content::Graph(_), Variant::Torchvision) => Self::IMAGENET,
            (Content::Tensors(_), variant) => Self::of_tensors(variant),
        })
    }
}

/// Puts the input channels of a first convolution in the order of `colours`: plane j moves to
/// colour number `colours[j]`.
fn reorder(weight: &mut [f32], window: usize, colours: [usize; 3]) {
    for filter in weight.chunks_exact_mut(3 * window.max(1)) {
        let planes: Vec<f32> = filter.to_vec();
        for (plane, colour) in planes.chunks_exact(window.max(1)).zip(colours) {
            filter[colour * window..(colour + 1) * window].copy_from_slice(plane);
        }
    }
}
