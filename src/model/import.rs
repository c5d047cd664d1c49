//! From other people's tensors to a network with its weights: which GoogLeNet it is, and whether
//! everything is there.

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

/// What a network does with its input before the first convolution: this channel of the input,
/// multiplied and shifted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plane {
    /// The channel.
    pub channel: usize,
    /// The factor.
    pub scale: f32,
    /// What is added then.
    pub shift: f32,
}

impl Plane {
    /// The input as it is.
    pub const UNCHANGED: [Self; 3] = [Self::of(0), Self::of(1), Self::of(2)];

    pub(super) const fn of(channel: usize) -> Self {
        Self { channel, scale: 1.0, shift: 0.0 }
    }
}

/// A network that was found in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Recognised {
    /// The network.
    pub network: GoogLeNet,
    /// Its trained parameters, by our names.
    pub parameters: BTreeMap<String, HostTensor>,
    /// Its running statistics.
    pub state: BTreeMap<String, HostTensor>,
    /// What it does with the three channels of its input.
    pub planes: [Plane; 3],
    /// The first convolution's stride: 2, but in networks of this crate for small images.
    pub stride: i64,
    /// Tensors that were left out knowingly: counters of batches, and what lies beside the network
    /// in the file.
    pub ignored: Vec<String>,
}

impl GoogLeNet {
    /// The name of the first convolution's weight, whose inputs are red, green and blue.
    pub fn first_weight(&self) -> String {
        conv_weight(self.variant, stem_layers(self.variant)[0])
    }

    /// The network in a file of any format, with its weights. `prefix` says which of several it is,
    /// by what stands before the names of its tensors.
    ///
    /// # Errors
    /// [`Error::Weights`] with the names of all tensors that are missing, extra or misshapen;
    /// [`Error::Format`] if it is no GoogLeNet at all.
    pub fn recognise(path: &Path, file: &Foreign, prefix: Option<&str>) -> Result<Recognised> {
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
                let found = super::onnx::recognise(graph).map_err(|reason| Error::format(path, reason))?;
                let tensors = found.tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
                let recognised = by_name(path, tensors, Some(""))?;
                let input = found.input.unwrap_or(recognised.network.input);
                Recognised { planes: found.planes, stride: found.stride, ..recognised }
                    .with_input(path, input)
            }
        }
    }
}

impl Recognised {
    /// The network for images of `input` pixels, with its first convolution's stride as it is in
    /// the file.
    ///
    /// # Errors
    /// [`Error::Format`] for a stride that no network of ours has at that size.
    pub fn with_input(mut self, path: &Path, input: usize) -> Result<Self> {
        let small = input < STEM_CHANGES_BELOW;
        if self.stride != 2 && !small {
            let reason = format!(
                "has stride {} in its first convolution, which is for inputs below {STEM_CHANGES_BELOW} pixels and not {input}",
                self.stride
            );
            return Err(Error::format(path, reason));
        }
        self.network = GoogLeNet { input, keep_stem: small && self.stride == 2, ..self.network };
        Ok(self)
    }
}

/// Names and extents of all weights of a network.
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

