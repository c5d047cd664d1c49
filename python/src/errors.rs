//! Errors of the library as Python's exceptions, whose classes are in `incept/_errors.py`.

use std::io::ErrorKind;
use std::path::Path;

use incept::Error;
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyType;

/// The exception for an error of the library.
pub(crate) fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    if let Error::Interrupted = error {
        return PyKeyboardInterrupt::new_err(());
    }
    raised(py, class_of(error), &in_keywords(&error.to_string()))
}

/// An exception of this class in `incept/_errors.py`.
pub(crate) fn raised(py: Python<'_>, class: &str, message: &str) -> PyErr {
    let class = py.import("incept._errors").and_then(|module| module.getattr(class));
    match class.and_then(|class| Ok(class.cast_into::<PyType>()?)) {
        Ok(class) => PyErr::from_type(class, (message.to_string(),)),
        Err(error) => error,
    }
}

/// A value as JSON.
pub(crate) fn json(py: Python<'_>, value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|e| raised(py, "InceptError", &e.to_string()))
}

/// The name of the exception's class.
fn class_of(error: &Error) -> &'static str {
    match error {
        Error::Config(_) | Error::OutOfRange { .. } | Error::Unknown { .. } | Error::Layer { .. } => {
            "ConfigError"
        }
        Error::Tensor { .. } | Error::Weights { .. } | Error::NonFinite { .. } => "CheckpointError",
        Error::Format { path, .. } if is_weights(path) => "CheckpointError",
        Error::Format { .. } | Error::TooManyBad { .. } | Error::NothingReadable { .. } => "DataError",
        Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => "MissingFileError",
        Error::Io { .. } | Error::Locked { .. } => "FileError",
        Error::NoAdapter(_)
        | Error::Device { .. }
        | Error::NoF16 { .. }
        | Error::Kernel { .. }
        | Error::Driver { .. }
        | Error::OutOfMemory { .. }
        | Error::DeviceLost(_)
        | Error::TooLarge { .. } => "DeviceError",
        Error::Diverged { .. }
        | Error::DivergedInF16 { .. }
        | Error::Overflows { .. }
        | Error::Spoiled { .. } => "DivergedError",
        Error::Ended { source, .. } => class_of(source),
        _ => "InceptError",
    }
}

/// Whether a file has weights, by its name.
fn is_weights(path: &Path) -> bool {
    path.extension().is_some_and(|e| ["safetensors", "pth", "pt"].iter().any(|known| e == *known))
}

/// A message with Python's keywords in place of the library's fields and the command's flags;
/// commands in backquotes stay.
pub(crate) fn in_keywords(message: &str) -> String {
    let message = message.replace("see `data::open` for", "see docs/data-sets.md for");
    let text = incept_cli::shared::flags(&message);
    let parts = text
        .split('`')
        .map(|part| if part.starts_with("incept ") { part.to_string() } else { flags_to_keywords(part) });
    parts.collect::<Vec<_>>().join("`")
}

/// Replaces `--batch-size` with `batch_size`.
fn flags_to_keywords(text: &str) -> String {
    let mut parts = text.split("--");
    let mut replaced = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let begins =
            replaced.chars().next_back().is_none_or(|before| !before.is_alphanumeric() && before != '-');
        let end = part.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(part.len());
        let (flag, rest) = part.split_at(end);
        // A hyphen at the end belongs to the text.
        let name = flag.trim_end_matches('-');
        if begins && !name.is_empty() && !name.starts_with('-') {
            replaced.push_str(&name.replace('-', "_"));
            replaced.push_str(&flag[name.len()..]);
        } else {
            replaced.push_str("--");
            replaced.push_str(flag);
        }
        replaced.push_str(rest);
    }
    replaced
}

/// The exception for a thread of the package that ended without a result.
pub(crate) fn lost() -> PyErr {
    PyRuntimeError::new_err(
        "a thread of incept ended with a panic: this is a bug in incept, please report it",
    )
}
