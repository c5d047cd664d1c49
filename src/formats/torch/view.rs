//! Tensors as described in torch pickles, and reading them from their storages.

use std::collections::BTreeMap;

use crate::formats::pickle::{Handle, Object, Pickle};
use crate::formats::{FileTensor, Stored};
use crate::tensor::HostTensor;

/// Limits beyond any valid file.
const MAX_RANK: usize = 8;
const MAX_KEY: usize = 1024;
/// Maximum nested calls around a tensor, for example of a parameter with attributes.
const MAX_WRAPPERS: usize = 4;

/// A tensor view described in a pickle.
#[derive(Debug)]
pub(super) struct View {
    pub name: String,
    pub storage: String,
    element: Stored,
    /// Elements in the storage.
    count: usize,
    offset: usize,
    dims: Vec<usize>,
    strides: Vec<usize>,
}

/// The element type of a storage class.
fn storage_element(global: &str) -> Option<Stored> {
    Some(match global.strip_prefix("torch.")?.strip_suffix("Storage")? {
        "Double" => Stored::F64,
        "Float" => Stored::F32,
        "Half" => Stored::F16,
        "BFloat16" => Stored::Bf16,
        "Long" => Stored::I64,
        "Int" => Stored::I32,
        "Short" => Stored::I16,
        "Char" => Stored::I8,
        "Byte" => Stored::U8,
        "Bool" => Stored::Bool,
        _ => return None,
    })
}

/// Bytes per element of a storage class, including unsupported types.
fn element_size(global: &str) -> Option<usize> {
    let size = storage_element(global).map(Stored::size);
    size.or_else(|| {
        let (_, class) = global.rsplit_once('.')?;
        Some(match class {
            "ComplexDoubleStorage" => 16,
            "ComplexFloatStorage" => 8,
            "QInt32Storage" => 4,
            "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" | "UntypedStorage" => 1,
            _ => return None,
        })
    })
}

/// Key and bytes per element of each storage in a pickle.
pub(super) fn storages_of(pickle: &Pickle) -> impl Iterator<Item = (&str, usize)> {
    pickle.objects.iter().filter_map(|object| {
        let Object::Persistent(description) = object else { return None };
        let [_, class, key, ..] = pickle.items(*description)? else { return None };
        Some((pickle.text(*key)?, element_size(&pickle.global(*class)?)?))
    })
}

/// The tensor that an object describes; `None` if it is not a tensor, `Some(Err)` with its kind if
/// it is unsupported.
///
/// # Errors
/// A malformed description.
pub(super) fn tensor(
    pickle: &Pickle,
    name: &str,
    handle: Handle,
) -> Result<Option<Result<View, String>>, String> {
    let malformed = || format!("tensor `{}` has a malformed description", crate::untrusted::printable(name));
    let mut handle = handle;
    for _ in 0..MAX_WRAPPERS {
        let Object::Call { function, arguments, .. } = pickle.get(handle) else { return Err(malformed()) };
        let Some(function) = pickle.global(*function) else { return Ok(None) };
        let list = pickle.items(*arguments).unwrap_or_default();
        match function.as_str() {
            "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" => {
                return view(pickle, name, list).ok_or_else(malformed).map(Some);
            }
            // A parameter wraps a tensor in another call.
            "torch._utils._rebuild_parameter"
            | "torch._utils._rebuild_parameter_with_state"
            | "torch._utils._rebuild_device_tensor_from_cpu_tensor" => {
                handle = *list.first().ok_or_else(malformed)?;
            }
            // (function, class, arguments, attributes): tensor subclasses and tensors with
            // attributes.
            "torch._tensor._rebuild_from_type_v2" | "torch._tensor._rebuild_from_type" => {
                let [inner, _class, inner_arguments, ..] = list else { return Err(malformed()) };
                let list = pickle.items(*inner_arguments).unwrap_or_default();
                return match pickle.global(*inner).as_deref() {
                    Some("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2") => {
                        view(pickle, name, list).ok_or_else(malformed).map(Some)
                    }
                    other => Ok(Some(Err(other.unwrap_or("a tensor of another class").to_string()))),
                };
            }
            // Sparse and quantized tensors, and newer element types.
            other if other.starts_with("torch._utils._rebuild_") => return Ok(Some(Err(other.to_string()))),
            _ => return Ok(None),
        }
    }
    Err(malformed())
}

