// Convolution on cooperative matrices (tensor cores, simdgroup matrices) as implicit GEMM, appended
// to conv_implicit.wgsl. A workgroup computes TILE_M x TILE_N results in K steps of DEPTH, from
// double-buffered tiles in workgroup memory: the next pair of tiles is loaded while the current one
// is multiplied. SUBGROUPS subgroups, ACROSS of them per row, multiply EACH_M x EACH_N matrices of
// SIZE x SIZE each with f32 accumulation. Results are stored through workgroup memory. If the
// device uses smaller subgroups than its maximum, there are more of them; these repeat the work of
// others, so that control flow stays uniform.
//
// Forward and input gradient are one product, as in conv_tiled.wgsl, with weights packed by
// pack_tiled; the weight gradient sums over pixels. In tiles, the terms of a sum lie together: a
// lane's part of a matrix is then a few long loads. Invocations load four elements at a time:
// adjacent ones as a vector where possible (VECTOR, VECTOR_X), otherwise of four channels, so that
// adjacent invocations load adjacent pixels. Four terms that are loaded together are stored as a
// vector (LEFT_VECTORS, RIGHT_VECTORS); a product with VECTOR, where the four elements are pixels,
// loads four channels of them and transposes (BLOCKED).
//
// With EMULATED, plain loops replace the three matrix operations, to test everything else without
// cooperative matrices.
//
// Constants: the above; BLOCKS (of an invocation); HALF (whether factors are f16, not f32), SIXTEEN
// (whether SIZE is 16, not 8), LEFT_LOADS, RIGHT_LOADS (vectors that an invocation loads for a pair
// of tiles); the others as in conv_tiled.wgsl.

#include "conv_implicit.wgsl"

//# product_cooperative weight_gradient_cooperative
// Tiles have the storage type of activations; a wider type would gain nothing.
#if HALF
alias Number = f16;
#else
alias Number = f32;
#endif
const ELEMENTS = SIZE * SIZE;

// A row of a tile has the K step of a row or column of the result, padded by eight elements, so
// that rows start in different banks.
const ROW = DEPTH + 8u;
const LEFT_SIZE = TILE_M * ROW;
const RIGHT_SIZE = TILE_N * ROW;

// Elements of tiles are vectors of WIDTH numbers, if they are stored so.
#if LEFT_VECTORS
const LEFT_WIDTH = 4u;
var<workgroup> left_tile: array<vec4<Number>, LEFT_SIZE / 2u>;
#else
const LEFT_WIDTH = 1u;
var<workgroup> left_tile: array<Number, 2u * LEFT_SIZE>;
#endif
#if RIGHT_VECTORS
const RIGHT_WIDTH = 4u;
var<workgroup> right_tile: array<vec4<Number>, RIGHT_SIZE / 2u>;
#else
const RIGHT_WIDTH = 1u;
var<workgroup> right_tile: array<Number, 2u * RIGHT_SIZE>;
#endif

#if EMULATED
fn left_number(at: u32) -> f32 {
#if LEFT_VECTORS
    return f32(left_tile[at / 4u][at % 4u]);
#else
    return f32(left_tile[at]);
#endif
}

fn right_number(at: u32) -> f32 {
#if RIGHT_VECTORS
    return f32(right_tile[at / 4u][at % 4u]);
#else
    return f32(right_tile[at]);
#endif
}
#endif

var<workgroup> results: array<f32, SUBGROUPS * ELEMENTS>;

// Position of an invocation in its pixels and in K.
//# product_cooperative
struct Cursor {
    window: Window,
    tap: Tap,
    // Tap and first channel of the K step.
    t: u32,
    c: u32,
}

#if VECTOR
const COLUMNS = TILE_N / 4u;
#else
const COLUMNS = TILE_N;
#endif

fn steps_of(part: u32) -> vec2<u32> {
    return vec2(part * p.chunk, min((part + 1u) * p.chunk, p.steps));
}

