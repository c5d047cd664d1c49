//! The family for GPUs: tiles in workgroup memory, register blocking, split-K where there are too
//! few tiles to fill the device; see `conv_tiled.wgsl`.

use super::blocking::{Blocking, Split};
use super::geometry::{Extents, Values, bytes, size};
use super::implicit::{self, Tile, sort};
use super::product::Product;
use super::shared::{accessed, finish_parts, kernel, traffic};
use crate::kernel::{AdapterClass, Implementation, Kernel, Operands, Profile, Slot, Traffic, Vendor};
use crate::tensor::Element;

const SOURCE: &str = include_str!("../../../shaders/conv_tiled.wgsl");

/// A shape of tiles: `m` x `n` results per workgroup, K in steps of `depth`, `each_m` x `each_n`
/// results per invocation.
#[derive(Clone, Copy, Debug)]
struct Registers {
    name: &'static str,
    m: usize,
    n: usize,
    depth: usize,
    each_m: usize,
    each_n: usize,
    /// Multiply-adds per second that the shape reaches, relative to the best: larger tiles need
    /// less storage bandwidth, 8 x 8 results per invocation less workgroup memory bandwidth.
    speed: f64,
    /// Whether it takes any windows with one pipeline.
    any: bool,
    /// Whether loads wait in registers while the previous tiles are multiplied, with four steps of
    /// K unrolled.
    prefetch: bool,
}

const fn tile(name: &'static str, m: usize, n: usize, each_n: usize, speed: f64) -> Registers {
    Registers { name, m, n, depth: 8, each_m: 8, each_n, speed, any: false, prefetch: false }
}

/// The candidates without tuning.
const TILES: [Registers; 5] = [
    tile("tiled_128x128", 128, 128, 8, 1.0),
    tile("tiled_64x128", 64, 128, 8, 0.95),
    tile("tiled_64x64", 64, 64, 4, 0.7),
    tile("tiled_32x128", 32, 128, 8, 0.65),
    tile("tiled_32x64", 32, 64, 4, 0.55),
];

/// The candidates for small products on devices that group kernels: convolutions of different
/// windows, as those of an Inception block's second row, then are one dispatch.
const ANY: [Registers; 3] = [
    Registers { any: true, ..tile("tiled_64x64_any", 64, 64, 4, 0.5) },
    Registers { any: true, ..tile("tiled_32x128_any", 32, 128, 8, 0.45) },
    Registers { any: true, ..tile("tiled_32x64_any", 32, 64, 4, 0.4) },
];

/// Multiply-adds of a product that takes no longer than a dispatch with its barrier.
const SMALL: usize = 1 << 27;

/// Additional candidates of tuning. With 8 x 16 results, an invocation reads 25% fewer words of
/// workgroup memory per multiply-add, which limits GPUs with 128 multiply-adds per clock and
/// compute unit; but it needs about 230 registers, which not every GPU has. K steps of 16 halve the
/// barriers and double the loads in flight.
const TUNED: [Registers; 5] = [
    tile("tiled_128x256", 128, 256, 16, 1.0),
    tile("tiled_128x128_wide", 128, 128, 16, 1.0),
    tile("tiled_64x256", 64, 256, 16, 1.0),
    Registers { depth: 16, ..tile("tiled_128x128_deep", 128, 128, 8, 1.0) },
    Registers { depth: 16, ..tile("tiled_64x128_deep", 64, 128, 8, 0.95) },
];

impl Registers {
    fn invocations(&self) -> usize {
        self.m / self.each_m * (self.n / self.each_n)
    }

    /// Vectors of the right tile that an invocation loads per K step.
    fn right_loads(&self) -> usize {
        self.depth * self.n / 4 / self.invocations()
    }

    /// Whether a weight gradient's columns, of which an invocation holds two words each, fit into
    /// 128 registers beside 8 x 8 sums. With more, Intel's compilers spill and AMD's GCN has one
    /// subgroup per SIMD.
    fn fits_columns(&self, tap_outer: bool, profile: &Profile) -> bool {
        let columns = self.right_loads() * if tap_outer { 1 } else { 4 };
        profile.vendor == Vendor::Nvidia || self.each_n < 8 || columns <= 4 && self.right_loads() <= 2
    }
}

