//! Work on all threads of the device's pool. Tasks are cut by shapes and never by the number of
//! threads, so that every sum has the same order on any number of threads.

/// Elements that a task should at least touch to be worth its start.
pub(super) const GRAIN: usize = 1 << 14;

/// Runs a function on every task; tasks must not depend on each other. `work` is an estimate of the
/// elements that all tasks touch: little work stays on this thread.
pub(super) fn each<T: Send>(tasks: Vec<T>, work: usize, run: impl Fn(T) + Sync + Send) {
    #[cfg(not(target_arch = "wasm32"))]
    if work > GRAIN && tasks.len() > 1 {
        use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
        tasks.into_par_iter().with_max_len(1).for_each(run);
        return;
    }
    #[cfg(target_arch = "wasm32")]
    let _ = work;
    tasks.into_iter().for_each(run);
}
