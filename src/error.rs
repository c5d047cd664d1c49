//! The error type of the crate. Each variant names the file, tensor, layer or value and says what
//! to do.

use std::path::{Path, PathBuf};

use crate::text::{plural, printable};

/// Result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Source of an error: from the driver, a decoder or the system.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// All errors of the crate, by what the caller can do about them. Messages are complete without the
/// [`source`](std::error::Error::source).
///
/// Messages name settings by library path, in backticks: `` `GoogLeNet::input` `` is the field or
/// method of that name. A program with other names (flags, keys of a file) can substitute them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A layer does not support its input shapes.
    #[error("layer `{layer}` ({operation}): {reason}")]
    Layer {
        /// The layer's name in the graph.
        layer: String,
        /// The operation's name.
        operation: &'static str,
        /// Reason, with the shapes.
        reason: String,
    },
    /// A tensor is missing or has the wrong shape or type.
    #[error("tensor `{}`: {reason}", printable(tensor))]
    Tensor {
        /// The tensor's name.
        tensor: String,
        /// Reason and what was expected.
        reason: String,
    },
    /// A value is out of its range.
    #[error("`{field}` must be {allowed}, not {value}")]
    OutOfRange {
        /// Field or method with its type, such as `GoogLeNet::input`.
        field: &'static str,
        /// Allowed values, to follow "must be".
        allowed: String,
        /// The value.
        value: String,
    },
    /// An unknown name.
    #[error("there is no {what} `{}`: {known}", printable(name))]
    Unknown {
        /// What was named.
        what: &'static str,
        /// The name.
        name: String,
        /// Known names, or where to find them.
        known: String,
    },
    /// Invalid or contradictory settings.
    #[error("{0}")]
    Config(String),
    /// A bug in the library, which no input should cause.
    #[error("{what}: this is a bug in incept, please report it{}", because(source.as_ref()))]
    Internal {
        /// Violated invariant.
        what: &'static str,
        /// Error that revealed it.
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
        "the loss is NaN or infinite since step {step}: training diverged; use a smaller `Pace::lr`, or `Optimizer::max_grad_norm` 1"
    )]
    Diverged {
        /// The first step without a loss.
        step: u64,
    },
    /// Training has diverged, or activations stored as f16 overflow.
    #[error(
        "the loss is not finite since step {step}: activations stored as f16 overflow, or training diverged; use `Optimizer::precision` f32, a smaller `Pace::lr`, or `Optimizer::max_grad_norm` 1"
    )]
    DivergedInF16 {
        /// The first step without a loss.
        step: u64,
    },
    /// Gradients overflow even at the smallest loss scale, so all updates are skipped.
    #[error(
        "gradients stored as f16 overflow in every step since {step}, even at the smallest loss scale: use `Optimizer::precision` f32, a smaller `Pace::lr`, or `Optimizer::max_grad_norm` 1"
    )]
    Overflows {
        /// The first step without an update.
        step: u64,
    },
    /// The driver rejected a kernel or failed to run it.
    #[error("kernel `{kernel}` failed on the device: {reason}")]
    Kernel {
        /// The kernel's label: layer, operation and entry point.
        kernel: String,
        /// Reason, from the compiler or driver where available.
        reason: String,
        /// The error of the compiler or the driver.
        source: Option<Cause>,
    },
    /// The driver reported an error outside any one kernel.
    #[error("the GPU driver reported an error in {context}: {source}")]
    Driver {
        /// Operation in progress.
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
        /// Required bytes.
        needed: u64,
        /// Maximum binding size in bytes.
        limit: u64,
        /// What to change.
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
    /// A file's content is invalid.
    #[error("{}: {reason}", shown(path))]
    Format {
        /// The file.
        path: PathBuf,
        /// Reason and what to do.
        reason: String,
        /// The decoder's error, if it is the cause.
        source: Option<Cause>,
    },
    /// A file's tensors do not match a network.
    #[error("{}: the weights do not match {network}{}", shown(path), listed(missing, extra, wrong_shape))]
    Weights {
        /// The file.
        path: PathBuf,
        /// The network with the closest match.
        network: String,
        /// Tensors of the network that the file does not have.
        missing: Vec<String>,
        /// Tensors of the file that the network does not have.
        extra: Vec<String>,
        /// Tensors with the wrong shape, with both shapes.
        wrong_shape: Vec<String>,
    },
    /// More images were unreadable than allowed.
    #[error(
        "{}, more than `LoaderOptions::max_bad` {max} allows; the last is {source}",
        plural(*bad, "unreadable image")
    )]
    TooManyBad {
        /// Number of unreadable images.
        bad: usize,
        /// Number of unreadable images allowed.
        max: usize,
        /// What is wrong with the last one.
        source: Box<Error>,
    },
    /// Another process is writing this run or file.
    #[error("{path}: {owner} is writing here: wait until it ends, or stop it")]
    Locked {
        /// The lock's file.
        path: PathBuf,
        /// The process that holds it.
        owner: String,
    },
    /// A checkpoint with NaN or infinite weights.
    #[error("{path}: `{tensor}` has NaN or infinite values: training diverged{advice}")]
    NonFinite {
        /// The checkpoint.
        path: PathBuf,
        /// The first tensor with such values.
        tensor: String,
        /// What to do, starting with `; `, or empty.
        advice: String,
    },
    /// Training made weights NaN or infinite.
    #[error(
        "`{tensor}` has NaN or infinite values after {}: training diverged; use a smaller `Pace::lr`, or `Optimizer::max_grad_norm` 1",
        plural(*epochs, "epoch")
    )]
    Spoiled {
        /// The first tensor with such values.
        tensor: String,
        /// Epochs done.
        epochs: u64,
    },
    /// Training stopped early.
    #[error("{source}\n{advice}")]
    Ended {
        /// The error that stopped it.
        source: Box<Error>,
        /// What was saved and how to resume.
        advice: String,
    },
    /// No image of a data set could be read.
    #[error("{} can be read: {source}", none_of(*count))]
    NothingReadable {
        /// Number of images in the data set.
        count: usize,
        /// What is wrong with the last one.
        source: Box<Error>,
    },
    /// Stopped by the caller.
    #[error("interrupted")]
    Interrupted,
}

