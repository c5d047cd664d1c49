// Fully connected layer as GEMM in three directions: left (m, k) times right (k, n). x is [batch,
// features], the weight [outputs, features], y [batch, outputs].
//
// forward          y[item, output]   m item,   n output,  k feature
// input gradient   dx[item, feature] m item,   n feature, k output
// weight gradient  dw[output, feature] m output, n feature, k item
//
// Constants: RELU; TILE_M, TILE_N, DEPTH, EACH_M, EACH_N as in conv.wgsl; LEFT_ALONG_K,
// RIGHT_ALONG_K (the operand is contiguous along k), SPLIT (split-K, one part per group.z),
// BROADCAST, LANES, BATCH_K (K, if it is the batch). p: rows, columns, depth (m, n, k), part (K per
// part), parts, features, outputs, x_offset, x_stride, y_offset, y_stride.

//# forward_tiled forward_register
fn left(m: u32, k: u32) -> f32 { return f32(x_data[p.x_offset + m * p.x_stride + k]); }
fn right(k: u32, n: u32) -> f32 { return weight[n * p.features + k]; }

//# forward_tiled forward_register forward_finish
#if !SPLIT
fn store(m: u32, n: u32, sum: f32) {
    var value = sum + bias[n];
#if RELU
    value = select(value, 0.0, value <= 0.0);
#endif
    y_data[p.y_offset + m * p.y_stride + n] = y_data_element(value);
}
#endif

//# input_gradient_tiled input_gradient_register
fn left(m: u32, k: u32) -> f32 { return f32(dy_data[p.y_offset + m * p.y_stride + k]); }
fn right(k: u32, n: u32) -> f32 { return weight[k * p.features + n]; }

//# input_gradient_tiled input_gradient_register input_gradient_finish
#if !SPLIT
fn store(m: u32, n: u32, sum: f32) { dx_data[p.x_offset + m * p.x_stride + n] = dx_data_element(sum); }
#endif

//# weight_gradient_tiled weight_gradient_register
fn left(m: u32, k: u32) -> f32 { return f32(dy_data[p.y_offset + k * p.y_stride + m]); }
fn right(k: u32, n: u32) -> f32 { return f32(x_data[p.x_offset + k * p.x_stride + n]); }
fn store(m: u32, n: u32, sum: f32) { dw[m * p.features + n] = sum; }

//# forward_tiled input_gradient_tiled weight_gradient_tiled
const ROWS = TILE_M / EACH_M;
const COLUMNS = TILE_N / EACH_N;
// Rows are padded by one word, so that adjacent invocations that load along k store to different
// banks.
const LEFT_ROW = TILE_M + 1u;
const RIGHT_ROW = TILE_N + 1u;
var<workgroup> left_tile: array<f32, LEFT_ROW * DEPTH>;
var<workgroup> right_tile: array<f32, RIGHT_ROW * DEPTH>;

fn tile(group: vec3<u32>, local: u32) {
    let first_m = group.y * TILE_M;
    let first_n = group.x * TILE_N;
    let row = local / COLUMNS;
    let column = local % COLUMNS;
#include "register_sums.wgsl"
    // Parts are multiples of DEPTH.
#if SPLIT
    let first_k = group.z * p.part;
    let last_k = min(first_k + p.part, p.depth);
#else
    let first_k = 0u;
    let last_k = p.depth;
#endif
    for (var start = first_k; start < last_k; start += DEPTH) {
        for (var i = local; i < TILE_M * DEPTH; i += WORKGROUP) {
            // Adjacent invocations read adjacent words: along k if the operand is contiguous along
            // k, else along m or n.
#if LEFT_ALONG_K
            let m = i / DEPTH;
            let k = i % DEPTH;
#else
            let m = i % TILE_M;
            let k = i / TILE_M;
#endif
            let inside = (first_m + m < p.rows) & (start + k < p.depth);
            left_tile[k * LEFT_ROW + m] =
                select(0.0, left(select(0u, first_m + m, inside), select(0u, start + k, inside)), inside);
        }
        for (var i = local; i < TILE_N * DEPTH; i += WORKGROUP) {
#if RIGHT_ALONG_K
            let n = i / DEPTH;
            let k = i % DEPTH;
#else
            let n = i % TILE_N;
            let k = i / TILE_N;
#endif
            let inside = (first_n + n < p.columns) & (start + k < p.depth);
            right_tile[k * RIGHT_ROW + n] =
                select(0.0, right(select(0u, start + k, inside), select(0u, first_n + n, inside)), inside);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
#repeat i EACH_M
            let a{i} = left_tile[k * LEFT_ROW + row + {i}u * ROWS];
#end
#repeat j EACH_N
            let b{j} = right_tile[k * RIGHT_ROW + column + {j}u * COLUMNS];
#repeat i EACH_M
            sum{i}_{j} += a{i} * b{j};
#end
#end
        }
        workgroupBarrier();
    }
#repeat i EACH_M
#repeat j EACH_N
    {
        let m = first_m + row + {i}u * ROWS;
        let n = first_n + column + {j}u * COLUMNS;
        if m < p.rows && n < p.columns {
#if SPLIT
            partial[(group.z * p.rows + m) * p.columns + n] = sum{i}_{j};
#else
            store(m, n, sum{i}_{j});
#endif
        }
    }
#end
#end
}

