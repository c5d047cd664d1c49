//! Reads mutants one after another: none may panic, take more than 1 GiB, or longer than 20 s.
//!
//! Failing mutants are saved in the build's temporary folder, in `mutants`, for analysis and as
//! fixtures.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use super::mutate::{Mutator, Outcome, repository};

/// Maximum memory for reading one file, in bytes.
pub const MEMORY: usize = 1 << 30;
/// Maximum time for reading one file.
pub const TIME: Duration = Duration::from_secs(20);

/// Counts allocations, and fails those above the limit like a system without memory.
#[derive(Debug)]
pub struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

impl Counting {
    fn grow(by: usize) -> bool {
        let live = LIVE.fetch_add(by, Ordering::Relaxed).saturating_add(by);
        if live <= LIMIT.load(Ordering::Relaxed) {
            PEAK.fetch_max(live, Ordering::Relaxed);
            return true;
        }
        LIVE.fetch_sub(by, Ordering::Relaxed);
        let limit = LIMIT.swap(usize::MAX, Ordering::Relaxed);
        // Writing to standard error allocates nothing, and would be allowed to now.
        let _ = writeln!(
            std::io::stderr(),
            "refused {by} bytes: more than 1 GiB for one mutant (mutants/current-*)"
        );
        LIMIT.store(limit, Ordering::Relaxed);
        false
    }
}

#[allow(unsafe_code, reason = "memory can be counted only where it is allocated")]
// SAFETY: every call is the system allocator's, with the same arguments; counting changes nothing
// about the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Self::grow(layout.size()) { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if Self::grow(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let more = size.saturating_sub(layout.size());
        if more > 0 && !Self::grow(more) {
            return std::ptr::null_mut();
        }
        LIVE.fetch_sub(layout.size().saturating_sub(size), Ordering::Relaxed);
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Start time of the current mutant, in milliseconds since the first one; `u64::MAX` if there is
/// none.
static BEGUN: AtomicU64 = AtomicU64::new(u64::MAX);

/// Aborts the program when a mutant takes too long: its thread cannot be stopped.
fn watch() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        clock();
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_millis(200));
                let begun = BEGUN.load(Ordering::SeqCst);
                if clock().saturating_sub(begun) > TIME.as_millis() as u64 {
                    let _ = writeln!(
                        std::io::stderr(),
                        "a mutant takes longer than {TIME:?} (mutants/current-*)"
                    );
                    std::process::abort();
                }
            }
        });
    });
}

fn clock() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// The results of the mutants of one kind.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Number of mutants.
    pub mutants: usize,
    /// Number of mutants that were read without an error.
    pub whole: usize,
    /// Panics of third-party parsers that became errors.
    pub contained: usize,
    /// Maximum time.
    pub slowest: Duration,
    /// Maximum memory in bytes.
    pub peak: usize,
    /// Files of mutants that panicked, with the message.
    pub failures: Vec<String>,
}

/// One kind at a time, because memory is counted for the whole program.
static ALONE: Mutex<()> = Mutex::new(());

/// Reads `count` mutants, divided over the seed files.
pub fn run(name: &str, seeds: &[Vec<u8>], count: usize, read: impl Fn(&Path, &[u8]) -> Outcome) -> Figures {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let kept =
        option_env!("CARGO_TARGET_TMPDIR").map_or_else(|| repository().join("target/tmp"), PathBuf::from);
    let kept = kept.join("mutants");
    std::fs::create_dir_all(&kept).expect("a folder for mutants");
    watch();
    let mut figures = Figures::default();
    let first: u64 = std::env::var("INCEPT_MUTANTS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    for i in 0..count {
        let seed = &seeds[i % seeds.len()];
        let other = &seeds[(i / seeds.len()) % seeds.len()];
        let mutant = Mutator::new(first * 1_000_000_007 + i as u64).mutant(seed, other);
        let file = kept.join(format!("current-{name}"));
        std::fs::write(&file, &mutant).expect("can be written");
        if let Err(message) = watched(&mut figures, || read(scratch.path(), &mutant)) {
            let failed = kept.join(format!("{name}-{i}"));
            std::fs::copy(&file, &failed).expect("can be copied");
            figures.failures.push(format!("{}: {message}", failed.display()));
            if figures.failures.len() >= 20 {
                break;
            }
        }
    }
    figures
}

/// Reads one mutant; returns the message if it panics.
fn watched(figures: &mut Figures, read: impl FnOnce() -> Outcome) -> Result<(), String> {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let start = Instant::now();
    BEGUN.store(clock(), Ordering::SeqCst);
    LIMIT.store(before + MEMORY, Ordering::Relaxed);
    let result = catch_unwind(AssertUnwindSafe(read));
    LIMIT.store(usize::MAX, Ordering::Relaxed);
    BEGUN.store(u64::MAX, Ordering::SeqCst);
    figures.mutants += 1;
    figures.slowest = figures.slowest.max(start.elapsed());
    figures.peak = figures.peak.max(PEAK.load(Ordering::Relaxed).saturating_sub(before));
    match result {
        Ok(Ok(())) => figures.whole += 1,
        Ok(Err(reason)) => figures.contained += usize::from(reason.contains("its decoder failed")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            return Err(text.unwrap_or_default());
        }
    }
    Ok(())
}

/// The number of mutants per kind: `INCEPT_MUTANTS` divided by the 12 kinds, or a default that
/// takes seconds.
pub fn count(usual: usize) -> usize {
    let total: Option<usize> = std::env::var("INCEPT_MUTANTS").ok().and_then(|text| text.parse().ok());
    total.map_or(usual, |total| total.div_ceil(KINDS))
}

/// Number of kinds: ten of the library and two of the command.
const KINDS: usize = 12;
