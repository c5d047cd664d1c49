// Shared by the families for GPUs, conv_tiled.wgsl, conv_cooperative.wgsl and conv_winograd.wgsl:
// weight packing, addressing of taps, the epilogue of a product, and the second pass of split-K.

// Packs weights as [tile of rows][k][row in the tile], or with TERMS_TOGETHER as [tile of rows][K
// step][row in the tile][k in the step], padded with zeros; k is (tap, channel) with channels
// padded to whole steps, or (channel, tap). p: rows, depth (input channels), padded_k, tile_m,
// step_depth.
//# pack_tiled
const SQUARE = 32u;
#if !TERMS_TOGETHER
var<workgroup> square: array<f32, SQUARE * (SQUARE + 1u)>;
#endif

// The weight of a row and an index in K.
fn packed(row: u32, index: u32) -> f32 {
#if TAP_OUTER
    let padded = p.padded_k / p.taps;
    let t = index / padded;
    let c = index - t * padded;
#else
    let c = index / p.taps;
    let t = index - c * p.taps;
#endif
#if TRANSPOSED
#include "phase.wgsl" down = p.phases_h; across = p.phases_w
    let tap_y = p.first_h + phase / p.phases_w - t / p.kernel_w * p.phases_h;
    let tap_x = p.first_w + phase % p.phases_w - t % p.kernel_w * p.phases_w;
    let inside = (row < p.rows) & (c < p.depth) & (tap_y < p.weight_h) & (tap_x < p.weight_w);
    let at = ((c * channels + row - phase * channels) * p.weight_h + tap_y) * p.weight_w + tap_x;
#else
    let inside = (row < p.rows) & (c < p.depth);
    let at = (row * p.depth + c) * p.taps + t;
#endif
    return select(0.0, weight[select(0u, at, inside)], inside);
}

// Loads are along K of a row, stores along the rows of an index in K, unless terms are together.
@compute @workgroup_size(WORKGROUP_X)
fn pack_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = local % SQUARE;
#if TERMS_TOGETHER
    let index = group.y * SQUARE + lane;
    if index >= p.padded_k { return; }
    let step = index / p.step_depth;
    for (var i = local / SQUARE; i < SQUARE; i += WORKGROUP / SQUARE) {
        let row = group.x * SQUARE + i;
        let line = (row / p.tile_m * (p.padded_k / p.step_depth) + step) * p.tile_m + row % p.tile_m;
        panel[line * p.step_depth + index % p.step_depth] = panel_element(packed(row, index));
    }
#else
    for (var i = local / SQUARE; i < SQUARE; i += WORKGROUP / SQUARE) {
        square[i * (SQUARE + 1u) + lane] = packed(group.x * SQUARE + i, group.y * SQUARE + lane);
    }
    workgroupBarrier();
    for (var i = local / SQUARE; i < SQUARE; i += WORKGROUP / SQUARE) {
        let index = group.y * SQUARE + i;
        let row = group.x * SQUARE + lane;
        if index < p.padded_k {
            panel[(row / p.tile_m * p.padded_k + index) * p.tile_m + row % p.tile_m] = panel_element(square[lane * (SQUARE + 1u) + i]);
        }
    }
#endif
}

//# product_tiled weight_gradient_tiled product_cooperative weight_gradient_cooperative

// Applies the epilogue and stores the result of a pixel, with `plane` pixels per item. With
// STORE_VECTOR, results of four adjacent pixels.
//# product_tiled product_cooperative product_winograd finish_product
#if !SPLIT
#if STORE_VECTOR
alias Value = vec4<f32>;
const WIDE = 4u;
#else
alias Value = f32;
const WIDE = 1u;
#endif
fn finish(value: Value, row: u32, pixel: u32, plane: u32) {
    let n = pixel / plane;
    let rest = pixel - n * plane;
#if SUBPIXEL
    let channels = p.rows / (p.phases_h * p.phases_w);
    let phase = row / channels;
    let window_y = rest / p.out_width;
    let y = window_y * p.phases_h + phase / p.phases_w;
    let x = (rest - window_y * p.out_width) * p.phases_w + phase % p.phases_w;
    // The last windows have sub-pixel phases past the input.
    if y >= p.result_height || x >= p.result_width { return; }
    let inner = ((row - phase * channels) * p.result_height + y) * p.result_width + x;
#else
    let inner = row * plane + rest;
#endif
    let at = (p.result_offset + n * p.result_stride + inner) / WIDE;
    var total = value;
#include "epilogue.wgsl" value = total; row = row; zero = Value(0.0)
#if ACCUMULATE
    total += Value(result[at]);
#endif
#if MASK
    total = select(Value(0.0), total, Value(mask[(p.mask_offset + n * p.mask_stride + inner) / WIDE]) > Value(0.0));
#endif
    result[at] = result_element(total);
}
#endif

//# product_tiled product_cooperative
// A workgroup's row and column of tiles, and its split-K part. With FOLD, a grid too long for one
// dimension continues in the third; its last columns may be past the end.
fn tile_of(group: vec3<u32>) -> vec3<u32> {
#if FOLD
    return vec3(group.x, group.y + group.z * p.in_a_row, 0u);
#else
    return group;
#endif
}

// Index of a pixel in channel 0 of its item, and the coordinates of its window.
struct Window {
    base: u32,
    y: i32,
    x: i32,
}

fn window_of(pixel: u32) -> Window {
    let plane = p.out_height * p.out_width;
    let q = min(pixel, p.batch * plane - 1u);
    let n = q / plane;
    let rest = q - n * plane;
    let y = rest / p.out_width;
    let x = rest - y * p.out_width;
    return Window(p.source_offset + n * p.source_stride, i32(y * p.stride_h) - i32(p.pad_h), i32(x * p.stride_w) - i32(p.pad_w));
}

// Index of a window's tap in channel 0; an arbitrary index and false if it is outside.
struct Tap {
    at: u32,
    inside: bool,
}

fn tap_of(window: Window, kh: u32, kw: u32) -> Tap {
    let y = window.y + i32(kh);
    let x = window.x + i32(kw);
    let at = window.base + u32(y) * p.width + u32(x);
#if PAD
    let inside = (u32(y) < p.height) & (u32(x) < p.width);
    return Tap(select(window.base, at, inside), inside);
#else
    return Tap(at, true);
#endif
}

#if !STORE_VECTOR
fn put(value: f32, row: u32, pixel: u32) {
#if SPLIT
    let pixels = p.batch * p.out_height * p.out_width;
    partial[row * pixels + pixel] = value;
#else
    finish(value, row, pixel, p.out_height * p.out_width);
#endif
}
#endif

// Second pass of split-K: sums the parts in order, then applies the epilogue. p: rows, pixels,
// plane, out_width, parts, result_offset, result_stride.
//# finish_product
@compute @workgroup_size(WORKGROUP_X)
fn finish_product(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    let count = p.rows * p.pixels;
    if i >= count { return; }
    let row = i / p.pixels;
    let pixel = i - row * p.pixels;
    var total = 0.0;
    for (var part = 0u; part < p.parts; part++) { total += partial[part * count + i]; }
    finish(total, row, pixel, p.plane);
}

//# weight_gradient_tiled weight_gradient_cooperative
// Result column of tile column r: with TAP_OUTER, tile columns are tap-major, so that the four
// columns of a vector share a tap.
fn result_column(r: u32) -> u32 {
#if TAP_OUTER
    let t = r / p.channels;
    return (r - t * p.channels) * p.taps + t;
#else
    return r;
#endif
}
