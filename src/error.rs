//! The one error type of the crate: each variant names the file, tensor, layer or value at fault
//! and says what to do.

use std::path::{Path, PathBuf};

use crate::text::printable;

/// The result of everything that can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error comes from: an error of the driver, of a decoder, of the system.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Everything that can go wrong, in terms of what the caller can do about it. A message says all
/// that there is to say; what an error comes from, where that is an error of its own, is its
/// [`source`](std::error::Error::source) besides.
///
/// What can be changed is called as the library calls it: `` `GoogLeNet::input` `` is the field or
/// the method of that name. A program with other names for it (flags, keys of a file) can put those
/// in their place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A layer was given shapes that it cannot work on.
    #[error("layer `{layer}` ({operation}): {reason}")]
    Layer {
        /// The layer's name in the graph.
        layer: String,
        /// The operation's name.
        operation: &'static str,
        /// What is wrong, with the shapes.
        reason: String,
    },
    /// A tensor is missing, or does not have the expected shape or type.
    #[error("tensor `{}`: {reason}", printable(tensor))]
    Tensor {
        /// The tensor's name.
        tensor: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A value is out of its range.
    #[error("`{field}` must be {allowed}, not {value}")]
    OutOfRange {
        /// What has the value: a field or a method of the library, with its type.
        field: &'static str,
        /// What the value may be, as in "must be above zero".
        allowed: String,
        /// The value.
        value: String,
    },
    /// A name that nothing has.
    #[error("there is no {what} `{}`: {known}", printable(name))]
    Unknown {
        /// What it would be the name of.
        what: &'static str,
        /// The name.
        name: String,
        /// The names that there are, or where they are.
        known: String,
    },
    /// Settings that contradict each other, or what they are for.
    #[error("{0}")]
    Config(String),
    /// A mistake of the library itself, which no input should be able to bring about: please report
    /// it.
    #[error("{what}: this is a mistake in incept, please report it{}", because(source.as_ref()))]
    Internal {
        /// What is not as it must be.
        what: &'static str,
        /// What found it out.
        source: Option<Cause>,
    },
    /// No adapter matches the request.
    #[error("no usable GPU adapter: {0}")]
    NoAdapter(String),
    /// The device could not be opened.
    #[error("cannot open a device on adapter `{adapter}`: {source}")]
    Device {
        /// The adapter's name.
        adapter: String,
        /// The driver's words.
        source: Cause,
    },
    /// Activations cannot be stored as f16 on this device.
    #[error("adapter `{adapter}` has no 16-bit floating point in shaders: use `Optimizer::precision` f32")]
    NoF16 {
        /// The adapter's name.
        adapter: String,
    },
    /// Training has diverged.
    #[error(
        "the loss is NaN or infinite since step {step}: training diverged; use a smaller `Pace::rate`, or `Optimizer::clip_norm` 1"
    )]
    Diverged {
        /// The first step without a loss.
        step: u64,
    },
    /// Training has diverged, or activations stored as f16 overflow.
    #[error(
        "the loss is not finite since step {step}: activations stored as f16 overflow, or training diverged; use `Optimizer::precision` f32, a smaller `Pace::rate`, or `Optimizer::clip_norm` 1"
    )]
    DivergedInF16 {
        /// The first step without a loss.
        step: u64,
    },
    /// Gradients overflow however little the loss is scaled: no update is done any more.
    #[error(
        "gradients stored as f16 overflow in every step since {step}, at the smallest loss scale too: use `Optimizer::precision` f32, a smaller `Pace::rate`, or `Optimizer::clip_norm` 1"
    )]
    Overflows {
        /// The first step without an update.
        step: u64,
    },
    /// The driver refused or failed a kernel.
    #[error("kernel `{kernel}` failed on the device: {reason}")]
    Kernel {
        /// The kernel's label: layer, operation and entry point.
        kernel: String,
        /// What is wrong, in the words of the compiler or the driver where those refused it.
        reason: String,
        /// The error of the compiler or the driver.
        source: Option<Cause>,
    },
    /// The driver reported an error outside any one kernel.
    #[error("the GPU driver reported an error in {context}: {source}")]
    Driver {
        /// What was being done.
        context: String,
        /// The driver's words.
        source: Cause,
    },
    /// The device ran out of memory.
    #[error(
        "the device is out of memory in {context}: use a smaller `LoaderOptions::batch`, `GoogLeNet::input` or `GoogLeNet::width`, or `Optimizer::checkpointing` or `Optimizer::precision` f16 in training"
    )]
    OutOfMemory {
        /// What was being allocated or run.
        context: String,
    },
    /// The device was lost: its driver was reset or it was unplugged.
    #[error(
        "the device was lost ({0}); training can continue from the last checkpoint with `Trainer::restore`"
    )]
    DeviceLost(String),
    /// A tensor does not fit in one binding of the device.
    #[error("tensor `{tensor}` needs {needed} bytes and this device binds at most {limit} at once; {advice}")]
    TooLarge {
        /// The tensor's name.
        tensor: String,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that the device can bind.
        limit: u64,
        /// What would fit.
        advice: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", shown(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file's content is not what its format says.
    #[error("{}: {reason}", shown(path))]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
        /// The decoder's error, where that is what is wrong.
        source: Option<Cause>,
    },
    /// A file's weights are not all of a network's, or not only those.
    #[error("{}: these are not the weights of {network}{}", shown(path), listed(missing, extra, misshapen))]
    Weights {
        /// The file.
        path: PathBuf,
        /// The network that the tensors come closest to.
        network: String,
        /// Tensors of the network that the file does not have.
        missing: Vec<String>,
        /// Tensors of the file that the network does not have.
        extra: Vec<String>,
        /// Tensors with other extents, and which.
        misshapen: Vec<String>,
    },
    /// More images of a data set were unreadable than allowed.
    #[error("{bad} unreadable images, more than `LoaderOptions::max_bad` {max} allows; the last is {source}")]
    TooManyBad {
        /// How many were unreadable.
        bad: usize,
        /// How many were allowed.
        max: usize,
        /// What is wrong with the last one.
        source: Box<Error>,
    },
    /// Another process writes this run or file.
    #[error("{path}: {owner} is writing this: wait until it ends, or stop it")]
    Locked {
        /// The lock's file.
        path: PathBuf,
        /// The process that has it.
        owner: String,
    },
    /// A checkpoint whose weights training has spoiled.
    #[error("{path}: `{tensor}` has NaN or infinite values: training diverged{advice}")]
    NonFinite {
        /// The checkpoint.
        path: PathBuf,
        /// The first tensor with such values.
        tensor: String,
        /// What to do: from `; ` on, or nothing.
        advice: String,
    },
    /// Training has spoiled the weights.
    #[error(
        "`{tensor}` has NaN or infinite values after {epochs} epochs: training diverged; use a smaller `Pace::rate`, or `Optimizer::clip_norm` 1"
    )]
    Spoiled {
        /// The first tensor with such values.
        tensor: String,
        /// Epochs done.
        epochs: u64,
    },
    /// Training ended before its end.
    #[error("{source}\n{advice}")]
    Ended {
        /// What ended it.
        source: Box<Error>,
        /// What is left of it and how to go on.
        advice: String,
    },
    /// No image of a data set could be read: there is nothing to train on or to measure.
    #[error("none of the {count} images can be read: {source}")]
    NothingReadable {
        /// Images of the data set.
        count: usize,
        /// What is wrong with the last one.
        source: Box<Error>,
    },
    /// The caller asked for the work to stop.
    #[error("interrupted")]
    Interrupted,
}

