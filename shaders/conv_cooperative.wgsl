// Convolution on cooperative matrices (tensor cores, simdgroup matrices) as implicit GEMM in the three directions of conv.wgsl.
//
// A workgroup makes TILE_M x TILE_N results. Tiles of both factors are staged in workgroup memory, zero outside of the tensors; SUBGROUPS
// subgroups, ACROSS of them side by side, multiply EACH_M x EACH_N matrices of SIZE x SIZE each and add in f32; the results go through
// workgroup memory to where they belong. A device that makes smaller subgroups than it may has more of them: those do the work of
// another once more, so that control flow stays uniform.
//
// With EMULATED, plain loops stand for the three operations on matrices: what runs where there are none, to test all the rest.
//
// Constants: the above; DEPTH (of the sum at a time), SIXTEEN (whether SIZE is 16, not 8), KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, RELU,
// BIAS, NORM, ACCUMULATE, MASK. p: batch, channels, height, width, outputs, out_height, out_width, pad_h, pad_w; x_offset, x_stride, y_offset, y_stride
// (from item to item); chunk (terms of one part of the sum).

const TAPS = KERNEL_H * KERNEL_W;
const LEFT_STRIDE = TILE_M + 8u;
const RIGHT_STRIDE = TILE_N + 8u;
const ELEMENTS = SIZE * SIZE;

// Staged tiles have the type that activations are stored as: there is nothing to gain in more, and nothing is lost.
//# forward_cooperative weight_gradient_cooperative
alias Number = x_data_element;

//# input_gradient_cooperative
alias Number = dy_data_element;

//# forward_cooperative input_gradient_cooperative weight_gradient_cooperative
var<workgroup> left_tile: array<Number, DEPTH * LEFT_STRIDE>;
var<workgroup> right_tile: array<Number, DEPTH * RIGHT_STRIDE>;
var<workgroup> results: array<f32, SUBGROUPS * ELEMENTS>;

struct Pixel {
    item: u32,
    y: u32,
    x: u32,
}

// A pixel's number, counted over the batch, taken apart.
fn pixel_of(q: u32, height: u32, width: u32) -> Pixel {
    let n = q / (height * width);
    let rest = q - n * height * width;
    let y = rest / width;
    return Pixel(n, y, rest - y * width);
}

// x at channel c where tap (kh, kw) of the window of an output pixel lies; zero outside.
//# forward_cooperative weight_gradient_cooperative
fn tap(pixel: Pixel, c: u32, t: u32) -> f32 {
    // Coordinates beyond the upper and left edges are large unsigned numbers.
    let y = pixel.y * STRIDE_H + t / KERNEL_W - p.pad_h;
    let x = pixel.x * STRIDE_W + t % KERNEL_W - p.pad_w;
    let inside = y < p.height && x < p.width;
    let first = p.x_offset + pixel.item * p.x_stride;
    return select(0.0, f32(x_data[first + select(0u, (c * p.height + y) * p.width + x, inside)]), inside);
}

//# forward_cooperative
fn terms(part: u32) -> vec2<u32> { return vec2(0u, p.channels * TAPS); }

fn stage(first_m: u32, first_n: u32, start: u32, end: u32, local: u32) {
    for (var i = local; i < TILE_M * DEPTH; i += WORKGROUP) {
        let k = start + i % DEPTH;
        let o = first_m + i / DEPTH;
        let inside = o < p.outputs && k < end;
        let value = select(0.0, f32(weight[select(0u, o * end + k, inside)]), inside);
        left_tile[(i % DEPTH) * LEFT_STRIDE + i / DEPTH] = Number(value);
    }
    // An invocation loads one column, so that it takes its pixel apart once.
    let n = local % TILE_N;
    let pixels = p.batch * p.out_height * p.out_width;
    let pixel = pixel_of(min(first_n + n, pixels - 1u), p.out_height, p.out_width);
    for (var i = local / TILE_N; i < DEPTH; i += WORKGROUP / TILE_N) {
        let k = start + i;
        var value = 0.0;
        if first_n + n < pixels && k < end {
            let c = k / TAPS;
            value = tap(pixel, c, k - c * TAPS);
        }
        right_tile[i * RIGHT_STRIDE + n] = Number(value);
    }
}

fn finish(o: u32, q: u32, part: u32, sum: f32) {
    if o >= p.outputs || q >= p.batch * p.out_height * p.out_width { return; }
    var value = sum;
#if BIAS
    value += f32(bias[o]);
#endif
#if NORM
    value = (value - mean[o]) * (inverseSqrt(variance[o] + p.epsilon) * scale[o]) + shift[o];
#endif
#if RELU
    value = max(value, 0.0);
#endif
    let plane = p.out_height * p.out_width;
    let n = q / plane;
    y_data[p.y_offset + n * p.y_stride + o * plane + q - n * plane] = y_data_element(value);
}

