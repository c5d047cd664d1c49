//! Handling of untrusted input: only regular files up to a size limit are read, panics of
//! third-party parsers become typed errors, and text from files is made safe to print.
//!
//! All file reading and all parsers of other crates go through this module, so the same rules apply
//! to every format.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;
use std::task::Poll;

use crate::error::{Error, Result};
pub use crate::text::{is_hostile, printable, printable_lines};

/// Maximum bytes of a single image file or sample.
pub const MAX_SAMPLE_BYTES: u64 = 512 << 20;

/// Maximum bytes of a file that is read into memory as a whole: weights, and single-file data sets.
pub const MAX_FILE_BYTES: u64 = 16 << 30;

/// Maximum bytes of a text file: configurations, class names, logs.
pub const MAX_TEXT_BYTES: u64 = 64 << 20;

thread_local! {
    /// Number of [`contained`] parsers on this thread's stack; their panics are returned as errors
    /// and not printed.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Installs a hook that silences panics inside [`contained`] and passes all others to the previous
/// hook.
fn quiet_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if DEPTH.with(Cell::get) == 0 {
                before(info);
            }
        }));
    });
}

/// Runs a parser on untrusted input. A panic becomes an error with its message, so a damaged file
/// cannot end the program. Memory and recursion are not limited: callers must check announced sizes
/// first.
///
/// # Errors
/// The parser's error, or the message of its panic.
pub fn contained<T>(parse: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    quiet_hook();
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    let result = catch_unwind(AssertUnwindSafe(parse));
    DEPTH.with(|depth| depth.set(depth.get() - 1));
    result.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(format!("is damaged: its decoder failed ({message})"))
    })
}

/// As [`contained`], for a parser with typed errors: a panic becomes [`Error::Format`] with the
/// file's name.
///
/// # Errors
/// The parser's error, or [`Error::Format`].
pub fn contained_in<T>(path: &Path, parse: impl FnOnce() -> Result<T>) -> Result<T> {
    contained(|| Ok(parse())).unwrap_or_else(|reason| Err(Error::format(path, reason)))
}

/// As [`contained_in`], for work that waits for a device.
///
/// # Errors
/// The work's error, or [`Error::Format`].
pub async fn contained_async<T>(path: &Path, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|context| {
        let polled = contained(|| Ok(work.as_mut().poll(context)));
        polled.unwrap_or_else(|reason| Poll::Ready(Err(Error::format(path, reason))))
    })
    .await
}

/// Opens a regular file for reading and returns its length. Devices, pipes and folders are rejected
/// before opening, because opening a pipe waits for a writer.
///
/// # Errors
/// [`Error::Io`] naming the file if it cannot be opened, [`Error::Format`] if it is not regular.
pub fn open_regular(path: &Path) -> Result<(File, u64)> {
    let fail = |e: std::io::Error| Error::io(path, e);
    let refuse = |kind: &str| Error::format(path, format!("is {kind}, not a regular file"));
    let kind = std::fs::metadata(path).map_err(fail)?;
    if kind.is_dir() {
        return Err(refuse("a folder"));
    }
    if !kind.is_file() {
        return Err(refuse("a device, pipe or socket"));
    }
    let file = File::open(path).map_err(fail)?;
    // Checks the opened file again, in case the path was replaced in between.
    let opened = file.metadata().map_err(fail)?;
    if opened.is_file() { Ok((file, opened.len())) } else { Err(refuse("a device, pipe or socket")) }
}

/// Reads a regular file of up to `limit` bytes.
///
/// # Errors
/// As [`open_regular`], and [`Error::Format`] if the file is longer.
pub fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, length) = open_regular(path)?;
    if length > limit {
        return Err(Error::format(path, format!("has {length} bytes, more than the limit of {limit}")));
    }
    read_up_to(file, limit).map_err(|e| Error::io(path, e))?.map_err(|reason| Error::format(path, reason))
}

/// Reads a regular UTF-8 file of up to [`MAX_TEXT_BYTES`], without a byte order mark.
///
/// # Errors
/// As [`read_file`], and [`Error::Format`] if the text is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let text = String::from_utf8(read_file(path, MAX_TEXT_BYTES)?)
        .map_err(|_| Error::format(path, "is not UTF-8 text"))?;
    Ok(text.strip_prefix('\u{feff}').map(String::from).unwrap_or(text))
}

/// Reads a stream of up to `limit` bytes, for content without a known length: decompressed data, or
/// files that grow.
///
/// # Errors
/// The stream's error; the inner error if the content exceeds the limit.
pub fn read_up_to(stream: impl Read, limit: u64) -> std::io::Result<Result<Vec<u8>, String>> {
    let mut bytes = Vec::new();
    stream.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Ok(Err(format!("has more than the limit of {limit} bytes")));
    }
    Ok(Ok(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parser_panics_become_errors() {
        let result: Result<(), String> = contained(|| panic!("index {} out of range", 7));
        assert_eq!(result.unwrap_err(), "is damaged: its decoder failed (index 7 out of range)");
        let typed: Result<u8> = contained_in(Path::new("a.png"), || panic!("no"));
        assert_eq!(typed.unwrap_err().to_string(), "a.png: is damaged: its decoder failed (no)");
        assert_eq!(contained(|| Ok(3)), Ok(3));
    }

    #[test]
    #[cfg(unix)]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, [7; 10]).expect("can be written");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("can be linked");
        assert_eq!(read_file(&link, 10).expect("ten bytes"), [7; 10]);
        let long = read_file(&file, 9).expect_err("too long").to_string();
        assert!(long.contains("10 bytes"), "{long}");
        for other in [Path::new("/dev/zero"), folder.path()] {
            let error = read_file(other, 10).expect_err("not regular").to_string();
            assert!(error.contains("not a regular file"), "{error}");
        }
    }

    #[test]
    fn streams_over_the_limit_are_rejected() {
        assert_eq!(read_up_to([1, 2, 3].as_slice(), 3).expect("read"), Ok(vec![1, 2, 3]));
        assert!(read_up_to(std::io::repeat(0), 1000).expect("read").is_err());
    }
}