/// The end of a message that has a cause.
fn because(source: Option<&Cause>) -> String {
    source.map_or_else(String::new, |source| format!(": {source}"))
}

/// A path for people: what it is called must not be obeyed by their terminal.
fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy()).into_owned()
}

/// The tensors at fault, a line for each kind of fault.
fn listed(missing: &[String], extra: &[String], misshapen: &[String]) -> String {
    let kinds = [("missing", missing), ("extra", extra), ("misshapen", misshapen)];
    /// More than any GoogLeNet has; a file can have as many as it likes.
    const MOST: usize = 500;
    let lines = kinds.iter().filter(|(_, names)| !names.is_empty());
    let line = |(kind, names): &(&str, &[String])| {
        let more = if names.len() > MOST { ", ..." } else { "" };
        let list = names[..names.len().min(MOST)].join(", ");
        format!("\n  {} {kind}: {}{more}", names.len(), printable(&list))
    };
    lines.map(line).collect()
}

impl Error {
    /// An error about the file at `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// An error about the content of the file at `path`.
    pub fn format(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Format { path: path.into(), reason: reason.into(), source: None }
    }

    /// An error about the content of the file at `path` that comes from another: `reason` says all
    /// that is to be said.
    pub fn damaged(path: impl Into<PathBuf>, reason: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Format { path: path.into(), reason: reason.into(), source: Some(source.into()) }
    }

    /// An error about a value that is out of its range: `field` must be `allowed`.
    #[expect(clippy::needless_pass_by_value, reason = "numbers are given, and are no better by reference")]
    pub fn out_of_range(field: &'static str, allowed: impl Into<String>, value: impl ToString) -> Self {
        Self::OutOfRange { field, allowed: allowed.into(), value: value.to_string() }
    }

    /// An error that no input should be able to bring about.
    pub(crate) fn internal(what: &'static str) -> Self {
        Self::Internal { what, source: None }
    }

    /// That something of the library's own cannot be written down.
    pub(crate) fn unwritable(source: serde_json::Error) -> Self {
        Self::Internal { what: "a record cannot be written as JSON", source: Some(source.into()) }
    }

    /// An error about the tensor called `tensor`.
    pub fn tensor(tensor: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Tensor { tensor: tensor.into(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    /// All source files of the library, its command left out.
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("the sources are there").flatten() {
            let path = entry.path();
            let command = path.ends_with("src/cli") || path.ends_with("src/main.rs");
            if path.is_dir() && !command {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !command {
                found.push(path);
            }
        }
    }

    /// The library knows nothing of the command's flags: neither its messages nor its documentation
    /// speak of any.
    #[test]
    fn the_library_names_no_flag() {
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        assert!(files.len() > 100, "{files:?}");
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source can be read");
            for (number, line) in text.lines().enumerate() {
                let flag = line.match_indices("--").any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    let after = line[at + 2..].chars().next();
                    before.is_none_or(|c| !c.is_alphanumeric() && c != '-' && c != '<')
                        && after.is_some_and(|c| c.is_ascii_lowercase())
                });
                assert!(!flag, "{}:{}: {line}", file.display(), number + 1);
            }
        }
    }

    #[test]
    fn causes_are_sources() {
        let json = serde_json::from_str::<u32>("x").expect_err("no number");
        let error = Error::damaged("file.json", "is no JSON", json);
        assert_eq!(error.to_string(), "file.json: is no JSON");
        assert!(error.source().is_some_and(|source| source.downcast_ref::<serde_json::Error>().is_some()));
        let last = Error::TooManyBad { bad: 3, max: 2, source: Box::new(error) };
        assert!(last.source().is_some_and(|source| source.source().is_some()), "{last}");
    }

    #[test]
    fn values_out_of_range_are_named() {
        let error = Error::out_of_range("GoogLeNet::input", "at least 32", 16);
        assert_eq!(error.to_string(), "`GoogLeNet::input` must be at least 32, not 16");
    }
}