//# input_gradient_cooperative
fn terms(part: u32) -> vec2<u32> { return vec2(0u, p.outputs * TAPS); }

// dy at output channel o where the kernel's tap t covers an input pixel; zero where none does.
fn tap(pixel: Pixel, o: u32, t: u32) -> f32 {
    let up = i32(pixel.y + p.pad_h) - i32(t / KERNEL_W);
    let left = i32(pixel.x + p.pad_w) - i32(t % KERNEL_W);
    let y = u32(up) / STRIDE_H;
    let x = u32(left) / STRIDE_W;
    // A negative coordinate divided as an unsigned one could fall inside, so its sign is tested by itself.
    let inside = up >= 0 && left >= 0 && y * STRIDE_H == u32(up) && x * STRIDE_W == u32(left)
        && y < p.out_height && x < p.out_width;
    let first = p.y_offset + pixel.item * p.y_stride;
    return select(0.0, f32(dy_data[first + select(0u, (o * p.out_height + y) * p.out_width + x, inside)]), inside);
}

fn stage(first_m: u32, first_n: u32, start: u32, end: u32, local: u32) {
    for (var i = local; i < TILE_M * DEPTH; i += WORKGROUP) {
        let k = start + i / TILE_M;
        let c = first_m + i % TILE_M;
        let o = k / TAPS;
        let inside = c < p.channels && k < end;
        let at = (o * p.channels + c) * TAPS + k - o * TAPS;
        let value = select(0.0, f32(weight[select(0u, at, inside)]), inside);
        left_tile[i / TILE_M * LEFT_STRIDE + i % TILE_M] = Number(value);
    }
    let n = local % TILE_N;
    let pixels = p.batch * p.height * p.width;
    let pixel = pixel_of(min(first_n + n, pixels - 1u), p.height, p.width);
    for (var i = local / TILE_N; i < DEPTH; i += WORKGROUP / TILE_N) {
        let k = start + i;
        var value = 0.0;
        if first_n + n < pixels && k < end {
            let o = k / TAPS;
            value = tap(pixel, o, k - o * TAPS);
        }
        right_tile[i * RIGHT_STRIDE + n] = Number(value);
    }
}

fn finish(c: u32, q: u32, part: u32, sum: f32) {
    if c >= p.channels || q >= p.batch * p.height * p.width { return; }
    let plane = p.height * p.width;
    let n = q / plane;
    let inner = c * plane + q - n * plane;
    let at = p.x_offset + n * p.x_stride + inner;
    var value = sum;
#if ACCUMULATE
    value += f32(dx_data[at]);
#endif
#if MASK
    value = select(0.0, value, f32(mask[p.mask_offset + n * p.mask_stride + inner]) > 0.0);
#endif
    dx_data[at] = dx_data_element(value);
}

// The sum over pixels is cut into parts, one for each group.z; sum_parts of conv.wgsl adds them in order.
//# weight_gradient_cooperative
fn terms(part: u32) -> vec2<u32> {
    let pixels = p.batch * p.out_height * p.out_width;
    return vec2(part * p.chunk, min((part + 1u) * p.chunk, pixels));
}

fn stage(first_m: u32, first_n: u32, start: u32, end: u32, local: u32) {
    // An invocation loads one pixel of both tiles, for several rows and columns.
    let k = local % DEPTH;
    let plane = p.out_height * p.out_width;
    let pixel_inside = start + k < end;
    let pixel = pixel_of(min(start + k, end - 1u), p.out_height, p.out_width);
    let place = p.y_offset + pixel.item * p.y_stride + pixel.y * p.out_width + pixel.x;
    for (var i = local / DEPTH; i < TILE_M; i += WORKGROUP / DEPTH) {
        let o = first_m + i;
        let inside = pixel_inside && o < p.outputs;
        let value = select(0.0, f32(dy_data[place + select(0u, o * plane, inside)]), inside);
        left_tile[k * LEFT_STRIDE + i] = Number(value);
    }
    for (var i = local / DEPTH; i < TILE_N; i += WORKGROUP / DEPTH) {
        let r = first_n + i;
        var value = 0.0;
        if pixel_inside && r < p.channels * TAPS {
            let c = r / TAPS;
            value = tap(pixel, c, r - c * TAPS);
        }
        right_tile[k * RIGHT_STRIDE + i] = Number(value);
    }
}

fn finish(o: u32, r: u32, part: u32, sum: f32) {
    let width = p.channels * TAPS;
    if o < p.outputs && r < width { partial[(part * p.outputs + o) * width + r] = sum; }
}

//# forward_cooperative input_gradient_cooperative weight_gradient_cooperative
#if EMULATED
const LANES = WORKGROUP / SUBGROUPS;
const SHARE = ELEMENTS / LANES;

