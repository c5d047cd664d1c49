//! The family for GPUs: tiles in workgroup memory, register blocking, sums cut into parts where there are too few tiles to fill
//! the device; see `conv_tiled.wgsl`.

use super::Extents;
use super::blocking::{Blocking, Split};
use super::kernels::{Product, View, bytes, finish_parts, kernel, size, traffic};
use crate::kernel::{AdapterClass, Implementation, Kernel, Operands, Profile, Slot, Traffic};

const SOURCE: &str = concat!(
    include_str!("../../../shaders/conv_implicit.wgsl"),
    include_str!("../../../shaders/conv_tiled.wgsl")
);
/// `sum_parts` is that of the other families.
const SHARED: &str = include_str!("../../../shaders/conv.wgsl");

/// Rows and columns of the squares in which weights are laid out.
const SQUARE: usize = 32;

/// A shape of tiles: `m` x `n` results of a workgroup, `depth` terms of the sum at a time, `each_m` x `each_n` results an invocation.
#[derive(Clone, Copy, Debug)]
struct Tile {
    name: &'static str,
    m: usize,
    n: usize,
    depth: usize,
    each_m: usize,
    each_n: usize,
    /// Multiply-adds a second that the shape can reach, as a share of what the best can: larger tiles load less of storage for each, and
    /// 8 x 8 results an invocation less of workgroup memory.
    speed: f64,
}

const fn tile(name: &'static str, m: usize, n: usize, each_n: usize, speed: f64) -> Tile {
    Tile { name, m, n, depth: 8, each_m: 8, each_n, speed }
}

const TILES: [Tile; 5] = [
    tile("tiled_128x128", 128, 128, 8, 1.0),
    tile("tiled_64x128", 64, 128, 8, 0.95),
    tile("tiled_64x64", 64, 64, 4, 0.7),
    tile("tiled_32x128", 32, 128, 8, 0.65),
    tile("tiled_32x64", 32, 64, 4, 0.55),
];

impl Tile {
    fn invocations(&self) -> usize {
        self.m / self.each_m * (self.n / self.each_n)
    }

    fn blocking(&self) -> Blocking {
        // At 15 tera multiply-adds and 4 TB a second.
        let &Self { m, n, depth, speed, .. } = self;
        Blocking { m, n, depth, invocations: self.invocations(), speed, byte: 4.0 }
    }

    fn apply(&self, kernel: Kernel) -> Kernel {
        let invocations = self.invocations();
        kernel
            .constant("TILE_M", size(self.m))
            .constant("TILE_N", size(self.n))
            .constant("DEPTH", size(self.depth))
            .constant("EACH_M", size(self.each_m))
            .constant("EACH_N", size(self.each_n))
            .constant("VECTORS_M", size(self.each_m / 4))
            .constant("VECTORS_N", size(self.each_n / 4))
            .constant("LEFT_LOADS", size(self.depth * self.m / 4 / invocations))
            .constant("RIGHT_LOADS", size(self.depth * self.n / 4 / invocations))
            .constant("FOUR", 4u32)
            .workgroup(size(invocations), 1, 1)
    }

    /// What a kernel with this tile moves.
    fn traffic(&self, extents: [usize; 3], element: [usize; 3], parts: usize) -> Traffic {
        traffic(extents, [self.m, self.n], [self.each_m, self.each_n], element, parts, true)
    }

    fn finish(&self, kernels: Vec<Kernel>, memory: usize) -> Implementation {
        Implementation::new(self.name, kernels).suits(AdapterClass::GPU).workgroup_memory(memory)
    }
}

/// The tiles, the one that should be fastest first.
fn tiles(m: usize, n: usize, terms: usize, profile: &Profile) -> Vec<Tile> {
    let mut order = TILES.to_vec();
    let cost = |tile: &Tile| tile.blocking().cost(m, n, terms, profile);
    order.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    order
}

/// Forward and input gradient.
pub(super) fn product(
    operands: &Operands<'_>,
    product: &Product<'_>,
    profile: &Profile,
) -> Vec<Implementation> {
    let Some(view) = product.source_view() else { return Vec::new() };
    let e = &view.extents;
    let pixels = e.batch * e.out[0] * e.out[1];
    let order = tiles(e.outputs, pixels, e.depth(), profile);
    order.iter().map(|tile| product_with(tile, operands, product, &view, profile)).collect()
}

