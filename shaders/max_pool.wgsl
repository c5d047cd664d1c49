// Max pooling and its gradient. x is [batch, channels, height, width], y [batch, channels,
// out_height, out_width]. p: planes, count (elements of the gradient), channels, height, width,
// out_height, out_width, kernel, stride, pad; x_offset, x_stride, y_offset, y_stride. Constants of
// the maxima: KERNEL, STRIDE, EACH (adjacent windows per invocation), SPAN (columns that they
// cover), SHARED and NEXT (columns of a window shared with the previous one, and new ones), VECTOR,
// INDICES; of the gradient: REACH and SPAN (windows in a line that can contain an element, and one
// of four), VECTOR, ACCUMULATE, MASK (mask_offset, mask_stride: zeros where the activation `mask`
// is not above zero).

// Indices and values of EACH adjacent windows in a row: KERNEL rows and SPAN columns. Positions
// outside the input are clamped to the nearest inside, which is in the same windows, so there are
// no branches and all loads are issued together.
//# max_pool max_pool_rows
struct Seen {
    line: array<u32, KERNEL>,
    column: array<u32, SPAN>,
    value: array<array<f32, SPAN>, KERNEL>,
}

fn column_of(x: u32) -> u32 { return u32(clamp(i32(x) - i32(p.pad), 0, i32(p.width) - 1)); }
fn line_of(y: u32) -> u32 { return u32(clamp(i32(y) - i32(p.pad), 0, i32(p.height) - 1)) * p.width; }

