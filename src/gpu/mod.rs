//! The device: selecting an adapter, opening it, compiling pipelines, running plans. Everything
//! here is `async` and does not access files, so it also runs in a browser, without threads and
//! without blocking. Elsewhere, pipelines compile on all cores.
//!
//! Futures of the crate run in any executor (tokio, smol, pollster), and outside a browser they are
//! [`Send`] for multi-threaded executors. The device must be polled: in a browser, the page's event
//! loop does it, elsewhere one thread per [`Gpu`]. That thread starts when an executor first waits
//! for the device, sleeps while nothing waits, and ends with the last clone of the [`Gpu`]. Without
//! an executor, [`Gpu::block_on`] polls on the calling thread.

mod adapter;
pub(crate) mod element;
mod matrices;
mod pipeline;
#[cfg(not(target_arch = "wasm32"))]
mod poller;
mod probe;
mod regions;
mod rows;
mod session;
mod timing;

pub(crate) use adapter::open as open_unproven;
pub use adapter::{AdapterOptions, AdapterSummary, adapter_advice, list_adapters};
pub use pipeline::Pipeline;
pub(crate) use pipeline::{Checks, Form};
pub use probe::{Bound, Roofline, probe_kernels};
pub use regions::Regions;
pub use session::{DispatchTime, Metrics, Reading, Session};
pub use timing::{Clock, Interval};

use std::collections::HashMap;
#[cfg(not(target_arch = "wasm32"))]
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use crate::error::{Cause, Error, Result};
use crate::graph::Graph;
use crate::kernel::{Cooperative, Profile};
use crate::plan::Choices;
use crate::tensor::Element;

/// An open device with its pipelines. Clones share the device.
#[derive(Clone, Debug)]
pub struct Gpu {
    shared: Arc<Shared>,
}

/// Compiled pipelines by source text, entry point and runtime checks.
type Pipelines = HashMap<(String, &'static str, Checks), Arc<Pipeline>>;

#[derive(Debug)]
struct Shared {
    device: wgpu::Device,
    queue: wgpu::Queue,
    summary: AdapterSummary,
    profile: Profile,
    /// Cache of compiled pipelines.
    pipelines: Mutex<Pipelines>,
    failures: Arc<Mutex<Vec<Failure>>>,
    counts: Counts,
    /// The submission that a future waits for, so that `block_on` does not wait for later ones.
    #[cfg(not(target_arch = "wasm32"))]
    awaited: Mutex<Option<wgpu::SubmissionIndex>>,
    /// Polls for futures outside `block_on`.
    #[cfg(not(target_arch = "wasm32"))]
    poller: poller::Poller,
    /// Tuned implementations, preferred to the defaults.
    choices: Mutex<Arc<Choices>>,
}

/// Counts of requests to the device.
#[derive(Debug, Default)]
struct Counts {
    submissions: AtomicU64,
    dispatches: AtomicU64,
    bind_groups: AtomicU64,
    read_backs: AtomicU64,
}

/// Counts of requests to a device since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Submitted command buffers.
    pub submissions: u64,
    /// Dispatches recorded in runs, without profiles.
    pub dispatches: u64,
    /// Created pipelines.
    pub pipelines: u64,
    /// Created bind groups.
    pub bind_groups: u64,
    /// Buffers mapped for reading on the host.
    pub read_backs: u64,
}

impl Counters {
    /// The difference since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            submissions: self.submissions - before.submissions,
            dispatches: self.dispatches - before.dispatches,
            pipelines: self.pipelines - before.pipelines,
            bind_groups: self.bind_groups - before.bind_groups,
            read_backs: self.read_backs - before.read_backs,
        }
    }
}

/// An error that the driver reported asynchronously.
#[derive(Debug)]
enum Failure {
    OutOfMemory,
    Error(Cause),
    Lost(String),
}

impl From<wgpu::Error> for Failure {
    fn from(error: wgpu::Error) -> Self {
        match error {
            wgpu::Error::OutOfMemory { .. } => Self::OutOfMemory,
            error => Self::Error(cause(error)),
        }
    }
}

/// Converts a wgpu error to the source of a crate error.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cause(error: impl Into<Cause>) -> Cause {
    error.into()
}

/// In a browser the error is not `Send`, so only its message is kept.
#[cfg(target_arch = "wasm32")]
pub(crate) fn cause(error: impl std::fmt::Display) -> Cause {
    error.to_string().into()
}

impl Error {
    /// Error for a kernel that the compiler or driver rejected.
    pub(crate) fn refused(kernel: &str, error: wgpu::Error) -> Self {
        Self::Kernel { kernel: kernel.into(), reason: error.to_string(), source: Some(cause(error)) }
    }
}

