// 3x3 convolution with stride 1 for GPUs by Winograd's F(2x2, 3x3) (Lavin and Gray, "Fast
// Algorithms for Convolutional Neural Networks", 2015): 4x4 patches of the source, two pixels
// apart, and the 3x3 weights are transformed into 16 values each, whose products over the channels
// are transformed back into 2x2 results: 16 multiplications instead of 36. Only the transformed
// weights are stored in memory.
//
// A workgroup computes BLOCK rows of the weight for BLOCK patches. Of its 16 x 16 invocations, 16
// process each of the 16 positions of a patch: an invocation holds 8 rows x 8 patches of one
// position. Vectors in workgroup memory are four channels. At the end positions are combined
// through workgroup memory, eight rows at a time.
//
// p: batch, rows, depth (channels of the source), height, width (of the source), out_height,
// out_width, pad_h, pad_w, source_offset, source_stride, result_offset, result_stride, down
// (patches in a column), across (patches in a row), steps (of DEPTH channels). Constants: DEPTH (4
// or 8), QUADS (DEPTH / 4), LEFT_LOADS (vectors of weights that an invocation loads per step),
// PARTIAL (K is not a multiple of DEPTH), TRANSPOSED; IDLE (some invocations load nothing); those
// of `finish` in conv_implicit.wgsl.

#include "conv_implicit.wgsl"

//# pack_winograd product_winograd weight_gradient_winograd
const BLOCK = 32u;

// U = G g G^T for each row and channel, padded with zeros: [tile of BLOCK rows][four
// channels][position][row] as vectors of channels. p: rows, depth, quads (vectors of channels,
// padded).
//# pack_winograd
fn tap(row: u32, c: u32, t: u32) -> f32 {
#if TRANSPOSED
    return weight[(c * p.rows + row) * 9u + 8u - t];
#else
    return weight[(row * p.depth + c) * 9u + t];
#endif
}

// The rows of G.
fn spread(a: f32, b: f32, c: f32) -> vec4<f32> {
    return vec4(a, 0.5 * (a + b + c), 0.5 * (a - b + c), c);
}

@compute @workgroup_size(WORKGROUP_X)
fn pack_winograd(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    let tiles = (p.rows + BLOCK - 1u) / BLOCK;
    if i >= tiles * p.quads * 4u * BLOCK { return; }
    let lane = i % BLOCK;
    let c = i / BLOCK % (p.quads * 4u);
    let tile = i / (BLOCK * p.quads * 4u);
    let row = tile * BLOCK + lane;
    var values: array<vec4<f32>, 4>;
    if row < p.rows && c < p.depth {
        let first = spread(tap(row, c, 0u), tap(row, c, 3u), tap(row, c, 6u));
        let second = spread(tap(row, c, 1u), tap(row, c, 4u), tap(row, c, 7u));
        let third = spread(tap(row, c, 2u), tap(row, c, 5u), tap(row, c, 8u));
#repeat y 4
        values[{y}u] = spread(first[{y}u], second[{y}u], third[{y}u]);
#end
    }
    let base = (tile * p.quads + c / 4u) * 16u;
#repeat y 4
#repeat x 4
    panel[((base + {y}u * 4u + {x}u) * BLOCK + lane) * 4u + c % 4u] = values[{y}u][{x}u];
#end
#end
}

//# product_winograd weight_gradient_winograd
fn bit(lane: u32, number: u32) -> u32 {
    return (lane >> number) & 1u;
}

//# product_winograd
const STAGE = QUADS * 16u * BLOCK;
// Weights, then patches; at the end 16 positions of 8 rows x BLOCK patches.
var<workgroup> stage: array<vec4<f32>, 2u * STAGE>;

// The first result pixel of a patch, and its item.
fn patch_of(number: u32) -> vec3<u32> {
    let row = number / p.across;
    let n = row / p.down;
    return vec3(n, (row - n * p.down) * 2u, (number - row * p.across) * 2u);
}

