//! Reading files as a whole or as a stream, decompressing gzip.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;

use crate::error::{Error, Result};
use crate::untrusted::{open_regular, read_up_to};

/// Maximum decompressed bytes of a gzip file. MNIST has 47 MB, CIFAR 154 MB, the largest part of
/// EMNIST 547 MB.
pub(super) const MAX_UNPACKED_BYTES: u64 = 640 << 20;

/// The first byte of every member of a gzip file.
const MEMBER: u8 = 0x1f;

fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"))
}

/// A regular file as a stream, decompressed if its name ends in `.gz`, and its maximum bytes.
pub(super) fn stream(path: &Path) -> Result<(Box<dyn Read>, u64)> {
    let (file, length) = open_regular(path)?;
    let file = BufReader::with_capacity(1 << 16, file);
    if is_packed(path) {
        return Ok((Box::new(Members { member: Some(GzDecoder::new(file)) }), MAX_UNPACKED_BYTES));
    }
    Ok((Box::new(file), length))
}

/// All members of a gzip file in order. Anything else after the last member, such as padding, is
/// ignored, as in gzip.
struct Members<R> {
    /// `None` after the last member.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            if let Some(mut rest) = self.member.take().map(GzDecoder::into_inner)
                && rest.fill_buf()?.first() == Some(&MEMBER)
            {
                self.member = Some(GzDecoder::new(rest));
            }
        }
        Ok(0)
    }
}

/// Reads a regular file, decompressed if its name ends in `.gz`, up to [`MAX_UNPACKED_BYTES`].
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let (stream, most) = stream(path)?;
    let bytes = read_up_to(stream, most.min(MAX_UNPACKED_BYTES)).map_err(|e| failed(path, e))?;
    bytes.map_err(|reason| Error::format(path, reason))
}

/// Error of a stream that could not be read.
pub(super) fn failed(path: &Path, error: std::io::Error) -> Error {
    if is_packed(path) {
        Error::damaged(path, format!("cannot be decompressed: {error}"), error)
    } else {
        Error::io(path, error)
    }
}

/// The first of these files that exists in a folder, plain or `.gz`.
pub(super) fn first_of(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    let candidates = names.iter().flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))]);
    candidates.into_iter().find(|path| path.exists() && !path.is_dir())
}

/// The names in a text, one per line; blank lines are skipped.
pub(super) fn names_in(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()
}
