//! CIFAR's Python version: pickled dictionaries of labels and a NumPy array of bytes, as written by
//! Python 2, or by Python 3 in any protocol from 2. Nothing in a pickle is executed.

use std::borrow::Cow;
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
    let planes = pickle.entry("data").and_then(|data| pickle.array(data)).map_err(reason)?.into_owned();
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

    /// Bytes that Python 3 pickled in protocol 2: as a call `_codecs.encode(text, 'latin1')`, with
    /// one character per byte.
    fn encoded(&self, handle: Handle) -> Option<&str> {
        let Object::Call { function, arguments, .. } = self.pickle.get(handle) else { return None };
        let &[text, coding] = self.pickle.items(*arguments)? else { return None };
        let right = self.pickle.global(*function)? == "_codecs.encode"
            && matches!(self.pickle.text(coding)?, "latin1" | "latin-1");
        if right { self.pickle.text(text) } else { None }
    }

    fn raw(&self, handle: Handle) -> Option<Cow<'_, [u8]>> {
        match self.pickle.get(handle) {
            Object::Text(text) => Some(text.as_bytes().into()),
            Object::Bytes(place) => self.bytes.get(place.clone()).map(Cow::Borrowed),
            _ => self.encoded(handle)?.chars().map(|c| u8::try_from(c).ok()).collect(),
        }
    }

    fn text(&self, handle: Handle) -> Option<String> {
        String::from_utf8(self.raw(handle)?.into_owned()).ok()
    }

    /// Whether an object is this text, or its bytes. Decodes nothing: a pickle may refer to a long
    /// text many times.
    fn is(&self, handle: Handle, ascii: &str) -> bool {
        match self.encoded(handle) {
            Some(text) => text == ascii,
            None => self.raw(handle).is_some_and(|raw| *raw == *ascii.as_bytes()),
        }
    }

    fn entry(&self, key: &str) -> Result<Handle, String> {
        let Object::Dict(entries) = self.pickle.get(self.pickle.root) else {
            return Err("is a pickle, but not of CIFAR images: its root is not a dictionary".into());
        };
        let entry = entries.iter().find(|(name, _)| self.is(*name, key));
        entry
            .map(|(_, value)| *value)
            .ok_or_else(|| format!("has no key `{key}`, which CIFAR's Python files have"))
    }

    /// The bytes of a uint8 NumPy array with one image per row.
    fn array(&self, handle: Handle) -> Result<Cow<'_, [u8]>, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A text in protocol 2.
    fn text(text: &str) -> Vec<u8> {
        [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
    }

    /// Bytes as Python 3 writes them in protocol 2; the function is memo entry 0.
    fn encoded(bytes: &[u8], coding: &str) -> Vec<u8> {
        let latin: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        [&b"h\0"[..], &text(&latin), &text(coding), b"\x86R"].concat()
    }

    /// A file with one image per label, as `pickle.dumps(batch, protocol=2)` of Python 3 and NumPy
    /// 2 writes it, without unused memo entries.
    fn python_3(labels: &[u8], image: &[u8], function: &str, coding: &str) -> Vec<u8> {
        let bytes = |bytes: &[u8]| encoded(bytes, coding);
        let mut file = [&b"\x80\x02c"[..], function.as_bytes(), b"\nq\x000}("].concat();
        file.extend(bytes(b"labels"));
        file.extend(b"](");
        labels.iter().for_each(|label| file.extend([b'K', *label]));
        file.push(b'e');
        file.extend(bytes(b"data"));
        file.extend(b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85");
        file.extend(bytes(b"b"));
        file.extend([&b"\x87R(K\x01K"[..], &[labels.len() as u8], b"M\x00\x0c\x86cnumpy\ndtype\n"].concat());
        file.extend(text("u1"));
        file.extend(b"\x89\x88\x87R(K\x03");
        file.extend(text("|"));
        file.extend(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89");
        file.extend(bytes(&image.repeat(labels.len())));
        file.extend(b"tbu.");
        file
    }

    #[test]
    fn batches_of_python_3_in_protocol_2_are_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("data_batch_1");
        let image: Vec<u8> = (0..IMAGE).map(|i| (i % 256) as u8).collect();
        let write = |file: &[u8]| std::fs::write(&path, file).expect("can be written");
        for coding in ["latin1", "latin-1"] {
            write(&python_3(&[3, 5], &image, "_codecs\nencode", coding));
            let read = batch(&path, "labels").expect("can be read");
            assert_eq!((read.labels, read.planes == image.repeat(2)), (vec![3, 5], true));
        }
        // Of other calls, and other encodings, the result is unknown.
        write(&python_3(&[3], &image, "_codecs\ndecode", "latin1"));
        assert!(batch(&path, "labels").is_err());
        write(&python_3(&[3], &image, "_codecs\nencode", "utf-16"));
        assert!(batch(&path, "labels").is_err());
    }
}
