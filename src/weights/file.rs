//! safetensors files, and writing that never leaves half a file.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::HostTensor;
use crate::error::{Error, Result};

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
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
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
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    decode(path, &bytes)
}

pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<(BTreeMap<String, HostTensor>, Strings)> {
    let damaged =
        |e: safetensors::SafeTensorError| Error::format(path, format!("is no whole safetensors file: {e}"));
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let data = floats(&view).ok_or_else(|| {
            Error::format(path, format!("tensor `{name}` is {:?}, which cannot be read", view.dtype()))
        })?;
        tensors.insert(name, HostTensor { dims: view.shape().to_vec(), data });
    }
    Ok((tensors, metadata))
}

fn floats(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let bytes = view.data();
    Some(match view.dtype() {
        Dtype::F32 => bytemuck::pod_collect_to_vec(bytes),
        Dtype::F16 => convert::<half::f16>(bytes, half::f16::to_f32),
        Dtype::BF16 => convert::<half::bf16>(bytes, half::bf16::to_f32),
        Dtype::F64 => convert::<f64>(bytes, |v| v as f32),
        Dtype::I64 => convert::<i64>(bytes, |v| v as f32),
        Dtype::I32 => convert::<i32>(bytes, |v| v as f32),
        _ => return None,
    })
}

fn convert<T: bytemuck::Pod>(bytes: &[u8], to: impl Fn(T) -> f32) -> Vec<f32> {
    bytemuck::pod_collect_to_vec::<u8, T>(bytes).into_iter().map(to).collect()
}