fn begin(group: vec3<u32>, local: u32, step: u32) -> Cursor {
    let column = local % COLUMNS;
#if VECTOR
    let window = window_of(group.y * TILE_N + column * 4u);
#else
    let window = window_of(group.y * TILE_N + column);
#endif
#if TAP_OUTER
    let steps_of_tap = p.steps / p.taps;
    let t = step / steps_of_tap;
    return Cursor(window, tap_of(window, t / p.kernel_w, t % p.kernel_w), t, (step - t * steps_of_tap) * DEPTH);
#else
    return Cursor(window, Tap(0u, true), 0u, 0u);
#endif
}

fn advance(before: Cursor, local: u32, step: u32) -> Cursor {
    var cursor = before;
#if TAP_OUTER
    cursor.c += DEPTH;
    if cursor.c >= p.depth {
        cursor.c = 0u;
        cursor.t += 1u;
        cursor.tap = tap_of(cursor.window, cursor.t / p.kernel_w, cursor.t % p.kernel_w);
    }
#endif
    return cursor;
}

fn load_left(i: u32, group: vec3<u32>, local: u32, step: u32, cursor: Cursor) -> vec4<Number> {
    return panel[(group.x * p.steps + step) * (DEPTH * TILE_M / 4u) + local + i * WORKGROUP];
}

fn store_left(i: u32, local: u32, tile: u32, value: vec4<Number>) {
    let at = local + i * WORKGROUP;
    left_tile[(tile + at / (DEPTH / 4u) * ROW) / 4u + at % (DEPTH / 4u)] = value;
}

// The four channels of an invocation's loads. With VECTOR, a block of four loads; there may be more
// invocations than blocks.
fn four_channels(i: u32, local: u32) -> u32 {
    return local / COLUMNS + i * (WORKGROUP / COLUMNS);
}

fn load_right(i: u32, group: vec3<u32>, local: u32, step: u32, cursor: Cursor) -> vec4<Number> {
    let plane = p.height * p.width;
#if VECTOR
    let k = four_channels(i / 4u, local) * 4u + i % 4u;
    // Channels past the last have zero weights.
    return vec4<Number>(source[(cursor.tap.at + min(cursor.c + k, p.depth - 1u) * plane) / 4u]);
#else
    let k = four_channels(i, local);
    var value = vec4<Number>();
#if TAP_OUTER
    let at = cursor.tap.at + select(0u, min(cursor.c + k * 4u, p.depth - 4u) * plane, cursor.tap.inside);
#repeat e 4
    value[{e}u] = select(Number(0.0), Number(source[at + {e}u * plane]), cursor.tap.inside);
#end
#else
#repeat e 4
    {
        let index = step * DEPTH + k * 4u + {e}u;
        let channel = min(index / p.taps, p.depth - 1u);
        let t = index % p.taps;
        let tap = tap_of(cursor.window, t / p.kernel_w, t % p.kernel_w);
        value[{e}u] = select(Number(0.0), Number(source[tap.at + channel * plane]), tap.inside);
    }
#end
#endif
    return value;
#endif
}

#if VECTOR
// Four pixels of four channels.
fn store_block(b: u32, local: u32, tile: u32, rows: array<vec4<Number>, 4>) {
    let k = four_channels(b, local);
    if k >= DEPTH / 4u { return; }
#repeat e 4
    right_tile[(tile + (local % COLUMNS * 4u + {e}u) * ROW) / 4u + k] =
        vec4(rows[0][{e}u], rows[1][{e}u], rows[2][{e}u], rows[3][{e}u]);
#end
}
#else
fn store_right(i: u32, local: u32, tile: u32, value: vec4<Number>) {
    right_tile[(tile + local % COLUMNS * ROW) / 4u + four_channels(i, local)] = value;
}
#endif

#if STORE_VECTOR
const KEPT = 4u;
#else
const KEPT = 1u;
#endif

// Stores the KEPT elements of `results` from `at`, which belong to this row of the tile and to
// columns from n.
fn keep(group: vec3<u32>, m: u32, n: u32, at: u32) {
    let row = group.x * TILE_M + m;
    let pixel = group.y * TILE_N + n;
    if row >= p.rows || pixel >= p.batch * p.out_height * p.out_width { return; }
#if STORE_VECTOR
    let value = vec4(results[at], results[at + 1u], results[at + 2u], results[at + 3u]);
    finish(value, row, pixel, p.out_height * p.out_width);
#else
#if SPLIT
    put(results[at], group.z * p.rows + row, pixel);
#else
    put(results[at], row, pixel);
#endif
#endif
}

