// Local response normalization across channels: y = x s^-beta with s = k + alpha / SIZE * (sum of
// x^2 over SIZE channels around). An invocation processes CHUNK channels of one pixel and keeps the
// window in registers, so each value is loaded once. p: count (invocations), channels, plane
// (height * width), chunks (of the channels), scale (alpha / SIZE), beta, k, x_offset, x_stride,
// y_offset, y_stride, dy_offset, dy_stride. Constants: SIZE (odd), REST (SIZE - 1), CHUNK,
// THREE_QUARTERS (whether beta is 0.75), MASK (the gradient is zero where x is not positive).

const HALF = SIZE / 2u;

struct Walk {
    channel: u32,
    end: u32,
    item: u32,
    pixel: u32,
}

// Adjacent invocations process adjacent pixels.
fn walk(i: u32) -> Walk {
    let row = i / p.plane;
    let n = row / p.chunks;
    let first = (row - n * p.chunks) * CHUNK;
    return Walk(first, min(first + CHUNK, p.channels), n, i - row * p.plane);
}

fn power(s: f32) -> f32 {
#if THREE_QUARTERS
    let root = sqrt(s);
    return 1.0 / (root * sqrt(root));
#else
    return pow(s, -p.beta);
#endif
}

// x at channel c of an invocation's pixel; zero outside. Negative channels become large unsigned
// numbers.
fn value(first: u32, c: u32) -> f32 {
    let inside = c < p.channels;
    return select(0.0, f32(x_data[first + select(0u, c * p.plane, inside)]), inside);
}

//# lrn
@compute @workgroup_size(WORKGROUP_X)
fn lrn(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let w = walk(i);
    let first = p.x_offset + w.item * p.x_stride + w.pixel;
    let out = p.y_offset + w.item * p.y_stride + w.pixel;
    // x at channels c - HALF to c + HALF; before the loop, the window of the channel before the
    // first.
    var x: array<f32, SIZE>;
#repeat j REST
    x[{j}u + 1u] = value(first, w.channel + {j}u - HALF);
#end
    for (var c = w.channel; c < w.end; c++) {
        var sum = 0.0;
#repeat j REST
        x[{j}u] = x[{j}u + 1u];
        sum += x[{j}u] * x[{j}u];
#end
        x[REST] = value(first, c + HALF);
        sum += x[REST] * x[REST];
        y_data[out + c * p.plane] = y_data_element(x[HALF] * power(p.k + p.scale * sum));
    }
}

// dx_i = dy_i s_i^-beta - 2 alpha beta / SIZE x_i (sum over j around i of dy_j x_j s_j^(-beta-1)).
// The sum is HALF channels behind the newest s, which is HALF behind the newest x.
//# lrn_grad
@compute @workgroup_size(WORKGROUP_X)
fn lrn_grad(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let w = walk(i);
    let first = p.x_offset + w.item * p.x_stride + w.pixel;
    let dy_first = p.dy_offset + w.item * p.dy_stride + w.pixel;
    let out = p.y_offset + w.item * p.y_stride + w.pixel;
    var x: array<f32, SIZE>;
    var window: array<f32, SIZE>;
    var direct: array<f32, SIZE>;
#repeat j REST
    x[{j}u + 1u] = value(first, w.channel + {j}u - 2u * HALF);
#end
    // step - HALF is the channel of s, step - 2 HALF that of the result, counted from the first
    // channel.
    for (var step = 0u; step < w.end - w.channel + 2u * HALF; step++) {
        let c = w.channel + step - HALF;
        var sum = 0.0;
        var total = 0.0;
#repeat j REST
        x[{j}u] = x[{j}u + 1u];
        window[{j}u] = window[{j}u + 1u];
        direct[{j}u] = direct[{j}u + 1u];
        sum += x[{j}u] * x[{j}u];
        total += window[{j}u];
#end
        x[REST] = value(first, c + HALF);
        sum += x[REST] * x[REST];
        let s = p.k + p.scale * sum;
        let inside = c < p.channels;
        let dy = select(0.0, f32(dy_data[dy_first + select(0u, c * p.plane, inside)]), inside);
        direct[REST] = dy * power(s);
        window[REST] = direct[REST] * x[HALF] / s;
        total += window[REST];
        if step >= 2u * HALF {
            // The oldest x of the window belongs to the channel that is HALF behind c.
            var dx = direct[HALF] - 2.0 * p.scale * p.beta * x[0] * total;
#if MASK
            dx = select(0.0, dx, x[0] > 0.0);
#endif
            dx_data[out + (c - HALF) * p.plane] = dx_data_element(dx);
        }
    }
}
