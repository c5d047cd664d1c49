// Softmax, its cross-entropy with labels, and the gradient. Logits and probabilities are [rows,
// classes]; a label that is not a class marks a row to ignore. p: rows, classes, smoothing;
// x_offset, x_stride, y_offset, y_stride (logits and probabilities, or probabilities and gradient).
// Constants: SHARERS (invocations per row), LABELS, MIXED (rows have a second label and the share
// of the first), WEIGHTED (classes have weights).

//# rows
var<workgroup> shares: array<f32, SHARERS>;

// Tree reduction, sum or maximum, over the invocations of a row. With SHARERS = 1 it does nothing.
fn gather(local: u32, share: f32, maximum: bool) -> f32 {
#if ALONE
    return share;
#else
    workgroupBarrier();
    shares[local] = share;
    for (var half = SHARERS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            let other = shares[local + half];
            shares[local] = select(shares[local] + other, max(shares[local], other), maximum);
        }
    }
    workgroupBarrier();
    return shares[0];
#endif
}

// Probabilities of a row; with LABELS, its loss and whether its largest logit, the first of ties,
// is its label's.
@compute @workgroup_size(WORKGROUP_X)
fn rows(
#include "invocation.wgsl"
) {
#if ALONE
    let n = linear_index(group, groups, local);
    if n >= p.rows { return; }
    let start = 0u;
#else
    // Workgroups past the last row repeat it, so that all reach the barriers.
    let n = min(linear_group(group, groups), p.rows - 1u);
    let start = local;
#endif
    let first = p.x_offset + n * p.x_stride;
    var largest = f32(x_data[first]);
    for (var c = start; c < p.classes; c += SHARERS) { largest = max(largest, f32(x_data[first + c])); }
    largest = gather(local, largest, true);
    var sum = 0.0;
    for (var c = start; c < p.classes; c += SHARERS) { sum += exp(f32(x_data[first + c]) - largest); }
    sum = gather(local, sum, false);
    for (var c = start; c < p.classes; c += SHARERS) {
        y_data[p.y_offset + n * p.y_stride + c] = y_data_element(exp(f32(x_data[first + c]) - largest) / sum);
    }
#if LABELS
    let label = labels[n];
    let valid = label < p.classes;
    let of_label = f32(x_data[first + select(0u, label, valid)]);
#if MIXED
    let label2 = second[n];
    // Clamped, so that invalid labels cause no out-of-bounds read.
    let valid2 = valid & (label2 < p.classes);
    let of_second = f32(x_data[first + select(0u, label2, valid2)]);
    var behind2 = 0.0;
#endif
    // Number of logits that do not rank above the label's: smaller, or equal with a larger or the
    // same index. Comparisons with NaN are false, so a row of NaN is never correct.
    var behind = 0.0;
    var total = 0.0;
    var weights = 0.0;
    for (var c = start; c < p.classes; c += SHARERS) {
        let x = f32(x_data[first + c]);
        behind += select(0.0, 1.0, (x < of_label) | ((x == of_label) & (c >= label)));
#if MIXED
        behind2 += select(0.0, 1.0, (x < of_second) | ((x == of_second) & (c >= label2)));
#endif
#if WEIGHTED
        total += class_weights[c] * (x - largest);
        weights += class_weights[c];
#else
        total += x - largest;
#endif
    }
    behind = gather(local, behind, false);
    total = gather(local, total, false);
#if MIXED
    behind2 = gather(local, behind2, false);
#endif
#if WEIGHTED
    weights = gather(local, weights, false);
#else
    weights = f32(p.classes);
#endif
    if start == 0u {
        // -sum over c of target[c] log p[c], where log p[c] = x[c] - largest - log(sum).
        let log_sum = log(sum);
        var own = log_sum - (of_label - largest);
        let even = (weights * log_sum - total) / f32(p.classes);
        var right = select(0.0, 1.0, behind == f32(p.classes));
        var weight = 1.0;
#if WEIGHTED
        weight = class_weights[select(0u, label, valid)];
        own *= weight;
#endif
#if MIXED
        let mine = f32(share[n]);
        var other = log_sum - (of_second - largest);
        var weight2 = 1.0;
#if WEIGHTED
        weight2 = class_weights[select(0u, label2, valid2)];
        other *= weight2;
#endif
        own = mine * own + (1.0 - mine) * other;
        weight = mine * weight + (1.0 - mine) * weight2;
        right = mine * right + (1.0 - mine) * select(0.0, 1.0, behind2 == f32(p.classes));
#endif
        partial[3u * n] = select(0.0, (1.0 - p.smoothing) * own + p.smoothing * even, valid);
        partial[3u * n + 1u] = select(0.0, right, valid);
        partial[3u * n + 2u] = select(0.0, weight, valid);
    }
#endif
}

//# totals
@compute @workgroup_size(1)
fn totals() {
    var sum = 0.0;
    var right = 0.0;
    var count = 0.0;
    for (var n = 0u; n < p.rows; n++) {
        sum += partial[3u * n];
        right += partial[3u * n + 1u];
        count += partial[3u * n + 2u];
    }
    loss[0] = sum / select(1.0, count, count > 0.0);
    correct[0] = right;
}

// dx = dloss / (number of rows) (probability - target), ignoring rows without a class. With class
// weights, targets are multiplied by the weights of their classes, probabilities by the sum of
// these targets over the row, and rows are weighted by their labels.
//# softmax_cross_entropy_grad
// Weight of a row.
fn label_weight(n: u32) -> f32 {
    let valid = labels[n] < p.classes;
    var weight = 1.0;
#if WEIGHTED
    weight = class_weights[select(0u, labels[n], valid)];
#if MIXED
    let mine = f32(share[n]);
    let valid2 = valid && second[n] < p.classes;
    weight = mine * weight + (1.0 - mine) * class_weights[select(0u, second[n], valid2)];
#endif
#endif
    return select(0.0, weight, valid);
}

@compute @workgroup_size(WORKGROUP_X)
fn softmax_cross_entropy_grad(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.rows * p.classes { return; }
    let n = i / p.classes;
    let c = i - n * p.classes;
    // Batches are small, and counting here saves a pass.
    var count = 0.0;
    for (var m = 0u; m < p.rows; m++) { count += label_weight(m); }
    var of_class = select(0.0, 1.0, c == labels[n]);
#if MIXED
    let mine = f32(share[n]);
    of_class = mine * of_class + (1.0 - mine) * select(0.0, 1.0, c == second[n]);
#endif
    var target_share = p.smoothing / f32(p.classes) + (1.0 - p.smoothing) * of_class;
    var all = 1.0;
#if WEIGHTED
    target_share *= class_weights[c];
    var weights = 0.0;
    for (var k = 0u; k < p.classes; k++) { weights += class_weights[k]; }
    all = p.smoothing / f32(p.classes) * weights + (1.0 - p.smoothing) * label_weight(n);
#endif
    let slope = all * probabilities[p.x_offset + n * p.x_stride + c] - target_share;
    let value = dloss[0] / select(1.0, count, count > 0.0) * slope;
    dx_data[p.y_offset + n * p.y_stride + c] = dx_data_element(select(0.0, value, labels[n] < p.classes));
}
