//! Files of `torch.save` and `torch.jit.save`: zip archives since torch 1.6, and the older pickle
//! format. Nothing in them is executed.

mod view;
mod walk;

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};

use super::FileTensor;
use super::pickle::{Handle, Object, Pickle};
use crate::untrusted::printable;
use view::{build, storages_of};
use walk::{Found, nothing_found, walk};

/// The first pickle of a file before torch 1.6, 0x1950a86a20f9469cfc6c: in binary, which from
/// protocol 2 on follows the protocol number and an optional frame length, and in decimal digits.
const LEGACY_MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const LEGACY_MAGIC_1: &[u8] = b"L119547037146038801333356L\n.";

/// Whether `bytes` start like a file of torch before 1.6.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    let behind = |count: usize| bytes.get(count..).is_some_and(|rest| rest.starts_with(LEGACY_MAGIC));
    let framed = bytes.get(2) == Some(&0x95) && behind(11);
    bytes.starts_with(LEGACY_MAGIC_1) || bytes.first() == Some(&0x80) && (behind(2) || framed)
}

/// Content of a torch file.
#[derive(Debug)]
pub(super) struct Contents {
    /// Tensors by name.
    pub tensors: BTreeMap<String, FileTensor>,
    /// Names and classes of skipped objects.
    pub skipped: Vec<String>,
    /// Whether the file is of `torch.jit.save`.
    pub script: bool,
}

/// Reads the tensors of a zip archive of torch 1.6 or later; names in nested dictionaries are
/// joined by dots.
///
/// # Errors
/// The reason, with the tensor's name where known, and what to save instead.
pub(super) fn read_zip(bytes: &[u8]) -> Result<Contents, String> {
    let damaged = |e: zip::result::ZipError| {
        // The zip crate cannot read archives of torch.export; they are recognized by names in the
        // central directory at the end.
        let list = bytes.get(bytes.len().saturating_sub(1 << 16)..).unwrap_or(bytes);
        let exported = list.windows(EXPORTED.len()).any(|name| name == EXPORTED.as_bytes());
        if exported { export_advice() } else { format!("is not a complete torch archive: {e}") }
    };
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    let names: Vec<String> = archive.file_names().filter_map(Result::ok).map(String::from).collect();
    let pickle = names.iter().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let pickle = pickle.ok_or_else(|| not_saved(&names))?.clone();
    let folder = pickle.trim_end_matches("data.pkl").to_string();
    let script = names.contains(&format!("{folder}constants.pkl"));
    let mut entry = |name: &str| -> Result<Vec<u8>, String> {
        let entry = archive.by_name(name).map_err(|e| format!("`{name}` in the archive: {e}"))?;
        // Entries are stored uncompressed, so they cannot be larger than the file.
        let mut content = Vec::new();
        let limit = bytes.len() as u64;
        entry.take(limit).read_to_end(&mut content).map_err(|e| format!("`{name}` in the archive: {e}"))?;
        Ok(content)
    };
    if entry(&format!("{folder}byteorder")).is_ok_and(|order| order.starts_with(b"big")) {
        return Err("was written on a big-endian machine: save it on a little-endian one".into());
    }
    let pickle = Pickle::read(&entry(&pickle)?)?;
    let Found { views, skipped } = walk(&pickle)?;
    if views.is_empty() {
        return Err(if script { FROZEN.into() } else { nothing_found(&pickle) });
    }
    let mut storages: HashMap<String, Vec<u8>> = HashMap::new();
    // Overlapping entries, which torch does not write, could exceed the file's size.
    let mut left = bytes.len();
    for view in &views {
        if !storages.contains_key(&view.storage) {
            let content = entry(&format!("{folder}data/{}", view.storage))?;
            left = left.checked_sub(content.len()).ok_or("is an archive whose entries overlap")?;
            storages.insert(view.storage.clone(), content);
        }
    }
    let tensors = build(&views, bytes.len(), |key| storages.get(key).map(Vec::as_slice))?;
    Ok(Contents { tensors, skipped, script })
}

/// Error for a model of `torch.jit.freeze`.
const FROZEN: &str = "is a frozen TorchScript archive: its weights are constants without names. Save the weights of the original model with \
    `torch.save(model.state_dict(), \"weights.pth\")`";

/// A file in the archives of torch.export.
const EXPORTED: &str = "archive_format";

fn export_advice() -> String {
    "is an archive of torch.export: save its weights with `torch.save(torch.export.load(FILE).state_dict, \"weights.pth\")`".into()
}

/// Error for an archive with these files that is not of `torch.save`, with advice.
fn not_saved(names: &[String]) -> String {
    let ends = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    if ends("serialized_exported_program.json") || ends(EXPORTED) || ends("models/model.json") {
        return export_advice();
    }
    if ends(".npy") {
        return "is an archive of numpy: save its arrays with `safetensors.numpy.save_file(dict(numpy.load(FILE)), \"weights.safetensors\")`".into();
    }
    "is an archive without `data.pkl`, so it was not written by torch.save".into()
}

/// Reads the tensors of a file of torch before 1.6: four pickles, the list of storages, and their
/// contents.
///
/// # Errors
/// As [`read_zip`].
pub(super) fn read_legacy(bytes: &[u8]) -> Result<Contents, String> {
    let mut at = 0;
    let mut next = || -> Result<Pickle, String> {
        let pickle = Pickle::read(bytes.get(at..).unwrap_or_default())?;
        at += pickle.length;
        Ok(pickle)
    };
    let (_magic, protocol) = (next()?, next()?);
    if protocol.int(protocol.root) != Some(1001) {
        let found = match protocol.get(protocol.root) {
            Object::Int(version) => version.to_string(),
            _ => format!("`{}`", protocol.kind(protocol.root)),
        };
        return Err(format!("has an unknown version of torch's old format: {found}"));
    }
    let system = next()?;
    let Object::Dict(entries) = system.get(system.root) else {
        return Err("has no description of the system that wrote it".into());
    };
    let big = |(key, value): &(Handle, Handle)| {
        system.text(*key) == Some("little_endian") && system.get(*value) == &Object::Bool(false)
    };
    if entries.iter().any(big) {
        return Err("was written on a big-endian machine: save it on a little-endian one".into());
    }
    let (pickle, keys) = (next()?, next()?);
    let Found { views, skipped } = walk(&pickle)?;
    if views.is_empty() {
        return Err(nothing_found(&pickle));
    }
    let sizes: HashMap<&str, usize> = storages_of(&pickle).collect();
    let mut storages: HashMap<&str, &[u8]> = HashMap::new();
    for key in keys.items(keys.root).unwrap_or_default() {
        let key = keys.text(*key).ok_or("a storage has no name")?;
        let size = sizes
            .get(key)
            .ok_or_else(|| format!("storage `{}` belongs to no tensor of a known type", printable(key)))?;
        let cut = || format!("is truncated in storage `{}`", printable(key));
        let count = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(cut)?;
        at += 8;
        let length = usize::try_from(u64::from_le_bytes(*count)).ok().and_then(|n| n.checked_mul(*size));
        let end = length.and_then(|length| at.checked_add(length)).ok_or_else(cut)?;
        storages.insert(key, bytes.get(at..end).ok_or_else(cut)?);
        at = end;
    }
    let tensors = build(&views, bytes.len(), |key| storages.get(key).copied())?;
    Ok(Contents { tensors, skipped, script: false })
}
