// Batch normalization: y = (x - mean) inverse_std weight + bias per channel. In training, mean and
// variance are the batch's, summed over the plane of each item first, then over items in order. p:
// items, channels, pixels (of a plane), epsilon, momentum and, in values, plane, count, x_offset,
// x_stride, y_offset, y_stride, d_offset, d_stride (of dy and dx). Constants: RELU (y = max(y, 0)),
// VECTOR (a value is four pixels, else one).

#if VECTOR
alias Value = vec4<f32>;

fn total(value: Value) -> f32 {
    return (value.x + value.y) + (value.z + value.w);
}
#else
alias Value = f32;

fn total(value: Value) -> f32 {
    return value;
}
#endif

// Start of a plane (item, channel).
fn plane_of(i: u32, offset: u32, stride: u32) -> u32 {
    let n = i / p.channels;
    return offset + n * stride + (i - n * p.channels) * p.plane;
}

// Tree reduction over the SHARERS invocations of a workgroup.
//# planes grad_planes statistics grad_parameters channels grad_channels
#if !ALONE
var<workgroup> shares: array<f32, SHARERS>;

fn add_up(local: u32, share: f32) -> f32 {
    // The previous sum must have been read by all.
    workgroupBarrier();
    shares[local] = share;
#include "tree.wgsl" size = SHARERS; join = +=
    workgroupBarrier();
    return shares[0];
}
#endif

// Mean and sum of squared deviations of each plane. With SHARERS = 1, each invocation processes a
// plane.
//# planes
@compute @workgroup_size(WORKGROUP_X)
fn planes(
#include "invocation.wgsl"
) {
#if ALONE
    let i = linear_index(group, groups, local);
    if i >= p.items * p.channels { return; }
    let first = plane_of(i, p.x_offset, p.x_stride);
    var sum = Value();
    for (var k = 0u; k < p.plane; k++) { sum += Value(x_data[first + k]); }
    let mean = total(sum) / f32(p.pixels);
    var squares = Value();
    for (var k = 0u; k < p.plane; k++) {
        let d = Value(x_data[first + k]) - mean;
        squares += d * d;
    }
    partial[2u * i] = mean;
    partial[2u * i + 1u] = total(squares);
#else
    // Workgroups past the last plane repeat it, so that all reach the barriers.
    let i = min(linear_group(group, groups), p.items * p.channels - 1u);
    let first = plane_of(i, p.x_offset, p.x_stride);
    var sum = Value();
    for (var k = local; k < p.plane; k += SHARERS) { sum += Value(x_data[first + k]); }
    let mean = add_up(local, total(sum)) / f32(p.pixels);
    var squares = Value();
    for (var k = local; k < p.plane; k += SHARERS) {
        let d = Value(x_data[first + k]) - mean;
        squares += d * d;
    }
    let deviations = add_up(local, total(squares));
    if local == 0u && linear_group(group, groups) == i {
        partial[2u * i] = mean;
        partial[2u * i + 1u] = deviations;
    }
#endif
}

// Statistics of a channel from those of its planes, which have equal sizes, without the
// cancellation of E[x^2] - E[x]^2.
//# statistics
@compute @workgroup_size(WORKGROUP_X)
fn statistics(
#include "invocation.wgsl"
) {
    var mean = 0.0;
    var squares = 0.0;
#if ALONE
    let c = linear_index(group, groups, local);
    if c >= p.channels { return; }
    for (var n = 0u; n < p.items; n++) { mean += partial[2u * (n * p.channels + c)]; }
    mean /= f32(p.items);
    for (var n = 0u; n < p.items; n++) {
        let i = 2u * (n * p.channels + c);
        let d = partial[i] - mean;
        squares += partial[i + 1u] + f32(p.pixels) * d * d;
    }
#else
    let c = min(linear_group(group, groups), p.channels - 1u);
    for (var n = local; n < p.items; n += SHARERS) { mean += partial[2u * (n * p.channels + c)]; }
    mean = add_up(local, mean) / f32(p.items);
    for (var n = local; n < p.items; n += SHARERS) {
        let i = 2u * (n * p.channels + c);
        let d = partial[i] - mean;
        squares += partial[i + 1u] + f32(p.pixels) * d * d;
    }
    squares = add_up(local, squares);
    if local != 0u || linear_group(group, groups) != c { return; }
#endif
    store_statistics(c, mean, squares);
}

