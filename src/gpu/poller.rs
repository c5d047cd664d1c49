//! Polls a device for futures in an executor. In a browser, the page's event loop does that;
//! elsewhere a thread must poll. [`Gpu::block_on`](super::Gpu::block_on) polls for its own future;
//! for all others there is one thread per device, started with the first future that waits. It
//! sleeps while nothing is awaited, and ends with the last handle of the device.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Signal;

/// Handle of the thread, which ends when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Poller(Arc<Mailbox>);

#[derive(Debug, Default)]
struct Mailbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Awaited signals and their submissions; `None` is the last submission.
    awaited: VecDeque<(Signal, Option<wgpu::SubmissionIndex>)>,
    started: bool,
    ended: bool,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next awaited signal; `None` once the device has no handles.
    fn next(&self) -> Option<(Signal, Option<wgpu::SubmissionIndex>)> {
        let idle = |state: &mut State| state.awaited.is_empty() && !state.ended;
        let state = self.changed.wait_while(self.lock(), idle);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.ended { None } else { state.awaited.pop_front() }
    }
}

impl Poller {
    /// Requests polling until `submission` (`None`: the last one) has run and `signal` is sent.
    ///
    /// # Errors
    /// The system's message if the thread cannot be started.
    pub(super) fn wait_for(
        &self,
        device: &wgpu::Device,
        signal: &Signal,
        submission: Option<&wgpu::SubmissionIndex>,
    ) -> Result<(), String> {
        let mut state = self.0.lock();
        if !state.started {
            let (mailbox, device) = (Arc::clone(&self.0), device.clone());
            let thread = std::thread::Builder::new().name("incept poll".into());
            thread.spawn(move || poll(&device, &mailbox)).map_err(|e| e.to_string())?;
            state.started = true;
        }
        state.awaited.push_back((signal.clone(), submission.cloned()));
        self.0.changed.notify_one();
        Ok(())
    }
}

impl Drop for Poller {
    // The thread is not joined: it may itself drop the last handle, in a task that it has woken.
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_one();
    }
}

fn poll(device: &wgpu::Device, mailbox: &Mailbox) {
    while let Some((signal, submission_index)) = mailbox.next() {
        // The signal may have come with an earlier submission.
        if signal.poll(None).is_ready() {
            continue;
        }
        if let Err(reason) = wait(device, submission_index) {
            signal.send(Err(reason));
        }
    }
}

/// Waits until a submission (`None`: the last one) has run, and runs its callbacks.
///
/// # Errors
/// The driver's message if it does not respond.
pub(super) fn wait(
    device: &wgpu::Device,
    submission_index: Option<wgpu::SubmissionIndex>,
) -> Result<(), String> {
    answered(device, wgpu::PollType::Wait { submission_index, timeout: None })
}

/// Polls the device and runs callbacks of finished work.
///
/// # Errors
/// The driver's message if it does not respond.
pub(super) fn answered(device: &wgpu::Device, how: wgpu::PollType) -> Result<(), String> {
    // wgpu 30 panics if it finds the device lost while waiting, after the callback that reports it.
    // The panic leaves no state of ours inconsistent; the awaited result never arrives.
    let polled = std::panic::catch_unwind(AssertUnwindSafe(|| device.poll(how)));
    match polled {
        Ok(polled) => polled.map(drop).map_err(|e| e.to_string()),
        Err(_) => Err("the driver panicked".into()),
    }
}