/// The kernel that lays the weight out as [tile of `tile_m` rows][term][row in the tile] in scratch 0, for a product of `terms` terms.
pub(super) fn pack(
    operands: &Operands<'_>,
    product: &Product<'_>,
    view: &View,
    [tile_m, terms]: [usize; 2],
    tap_outer: bool,
    element: &'static str,
) -> Kernel {
    let e = &view.extents;
    let rows = e.outputs.div_ceil(tile_m) * tile_m;
    let pack = Kernel::new(operands, SOURCE, "pack_tiled")
        .constant("KERNEL_H", size(e.kernel[0]))
        .constant("KERNEL_W", size(e.kernel[1]))
        .constant("TILE_M", size(tile_m))
        .constant("TAP_OUTER", tap_outer)
        .geometries([("rows", e.outputs), ("depth", e.channels), ("terms", terms)])
        .bind("weight", Slot::Input(1))
        .bind_as("panel", Slot::Scratch(0), element)
        .workgroup(256, 1, 1)
        .groups(rows / SQUARE, terms.div_ceil(SQUARE), 1);
    view.pack(pack, product.transposed)
}

/// The kernel that adds up the `parts` of a product in scratch 1 and does with the sums what is to be done.
pub(super) fn finish_product(
    operands: &Operands<'_>,
    product: &Product<'_>,
    view: &View,
    parts: usize,
) -> Kernel {
    let (result, e) = (product.result, &view.extents);
    let plane = e.out[0] * e.out[1];
    let (m, pixels) = (e.outputs, e.batch * plane);
    let moved = Traffic {
        loaded: (4 * m * pixels * parts) as u64,
        stored: (bytes(result) * result.volume()) as u64,
        ..Traffic::default()
    };
    let kernel = Kernel::new(operands, SOURCE, "finish_product")
        .geometries([
            ("rows", m),
            ("pixels", pixels),
            ("plane", plane),
            ("out_width", e.out[1]),
            ("parts", parts),
            ("result_offset", result.offset),
            ("result_stride", result.batch_stride),
        ])
        .constant("SPLIT", false)
        .traffic(product.epilogue.traffic(moved, result))
        .bind("partial", Slot::Scratch(1))
        .linear(m * pixels);
    product.epilogue.apply(view.deal(kernel).bind("result", Slot::Output(0)), "f32")
}

