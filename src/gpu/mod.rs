//! The device: choosing an adapter, opening it, compiling pipelines, running plans. Everything here is `async` and free of
//! threads, files, clocks and blocking calls, so that it runs in a browser tab as it does in a terminal.

mod adapter;
mod cooperative;
mod element;
mod pipeline;
mod regions;
mod session;
mod trial;

pub use adapter::{AdapterOptions, AdapterSummary, list_adapters};
pub use pipeline::Pipeline;
pub use regions::Regions;
pub use session::{Metrics, Session};
pub use trial::{Trial, TrialOutput};

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};
use crate::graph::Element;
use crate::kernel::Profile;

/// An open device with its pipelines. Clones share the device.
#[derive(Clone, Debug)]
pub struct Gpu {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    device: wgpu::Device,
    queue: wgpu::Queue,
    summary: AdapterSummary,
    profile: Profile,
    pipelines: Mutex<HashMap<String, Arc<Pipeline>>>,
    failures: Arc<Mutex<Vec<Failure>>>,
    /// The submission that a future waits for, so that blocking on it does not drain the queue.
    awaited: Mutex<Option<wgpu::SubmissionIndex>>,
}

/// An error that arrived outside any call.
#[derive(Debug)]
enum Failure {
    OutOfMemory,
    Error(String),
    Lost(String),
}

impl From<wgpu::Error> for Failure {
    // In a browser the error itself must stay on its thread.
    fn from(error: wgpu::Error) -> Self {
        match error {
            wgpu::Error::OutOfMemory { .. } => Self::OutOfMemory,
            error => Self::Error(error.to_string()),
        }
    }
}

impl Gpu {
    /// Opens the adapter that the options name, or the fastest one.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] with the list of what there is, [`Error::Device`] if the driver refuses.
    pub async fn open(options: &AdapterOptions) -> Result<Self> {
        adapter::open(options).await
    }

    /// As [`Gpu::open`], blocking.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_blocking(options: &AdapterOptions) -> Result<Self> {
        pollster::block_on(Self::open(options))
    }

    /// What is known of the adapter.
    pub fn summary(&self) -> &AdapterSummary {
        &self.shared.summary
    }

    /// What kernels may rely on.
    pub fn profile(&self) -> &Profile {
        &self.shared.profile
    }

    /// Refuses elements that the device's shaders cannot work with.
    ///
    /// # Errors
    /// [`Error::NoF16`] naming the adapter.
    pub(crate) fn require(&self, element: Element) -> Result<()> {
        if element == Element::F16 && !self.profile().f16 {
            return Err(Error::NoF16 { adapter: self.summary().to_string() });
        }
        Ok(())
    }

    /// Number of pipelines made so far.
    pub fn pipeline_count(&self) -> usize {
        self.shared.pipelines.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn device(&self) -> &wgpu::Device {
        &self.shared.device
    }

    pub(crate) fn queue(&self) -> &wgpu::Queue {
        &self.shared.queue
    }

    /// A buffer for storage bindings, zeroed, that can be copied from and to.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::Driver`] with the buffer's label.
    pub(crate) async fn buffer(
        &self,
        label: &str,
        bytes: u64,
        extra: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        let scope = self.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes.next_multiple_of(16).max(16),
            usage: extra,
            mapped_at_creation: false,
        });
        match scope.pop().await {
            Some(_) => Err(Error::OutOfMemory { context: format!("buffer `{label}` of {bytes} bytes") }),
            None => Ok(buffer),
        }
    }

    /// The first error that the driver reported on its own since the last check, if there is one.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`], or [`Error::Driver`] with the driver's words.
    pub fn check(&self, context: &str) -> Result<()> {
        let mut failures = self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let first = if failures.is_empty() { return Ok(()) } else { failures.remove(0) };
        let context = context.to_string();
        failures.clear();
        Err(match first {
            Failure::Lost(reason) => Error::DeviceLost(reason),
            Failure::OutOfMemory => Error::OutOfMemory { context },
            Failure::Error(reason) => Error::Driver { context, reason },
        })
    }

    /// Copies `bytes` of a buffer to the host, waiting for all work before.
    ///
    /// # Errors
    /// [`Error::Driver`] if the buffer cannot be mapped.
    pub(crate) async fn download(&self, source: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let size = bytes.next_multiple_of(4);
        let staging = self.buffer("download", size, usage).await?;
        let mut encoder = self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(source, offset, &staging, 0, size);
        self.queue().submit([encoder.finish()]);
        let mut data = map(&staging, size).await.map_err(|reason| self.driver("reading a buffer", reason))?;
        data.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(data)
    }

    /// An error of the driver; a lost device where that was the cause.
    pub(crate) fn driver(&self, context: &str, reason: String) -> Error {
        self.check(context).err().unwrap_or(Error::Driver { context: context.to_string(), reason })
    }

    /// Runs a future of this device to its end on this thread: the only place where the engine blocks.
    ///
    /// # Errors
    /// Whatever the future returns, or [`Error::Driver`] if the device stops answering.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn block_on<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
                return result;
            }
            // The futures of this module wait for nothing but the device.
            let submission_index = self.shared.awaited.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.device()
                .poll(wgpu::PollType::Wait { submission_index, timeout: None })
                .map_err(|e| self.driver("waiting for the device", e.to_string()))?;
        }
    }
}

/// Waits until `size` bytes of a mappable buffer can be read and copies them.
async fn map(buffer: &wgpu::Buffer, size: u64) -> Result<Vec<u8>, String> {
    let mapping = Mapping::start(buffer, size);
    std::future::poll_fn(|context| mapping.poll(Some(context.waker()))).await?;
    take_mapped(buffer, size)
}

/// Copies what has been mapped and gives the buffer back.
fn take_mapped(buffer: &wgpu::Buffer, size: u64) -> Result<Vec<u8>, String> {
    let data = buffer.slice(..size).get_mapped_range().map_err(|e| e.to_string())?.to_vec();
    buffer.unmap();
    Ok(data)
}

/// A buffer that is being mapped for reading.
#[derive(Debug)]
struct Mapping(Arc<Mutex<MapState>>);

#[derive(Debug, Default)]
struct MapState {
    result: Option<Result<(), String>>,
    waker: Option<Waker>,
}

impl Mapping {
    fn start(buffer: &wgpu::Buffer, size: u64) -> Self {
        let state: Arc<Mutex<MapState>> = Arc::default();
        let shared = Arc::clone(&state);
        buffer.slice(..size).map_async(wgpu::MapMode::Read, move |result| {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            state.result = Some(result.map_err(|e| e.to_string()));
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        });
        Self(state)
    }

    /// Whether the buffer is mapped; wakes `waker` when it is.
    fn poll(&self, waker: Option<&Waker>) -> Poll<Result<(), String>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = &state.result {
            return Poll::Ready(result.clone());
        }
        state.waker = waker.cloned();
        Poll::Pending
    }
}
