//! Import of pretrained weights: recognizes the GoogLeNet and checks that all tensors are there.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;

use super::table::{aux_layers, conv_weight, stem_layers};
use super::{GoogLeNet, STEM_CHANGES_BELOW, Variant};
use crate::error::{Error, Result};
use crate::formats::{Content, Foreign, part_of};
use crate::graph::Role;
use crate::tensor::HostTensor;
use crate::tensor::Shape;
use crate::text::plural;

/// A channel of the input of the first convolution: factor * input[channel] + shift.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plane {
    /// The channel of the input.
    pub channel: usize,
    /// The factor.
    pub scale: f32,
    /// The shift.
    pub shift: f32,
}

impl Plane {
    /// The unchanged input.
    pub const UNCHANGED: [Self; 3] = [Self::of(0), Self::of(1), Self::of(2)];

    pub(super) const fn of(channel: usize) -> Self {
        Self { channel, scale: 1.0, shift: 0.0 }
    }
}

/// A network and its weights from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Recognized {
    /// The network.
    pub network: GoogLeNet,
    /// Its parameters, by the names of this crate.
    pub parameters: BTreeMap<String, HostTensor>,
    /// Its running statistics.
    pub state: BTreeMap<String, HostTensor>,
    /// The transform of the three input channels.
    pub planes: [Plane; 3],
    /// The first convolution's stride: 2, or 1 in networks of this crate for small images.
    pub stride: i64,
    /// Tensors that were skipped on purpose: batch counters, and tensors outside of the network.
    pub ignored: Vec<String>,
}

impl GoogLeNet {
    /// The name of the first convolution's weight, whose input channels are red, green and blue.
    pub fn first_weight(&self) -> String {
        conv_weight(self.variant, stem_layers(self.variant)[0])
    }

    /// The network in a file of any format, with its weights. `prefix` is the prefix of its tensor
    /// names, for files with several networks.
    ///
    /// # Errors
    /// [`Error::Weights`] with the names of all tensors that are missing, extra or have the wrong
    /// shape; [`Error::Format`] if the file has no GoogLeNet.
    pub fn recognize(path: &Path, file: &Foreign, prefix: Option<&str>) -> Result<Recognized> {
        match &file.content {
            Content::Tensors(tensors) => {
                let tensors = tensors.iter().map(|(name, file)| (name.clone(), &file.tensor)).collect();
                by_name(path, tensors, prefix).map_err(|error| match part_of(path) {
                    Some(reason) => Error::format(path, reason),
                    None => error,
                })
            }
            Content::Layers(layers) => {
                let mut tensors = BTreeMap::new();
                for layer in layers {
                    for (i, blob) in layer.blobs.iter().enumerate() {
                        let what =
                            ["weight", "bias"].get(i).map_or_else(|| i.to_string(), ToString::to_string);
                        tensors.insert(format!("{}.{what}", layer.name), &blob.tensor);
                    }
                }
                by_name(path, tensors, prefix)
            }
            Content::Graph(graph) => {
                let found = super::onnx::recognize(graph).map_err(|reason| Error::format(path, reason))?;
                let tensors = found.tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
                let recognized = by_name(path, tensors, Some(""))?;
                let input = found.input.unwrap_or(recognized.network.input);
                Recognized { planes: found.planes, stride: found.stride, ..recognized }
                    .with_input(path, input)
            }
        }
    }
}

impl Recognized {
    /// The network for images of `input` pixels, with the first convolution's stride of the file.
    ///
    /// # Errors
    /// [`Error::Format`] for a stride that networks of this crate do not have at that size.
    pub fn with_input(mut self, path: &Path, input: usize) -> Result<Self> {
        let small = input < STEM_CHANGES_BELOW;
        if self.stride != 2 && !small {
            let reason = format!(
                "has stride {} in its first convolution, which is for inputs below {STEM_CHANGES_BELOW} pixels, not {input}",
                self.stride
            );
            return Err(Error::format(path, reason));
        }
        self.network = GoogLeNet { input, keep_stem: small && self.stride == 2, ..self.network };
        Ok(self)
    }
}

/// Names and shapes of all weights of a network.
fn expected(network: &GoogLeNet) -> Result<Vec<(String, Shape, bool)>> {
    let built = network.build(1)?;
    let weights = built.graph.tensors().filter_map(|(_, tensor)| match tensor.role {
        Role::Parameter(_) => Some((tensor.name.clone(), tensor.spec.shape.clone(), true)),
        Role::State(_) => Some((tensor.name.clone(), tensor.spec.shape.clone(), false)),
        _ => None,
    });
    Ok(weights.collect())
}

type Tensors<'a> = BTreeMap<String, &'a HostTensor>;

