//! Files of `torch.save`: the zip archive that torch writes since 1.6, and the file of pickles before that. Nothing in them is executed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Cursor, Read};

use super::pickle::{DICTIONARIES, Handle, Object, Pickle};
use super::{FileTensor, HostTensor, Stored};

/// The first pickle of a file before torch 1.6: 0x1950a86a20f9469cfc6c.
const LEGACY_MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Whether `bytes` begin as a file of torch before 1.6.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x80) && bytes.get(2..).is_some_and(|rest| rest.starts_with(LEGACY_MAGIC))
}

/// The globals that a state dict needs, and what torchvision's training script keeps beside it, which is passed over.
fn known(global: &str) -> bool {
    storage_element(global).is_some()
        || DICTIONARIES.contains(&global)
        || matches!(
            global,
            "argparse.Namespace"
                | "torch.device"
                | "torch._utils._rebuild_tensor"
                | "torch._utils._rebuild_tensor_v2"
                | "torch._utils._rebuild_parameter"
                | "torch.Size"
        )
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

/// What no honest file exceeds, so that short ones cannot stand for endless names.
const MAX_DEPTH: usize = 16;
const MAX_NAME: usize = 1024;
const MAX_RANK: usize = 8;
/// Bytes of names beyond the pickle's own length: short keys of deep dictionaries are repeated.
const MOST_NAMES: usize = 1 << 20;

/// A tensor as the pickle describes it.
struct View {
    name: String,
    storage: String,
    element: Stored,
    /// Elements of the storage.
    count: usize,
    offset: usize,
    dims: Vec<usize>,
    strides: Vec<usize>,
}

/// The tensors of an archive that torch 1.6 or later wrote, by name; names within dictionaries are joined by dots.
///
/// # Errors
/// What is wrong, with the tensor's name where there is one.
pub(super) fn read_zip(bytes: &[u8]) -> Result<BTreeMap<String, FileTensor>, String> {
    let damaged = |e: zip::result::ZipError| format!("is no whole archive of torch: {e}");
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    let mut names = archive.file_names().filter_map(Result::ok);
    let pickle = names.find(|name| name == "data.pkl" || name.ends_with("/data.pkl")).map(String::from);
    drop(names);
    let pickle = pickle.ok_or("is an archive without `data.pkl`: torch.save did not write it")?;
    let folder = pickle.trim_end_matches("data.pkl").to_string();
    let mut entry = |name: &str| -> Result<Vec<u8>, String> {
        let entry = archive.by_name(name).map_err(|e| format!("`{name}` in the archive: {e}"))?;
        // Only what is stored as it is can be read, so nothing grows beyond the file.
        let mut content = Vec::new();
        let limit = bytes.len() as u64;
        entry.take(limit).read_to_end(&mut content).map_err(|e| format!("`{name}` in the archive: {e}"))?;
        Ok(content)
    };
    if entry(&format!("{folder}byteorder")).is_ok_and(|order| order.starts_with(b"big")) {
        return Err("was written on a big-endian machine: save it on another".into());
    }
    let pickle = Pickle::read(&entry(&pickle)?, known)?;
    let views = views(&pickle)?;
    let mut storages: HashMap<String, Vec<u8>> = HashMap::new();
    // Entries of an archive may overlap; those of torch do not.
    let mut left = bytes.len();
    for view in &views {
        if !storages.contains_key(&view.storage) {
            let content = entry(&format!("{folder}data/{}", view.storage))?;
            left = left.checked_sub(content.len()).ok_or("is an archive whose entries overlap")?;
            storages.insert(view.storage.clone(), content);
        }
    }
    build(&views, bytes.len(), |key| storages.get(key).map(Vec::as_slice))
}

/// The tensors of a file that torch before 1.6 wrote: four pickles, the list of storages, and their contents.
///
/// # Errors
/// As [`read_zip`].
pub(super) fn read_legacy(bytes: &[u8]) -> Result<BTreeMap<String, FileTensor>, String> {
    let mut at = 0;
    let mut next = || -> Result<Pickle, String> {
        let pickle = Pickle::read(&bytes[at..], known)?;
        at += pickle.length;
        Ok(pickle)
    };
    let (_magic, protocol, system) = (next()?, next()?, next()?);
    if protocol.int(protocol.root) != Some(1001) {
        return Err("has a version of torch's old format that is not known".into());
    }
    if entries(&system, system.root).any(|(key, value)| {
        system.text(key) == Some("little_endian") && system.get(value) == &Object::Bool(false)
    }) {
        return Err("was written on a big-endian machine: save it on another".into());
    }
    let (pickle, keys) = (next()?, next()?);
    let views = views(&pickle)?;
    let sizes: HashMap<&str, usize> =
        views.iter().map(|view| (view.storage.as_str(), view.element.size())).collect();
    let mut storages: HashMap<&str, &[u8]> = HashMap::new();
    for key in keys.items(keys.root).unwrap_or_default() {
        let key = keys.text(*key).ok_or("a storage has no name")?;
        let size = sizes.get(key).ok_or_else(|| format!("storage `{key}` belongs to no tensor"))?;
        let cut = || format!("ends in the middle of storage `{key}`");
        let count = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(cut)?;
        at += 8;
        let length = usize::try_from(u64::from_le_bytes(*count)).ok().and_then(|n| n.checked_mul(*size));
        let end = length.and_then(|length| at.checked_add(length)).ok_or_else(cut)?;
        storages.insert(key, bytes.get(at..end).ok_or_else(cut)?);
        at = end;
    }
    build(&views, bytes.len(), |key| storages.get(key).copied())
}

fn entries(pickle: &Pickle, handle: Handle) -> impl Iterator<Item = (Handle, Handle)> {
    let entries = match pickle.get(handle) {
        Object::Dict(entries) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().copied()
}

/// All tensors in the dictionaries of a pickle, however deep.
fn views(pickle: &Pickle) -> Result<Vec<View>, String> {
    let mut found: Vec<View> = Vec::new();
    // Names are put together from keys: those of an honest file take less than it does.
    let mut names = 0;
    // Each dictionary is looked at once, so that one that holds itself comes to an end.
    let mut seen = HashSet::new();
    let mut open = vec![(String::new(), pickle.root, 0)];
    while let Some((prefix, handle, depth)) = open.pop() {
        if depth > MAX_DEPTH || !seen.insert(handle) {
            continue;
        }
        for (key, value) in entries(pickle, handle) {
            let key = match pickle.get(key) {
                Object::Text(text) if text.len() <= MAX_NAME => text.clone(),
                Object::Int(number) => number.to_string(),
                _ => continue,
            };
            let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            names += name.len();
            if name.len() > MAX_NAME || names > pickle.length + MOST_NAMES {
                return Err("has names that are longer than the file".into());
            }
            match pickle.get(value) {
                Object::Dict(_) => open.push((name, value, depth + 1)),
                Object::Call { function, arguments } => {
                    found.extend(view(pickle, &name, function, *arguments)?);
                }
                // A list, a number or a text is no weight: the epoch, for example.
                _ => {}
            }
        }
    }
    if found.is_empty() {
        return Err("has no tensors by name: save `model.state_dict()`".into());
    }
    Ok(found)
}

/// The tensor that a call makes, if it makes one.
fn view(pickle: &Pickle, name: &str, function: &str, arguments: Handle) -> Result<Option<View>, String> {
    let malformed = || format!("tensor `{name}` is not described as torch does it");
    let list = pickle.items(arguments).ok_or_else(malformed)?;
    match function {
        "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" => {}
        // A parameter is a tensor that was called once more; twice would be nonsense.
        "torch._utils._rebuild_parameter" => {
            let inner = list.first().map(|inner| pickle.get(*inner));
            let Some(Object::Call { function, arguments }) = inner else { return Err(malformed()) };
            if function == "torch._utils._rebuild_parameter" {
                return Err(malformed());
            }
            return view(pickle, name, function, *arguments);
        }
        _ => return Ok(None),
    }
    let [storage, offset, dims, strides, ..] = list else { return Err(malformed()) };
    let Object::Persistent(storage) = pickle.get(*storage) else { return Err(malformed()) };
    // ('storage', class, key, device, elements), and in the old format whether it is a part of another.
    let Some([_, class, key, _device, count, rest @ ..]) = pickle.items(*storage) else {
        return Err(malformed());
    };
    if rest.iter().any(|part| *pickle.get(*part) != Object::None) {
        return Err(format!("tensor `{name}` is a part of another storage: save a clone of it"));
    }
    let Object::Global(class) = pickle.get(*class) else { return Err(malformed()) };
    let element = storage_element(class).ok_or_else(malformed)?;
    let extents = |handle: Handle| {
        let few = pickle.items(handle).is_some_and(|items| items.len() <= MAX_RANK);
        pickle.extents(handle).filter(|_| few).ok_or_else(malformed)
    };
    let number = |handle: Handle| pickle.int(handle).and_then(|n| usize::try_from(n).ok());
    Ok(Some(View {
        name: name.to_string(),
        storage: pickle.text(*key).filter(|key| key.len() <= MAX_NAME).ok_or_else(malformed)?.to_string(),
        element,
        count: number(*count).ok_or_else(malformed)?,
        offset: number(*offset).ok_or_else(malformed)?,
        dims: extents(*dims)?,
        strides: extents(*strides)?,
    }))
}

impl View {
    /// Elements of the tensor.
    fn volume(&self) -> Option<usize> {
        self.dims.iter().try_fold(1usize, |volume, dim| volume.checked_mul(*dim))
    }

    /// The first element behind the last in the storage.
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

/// Takes the tensors out of their storages.
fn build<'a>(
    views: &[View],
    budget: usize,
    storage: impl Fn(&str) -> Option<&'a [u8]>,
) -> Result<BTreeMap<String, FileTensor>, String> {
    // Honest tensors have at least a byte in the file for each element; others would repeat bytes without end.
    let mut left = budget;
    let mut tensors = BTreeMap::new();
    for view in views {
        let fail = |reason: &str| format!("tensor `{}` {reason}", view.name);
        let bytes = storage(&view.storage).ok_or_else(|| fail("has no storage in the file"))?;
        let size = view.element.size();
        let bytes = view.count.checked_mul(size).and_then(|length| bytes.get(..length));
        let bytes = bytes.ok_or_else(|| fail("is cut off"))?;
        let volume = view.volume().filter(|_| view.dims.len() == view.strides.len());
        let (Some(volume), Some(end)) = (volume, view.end()) else {
            return Err(fail("has extents that make no sense"));
        };
        if end > view.count {
            return Err(fail("reaches beyond its storage"));
        }
        left = left.checked_sub(volume).ok_or_else(|| fail("repeats elements: save a clone of it"))?;
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