fn by_name(path: &Path, tensors: Tensors<'_>, prefix: Option<&str>) -> Result<Recognised> {
    let (variant, prefix) = closest(path, &tensors, prefix)?;
    let (inside, mut ignored): (Vec<_>, Vec<_>) =
        tensors.into_iter().partition(|(name, _)| name.starts_with(&prefix));
    let inside = inside.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_string(), tensor));
    // torch counts batches for a kind of average that torchvision's network does not use.
    let (counters, inside): (Vec<_>, Tensors<'_>) = {
        let (counters, inside): (Vec<_>, Vec<_>) =
            inside.partition(|(name, _)| name.ends_with(".num_batches_tracked"));
        (counters, inside.into_iter().collect())
    };
    ignored.extend(counters);
    let network = resembling(variant, &inside)?;
    let expected = expected(&network)?;
    let (mut parameters, mut state) = (BTreeMap::new(), BTreeMap::new());
    let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
    for (name, shape, trained) in &expected {
        let Some(tensor) = inside.get(name) else {
            missing.push(name.clone());
            continue;
        };
        if significant(&tensor.dims) != significant(shape.dims()) {
            let found = Shape::from(tensor.dims.as_slice());
            misshapen.push(format!("{name} is {found}, expected {shape}"));
            continue;
        }
        let tensor = HostTensor { dims: shape.dims().to_vec(), data: tensor.data.clone() };
        if *trained { &mut parameters } else { &mut state }.insert(name.clone(), tensor);
    }
    let known: BTreeSet<&String> = expected.iter().map(|(name, ..)| name).collect();
    let extra: Vec<String> = inside.keys().filter(|name| !known.contains(name)).cloned().collect();
    if !missing.is_empty() || !extra.is_empty() || !misshapen.is_empty() {
        return Err(Error::Weights {
            path: path.into(),
            network: format!("a GoogLeNet ({variant}, {} classes)", network.classes),
            missing,
            extra,
            misshapen,
        });
    }
    let ignored = ignored.into_iter().map(|(name, _)| name).collect();
    Ok(Recognised { network, parameters, state, planes: Plane::UNCHANGED, stride: 2, ignored })
}

/// Extents without ones before and behind them: Caffe's old blobs have four, whatever they hold,
/// and a classifier may be a convolution of one pixel.
fn significant(dims: &[usize]) -> &[usize] {
    let one = |dim: &&usize| **dim == 1;
    let leading = dims.iter().take_while(one).count();
    let rest = dims.get(leading..).unwrap_or_default();
    let trailing = rest.iter().rev().take_while(one).count();
    rest.get(..rest.len() - trailing).unwrap_or_default()
}

/// The first extent that counts of a weight that is published with `rank` extents: the weight may
/// have more, which are ones before it (Caffe's old blobs) or behind it (a classifier as a
/// convolution of one pixel).
fn first_extent(found: &[usize], rank: usize) -> Option<&usize> {
    let more = found.len().checked_sub(rank.max(1))?;
    if found.iter().take(more).all(|dim| *dim == 1) { found.get(more) } else { found.first() }
}

/// The variant, and what stands before its names in the file: `module.`, for example.
fn closest(path: &Path, tensors: &Tensors<'_>, prefix: Option<&str>) -> Result<(Variant, String)> {
    let mut best: Vec<(Variant, &str)> = Vec::new();
    let mut most = 0;
    for variant in [Variant::Paper, Variant::Torchvision] {
        let names: BTreeSet<String> =
            expected(&GoogLeNet::of(variant))?.into_iter().map(|(name, ..)| name).collect();
        // Any of the names can be the one that is missing, so each has a vote on what stands before
        // it.
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for name in tensors.keys() {
            let starts = std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1));
            for start in starts.filter(|start| names.contains(&name[*start..])) {
                *votes.entry(&name[..start]).or_default() += 1;
            }
        }
        for (start, count) in votes {
            // Fewer than a quarter are a coincidence: many networks have a tensor called fc.weight.
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
                    "holds no GoogLeNet, neither with torchvision's names nor with Caffe's: its {} tensors are called {} and so on",
                    tensors.len(),
                    some.join(", ")
                ),
            ))
        }
        several => {
            if let Some((variant, _)) = several.iter().find(|(_, prefix)| prefix.is_empty()) {
                return Ok((*variant, String::new()));
            }
            let prefixes: Vec<&str> = several.iter().map(|(_, prefix)| *prefix).collect();
            let reason = format!(
                "holds several networks: choose one with `ImportOptions::prefix` {}",
                prefixes.join(" or ")
            );
            Err(Error::format(path, reason))
        }
    }
}

/// The network whose layers have as many outputs as those of these tensors. Where a weight is
/// missing, its layer's vectors tell, or the published network.
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
