//! Files with weights in formats of others. What the tensors are for is not known here.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::caffe::{self, CaffeLayer};
use super::file::decode_stored;
use super::onnx::{self, OnnxGraph};
use super::shards::Index;
use super::torch::{self, Contents};
use super::{HostTensor, Stored};
use crate::error::{Error, Result};
use crate::untrusted::{MAX_FILE_BYTES, contained_in, read_file};

/// A format of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// safetensors.
    Safetensors,
    /// A zip archive of torch 1.6 or later.
    TorchZip,
    /// A zip archive of `torch.jit.save`.
    TorchScript,
    /// The file of pickles that torch wrote before 1.6.
    TorchLegacy,
    /// A caffemodel.
    Caffe,
    /// ONNX.
    Onnx,
    /// The index of several files of safetensors or torch.
    Shards,
}

impl Format {
    /// The format of a file with this content, if it is one of these.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"PK\x03\x04") {
            return Some(Self::TorchZip);
        }
        if torch::is_legacy(bytes) {
            return Some(Self::TorchLegacy);
        }
        // The length of a header, which is JSON.
        if bytes.get(8) == Some(&b'{') && bytes.get(5..8) == Some(&[0; 3]) {
            return Some(Self::Safetensors);
        }
        match bytes.first()? {
            // The first field of an ONNX model is the version of its format; of a caffemodel, its
            // name or its first layer.
            0x08 => Some(Self::Onnx),
            0x0a | 0x12 => Some(Self::Caffe),
            0xa2 if bytes.get(1) == Some(&0x06) => Some(Self::Caffe),
            _ => None,
        }
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::TorchZip => "torch (zip archive)",
            Self::TorchScript => "torch (TorchScript archive)",
            Self::TorchLegacy => "torch (before 1.6)",
            Self::Caffe => "Caffe",
            Self::Onnx => "ONNX",
            Self::Shards => "several files with an index",
        }
    }
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct FileTensor {
    /// Its element type in the file.
    pub stored: Stored,
    /// Its extents and elements.
    pub tensor: HostTensor,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Tensors by name.
    Tensors(BTreeMap<String, FileTensor>),
    /// Layers in order.
    Layers(Vec<CaffeLayer>),
    /// A graph with its initializers.
    Graph(Box<OnnxGraph>),
}

/// A file with weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreign {
    /// Its format.
    pub format: Format,
    /// What it holds.
    pub content: Content,
    /// What it says about itself: the metadata of safetensors and ONNX.
    pub metadata: BTreeMap<String, String>,
    /// What lies beside the tensors and is skipped, by name and class: objects in a checkpoint of
    /// torch.
    pub skipped: Vec<String>,
}

impl Foreign {
    /// Reads a file of any of the formats.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Format`] naming the file and the tensor or layer at fault.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_bytes(path, &read_file(path, MAX_FILE_BYTES)?)
    }

    /// As [`Foreign::read`], from the content of a file; `path` is for messages and for the files
    /// beside it that an ONNX model may name.
    ///
    /// # Errors
    /// As [`Foreign::read`].
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        contained_in(path, || Self::parse(path, bytes))
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let fail = |reason: String| Error::format(path, reason);
        if let Some(index) = Index::parse(bytes) {
            let (tensors, skipped) = index.read(path)?;
            let (format, content) = (Format::Shards, Content::Tensors(tensors));
            return Ok(Self { format, content, metadata: BTreeMap::new(), skipped });
        }
        let format = Format::of(bytes)
            .ok_or_else(|| fail("is none of safetensors, .pth of torch, .caffemodel or .onnx, nor an index of several such files".into()))?;
        let whole = |content| Self { format, content, metadata: BTreeMap::new(), skipped: Vec::new() };
        let torch = |contents: Contents| Self {
            format: if contents.script { Format::TorchScript } else { format },
            skipped: contents.skipped,
            ..whole(Content::Tensors(contents.tensors))
        };
        Ok(match format {
            Format::Safetensors => {
                let (tensors, metadata) = decode_stored(bytes).map_err(fail)?;
                Self { metadata, ..whole(Content::Tensors(tensors)) }
            }
            Format::TorchZip | Format::TorchScript => torch(torch::read_zip(bytes).map_err(fail)?),
            Format::TorchLegacy => torch(torch::read_legacy(bytes).map_err(fail)?),
            Format::Caffe => whole(Content::Layers(caffe::read(bytes).map_err(fail)?)),
            Format::Onnx => {
                let graph = onnx::read(bytes, path).map_err(fail)?;
                Self { metadata: graph.metadata.clone(), ..whole(Content::Graph(Box::new(graph))) }
            }
            // An index is JSON, which none of the other formats is.
            Format::Shards => return Err(fail("is no index of weights".into())),
        })
    }

    /// All tensors with their names, in the order of the file where it has one. Blobs of Caffe's
    /// layers are called by the layer and a number.
    pub fn tensors(&self) -> Vec<(String, &FileTensor)> {
        match &self.content {
            Content::Tensors(tensors) => tensors.iter().map(|(name, t)| (name.clone(), t)).collect(),
            Content::Layers(layers) => {
                let named = |layer: &'_ CaffeLayer| {
                    let name = layer.name.clone();
                    (0..layer.blobs.len()).map(move |i| format!("{name}[{i}]"))
                };
                layers.iter().flat_map(|layer| named(layer).zip(&layer.blobs)).collect()
            }
            Content::Graph(graph) => graph.initializers.iter().map(|(name, t)| (name.clone(), t)).collect(),
        }
    }
}
