//! Convolution on cooperative matrices: one shape of tiles for all directions, where the device has such matrices for the type that
//! activations are stored as.

use super::Extents;
use super::kernels::{Epilogue, bytes, finish_parts, kernel, size, split, traffic};
use super::tiled::busy;
use crate::graph::Element;
use crate::kernel::{
    AdapterClass, Cooperative, Implementation, Kernel, Operand, Operands, Profile, Slot, Traffic,
};

const SOURCE: &str = include_str!("../../../shaders/conv_cooperative.wgsl");
/// `sum_parts` is that of the other families.
const SHARED: &str = include_str!("../../../shaders/conv.wgsl");

/// Results of a workgroup in each dimension.
const TILE: usize = 64;
/// Terms of the sum at a time.
const DEPTH: usize = 32;
/// Invocations of a workgroup.
const WORKGROUP: usize = 128;
/// Workgroups in one dimension of a dispatch.
const MOST_GROUPS: usize = 65_535;

/// How the tile of a workgroup is divided.
#[derive(Clone, Copy, Debug)]
struct Division {
    /// Rows and columns of one matrix.
    size: usize,
    subgroups: usize,
    /// Subgroups side by side.
    across: usize,
    /// Matrices of one subgroup.
    each: [usize; 2],
}

impl Division {
    /// The division for matrices of `size` and subgroups of at most `subgroup` invocations, if it comes out even.
    fn new(size: usize, subgroup: usize) -> Option<Self> {
        let subgroups = (WORKGROUP / subgroup.max(1)).max(1);
        let across = 1 << (subgroups.checked_ilog2()? / 2);
        let down = subgroups / across;
        let matrices = TILE / size;
        let even = subgroups.is_power_of_two()
            && subgroup <= WORKGROUP
            && down <= matrices
            && (size == 8 || size == 16)
            && (size * size).is_multiple_of(subgroup);
        even.then_some(Self { size, subgroups, across, each: [matrices / down, matrices / across] })
    }
}