@compute @workgroup_size(WORKGROUP_X)
fn product_winograd(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let patches = p.batch * p.down * p.across;
    let first_patch = group.y * BLOCK;
    let plane = p.height * p.width;
    // The operands of an invocation.
    let place = local / 16u;
    // As in conv_tiled.wgsl.
    let down = bit(local, 0u) + 2u * bit(local, 2u);
    let across = bit(local, 1u) + 2u * bit(local, 3u);
    // Its loads: two lines of one patch for four channels, which give one line of the transformed
    // patch.
    let number = local % BLOCK;
    let line = local / BLOCK % 4u;
    let quad = local / (BLOCK * 4u);
    let mine = patch_of(min(first_patch + number, patches - 1u));
    let base = p.source_offset + mine.x * p.source_stride;
    let top = i32(mine.y) - i32(p.pad_h);
    let left = i32(mine.z) - i32(p.pad_w);
    // Lines 0 - 2, 1 + 2, 2 - 1 and 1 - 3.
    let y_first = top + select(i32(line), 1, line == 3u);
    let y_second = top + select(select(2, 1, line == 2u), 3, line == 3u);
    let sign = select(-1.0, 1.0, line == 1u);
    let first_inside = u32(y_first) < p.height;
    let second_inside = u32(y_second) < p.height;
#repeat x 4
    let x{x} = u32(left + {x}i);
    let first_inside{x} = first_inside & (x{x} < p.width);
    let second_inside{x} = second_inside & (x{x} < p.width);
    let first_at{x} = select(base, base + u32(y_first) * p.width + x{x}, first_inside{x});
    let second_at{x} = select(base, base + u32(y_second) * p.width + x{x}, second_inside{x});
#end
#if IDLE
    let loads = local < QUADS * 4u * BLOCK;
#endif
    let patch_to = STAGE + (quad * 16u + line * 4u) * BLOCK + number;
#repeat f 4
#repeat h 2
#repeat t 8
    var sum{f}_{h}_{t} = 0.0;
#end
#end
#end
    for (var step = 0u; step < p.steps; step++) {
        let panel_at = (group.x * p.steps + step) * STAGE + local;
#repeat i LEFT_LOADS
        let weights{i} = panel[panel_at + {i}u * WORKGROUP];
#end
#if IDLE
        if loads {
#else
        {
#endif
            let c = step * DEPTH + quad * 4u;
#repeat e 4
#if PARTIAL
            // Channels past the last have zero weights.
            let channel{e} = min(c + {e}u, p.depth - 1u) * plane;
#else
            let channel{e} = (c + {e}u) * plane;
#endif
#end
#repeat x 4
#include "four_planes.wgsl" name = first{x}; array = source; at = first_at{x}; plane = channel; inside = first_inside{x}
#include "four_planes.wgsl" name = second{x}; array = source; at = second_at{x}; plane = channel; inside = second_inside{x}
            let column{x} = first{x} + sign * second{x};
#end
            stage[patch_to] = column0 - column2;
            stage[patch_to + BLOCK] = column1 + column2;
            stage[patch_to + 2u * BLOCK] = column2 - column1;
            stage[patch_to + 3u * BLOCK] = column1 - column3;
        }
#repeat i LEFT_LOADS
        stage[local + {i}u * WORKGROUP] = weights{i};
#end
        workgroupBarrier();
        for (var k = 0u; k < QUADS; k++) {
            let a_at = (k * 16u + place) * BLOCK + down;
            let b_at = STAGE + (k * 16u + place) * BLOCK + across;
#repeat f 4
#repeat h 2
            let a{f}_{h} = stage[a_at + {f}u * 8u + {h}u * 4u];
#end
#end
#repeat t 8
            {
                let b = stage[b_at + {t}u * 4u];
#repeat f 4
#repeat h 2
                sum{f}_{h}_{t} += a{f}_{h}.x * b.x;
                sum{f}_{h}_{t} += a{f}_{h}.y * b.y;
                sum{f}_{h}_{t} += a{f}_{h}.z * b.z;
                sum{f}_{h}_{t} += a{f}_{h}.w * b.w;
#end
#end
            }
#end
        }
        workgroupBarrier();
    }
    // Y = A^T M A, eight rows at a time: an invocation computes one pixel of the 2x2 results of
    // four patches, and adjacent invocations compute adjacent pixels.
    let dx = local % 2u;
    let vector = local / 2u % 8u;
    let dy = local / 16u % 2u;
    let row_of_eight = local / 32u;
    let flip_x = select(1.0, -1.0, dx == 1u);
    let flip_y = select(1.0, -1.0, dy == 1u);
    let begin = ((dy * 4u + dx) * 8u + row_of_eight) * 8u + vector % 4u * 2u + vector / 4u;
    let plane_out = p.out_height * p.out_width;
#repeat f 4
#repeat h 2
    {
        // Vectors of patches 4 apart.
        let to = ((place * 8u + {h}u * 4u + down) * 4u + across) * 2u;
        stage[to] = vec4(sum{f}_{h}_0, sum{f}_{h}_1, sum{f}_{h}_2, sum{f}_{h}_3);
        stage[to + 1u] = vec4(sum{f}_{h}_4, sum{f}_{h}_5, sum{f}_{h}_6, sum{f}_{h}_7);
    }
#end
    workgroupBarrier();
    {
#repeat y 3
        let line{y} = stage[begin + {y}u * 256u] + flip_x * (stage[begin + {y}u * 256u + 64u] + stage[begin + {y}u * 256u + 128u]);
#end
        let values = line0 + flip_y * (line1 + line2);
        let row = group.x * BLOCK + {f}u * 8u + row_of_eight;
#repeat e 4
        {
            let number = first_patch + (vector / 4u * 4u + {e}u) * 4u + vector % 4u;
            let to = patch_of(number);
            let y = to.y + dy;
            let x = to.z + dx;
            if number < patches && row < p.rows && y < p.out_height && x < p.out_width {
                finish(values[{e}u], row, to.x * plane_out + y * p.out_width + x, plane_out);
            }
        }
#end
    }
    workgroupBarrier();
#end
}

// The weight gradient: dU = (A dY A^T) V^T for each position, summed over patches, and dw = G^T dU
// G. Vectors in workgroup memory are four outputs or four channels of one patch, DEPTH patches per
// step, swizzled by the patch's index to avoid bank conflicts. Split-K over patches, one part per
// group.z; sum_parts adds them in order. p: batch, channels, height, width, outputs, out_height,
// out_width, pad_h, pad_w, x_offset, x_stride, y_offset, y_stride, down, across, chunk (patches per
// part).
//# weight_gradient_winograd
const STAGE = DEPTH * 16u * 8u;
var<workgroup> stage: array<vec4<f32>, 2u * STAGE>;

// The rows of G^T.
fn gather(a: f32, b: f32, c: f32, d: f32) -> vec3<f32> {
    return vec3(a + 0.5 * (b + c), 0.5 * (b - c), 0.5 * (b + c) + d);
}

@compute @workgroup_size(WORKGROUP_X)
fn weight_gradient_winograd(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first = group.z * p.chunk;
    let last = min(first + p.chunk, p.batch * p.down * p.across);
    let plane = p.height * p.width;
    let plane_out = p.out_height * p.out_width;
    // The operands of an invocation.
    let place = local / 16u;
    // As in conv_tiled.wgsl.
    let down = bit(local, 0u) + 2u * bit(local, 2u);
    let across = bit(local, 1u) + 2u * bit(local, 3u);
    // Its loads: two lines of one patch, for four outputs and four channels, which give one
    // transformed line.
    let lane = local % DEPTH;
    let quad = local / DEPTH % 8u;
    let line = local / (DEPTH * 8u);
#if IDLE
    let loads = line < 4u;
#endif
    let to = (lane * 16u + line * 4u) * 8u + (quad ^ lane);
    let output = group.x * BLOCK + quad * 4u;
    let channel = group.y * BLOCK + quad * 4u;
    // Lines 0 - 2, 1 + 2, 2 - 1 and 1 - 3 of x; 0, 0 + 1, 0 - 1 and -1 of dy.
    let x_first = select(line, 1u, line == 3u);
    let x_second = select(select(2u, 1u, line == 2u), 3u, line == 3u);
    let x_sign = select(-1.0, 1.0, line == 1u);
    let dy_first = select(1.0, 0.0, line == 3u);
    let dy_second = select(select(-1.0, 1.0, line == 1u), 0.0, line == 0u);
#repeat e 4
    let output{e} = min(output + {e}u, p.outputs - 1u) * plane_out;
    let channel{e} = min(channel + {e}u, p.channels - 1u) * plane;
#end
#repeat h 2
#repeat q 2
#repeat r 2
#repeat j 2
    var sum{h}_{q}_{r}_{j} = vec4<f32>(0.0);
#end
#end
#end
#end
    for (var begin = first; begin < last; begin += DEPTH) {
#if IDLE
        if loads {
#else
        {
#endif
            let number = begin + lane;
            let row = min(number, last - 1u) / p.across;
            let n = row / p.down;
            let y = (row - n * p.down) * 2u;
            let x = (min(number, last - 1u) - row * p.across) * 2u;
            let there = number < last;
            let y_base = p.y_offset + n * p.y_stride;
#repeat b 2
            let upper{b} = there & (x + {b}u < p.out_width);
            let lower{b} = upper{b} & (y + 1u < p.out_height);
            let upper_at{b} = y_base + select(0u, y * p.out_width + x + {b}u, upper{b});
            let lower_at{b} = y_base + select(0u, (y + 1u) * p.out_width + x + {b}u, lower{b});
#include "four_planes.wgsl" name = upper_dy{b}; array = dy_data; at = upper_at{b}; plane = output; inside = upper{b}
#include "four_planes.wgsl" name = lower_dy{b}; array = dy_data; at = lower_at{b}; plane = output; inside = lower{b}
            let dy{b} = dy_first * upper_dy{b} + dy_second * lower_dy{b};
#end
            stage[to] = dy0;
            stage[to + 8u] = dy0 + dy1;
            stage[to + 16u] = dy0 - dy1;
            stage[to + 24u] = -dy1;
            let x_base = p.x_offset + n * p.x_stride;
            // Coordinates above and left of the input become large unsigned numbers.
            let y_first = y + x_first - p.pad_h;
            let y_second = y + x_second - p.pad_h;
            let first_inside = there & (y_first < p.height);
            let second_inside = there & (y_second < p.height);
#repeat b 4
            let x{b} = x + {b}u - p.pad_w;
            let first_inside{b} = first_inside & (x{b} < p.width);
            let second_inside{b} = second_inside & (x{b} < p.width);
            let first_at{b} = x_base + select(0u, y_first * p.width + x{b}, first_inside{b});
            let second_at{b} = x_base + select(0u, y_second * p.width + x{b}, second_inside{b});
#include "four_planes.wgsl" name = first{b}; array = x_data; at = first_at{b}; plane = channel; inside = first_inside{b}
#include "four_planes.wgsl" name = second{b}; array = x_data; at = second_at{b}; plane = channel; inside = second_inside{b}
            let column{b} = first{b} + x_sign * second{b};
#end
            stage[STAGE + to] = column0 - column2;
            stage[STAGE + to + 8u] = column1 + column2;
            stage[STAGE + to + 16u] = column2 - column1;
            stage[STAGE + to + 24u] = column1 - column3;
        }
        workgroupBarrier();
#repeat k DEPTH
        {
            let at = ({k}u * 16u + place) * 8u;
#repeat h 2
            let a{h} = stage[at + (({h}u * 4u + down) ^ {k}u)];
            let b{h} = stage[STAGE + at + (({h}u * 4u + across) ^ {k}u)];
#end
#repeat h 2
#repeat q 2
#repeat r 2
#repeat j 2
            sum{h}_{q}_{r}_{j} += a{h}[{q}u * 2u + {r}u] * b{j};
#end
#end
#end
#end
        }
#end
        workgroupBarrier();
    }
    // Eight rows at a time: an invocation computes the nine taps of one output and channel.
    let row_of_eight = local / 32u;
    let column = local % 32u;
    let c = group.y * BLOCK + column;
    let read_at = row_of_eight * 8u + column / 4u;
#repeat h 2
#repeat q 2
#repeat r 2
#repeat j 2
    stage[(place * 8u + down * 2u + {r}u) * 8u + {j}u * 4u + across] = sum{h}_{q}_{r}_{j};
#end
#end
    workgroupBarrier();
    {
#repeat y 4
        let line{y} = gather(
#repeat x 4
            stage[read_at + ({y}u * 4u + {x}u) * 64u][column % 4u],
#end
        );
#end
#repeat x 3
        let taps{x} = gather(line0[{x}u], line1[{x}u], line2[{x}u], line3[{x}u]);
#end
        let o = group.x * BLOCK + ({h}u * 4u + row_of_eight / 2u) * 4u + {q}u * 2u + row_of_eight % 2u;
        if o < p.outputs && c < p.channels {
            let out = ((group.z * p.outputs + o) * p.channels + c) * 9u;
#repeat y 3
#repeat x 3
            partial[out + {y}u * 3u + {x}u] = taps{x}[{y}u];
#end
#end
        }
    }
    workgroupBarrier();
#end
#end
}
