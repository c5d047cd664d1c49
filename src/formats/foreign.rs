//! Weight files of other programs. The meaning of the tensors is not known here.

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

/// A weight file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// safetensors.
    Safetensors,
    /// A zip archive of torch 1.6 or later.
    TorchZip,
    /// A zip archive of `torch.jit.save`.
    TorchScript,
    /// The pickle format of torch before 1.6.
    TorchLegacy,
    /// A caffemodel.
    Caffe,
    /// ONNX.
    Onnx,
    /// An index of safetensors or torch shards.
    Shards,
}

impl Format {
    /// Detects the format by content; `None` if unknown.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"PK\x03\x04") {
            return Some(Self::TorchZip);
        }
        if torch::is_legacy(bytes) {
            return Some(Self::TorchLegacy);
        }
        // Header length, then JSON.
        if bytes.get(8) == Some(&b'{') && bytes.get(5..8) == Some(&[0; 3]) {
            return Some(Self::Safetensors);
        }
        match bytes.first()? {
            // An ONNX model starts with its format version, a caffemodel with its name or first
            // layer.
            0x08 => Some(Self::Onnx),
            0x0a | 0x12 => Some(Self::Caffe),
            0xa2 if bytes.get(1) == Some(&0x06) => Some(Self::Caffe),
            _ => None,
        }
    }

    /// The name in messages.
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

/// A tensor with its stored element type.
#[derive(Clone, Debug, PartialEq)]
pub struct FileTensor {
    /// Element type in the file.
    pub stored: Stored,
    /// Dimensions and elements, converted to f32.
    pub tensor: HostTensor,
}

/// Content of a weight file.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Tensors by name.
    Tensors(BTreeMap<String, FileTensor>),
    /// Layers in order.
    Layers(Vec<CaffeLayer>),
    /// A graph with its initializers.
    Graph(Box<OnnxGraph>),
}

/// A weight file.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreign {
    /// The format.
    pub format: Format,
    /// The tensors, layers or graph.
    pub content: Content,
    /// Metadata of safetensors and ONNX files; empty for other formats.
    pub metadata: BTreeMap<String, String>,
    /// Names and classes of skipped objects in a torch checkpoint.
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

    /// As [`Foreign::read`], from the content of a file; `path` is used in messages and to find the
    /// external data of an ONNX model.
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
            .ok_or_else(|| fail("is not a supported weight file (safetensors, torch .pth, .caffemodel, .onnx, or an index of shards)".into()))?;
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
            // Indexes are JSON and were handled above.
            Format::Shards => return Err(fail("is not an index of weight shards".into())),
        })
    }

    /// All tensors with their names, in file order where there is one. Caffe blobs are named by
    /// layer and index: `conv1[0]`.
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
