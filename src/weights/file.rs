//! safetensors files, and writing that never leaves half a file.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::{FileTensor, HostTensor, Stored, header};
use crate::error::{Error, Result};
use crate::untrusted::{MAX_FILE_BYTES, contained, read_file};

/// Writes a file such that at any time either the old or the new content is there: to a temporary file beside it, which is synced and renamed.
///
/// # Errors
/// [`Error::Io`] naming the file; the old content is there then.
#[cfg(not(target_arch = "wasm32"))]
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let fail = |e: std::io::Error| Error::io(path, e);
    std::fs::create_dir_all(folder).map_err(fail)?;
    let mut builder = tempfile::Builder::new();
    // As any file that a program makes, and not for its owner alone: reports and weights are shared.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(fail)?;
    std::io::Write::write_all(&mut file, bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    // The new name lasts once the folder is written; not every system can sync one.
    #[cfg(unix)]
    if let Ok(folder) = std::fs::File::open(folder) {
        folder.sync_all().map_err(fail)?;
    }
    Ok(())
}

/// Where there are no files, there is nothing to write to.
///
/// # Errors
/// Always [`Error::Io`].
#[cfg(target_arch = "wasm32")]
pub fn write_atomically(path: &Path, _bytes: &[u8]) -> Result<()> {
    Err(Error::io(path, std::io::ErrorKind::Unsupported.into()))
}

/// The metadata of a safetensors file.
pub(super) type Strings = BTreeMap<String, String>;

/// The tensors and the metadata of a safetensors file; all floating-point types become f32, integers too.
///
/// # Errors
/// [`Error::Io`] or [`Error::Format`] naming the file, and the tensor if its type is unknown.
pub fn read_tensors(path: &Path) -> Result<(BTreeMap<String, HostTensor>, BTreeMap<String, String>)> {
    decode(path, &read_file(path, MAX_FILE_BYTES)?)
}

pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<(BTreeMap<String, HostTensor>, Strings)> {
    let decoded = contained(|| decode_stored(bytes));
    let (tensors, metadata) = decoded.map_err(|reason| Error::format(path, reason))?;
    Ok((tensors.into_iter().map(|(name, file)| (name, file.tensor)).collect(), metadata))
}

/// As [`decode`], with the element types.
pub(super) fn decode_stored(bytes: &[u8]) -> Result<(BTreeMap<String, FileTensor>, Strings), String> {
    let damaged = |e: safetensors::SafeTensorError| {
        format!("is no whole safetensors file: {e}; `incept import` reads what other programs wrote")
    };
    header::check(bytes)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let mut tensors = BTreeMap::new();
    // Types of one byte become four.
    let mut left = MAX_FILE_BYTES;
    for (name, view) in file.tensors() {
        let stored = stored(view.dtype())
            .ok_or_else(|| format!("tensor `{name}` is {:?}, which cannot be read", view.dtype()))?;
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
