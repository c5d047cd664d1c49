// Convolution as tiled implicit GEMM for GPUs. A workgroup computes TILE_M x TILE_N results in K
// steps of DEPTH, from double-buffered tiles in workgroup memory: the next pair of tiles is loaded
// while the current one is multiplied (PREFETCH). Without PREFETCH each vector is stored as soon as
// it is loaded, before the multiplication: loads then wait in no registers, of which the compilers
// of some GPUs have too few. An invocation holds EACH_M x EACH_N results in registers.
//
// Tiles contain vectors of four rows or columns, so workgroup memory is accessed four words at a
// time. The four pixels of a vector are adjacent if the source can be loaded as vectors (VECTOR),
// otherwise TILE_N / 4 apart, so that adjacent invocations load adjacent words. Weights are packed
// by pack_tiled first, so that their loads are vectors without bounds checks for any shape.
//
// Forward and input gradient are the same product, as in conv_lanes.wgsl. K is tap-major
// (TAP_OUTER), so that the window is located only once per tap; for inputs of few channels K is a
// single index instead.
//
// Constants: PAD; TILE_M, TILE_N, DEPTH, PREFETCH, UNROLL, EACH_M, EACH_N, VECTORS_M, VECTORS_N
// (EACH / 4), LEFT_LOADS, RIGHT_LOADS (vectors that an invocation loads per pair of tiles);
// TAP_OUTER, VECTOR, STORE_VECTOR, SPLIT, FOLD, BIAS, NORM, RELU, ACCUMULATE, MASK; TRANSPOSED,
// SUBPIXEL as in conv_lanes.wgsl. The extents of windows are geometry, so that layers share
// pipelines: kernel_h, kernel_w, taps (their product), stride_h, stride_w; with SUBPIXEL phases_h,
// phases_w; to pack weights first_h, first_w, weight_h, weight_w; without PREFETCH step_depth,
// which is DEPTH.

#include "conv_implicit.wgsl"

//# product_tiled weight_gradient_tiled
const DOWN = TILE_M / EACH_M;
const ACROSS = TILE_N / EACH_N;

fn bit(lane: u32, number: u32) -> u32 {
    return (lane >> number) & 1u;
}

// An invocation's row and column in the DOWN x ACROSS tile. 32 consecutive invocations form a 4 x 8
// block, the shape that reads the fewest words of workgroup memory together. Lanes n and n ^ 2 read
// the same rows, lanes n and n ^ 1 the same columns: NVIDIA's GPUs then load 16 bytes of workgroup
// memory in half the passes, for both operands.
fn place_of(local: u32) -> vec2<u32> {
    let block = local / 32u;
    let lane = local % 32u;
    let down = bit(lane, 0u) + 2u * bit(lane, 3u);
    let across = bit(lane, 1u) + 2u * bit(lane, 2u) + 4u * bit(lane, 4u);
    return vec2(block / (ACROSS / 8u) * 4u + down, block % (ACROSS / 8u) * 8u + across);
}

//# product_tiled
const LEFT_SIZE = DEPTH * TILE_M / 4u;
const RIGHT_SIZE = DEPTH * TILE_N / 4u;
const RIGHT_ROW = TILE_N / 4u;
var<workgroup> left_tile: array<vec4<f32>, 2u * LEFT_SIZE>;
var<workgroup> right_tile: array<vec4<f32>, 2u * RIGHT_SIZE>;

// Pixel of component e of vector v of a tile.
fn pixel_of(first: u32, v: u32, e: u32) -> u32 {
#if VECTOR
    return first + v * 4u + e;
#else
    return first + v + e * RIGHT_ROW;
#endif
}