fn by_name(path: &Path, tensors: Tensors<'_>, prefix: Option<&str>) -> Result<Recognized> {
    let (variant, prefix) = closest(path, &tensors, prefix)?;
    let (inside, mut ignored): (Vec<_>, Vec<_>) =
        tensors.into_iter().partition(|(name, _)| name.starts_with(&prefix));
    let inside = inside.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_string(), tensor));
    // torch's batch counters are for cumulative averages, which torchvision's network does not use.
    let (counters, inside): (Vec<_>, Tensors<'_>) = {
        let (counters, inside): (Vec<_>, Vec<_>) =
            inside.partition(|(name, _)| name.ends_with(".num_batches_tracked"));
        (counters, inside.into_iter().collect())
    };
    ignored.extend(counters);
    let network = resembling(variant, &inside)?;
    let expected = expected(&network)?;
    let (mut parameters, mut state) = (BTreeMap::new(), BTreeMap::new());
    let (mut missing, mut wrong_shape) = (Vec::new(), Vec::new());
    for (name, shape, trained) in &expected {
        let Some(tensor) = inside.get(name) else {
            missing.push(name.clone());
            continue;
        };
        if significant(&tensor.dims) != significant(shape.dims()) {
            let found = Shape::from(tensor.dims.as_slice());
            wrong_shape.push(format!("{name} is {found}, expected {shape}"));
            continue;
        }
        let tensor = HostTensor { dims: shape.dims().to_vec(), data: tensor.data.clone() };
        if *trained { &mut parameters } else { &mut state }.insert(name.clone(), tensor);
    }
    let known: BTreeSet<&String> = expected.iter().map(|(name, ..)| name).collect();
    let extra: Vec<String> = inside.keys().filter(|name| !known.contains(name)).cloned().collect();
    if !missing.is_empty() || !extra.is_empty() || !wrong_shape.is_empty() {
        return Err(Error::Weights {
            path: path.into(),
            network: format!("a GoogLeNet ({variant}, {})", plural(network.classes, "class")),
            missing,
            extra,
            wrong_shape,
        });
    }
    let ignored = ignored.into_iter().map(|(name, _)| name).collect();
    Ok(Recognized { network, parameters, state, planes: Plane::UNCHANGED, stride: 2, ignored })
}

/// A shape without leading and trailing ones: Caffe's old blobs always have four dimensions, and a
/// classifier may be a 1x1 convolution.
fn significant(dims: &[usize]) -> &[usize] {
    let one = |dim: &&usize| **dim == 1;
    let leading = dims.iter().take_while(one).count();
    let rest = dims.get(leading..).unwrap_or_default();
    let trailing = rest.iter().rev().take_while(one).count();
    rest.get(..rest.len() - trailing).unwrap_or_default()
}

/// The index of the first significant dimension of a weight with the usual rank `rank`: it may have
/// additional ones in front (Caffe's old blobs) or at the end (a classifier as a 1x1 convolution).
fn first_extent(found: &[usize], rank: usize) -> Option<&usize> {
    let more = found.len().checked_sub(rank.max(1))?;
    if found.iter().take(more).all(|dim| *dim == 1) { found.get(more) } else { found.first() }
}

/// The variant, and the prefix of its names in the file, for example `module.`.
fn closest(path: &Path, tensors: &Tensors<'_>, prefix: Option<&str>) -> Result<(Variant, String)> {
    let mut best: Vec<(Variant, &str)> = Vec::new();
    let mut most = 0;
    for variant in [Variant::Paper, Variant::Torchvision] {
        let names: BTreeSet<String> =
            expected(&GoogLeNet::of(variant))?.into_iter().map(|(name, ..)| name).collect();
        // Any of the names may be missing, so each votes on the prefix.
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for name in tensors.keys() {
            let starts = std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1));
            for start in starts.filter(|start| names.contains(&name[*start..])) {
                *votes.entry(&name[..start]).or_default() += 1;
            }
        }
        for (start, count) in votes {
            // Less than a quarter of the names is a coincidence: many networks have a tensor called
            // fc.weight.
            if count * 4 < names.len() || count < most || prefix.is_some_and(|wanted| wanted != start) {
                continue;
            }
            if count > most {
                best.clear();
            }
            most = count;
            best.push((variant, start));
        }
    }
    match &best[..] {
        [(variant, prefix)] => Ok((*variant, (*prefix).to_string())),
        [] => {
            let some: Vec<&str> = tensors.keys().take(4).map(String::as_str).collect();
            Err(Error::format(
                path,
                format!(
                    "has no GoogLeNet with torchvision's or Caffe's names: it has {}, called {}{}",
                    plural(tensors.len(), "tensor"),
                    some.join(", "),
                    if tensors.len() > some.len() { " and so on" } else { "" }
                ),
            ))
        }
        several => {
            if let Some((variant, _)) = several.iter().find(|(_, prefix)| prefix.is_empty()) {
                return Ok((*variant, String::new()));
            }
            let prefixes: Vec<&str> = several.iter().map(|(_, prefix)| *prefix).collect();
            let reason = format!(
                "has several networks: choose one with `ImportOptions::prefix` {}",
                prefixes.join(" or ")
            );
            Err(Error::format(path, reason))
        }
    }
}

/// The network with the channel counts of these tensors. If a weight is missing, the count comes
/// from the layer's vectors or the published network.
fn resembling(variant: Variant, tensors: &Tensors<'_>) -> Result<GoogLeNet> {
    let published: BTreeMap<String, Shape> =
        expected(&GoogLeNet::of(variant))?.into_iter().map(|(name, shape, _)| (name, shape)).collect();
    let extents = |name: &str| tensors.get(name).filter(|t| !t.data.is_empty()).map(|t| t.dims.as_slice());
    let outputs = |weight: &str| -> Result<usize, Infallible> {
        let layer = weight.strip_suffix(".weight").unwrap_or(weight);
        let norm = layer.strip_suffix(".conv").unwrap_or(layer);
        let dims = published.get(weight).map(Shape::dims).unwrap_or_default();
        let from_weight = extents(weight).and_then(|found| first_extent(found, dims.len()));
        let from_vector = || {
            let vectors = [format!("{layer}.bias"), format!("{norm}.bn.bias"), format!("{norm}.bn.weight")];
            vectors.iter().find_map(|name| extents(name)?.last())
        };
        Ok(from_weight.or_else(from_vector).or(dims.first()).copied().unwrap_or(1))
    };
    let heads = [1, 2].map(|head| aux_layers(variant, head)).concat();
    let has_aux = tensors.keys().any(|name| heads.iter().any(|layer| name.starts_with(&format!("{layer}."))));
    match GoogLeNet::of_counts(variant, has_aux, outputs) {
        Ok(network) => Ok(network),
    }
}
