//! Ctrl-C and termination signals: work is saved first, and the exit code is 128 + the signal's
//! number.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use incept::{Error, Result};

use super::report::note;

/// SIGINT, which Ctrl-C sends.
const INTERRUPT: i32 = 2;

/// The signal that was received; 0 if none.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// The exit code after an orderly stop: the one that shells report for a process that the signal
/// killed.
pub(crate) fn code() -> u8 {
    let signal = match SIGNAL.load(Ordering::SeqCst) {
        0 => INTERRUPT,
        signal => signal,
    };
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// A flag that Ctrl-C, SIGTERM and SIGHUP set; a second signal quits the program immediately.
pub(crate) fn interruptible() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    listen(move |signal| {
        SIGNAL.store(signal, Ordering::SeqCst);
        if set.swap(true, Ordering::SeqCst) {
            super::dashboard::restore();
            std::process::exit(i32::from(code()));
        }
        note("saving a checkpoint and stopping; press Ctrl-C again to quit immediately");
    })
    .map_err(|e| Error::Config(format!("cannot listen for Ctrl-C: {e}")))?;
    Ok(flag)
}

/// Calls `handle` with the number of each signal, in a thread of its own.
#[cfg(unix)]
fn listen(handle: impl Fn(i32) + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = vec![SIGINT, SIGTERM];
    // nohup ignores SIGHUP: the program must survive the terminal.
    if !ignores(SIGHUP) {
        signals.push(SIGHUP);
    }
    let mut signals = signal_hook::iterator::Signals::new(signals)?;
    let listen = move || signals.forever().for_each(handle);
    std::thread::Builder::new().name("signals".into()).spawn(listen).map(|_| ())
}

#[cfg(not(unix))]
fn listen(handle: impl Fn(i32) + Send + 'static) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || handle(INTERRUPT))
}

/// Whether the parent process made this one ignore a signal; false where it cannot be determined.
#[cfg(unix)]
fn ignores(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}
