//! Convolution on cooperative matrices: tiles of three shapes for all directions, where the device
//! has such matrices for the activations' element type.

use super::blocking::{Blocking, Split};
use super::geometry::{Extents, Values, bytes, size};
use super::implicit::{self, Tile, sort};
use super::product::Product;
use super::shared::{accessed, finish_parts, kernel, traffic};
use crate::kernel::{
    AdapterClass, Cooperative, Implementation, Kernel, Operand, Operands, Profile, Slot, Traffic,
};
use crate::tensor::Element;

const SOURCE: &str = include_str!("../../../shaders/conv_cooperative.wgsl");

/// Columns of all tiles.
const COLUMNS: usize = 128;
/// Columns of a subgroup's part of a tile, and maximum of its rows.
const SUBGROUP: [usize; 2] = [64, 32];

/// Names and rows of the tiles, and their speed relative to the best one.
const TILES: [(&str, usize, f64); 3] =
    [("cooperative_128x128", 128, 1.0), ("cooperative_64x128", 64, 0.55), ("cooperative_32x128", 32, 0.35)];

/// A tile and how it is divided among subgroups.
#[derive(Clone, Copy, Debug)]
struct Matrices {
    name: &'static str,
    blocking: Blocking,
    /// Rows and columns of one matrix.
    size: usize,
    subgroups: usize,
    /// Subgroups side by side.
    across: usize,
    /// Matrices of one subgroup.
    each: [usize; 2],
    element: Element,
    emulated: bool,
}

/// The tiles for activations of type `stored`, if the device has matrices for it.
fn tiles(stored: Element, profile: &Profile) -> Vec<Matrices> {
    let Some(Cooperative { size, subgroup, f16, f32, emulated }) = profile.cooperative else {
        return Vec::new();
    };
    let has = match stored {
        Element::F16 => f16,
        Element::F32 => f32,
        Element::U32 => false,
    };
    // Each invocation loads from one column of the tile.
    if !has || ![8, 16].contains(&size) || ![32, 64].contains(&subgroup) {
        return Vec::new();
    }
    // 64 bytes of a row or a pixel.
    let depth = 64 / stored.size();
    let tile = |(name, m, speed): (&'static str, usize, f64)| {
        let [rows, columns] = [SUBGROUP[0].min(m), SUBGROUP[1]];
        let across = COLUMNS / columns;
        let subgroups = m / rows * across;
        let invocations = subgroups * subgroup;
        // At 60 tera multiply-adds per second and 4 TB/s.
        let blocking = Blocking { m, n: COLUMNS, depth, invocations, speed, byte: 16.0 };
        let each = [rows / size, columns / size];
        Matrices { name, blocking, size, subgroups, across, each, element: stored, emulated }
    };
    // Each invocation loads at least one vector of each factor.
    let filled = |t: &Matrices| t.blocking.m * t.blocking.depth >= 4 * t.blocking.invocations;
    TILES.into_iter().map(tile).filter(filled).collect()
}