impl Tile for Registers {
    const PRODUCT: [&'static str; 2] = [SOURCE, "product_tiled"];
    const IN_ORDER: bool = false;
    const TERMS_TOGETHER: bool = false;

    fn blocking(&self) -> Blocking {
        // At 15 tera multiply-adds per second and 4 TB/s.
        let &Self { m, n, depth, speed, .. } = self;
        Blocking { m, n, depth, invocations: self.invocations(), speed, byte: 4.0 }
    }

    fn weights(&self) -> Element {
        Element::F32
    }

    fn tap_outer(&self, channels: usize) -> bool {
        channels >= self.depth
    }

    fn takes_any(&self) -> bool {
        self.any
    }

    fn apply(&self, kernel: Kernel) -> Kernel {
        let invocations = self.invocations();
        let kernel = self.blocking().apply(kernel);
        // A value, so that the loop over a K step is not unrolled.
        let kernel = if self.prefetch { kernel } else { kernel.geometry("step_depth", self.depth) };
        kernel
            .constant("PREFETCH", self.prefetch)
            .constant("UNROLL", if self.prefetch { 4u32 } else { 1 })
            .constant("EACH_M", size(self.each_m))
            .constant("EACH_N", size(self.each_n))
            .constant("VECTORS_M", size(self.each_m / 4))
            .constant("VECTORS_N", size(self.each_n / 4))
            .constant("LEFT_LOADS", size(self.depth * self.m / 4 / invocations))
            .constant("RIGHT_LOADS", size(self.right_loads()))
            .workgroup(size(invocations), 1, 1)
    }

    fn traffic(&self, extents: [usize; 3], element: [usize; 3], parts: usize) -> Traffic {
        traffic(extents, [self.m, self.n], [self.each_m, self.each_n], element, parts, true)
    }

    fn words(&self) -> usize {
        self.depth * (self.m + self.n)
    }

    fn finish(&self, kernels: Vec<Kernel>, words: usize) -> Implementation {
        let default = TILES.iter().chain(&ANY).any(|tile| tile.name == self.name);
        let classes = if default { AdapterClass::GPU } else { AdapterClass::NONE };
        Implementation::new(self.name, kernels).suits(classes).workgroup_memory(2 * 4 * words)
    }
}

/// The tiles for m x n results with sums of length k, in the order of their estimated time; those
/// that only tuning chooses are last.
fn tiles(extents: [usize; 3], profile: &Profile) -> Vec<Registers> {
    let mut order = TILES.to_vec();
    sort(&mut order, extents, profile);
    let [m, n, _] = extents;
    // Most of a larger tile would be padding.
    let fits = |tile: &Registers| tile.each_n < 16 || profile.has_many_registers();
    order.extend(TUNED.into_iter().filter(|tile| tile.m < 2 * m && tile.n < 2 * n && fits(tile)));
    order.iter_mut().for_each(|tile| tile.prefetch = profile.has_many_registers());
    order
}

/// Forward and input gradient.
pub(super) fn product(
    operands: &Operands<'_>,
    product: &Product<'_>,
    profile: &Profile,
) -> Vec<Implementation> {
    let Some(view) = product.source_view() else { return Vec::new() };
    let mut order = tiles(view.extents_of_product(), profile);
    let [m, n, k] = view.extents_of_product();
    if profile.grouped && view.extents.channels >= 8 && m.saturating_mul(n).saturating_mul(k) <= SMALL {
        let mut any = ANY.to_vec();
        sort(&mut any, [m, n, k], profile);
        any.iter_mut().for_each(|tile| tile.prefetch = profile.has_many_registers());
        order.splice(TILES.len()..TILES.len(), any);
    }
    order.iter().map(|tile| implicit::product(tile, operands, product, &view, profile)).collect()
}

/// The weight gradient.
pub(super) fn weight_gradient(
    operands: &Operands<'_>,
    e: &Extents,
    profile: &Profile,
) -> Vec<Implementation> {
    // A tap is one word.
    if e.kernel.iter().any(|extent| *extent > 0xffff) {
        return Vec::new();
    }
    let pixels = e.batch * e.out[0] * e.out[1];
    let mut order = tiles([e.outputs, e.depth(), pixels], profile);
    order.retain(|tile| tile.fits_columns(has_whole_taps(e), profile));
    order.iter().map(|tile| weight_gradient_with(tile, operands, e, profile)).collect()
}

/// Whether columns are tap-major, so that the four columns of a vector share a tap.
fn has_whole_taps(e: &Extents) -> bool {
    e.channels.is_multiple_of(4)
}

fn weight_gradient_with(
    tile: &Registers,
    operands: &Operands<'_>,
    e: &Extents,
    profile: &Profile,
) -> Implementation {
    let (x, dy) = (&operands.inputs[0], &operands.inputs[1]);
    let (m, columns, pixels) = (e.outputs, e.depth(), e.batch * e.out[0] * e.out[1]);
    let Split { parts, chunk } = tile.blocking().split(m, columns, pixels, profile);
    let [rows, across] = tile.blocking().groups(m, columns);
    // A load takes four pixels of one item.
    let vector = (e.out[0] * e.out[1]).is_multiple_of(4) && dy.is_aligned(4);
    // Without split-K there is no second pass.
    let slot = if parts == 1 { Slot::Output(0) } else { Slot::Scratch(0) };
    let kernel = kernel(operands, e, [SOURCE, "weight_gradient_tiled"], x, dy, Values::Loaded)
        .constant("VECTOR", vector)
        .constant("TAP_OUTER", has_whole_taps(e))
        .geometry("chunk", chunk * tile.depth)
        .bind("x_data", Slot::Input(0))
        .bind_as("dy_data", Slot::Input(1), accessed(vector))
        .bind("partial", slot)
        .traffic(tile.traffic([m, columns, pixels], [bytes(dy), bytes(x), 4], parts));
    let kernel = tile.apply(kernel).groups(rows, across, parts);
    // Rows of the tiles are padded by one vector.
    let words = tile.depth * (tile.m + tile.n + 8);
    finish_parts(operands, tile.finish(vec![kernel], words), parts, m * columns)
}
