//! The device: choosing an adapter, opening it, compiling pipelines, running plans. Everything here
//! is `async` and free of files, so that it runs in a browser tab, where it has no threads and
//! nothing that blocks, as it does in a terminal, where pipelines compile on all cores.
//!
//! Futures of the crate run in any executor (tokio, smol, pollster), and outside of a browser they
//! are [`Send`], so that an executor with several threads takes them. The device has to be polled
//! for them: the page's event loop does that in a browser, elsewhere a thread of each [`Gpu`],
//! which is started when an executor first waits for the device, sleeps while nobody does, and ends
//! with the last clone of the [`Gpu`]. A program without an executor has [`Gpu::block_on`], which
//! polls on the calling thread and needs no other.

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
pub(crate) use pipeline::Checks;
pub use pipeline::Pipeline;
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

/// Compiled pipelines by text, entry point and checks.
type Pipelines = HashMap<(String, &'static str, Checks), Arc<Pipeline>>;

#[derive(Debug)]
struct Shared {
    device: wgpu::Device,
    queue: wgpu::Queue,
    summary: AdapterSummary,
    profile: Profile,
    /// By the text, the entry point and the checks that they were made with.
    pipelines: Mutex<Pipelines>,
    failures: Arc<Mutex<Vec<Failure>>>,
    counts: Counts,
    /// The submission that a future waits for, so that blocking on it does not drain the queue.
    #[cfg(not(target_arch = "wasm32"))]
    awaited: Mutex<Option<wgpu::SubmissionIndex>>,
    /// Polls for futures that nobody blocks on.
    #[cfg(not(target_arch = "wasm32"))]
    poller: poller::Poller,
    /// Implementations that plans for this device prefer to the defaults.
    choices: Mutex<Arc<Choices>>,
}

/// What the device was asked for so far.
#[derive(Debug, Default)]
struct Counts {
    submissions: AtomicU64,
    dispatches: AtomicU64,
    bind_groups: AtomicU64,
    read_backs: AtomicU64,
}

/// What a device was asked for since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Command buffers that were submitted.
    pub submissions: u64,
    /// Dispatches that sessions recorded in runs, profiles left out.
    pub dispatches: u64,
    /// Pipelines that were made.
    pub pipelines: u64,
    /// Bind groups that were made.
    pub bind_groups: u64,
    /// Buffers that were mapped for the host to read.
    pub read_backs: u64,
}

impl Counters {
    /// What was added since `before`.
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

/// An error that arrived outside any call.
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

/// An error of wgpu as the source of one of the crate's.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cause(error: impl Into<Cause>) -> Cause {
    error.into()
}

/// As elsewhere, but in a browser the error itself must stay on its thread: its words are kept.
#[cfg(target_arch = "wasm32")]
pub(crate) fn cause(error: impl std::fmt::Display) -> Cause {
    error.to_string().into()
}

impl Error {
    /// That the compiler or the driver refused a kernel.
    pub(crate) fn refused(kernel: &str, error: wgpu::Error) -> Self {
        Self::Kernel { kernel: kernel.into(), reason: error.to_string(), source: Some(cause(error)) }
    }
}

