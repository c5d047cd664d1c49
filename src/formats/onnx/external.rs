//! External data of an ONNX model. A model is untrusted, so only regular files in its own folder
//! are read, and only the requested ranges.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use super::proto;
use crate::untrusted::{MAX_FILE_BYTES, open_regular};

/// The external files of a model, each opened once.
#[derive(Debug)]
pub(super) struct External<'a> {
    model: &'a Path,
    files: BTreeMap<PathBuf, Opened>,
    /// Remaining byte limit over all files.
    left: u64,
}

#[derive(Debug)]
struct Opened {
    file: File,
    length: u64,
    /// Bytes not read by any tensor yet: valid tensors do not share elements.
    left: u64,
}

impl<'a> External<'a> {
    pub(super) fn beside(model: &'a Path) -> Self {
        Self { model, files: BTreeMap::new(), left: MAX_FILE_BYTES }
    }

    /// Reads the elements of a tensor of `length` bytes.
    ///
    /// # Errors
    /// The reason, to follow the tensor's name.
    pub(super) fn read(&mut self, entries: &[proto::StringEntry], length: usize) -> Result<Vec<u8>, String> {
        let get = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
        let location = get("location").ok_or("has external data without a location")?;
        let number =
            |key: &str| get(key).map(|text| text.parse::<u64>().map_err(|_| format!("has a bad {key}")));
        let offset = number("offset").transpose()?.unwrap_or(0);
        let length = length as u64;
        if let Some(other) = number("length").transpose()?.filter(|other| *other != length) {
            return Err(format!("has {other} bytes in `{location}`, expected {length}"));
        }
        let path = self.resolve(location)?;
        let beyond = || format!("extends past the end of `{location}`");
        let opened = match self.files.entry(path) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let (file, length) = open_regular(entry.key()).map_err(|e| format!("is in {e}"))?;
                entry.insert(Opened { file, length, left: length })
            }
        };
        offset.checked_add(length).filter(|end| *end <= opened.length).ok_or_else(beyond)?;
        opened.left = opened.left.checked_sub(length).ok_or("shares its elements with other tensors")?;
        self.left = self.left.checked_sub(length).ok_or("does not fit into memory")?;
        let fail = |e: std::io::Error| format!("is in `{location}`: {e}");
        opened.file.seek(SeekFrom::Start(offset)).map_err(fail)?;
        let mut bytes = Vec::new();
        (&opened.file).take(length).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 == length { Ok(bytes) } else { Err(beyond()) }
    }

    /// Resolves a file in the model's folder, or in the folder of the model's link target.
    fn resolve(&self, location: &str) -> Result<PathBuf, String> {
        let outside = || format!("is in `{location}`, which is not in the model's folder");
        let inner = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !Path::new(location).components().all(inner) {
            return Err(outside());
        }
        let parent = |path: &Path| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let folder = parent(self.model);
        let path = folder.join(location);
        let real = path.canonicalize().map_err(|e| format!("is in {}: {e}", path.display()))?;
        let model = self.model.canonicalize().map(|model| parent(&model));
        let folders = [folder.canonicalize(), model];
        if folders.iter().flatten().any(|folder| real.starts_with(folder)) {
            Ok(real)
        } else {
            Err(outside())
        }
    }
}