impl Tile for Matrices {
    const PRODUCT: [&'static str; 2] = [SOURCE, "product_cooperative"];
    const IN_ORDER: bool = true;
    const TERMS_TOGETHER: bool = true;

    fn blocking(&self) -> Blocking {
        self.blocking
    }

    fn weights(&self) -> Element {
        self.element
    }

    fn tap_outer(&self, channels: usize) -> bool {
        channels >= 16 && channels.is_multiple_of(4)
    }

    fn words(&self) -> usize {
        // Rows of the tiles, of K steps, are padded by eight elements.
        (self.blocking.depth + 8) * (self.blocking.m + self.blocking.n)
    }

    fn apply(&self, kernel: Kernel) -> Kernel {
        let Blocking { m, n, depth, invocations, .. } = self.blocking;
        let kernel = self
            .blocking
            .apply(kernel)
            .constant("SIZE", size(self.size))
            .constant("SIXTEEN", self.size == 16)
            .constant("HALF", self.element == Element::F16)
            .constant("SUBGROUPS", size(self.subgroups))
            .constant("ACROSS", size(self.across))
            .constant("EACH_M", size(self.each[0]))
            .constant("EACH_N", size(self.each[1]))
            .constant("LEFT_LOADS", size(m * depth / 4 / invocations))
            .constant("RIGHT_LOADS", size(n * depth / 4 / invocations))
            .constant("EMULATED", self.emulated)
            .workgroup(size(invocations), 1, 1);
        if self.emulated { kernel } else { kernel.cooperative() }
    }

    // A subgroup loads its factors once; tiles have the operands' element type.
    fn traffic(&self, extents: [usize; 3], element: [usize; 3], parts: usize) -> Traffic {
        let Blocking { m, n, invocations, .. } = self.blocking;
        let [rows, columns] = self.each.map(|each| each * self.size);
        let moved = traffic(extents, [m, n], [rows, columns], element, parts, true);
        let lanes = invocations / self.subgroups;
        let register = [size(rows), size(columns.div_ceil(lanes))];
        Traffic { shared: moved.shared / 4 * self.element.size() as u64, register, ..moved }
    }

    fn finish(&self, kernels: Vec<Kernel>, words: usize) -> Implementation {
        let memory = 2 * words * self.element.size() + 4 * self.subgroups * self.size.pow(2);
        let suits = if self.emulated { AdapterClass::NONE } else { AdapterClass::GPU };
        Implementation::new(self.name, kernels).suits(suits).workgroup_memory(memory).on_matrices()
    }
}

/// The tiles worth trying for `m` x `n` results, in the order of their estimated time.
fn worth(stored: Element, extents: [usize; 3], profile: &Profile) -> Vec<Matrices> {
    let mut list = tiles(stored, profile);
    sort(&mut list, extents, profile);
    let [m, n, _] = extents;
    // A tile that is mostly outside of the results wastes its work.
    list.retain(|tile| tile.emulated || (tile.blocking.m <= 2 * m && tile.blocking.n <= 2 * n));
    list
}

/// Forward and input gradient.
pub(super) fn product(
    operands: &Operands<'_>,
    product: &Product<'_>,
    profile: &Profile,
) -> Vec<Implementation> {
    let Some(view) = product.source_view() else { return Vec::new() };
    let order = worth(product.source.spec.element, view.extents_of_product(), profile);
    order.iter().map(|tile| implicit::product(tile, operands, product, &view, profile)).collect()
}

/// The weight gradient.
pub(super) fn weight_gradient(
    operands: &Operands<'_>,
    e: &Extents,
    profile: &Profile,
) -> Vec<Implementation> {
    let extents = [e.outputs, e.depth(), e.batch * e.out[0] * e.out[1]];
    let order = worth(operands.inputs[0].spec.element, extents, profile);
    order.iter().map(|tile| weight_gradient_with(tile, operands, e, profile)).collect()
}

fn weight_gradient_with(
    tile: &Matrices,
    operands: &Operands<'_>,
    e: &Extents,
    profile: &Profile,
) -> Implementation {
    let (x, dy) = (&operands.inputs[0], &operands.inputs[1]);
    let (m, columns, pixels) = (e.outputs, e.depth(), e.batch * e.out[0] * e.out[1]);
    let Split { parts, chunk } = tile.blocking.split(m, columns, pixels, profile);
    let [rows, across] = tile.blocking.groups(m, columns);
    let plane_in_fours = |o: &Operand| (e.out[0] * e.out[1]).is_multiple_of(4) && o.is_aligned(4);
    let flat = e.kernel == [1, 1] && e.stride == [1, 1] && e.padding == [0, 0];
    let (vector, vector_x) = (plane_in_fours(dy), flat && plane_in_fours(x));
    // Without split-K there is no second pass.
    let slot = if parts == 1 { Slot::Output(0) } else { Slot::Scratch(0) };
    let kernel = kernel(operands, e, [SOURCE, "weight_gradient_cooperative"], x, dy, Values::Loaded)
        .constant("VECTOR", vector)
        .constant("VECTOR_X", vector_x)
        .constant("LEFT_VECTORS", vector)
        .constant("RIGHT_VECTORS", vector_x)
        .constant("TAP_OUTER", e.channels.is_multiple_of(4))
        .geometry("chunk", chunk)
        .bind_as("x_data", Slot::Input(0), accessed(vector_x))
        .bind_as("dy_data", Slot::Input(1), accessed(vector))
        .bind("partial", slot)
        .traffic(tile.traffic([m, columns, pixels], [bytes(dy), bytes(x), 4], parts));
    let kernel = tile.apply(kernel).groups(rows, across, parts);
    finish_parts(operands, tile.finish(vec![kernel], tile.words()), parts, m * columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each matrix of a tile is computed by exactly one subgroup, and each element is loaded
    /// exactly once.
    #[test]
    fn tile_is_partitioned_among_subgroups_and_loads() {
        let mut seen = 0;
        for (size, subgroup, element) in
            [(16, 32, Element::F16), (16, 64, Element::F16), (8, 32, Element::F32), (8, 64, Element::F16)]
        {
            let cooperative = Some(Cooperative { size, subgroup, f16: true, f32: true, emulated: false });
            let profile = Profile { cooperative, ..Profile::webgpu(AdapterClass::Discrete) };
            for tile in tiles(element, &profile) {
                let Blocking { m, n, depth, invocations, .. } = tile.blocking;
                let mut owners = vec![0; (m / size) * (n / size)];
                for me in 0..tile.subgroups {
                    for i in 0..tile.each[0] {
                        for j in 0..tile.each[1] {
                            let row = me / tile.across * tile.each[0] + i;
                            owners[row * (n / size) + me % tile.across * tile.each[1] + j] += 1;
                        }
                    }
                }
                assert!(owners.iter().all(|count| *count == 1), "{tile:?}: {owners:?}");
                let loads = |extent: usize| extent * depth / 4 / invocations * invocations * 4;
                assert_eq!((loads(m), loads(n)), (m * depth, n * depth), "{tile:?}");
                seen += 1;
            }
        }
        assert_eq!(seen, 12);
    }
}