// Stores the maxima of the windows from result column ox; ties go to the first in row-major order.
// Padding never wins; NaN does.
fn store(seen: ptr<function, Seen>, plane: u32, n: u32, c: u32, oy: u32, ox: u32) {
    var best: array<f32, EACH>;
    var index: array<u32, EACH>;
#repeat e EACH
    best[{e}u] = (*seen).value[0u][{e}u * STRIDE];
    index[{e}u] = (*seen).line[0u] + (*seen).column[{e}u * STRIDE];
#repeat y KERNEL
#repeat x KERNEL
    {
        let value = (*seen).value[{y}u][{e}u * STRIDE + {x}u];
        // Tests the bits of NaN, because drivers may assume that there are none.
        let wins = value > best[{e}u] || (bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u;
        best[{e}u] = select(best[{e}u], value, wins);
        index[{e}u] = select(index[{e}u], (*seen).line[{y}u] + (*seen).column[{e}u * STRIDE + {x}u], wins);
    }
#end
#end
#end
    let inner = oy * p.out_width + ox;
    let place = p.y_offset + n * p.y_stride + c * p.out_height * p.out_width + inner;
    let chosen = plane * p.out_height * p.out_width + inner;
#if VECTOR
    y_data[place / 4u] = y_data_element(vec4(best[0], best[1], best[2], best[3]));
#if INDICES
    indices[chosen / 4u] = vec4(index[0], index[1], index[2], index[3]);
#endif
#else
#repeat e EACH
    if ox + {e}u < p.out_width {
        y_data[place + {e}u] = y_data_element(best[{e}u]);
#if INDICES
        indices[chosen + {e}u] = index[{e}u];
#endif
    }
#end
#endif
}

// One invocation per EACH windows.
//# max_pool
@compute @workgroup_size(WORKGROUP_X)
fn max_pool(
#include "invocation.wgsl"
) {
    let of_row = (p.out_width + EACH - 1u) / EACH;
    let i = linear_index(group, groups, local);
    let row = i / of_row;
    let plane = row / p.out_height;
    if plane >= p.planes { return; }
    let n = plane / p.channels;
    let c = plane - n * p.channels;
    let oy = row - plane * p.out_height;
    let ox = (i - row * of_row) * EACH;
    let first = p.x_offset + n * p.x_stride + c * p.height * p.width;
    var seen: Seen;
#repeat x SPAN
    seen.column[{x}u] = column_of(ox * STRIDE + {x}u);
#end
#repeat y KERNEL
    seen.line[{y}u] = line_of(oy * STRIDE + {y}u);
#repeat x SPAN
    seen.value[{y}u][{x}u] = f32(x_data[first + seen.line[{y}u] + seen.column[{x}u]]);
#end
#end
    store(&seen, plane, n, c, oy, ox);
}

// One invocation per row of the result, for devices with expensive loads and divisions: columns
// shared with the next window are kept, and indices are divided once per row.
//# max_pool_rows
@compute @workgroup_size(WORKGROUP_X)
fn max_pool_rows(
#include "invocation.wgsl"
) {
    let row = linear_index(group, groups, local);
    let plane = row / p.out_height;
    if plane >= p.planes { return; }
    let n = plane / p.channels;
    let c = plane - n * p.channels;
    let oy = row - plane * p.out_height;
    let first = p.x_offset + n * p.x_stride + c * p.height * p.width;
    var seen: Seen;
#repeat y KERNEL
    seen.line[{y}u] = line_of(oy * STRIDE + {y}u);
#end
#repeat x SHARED
    seen.column[NEXT + {x}u] = column_of({x}u);
#repeat y KERNEL
    seen.value[{y}u][NEXT + {x}u] = f32(x_data[first + seen.line[{y}u] + seen.column[NEXT + {x}u]]);
#end
#end
    for (var ox = 0u; ox < p.out_width; ox++) {
#repeat x SHARED
        seen.column[{x}u] = seen.column[NEXT + {x}u];
#repeat y KERNEL
        seen.value[{y}u][{x}u] = seen.value[{y}u][NEXT + {x}u];
#end
#end
#repeat x NEXT
        seen.column[SHARED + {x}u] = column_of(ox * STRIDE + SHARED + {x}u);
#repeat y KERNEL
        seen.value[{y}u][SHARED + {x}u] = f32(x_data[first + seen.line[{y}u] + seen.column[SHARED + {x}u]]);
#end
#end
        store(&seen, plane, n, c, oy, ox);
    }
}

// Each input element gathers from the windows whose maximum it is.
//# max_pool_grad
@compute @workgroup_size(WORKGROUP_X)
fn max_pool_grad(
#include "invocation.wgsl"
) {
#include "input_pixel.wgsl"
    let out_plane = p.out_height * p.out_width;
    let dy_first = p.y_offset + n * p.y_stride + c * out_plane;
    let indices_first = plane * out_plane;
    let me = y * p.width + x;
    // The first window that ends after the element, and the last that starts before it.
    let top = (max(y + p.pad + p.stride, p.kernel) - p.kernel) / p.stride;
    let left = (max(x + p.pad + p.stride, p.kernel) - p.kernel) / p.stride;
    let bottom = min((y + p.pad) / p.stride + 1u, p.out_height);
    let right = min((x + p.pad) / p.stride + 1u, p.out_width);
    var sum = 0.0;
    for (var oy = top; oy < bottom; oy++) {
        for (var ox = left; ox < right; ox++) {
            let o = oy * p.out_width + ox;
            if indices[indices_first + o] == me { sum += f32(dy_data[dy_first + o]); }
        }
    }
    let inner = c * p.height * p.width + me;
    let place = p.x_offset + n * p.x_stride + inner;
#include "store_gradient.wgsl" sum = sum; place = place; inner = inner
}

// The same for four adjacent elements of a row, with the REACH x SPAN windows that can contain them
// unrolled: indices are computed once and loads are issued together. With VECTOR, rows are whole
// vectors of dx and of the mask.
//# max_pool_grad_quads
@compute @workgroup_size(WORKGROUP_X)
fn max_pool_grad_quads(
#include "invocation.wgsl"
) {
    let quads = (p.width + 3u) / 4u;
    let i = linear_index(group, groups, local);
    let row = i / quads;
    let x = (i - row * quads) * 4u;
    let plane = row / p.height;
    if plane >= p.planes { return; }
    let y = row - plane * p.height;
    let n = plane / p.channels;
    let c = plane - n * p.channels;
    let out_plane = p.out_height * p.out_width;
    let dy_first = p.y_offset + n * p.y_stride + c * out_plane;
    let indices_first = plane * out_plane;
    let me = y * p.width + x + vec4(0u, 1u, 2u, 3u);
    // The last windows that start before the element, and before the last of the four; negative
    // numbers become large ones.
    let below = (y + p.pad) / p.stride;
    let beside = (x + 3u + p.pad) / p.stride;
#repeat dy REACH
    let oy{dy} = below + {dy}u + 1u - REACH;
    let inside{dy} = (oy{dy} < p.out_height) & (oy{dy} * p.stride + p.kernel > y + p.pad);
#repeat dx SPAN
    let ox{dy}_{dx} = beside + {dx}u + 1u - SPAN;
    let inside{dy}_{dx} = inside{dy} & (ox{dy}_{dx} < p.out_width);
    let o{dy}_{dx} = select(0u, oy{dy} * p.out_width + ox{dy}_{dx}, inside{dy}_{dx});
    let chosen{dy}_{dx} = indices[indices_first + o{dy}_{dx}];
    let gradient{dy}_{dx} = select(0.0, f32(dy_data[dy_first + o{dy}_{dx}]), inside{dy}_{dx});
#end
#end
    var sum = vec4<f32>(0.0);
#repeat dy REACH
#repeat dx SPAN
    sum += select(vec4<f32>(0.0), vec4<f32>(gradient{dy}_{dx}), me == vec4<u32>(chosen{dy}_{dx}));
#end
#end
    let inner = c * p.height * p.width + me.x;
    let place = p.x_offset + n * p.x_stride + inner;
#if VECTOR
#if ACCUMULATE
    sum += vec4<f32>(dx_data[place / 4u]);
#endif
#if MASK
    let counts = vec4<f32>(mask[(p.mask_offset + n * p.mask_stride + inner) / 4u]) > vec4<f32>(0.0);
    sum = select(vec4<f32>(0.0), sum, counts);
#endif
    dx_data[place / 4u] = dx_data_element(sum);
#else
#repeat e 4
    if x + {e}u < p.width {
        var total = sum[{e}u];
#include "store_gradient.wgsl" sum = total; place = place + {e}u; inner = inner + {e}u
    }
#end
#endif
}

// The same with one invocation per plane: each output's gradient is added to the element of its
// maximum. Few loads, for devices where loads are expensive and few invocations suffice. p: planes
// and the sizes above.
//# max_pool_grad_planes
@compute @workgroup_size(WORKGROUP_X)
fn max_pool_grad_planes(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.planes { return; }
    let n = i / p.channels;
    let c = i - n * p.channels;
    let plane = p.height * p.width;
    let out_plane = p.out_height * p.out_width;
    let dx_first = p.x_offset + n * p.x_stride + c * plane;
    let dy_first = p.y_offset + n * p.y_stride + c * out_plane;
#if !ACCUMULATE
    for (var k = 0u; k < plane; k++) { dx_data[dx_first + k] = dx_data_element(0.0); }
#endif
    for (var o = 0u; o < out_plane; o++) {
        // Clamped, so that invalid indices cause no out-of-bounds write.
        let place = dx_first + min(indices[i * out_plane + o], plane - 1u);
        dx_data[place] = dx_data_element(f32(dx_data[place]) + f32(dy_data[dy_first + o]));
    }
#if MASK
    let mask_first = p.mask_offset + n * p.mask_stride + c * plane;
    for (var k = 0u; k < plane; k++) {
        let counts = f32(mask[mask_first + k]) > 0.0;
        dx_data[dx_first + k] = dx_data_element(select(0.0, f32(dx_data[dx_first + k]), counts));
    }
#endif
}
