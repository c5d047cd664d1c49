// Averaging of parameters over updates, in vectors of four. p: count (vectors), decay. Constants:
// POLYAK (the uniform mean), GUARDED (with a guard, see loss_scale.wgsl).

//# average
@compute @workgroup_size(WORKGROUP_X)
fn average(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
#include "guard.wgsl"
#if GUARDED
    let t = f32(step.update) - guard[2];
#else
    let t = f32(step.update);
#endif
#if POLYAK
    let share = 1.0 / (t + 1.0);
#else
    let share = 1.0 - min(p.decay, (1.0 + t) / (10.0 + t));
#endif
    averages[i] += share * (parameters[i] - averages[i]);
}