// p: batch, rows, depth, height, width (of the source), out_height, out_width, pad_h, pad_w,
// source_offset, source_stride, result_offset, result_stride, steps (K steps of DEPTH), chunk
// (steps per part), in_a_row (columns of tiles in a row of the grid).
@compute @workgroup_size(WORKGROUP_X)
fn product_tiled(@builtin(workgroup_id) place_in_grid: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = tile_of(place_in_grid);
    let pixels = p.batch * p.out_height * p.out_width;
    let plane = p.height * p.width;
    let first_n = group.y * TILE_N;
    let first_step = group.z * p.chunk;
    let last_step = min(first_step + p.chunk, p.steps);
    let place = place_of(local);
    let down = place.x;
    let across = place.y;
    // An invocation always loads the same four pixels; every RIGHT_ROW-th invocation has another
    // channel.
    let load_v = local % RIGHT_ROW;
    let load_k = local / RIGHT_ROW;
#repeat e 4
    let window{e} = window_of(pixel_of(first_n, load_v, {e}u));
#end
#if TAP_OUTER
    let steps_of_tap = p.steps / p.taps;
    var t = first_step / steps_of_tap;
    var c = (first_step - t * steps_of_tap) * DEPTH;
#repeat e 4
    var tap{e} = tap_of(window{e}, t / p.kernel_w, t % p.kernel_w);
#end
#endif
    var panel_at = (group.x * p.steps + first_step) * LEFT_SIZE + local;
#repeat i LEFT_LOADS
    var left{i} = panel[panel_at + {i}u * WORKGROUP];
#end
#repeat i RIGHT_LOADS
    var right{i} = vec4<f32>(0.0);
#end
#include "tile_sums.wgsl"
    var left_at = 0u;
    var right_at = 0u;
    for (var step = first_step; step <= last_step; step++) {
        let left_next = LEFT_SIZE - left_at;
        let right_next = RIGHT_SIZE - right_at;
        // Load the pair of tiles of this step while that of the previous step is multiplied.
        if step < last_step {
#repeat i LEFT_LOADS
            left{i} = panel[panel_at + {i}u * WORKGROUP];
#if !PREFETCH
            left_tile[left_next + local + {i}u * WORKGROUP] = left{i};
#endif
#end
            panel_at += LEFT_SIZE;
#repeat i RIGHT_LOADS
            {
                let k = load_k + {i}u * (WORKGROUP / RIGHT_ROW);
#if TAP_OUTER
                // Channels past the last have zero weights.
                let channel = min(c + k, p.depth - 1u) * plane;
#if VECTOR
                right{i} = vec4<f32>(source[(tap0.at + channel) / 4u]);
#else
#repeat e 4
                right{i}[{e}u] = select(0.0, f32(source[tap{e}.at + channel]), tap{e}.inside);
#end
#endif
#else
                let index = step * DEPTH + k;
                let channel = min(index / p.taps, p.depth - 1u);
                let t = index % p.taps;
#repeat e 4
                {
                    let tap = tap_of(window{e}, t / p.kernel_w, t % p.kernel_w);
                    right{i}[{e}u] = select(0.0, f32(source[tap.at + channel * plane]), tap.inside);
                }
#end
#endif
#if !PREFETCH
                right_tile[right_next + local + {i}u * WORKGROUP] = right{i};
#endif
            }
#end
#if TAP_OUTER
            c += DEPTH;
            if c >= p.depth {
                c = 0u;
                t += 1u;
#repeat e 4
                tap{e} = tap_of(window{e}, t / p.kernel_w, t % p.kernel_w);
#end
            }
#endif
        }
        if step > first_step {
#include "tile_step.wgsl" left_row = (TILE_M / 4u)
        }
        left_at = left_next;
        right_at = right_next;
#if PREFETCH
        if step < last_step {
#repeat i LEFT_LOADS
            left_tile[left_at + local + {i}u * WORKGROUP] = left{i};
#end
#repeat i RIGHT_LOADS
            right_tile[right_at + local + {i}u * WORKGROUP] = right{i};
#end
        }
#endif
        workgroupBarrier();
    }
#if SPLIT
    let first_row = group.z * p.rows;
#else
    let first_row = 0u;
#endif
#if STORE_VECTOR
    let plane_out = p.out_height * p.out_width;
#repeat j VECTORS_N
    {
        let pixel = first_n + ({j}u * ACROSS + across) * 4u;
        if pixel < pixels {
#repeat h VECTORS_M
#repeat r 4
            {
                let row = group.x * TILE_M + ({h}u * DOWN + down) * 4u + {r}u;
                if row < p.rows { finish(sum{h}_{r}_{j}, row, pixel, plane_out); }
            }
#end
#end
        }
    }
#end
#else
#repeat j VECTORS_N
#repeat e 4
    {
        let pixel = pixel_of(first_n, {j}u * ACROSS + across, {e}u);
        if pixel < pixels {
#repeat h VECTORS_M
#repeat r 4
            {
                let row = group.x * TILE_M + ({h}u * DOWN + down) * 4u + {r}u;
                if row < p.rows { put(sum{h}_{r}_{j}[{e}u], first_row + row, pixel); }
            }
#end
#end
        }
    }
#end
#end
#endif
}