impl Gpu {
    /// Enables kernels on cooperative matrices. Only for a device that is not shared yet.
    pub(crate) fn with_matrices(mut self, matrices: Option<Cooperative>) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.profile.cooperative = matrices;
        }
        self
    }

    /// Properties of the adapter.
    pub fn summary(&self) -> &AdapterSummary {
        &self.shared.summary
    }

    /// Limits and features for kernels.
    pub fn profile(&self) -> &Profile {
        &self.shared.profile
    }

    /// Checks that the device supports the element types of a graph.
    ///
    /// # Errors
    /// [`Error::NoF16`] naming the adapter.
    pub(crate) fn require_all(&self, graph: &Graph) -> Result<()> {
        let half = || graph.tensors().any(|(_, tensor)| tensor.spec.element == Element::F16);
        if !self.profile().f16 && half() {
            return Err(Error::NoF16 { adapter: self.summary().to_string() });
        }
        Ok(())
    }

    /// Checks that a resource belongs to this device; drivers do not detect mixed-up devices.
    ///
    /// # Errors
    /// [`Error::Config`] with both adapters.
    pub(crate) fn require_own(&self, owner: &Self) -> Result<()> {
        if Arc::ptr_eq(&self.shared, &owner.shared) {
            return Ok(());
        }
        let (this, other) = (self.summary(), owner.summary());
        Err(Error::Config(format!(
            "memory of a device opened on {other} cannot be used with another that was opened on {this}: make it with the same `Gpu`"
        )))
    }

    /// Tuned implementations that trainers and classifiers on this device prefer to the defaults.
    pub fn choices(&self) -> Arc<Choices> {
        Arc::clone(&self.shared.choices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds choices for trainers and classifiers created later; they replace earlier ones with the
    /// same key. [`tune`](crate::tune::tune) adds its results this way.
    pub fn add_choices(&self, choices: Choices) {
        let mut shared = self.shared.choices.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut shared).extend(choices);
    }

    /// Number of pipelines created so far.
    pub fn pipeline_count(&self) -> usize {
        self.shared.pipelines.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Counts of requests to the device so far.
    pub fn counters(&self) -> Counters {
        let Counts { submissions, dispatches, bind_groups, read_backs } = &self.shared.counts;
        Counters {
            submissions: submissions.load(Ordering::Relaxed),
            dispatches: dispatches.load(Ordering::Relaxed),
            pipelines: self.pipeline_count() as u64,
            bind_groups: bind_groups.load(Ordering::Relaxed),
            read_backs: read_backs.load(Ordering::Relaxed),
        }
    }

    /// Adds the dispatches of a run to the counters.
    pub(crate) fn count_dispatches(&self, count: usize) {
        self.shared.counts.dispatches.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Submits an encoder's commands.
    pub(crate) fn submit(&self, encoder: wgpu::CommandEncoder) -> wgpu::SubmissionIndex {
        self.shared.counts.submissions.fetch_add(1, Ordering::Relaxed);
        self.queue().submit([encoder.finish()])
    }

    pub(crate) fn device(&self) -> &wgpu::Device {
        &self.shared.device
    }

    pub(crate) fn queue(&self) -> &wgpu::Queue {
        &self.shared.queue
    }

    /// Creates a zeroed buffer with usages `extra`.
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

    /// Returns the first error that the driver reported asynchronously since the last check. A lost
    /// device takes precedence and is reported by every check.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`], or [`Error::Driver`] with the driver's
    /// message.
    pub fn check(&self, context: &str) -> Result<()> {
        let mut failures = self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Failure::Lost(reason)) = failures.iter().find(|f| matches!(f, Failure::Lost(_))) {
            return Err(Error::DeviceLost(reason.clone()));
        }
        let Some(first) = failures.drain(..).next() else { return Ok(()) };
        let context = context.to_string();
        Err(match first {
            Failure::Lost(reason) => Error::DeviceLost(reason),
            Failure::OutOfMemory => Error::OutOfMemory { context },
            Failure::Error(source) => Error::Driver { context, source },
        })
    }

    /// Copies `bytes` of a buffer to the host, after all work submitted before.
    ///
    /// # Errors
    /// [`Error::Driver`] if the buffer cannot be mapped.
    pub(crate) async fn download(&self, source: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let download = self.begin_download(source, offset, bytes).await?;
        self.end_download(download).await
    }

    /// Starts copying `bytes` of a buffer to the host, after all work submitted before.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the device has too little memory.
    pub(crate) async fn begin_download(
        &self,
        source: &wgpu::Buffer,
        offset: u64,
        bytes: u64,
    ) -> Result<Download> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let size = bytes.next_multiple_of(4);
        let staging = self.buffer("download", size, usage).await?;
        let mut encoder = self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(source, offset, &staging, 0, size);
        let submission = self.submit(encoder);
        let mapped = self.map(&staging, size);
        Ok(Download { staging, mapped, submission, size, bytes })
    }

    /// Waits for a download, but not for later work.
    ///
    /// # Errors
    /// [`Error::Driver`] if the buffer cannot be mapped.
    pub(crate) async fn end_download(&self, download: Download) -> Result<Vec<u8>> {
        let Download { staging, mapped, submission, size, bytes } = download;
        let mapped = self.arrival(&mapped, Some(&submission)).await;
        let data = mapped.and_then(|()| take_mapped(&staging, size));
        let mut data = data.map_err(|reason| self.driver("reading a buffer", reason))?;
        data.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(data)
    }

    /// Waits for the signal of a submission, `None` being the last one. Makes sure that the device
    /// is polled meanwhile, by [`Gpu::block_on`], which then waits only for that submission, or
    /// else by the polling thread.
    async fn arrival(
        &self,
        signal: &Signal,
        submission: Option<&wgpu::SubmissionIndex>,
    ) -> Result<(), String> {
        #[cfg(target_arch = "wasm32")]
        let _ = submission;
        #[cfg(not(target_arch = "wasm32"))]
        let mut asked = false;
        std::future::poll_fn(|context| {
            let state = signal.poll(Some(context.waker()));
            #[cfg(not(target_arch = "wasm32"))]
            if state.is_pending() {
                if context.waker().will_wake(&BLOCKING) {
                    let mut awaited = self.shared.awaited.lock().unwrap_or_else(PoisonError::into_inner);
                    *awaited = submission.cloned();
                } else if !asked {
                    asked = true;
                    if let Err(reason) = self.shared.poller.wait_for(self.device(), signal, submission) {
                        return Poll::Ready(Err(reason));
                    }
                }
            }
            state
        })
        .await
    }

    /// Starts mapping `size` bytes of a buffer for reading.
    fn map(&self, buffer: &wgpu::Buffer, size: u64) -> Signal {
        self.shared.counts.read_backs.fetch_add(1, Ordering::Relaxed);
        let mapped = Signal::default();
        let sender = mapped.clone();
        buffer.slice(..size).map_async(wgpu::MapMode::Read, move |result| {
            sender.send(result.map_err(|e| e.to_string()));
        });
        mapped
    }

    /// A driver error, or [`Error::DeviceLost`] if that was the cause.
    pub(crate) fn driver(&self, context: &str, reason: String) -> Error {
        let context = context.to_string();
        self.check(&context).err().unwrap_or(Error::Driver { context, source: reason.into() })
    }

    /// Runs a future of this device to completion on this thread, polling the device; the only
    /// place where the engine blocks. The future must wait only for this device. Any executor can
    /// run it too, a little slower; see [the module](self).
    ///
    /// # Errors
    /// The future's error, [`Error::DeviceLost`] if the device is lost meanwhile, or
    /// [`Error::Driver`] if it stops responding.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn block_on<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        let mut future = std::pin::pin!(future);
        let mut context = std::task::Context::from_waker(&BLOCKING);
        loop {
            if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
                return result;
            }
            let submission = self.shared.awaited.lock().unwrap_or_else(PoisonError::into_inner).take();
            let context = "waiting for the device";
            poller::wait(self.device(), submission).map_err(|reason| self.driver(context, reason))?;
        }
    }

    /// Polls the device for finished work, without waiting.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if it was lost, [`Error::Driver`] if it does not respond.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn poll(&self) -> Result<()> {
        let polled = poller::answered(self.device(), wgpu::PollType::Poll);
        polled.map_err(|reason| self.driver("polling the device", reason))
    }
}