// Split-K over pixels, one part per group.z; sum_parts of conv.wgsl adds the parts in order.
//# weight_gradient_cooperative
struct Cursor {
    // Indices of a pixel in dy and of its window in x, and the window's coordinates.
    dy_at: u32,
    x_at: u32,
    top: i32,
    side: i32,
    // The first of four pixels in dy and in x, if they are loaded as a vector.
    dy_four: u32,
    x_four: u32,
    // Whether the pixels are inside the part.
    counts: bool,
    four_counts: bool,
}

fn steps_of(part: u32) -> vec2<u32> {
    let pixels = p.batch * p.out_height * p.out_width;
    return vec2(part * p.chunk, min((part + 1u) * p.chunk, (pixels + DEPTH - 1u) / DEPTH));
}

fn begin(group: vec3<u32>, local: u32, step: u32) -> Cursor {
    let plane = p.out_height * p.out_width;
    let pixels = p.batch * plane;
    let mine = step * DEPTH + local % DEPTH;
    let q = min(mine, pixels - 1u);
    let n = q / plane;
    let rest = q - n * plane;
    let y = rest / p.out_width;
    // Pixels past the last contribute nothing: their dy is zero.
    let fours = step * DEPTH + local % (DEPTH / 4u) * 4u;
    let four = min(fours, pixels - 4u);
    let item = four / plane;
    let inner = four - item * plane;
    return Cursor(
        p.y_offset + n * p.y_stride + rest,
        p.x_offset + n * p.x_stride,
        i32(y * p.stride_h) - i32(p.pad_h),
        i32((rest - y * p.out_width) * p.stride_w) - i32(p.pad_w),
        p.y_offset + item * p.y_stride + inner,
        p.x_offset + item * p.x_stride + inner,
        mine < pixels,
        fours < pixels,
    );
}

fn advance(before: Cursor, local: u32, step: u32) -> Cursor {
    return begin(vec3<u32>(), local, step);
}

// The row or column and the index in K at which an invocation loads four K steps, or four rows or
// columns.
fn load_line(i: u32, local: u32, together: bool) -> u32 {
    if together { return local / (DEPTH / 4u) + i * (WORKGROUP / (DEPTH / 4u)); }
    return (local / DEPTH + i * (WORKGROUP / DEPTH)) * 4u;
}

fn load_left(i: u32, group: vec3<u32>, local: u32, step: u32, cursor: Cursor) -> vec4<Number> {
    let plane = p.out_height * p.out_width;
    let o = group.x * TILE_M + load_line(i, local, VECTOR);
#if VECTOR
    let value = vec4<Number>(dy_data[(cursor.dy_four + min(o, p.outputs - 1u) * plane) / 4u]);
    return select(vec4<Number>(), value, cursor.four_counts);
#else
    var value = vec4<Number>();
#repeat e 4
    value[{e}u] = select(Number(0.0), Number(dy_data[cursor.dy_at + min(o + {e}u, p.outputs - 1u) * plane]), cursor.counts);
#end
    return value;
#endif
}

fn store_left(i: u32, local: u32, tile: u32, value: vec4<Number>) {
    let m = load_line(i, local, VECTOR);
#if VECTOR
    left_tile[(tile + m * ROW) / 4u + local % (DEPTH / 4u)] = value;
#else
#repeat e 4
    left_tile[tile + (m + {e}u) * ROW + local % DEPTH] = value[{e}u];
#end
#endif
}

