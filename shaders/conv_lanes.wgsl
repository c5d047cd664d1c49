// Convolution for CPU drivers that run a subgroup as a SIMD vector: a load costs as much as dozens
// of multiply-adds, whether its lanes share an address or not, and barriers cost more. So workgroup
// memory is not used. Each lane loads different weights, four at a time, and broadcasts them to the
// others; a lane holds TILE_M channels of four adjacent pixels.
//
// Forward and input gradient are the same product: the input gradient is a convolution of dy with
// the rotated weight, which pack_lanes rotates. With strides it has rows for each sub-pixel phase
// with the taps of that phase, and SUBPIXEL scatters the sub-pixel phases to their pixels. Pixels
// are processed in groups of four in one row of the result.
//
// Constants: KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PAD, TRANSPOSED, SUBPIXEL; PHASES_H, PHASES_W,
// FIRST_H, FIRST_W (the weight's tap for phase 0 at the first tap here), WEIGHT_H, WEIGHT_W;
// TILE_M; STEP_C (channels per step), LOADS (weight vectors per step), STEP_K (STEP_C KERNEL_W: K
// per step), COLUMNS (3 STRIDE_W + KERNEL_W: source columns of four pixels); VECTOR (rows are whole
// vectors of four, with SIDE columns on each side), BIAS, NORM, RELU, ACCUMULATE, MASK.

// Packs weights in the order in which lanes load them: tiles of TILE_M rows, steps of STEP_C
// channels and one kernel row, then (channel, column, row) padded with zeros to LOADS vectors per
// lane. A workgroup packs EACH steps. p: rows, depth (input channels), steps.
//# pack_lanes
@compute @workgroup_size(WORKGROUP_X)
fn pack_lanes(
#include "invocation.wgsl"
) {
    let f = group.x * WORKGROUP + local;
    let k = f / TILE_M;
    let row = group.z * TILE_M + f % TILE_M;
    let kw = k % KERNEL_W;
    let last = min((group.y + 1u) * EACH, p.steps);
    for (var step = group.y * EACH; step < last; step++) {
        let c = step / KERNEL_H * STEP_C + k / KERNEL_W;
        let kh = step % KERNEL_H;
#if TRANSPOSED
#include "phase.wgsl" down = PHASES_H; across = PHASES_W
        let tap_y = FIRST_H + phase / PHASES_W - kh * PHASES_H;
        let tap_x = FIRST_W + phase % PHASES_W - kw * PHASES_W;
        let inside = (k < STEP_C * KERNEL_W) & (c < p.depth) & (row < p.rows) & (tap_y < WEIGHT_H) & (tap_x < WEIGHT_W);
        let at = ((c * channels + row - phase * channels) * WEIGHT_H + tap_y) * WEIGHT_W + tap_x;
#else
        let inside = (k < STEP_C * KERNEL_W) & (c < p.depth) & (row < p.rows);
        let at = ((row * p.depth + c) * KERNEL_H + kh) * KERNEL_W + kw;
#endif
        let value = select(0.0, weight[select(0u, at, inside)], inside);
        panel[(group.z * p.steps + step) * groups.x * WORKGROUP + f] = value;
    }
}

// p: batch, rows, depth, height, width (of the source), out_height, out_width, row_groups (groups
// per row), pad_h, pad_w, source_offset, source_stride, result_offset, result_stride; with SUBPIXEL
// result_height, result_width; with MASK mask_offset, mask_stride; epsilon with NORM.
//# product_lanes
fn load(at: u32) -> f32 {
#if VECTOR
    return f32(source[at / 4u][at % 4u]);
#else
    return f32(source[at]);
#endif
}