/// The tensor with these arguments of `_rebuild_tensor`; `Some(Err)` with the storage class if
/// unsupported, `None` if malformed.
fn view(pickle: &Pickle, name: &str, arguments: &[Handle]) -> Option<Result<View, String>> {
    let [storage, offset, dims, strides, ..] = arguments else { return None };
    let Object::Persistent(storage) = pickle.get(*storage) else { return None };
    // ('storage', class, key, device, elements), and in the old format a view into another storage.
    let [_, class, key, _device, count, rest @ ..] = pickle.items(*storage)? else { return None };
    let class = pickle.global(*class)?;
    let Some(element) = storage_element(&class) else { return Some(Err(class)) };
    if rest.iter().any(|part| *pickle.get(*part) != Object::None) {
        return Some(Err("a view into another storage: save a clone of it".into()));
    }
    let extents = |handle: Handle| pickle.extents(handle).filter(|extents| extents.len() <= MAX_RANK);
    let number = |handle: Handle| pickle.int(handle).and_then(|n| usize::try_from(n).ok());
    Some(Ok(View {
        name: name.to_string(),
        storage: pickle.text(*key).filter(|key| key.len() <= MAX_KEY)?.to_string(),
        element,
        count: number(*count)?,
        offset: number(*offset)?,
        dims: extents(*dims)?,
        strides: extents(*strides)?,
    }))
}

impl View {
    /// Number of elements.
    fn volume(&self) -> Option<usize> {
        self.dims.iter().try_fold(1usize, |volume, dim| volume.checked_mul(*dim))
    }

    /// End of the tensor in the storage, in elements.
    fn end(&self) -> Option<usize> {
        if self.dims.contains(&0) {
            return Some(self.offset);
        }
        let last = self.dims.iter().zip(&self.strides).try_fold(self.offset, |sum, (dim, stride)| {
            (dim - 1).checked_mul(*stride).and_then(|step| sum.checked_add(step))
        });
        last?.checked_add(1)
    }
}

/// Reads the tensors from their storages.
pub(super) fn build<'a>(
    views: &[View],
    budget: usize,
    storage: impl Fn(&str) -> Option<&'a [u8]>,
) -> Result<BTreeMap<String, FileTensor>, String> {
    // A valid tensor has at least one byte in the file per element; others could repeat bytes
    // endlessly.
    let mut left = budget;
    let mut tensors = BTreeMap::new();
    for view in views {
        let fail = |reason: &str| format!("tensor `{}` {reason}", view.name);
        let bytes = storage(&view.storage).ok_or_else(|| fail("has no storage in the file"))?;
        let size = view.element.size();
        let bytes = view.count.checked_mul(size).and_then(|length| bytes.get(..length));
        let bytes = bytes.ok_or_else(|| fail("is truncated"))?;
        let volume = view.volume().filter(|_| view.dims.len() == view.strides.len());
        let (Some(volume), Some(end)) = (volume, view.end()) else {
            return Err(fail("has invalid dimensions or strides"));
        };
        if end > view.count {
            return Err(fail("extends past the end of its storage"));
        }
        left = left
            .checked_sub(volume)
            .ok_or_else(|| fail("repeats elements by its strides: save a clone of it"))?;
        let mut contiguous = 1usize;
        let is_contiguous = volume > 0
            && view.dims.iter().zip(&view.strides).rev().all(|(dim, stride)| {
                let fits = *dim == 1 || *stride == contiguous;
                contiguous *= dim;
                fits
            });
        let data = if volume == 0 {
            Vec::new()
        } else if is_contiguous {
            view.element.floats(&bytes[view.offset * size..(view.offset + volume) * size])
        } else {
            let mut picked = Vec::with_capacity(volume * size);
            for i in 0..volume {
                let (mut rest, mut at) = (i, view.offset);
                for (dim, stride) in view.dims.iter().zip(&view.strides).rev() {
                    at += rest % dim * stride;
                    rest /= dim;
                }
                picked.extend_from_slice(&bytes[at * size..(at + 1) * size]);
            }
            view.element.floats(&picked)
        };
        let tensor = HostTensor { dims: view.dims.clone(), data };
        tensors.insert(view.name.clone(), FileTensor { stored: view.element, tensor });
    }
    Ok(tensors)
}