// Statistics of a channel in one pass, where a workgroup can sum up all of its values.
//# channels
@compute @workgroup_size(WORKGROUP_X)
fn channels(
#include "invocation.wgsl"
) {
    let c = min(linear_group(group, groups), p.channels - 1u);
    let count = p.items * p.plane;
    var sum = Value();
    for (var i = local; i < count; i += SHARERS) { sum += Value(x_data[value_of(c, i, p.x_offset, p.x_stride)]); }
    let mean = add_up(local, total(sum)) / f32(p.items * p.pixels);
    var deviations = Value();
    for (var i = local; i < count; i += SHARERS) {
        let d = Value(x_data[value_of(c, i, p.x_offset, p.x_stride)]) - mean;
        deviations += d * d;
    }
    let squares = add_up(local, total(deviations));
    if local == 0u && linear_group(group, groups) == c { store_statistics(c, mean, squares); }
}

//# channels grad_channels
// Index of value i of a channel, counted over the batch.
fn value_of(c: u32, i: u32, offset: u32, stride: u32) -> u32 {
    let n = i / p.plane;
    return offset + n * stride + c * p.plane + i - n * p.plane;
}

//# statistics channels
fn store_statistics(c: u32, mean: f32, squares: f32) {
    let values = f32(p.items * p.pixels);
    means[c] = mean;
    inverse_stds[c] = 1.0 / sqrt(squares / values + p.epsilon);
    // Overflowed sums, possible with f16, would stay in the running statistics forever; the
    // parameter update is skipped too.
    if (bitcast<u32>(squares) & 0x7f800000u) == 0x7f800000u { return; }
    running_mean[c] += p.momentum * (mean - running_mean[c]);
    // The running variance is unbiased; for a single value it is 0 / 1.
    running_var[c] += p.momentum * (squares / max(values - 1.0, 1.0) - running_var[c]);
}

// First value of an invocation and its plane. It processes only that value, or with LOOP every
// STEP-th from it on: a whole plane, or a share of its workgroup's plane (ALONG).
//# apply grad_apply
struct Share {
    plane: u32,
    first: u32,
}

fn share_of(group: vec3<u32>, groups: vec3<u32>, local: u32) -> Share {
    let i = linear_index(group, groups, local);
#if ALONG
    return Share(linear_group(group, groups), local);
#else
#if LOOP
    return Share(i, 0u);
#else
    let plane = i / p.plane;
    return Share(plane, i - plane * p.plane);
#endif
#endif
}

