// Dynamic loss scaling (Micikevicius et al. 2018, section 3.2): checks the scaled gradients for
// infinities and NaN, outputs whether they can be used, and adapts the scale for the next update.
// p: count (vectors of four), first (of this part's flags), flag_count (in all), interval.
// Constants: CHECKERS (workgroups that check), SMALLEST and LARGEST scale.

// Drivers may assume that there are no infinities or NaN, so the bits are tested: exponents of all
// ones.
//# overflows verdict
var<workgroup> shares: array<u32, WORKGROUP>;

fn any_of(local: u32, found: u32) -> bool {
    shares[local] = found;
#include "tree.wgsl" size = WORKGROUP; join = |=
    return shares[0] != 0u;
}

// One flag per workgroup.
//# overflows
@compute @workgroup_size(WORKGROUP_X)
fn overflows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let all_ones = vec4(0x7f800000u);
    var found = false;
    for (var i = group.x * WORKGROUP + local; i < p.count; i += CHECKERS * WORKGROUP) {
        found = found || any((gradients[i] & all_ones) == all_ones);
    }
    let flag = any_of(local, select(0u, 1u, found));
    if local == 0u { flags[p.first + group.x] = select(0u, 1u, flag); }
}

//# verdict
@compute @workgroup_size(WORKGROUP_X)
fn verdict(@builtin(local_invocation_index) local: u32) {
    var found = 0u;
    for (var i = local; i < p.flag_count; i += WORKGROUP) { found |= flags[i]; }
    let overflow = any_of(local, found);
    if local != 0u { return; }
    let used = scale[0];
    // The guard of optimizers: whether to update, the scale of these gradients, skipped updates so
    // far.
    guard[0] = select(1.0, 0.0, overflow);
    guard[1] = used;
    guard[2] = skipped[0];
    if overflow {
        scale[0] = max(used / 2.0, SMALLEST);
        good[0] = 0.0;
        skipped[0] += 1.0;
    } else if good[0] + 1.0 >= f32(p.interval) {
        scale[0] = min(used * 2.0, LARGEST);
        good[0] = 0.0;
    } else {
        good[0] += 1.0;
    }
    used_scale[0] = used;
    skipped_count[0] = skipped[0];
}
