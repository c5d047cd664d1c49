// Gradients of several micro-batches add up to one, in vectors of four. p: count (vectors), batches.

//# accumulate
@compute @workgroup_size(WORKGROUP_X)
fn accumulate(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let share = gradients[i] / f32(p.batches);
    if step.step % p.batches == 0u {
        sums[i] = share;
    } else {
        sums[i] += share;
    }
}
