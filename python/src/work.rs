//! Work on a thread of its own, while the calling thread handles events and Python's signals.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use incept::{Error, Result};
use pyo3::prelude::*;

use crate::errors::{lost, raised, to_python};

/// Interval between checks for signals.
const POLL: Duration = Duration::from_millis(50);

/// What the thread sends.
enum Message<T, E> {
    Event(E),
    Done(Result<T>),
}

/// The channel to the thread that called [`run`].
#[derive(Debug)]
pub(crate) struct Caller<E> {
    send: Box<dyn Sending<E>>,
}

trait Sending<E>: Send + std::fmt::Debug {
    fn send(&self, event: E) -> bool;
}

impl<T: Send, E: Send> Sending<E> for Sender<Message<T, E>> {
    fn send(&self, event: E) -> bool {
        Sender::send(self, Message::Event(event)).is_ok()
    }
}

impl<E> Caller<E> {
    /// Sends an event; false if the caller does not wait any more.
    pub(crate) fn send(&self, event: E) -> bool {
        self.send.send(event)
    }
}

/// What a signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnSignal {
    /// Sets the flag and waits for the work, which stops in good order; a second one does not wait.
    Stop,
    /// Raises at once: the work has nothing to save.
    Leave,
}

/// Runs `work` without the GIL. This thread calls `handle` with its events, and checks for signals:
/// both, and exceptions of `handle`, set `stop`. An exception is raised when the work has ended.
pub(crate) fn run<T: Send + 'static, E: Send + 'static>(
    py: Python<'_>,
    stop: &Arc<AtomicBool>,
    on_signal: OnSignal,
    work: impl FnOnce(Caller<E>) -> Result<T> + Send + 'static,
    mut handle: impl FnMut(Python<'_>, E) -> PyResult<()>,
) -> PyResult<T> {
    listen();
    let (sender, mut receiver) = channel::<Message<T, E>>();
    let caller = Caller { send: Box::new(sender.clone()) };
    let work = move || {
        // A send fails only if nobody waits for it.
        let _ = sender.send(Message::Done(work(caller)));
    };
    std::thread::Builder::new()
        .name("incept".into())
        .spawn(work)
        .map_err(|e| raised(py, "InceptError", &format!("cannot start a thread: {e}")))?;
    let mut pending: Option<PyErr> = None;
    loop {
        let waiting = &mut receiver;
        match py.detach(move || waiting.recv_timeout(POLL)) {
            Ok(Message::Event(event)) => {
                if let Err(error) = handle(py, event) {
                    stop.store(true, Ordering::SeqCst);
                    pending.get_or_insert(error);
                }
            }
            Ok(Message::Done(done)) => return ended(py, done, pending),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(lost()),
        }
        if let Err(signal) = py.check_signals() {
            stop.store(true, Ordering::SeqCst);
            if pending.is_some() || on_signal == OnSignal::Leave {
                return Err(signal);
            }
            pending = Some(signal);
        }
    }
}

/// The result of the work, or the exception that stopped it. An error of stopping, such as a full
/// disk, is raised with the exception as its cause.
fn ended<T>(py: Python<'_>, done: Result<T>, pending: Option<PyErr>) -> PyResult<T> {
    match (done, pending) {
        (Ok(done), None) => Ok(done),
        (Ok(_) | Err(Error::Interrupted), Some(pending)) => Err(pending),
        (Err(error), None) => Err(to_python(py, &error)),
        (Err(error), Some(pending)) => {
            let error = to_python(py, &error);
            error.set_cause(py, Some(pending));
            Err(error)
        }
    }
}

/// Passes notes to the logger `incept` of Python's logging.
fn listen() {
    incept_cli::shared::listen(|text| {
        let text = crate::errors::in_keywords(text);
        // Notes after the end of the interpreter, or that a handler fails on, are lost.
        let _ = Python::try_attach(|py| -> PyResult<()> {
            let logger = py.import("logging")?.call_method1("getLogger", ("incept",))?;
            logger.call_method1("info", ("%s", text)).map(|_| ())
        });
    });
}