// Register tiles without barriers: EACH_M rows of EACH_N columns that are WORKGROUP apart. With
// BROADCAST, a workgroup is one subgroup of LANES, which load different elements of the left
// operand and broadcast them.
//# forward_register input_gradient_register weight_gradient_register
fn tile(group: vec3<u32>, local: u32) {
    let first_m = group.y * EACH_M;
    let first_n = group.x * WORKGROUP * EACH_N + local;
#repeat i EACH_M
    let m{i} = min(first_m + {i}u, p.rows - 1u);
#end
#repeat j EACH_N
    let n{j} = min(first_n + {j}u * WORKGROUP, p.columns - 1u);
#end
#include "register_sums.wgsl"
#if LEFT_ALONG_K
    let depth = p.depth;
#else
    const depth = BATCH_K;
#endif
#if BROADCAST
#if LEFT_ALONG_K
    // A lane loads one of eight elements along K of each row.
    for (var start = 0u; start < depth; start += WORKGROUP) {
        let k = min(start + local, depth - 1u);
#repeat i EACH_M
        let lane{i} = select(0.0, left(m{i}, k), start + local < depth);
#end
#repeat l LANES
        {
            let k = min(start + {l}u, depth - 1u);
#include "register_step.wgsl" left = subgroupBroadcast(lane{i}, {l}u); right = right(k, n{j})
        }
#end
    }
#else
    // A lane loads one of up to eight rows.
    let m = min(first_m + local, p.rows - 1u);
    for (var k = 0u; k < depth; k++) {
        let lane = left(m, k);
#include "register_step.wgsl" left = subgroupBroadcast(lane, {i}u); right = right(k, n{j})
    }
#endif
#else
    for (var k = 0u; k < depth; k++) {
#include "register_step.wgsl" left = left(m{i}, k); right = right(k, n{j})
    }
#endif
#repeat i EACH_M
#repeat j EACH_N
    if first_m + {i}u < p.rows && first_n + {j}u * WORKGROUP < p.columns {
        store(first_m + {i}u, first_n + {j}u * WORKGROUP, sum{i}_{j});
    }
#end
#end
}

//# forward_tiled
@compute @workgroup_size(WORKGROUP_X)
fn forward_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    tile(group, local);
}

//# input_gradient_tiled
@compute @workgroup_size(WORKGROUP_X)
fn input_gradient_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    tile(group, local);
}

//# weight_gradient_tiled
@compute @workgroup_size(WORKGROUP_X)
fn weight_gradient_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    tile(group, local);
}

//# forward_register
@compute @workgroup_size(WORKGROUP_X)
fn forward_register(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    tile(group, local);
}

//# input_gradient_register
@compute @workgroup_size(WORKGROUP_X)
fn input_gradient_register(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    tile(group, local);
}

//# weight_gradient_register
@compute @workgroup_size(WORKGROUP_X)
fn weight_gradient_register(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    tile(group, local);
}

// Sum of the split-K parts, in order. p: rows, columns, parts.
//# forward_finish input_gradient_finish
fn finish(i: u32) {
    if i >= p.rows * p.columns { return; }
    var sum = 0.0;
    for (var part = 0u; part < p.parts; part++) { sum += partial[part * p.rows * p.columns + i]; }
    let m = i / p.columns;
    store(m, i - m * p.columns, sum);
}

//# forward_finish
@compute @workgroup_size(WORKGROUP_X)
fn forward_finish(
#include "invocation.wgsl"
) {
    finish(linear_index(group, groups, local));
}

//# input_gradient_finish
@compute @workgroup_size(WORKGROUP_X)
fn input_gradient_finish(
#include "invocation.wgsl"
) {
    finish(linear_index(group, groups, local));
}

// db = the sum of dy over the batch. p: rows (items), outputs, y_offset, y_stride.
//# bias_gradient
@compute @workgroup_size(WORKGROUP_X)
fn bias_gradient(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.outputs { return; }
    var sum = 0.0;
    for (var n = 0u; n < p.rows; n++) { sum += f32(dy_data[p.y_offset + n * p.y_stride + i]); }
    db[i] = sum;
}
