//! The files in a tar, with links resolved and sizes limited.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::{Error, Result};
use crate::untrusted::{MAX_SAMPLE_BYTES, contained_in, open_regular, read_up_to};

/// Maximum bytes of a name, or of an extension header.
const MAX_NAME_BYTES: u64 = 1 << 20;

/// Position of a file's content in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub offset: u64,
    pub bytes: u64,
}

/// The files of an archive in order, with names, and the number of broken links to images.
#[derive(Debug, Default)]
pub(super) struct Archive {
    pub files: Vec<(String, Place)>,
    pub broken_links: usize,
}

/// Extension headers for the next entry.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    link: Option<String>,
}

impl Archive {
    /// Lists an archive. Hard and symbolic links resolve to a file that precedes them in the
    /// archive.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it is not a tar, is cut off,
    /// or has a file or a name that is too large.
    pub fn list(path: &Path) -> Result<Self> {
        let (file, length) = open_regular(path)?;
        contained_in(path, || Self::read(path, file, length))
    }

    fn read(path: &Path, file: File, length: u64) -> Result<Self> {
        let damaged = |e: std::io::Error| Error::format(path, format!("cannot be read as tar: {e}"));
        let mut listed = Self::default();
        let mut places: HashMap<String, Place> = HashMap::new();
        let mut extended = Extended::default();
        let mut archive = tar::Archive::new(file);
        // Raw entries, because the crate reads names of any length.
        for entry in archive.entries_with_seek().map_err(damaged)?.raw(true) {
            let mut entry = entry.map_err(damaged)?;
            let kind = entry.header().entry_type();
            if kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions() {
                let content = read_up_to(&mut entry, MAX_NAME_BYTES).map_err(damaged)?;
                let content = content.map_err(|reason| Error::format(path, format!("a name {reason}")))?;
                extended.add(kind, &content);
                continue;
            }
            let Extended { name, link } = std::mem::take(&mut extended);
            let name = name.unwrap_or_else(|| text(&entry.path_bytes()));
            let name = plain(&name);
            let place = if kind.is_file() || kind.is_contiguous() {
                Some(Place { offset: entry.raw_file_position(), bytes: entry.size() })
            } else if kind.is_hard_link() || kind.is_symlink() {
                let link = link.or_else(|| entry.link_name_bytes().map(|name| text(&name)));
                let found =
                    link.and_then(|link| places.get(&target(&name, &link, kind.is_symlink())).copied());
                listed.broken_links += usize::from(found.is_none());
                found
            } else {
                None
            };
            let Some(place) = place else { continue };
            if place.offset.checked_add(place.bytes).is_none_or(|end| end > length) {
                return Err(Error::format(
                    path,
                    format!("is truncated: `{name}` extends past the end of the file"),
                ));
            }
            places.insert(name.clone(), place);
            listed.files.push((name, place));
        }
        Ok(listed)
    }
}

impl Extended {
    fn add(&mut self, kind: tar::EntryType, content: &[u8]) {
        if kind.is_gnu_longname() {
            self.name = Some(text(content));
        } else if kind.is_gnu_longlink() {
            self.link = Some(text(content));
        } else {
            for pair in tar::PaxExtensions::new(content).flatten() {
                match pair.key_bytes() {
                    b"path" => self.name = Some(text(pair.value_bytes())),
                    b"linkpath" => self.link = Some(text(pair.value_bytes())),
                    _ => {}
                }
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

/// A name without leading `./`.
fn plain(name: &str) -> String {
    let mut name = name;
    while let Some(rest) = name.strip_prefix("./") {
        name = rest;
    }
    name.to_string()
}

/// The target of a link, relative to the archive's root for a hard link, or to the link's folder
/// for a symbolic one.
fn target(name: &str, link: &str, symbolic: bool) -> String {
    if !symbolic {
        return plain(link);
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Reads the content of a file in an archive.
pub(super) fn read(path: &Path, place: Place) -> Result<Vec<u8>> {
    let (mut file, _) = open_regular(path)?;
    read_from(&mut file, path, place)
}

/// As [`read`], from an open archive.
pub(super) fn read_from(file: &mut File, path: &Path, place: Place) -> Result<Vec<u8>> {
    if place.bytes > MAX_SAMPLE_BYTES {
        let reason =
            format!("has a file of {} bytes, more than the limit of {MAX_SAMPLE_BYTES}", place.bytes);
        return Err(Error::format(path, reason));
    }
    file.seek(SeekFrom::Start(place.offset)).map_err(|e| Error::io(path, e))?;
    let content = read_up_to(file.take(place.bytes), place.bytes).map_err(|e| Error::io(path, e))?;
    content.map_err(|reason| Error::format(path, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_targets_are_resolved() {
        assert_eq!(target("a/x.png", "b/y.png", false), "b/y.png");
        assert_eq!(target("a/x.png", "./b/y.png", false), "b/y.png");
        assert_eq!(target("a/x.png", "y.png", true), "a/y.png");
        assert_eq!(target("a/x.png", "../b/./y.png", true), "b/y.png");
    }
}