/// A kernel for `m` x `n` results, if the device has matrices for the stored type and the results are enough to be worth it.
fn implementation(
    kernel: impl Fn(&'static str) -> Kernel,
    entry: &'static str,
    operand: &Operand,
    extents: [usize; 3],
    element: [usize; 3],
    parts: usize,
    profile: &Profile,
) -> Option<Implementation> {
    let Cooperative { size: side, subgroup, f16, f32, emulated } = profile.cooperative?;
    let [m, n, _] = extents;
    let stored = operand.spec.element;
    let has = match stored {
        Element::F16 => f16,
        Element::F32 => f32,
        Element::U32 => false,
    };
    let division = Division::new(side, subgroup).filter(|_| has)?;
    let groups = [n.div_ceil(TILE), m.div_ceil(TILE), parts];
    // A tile that is mostly outside of the results computes for nothing.
    let worth = m.next_multiple_of(TILE) <= 2 * m && n.next_multiple_of(TILE) <= 2 * n;
    if groups.iter().any(|g| *g > MOST_GROUPS) || !(worth || emulated) {
        return None;
    }
    // A subgroup loads what it multiplies once; tiles are stored as the operand is.
    let [rows, columns] = division.each.map(|each| each * side);
    let moved = traffic(extents, [TILE; 2], [rows, columns], element, parts, true);
    let register = [size(rows), size(columns.div_ceil(subgroup))];
    let moved = Traffic { shared: moved.shared / 4 * stored.size() as u64, register, ..moved };
    let kernel = kernel(entry)
        .traffic(moved)
        .constant("TILE_M", size(TILE))
        .constant("TILE_N", size(TILE))
        .constant("DEPTH", size(DEPTH))
        .constant("SIZE", size(side))
        .constant("SIXTEEN", side == 16)
        .constant("SUBGROUPS", size(division.subgroups))
        .constant("ACROSS", size(division.across))
        .constant("EACH_M", size(division.each[0]))
        .constant("EACH_N", size(division.each[1]))
        .constant("EMULATED", emulated)
        .workgroup(size(WORKGROUP), 1, 1)
        .groups(groups[0], groups[1], groups[2]);
    let kernel = if emulated { kernel } else { kernel.cooperative() };
    let memory = 2 * DEPTH * (TILE + 8) * stored.size() + 4 * division.subgroups * division.size.pow(2);
    let suits = if emulated { &[][..] } else { AdapterClass::GPU };
    Some(Implementation::new("cooperative", vec![kernel]).suits(suits).workgroup_memory(memory))
}

pub(super) fn forward(
    operands: &Operands<'_>,
    e: &Extents,
    epilogue: Epilogue,
    profile: &Profile,
) -> Option<Implementation> {
    let (x, y) = (&operands.inputs[0], &operands.outputs[0]);
    let base = |entry| {
        let kernel = kernel(operands, e, [SOURCE, entry], x, y)
            .bind("x_data", Slot::Input(0))
            .bind("weight", Slot::Input(1))
            .bind("y_data", Slot::Output(0));
        epilogue.apply(kernel, "f32")
    };
    let extents = [e.outputs, e.batch * e.out[0] * e.out[1], e.depth()];
    implementation(base, "forward_cooperative", x, extents, [4, bytes(x), bytes(y)], 1, profile)
}

pub(super) fn input_gradient(
    operands: &Operands<'_>,
    e: &Extents,
    epilogue: Epilogue,
    profile: &Profile,
) -> Option<Implementation> {
    let (dy, dx) = (&operands.inputs[0], &operands.outputs[0]);
    let base = |entry| {
        let kernel = kernel(operands, e, [SOURCE, entry], dx, dy)
            .bind("dy_data", Slot::Input(0))
            .bind("weight", Slot::Input(1))
            .bind("dx_data", Slot::Output(0));
        epilogue.apply(kernel, "f32")
    };
    let taps = e.kernel[0] * e.kernel[1];
    let extents = [e.channels, e.batch * e.size[0] * e.size[1], e.outputs * taps];
    let element = [4, bytes(dy), bytes(dx)];
    let mut made = implementation(base, "input_gradient_cooperative", dy, extents, element, 1, profile)?;
    for kernel in &mut made.kernels {
        kernel.traffic = kernel.traffic.map(|t| epilogue.traffic(t, dx));
    }
    Some(made)
}

pub(super) fn weight_gradient(
    operands: &Operands<'_>,
    e: &Extents,
    profile: &Profile,
) -> Option<Implementation> {
    let (x, dy) = (&operands.inputs[0], &operands.inputs[1]);
    let (m, n, pixels) = (e.outputs, e.depth(), e.batch * e.out[0] * e.out[1]);
    let (parts, chunk) = split(pixels, m.div_ceil(TILE) * n.div_ceil(TILE), 2 * busy(profile), 8 * DEPTH);
    let base = |entry| {
        // A sum that is not cut needs no second pass.
        let slot = if parts == 1 { Slot::Output(0) } else { Slot::Scratch(0) };
        kernel(operands, e, [SOURCE, entry], x, dy)
            .geometry("chunk", chunk)
            .bind("x_data", Slot::Input(0))
            .bind("dy_data", Slot::Input(1))
            .bind("partial", slot)
    };
    let (extents, element) = ([m, n, pixels], [bytes(dy), bytes(x), 4]);
    let first = implementation(base, "weight_gradient_cooperative", x, extents, element, parts, profile)?;
    Some(finish_parts(operands, SHARED, first, parts, m * n))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every matrix of the tile belongs to one subgroup.
    #[test]
    fn divisions_cover_the_tile() {
        for size in [8, 16] {
            for subgroup in [8, 16, 32, 64, 128] {
                let Some(d) = Division::new(size, subgroup) else {
                    // 16 subgroups in four rows fit four rows of matrices; 64 invocations do not share 8 x 8 elements unevenly.
                    assert!(subgroup == 128 && size == 8, "{size} {subgroup}");
                    continue;
                };
                let mut owners = vec![0; (TILE / size) * (TILE / size)];
                for me in 0..d.subgroups {
                    for i in 0..d.each[0] {
                        for j in 0..d.each[1] {
                            let (row, column) =
                                (me / d.across * d.each[0] + i, me % d.across * d.each[1] + j);
                            owners[row * (TILE / size) + column] += 1;
                        }
                    }
                }
                assert!(owners.iter().all(|n| *n == 1), "{d:?}: {owners:?}");
            }
        }
        assert!(Division::new(16, 4).is_none() && Division::new(12, 32).is_none());
    }
}
