//! CIFAR's Python version: pickled dictionaries of labels and a NumPy array of bytes. Nothing in a
//! pickle is executed.

use std::path::Path;

use super::read::read;
use crate::error::{Error, Result};
use crate::formats::pickle::{Handle, Object, Pickle};
use crate::text::plural;

/// Bytes per image: red, green and blue planes.
const IMAGE: usize = 3 * 32 * 32;

/// The content of one file.
pub(super) struct Batch {
    /// Pixels: images x 3 x 32 x 32.
    pub planes: Vec<u8>,
    pub labels: Vec<i64>,
}

/// Whether a file starts like a pickle of protocol 2 or later.
pub(super) fn is_pickle(path: &Path) -> bool {
    use std::io::Read as _;
    let mut first = [0; 2];
    let read = crate::untrusted::open_regular(path).map(|(mut file, _)| file.read_exact(&mut first));
    matches!(read, Ok(Ok(()))) && first[0] == 0x80 && (2..=5).contains(&first[1])
}

/// Reads the images of a file, with the labels under `key`.
pub(super) fn batch(path: &Path, key: &str) -> Result<Batch> {
    let bytes = read(path)?;
    let pickle = Dictionary::read(path, &bytes)?;
    let reason = |reason: String| Error::format(path, reason);
    let planes = pickle.entry("data").and_then(|data| pickle.array(data)).map_err(reason)?.to_vec();
    let labels = pickle.entry(key).map_err(reason)?;
    let labels = pickle.pickle.items(labels).map(|items| items.iter().map(|item| pickle.pickle.int(*item)));
    let labels: Option<Vec<i64>> = labels.and_then(Iterator::collect);
    let labels = labels.ok_or_else(|| reason(format!("its `{key}` is not a list of integers")))?;
    if planes.len() != labels.len() * IMAGE || labels.is_empty() {
        let (images, labels) = (plural(planes.len() / IMAGE, "image"), plural(labels.len(), "label"));
        return Err(reason(format!("has {images} and {labels}")));
    }
    Ok(Batch { planes, labels })
}

/// Reads the class names under `key`.
pub(super) fn names(path: &Path, key: &str) -> Result<Vec<String>> {
    let bytes = read(path)?;
    let pickle = Dictionary::read(path, &bytes)?;
    let list = pickle.entry(key).map_err(|reason| Error::format(path, reason))?;
    let texts = pickle.pickle.items(list).map(|items| items.iter().map(|item| pickle.text(*item)));
    let texts: Option<Vec<String>> = texts.and_then(Iterator::collect);
    texts.ok_or_else(|| Error::format(path, format!("its `{key}` is not a list of strings")))
}

/// A pickle whose root is a dictionary.
struct Dictionary<'a> {
    bytes: &'a [u8],
    pickle: Pickle,
}

impl<'a> Dictionary<'a> {
    fn read(path: &Path, bytes: &'a [u8]) -> Result<Self> {
        let pickle = Pickle::read(bytes).map_err(|reason| Error::format(path, reason))?;
        Ok(Self { bytes, pickle })
    }

    fn raw(&self, handle: Handle) -> Option<&[u8]> {
        match self.pickle.get(handle) {
            Object::Text(text) => Some(text.as_bytes()),
            Object::Bytes(place) => self.bytes.get(place.clone()),
            _ => None,
        }
    }

    fn text(&self, handle: Handle) -> Option<String> {
        String::from_utf8(self.raw(handle)?.to_vec()).ok()
    }

    fn entry(&self, key: &str) -> Result<Handle, String> {
        let Object::Dict(entries) = self.pickle.get(self.pickle.root) else {
            return Err("is a pickle, but not of CIFAR images: its root is not a dictionary".into());
        };
        let entry = entries.iter().find(|(name, _)| self.raw(*name) == Some(key.as_bytes()));
        entry
            .map(|(_, value)| *value)
            .ok_or_else(|| format!("has no key `{key}`, which CIFAR's Python files have"))
    }

    /// The bytes of a uint8 NumPy array with one image per row.
    fn array(&self, handle: Handle) -> Result<&[u8], String> {
        let bytes = || {
            let Object::Call { function, state: Some(state), .. } = self.pickle.get(handle) else {
                return None;
            };
            let function = self.pickle.global(*function)?;
            let known = ["numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"];
            // Version, shape, dtype, Fortran order, content.
            let &[_, extents, element, by_columns, content] = self.pickle.items(*state)? else { return None };
            let Object::Call { arguments, .. } = self.pickle.get(element) else { return None };
            let element = self.text(*self.pickle.items(*arguments)?.first()?)?;
            let extents = self.pickle.extents(extents)?;
            let right = known.contains(&function.as_str())
                && matches!(element.as_str(), "u1" | "uint8" | "|u1")
                && extents.get(1) == Some(&IMAGE)
                && extents.len() == 2
                && *self.pickle.get(by_columns) == Object::Bool(false);
            let content = self.raw(content)?;
            (right && content.len() == extents[0].checked_mul(IMAGE)?).then_some(content)
        };
        bytes().ok_or_else(|| format!("its `data` is not an array of uint8 with {IMAGE} columns"))
    }
}