/// The waker of [`Gpu::block_on`]: it does nothing, and tells futures that their thread polls the
/// device.
#[cfg(not(target_arch = "wasm32"))]
static BLOCKING: LazyLock<Waker> = LazyLock::new(|| Waker::from(Arc::new(Blocking)));

#[cfg(not(target_arch = "wasm32"))]
struct Blocking;

#[cfg(not(target_arch = "wasm32"))]
impl std::task::Wake for Blocking {
    fn wake(self: Arc<Self>) {}
}

/// A started copy of a buffer to the host.
#[derive(Debug)]
pub(crate) struct Download {
    staging: wgpu::Buffer,
    mapped: Signal,
    submission: wgpu::SubmissionIndex,
    size: u64,
    bytes: u64,
}

/// Copies the mapped data and unmaps the buffer.
fn take_mapped(buffer: &wgpu::Buffer, size: u64) -> Result<Vec<u8>, String> {
    let data = buffer.slice(..size).get_mapped_range().map_err(|e| e.to_string())?.to_vec();
    buffer.unmap();
    Ok(data)
}

/// The result of a device callback.
#[derive(Clone, Debug, Default)]
struct Signal(Arc<Mutex<SignalState>>);

#[derive(Debug, Default)]
struct SignalState {
    result: Option<Result<(), String>>,
    waker: Option<Waker>,
}

impl Signal {
    fn send(&self, result: Result<(), String>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.result.get_or_insert(result);
        let waker = state.waker.take();
        // The woken task may poll at once on this thread, so the lock is released first.
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The result if it is there; otherwise `waker` will be woken.
    fn poll(&self, waker: Option<&Waker>) -> Poll<Result<(), String>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = &state.result {
            return Poll::Ready(result.clone());
        }
        if let Some(waker) = waker {
            state.waker = Some(waker.clone());
        }
        Poll::Pending
    }
}
