// Average pooling with fixed or adaptive windows, and the gradient. x is [batch, channels, height,
// width], y [batch, channels, out_height, out_width]. p: count (elements of the result), x_offset,
// x_stride, y_offset, y_stride. Constants: CHANNELS, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH, KERNEL,
// STRIDE, PAD (fixed windows), compiled in because indices are divided by them and a network has
// few such pools; ADAPTIVE, ACCUMULATE, MASK (mask_offset, mask_stride: zero where the activation
// `mask` is not positive).

// Input rows or columns [x, y) covered by window o.
fn window(o: u32, size: u32, out_size: u32) -> vec2<u32> {
#if ADAPTIVE
    return vec2(o * size / out_size, ((o + 1u) * size + out_size - 1u) / out_size);
#else
    return vec2(max(o * STRIDE, PAD) - PAD, min(o * STRIDE + KERNEL - PAD, size));
#endif
}

//# avg_pool
@compute @workgroup_size(WORKGROUP_X)
fn avg_pool(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let row = i / OUT_WIDTH;
    let ox = i - row * OUT_WIDTH;
    let plane = row / OUT_HEIGHT;
    let oy = row - plane * OUT_HEIGHT;
    let n = plane / CHANNELS;
    let c = plane - n * CHANNELS;
    let rows = window(oy, HEIGHT, OUT_HEIGHT);
    let columns = window(ox, WIDTH, OUT_WIDTH);
    let first = p.x_offset + n * p.x_stride + c * HEIGHT * WIDTH;
    var sum = 0.0;
    for (var y = rows.x; y < rows.y; y++) {
        for (var x = columns.x; x < columns.y; x++) { sum += f32(x_data[first + y * WIDTH + x]); }
    }
    let place = p.y_offset + n * p.y_stride + (c * OUT_HEIGHT + oy) * OUT_WIDTH + ox;
    y_data[place] = y_data_element(sum / f32((rows.y - rows.x) * (columns.y - columns.x)));
}

// Windows [x, y) that cover row or column i.
//# avg_pool_grad
fn covering(i: u32, size: u32, out_size: u32) -> vec2<u32> {
#if ADAPTIVE
    return vec2(i * out_size / size, ((i + 1u) * out_size + size - 1u) / size);
#else
    let first = (max(i + PAD + STRIDE, KERNEL) - KERNEL) / STRIDE;
    return vec2(first, min((i + PAD) / STRIDE + 1u, out_size));
#endif
}

@compute @workgroup_size(WORKGROUP_X)
fn avg_pool_grad(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let row = i / WIDTH;
    let x = i - row * WIDTH;
    let plane = row / HEIGHT;
    let y = row - plane * HEIGHT;
    let n = plane / CHANNELS;
    let c = plane - n * CHANNELS;
    let down = covering(y, HEIGHT, OUT_HEIGHT);
    let across = covering(x, WIDTH, OUT_WIDTH);
    let first = p.y_offset + n * p.y_stride + c * OUT_HEIGHT * OUT_WIDTH;
    var sum = 0.0;
    for (var oy = down.x; oy < down.y; oy++) {
        let rows = window(oy, HEIGHT, OUT_HEIGHT);
        for (var ox = across.x; ox < across.y; ox++) {
            let columns = window(ox, WIDTH, OUT_WIDTH);
            let share = f32((rows.y - rows.x) * (columns.y - columns.x));
            sum += f32(dy_data[first + oy * OUT_WIDTH + ox]) / share;
        }
    }
    let inner = (c * HEIGHT + y) * WIDTH + x;
    let place = p.x_offset + n * p.x_stride + inner;
#include "store_gradient.wgsl" sum = sum; place = place; inner = inner
}
