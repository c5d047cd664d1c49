//! From a file of others to a checkpoint: the network that is recognised in it, and how images
//! become what it was trained on.

use std::path::Path;

use super::{Checkpoint, Metadata, default_classes, validate};
use crate::data::{Fit, IMAGENET_CROP, Preprocessing};
use crate::error::{Error, Result};
use crate::formats::{Content, Foreign, Format};
use crate::model::{GoogLeNet, Plane, Recognised, Variant};
use crate::optim::{Progress, TrainingState};
use crate::tensor::HostTensor;

/// Classes of ImageNet, and the side that networks take its images with.
const IMAGENET_CLASSES: usize = 1000;
const IMAGENET_INPUT: usize = 224;

/// How the pixels that a network was trained with were made from images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pixels {
    /// Whether the network's first channel is blue.
    pub bgr: bool,
    /// What is taken from red, green and blue, where 0 is black and 1 is 255.
    pub mean: [f32; 3],
    /// What they are divided by then, on the same scale.
    pub std: [f32; 3],
}

impl Pixels {
    /// Red, green and blue with ImageNet's mean and standard deviation: what torchvision's
    /// `googlenet` takes with `transform_input=False`.
    pub const IMAGENET: Self = Self { bgr: false, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// From -1 to 1: what torchvision's `googlenet` makes of its input with `transform_input=True`,
    /// as its ImageNet weights need it. The normalisation with ImageNet's numbers is undone there:
    /// ((p - m) / s) (s / 0.5) + (m - 0.5) / 0.5 = (p - 0.5) / 0.5.
    pub const TRANSFORM_INPUT: Self = Self { bgr: false, mean: [0.5; 3], std: [0.5; 3] };

    /// Blue, green and red from 0 to 255 without their means 104, 117 and 123, as Caffe's
    /// `bvlc_googlenet` has it.
    pub const CAFFE: Self =
        Self { bgr: true, mean: [123.0 / 255.0, 117.0 / 255.0, 104.0 / 255.0], std: [1.0 / 255.0; 3] };

    /// These pixels of images as the publishers of such weights measured them: 224 pixels from the
    /// middle of 256, where Caffe squashes images to 256 x 256. Small images of other classes were
    /// not resized to be cut.
    pub(super) fn preprocessing(self, network: &GoogLeNet) -> Preprocessing {
        let Self { mean, std, .. } = self;
        let plain = Preprocessing { mean, std, ..Preprocessing::new(network.input) };
        if network.classes != IMAGENET_CLASSES && network.input < IMAGENET_INPUT {
            return plain;
        }
        let fit = if self.bgr { Fit::Squash } else { Fit::Crop };
        Preprocessing { fit, crop_pct: IMAGENET_CROP, ..plain }
    }

    /// What the network gets from images after the planes, as preprocessing of red, green and blue;
    /// and for each plane which of them it is.
    fn with(self, planes: &[Plane; 3], network: &GoogLeNet) -> (Preprocessing, [usize; 3]) {
        let mut preprocessing = self.preprocessing(network);
        let colours = planes.map(|plane| if self.bgr { 2 - plane.channel } else { plane.channel });
        for (plane, colour) in planes.iter().zip(colours) {
            // scale (p - mean) / std + shift, written as one mean and one standard deviation.
            preprocessing.mean[colour] = self.mean[colour] - plane.shift * self.std[colour] / plane.scale;
            preprocessing.std[colour] = self.std[colour] / plane.scale;
        }
        (preprocessing, colours)
    }
}

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

    /// What networks were trained with whose tensors have PyTorch's names and nothing is known
    /// beside.
    pub(super) fn of_tensors(variant: Variant) -> Self {
        match variant {
            Variant::Paper => Self::IMAGENET,
            Variant::Torchvision => Self::TRANSFORM_INPUT,
        }
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