@compute @workgroup_size(WORKGROUP_X)
fn product_lanes(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let total = p.batch * p.out_height * p.row_groups;
    let index = group.x * WORKGROUP + local;
    // Lanes without pixels participate, because broadcasts need every lane.
    let pixels = min(index, total - 1u);
    let line = pixels / p.row_groups;
    let x = (pixels - line * p.row_groups) * 4u;
    let n = line / p.out_height;
    let y = line - n * p.out_height;
    let first_y = i32(y * STRIDE_H) - i32(p.pad_h);
    let first_x = i32(x * STRIDE_W) - i32(p.pad_w);
    let base = p.source_offset + n * p.source_stride;
    let plane = p.height * p.width;
#if VECTOR
#repeat t SIDE
    let left{t} = u32(max(first_x + {t}, 0));
    let left_inside{t} = first_x + {t} >= 0;
    let right{t} = min(u32(first_x) + SIDE + 4u + {t}u, p.width - 1u);
    let right_inside{t} = u32(first_x) + SIDE + 4u + {t}u < p.width;
#end
#else
#repeat t COLUMNS
    let column{t} = u32(clamp(first_x + {t}, 0, i32(p.width) - 1));
    let column_inside{t} = u32(first_x + {t}) < p.width;
#end
#endif
#repeat m TILE_M
    var sum{m} = vec4<f32>(0.0);
#end
    var weights: array<vec4<f32>, LOADS>;
    var seen: array<f32, COLUMNS>;
    var four: array<vec4<f32>, STEP_K>;
    var next = group.y * ((p.depth + STEP_C - 1u) / STEP_C * KERNEL_H * LOADS * WORKGROUP) + local;
    for (var c = 0u; c < p.depth; c += STEP_C) {
        for (var kh = 0u; kh < KERNEL_H; kh++) {
#repeat l LOADS
            weights[{l}u] = panel[next + {l}u * WORKGROUP];
#end
            next += LOADS * WORKGROUP;
#if PAD
            let row_inside = u32(first_y + i32(kh)) < p.height;
            let row = base + u32(clamp(first_y + i32(kh), 0, i32(p.height) - 1)) * p.width;
#else
            let row = base + u32(first_y + i32(kh)) * p.width;
#endif
#repeat s STEP_C
            {
                // Channels past the last have zero weights.
                let at = row + min(c + {s}u, p.depth - 1u) * plane;
#if VECTOR
                var middle = vec4<f32>(source[(at + x) / 4u]);
#if PAD
                middle = select(vec4<f32>(0.0), middle, row_inside);
#endif
#repeat t SIDE
                seen[{t}u] = select(0.0, load(at + left{t}), row_inside & left_inside{t});
                seen[SIDE + 4u + {t}u] = select(0.0, load(at + right{t}), row_inside & right_inside{t});
#end
                seen[SIDE] = middle.x;
                seen[SIDE + 1u] = middle.y;
                seen[SIDE + 2u] = middle.z;
                seen[SIDE + 3u] = middle.w;
#else
#repeat t COLUMNS
#if PAD
                seen[{t}u] = select(0.0, load(at + column{t}), row_inside & column_inside{t});
#else
                seen[{t}u] = load(at + column{t});
#endif
#end
#endif
#repeat k KERNEL_W
#include "four_pixels.wgsl" line = {s}
#end
            }
#end
            // K is the inner loop, because there are more sums than registers.
#repeat m TILE_M
#repeat k STEP_K
            sum{m} += four[{k}u] * subgroupBroadcast(
                weights[({k}u * TILE_M + {m}u) / (4u * WORKGROUP)][({k}u * TILE_M + {m}u) % 4u],
                ({k}u * TILE_M + {m}u) / 4u % WORKGROUP,
            );
#end
#end
        }
    }
    if index >= total { return; }
    let result_item = p.result_offset + n * p.result_stride;
#if MASK
    let mask_item = p.mask_offset + n * p.mask_stride;
#endif
#repeat m TILE_M
    {
        let o = group.y * TILE_M + {m}u;
        if o < p.rows {
            var value = sum{m};
#include "epilogue.wgsl" value = value; row = o; zero = vec4<f32>(0.0)
#if VECTOR
            let inner = (o * p.out_height + y) * p.out_width + x;
            let at = result_item + inner;
#if ACCUMULATE
            value += vec4<f32>(result[at / 4u]);
#endif
#if MASK
            let above = vec4<f32>(mask[(mask_item + inner) / 4u]) > vec4<f32>(0.0);
            value = select(vec4<f32>(0.0), value, above);
#endif
            result[at / 4u] = result_element(value);
#else
#if SUBPIXEL
            let channels = p.rows / (PHASES_H * PHASES_W);
            let phase = o / channels;
            let result_y = y * PHASES_H + phase / PHASES_W;
            let first = ((o - phase * channels) * p.result_height + result_y) * p.result_width + phase % PHASES_W;
#endif
            for (var j = 0u; j < min(4u, p.out_width - x); j++) {
#if SUBPIXEL
                let inner = first + (x + j) * PHASES_W;
                // The last windows have sub-pixel phases past the input.
                let counts = (result_y < p.result_height) & ((x + j) * PHASES_W + phase % PHASES_W < p.result_width);
#else
                let inner = (o * p.out_height + y) * p.out_width + x + j;
                let counts = true;
#endif
                if counts {
                    let at = result_item + inner;
                    var one = value[j];
#if ACCUMULATE
                    one += f32(result[at]);
#endif
#if MASK
                    one = select(0.0, one, f32(mask[mask_item + inner]) > 0.0);
#endif
                    result[at] = result_element(one);
                }
            }
#endif
        }
    }
#end
}

