// Convolution as implicit GEMM in three directions; no im2col buffer. x is [batch, channels,
// height, width], the weight [outputs, channels, KERNEL_H, KERNEL_W], y [batch, outputs,
// out_height, out_width]; all NCHW and OIHW.
//
// - forward: y[o, pixel] = sum over (c, kh, kw) of w[o, c, kh, kw] x[c, pixel shifted] + bias[o],
//   ReLU if RELU
// - input gradient: dx[c, pixel] = sum over (o, kh, kw) of w[o, c, kh, kw] dy[o, pixel shifted
//   back], added to the existing value if ACCUMULATE
// - weight gradient: dw[o, column] = sum over pixels of dy[o, pixel] x[column's c, pixel shifted],
//   with column = (c, kh, kw)
//
// Constants: KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PAD (whether a tap can be outside), BIAS, NORM
// (a batch norm in evaluation: scale, shift, mean, variance), RELU, ACCUMULATE, MASK (zero where
// the activation `mask` is not positive); EACH_M, EACH_N. Faster kernels are in conv_tiled.wgsl
// (GPUs) and conv_lanes.wgsl (CPU drivers). p: batch, channels, height, width, outputs, out_height,
// out_width, pad_h, pad_w; x_offset, x_stride, y_offset, y_stride (of the operands, between batch
// items); chunk (pixels per part of a split-K weight gradient), parts.

//# forward_register input_gradient_register weight_gradient_register
const TAPS = KERNEL_H * KERNEL_W;

// A pixel of the input under the first tap, or of the output. Coordinates may be outside.
struct Pixel {
    base: u32,
    y: i32,
    x: i32,
}

// The input pixel under the first tap for output pixel q, counted over the batch.
fn input_pixel(q: u32) -> Pixel {
    let plane = p.out_height * p.out_width;
    let n = q / plane;
    let rest = q - n * plane;
    let y = rest / p.out_width;
    let x = rest - y * p.out_width;
    return Pixel(
        p.x_offset + n * p.x_stride,
        i32(y * STRIDE_H) - i32(p.pad_h),
        i32(x * STRIDE_W) - i32(p.pad_w),
    );
}

// Index in y of channel 0 of output pixel q.
fn output_place(q: u32) -> u32 {
    let plane = p.out_height * p.out_width;
    let n = q / plane;
    return p.y_offset + n * p.y_stride + (q - n * plane);
}

// x at channel c, offset by (kh, kw) from a pixel; zero outside.
//# forward_register weight_gradient_register
fn tap(pixel: Pixel, c: u32, kh: u32, kw: u32) -> f32 {
    let y = pixel.y + i32(kh);
    let x = pixel.x + i32(kw);
#if PAD
    // Negative coordinates become large unsigned ones.
    let inside = (u32(y) < p.height) & (u32(x) < p.width);
    let at = pixel.base + (c * p.height + u32(y)) * p.width + u32(x);
    return select(0.0, f32(x_data[select(pixel.base, at, inside)]), inside);
#else
    return f32(x_data[pixel.base + (c * p.height + u32(y)) * p.width + u32(x)]);
#endif
}

//# input_gradient_register
// Input pixel q: its index in channel 0, and its coordinates plus padding.
fn gradient_pixel(q: u32) -> Pixel {
    let plane = p.height * p.width;
    let n = q / plane;
    let rest = q - n * plane;
    let y = rest / p.width;
    let x = rest - y * p.width;
    return Pixel(p.y_offset + n * p.y_stride, i32(y + p.pad_h), i32(x + p.pad_w));
}

// dy at output channel o where the tap (kh, kw) covers the pixel; zero if none does.
fn tap(pixel: Pixel, o: u32, kh: u32, kw: u32) -> f32 {
    let up = pixel.y - i32(kh);
    let left = pixel.x - i32(kw);
#if PLAIN
    let at = pixel.base + (o * p.out_height + u32(up)) * p.out_width + u32(left);
    return f32(dy_data[at]);
#else
    let y = u32(up) / STRIDE_H;
    let x = u32(left) / STRIDE_W;
    // A negative coordinate divided as unsigned could be inside, so its sign is tested separately.
    let inside = (up >= 0) & (left >= 0) & (y * STRIDE_H == u32(up)) & (x * STRIDE_W == u32(left))
        & (y < p.out_height) & (x < p.out_width);
    let at = pixel.base + (o * p.out_height + y) * p.out_width + x;
    return select(0.0, f32(dy_data[select(pixel.base, at, inside)]), inside);
#endif
}

