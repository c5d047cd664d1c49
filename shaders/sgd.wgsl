// SGD with momentum on a whole region, in vectors of four. p: count (vectors). Constants: NESTEROV,
// GUARDED (there is a guard, see loss_scale.wgsl).

//# sgd
@compute @workgroup_size(WORKGROUP_X)
fn sgd(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
#if GUARDED
    // The gradients overflowed: this update is left out.
    if guard[0] == 0.0 { return; }
    let scale = guard[1];
#else
    let scale = step.loss_scale;
#endif
    // A block of 64 elements is 16 vectors.
    let multiplier = multipliers[i / 16u];
    let w = parameters[i];
    let g = gradients[i] / scale + step.decay * multiplier.y * w;
    let v = step.momentum * momentum[i] + g;
    momentum[i] = v;
#if NESTEROV
    parameters[i] = w - step.rate * multiplier.x * (g + step.momentum * v);
#else
    parameters[i] = w - step.rate * multiplier.x * v;
#endif
}
