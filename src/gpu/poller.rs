//! Polls a device for futures that an executor awaits. In a browser the page's event loop does
//! that; elsewhere nothing happens unless a thread polls. [`Gpu::block_on`](super::Gpu::block_on)
//! is such a thread for its own future; for all others there is one thread a device, started with
//! the first future that waits for it. It sleeps while nothing is awaited, and ends with the last
//! handle of the device.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Signal;

/// A handle to the thread, which ends when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Poller(Arc<Mailbox>);

#[derive(Debug, Default)]
struct Mailbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What is awaited, and the submission that it comes with; that of the last one without.
    awaited: VecDeque<(Signal, Option<wgpu::SubmissionIndex>)>,
    started: bool,
    ended: bool,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next that is awaited; nothing once the device has no handles any more.
    fn next(&self) -> Option<(Signal, Option<wgpu::SubmissionIndex>)> {
        let idle = |state: &mut State| state.awaited.is_empty() && !state.ended;
        let state = self.changed.wait_while(self.lock(), idle);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.ended { None } else { state.awaited.pop_front() }
    }
}

impl Poller {
    /// Has the device polled until `submission` has run, or what was submitted last, and `signal`
    /// is sent.
    ///
    /// # Errors
    /// The system's words, if it has no thread for that.
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
    // The thread is not waited for: it may be the one that drops the last handle, with a task that
    // it has woken.
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_one();
    }
}

fn poll(device: &wgpu::Device, mailbox: &Mailbox) {
    while let Some((signal, submission_index)) = mailbox.next() {
        // What came with an earlier submission is there already.
        if signal.poll(None).is_ready() {
            continue;
        }
        if let Err(reason) = wait(device, submission_index) {
            signal.send(Err(reason));
        }
    }
}

/// Waits until a submission has run, or the last one, and calls back what waits for it.
///
/// # Errors
/// The driver's words, if it does not answer.
pub(super) fn wait(
    device: &wgpu::Device,
    submission_index: Option<wgpu::SubmissionIndex>,
) -> Result<(), String> {
    answered(device, wgpu::PollType::Wait { submission_index, timeout: None })
}

/// Lets the device call back what is done.
///
/// # Errors
/// The driver's words, if it does not answer.
pub(super) fn answered(device: &wgpu::Device, how: wgpu::PollType) -> Result<(), String> {
    // wgpu 30 panics where it finds the device lost while it waits, after it has called the
    // callback that notes so. Nothing of ours is left half done by that: what is awaited never
    // comes.
    let polled = std::panic::catch_unwind(AssertUnwindSafe(|| device.poll(how)));
    match polled {
        Ok(polled) => polled.map(drop).map_err(|e| e.to_string()),
        Err(_) => Err("the driver gave up".into()),
    }
}