// Index in dx of channel 0 of input pixel q.
fn gradient_place(q: u32) -> u32 {
    let plane = p.height * p.width;
    let n = q / plane;
    return p.x_offset + n * p.x_stride + (q - n * plane);
}

//# forward_register
fn store(o: u32, q: u32, place: u32, sum: f32) {
    var value = sum;
#include "epilogue.wgsl" value = value; row = o; zero = 0.0
    y_data[place + o * p.out_height * p.out_width] = y_data_element(value);
}

//# input_gradient_register
fn store(c: u32, q: u32, place: u32, sum: f32) {
    let plane = p.height * p.width;
    let at = place + c * plane;
    var value = sum;
#if ACCUMULATE
    value += f32(dx_data[at]);
#endif
#if MASK
    let n = q / plane;
    value = select(0.0, value, f32(mask[p.mask_offset + n * p.mask_stride + c * plane + q - n * plane]) > 0.0);
#endif
    dx_data[at] = dx_data_element(value);
}

// Register tiles, for devices with expensive barriers: each invocation holds EACH_M channels of
// EACH_N pixels that are WORKGROUP apart, so that adjacent invocations read adjacent words.
//# forward_register
@compute @workgroup_size(WORKGROUP_X)
fn forward_register(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let pixels = p.batch * p.out_height * p.out_width;
    let first_o = group.y * EACH_M;
    let first_q = group.x * WORKGROUP * EACH_N + local;
    let depth = p.channels * TAPS;
#repeat i EACH_M
    let row{i} = min(first_o + {i}u, p.outputs - 1u) * depth;
#end
#repeat j EACH_N
    let pixel{j} = input_pixel(min(first_q + {j}u * WORKGROUP, pixels - 1u));
#end
#include "register_sums.wgsl"
    for (var c = 0u; c < p.channels; c++) {
        for (var kh = 0u; kh < KERNEL_H; kh++) {
            for (var kw = 0u; kw < KERNEL_W; kw++) {
                let k = c * TAPS + kh * KERNEL_W + kw;
#include "register_step.wgsl" left = weight[row{i} + k]; right = tap(pixel{j}, c, kh, kw)
            }
        }
    }
#repeat j EACH_N
    {
        let q = first_q + {j}u * WORKGROUP;
        if q < pixels {
            let place = output_place(q);
#repeat i EACH_M
            if first_o + {i}u < p.outputs { store(first_o + {i}u, q, place, sum{i}_{j}); }
#end
        }
    }
#end
}

//# input_gradient_register
@compute @workgroup_size(WORKGROUP_X)
fn input_gradient_register(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let pixels = p.batch * p.height * p.width;
    let first_c = group.y * EACH_M;
    let first_q = group.x * WORKGROUP * EACH_N + local;
#repeat i EACH_M
    let row{i} = min(first_c + {i}u, p.channels - 1u) * TAPS;
#end
#repeat j EACH_N
    let pixel{j} = gradient_pixel(min(first_q + {j}u * WORKGROUP, pixels - 1u));
#end
#include "register_sums.wgsl"
    for (var o = 0u; o < p.outputs; o++) {
        for (var kh = 0u; kh < KERNEL_H; kh++) {
            for (var kw = 0u; kw < KERNEL_W; kw++) {
                let k = o * p.channels * TAPS + kh * KERNEL_W + kw;
#include "register_step.wgsl" left = weight[row{i} + k]; right = tap(pixel{j}, o, kh, kw)
            }
        }
    }
#repeat j EACH_N
    {
        let q = first_q + {j}u * WORKGROUP;
        if q < pixels {
            let place = gradient_place(q);
#repeat i EACH_M
            if first_c + {i}u < p.channels { store(first_c + {i}u, q, place, sum{i}_{j}); }
#end
        }
    }
#end
}