fn load_right(i: u32, group: vec3<u32>, local: u32, step: u32, cursor: Cursor) -> vec4<Number> {
    let plane = p.height * p.width;
    let columns = p.channels * p.taps;
    let r = group.y * TILE_N + load_line(i, local, VECTOR_X);
#if VECTOR_X
    return vec4<Number>(x_data[(cursor.x_four + min(r, columns - 1u) * plane) / 4u]);
#else
    var value = vec4<Number>();
#if TAP_OUTER
    let column = result_column(min(r, columns - 4u));
    let c = column / p.taps;
    let t = column - c * p.taps;
    let y = cursor.top + i32(t / p.kernel_w);
    let x = cursor.side + i32(t % p.kernel_w);
    let inside = (u32(y) < p.height) & (u32(x) < p.width);
    let at = cursor.x_at + c * plane + select(0u, u32(y) * p.width + u32(x), inside);
#repeat e 4
    value[{e}u] = select(Number(0.0), Number(x_data[at + {e}u * plane]), inside);
#end
#else
#repeat e 4
    {
        let column = min(r + {e}u, columns - 1u);
        let c = column / p.taps;
        let t = column - c * p.taps;
        let y = cursor.top + i32(t / p.kernel_w);
        let x = cursor.side + i32(t % p.kernel_w);
        let inside = (u32(y) < p.height) & (u32(x) < p.width);
        let at = cursor.x_at + select(0u, c * plane + u32(y) * p.width + u32(x), inside);
        value[{e}u] = select(Number(0.0), Number(x_data[at]), inside);
    }
#end
#endif
    return value;
#endif
}

fn store_right(i: u32, local: u32, tile: u32, value: vec4<Number>) {
    let n = load_line(i, local, VECTOR_X);
#if VECTOR_X
    right_tile[(tile + n * ROW) / 4u + local % (DEPTH / 4u)] = value;
#else
#repeat e 4
    right_tile[tile + (n + {e}u) * ROW + local % DEPTH] = value[{e}u];
#end
#endif
}

const KEPT = 1u;

fn keep(group: vec3<u32>, m: u32, n: u32, at: u32) {
    let o = group.x * TILE_M + m;
    let r = group.y * TILE_N + n;
    let columns = p.channels * p.taps;
    if o >= p.outputs || r >= columns { return; }
    partial[(group.z * p.outputs + o) * columns + result_column(r)] = results[at];
}

//# product_cooperative weight_gradient_cooperative
#if EMULATED
const LANES = WORKGROUP / SUBGROUPS;
const SHARE = ELEMENTS / LANES;

