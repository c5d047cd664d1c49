//! How the families for GPUs cut a product into tiles of workgroups and its sum into parts.

use crate::kernel::Profile;

/// A tile of a workgroup: `m` x `n` results, `depth` terms of the sum at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocking {
    pub m: usize,
    pub n: usize,
    pub depth: usize,
    pub invocations: usize,
    /// Multiply-adds a second that the shape can reach, as a share of what the best of its family
    /// can.
    pub speed: f64,
    /// Multiply-adds that the best of its family does in the time in which a byte of memory is
    /// moved.
    pub byte: f64,
}

/// The sum of a matrix product, cut so that a device is kept busy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    pub parts: usize,
    /// Steps of `depth` terms in each part but maybe the last.
    pub chunk: usize,
}

impl Blocking {
    pub(super) fn groups(&self, m: usize, n: usize) -> [usize; 2] {
        [m.div_ceil(self.m), n.div_ceil(self.n)]
    }

    /// The parts that are estimated to be fastest, of those with enough workgroups. Parts are at
    /// least 16 steps of 8 terms long: a shorter one would spend its time on filling and storing
    /// tiles.
    pub(super) fn split(&self, m: usize, n: usize, terms: usize, profile: &Profile) -> Split {
        let steps = terms.div_ceil(self.depth);
        let groups: usize = self.groups(m, n).iter().product();
        let most = (terms / 128).clamp(1, 256).min(steps);
        let fewest = profile.busy_workgroups().div_ceil(groups).min(most);
        // More than twice what keeps a device busy only lengthens the second pass.
        let range = fewest..=most.min(2 * fewest);
        let lean = |parts: &usize| self.is_lean([m, n, terms], *parts);
        let time = |parts: &usize| self.time(m, n, steps, *parts, profile);
        let parts = range.filter(lean).min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or(fewest);
        let chunk = steps.div_ceil(parts);
        // Rounded up, chunks may leave a part too few to keep the device busy.
        let chunk = if steps.div_ceil(chunk) < fewest { (steps / parts).max(1) } else { chunk };
        Split { parts: steps.div_ceil(chunk), chunk }
    }

    /// An estimate of the time, in multiply-adds of one compute unit with the best tile.
    fn time(&self, m: usize, n: usize, steps: usize, parts: usize, profile: &Profile) -> f64 {
        // Terms of the sum in whose time a workgroup begins and ends.
        const ENDS: f64 = 64.0;
        let units = profile.busy_workgroups() / 2;
        let groups: usize = self.groups(m, n).iter().product();
        // A unit holds some 512 invocations and is slowed down by having less than half of them.
        let resident = 512 / self.invocations;
        let each = (groups * parts).div_ceil(units).max(resident / 2);
        let terms = (steps.div_ceil(parts) * self.depth) as f64 + ENDS;
        let work = terms * (each * self.m * self.n) as f64 / self.speed;
        // A word of a part is written and read, and a dispatch takes microseconds, as long as a
        // unit moves 100 KiB.
        let second_pass = if parts == 1 { 0.0 } else { (m * n * parts * 8 / units) as f64 + 1e5 };
        work + second_pass * self.byte
    }

    /// Whether memory is no bound: 16 FLOP for a byte of f32, parts included.
    fn is_lean(&self, [m, n, terms]: [usize; 3], parts: usize) -> bool {
        let [rows, columns] = self.groups(m, n);
        // Parts are written and read again; the result is stored, and may have a mask and what it
        // is added to.
        let again = if parts == 1 { 3 } else { 2 * parts + 3 };
        let words = terms * (m * columns + n * rows) + m * n * again;
        2 * m * n * terms >= 16 * 4 * words
    }

    /// An estimate of the time with the best number of parts; what memory is a bound of is held to
    /// take half as long again.
    pub(super) fn cost(&self, m: usize, n: usize, terms: usize, profile: &Profile) -> f64 {
        let Split { parts, .. } = self.split(m, n, terms, profile);
        let time = self.time(m, n, terms.div_ceil(self.depth), parts, profile);
        if self.is_lean([m, n, terms], parts) { time } else { 1.5 * time }
    }
}
