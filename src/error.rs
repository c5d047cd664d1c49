//! The one error type of the crate: each variant names the file, tensor or layer at fault and says what to do.

use std::path::{Path, PathBuf};

use crate::text::printable;

/// The result of everything that can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, in terms of what the caller can do about it.
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
    /// A configuration value is out of its range or contradicts another.
    #[error("{0}")]
    Config(String),
    /// No adapter matches the request.
    #[error("no usable GPU adapter: {0}")]
    NoAdapter(String),
    /// The device could not be opened.
    #[error("cannot open a device on adapter `{adapter}`: {reason}")]
    Device {
        /// The adapter's name.
        adapter: String,
        /// The driver's words.
        reason: String,
    },
    /// Activations cannot be stored as f16 on this device.
    #[error("adapter `{adapter}` has no 16-bit floating point in shaders: use --precision f32 or auto")]
    NoF16 {
        /// The adapter's name.
        adapter: String,
    },
    /// Training has diverged.
    #[error(
        "the loss is no number since step {step}: training diverged; use a smaller --lr, or --max-grad-norm 1"
    )]
    Diverged {
        /// The first step without a loss.
        step: u64,
    },
    /// Training has diverged, or activations stored as f16 overflow.
    #[error(
        "the loss is not finite since step {step}: activations stored as f16 overflow, or training diverged; use --precision f32, a smaller --lr, or --max-grad-norm 1"
    )]
    DivergedInF16 {
        /// The first step without a loss.
        step: u64,
    },
    /// Gradients overflow however little the loss is scaled: no update is done any more.
    #[error(
        "gradients stored as f16 overflow in every step since {step}, at the smallest loss scale too: use --precision f32, a smaller --lr, or --max-grad-norm 1"
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
        /// The driver's words.
        reason: String,
    },
    /// The driver reported an error outside any one kernel.
    #[error("the GPU driver reported an error in {context}: {reason}")]
    Driver {
        /// What was being done.
        context: String,
        /// The driver's words.
        reason: String,
    },
    /// The device ran out of memory.
    #[error(
        "the device is out of memory in {context}: use a smaller --batch-size, --image-size or --width, or --grad-checkpointing or --precision f16 in training"
    )]
    OutOfMemory {
        /// What was being allocated or run.
        context: String,
    },
    /// The device was lost: its driver was reset or it was unplugged.
    #[error("the device was lost ({0}); training can continue from the last checkpoint with --resume")]
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
    /// More pictures of a data set were unreadable than allowed.
    #[error("{bad} unreadable pictures, more than --max-bad {max} allows; the last is {last}")]
    TooManyBad {
        /// How many were unreadable.
        bad: usize,
        /// How many were allowed.
        max: usize,
        /// The last one with its error.
        last: String,
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
        "`{tensor}` has NaN or infinite values after {epochs} epochs: training diverged; use a smaller --lr, or --max-grad-norm 1"
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
    #[error("none of the {count} images can be read: {last}")]
    NothingReadable {
        /// Images of the data set.
        count: usize,
        /// The last one with its error.
        last: String,
    },
    /// The caller asked for the work to stop.
    #[error("interrupted")]
    Interrupted,
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
        Self::Format { path: path.into(), reason: reason.into() }
    }

    /// An error about the tensor called `tensor`.
    pub fn tensor(tensor: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Tensor { tensor: tensor.into(), reason: reason.into() }
    }
}
