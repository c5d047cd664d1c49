// Clips a region to a maximum norm, in vectors of four. Sums have a fixed order: each of SUMMERS
// invocations sums vectors SUMMERS apart, then one workgroup reduces these in a tree. p: count
// (vectors), first (of this part's sums), sums (in all), max_norm. Constants: GUARDED (with a
// guard, see loss_scale.wgsl).

//# squares
@compute @workgroup_size(WORKGROUP_X)
fn squares(@builtin(global_invocation_id) id: vec3<u32>) {
    var sum = vec4(0.0);
    for (var i = id.x; i < p.count; i += SUMMERS) { sum += gradients[i] * gradients[i]; }
    partial[p.first + id.x] = sum.x + sum.y + sum.z + sum.w;
}

//# total
var<workgroup> shares: array<f32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP_X)
fn total(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var i = local; i < p.sums; i += WORKGROUP) { sum += partial[i]; }
    shares[local] = sum;
#include "tree.wgsl" size = WORKGROUP; join = +=
#include "gradient_scale.wgsl"
    if local == 0u { norm[0] = sqrt(shares[0]) / scale; }
}

// A non-finite norm leaves the gradients unchanged: it is visible in the metrics, and zeros would
// hide it.
//# scale
@compute @workgroup_size(WORKGROUP_X)
fn scale(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let finite = (bitcast<u32>(norm[0]) & 0x7f800000u) != 0x7f800000u;
    if finite && norm[0] > p.max_norm { gradients[i] *= p.max_norm / norm[0]; }
}
