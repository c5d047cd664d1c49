//! The CPU as a device: plans run without a driver, on all cores. Graph, passes, plan and memory
//! are those of GPUs; a node runs a fast kernel or else its CPU reference in f32.
//!
//! Runs are synchronous: a run is complete when the call that submits it returns. Sums have an
//! order that depends only on shapes, so results are the same bits on any number of threads.
//! Beside the memory of the plan, each thread keeps scratch memory for one panel of unfolded
//! windows and its product; a weight gradient of small images keeps a copy of one gradient.

mod kernels;
mod operands;
mod parallel;
mod product;
mod regions;
mod session;
mod simd;
mod trial;

pub use regions::Regions;
pub use session::{Reading, Session};
pub use trial::trial;

use std::sync::Arc;

use web_time::Instant;

use parallel::each;
use product::{Matrix, multiply};

use crate::error::{Error, Result};
use crate::gpu::{AdapterSummary, Clock, Roofline};
use crate::kernel::{AdapterClass, Profile};

/// The CPU with a pool of threads. Clones share the pool.
#[derive(Clone, Debug)]
pub struct Cpu {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    summary: AdapterSummary,
    profile: Profile,
    #[cfg(not(target_arch = "wasm32"))]
    pool: rayon::ThreadPool,
}

impl Cpu {
    /// The CPU with a pool of `threads`; `None` for one per core. In a browser there is one thread.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for no or too many threads, [`Error::Config`] if the system cannot
    /// start them.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        /// More threads than any machine has cores are a mistake.
        const MOST: usize = 4096;
        if let Some(threads) = threads.filter(|threads| !(1..=MOST).contains(threads)) {
            return Err(Error::out_of_range("Cpu::threads", format!("between 1 and {MOST}"), threads));
        }
        #[cfg(not(target_arch = "wasm32"))]
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .thread_name(|i| format!("incept-cpu-{i}"))
            .build()
            .map_err(|e| Error::Config(format!("the system cannot start the CPU's threads: {e}")))?;
        #[cfg(not(target_arch = "wasm32"))]
        let threads = pool.current_num_threads();
        #[cfg(target_arch = "wasm32")]
        let threads = 1;
        let shared = Shared {
            summary: summary(threads),
            profile: Profile::cpu(),
            #[cfg(not(target_arch = "wasm32"))]
            pool,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Name, threads and limits, in the form of an adapter's.
    pub fn summary(&self) -> &AdapterSummary {
        &self.shared.summary
    }

    /// Limits for plans: none but the address space.
    pub fn profile(&self) -> &Profile {
        &self.shared.profile
    }

    /// Threads of the pool.
    pub fn threads(&self) -> usize {
        #[cfg(not(target_arch = "wasm32"))]
        return self.shared.pool.current_num_threads();
        #[cfg(target_arch = "wasm32")]
        1
    }

    /// Measures the peaks: a product of two square matrices of extent 2048, and a copy of 128 MiB,
    /// on all threads; the best of three.
    pub(crate) fn roofline(&self) -> Roofline {
        const SIZE: usize = 2048;
        const BLOCK: usize = 128 * SIZE;
        const COPIED: usize = 1 << 25;
        let best = |amount: f64, run: &mut dyn FnMut()| {
            let rate = |()| {
                let start = Instant::now();
                run();
                amount / start.elapsed().as_secs_f64().max(1e-9)
            };
            [(); 3].map(rate).into_iter().fold(0.0, f64::max)
        };
        let (a, b) = (vec![0.5f32; SIZE * SIZE], vec![0.25f32; SIZE * SIZE]);
        let mut c = vec![0.0f32; SIZE * SIZE];
        let flops = best(2.0 * (SIZE as f64).powi(3), &mut || {
            let right = Matrix::new(&b, SIZE, SIZE, SIZE);
            let rows: Vec<(&mut [f32], &[f32])> = c.chunks_mut(BLOCK).zip(a.chunks(BLOCK)).collect();
            self.install(|| {
                each(rows, SIZE * SIZE, |(c, a)| {
                    multiply(c, SIZE, Matrix::new(a, a.len() / SIZE, SIZE, SIZE), right, false);
                });
            });
        });
        let (from, mut to) = (vec![1.0f32; COPIED], vec![0.0f32; COPIED]);
        let bandwidth = best(8.0 * COPIED as f64, &mut || {
            let parts: Vec<(&mut [f32], &[f32])> = to.chunks_mut(BLOCK).zip(from.chunks(BLOCK)).collect();
            self.install(|| each(parts, COPIED, |(to, from)| to.copy_from_slice(from)));
        });
        let latency = 1.0 / best(1.0, &mut || self.install(|| ()));
        Roofline { flops, bandwidth, latency, clock: Clock::Host }
    }

    /// Runs a function on the pool.
    fn install<R: Send>(&self, run: impl FnOnce() -> R + Send) -> R {
        #[cfg(not(target_arch = "wasm32"))]
        return self.shared.pool.install(run);
        #[cfg(target_arch = "wasm32")]
        run()
    }
}

/// The CPU in the form of an adapter's summary.
fn summary(threads: usize) -> AdapterSummary {
    let plural = if threads == 1 { "" } else { "s" };
    AdapterSummary {
        index: 0,
        name: name(),
        backend: "cpu".into(),
        class: AdapterClass::Cpu,
        driver: format!("{threads} thread{plural}"),
        max_binding_bytes: Profile::cpu().binding,
        max_buffer_bytes: Profile::cpu().buffer,
        workgroup_memory_bytes: 0,
        max_invocations: 0,
        storage_buffers: 0,
        f16: true,
        timestamps: false,
        subgroups: false,
        matrices: None,
    }
}

/// The processor's name where the system tells it, else its architecture.
fn name() -> String {
    #[cfg(target_os = "linux")]
    if let Ok(text) = std::fs::read_to_string("/proc/cpuinfo") {
        let line = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        if let Some((_, name)) = line.filter(|(_, name)| !name.trim().is_empty()) {
            return crate::text::printable(name.trim()).to_string();
        }
    }
    format!("CPU ({})", std::env::consts::ARCH)
}
