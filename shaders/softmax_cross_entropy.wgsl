// Softmax, its cross-entropy with labels, and the gradient. Logits and probabilities are [rows, classes]; a label that is no class
// marks a row that does not count. p: rows, classes, smoothing; x_offset, x_stride, y_offset, y_stride (logits and
// probabilities, or probabilities and gradient). Constants: SHARERS (invocations that share a row), LABELS.

//# rows
var<workgroup> shares: array<f32, SHARERS>;

// Sum (or maximum, as a tree either way) over the invocations of a row. With SHARERS = 1 there is nothing to do.
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

// Probabilities of a row; with LABELS, its loss and whether its largest logit is its label's, the first of equals.
@compute @workgroup_size(WORKGROUP_X)
fn rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
#if ALONE
    let n = linear_index(group, groups, local);
    if n >= p.rows { return; }
    let start = 0u;
#else
    // Workgroups beyond the last row do it again, so that all reach the barriers.
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
    // How many are before the label: larger, or equal and of a smaller number.
    var before = 0.0;
    var total = 0.0;
    for (var c = start; c < p.classes; c += SHARERS) {
        let x = f32(x_data[first + c]);
        before += select(0.0, 1.0, x > of_label || (x == of_label && c < label));
        total += x - largest;
    }
    before = gather(local, before, false);
    total = gather(local, total, false);
    if start == 0u {
        // -sum over c of target[c] log p[c], where log p[c] = x[c] - largest - log(sum).
        let log_sum = log(sum);
        let own = log_sum - (of_label - largest);
        let even = log_sum - total / f32(p.classes);
        partial[3u * n] = select(0.0, (1.0 - p.smoothing) * own + p.smoothing * even, valid);
        partial[3u * n + 1u] = select(0.0, 1.0, valid && before == 0.0);
        partial[3u * n + 2u] = select(0.0, 1.0, valid);
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
    loss[0] = sum / max(count, 1.0);
    correct[0] = right;
}

// dx = dloss / (rows that count) (probability - target).
//# softmax_cross_entropy_grad
@compute @workgroup_size(WORKGROUP_X)
fn softmax_cross_entropy_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_index(group, groups, local);
    if i >= p.rows * p.classes { return; }
    let n = i / p.classes;
    let c = i - n * p.classes;
    // Batches are short; counting here saves a pass.
    var count = 0u;
    for (var m = 0u; m < p.rows; m++) { count += select(0u, 1u, labels[m] < p.classes); }
    let target_share = p.smoothing / f32(p.classes) + select(0.0, 1.0 - p.smoothing, c == labels[n]);
    let slope = probabilities[p.x_offset + n * p.x_stride + c] - target_share;
    let value = dloss[0] / f32(max(count, 1u)) * slope;
    dx_data[p.y_offset + n * p.y_stride + c] = dx_data_element(select(0.0, value, labels[n] < p.classes));
}
