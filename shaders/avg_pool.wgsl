// Average pooling with fixed or adaptive windows, and the gradient. x is [batch, channels, height,
// width], y [batch, channels, out_height, out_width]. p: count (elements of the result), x_offset,
// x_stride, y_offset, y_stride, channels, height, width, out_height, out_width; kernel, stride, pad
// (fixed windows). Constants: ADAPTIVE, ACCUMULATE, MASK (mask_offset, mask_stride: zero where the
// activation `mask` is not positive).

// Input rows or columns [x, y) covered by window o.
fn window(o: u32, size: u32, out_size: u32) -> vec2<u32> {
#if ADAPTIVE
    return vec2(o * size / out_size, ((o + 1u) * size + out_size - 1u) / out_size);
#else
    return vec2(max(o * p.stride, p.pad) - p.pad, min(o * p.stride + p.kernel - p.pad, size));
#endif
}

//# avg_pool
@compute @workgroup_size(WORKGROUP_X)
fn avg_pool(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let row = i / p.out_width;
    let ox = i - row * p.out_width;
    let plane = row / p.out_height;
    let oy = row - plane * p.out_height;
    let n = plane / p.channels;
    let c = plane - n * p.channels;
    let rows = window(oy, p.height, p.out_height);
    let columns = window(ox, p.width, p.out_width);
    let first = p.x_offset + n * p.x_stride + c * p.height * p.width;
    var sum = 0.0;
    for (var y = rows.x; y < rows.y; y++) {
        for (var x = columns.x; x < columns.y; x++) { sum += f32(x_data[first + y * p.width + x]); }
    }
    let place = p.y_offset + n * p.y_stride + (c * p.out_height + oy) * p.out_width + ox;
    y_data[place] = y_data_element(sum / f32((rows.y - rows.x) * (columns.y - columns.x)));
}

// Windows [x, y) that cover row or column i.
//# avg_pool_grad
fn covering(i: u32, size: u32, out_size: u32) -> vec2<u32> {
#if ADAPTIVE
    return vec2(i * out_size / size, ((i + 1u) * out_size + size - 1u) / size);
#else
    let first = (max(i + p.pad + p.stride, p.kernel) - p.kernel) / p.stride;
    return vec2(first, min((i + p.pad) / p.stride + 1u, out_size));
#endif
}

@compute @workgroup_size(WORKGROUP_X)
fn avg_pool_grad(
#include "invocation.wgsl"
) {
#include "input_pixel.wgsl"
    let down = covering(y, p.height, p.out_height);
    let across = covering(x, p.width, p.out_width);
    let first = p.y_offset + n * p.y_stride + c * p.out_height * p.out_width;
    var sum = 0.0;
    for (var oy = down.x; oy < down.y; oy++) {
        let rows = window(oy, p.height, p.out_height);
        for (var ox = across.x; ox < across.y; ox++) {
            let columns = window(ox, p.width, p.out_width);
            let share = f32((rows.y - rows.x) * (columns.y - columns.x));
            sum += f32(dy_data[first + oy * p.out_width + ox]) / share;
        }
    }
    let inner = (c * p.height + y) * p.width + x;
    let place = p.x_offset + n * p.x_stride + inner;
#include "store_gradient.wgsl" sum = sum; place = place; inner = inner
}
