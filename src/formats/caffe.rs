//! Caffe's `.caffemodel`: the fields of `caffe.proto` with weights, in the current form (`layer`)
//! and the older one (`layers`).

use prost::Message;

use super::wire::{self, Field};
use super::{FileTensor, HostTensor, Stored};
use crate::untrusted::printable;

/// `BlobShape`.
#[derive(Clone, PartialEq, Message)]
struct BlobShape {
    #[prost(int64, repeated, tag = "1")]
    dim: Vec<i64>,
}

/// `BlobProto`.
#[derive(Clone, PartialEq, Message)]
struct Blob {
    #[prost(message, optional, tag = "7")]
    shape: Option<BlobShape>,
    #[prost(float, repeated, tag = "5")]
    data: Vec<f32>,
    #[prost(double, repeated, tag = "8")]
    double_data: Vec<f64>,
    // NVCaffe: the element type of `raw_data`; in older files, the bits of f16 elements.
    #[prost(int32, repeated, tag = "10")]
    raw_data_type: Vec<i32>,
    #[prost(bytes = "vec", tag = "12")]
    raw_data: Vec<u8>,
    // Dimensions in files without `shape`.
    #[prost(int32, tag = "1")]
    num: i32,
    #[prost(int32, tag = "2")]
    channels: i32,
    #[prost(int32, tag = "3")]
    height: i32,
    #[prost(int32, tag = "4")]
    width: i32,
}

/// `V1LayerParameter`, the message of `layers`.
#[derive(Clone, PartialEq, Message)]
struct LayerV1 {
    #[prost(string, tag = "4")]
    name: String,
    #[prost(message, repeated, tag = "6")]
    blobs: Vec<Blob>,
}

/// `LayerParameter`.
#[derive(Clone, PartialEq, Message)]
struct Layer {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "7")]
    blobs: Vec<Blob>,
}

/// `NetParameter`.
#[derive(Clone, PartialEq, Message)]
struct Net {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    layers: Vec<LayerV1>,
    #[prost(message, repeated, tag = "100")]
    layer: Vec<Layer>,
}

/// Memory per message, for [`wire::check`]. Keep in sync with the fields of the structs above.
static NET: wire::Shape = wire::Shape {
    bytes: size_of::<Net>(),
    fields: &[(1, Field::Text), (2, Field::Message(&LAYER_V1)), (100, Field::Message(&LAYER))],
};
static LAYER_V1: wire::Shape =
    wire::Shape { bytes: size_of::<LayerV1>(), fields: &[(4, Field::Text), (6, Field::Message(&BLOB))] };
static LAYER: wire::Shape =
    wire::Shape { bytes: size_of::<Layer>(), fields: &[(1, Field::Text), (7, Field::Message(&BLOB))] };
/// Includes the tensor that a blob is converted to.
static BLOB: wire::Shape = wire::Shape {
    bytes: size_of::<Blob>() + size_of::<FileTensor>(),
    fields: &[
        (5, Field::Numbers(4)),
        (7, Field::Message(&BLOB_SHAPE)),
        (8, Field::Numbers(8)),
        (10, Field::Numbers(4)),
        (12, Field::Text),
    ],
};
static BLOB_SHAPE: wire::Shape =
    wire::Shape { bytes: size_of::<BlobShape>(), fields: &[(1, Field::Numbers(8))] };

/// The blobs of a layer with weights.
#[derive(Clone, Debug, PartialEq)]
pub struct CaffeLayer {
    /// The layer's name.
    pub name: String,
    /// Its blobs: the weight, then the bias.
    pub blobs: Vec<FileTensor>,
}

/// Reads the layers with weights.
///
/// # Errors
/// The reason, with the layer's name where known.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<CaffeLayer>, String> {
    wire::check(bytes, &NET)?;
    let net = Net::decode(bytes).map_err(|e| format!("is not a complete caffemodel: {e}"))?;
    let old = net.layers.into_iter().map(|layer| (layer.name, layer.blobs));
    let new = net.layer.into_iter().map(|layer| (layer.name, layer.blobs));
    let layers = old.chain(new).filter(|(_, blobs)| !blobs.is_empty());
    let layers: Vec<CaffeLayer> = layers
        .map(|(name, blobs)| {
            let blobs = blobs.into_iter().enumerate().map(|(i, blob)| {
                tensor(blob).map_err(|reason| format!("blob {i} of layer `{}` {reason}", printable(&name)))
            });
            Ok(CaffeLayer { blobs: blobs.collect::<Result<_, String>>()?, name: name.clone() })
        })
        .collect::<Result<_, String>>()?;
    if layers.is_empty() {
        return Err("has no layers with weights: use the .caffemodel, not the .prototxt".into());
    }
    Ok(layers)
}

fn tensor(blob: Blob) -> Result<FileTensor, String> {
    let unfit = || "has dimensions that do not match its data".to_string();
    let extents: Vec<i64> = match &blob.shape {
        Some(shape) => shape.dim.clone(),
        None => [blob.num, blob.channels, blob.height, blob.width].map(i64::from).to_vec(),
    };
    let dims: Option<Vec<usize>> = extents.into_iter().map(|e| usize::try_from(e).ok()).collect();
    let dims = dims.ok_or_else(unfit)?;
    let (stored, data) = elements(blob)?;
    let volume = dims.iter().try_fold(1usize, |volume, dim| volume.checked_mul(*dim));
    if volume != Some(data.len()) {
        return Err(unfit());
    }
    Ok(FileTensor { stored, tensor: HostTensor { dims, data } })
}

/// A blob's elements, from the field that has them.
fn elements(blob: Blob) -> Result<(Stored, Vec<f32>), String> {
    if !blob.raw_data.is_empty() {
        // `Type`; the default is double.
        let stored = match blob.raw_data_type.last().copied().unwrap_or(0) {
            0 => Stored::F64,
            1 => Stored::F32,
            2 => Stored::F16,
            other => return Err(format!("has NVCaffe's element type {other}, which is not supported")),
        };
        if !blob.raw_data.len().is_multiple_of(stored.size()) {
            return Err("ends in the middle of an element".into());
        }
        return Ok((stored, stored.floats(&blob.raw_data)));
    }
    if !blob.double_data.is_empty() {
        return Ok((Stored::F64, blob.double_data.iter().map(|v| *v as f32).collect()));
    }
    // An empty blob needs no type.
    if blob.data.is_empty() && !blob.raw_data_type.is_empty() {
        let halves: Vec<u8> = blob.raw_data_type.iter().flat_map(|v| (*v as u16).to_le_bytes()).collect();
        return Ok((Stored::F16, Stored::F16.floats(&halves)));
    }
    Ok((Stored::F32, blob.data))
}
