//! Tiling and split-K of products in the families for GPUs.

use crate::kernel::{Kernel, Profile};

/// A tile of a workgroup: `m` x `n` results, K in steps of `depth`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocking {
    pub m: usize,
    pub n: usize,
    pub depth: usize,
    pub invocations: usize,
    /// Multiply-adds per second that the shape reaches, relative to the best of its family.
    pub speed: f64,
    /// Multiply-adds of the best of its family in the time of one byte of memory traffic.
    pub byte: f64,
}

/// Split-K of a matrix product, chosen to occupy the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    pub parts: usize,
    /// K steps in each part; the last part may have fewer.
    pub chunk: usize,
}

impl Blocking {
    pub(super) fn groups(&self, m: usize, n: usize) -> [usize; 2] {
        [m.div_ceil(self.m), n.div_ceil(self.n)]
    }

    /// Sets the constants of the tile: `TILE_M`, `TILE_N` and `DEPTH`.
    pub(super) fn apply(&self, kernel: Kernel) -> Kernel {
        let tile = [("TILE_M", self.m), ("TILE_N", self.n), ("DEPTH", self.depth)];
        tile.into_iter().fold(kernel, |kernel, (name, n)| kernel.constant(name, n))
    }

    /// The split with the lowest estimated time among those with enough workgroups. A part is at
    /// least 128 long: shorter ones spend their time on filling and storing tiles.
    pub(super) fn split(&self, m: usize, n: usize, k: usize, profile: &Profile) -> Split {
        let steps = k.div_ceil(self.depth);
        let groups: usize = self.groups(m, n).iter().product();
        let most = (k / 128).clamp(1, 256).min(steps);
        let fewest = profile.wanted_workgroups().div_ceil(groups).min(most);
        // More than twice the workgroups that occupy the device only lengthens the second pass.
        let range = fewest..=most.min(2 * fewest);
        // Where it is memory bound in any case, as with three channels, long parts hide the second
        // pass.
        let bound = |parts: usize| self.is_compute_bound([m, n, k], parts);
        let allowed = |parts: &usize| bound(*parts) || (!bound(fewest) && k / parts >= 4096);
        let time = |parts: &usize| self.time(m, n, steps, *parts, profile);
        let parts = range.filter(allowed).min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or(fewest);
        let chunk = steps.div_ceil(parts);
        // Rounding chunks up may leave one part too few to occupy the device.
        let chunk = if steps.div_ceil(chunk) < fewest { (steps / parts).max(1) } else { chunk };
        Split { parts: steps.div_ceil(chunk), chunk }
    }

    /// An estimate of the time, in multiply-adds of one compute unit with the best tile.
    fn time(&self, m: usize, n: usize, steps: usize, parts: usize, profile: &Profile) -> f64 {
        // Start and end of a workgroup cost the time of this much K.
        const ENDS: f64 = 64.0;
        let units = profile.busy_workgroups() / 2;
        let groups: usize = self.groups(m, n).iter().product();
        // A unit holds about 512 invocations and slows down below half of them.
        let resident = 512 / self.invocations;
        let each = (groups * parts).div_ceil(units).max(resident / 2);
        let k = (steps.div_ceil(parts) * self.depth) as f64 + ENDS;
        let work = k * (each * self.m * self.n) as f64 / self.speed;
        // Each word of a part is written and read once; a dispatch costs microseconds, the time of
        // 100 KiB of traffic per unit.
        let second_pass = if parts == 1 { 0.0 } else { (m * n * parts * 8 / units) as f64 + 1e5 };
        work + second_pass * self.byte
    }

    /// Whether the product is compute bound: at least 16 FLOP per byte of f32 traffic, parts
    /// included.
    fn is_compute_bound(&self, [m, n, k]: [usize; 3], parts: usize) -> bool {
        let [rows, columns] = self.groups(m, n);
        // Parts are written and read once; the result is stored, and a mask and an accumulated
        // gradient may be loaded.
        let passes = if parts == 1 { 3 } else { 2 * parts + 3 };
        let words = k * (m * columns + n * rows) + m * n * passes;
        2 * m * n * k >= 16 * 4 * words
    }

    /// The estimated time with the best number of parts, plus half if the product is memory bound.
    pub(super) fn cost(&self, m: usize, n: usize, k: usize, profile: &Profile) -> f64 {
        let Split { parts, .. } = self.split(m, n, k, profile);
        let time = self.time(m, n, k.div_ceil(self.depth), parts, profile);
        if self.is_compute_bound([m, n, k], parts) { time } else { 1.5 * time }
    }
}
