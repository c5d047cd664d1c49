//! Weight files: reading safetensors, torch, Caffe and ONNX as tensors or as a graph, and writing
//! ONNX. The meaning of the tensors is not known here.

mod caffe;
mod element;
mod file;
mod foreign;
mod header;
mod onnx;
pub(crate) mod pickle;
mod shards;
mod torch;
mod wire;

pub use caffe::CaffeLayer;
pub use element::Stored;
pub(crate) use file::decode;
pub use file::read_tensors;
pub use foreign::{Content, FileTensor, Foreign, Format};
pub(crate) use header::{MAX_HEADER, nested};
pub use onnx::{ExportOptions, OnnxAttribute, OnnxGraph, OnnxNode, write as write_onnx};
pub(crate) use shards::part_of;

use crate::tensor::HostTensor;