// A lane holds TILE_M outputs of BLOCKS columns (c, kh, kw) of the weight, and loads dy of one
// output of eight, four pixels of a row at a time. With CHANNELS, lanes are channels and a
// workgroup has one kernel row, so a pixel is used for all its KERNEL_W columns. Without, for
// inputs of few channels, lanes are consecutive columns. Split-K parts are lines (rows of all
// items) of dy; sum_parts adds them in order. GROUPS is the number of channels per lane, TILE_ROWS
// is TILE_M / 8, COLUMNS and SIDE as above. p: batch, channels, height, width, outputs, out_height,
// out_width, pad_h, pad_w, x_offset, x_stride, y_offset, y_stride, chunk.
//# weight_gradient_lanes
const TAPS = KERNEL_H * KERNEL_W;
const SUMS = TILE_M * BLOCKS;

fn load(at: u32) -> f32 {
#if VECTOR_X
    return f32(x_data[at / 4u][at % 4u]);
#else
    return f32(x_data[at]);
#endif
}

@compute @workgroup_size(WORKGROUP_X)
fn weight_gradient_lanes(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let columns = p.channels * TAPS;
    let plane = p.out_height * p.out_width;
    let first_line = group.z * p.chunk;
    let last_line = min(first_line + p.chunk, p.batch * p.out_height);
#if CHANNELS
    let kh = group.x % KERNEL_H;
#repeat g GROUPS
    let c{g} = (group.x / KERNEL_H * GROUPS + {g}u) * WORKGROUP + local;
    let channel{g} = min(c{g}, p.channels - 1u) * p.height;
    let down{g} = i32(kh) - i32(p.pad_h);
#end
#else
#repeat g GROUPS
    let c{g} = (group.x * GROUPS + {g}u) * WORKGROUP + local;
    let channel{g} = min(c{g}, columns - 1u) / TAPS * p.height;
    let down{g} = i32(min(c{g}, columns - 1u) % TAPS / KERNEL_W) - i32(p.pad_h);
    let right{g} = i32(min(c{g}, columns - 1u) % KERNEL_W) - i32(p.pad_w);
#end
#endif
#repeat i TILE_ROWS
    let output{i} = min(group.y * TILE_M + {i}u * WORKGROUP + local, p.outputs - 1u) * plane;
#end
    var sum: array<f32, SUMS>;
    var dy: array<vec4<f32>, TILE_ROWS>;
    var seen: array<f32, COLUMNS>;
    var four: array<vec4<f32>, BLOCKS>;
    var n = first_line / p.out_height;
    var y = first_line - n * p.out_height;
    for (var line = first_line; line < last_line; line++) {
        let dy_row = p.y_offset + n * p.y_stride + y * p.out_width;
        let x_item = p.x_offset + n * p.x_stride;
#repeat g GROUPS
        let y{g} = i32(y * STRIDE_H) + down{g};
        let row{g} = x_item + (channel{g} + u32(clamp(y{g}, 0, i32(p.height) - 1))) * p.width;
        let inside{g} = u32(y{g}) < p.height;
#end
        for (var x = 0u; x < p.out_width; x += 4u) {
#repeat i TILE_ROWS
#if VECTOR
            dy[{i}u] = vec4<f32>(dy_data[(dy_row + output{i} + x) / 4u]);
#else
            // Elements past the end of the row contribute nothing.
            let at{i} = dy_row + output{i} + x;
            dy[{i}u] = vec4<f32>(
                f32(dy_data[at{i}]),
                select(0.0, f32(dy_data[at{i} + min(1u, p.out_width - 1u - x)]), x + 1u < p.out_width),
                select(0.0, f32(dy_data[at{i} + min(2u, p.out_width - 1u - x)]), x + 2u < p.out_width),
                select(0.0, f32(dy_data[at{i} + min(3u, p.out_width - 1u - x)]), x + 3u < p.out_width),
            );
#endif
#end
            let first_x = i32(x * STRIDE_W) - i32(p.pad_w);
#repeat g GROUPS
#if CHANNELS
#if VECTOR_X
            {
                let middle = vec4<f32>(x_data[(row{g} + x) / 4u]);
                seen[SIDE] = middle.x;
                seen[SIDE + 1u] = middle.y;
                seen[SIDE + 2u] = middle.z;
                seen[SIDE + 3u] = middle.w;
            }
#repeat t SIDE
            {
                let left = first_x + {t};
                let right = x + 4u + {t}u;
                seen[{t}u] = select(0.0, load(row{g} + u32(max(left, 0))), left >= 0);
                seen[SIDE + 4u + {t}u] = select(0.0, load(row{g} + min(right, p.width - 1u)), right < p.width);
            }
#end
#else
#repeat t COLUMNS
            {
                let column = first_x + {t};
                let value = load(row{g} + u32(clamp(column, 0, i32(p.width) - 1)));
#if PAD
                seen[{t}u] = select(0.0, value, u32(column) < p.width);
#else
                seen[{t}u] = value;
#endif
            }
#end
#endif
#repeat k KERNEL_W
#include "four_pixels.wgsl" line = {g}
#if PAD
            four[{g}u * KERNEL_W + {k}u] = select(vec4<f32>(0.0), four[{g}u * KERNEL_W + {k}u], inside{g});
#endif
#end
#else
#repeat j 4
            {
                let column = i32((x + {j}u) * STRIDE_W) + right{g};
                let value = load(row{g} + u32(clamp(column, 0, i32(p.width) - 1)));
                four[{g}u][{j}u] = select(0.0, value, inside{g} & (u32(column) < p.width));
            }
#end
#endif
#end
            // K is the inner loop, because there are more sums than registers.
#repeat m TILE_M
            {
#repeat j 4
                let a{j} = subgroupBroadcast(dy[{m}u / WORKGROUP][{j}u], {m}u % WORKGROUP);
#end
#repeat b BLOCKS
#repeat j 4
                sum[{m}u * BLOCKS + {b}u] += a{j} * four[{b}u][{j}u];
#end
#end
            }
#end
        }
        let wrapped = y + 1u == p.out_height;
        n += u32(wrapped);
        y = select(y + 1u, 0u, wrapped);
    }
#if CHANNELS
#repeat g GROUPS
    if c{g} < p.channels {
        let r = (c{g} * KERNEL_H + kh) * KERNEL_W;
#repeat m TILE_M
        if group.y * TILE_M + {m}u < p.outputs {
            let at = (group.z * p.outputs + group.y * TILE_M + {m}u) * columns + r;
#repeat k KERNEL_W
            partial[at + {k}u] = sum[{m}u * BLOCKS + {g}u * KERNEL_W + {k}u];
#end
        }
#end
    }
#end
#else
#repeat m TILE_M
#repeat b BLOCKS
    if group.y * TILE_M + {m}u < p.outputs && c{b} < columns {
        partial[(group.z * p.outputs + group.y * TILE_M + {m}u) * columns + c{b}] = sum[{m}u * BLOCKS + {b}u];
    }
#end
#end
#endif
}