fn product_with(
    tile: &Tile,
    operands: &Operands<'_>,
    product: &Product<'_>,
    view: &View,
    profile: &Profile,
) -> Implementation {
    let (source, result, e) = (product.source, product.result, &view.extents);
    let plane = e.out[0] * e.out[1];
    let (m, pixels) = (e.outputs, e.batch * plane);
    let taps = e.kernel[0] * e.kernel[1];
    // Few channels would mostly be padding if each tap had whole steps of them.
    let tap_outer = e.channels >= tile.depth;
    let terms = if tap_outer {
        e.channels.next_multiple_of(tile.depth) * taps
    } else {
        e.depth().next_multiple_of(tile.depth)
    };
    let flat = e.kernel == [1, 1] && e.stride == [1, 1] && !view.pads() && e.size == e.out;
    let vector = tap_outer && flat && plane.is_multiple_of(4) && source.is_aligned(4);
    let Split { parts, chunk } = tile.blocking().split(m, pixels, terms, profile);
    let [rows, columns] = tile.blocking().groups(m, pixels);
    let store_vector = vector && parts == 1 && result.is_aligned(4) && product.epilogue.is_aligned();
    let stored_as = if store_vector { "vec4<f32>" } else { "f32" };
    let pack = pack(operands, product, view, [tile.m, terms], tap_outer, "f32");
    let kernel = Kernel::new(operands, SOURCE, "product_tiled")
        .constant("KERNEL_H", size(e.kernel[0]))
        .constant("KERNEL_W", size(e.kernel[1]))
        .constant("STRIDE_H", size(e.stride[0]))
        .constant("STRIDE_W", size(e.stride[1]))
        .constant("PAD", view.pads())
        .constant("TAP_OUTER", tap_outer)
        .constant("VECTOR", vector)
        .constant("STORE_VECTOR", store_vector)
        .constant("SPLIT", parts > 1)
        .geometries([
            ("batch", e.batch),
            ("rows", m),
            ("depth", e.channels),
            ("height", e.size[0]),
            ("width", e.size[1]),
            ("out_height", e.out[0]),
            ("out_width", e.out[1]),
            ("pad_h", e.padding[0]),
            ("pad_w", e.padding[1]),
            ("source_offset", source.offset),
            ("source_stride", source.batch_stride),
            ("result_offset", result.offset),
            ("result_stride", result.batch_stride),
            ("steps", terms / tile.depth),
            ("chunk", chunk),
        ])
        .bind_as("source", Slot::Input(0), if vector { "vec4<f32>" } else { "f32" })
        .bind_as("panel", Slot::Scratch(0), "vec4<f32>");
    let kernel = tile.apply(kernel).groups(rows, columns, parts);
    let memory = 2 * 4 * tile.depth * (tile.m + tile.n);
    let panel = rows * tile.m * terms;
    // Parts are f32.
    let stored = if parts == 1 { bytes(result) } else { 4 };
    let traffic = tile.traffic([m, pixels, e.depth()], [4, bytes(source), stored], parts);
    if parts == 1 {
        let kernel = view.deal(kernel).bind_as("result", Slot::Output(0), stored_as);
        let kernel = product.epilogue.apply(kernel, stored_as);
        let kernel = kernel.traffic(product.epilogue.traffic(traffic, result));
        return tile.finish(vec![pack, kernel], memory).scratch(panel);
    }
    let first = kernel.bind("partial", Slot::Scratch(1)).traffic(traffic);
    let second = finish_product(operands, product, view, parts);
    tile.finish(vec![pack, first, second], memory).scratch(panel).scratch(parts * m * pixels)
}

/// The weight gradient.
pub(super) fn weight_gradient(
    operands: &Operands<'_>,
    e: &Extents,
    profile: &Profile,
) -> Vec<Implementation> {
    let pixels = e.batch * e.out[0] * e.out[1];
    let order = tiles(e.outputs, e.depth(), pixels, profile);
    order.iter().map(|tile| weight_gradient_with(tile, operands, e, profile)).collect()
}

fn weight_gradient_with(
    tile: &Tile,
    operands: &Operands<'_>,
    e: &Extents,
    profile: &Profile,
) -> Implementation {
    let (x, dy) = (&operands.inputs[0], &operands.inputs[1]);
    let (m, columns, pixels) = (e.outputs, e.depth(), e.batch * e.out[0] * e.out[1]);
    let Split { parts, chunk } = tile.blocking().split(m, columns, pixels, profile);
    let [rows, across] = tile.blocking().groups(m, columns);
    // Four pixels of one item in a load.
    let vector = (e.out[0] * e.out[1]).is_multiple_of(4) && dy.is_aligned(4);
    // A sum that is not cut needs no second pass.
    let slot = if parts == 1 { Slot::Output(0) } else { Slot::Scratch(0) };
    let kernel = kernel(operands, e, [SOURCE, "weight_gradient_tiled"], x, dy)
        .constant("VECTOR", vector)
        .constant("TAP_OUTER", e.channels.is_multiple_of(4))
        .geometry("chunk", chunk * tile.depth)
        .bind("x_data", Slot::Input(0))
        .bind_as("dy_data", Slot::Input(1), if vector { "vec4<f32>" } else { "f32" })
        .bind("partial", slot)
        .traffic(tile.traffic([m, columns, pixels], [bytes(dy), bytes(x), 4], parts));
    let kernel = tile.apply(kernel).groups(rows, across, parts);
    // Rows of the tiles have one vector more than they need.
    let memory = 2 * 4 * tile.depth * (tile.m + tile.n + 8);
    finish_parts(operands, SHARED, tile.finish(vec![kernel], memory), parts, m * columns)
}
