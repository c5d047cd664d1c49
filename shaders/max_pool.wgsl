// Max pooling and its gradient. x is [batch, channels, height, width], y [batch, channels, out_height, out_width]. p: count
// (elements of the result), channels, height, width, out_height, out_width, kernel, stride, pad; x_offset, x_stride, y_offset,
// y_stride. Constants: REACH and SPAN (windows in a line that can contain an element, and one of four), FOUR = 4,
// VECTOR, INDICES, ACCUMULATE, MASK (mask_offset, mask_stride: zeros where the activation `mask` is not above zero).

// The maximum of each window; of equals the first in row-major order. Padding never wins; NaN does.
//# max_pool
@compute @workgroup_size(WORKGROUP_X)
fn max_pool(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let row = i / p.out_width;
    let ox = i - row * p.out_width;
    let plane = row / p.out_height;
    let oy = row - plane * p.out_height;
    let n = plane / p.channels;
    let c = plane - n * p.channels;
    // Windows begin inside the input or its padding and are cut where they reach out of the input.
    let top = max(oy * p.stride, p.pad) - p.pad;
    let left = max(ox * p.stride, p.pad) - p.pad;
    let bottom = min(oy * p.stride + p.kernel - p.pad, p.height);
    let right = min(ox * p.stride + p.kernel - p.pad, p.width);
    let first = p.x_offset + n * p.x_stride + c * p.height * p.width;
    var best = f32(x_data[first + top * p.width + left]);
    var index = top * p.width + left;
    for (var y = top; y < bottom; y++) {
        for (var x = left; x < right; x++) {
            let value = f32(x_data[first + y * p.width + x]);
            // The bits of a NaN, because drivers may assume that there are none.
            let is_nan = (bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u;
            if value > best || is_nan {
                best = value;
                index = y * p.width + x;
            }
        }
    }
    let place = p.y_offset + n * p.y_stride + (c * p.out_height + oy) * p.out_width + ox;
    y_data[place] = y_data_element(best);
#if INDICES
    indices[i] = index;
#endif
}

// Each input element gathers from the windows that contain it and chose it.
//# max_pool_grad
@compute @workgroup_size(WORKGROUP_X)
fn max_pool_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let row = i / p.width;
    let x = i - row * p.width;
    let plane = row / p.height;
    let y = row - plane * p.height;
    let n = plane / p.channels;
    let c = plane - n * p.channels;
    let out_plane = p.out_height * p.out_width;
    let dy_first = p.y_offset + n * p.y_stride + c * out_plane;
    let indices_first = plane * out_plane;
    let me = y * p.width + x;
    // The first window whose end lies behind the element, and the last that begins before it.
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
#if ACCUMULATE
    sum += f32(dx_data[place]);
#endif
#if MASK
    sum = select(0.0, sum, f32(mask[p.mask_offset + n * p.mask_stride + inner]) > 0.0);
#endif
    dx_data[place] = dx_data_element(sum);
}

// The same for four neighbours in a row at once, with the REACH x SPAN windows that can contain one of them written out: places are worked out once
// for all, and loads are on their way together. With VECTOR, rows are whole vectors of dx and of the mask.
//# max_pool_grad_quads
@compute @workgroup_size(WORKGROUP_X)
fn max_pool_grad_quads(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
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
    // The last windows that begin before the element, and before the last of the four; numbers below zero are large ones.
    let below = (y + p.pad) / p.stride;
    let beside = (x + 3u + p.pad) / p.stride;
#repeat dy REACH
    let oy{dy} = below + {dy}u + 1u - REACH;
    let inside{dy} = oy{dy} < p.out_height && oy{dy} * p.stride + p.kernel > y + p.pad;
#repeat dx SPAN
    let ox{dy}_{dx} = beside + {dx}u + 1u - SPAN;
    let inside{dy}_{dx} = inside{dy} && ox{dy}_{dx} < p.out_width;
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
#repeat e FOUR
    if x + {e}u < p.width {
        var total = sum[{e}u];
#if ACCUMULATE
        total += f32(dx_data[place + {e}u]);
#endif
#if MASK
        total = select(0.0, total, f32(mask[p.mask_offset + n * p.mask_stride + inner + {e}u]) > 0.0);
#endif
        dx_data[place + {e}u] = dx_data_element(total);
    }
#end
#endif
}

// The same, one invocation a plane: each output's gradient goes to the element that it chose. Few loads, for devices where they are dear and a
// handful of invocations is enough. p: planes and the extents above.
//# max_pool_grad_planes
@compute @workgroup_size(WORKGROUP_X)
fn max_pool_grad_planes(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
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
        let place = dx_first + indices[i * out_plane + o];
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
