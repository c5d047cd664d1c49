//! Loops compiled for the vector instructions of this machine.

/// Runs a function compiled for the widest vectors of this CPU, found at run time. The function and
/// all that it calls must be `#[inline(always)]` to take part. Results do not depend on the width:
/// compilers keep the order of every sum and fuse no multiplications with additions.
#[inline(always)]
pub(super) fn wide<R>(run: impl FnOnce() -> R) -> R {
    #[cfg(not(target_arch = "wasm32"))]
    return pulp::Arch::new().dispatch(run);
    #[cfg(target_arch = "wasm32")]
    run()
}

/// Partial sums of a reduction: enough to keep the adders of a CPU busy.
pub(super) const LANES: usize = 16;

/// Elements that are summed in f32 before their sum is added in f64.
const BLOCK: usize = 1024;

/// The sum of a function of each element, in an order that depends on the length only.
#[inline(always)]
pub(super) fn total(x: &[f32], of: impl Fn(f32) -> f32) -> f64 {
    let mut sum = 0.0;
    for block in x.chunks(BLOCK) {
        let mut lanes = [0.0f32; LANES];
        let vectors = block.chunks_exact(LANES);
        for (lane, x) in lanes.iter_mut().zip(vectors.remainder()) {
            *lane += of(*x);
        }
        for vector in vectors {
            for (lane, x) in lanes.iter_mut().zip(vector) {
                *lane += of(*x);
            }
        }
        sum += fold(&lanes);
    }
    sum
}

/// The sums of two functions of the elements of tensors of equal length.
#[inline(always)]
pub(super) fn totals<const N: usize>(inputs: [&[f32]; N], of: impl Fn([f32; N]) -> [f32; 2]) -> [f64; 2] {
    let length = inputs.iter().map(|x| x.len()).min().unwrap_or(0);
    let mut sums = [0.0; 2];
    for start in (0..length).step_by(BLOCK) {
        let block = inputs.map(|x| &x[start..length.min(start + BLOCK)]);
        let vectors = block.map(|x| x.as_chunks::<LANES>());
        let (mut first, mut second) = ([0.0f32; LANES], [0.0f32; LANES]);
        let count = vectors.first().map_or(0, |(_, rest)| rest.len());
        for i in 0..count {
            let [p, q] = of(vectors.map(|(_, rest)| rest[i]));
            first[i] += p;
            second[i] += q;
        }
        let count = vectors.first().map_or(0, |(vectors, _)| vectors.len());
        for i in 0..count {
            let vectors = vectors.map(|(vectors, _)| &vectors[i]);
            for lane in 0..LANES {
                let [p, q] = of(vectors.map(|vector| vector[lane]));
                first[lane] += p;
                second[lane] += q;
            }
        }
        sums = [sums[0] + fold(&first), sums[1] + fold(&second)];
    }
    sums
}

/// The sum of partial sums.
#[inline(always)]
fn fold(lanes: &[f32; LANES]) -> f64 {
    lanes.iter().map(|x| f64::from(*x)).sum()
}
