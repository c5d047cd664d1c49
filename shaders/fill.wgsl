// y = value, times the loss scale if scaled is 1. p: count (elements), item (elements of one item
// of the batch), offset and stride of y, value, scaled.

//# fill
@compute @workgroup_size(WORKGROUP_X)
fn fill(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let scale = select(1.0, step.loss_scale, p.scaled == 1u);
    y[p.offset + i / p.item * p.stride + i % p.item] = y_element(p.value * scale);
}