// Each invocation holds EACH_M output channels of EACH_N columns that are WORKGROUP apart.
//# weight_gradient_register
@compute @workgroup_size(WORKGROUP_X)
fn weight_gradient_register(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let plane = p.out_height * p.out_width;
    let pixels = p.batch * plane;
    let width = p.channels * TAPS;
    let first_o = group.y * EACH_M;
    let first_r = group.x * WORKGROUP * EACH_N + local;
    let first_q = group.z * p.chunk;
    let last_q = min(first_q + p.chunk, pixels);
#repeat i EACH_M
    let row{i} = min(first_o + {i}u, p.outputs - 1u) * plane;
#end
#repeat j EACH_N
    let r{j} = min(first_r + {j}u * WORKGROUP, width - 1u);
    let c{j} = r{j} / TAPS;
    let kh{j} = r{j} % TAPS / KERNEL_W;
    let kw{j} = r{j} % TAPS % KERNEL_W;
#end
#include "register_sums.wgsl"
    for (var q = first_q; q < last_q; q++) {
        let pixel = input_pixel(q);
        let place = output_place(q);
#include "register_step.wgsl" left = f32(dy_data[place + row{i}]); right = tap(pixel, c{j}, kh{j}, kw{j})
    }
#repeat i EACH_M
#repeat j EACH_N
    if first_o + {i}u < p.outputs && first_r + {j}u * WORKGROUP < width {
        partial[(group.z * p.outputs + first_o + {i}u) * width + first_r + {j}u * WORKGROUP] = sum{i}_{j};
    }
#end
#end
}

// dw = the sum of the split-K parts, in order. p: count, parts.
//# sum_parts
@compute @workgroup_size(WORKGROUP_X)
fn sum_parts(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    var sum = 0.0;
    for (var part = 0u; part < p.parts; part++) { sum += partial[part * p.count + i]; }
    dw[i] = sum;
}

// Sum of dy over the plane of each item and channel. p: items, outputs, plane, y_offset, y_stride.
//# bias_planes
@compute @workgroup_size(WORKGROUP_X)
fn bias_planes(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.items * p.outputs { return; }
    let n = i / p.outputs;
    let first = p.y_offset + n * p.y_stride + (i - n * p.outputs) * p.plane;
    var sum = 0.0;
    for (var k = 0u; k < p.plane; k++) { sum += f32(dy_data[first + k]); }
    partial[i] = sum;
}

// One workgroup per sum, in a fixed tree.
//# bias_parts_tiled sum_items_tiled
var<workgroup> shares: array<f32, WORKGROUP>;

fn add_up(local: u32, share: f32) -> f32 {
    shares[local] = share;
#include "tree.wgsl" size = WORKGROUP; join = +=
    return shares[0];
}

// Sum of dy over the planes of a channel in a part of the items: one workgroup per part and
// channel. With VECTOR, planes are whole vectors. p: items, chunk (items per part), outputs, plane
// (in vectors with VECTOR), y_offset, y_stride.
//# bias_parts_tiled
@compute @workgroup_size(WORKGROUP_X)
fn bias_parts_tiled(
#include "invocation.wgsl"
) {
    let i = linear_group(group, groups);
    let part = i / p.outputs;
    let o = i - part * p.outputs;
    let first = part * p.chunk;
    let last = min(first + p.chunk, p.items);
    var sum = 0.0;
    if first < last {
        for (var k = local; k < (last - first) * p.plane; k += WORKGROUP) {
            let n = k / p.plane;
            let place = p.y_offset + (first + n) * p.y_stride;
#if VECTOR
            sum += dot(vec4<f32>(dy_data[place / 4u + o * p.plane + k - n * p.plane]), vec4(1.0));
#else
            sum += f32(dy_data[place + o * p.plane + k - n * p.plane]);
#endif
        }
    }
    sum = add_up(local, sum);
    if local == 0u && first < last { partial[i] = sum; }
}

// db = the sum over items of the plane sums, in order. p: items, outputs.
//# sum_items
@compute @workgroup_size(WORKGROUP_X)
fn sum_items(
#include "invocation.wgsl"
) {
    let o = linear_index(group, groups, local);
    if o >= p.outputs { return; }
    var sum = 0.0;
    for (var n = 0u; n < p.items; n++) { sum += partial[n * p.outputs + o]; }
    db[o] = sum;
}

// The same with a workgroup per output.
//# sum_items_tiled
@compute @workgroup_size(WORKGROUP_X)
fn sum_items_tiled(
#include "invocation.wgsl"
) {
    let o = min(linear_group(group, groups), p.outputs - 1u);
    var sum = 0.0;
    for (var n = local; n < p.items; n += WORKGROUP) { sum += partial[n * p.outputs + o]; }
    sum = add_up(local, sum);
    if local == 0u && linear_group(group, groups) == o { db[o] = sum; }
}
