//! Implicit GEMM on GPUs, shared by the families that differ in how they multiply tiles; see
//! `conv_implicit.wgsl`.

use super::blocking::{Blocking, Split};
use super::geometry::{Values, bytes, size};
use super::product::{Product, View};
use super::shared::accessed;
use crate::kernel::{Implementation, Kernel, MOST_GROUPS, Operands, Profile, Slot, Traffic};
use crate::tensor::Element;

const SOURCE: &str = include_str!("../../../shaders/include/conv_implicit.wgsl");

/// Rows and columns of the squares in which weights are packed.
const SQUARE: usize = 32;

/// A family's tile multiplication.
pub(super) trait Tile {
    /// The shader, which includes `conv_implicit.wgsl`, and its entry point.
    const PRODUCT: [&'static str; 2];
    /// Whether neighbouring columns of the results are always neighbouring pixels.
    const IN_ORDER: bool;
    /// Whether the terms of a sum lie together in tiles and packed weights, not its rows.
    const TERMS_TOGETHER: bool;

    fn blocking(&self) -> Blocking;

    /// Element type of packed weights.
    fn weights(&self) -> Element;

    /// Whether K is ordered as (tap, channel), which pads the channels of each tap to whole K
    /// steps, instead of (channel, tap).
    fn tap_outer(&self, channels: usize) -> bool;

    /// Whether it takes any windows with one pipeline, instead of one for each kind of windows.
    fn takes_any(&self) -> bool {
        false
    }

    /// Sets the constants of the tile.
    fn apply(&self, kernel: Kernel) -> Kernel;

    /// Memory traffic of a kernel with this tile.
    fn traffic(&self, extents: [usize; 3], element: [usize; 3], parts: usize) -> Traffic;

    /// Elements of workgroup memory of a pair of tiles.
    fn words(&self) -> usize;

    /// An implementation whose pairs of tiles have `words` elements.
    fn finish(&self, kernels: Vec<Kernel>, words: usize) -> Implementation;
}

/// Sorts tiles by their estimated time for m x n results with sums of length k.
pub(super) fn sort(tiles: &mut [impl Tile], [m, n, k]: [usize; 3], profile: &Profile) {
    // Positive floats are ordered like their bits.
    tiles.sort_by_cached_key(|tile| tile.blocking().cost(m, n, k, profile).to_bits());
}

/// The product with this tile: packing of weights, multiplication of tiles, and with split-K a
/// second pass.
pub(super) fn product<T: Tile>(
    tile: &T,
    operands: &Operands<'_>,
    product: &Product<'_>,
    view: &View,
    profile: &Profile,
) -> Implementation {
    let (source, result, e) = (product.source, product.result, &view.extents);
    let Blocking { m: tile_m, depth, .. } = tile.blocking();
    let plane = e.out[0] * e.out[1];
    let (m, pixels) = (e.outputs, e.batch * plane);
    let tap_outer = tile.tap_outer(e.channels);
    let taps = e.kernel[0] * e.kernel[1];
    let padded_k =
        if tap_outer { e.channels.next_multiple_of(depth) * taps } else { e.depth().next_multiple_of(depth) };
    let flat = e.kernel == [1, 1] && e.stride == [1, 1] && !view.pads() && e.size == e.out;
    let fours = plane.is_multiple_of(4);
    let vector = !tile.takes_any() && tap_outer && flat && fours && source.is_aligned(4);
    let Split { parts, chunk } = tile.blocking().split(m, pixels, padded_k, profile);
    let [rows, columns] = tile.blocking().groups(m, pixels);
    // Results of sub-pixel phases are scattered, so they cannot be stored as vectors.
    let store_vector = (vector || T::IN_ORDER)
        && parts == 1
        && fours
        && !view.is_subpixel()
        && result.is_aligned(4)
        && product.epilogue.is_aligned();
    let half = tile.weights() == Element::F16;
    let pack = pack(tile, operands, product, view, padded_k);
    let [shader, entry] = T::PRODUCT;
    let kernel = view
        .describe(
            Kernel::new(operands, shader, entry).groupable(),
            product,
            tile.takes_any() || view.pads(),
            Values::Loaded,
        )
        .constant("TAP_OUTER", tap_outer)
        .constant("VECTOR", vector)
        .constant("STORE_VECTOR", store_vector)
        .constant("SPLIT", parts > 1)
        .geometries([("steps", padded_k / depth), ("chunk", chunk)])
        .bind_as("source", Slot::Input(0), accessed(vector))
        .bind_as("panel", Slot::Scratch(0), if half { "vec4<f16>" } else { "vec4<f32>" });
    let kernel = if T::TERMS_TOGETHER {
        let Blocking { n, invocations, .. } = tile.blocking();
        let blocks = (n / 4 * (depth / 4)).div_ceil(invocations);
        let kernel = kernel.constant("BLOCKED", vector).constant("BLOCKS", size(blocks));
        kernel.constant("LEFT_VECTORS", true).constant("RIGHT_VECTORS", true)
    } else {
        kernel
    };
    // Tiles beyond the limit of the grid's second dimension continue in the third, which is free
    // because that number of tiles never needs split-K.
    let folds = if parts == 1 { columns.div_ceil(MOST_GROUPS as usize) } else { 1 };
    let in_a_row = columns.div_ceil(folds);
    let kernel = tile.apply(kernel).constant("FOLD", folds > 1).geometry("in_a_row", in_a_row).groups(
        rows,
        in_a_row,
        parts.max(folds),
    );
    // Scratch is counted in 4-byte words, and parts are f32.
    let panel = rows * tile_m * padded_k / (4 / tile.weights().size());
    let stored = if parts == 1 { bytes(result) } else { 4 };
    let elements = [tile.weights().size(), bytes(source), stored];
    let moved = tile.traffic([m, pixels, e.depth()], elements, parts);
    if parts == 1 {
        let stored_as = accessed(store_vector);
        let kernel = view.scatter(kernel, Values::Loaded).bind_as("result", Slot::Output(0), stored_as);
        let kernel = product.epilogue.apply(kernel, stored_as);
        let kernel = kernel.traffic(product.epilogue.traffic(moved, result));
        return tile.finish(vec![pack, kernel], tile.words()).scratch(panel);
    }
    let first = kernel.bind("partial", Slot::Scratch(1)).traffic(moved);
    let second = finish_product(operands, product, view, parts);
    tile.finish(vec![pack, first, second], tile.words()).scratch(panel).scratch(parts * m * pixels)
}

/// The kernel that packs the weight in scratch 0 as [tile of rows][k][row in the tile], or with
/// terms together as [tile of rows][K step][row in the tile][k in the step], with K padded to
/// `padded_k`.
fn pack<T: Tile>(
    tile: &T,
    operands: &Operands<'_>,
    product: &Product<'_>,
    view: &View,
    padded_k: usize,
) -> Kernel {
    let e = &view.extents;
    let Blocking { m: tile_m, depth, .. } = tile.blocking();
    let element = if tile.weights() == Element::F16 { "f16" } else { "f32" };
    let rows = e.outputs.div_ceil(tile_m) * tile_m;
    let pack = e
        .taps(Kernel::new(operands, SOURCE, "pack_tiled").groupable(), Values::Loaded)
        .constant("TAP_OUTER", tile.tap_outer(e.channels))
        .constant("TERMS_TOGETHER", T::TERMS_TOGETHER)
        .geometries([("rows", e.outputs), ("depth", e.channels), ("padded_k", padded_k)])
        .geometries([("tile_m", tile_m), ("step_depth", depth)])
        .bind("weight", Slot::Input(1))
        .bind_as("panel", Slot::Scratch(0), element)
        .workgroup(256, 1, 1)
        .groups(rows / SQUARE, padded_k.div_ceil(SQUARE), 1);
    view.pack(pack, product.transposed, Values::Loaded)
}

/// The second pass of split-K: sums the `parts` in scratch 1 and applies the epilogue.
fn finish_product(operands: &Operands<'_>, product: &Product<'_>, view: &View, parts: usize) -> Kernel {
    let (result, e) = (product.result, &view.extents);
    let plane = e.out[0] * e.out[1];
    let (m, pixels) = (e.outputs, e.batch * plane);
    let moved = Traffic {
        loaded: (4 * m * pixels * parts) as u64,
        stored: (bytes(result) * result.volume()) as u64,
        register: [1, 1],
        parts: 1,
        ..Traffic::default()
    };
    let kernel = Kernel::new(operands, SOURCE, "finish_product")
        .groupable()
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
    product.epilogue.apply(view.scatter(kernel, Values::Loaded).bind("result", Slot::Output(0)), "f32")
}
