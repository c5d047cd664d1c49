//! Reading safetensors files.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::{FileTensor, HostTensor, Stored, header};
use crate::error::{Error, Result};
use crate::untrusted::{MAX_FILE_BYTES, contained, read_file};

/// The metadata of a safetensors file.
pub(crate) type Strings = BTreeMap<String, String>;

/// Reads the tensors and metadata of a safetensors file; all element types are converted to f32.
///
/// # Errors
/// [`Error::Io`] or [`Error::Format`] naming the file, and the tensor if its type is unknown.
pub fn read_tensors(path: &Path) -> Result<(BTreeMap<String, HostTensor>, BTreeMap<String, String>)> {
    decode(path, &read_file(path, MAX_FILE_BYTES)?)
}

pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<(BTreeMap<String, HostTensor>, Strings)> {
    let decoded = contained(|| decode_stored(bytes));
    let (tensors, metadata) = decoded.map_err(|reason| Error::format(path, reason))?;
    Ok((tensors.into_iter().map(|(name, file)| (name, file.tensor)).collect(), metadata))
}

/// As [`decode`], with the element types.
pub(super) fn decode_stored(bytes: &[u8]) -> Result<(BTreeMap<String, FileTensor>, Strings), String> {
    let damaged = |e: safetensors::SafeTensorError| {
        format!("is not a complete safetensors file: {e}; use `incept import` for files of other programs")
    };
    header::check(bytes)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let mut tensors = BTreeMap::new();
    // One-byte elements take four bytes as f32.
    let mut left = MAX_FILE_BYTES;
    for (name, view) in file.tensors() {
        let stored = stored(view.dtype()).ok_or_else(|| {
            format!("tensor `{name}` has the element type {:?}, which is not supported", view.dtype())
        })?;
        let floats = (view.data().len() / stored.size()) as u64 * 4;
        left = left.checked_sub(floats).ok_or_else(|| format!("tensor `{name}` does not fit into memory"))?;
        let tensor = HostTensor { dims: view.shape().to_vec(), data: stored.floats(view.data()) };
        tensors.insert(name, FileTensor { stored, tensor });
    }
    Ok((tensors, metadata))
}

fn stored(dtype: Dtype) -> Option<Stored> {
    Some(match dtype {
        Dtype::F64 => Stored::F64,
        Dtype::F32 => Stored::F32,
        Dtype::F16 => Stored::F16,
        Dtype::BF16 => Stored::Bf16,
        Dtype::I64 => Stored::I64,
        Dtype::I32 => Stored::I32,
        Dtype::I16 => Stored::I16,
        Dtype::I8 => Stored::I8,
        Dtype::U8 => Stored::U8,
        Dtype::BOOL => Stored::Bool,
        _ => return None,
    })
}