//# apply
@compute @workgroup_size(WORKGROUP_X)
fn apply(
#include "invocation.wgsl"
) {
    let share = share_of(group, groups, local);
    if share.plane >= p.items * p.channels { return; }
    let c = share.plane % p.channels;
#if TRAINING
    let scale = inverse_stds[c] * weight[c];
#else
    let scale = weight[c] / sqrt(variances[c] + p.epsilon);
#endif
    let mean = means[c];
    let shift = bias[c];
    let x_first = plane_of(share.plane, p.x_offset, p.x_stride);
    let y_first = plane_of(share.plane, p.y_offset, p.y_stride);
#if LOOP
    for (var k = share.first; k < p.plane; k += STEP) {
#else
    {
        let k = share.first;
#endif
        var y = (Value(x_data[x_first + k]) - mean) * scale + shift;
#if RELU
        y = select(y, Value(), y <= Value());
#endif
        y_data[y_first + k] = y_data_element(y);
    }
}

//# grad_planes grad_apply grad_channels
fn inverse_std_of(c: u32) -> f32 {
#if TRAINING
    return inverse_stds[c];
#else
    return inverseSqrt(variances[c] + p.epsilon);
#endif
}

// The gradient before the ReLU, value k of planes that start there.
//# grad_planes grad_apply grad_channels
fn upstream(d_first: u32, y_first: u32, k: u32) -> Value {
    let dy = Value(dx_data[d_first + k]);
#if RELU
    return select(Value(), dy, Value(y_data[y_first + k]) > Value());
#else
    return dy;
#endif
}

// Sums of dy and of dy x^ (x^ being the normalized x) over each plane.
//# grad_planes
@compute @workgroup_size(WORKGROUP_X)
fn grad_planes(
#include "invocation.wgsl"
) {
#if ALONE
    let i = linear_index(group, groups, local);
    if i >= p.items * p.channels { return; }
    let start = 0u;
    let step_size = 1u;
#else
    let i = min(linear_group(group, groups), p.items * p.channels - 1u);
    let start = local;
    let step_size = SHARERS;
#endif
    let c = i % p.channels;
    let first = plane_of(i, p.x_offset, p.x_stride);
    let mean = means[c];
    let inverse_std = inverse_std_of(c);
    let d_first = plane_of(i, p.d_offset, p.d_stride);
    let y_first = plane_of(i, p.y_offset, p.y_stride);
    var sums = Value();
    var products = Value();
    for (var k = start; k < p.plane; k += step_size) {
        let dy = upstream(d_first, y_first, k);
        sums += dy;
        products += dy * (Value(x_data[first + k]) - mean) * inverse_std;
    }
#if ALONE
    partial[2u * i] = total(sums);
    partial[2u * i + 1u] = total(products);
#else
    let sum = add_up(local, total(sums));
    let product = add_up(local, total(products));
    if local == 0u && linear_group(group, groups) == i {
        partial[2u * i] = sum;
        partial[2u * i + 1u] = product;
    }
#endif
}

//# grad_parameters
@compute @workgroup_size(WORKGROUP_X)
fn grad_parameters(
#include "invocation.wgsl"
) {
    var sum = 0.0;
    var product = 0.0;
#if ALONE
    let c = linear_index(group, groups, local);
    if c >= p.channels { return; }
    let start = 0u;
    let step_size = 1u;
#else
    let c = min(linear_group(group, groups), p.channels - 1u);
    let start = local;
    let step_size = SHARERS;
#endif
    for (var n = start; n < p.items; n += step_size) {
        sum += partial[2u * (n * p.channels + c)];
        product += partial[2u * (n * p.channels + c) + 1u];
    }
#if !ALONE
    sum = add_up(local, sum);
    product = add_up(local, product);
    if local != 0u || linear_group(group, groups) != c { return; }
#endif
    dweight[c] = product;
    dbias[c] = sum;
}

// Sums of a channel in one pass, as `channels`.
//# grad_channels
@compute @workgroup_size(WORKGROUP_X)
fn grad_channels(
#include "invocation.wgsl"
) {
    let c = min(linear_group(group, groups), p.channels - 1u);
    let mean = means[c];
    let inverse_std = inverse_std_of(c);
    var sums = Value();
    var products = Value();
    for (var i = local; i < p.items * p.plane; i += SHARERS) {
        let n = i / p.plane;
        let k = c * p.plane + i - n * p.plane;
        let dy = upstream(p.d_offset + n * p.d_stride, p.y_offset + n * p.y_stride, k);
        sums += dy;
        products += dy * (Value(x_data[p.x_offset + n * p.x_stride + k]) - mean) * inverse_std;
    }
    let sum = add_up(local, total(sums));
    let product = add_up(local, total(products));
    if local == 0u && linear_group(group, groups) == c {
        dweight[c] = product;
        dbias[c] = sum;
    }
}

// dx = weight inverse_std (dy - mean(dy) - x^ mean(dy x^)), in place on dy.
//# grad_apply
@compute @workgroup_size(WORKGROUP_X)
fn grad_apply(
#include "invocation.wgsl"
) {
    let share = share_of(group, groups, local);
    if share.plane >= p.items * p.channels { return; }
    let c = share.plane % p.channels;
    let inverse_std = inverse_std_of(c);
    let scale = weight[c] * inverse_std;
    let x_first = plane_of(share.plane, p.x_offset, p.x_stride);
    let y_first = plane_of(share.plane, p.y_offset, p.y_stride);
    let d_first = plane_of(share.plane, p.d_offset, p.d_stride);
#if TRAINING
    let mean = means[c];
    let values = f32(p.items * p.pixels);
    let constant = dbias[c] / values;
    let slope = inverse_std * dweight[c] / values;
#endif
#if LOOP
    for (var k = share.first; k < p.plane; k += STEP) {
#else
    {
        let k = share.first;
#endif
        let dy = upstream(d_first, y_first, k);
#if TRAINING
        let dx = scale * (dy - constant - (Value(x_data[x_first + k]) - mean) * slope);
#else
        // The running statistics do not depend on x.
        let dx = scale * dy;
#endif
        dx_data[d_first + k] = dx_data_element(dx);
    }
}