fn multiply_add(sum: ptr<function, array<f32, SHARE>>, a: u32, b: u32, lane: u32) {
    for (var e = 0u; e < SHARE; e++) {
        let m = (lane + e * LANES) / SIZE;
        let n = (lane + e * LANES) % SIZE;
        for (var k = 0u; k < SIZE; k++) {
            (*sum)[e] += f32(left_tile[a + k * LEFT_STRIDE + m]) * f32(right_tile[b + k * RIGHT_STRIDE + n]);
        }
    }
}
#else
#if SIXTEEN
alias MatrixA = coop_mat16x16<Number, A>;
alias MatrixB = coop_mat16x16<Number, B>;
alias MatrixC = coop_mat16x16<f32, C>;
#else
alias MatrixA = coop_mat8x8<Number, A>;
alias MatrixB = coop_mat8x8<Number, B>;
alias MatrixC = coop_mat8x8<f32, C>;
#endif
#endif

fn tile(group: vec3<u32>, local: u32, subgroup: u32) {
    let first_m = group.y * TILE_M;
    let first_n = group.x * TILE_N;
    let range = terms(group.z);
    let me = subgroup % SUBGROUPS;
    let row = me / ACROSS * EACH_M * SIZE;
    let column = me % ACROSS * EACH_N * SIZE;
    let mine = me * ELEMENTS;
#if EMULATED
    let lane = local % LANES;
#repeat i EACH_M
#repeat j EACH_N
    var sum{i}_{j}: array<f32, SHARE>;
#end
#end
#else
    let stride = SIZE;
    let left_stride = LEFT_STRIDE;
    let right_stride = RIGHT_STRIDE;
    // Loading zeros is the one way to begin a sum that all drivers agree on.
    for (var e = local; e < SUBGROUPS * ELEMENTS; e += WORKGROUP) { results[e] = 0.0; }
    workgroupBarrier();
#repeat i EACH_M
#repeat j EACH_N
    var sum{i}_{j} = coopLoadT<MatrixC>(&results[mine], stride);
#end
#end
    workgroupBarrier();
#endif
    for (var start = range.x; start < range.y; start += DEPTH) {
        stage(first_m, first_n, start, range.y, local);
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += SIZE) {
#if EMULATED
#repeat i EACH_M
#repeat j EACH_N
            multiply_add(
                &sum{i}_{j},
                k * LEFT_STRIDE + row + {i}u * SIZE,
                k * RIGHT_STRIDE + column + {j}u * SIZE,
                lane,
            );
#end
#end
#else
#repeat i EACH_M
            let left{i} = k * LEFT_STRIDE + row + {i}u * SIZE;
            let a{i} = coopLoad<MatrixA>(&left_tile[left{i}], left_stride);
#end
#repeat j EACH_N
            let right{j} = k * RIGHT_STRIDE + column + {j}u * SIZE;
            let b{j} = coopLoadT<MatrixB>(&right_tile[right{j}], right_stride);
#repeat i EACH_M
            sum{i}_{j} = coopMultiplyAdd(a{i}, b{j}, sum{i}_{j});
#end
#end
#endif
        }
        workgroupBarrier();
    }
    // One matrix of each subgroup at a time.
#repeat i EACH_M
#repeat j EACH_N
#if EMULATED
    for (var e = 0u; e < SHARE; e++) { results[mine + lane + e * LANES] = sum{i}_{j}[e]; }
#else
    coopStoreT(sum{i}_{j}, &results[mine], stride);
#endif
    workgroupBarrier();
    for (var e = local; e < SUBGROUPS * ELEMENTS; e += WORKGROUP) {
        let owner = e / ELEMENTS;
        let within = e % ELEMENTS;
        let m = first_m + (owner / ACROSS * EACH_M + {i}u) * SIZE + within / SIZE;
        let n = first_n + (owner % ACROSS * EACH_N + {j}u) * SIZE + within % SIZE;
        finish(m, n, group.z, results[e]);
    }
    workgroupBarrier();
#end
#end
}

//# forward_cooperative
@compute @workgroup_size(WORKGROUP_X)
fn forward_cooperative(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
#if !EMULATED
    @builtin(subgroup_id) subgroup: u32,
#endif
) {
#if EMULATED
    let subgroup = local / LANES;
#endif
    tile(group, local, subgroup);
}

//# input_gradient_cooperative
@compute @workgroup_size(WORKGROUP_X)
fn input_gradient_cooperative(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
#if !EMULATED
    @builtin(subgroup_id) subgroup: u32,
#endif
) {
#if EMULATED
    let subgroup = local / LANES;
#endif
    tile(group, local, subgroup);
}

//# weight_gradient_cooperative
@compute @workgroup_size(WORKGROUP_X)
fn weight_gradient_cooperative(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
#if !EMULATED
    @builtin(subgroup_id) subgroup: u32,
#endif
) {
#if EMULATED
    let subgroup = local / LANES;
#endif
    tile(group, local, subgroup);
}