// dw[o, column] = sum over pixels of dy[o, pixel] x[column's c, pixel shifted]; column = (c, kh,
// kw). Split-K over pixels, one part per group.z; sum_parts adds them in order. Adjacent
// invocations load adjacent pixels; rows of the tiles are padded by one vector to avoid bank
// conflicts. With VECTOR, planes of dy are whole vectors: LEFT_BLOCKS invocations load four pixels
// of four channels each and transpose them. p: batch, channels, height, width, outputs, out_height,
// out_width, pad_h, pad_w, x_offset, x_stride, y_offset, y_stride, chunk (pixels per part).
//# weight_gradient_tiled
const LEFT_ROW = TILE_M / 4u + 1u;
const LEFT_BLOCKS = DEPTH / 4u * (TILE_M / 4u);
const RIGHT_ROW = TILE_N / 4u + 1u;
const LEFT_SIZE = DEPTH * LEFT_ROW;
const RIGHT_SIZE = DEPTH * RIGHT_ROW;
var<workgroup> left_tile: array<vec4<f32>, 2u * LEFT_SIZE>;
var<workgroup> right_tile: array<vec4<f32>, 2u * RIGHT_SIZE>;

// A column's channel and tap, as an offset from the corner of a window, and the tap in one word:
// there are four columns of each load in registers if TAP_OUTER is not set.
struct Column {
    at: u32,
    tap: u32,
}

fn tap_y(column: Column) -> i32 {
    return i32(column.tap >> 16u);
}

fn tap_x(column: Column) -> i32 {
    return i32(column.tap & 0xffffu);
}

fn column_of(r: u32) -> Column {
#if TAP_OUTER
    let column = result_column(min(r, p.channels * p.taps - 4u));
#else
    let column = min(r, p.channels * p.taps - 1u);
#endif
    let c = column / p.taps;
    let t = column - c * p.taps;
    let y = t / p.kernel_w;
    let x = t - y * p.kernel_w;
    return Column((c * p.height + y) * p.width + x, y << 16u | x);
}

@compute @workgroup_size(WORKGROUP_X)
fn weight_gradient_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let plane = p.out_height * p.out_width;
    let columns = p.channels * p.taps;
    let first_m = group.x * TILE_M;
    let first_n = group.y * TILE_N;
    let first_q = group.z * p.chunk;
    let last_q = min(first_q + p.chunk, p.batch * plane);
    let place = place_of(local);
    let down = place.x;
    let across = place.y;
    let load_k = local % DEPTH;
    let load_v = local / DEPTH;
#if VECTOR
    let block_k = local % (DEPTH / 4u) * 4u;
    let block_v = local / (DEPTH / 4u) % (TILE_M / 4u);
    let loads_block = local < LEFT_BLOCKS;
#repeat e 4
    let row{e} = min(first_m + block_v * 4u + {e}u, p.outputs - 1u) * plane;
    var block{e} = vec4<f32>(0.0);
#end
#else
#repeat i LEFT_LOADS
#repeat e 4
    let row{i}_{e} = min(first_m + (load_v + {i}u * (WORKGROUP / DEPTH)) * 4u + {e}u, p.outputs - 1u) * plane;
#end
    var left{i} = vec4<f32>(0.0);
#end
#endif
#repeat i RIGHT_LOADS
#if TAP_OUTER
    let column{i} = column_of(first_n + (load_v + {i}u * (WORKGROUP / DEPTH)) * 4u);
#else
#repeat e 4
    let column{i}_{e} = column_of(first_n + (load_v + {i}u * (WORKGROUP / DEPTH)) * 4u + {e}u);
#end
#endif
    var right{i} = vec4<f32>(0.0);
