//! What networks run on: a GPU or the CPU, behind one interface. Trainers, classifiers and
//! everything above them take a [`Device`], or a [`Gpu`] or [`Cpu`] directly.

mod open;
mod regions;
mod session;

pub use open::{DeviceChoice, DeviceOptions, Opened};
pub use regions::Regions;
pub use session::{Reading, Session};

use std::sync::Arc;

use crate::cpu::Cpu;
use crate::error::{Error, Result};
use crate::gpu::{AdapterSummary, Clock, Counters, Gpu, Roofline};
use crate::graph::{Graph, TensorId};
use crate::kernel::Profile;
use crate::plan::Choices;

/// A GPU or the CPU. Clones share the device.
#[derive(Clone, Debug)]
pub enum Device {
    /// An adapter of a graphics API.
    Gpu(Gpu),
    /// The CPU.
    Cpu(Cpu),
}

impl From<Gpu> for Device {
    fn from(gpu: Gpu) -> Self {
        Self::Gpu(gpu)
    }
}

impl From<&Gpu> for Device {
    fn from(gpu: &Gpu) -> Self {
        Self::Gpu(gpu.clone())
    }
}

impl From<Cpu> for Device {
    fn from(cpu: Cpu) -> Self {
        Self::Cpu(cpu)
    }
}

impl From<&Cpu> for Device {
    fn from(cpu: &Cpu) -> Self {
        Self::Cpu(cpu.clone())
    }
}

impl From<&Self> for Device {
    fn from(device: &Self) -> Self {
        device.clone()
    }
}

impl Device {
    /// Properties of the device.
    pub fn summary(&self) -> &AdapterSummary {
        match self {
            Self::Gpu(gpu) => gpu.summary(),
            Self::Cpu(cpu) => cpu.summary(),
        }
    }

    /// Limits and features for plans.
    pub fn profile(&self) -> &Profile {
        match self {
            Self::Gpu(gpu) => gpu.profile(),
            Self::Cpu(cpu) => cpu.profile(),
        }
    }

    /// The GPU, if it is one.
    pub fn gpu(&self) -> Option<&Gpu> {
        match self {
            Self::Gpu(gpu) => Some(gpu),
            Self::Cpu(_) => None,
        }
    }

    /// The CPU, if it is the CPU.
    pub fn cpu(&self) -> Option<&Cpu> {
        match self {
            Self::Gpu(_) => None,
            Self::Cpu(cpu) => Some(cpu),
        }
    }

    /// Runs a future of this crate to its end on this thread, which polls a GPU meanwhile.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn block_on<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        match self {
            Self::Gpu(gpu) => gpu.block_on(future),
            Self::Cpu(_) => pollster::block_on(future),
        }
    }

    /// Tuned implementations that trainers and classifiers on this device prefer to the defaults;
    /// none on the CPU.
    pub fn choices(&self) -> Arc<Choices> {
        match self {
            Self::Gpu(gpu) => gpu.choices(),
            Self::Cpu(_) => Arc::default(),
        }
    }

    /// Counts of requests to a GPU so far; zero on the CPU.
    pub fn counters(&self) -> Counters {
        self.gpu().map(Gpu::counters).unwrap_or_default()
    }

    /// The best available clock for profiles.
    pub fn clock(&self) -> Clock {
        self.gpu().map_or(Clock::Host, Gpu::clock)
    }

    /// Measures the peaks of the device.
    ///
    /// # Errors
    /// As [`Gpu::roofline`].
    pub async fn roofline(&self) -> Result<Roofline> {
        match self {
            Self::Gpu(gpu) => gpu.roofline().await,
            Self::Cpu(cpu) => Ok(cpu.roofline()),
        }
    }

    /// Returns the first error that a driver reported asynchronously since the last check.
    ///
    /// # Errors
    /// As [`Gpu::check`]; none on the CPU.
    pub fn check(&self, context: &str) -> Result<()> {
        self.gpu().map_or(Ok(()), |gpu| gpu.check(context))
    }

    /// Checks that the device supports the element types of a graph.
    ///
    /// # Errors
    /// [`Error::NoF16`] naming the adapter.
    pub(crate) fn require_all(&self, graph: &Graph) -> Result<()> {
        self.gpu().map_or(Ok(()), |gpu| gpu.require_all(graph))
    }

    /// Copies rows (first dimension) of an output of `from` to rows of an input of `to`; `rows` are
    /// pairs of (source row, target row).
    ///
    /// # Errors
    /// As [`Gpu::copy_rows`]; [`Error::Config`] if the sessions are on different devices.
    pub async fn copy_rows(
        from: (&Session, TensorId),
        to: (&Session, TensorId),
        rows: &[(usize, usize)],
    ) -> Result<()> {
        from.0.copy_rows(from.1, to, rows).await
    }

    /// Error for memory of another device.
    fn foreign(&self) -> Error {
        Error::Config(format!(
            "memory of another device cannot be used with {}: make it with the same `Device`",
            self.summary()
        ))
    }
}