// `size` is SIZE, hidden from the compiler: unrolled loops take CPU drivers minutes to compile.
fn multiply_add(sum: ptr<function, array<f32, SHARE>>, a: u32, b: u32, lane: u32, size: u32) {
    for (var e = 0u; e < SHARE; e++) {
        let m = (lane + e * LANES) / SIZE;
        let n = (lane + e * LANES) % SIZE;
        for (var k = 0u; k < size; k++) {
            (*sum)[e] += left_number(a + k + m * ROW) * right_number(b + k + n * ROW);
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
    let range = steps_of(group.z);
    let me = subgroup % SUBGROUPS;
    let row = me / ACROSS * EACH_M * SIZE;
    let column = me % ACROSS * EACH_N * SIZE;
    let mine = me * ELEMENTS;
#if EMULATED
    let lane = local % LANES;
    let size = SIZE + (group.x >> 31u);
#repeat i EACH_M
#repeat j EACH_N
    var sum{i}_{j}: array<f32, SHARE>;
#end
#end
#else
    let stride = SIZE;
    let left_stride = ROW / LEFT_WIDTH;
    let right_stride = ROW / RIGHT_WIDTH;
    // Loading zeros is the only initialization that works on all drivers.
    for (var e = local; e < SUBGROUPS * ELEMENTS; e += WORKGROUP) { results[e] = 0.0; }
    workgroupBarrier();
#repeat i EACH_M
#repeat j EACH_N
    var sum{i}_{j} = coopLoadT<MatrixC>(&results[mine], stride);
#end
#end
    workgroupBarrier();
#endif
    var cursor = begin(group, local, range.x);
#repeat i LEFT_LOADS
    store_left({i}u, local, 0u, load_left({i}u, group, local, range.x, cursor));
    var left{i} = vec4<Number>();
#end
#if BLOCKED
#repeat b BLOCKS
    var block{b}: array<vec4<Number>, 4>;
#repeat e 4
    block{b}[{e}u] = load_right({b}u * 4u + {e}u, group, local, range.x, cursor);
#end
    store_block({b}u, local, 0u, block{b});
#end
#else
#repeat i RIGHT_LOADS
    store_right({i}u, local, 0u, load_right({i}u, group, local, range.x, cursor));
    var right{i} = vec4<Number>();
#end
#endif
    workgroupBarrier();
    var left_at = 0u;
    var right_at = 0u;
    for (var step = range.x + 1u; step <= range.y; step++) {
        // Load the next pair of tiles while this one is multiplied.
        if step < range.y {
            cursor = advance(cursor, local, step);
#repeat i LEFT_LOADS
            left{i} = load_left({i}u, group, local, step, cursor);
#end
#if BLOCKED
#repeat b BLOCKS
#repeat e 4
            block{b}[{e}u] = load_right({b}u * 4u + {e}u, group, local, step, cursor);
#end
#end
#else
#repeat i RIGHT_LOADS
            right{i} = load_right({i}u, group, local, step, cursor);
#end
#endif
        }
        for (var k = 0u; k < DEPTH; k += SIZE) {
#if EMULATED
#repeat i EACH_M
#repeat j EACH_N
            multiply_add(
                &sum{i}_{j},
                left_at + k + (row + {i}u * SIZE) * ROW,
                right_at + k + (column + {j}u * SIZE) * ROW,
                lane,
                size,
            );
#end
#end
#else
#repeat i EACH_M
            let a_at{i} = (left_at + k + (row + {i}u * SIZE) * ROW) / LEFT_WIDTH;
            let a{i} = coopLoadT<MatrixA>(&left_tile[a_at{i}], left_stride);
#end
#repeat j EACH_N
            let b_at{j} = (right_at + k + (column + {j}u * SIZE) * ROW) / RIGHT_WIDTH;
            let b{j} = coopLoad<MatrixB>(&right_tile[b_at{j}], right_stride);
#repeat i EACH_M
            sum{i}_{j} = coopMultiplyAdd(a{i}, b{j}, sum{i}_{j});
#end
#end
#endif
        }
        left_at = LEFT_SIZE - left_at;
        right_at = RIGHT_SIZE - right_at;
        if step < range.y {
#repeat i LEFT_LOADS
            store_left({i}u, local, left_at, left{i});
#end
#if BLOCKED
#repeat b BLOCKS
            store_block({b}u, local, right_at, block{b});
#end
#else
#repeat i RIGHT_LOADS
            store_right({i}u, local, right_at, right{i});
#end
#endif
        }
        workgroupBarrier();
    }
    // One matrix per subgroup at a time.
#repeat i EACH_M
#repeat j EACH_N
#if EMULATED
    for (var e = 0u; e < SHARE; e++) { results[mine + lane + e * LANES] = sum{i}_{j}[e]; }
#else
    coopStoreT(sum{i}_{j}, &results[mine], stride);
#endif
    workgroupBarrier();
    for (var e = local * KEPT; e < SUBGROUPS * ELEMENTS; e += WORKGROUP * KEPT) {
        let owner = e / ELEMENTS;
        let within = e % ELEMENTS;
        let m = (owner / ACROSS * EACH_M + {i}u) * SIZE + within / SIZE;
        let n = (owner % ACROSS * EACH_N + {j}u) * SIZE + within % SIZE;
        keep(group, m, n, e);
    }
    workgroupBarrier();
#end
#end
}

//# product_cooperative
@compute @workgroup_size(WORKGROUP_X)
fn product_cooperative(
#include "subgroup_invocation.wgsl"
) {
#if EMULATED
    let subgroup = local / LANES;
#endif
    tile(tile_of(group), local, subgroup);
}

//# weight_gradient_cooperative
@compute @workgroup_size(WORKGROUP_X)
fn weight_gradient_cooperative(
#include "subgroup_invocation.wgsl"
) {
#if EMULATED
    let subgroup = local / LANES;
#endif
    tile(group, local, subgroup);
}