#end
#include "tile_sums.wgsl"
    var left_at = 0u;
    var right_at = 0u;
    for (var start = first_q; start < last_q + DEPTH; start += DEPTH) {
        let left_next = LEFT_SIZE - left_at;
        let right_next = RIGHT_SIZE - right_at;
        if start < last_q {
            // Pixels past the end of the part contribute nothing: their dy is zero.
#if !VECTOR
            let counts = start + load_k < last_q;
#endif
            let q = min(start + load_k, last_q - 1u);
            let n = q / plane;
            let rest = q - n * plane;
            let y = rest / p.out_width;
            let top = i32(y * p.stride_h) - i32(p.pad_h);
            let side = i32((rest - y * p.out_width) * p.stride_w) - i32(p.pad_w);
#if !VECTOR
            let dy_at = p.y_offset + n * p.y_stride + rest;
#endif
            let x_at = p.x_offset + n * p.x_stride;
#if VECTOR
            if loads_block {
                // Parts are multiples of a vector.
                let block_counts = start + block_k < last_q;
                let block_q = min(start + block_k, last_q - 4u);
                let block_n = block_q / plane;
                let block_at = p.y_offset + block_n * p.y_stride + block_q - block_n * plane;
#repeat e 4
                block{e} = select(vec4<f32>(0.0), vec4<f32>(dy_data[(block_at + row{e}) / 4u]), block_counts);
#end
#if !PREFETCH
#include "transposed_block.wgsl" at = left_next
#endif
            }
#else
#repeat i LEFT_LOADS
#repeat e 4
            left{i}[{e}u] = select(0.0, f32(dy_data[dy_at + row{i}_{e}]), counts);
#end
#if !PREFETCH
            left_tile[left_next + load_k * LEFT_ROW + load_v + {i}u * (WORKGROUP / DEPTH)] = left{i};
#endif
#end
#endif
            let corner = x_at + u32(top) * p.width + u32(side);
#if TAP_OUTER
#repeat i RIGHT_LOADS
            {
#if PAD
                let inside = (u32(top + tap_y(column{i})) < p.height) & (u32(side + tap_x(column{i})) < p.width);
                // Where the tap is outside, the last of the four planes is still inside.
                let at = select(x_at, corner + column{i}.at, inside);
#repeat e 4
                right{i}[{e}u] = select(0.0, f32(x_data[at + {e}u * p.height * p.width]), inside);
#end
#else
                let at = corner + column{i}.at;
#repeat e 4
                right{i}[{e}u] = f32(x_data[at + {e}u * p.height * p.width]);
#end
#endif
#if !PREFETCH
                right_tile[right_next + load_k * RIGHT_ROW + load_v + {i}u * (WORKGROUP / DEPTH)] = right{i};
#endif
            }
#end
#else
#repeat i RIGHT_LOADS
#repeat e 4
            {
                let at = corner + column{i}_{e}.at;
#if PAD
                let y = top + tap_y(column{i}_{e});
                let x = side + tap_x(column{i}_{e});
                let inside = (u32(y) < p.height) & (u32(x) < p.width);
                right{i}[{e}u] = select(0.0, f32(x_data[select(x_at, at, inside)]), inside);
#else
                right{i}[{e}u] = f32(x_data[at]);
#endif
            }
#end
#if !PREFETCH
            right_tile[right_next + load_k * RIGHT_ROW + load_v + {i}u * (WORKGROUP / DEPTH)] = right{i};
#endif
#end
#endif
        }
        if start > first_q {
#include "tile_step.wgsl" left_row = LEFT_ROW
        }
        left_at = left_next;
        right_at = right_next;
#if PREFETCH
        if start < last_q {
#if VECTOR
            if loads_block {
#include "transposed_block.wgsl" at = left_at
            }
#else
#repeat i LEFT_LOADS
            left_tile[left_at + load_k * LEFT_ROW + load_v + {i}u * (WORKGROUP / DEPTH)] = left{i};
#end
#endif
#repeat i RIGHT_LOADS
            right_tile[right_at + load_k * RIGHT_ROW + load_v + {i}u * (WORKGROUP / DEPTH)] = right{i};
#end
        }
#endif
        workgroupBarrier();
    }
#repeat j VECTORS_N
#repeat e 4
    {
        let r = first_n + ({j}u * ACROSS + across) * 4u + {e}u;
        if r < columns {
            let column = group.z * p.outputs * columns + result_column(r);
#repeat h VECTORS_M
#repeat r 4
            {
                let o = first_m + ({h}u * DOWN + down) * 4u + {r}u;
                if o < p.outputs { partial[column + o * columns] = sum{h}_{r}_{j}[{e}u]; }
            }
#end
#end
        }
    }
#end
#end
}