/// The source at the end of a message.
fn because(source: Option<&Cause>) -> String {
    source.map_or_else(String::new, |source| format!(": {source}"))
}

/// A path in printable form, without terminal control characters.
fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy()).into_owned()
}

/// "None" of this many images.
fn none_of(count: usize) -> String {
    if count == 1 { "not even the only image".into() } else { format!("none of the {count} images") }
}

/// Lists mismatched tensors, one line per kind.
fn listed(missing: &[String], extra: &[String], wrong_shape: &[String]) -> String {
    let kinds = [("missing", missing), ("extra", extra), ("of the wrong shape", wrong_shape)];
    /// More tensors than any GoogLeNet has; a file may have any number.
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

    /// An error about the content of the file at `path`, with a source; `reason` must be complete
    /// without it.
    pub fn damaged(path: impl Into<PathBuf>, reason: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Format { path: path.into(), reason: reason.into(), source: Some(source.into()) }
    }

    /// An error about a value that is out of its range: `field` must be `allowed`.
    #[expect(clippy::needless_pass_by_value, reason = "numbers are given, and are no better by reference")]
    pub fn out_of_range(field: &'static str, allowed: impl Into<String>, value: impl ToString) -> Self {
        Self::OutOfRange { field, allowed: allowed.into(), value: value.to_string() }
    }

    /// A violated invariant, which no input should cause.
    pub(crate) fn internal(what: &'static str) -> Self {
        Self::Internal { what, source: None }
    }

    /// Error for a library record that cannot be serialized.
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

    /// All source files of the library, without the command.
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

    /// The library's messages and documentation must not mention flags of the command.
    #[test]
    fn library_does_not_mention_flags() {
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
    fn error_sources_are_chained() {
        let json = serde_json::from_str::<u32>("x").expect_err("not a number");
        let error = Error::damaged("file.json", "is not JSON", json);
        assert_eq!(error.to_string(), "file.json: is not JSON");
        assert!(error.source().is_some_and(|source| source.downcast_ref::<serde_json::Error>().is_some()));
        let last = Error::TooManyBad { bad: 3, max: 2, source: Box::new(error) };
        assert!(last.source().is_some_and(|source| source.source().is_some()), "{last}");
    }

    #[test]
    fn counts_of_one_are_singular() {
        let spoiled = |epochs| Error::Spoiled { tensor: "w".into(), epochs }.to_string();
        assert!(spoiled(1).contains("after 1 epoch:") && spoiled(2).contains("after 2 epochs:"));
        let bad = |bad| Error::TooManyBad { bad, max: 0, source: Box::new(Error::Interrupted) }.to_string();
        assert!(bad(1).starts_with("1 unreadable image,") && bad(2).starts_with("2 unreadable images,"));
    }

    #[test]
    fn out_of_range_names_the_field() {
        let error = Error::out_of_range("GoogLeNet::input", "at least 32", 16);
        assert_eq!(error.to_string(), "`GoogLeNet::input` must be at least 32, not 16");
    }
}