impl Gpu {
    /// Offers kernels on cooperative matrices from here on. For a device that nobody else has yet.
    pub(crate) fn with_matrices(mut self, matrices: Option<Cooperative>) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.profile.cooperative = matrices;
        }
        self
    }

    /// What is known of the adapter.
    pub fn summary(&self) -> &AdapterSummary {
        &self.shared.summary
    }

    /// What kernels may rely on.
    pub fn profile(&self) -> &Profile {
        &self.shared.profile
    }

    /// Refuses graphs with tensors of elements that the device's shaders cannot work with.
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

    /// Refuses what belongs to another device: the driver could not tell it from this one's own.
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

    /// The implementations that trainers and classifiers on this device prefer to the defaults.
    pub fn choices(&self) -> Arc<Choices> {
        Arc::clone(&self.shared.choices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds choices that trainers and classifiers made from now on prefer to the defaults; they win
    /// over earlier ones. [`tune`](crate::tune::tune) does this with what it finds.
    pub fn add_choices(&self, choices: Choices) {
        let mut shared = self.shared.choices.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut shared).extend(choices);
    }

    /// Number of pipelines made so far.
    pub fn pipeline_count(&self) -> usize {
        self.shared.pipelines.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What the device was asked for so far.
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

    /// Counts what a run recorded.
    pub(crate) fn count_dispatches(&self, count: usize) {
        self.shared.counts.dispatches.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Submits what an encoder has recorded.
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

    /// The first error that the driver reported on its own since the last check, if there is one;
    /// that the device is lost comes first, and stays.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`], or [`Error::Driver`] with the driver's words.
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

    /// Copies `bytes` of a buffer to the host, waiting for all work before.
    ///
    /// # Errors
    /// [`Error::Driver`] if the buffer cannot be mapped.
    pub(crate) async fn download(&self, source: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let download = self.begin_download(source, offset, bytes).await?;
        self.end_download(download).await
    }

    /// Sends `bytes` of a buffer on their way to the host, as they are after all work before.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is no room for them.
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

    /// Waits for a download, and for no work after it.
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

    /// Waits for what a submission signals, or what was submitted last, and sees to it that
    /// somebody polls the device meanwhile: [`Gpu::block_on`], which then waits for that submission
    /// alone, or the thread that is there for all others.
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

    /// Begins to map `size` bytes of a buffer for reading.
    fn map(&self, buffer: &wgpu::Buffer, size: u64) -> Signal {
        self.shared.counts.read_backs.fetch_add(1, Ordering::Relaxed);
        let mapped = Signal::default();
        let sender = mapped.clone();
        buffer.slice(..size).map_async(wgpu::MapMode::Read, move |result| {
            sender.send(result.map_err(|e| e.to_string()));
        });
        mapped
    }

    /// An error of the driver; a lost device where that was the cause.
    pub(crate) fn driver(&self, context: &str, reason: String) -> Error {
        let context = context.to_string();
        self.check(&context).err().unwrap_or(Error::Driver { context, source: reason.into() })
    }

    /// Runs a future of this device to its end on this thread, which polls the device meanwhile:
    /// the only place where the engine blocks. The future may wait for this device alone. Any
    /// executor runs it as well, a little slower: see [the module](self).
    ///
    /// # Errors
    /// Whatever the future returns, [`Error::DeviceLost`] if the device is lost meanwhile, or
    /// [`Error::Driver`] if it stops answering.
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

    /// Lets the device call back what is done, without waiting.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if it was lost, [`Error::Driver`] if it does not answer.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn poll(&self) -> Result<()> {
        let polled = poller::answered(self.device(), wgpu::PollType::Poll);
        polled.map_err(|reason| self.driver("polling the device", reason))
    }
}

/// The waker of [`Gpu::block_on`]: it wakes nobody, and tells futures that the thread they are
/// polled on polls the device itself.
#[cfg(not(target_arch = "wasm32"))]
static BLOCKING: LazyLock<Waker> = LazyLock::new(|| Waker::from(Arc::new(Blocking)));

#[cfg(not(target_arch = "wasm32"))]
struct Blocking;

#[cfg(not(target_arch = "wasm32"))]
impl std::task::Wake for Blocking {
    fn wake(self: Arc<Self>) {}
}

/// Bytes of a buffer on their way to the host.
#[derive(Debug)]
pub(crate) struct Download {
    staging: wgpu::Buffer,
    mapped: Signal,
    submission: wgpu::SubmissionIndex,
    size: u64,
    bytes: u64,
}

/// Copies what has been mapped and gives the buffer back.
fn take_mapped(buffer: &wgpu::Buffer, size: u64) -> Result<Vec<u8>, String> {
    let data = buffer.slice(..size).get_mapped_range().map_err(|e| e.to_string())?.to_vec();
    buffer.unmap();
    Ok(data)
}

/// What a callback of the device will say.
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
        // Who is woken may poll at once, on this thread.
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What was said, if it was; else `waker` is woken when it is.
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
