// Roofline probe: multiply-adds in registers, and a copy in storage. Not an operation.

// CHAINS independent vec4 accumulators, `rounds` times 16 multiply-adds each, written as in the
// kernels.
//# multiply_add
@compute @workgroup_size(WORKGROUP_X)
fn multiply_add(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    // Loaded from memory, so that compilers cannot evaluate them.
    let factor = 0.999 + values[0];
    let addend = values[1];
    let count = rounds[0];
#repeat c CHAINS
    var chain{c} = vec4<f32>(f32(i + {c}u));
#end
    for (var round = 0u; round < count; round++) {
#repeat step STEPS
#repeat c CHAINS
        chain{c} = chain{c} * factor + addend;
#end
#end
    }
    var total = vec4<f32>();
#repeat c CHAINS
    total += chain{c};
#end
    // Never true; prevents dead code elimination of the sums.
    if total.x + total.y + total.z + total.w < -1e30 { values[2] = total.x; }
}

// Each invocation copies EACH vectors that are WORKGROUP apart. p: count (vectors, a multiple of
// WORKGROUP * EACH).
//# transfer
@compute @workgroup_size(WORKGROUP_X)
fn transfer(
#include "invocation.wgsl"
) {
    let first = linear_group(group, groups) * WORKGROUP * EACH + local;
    if first >= p.count { return; }
#repeat j EACH
    let value{j} = source[first + {j}u * WORKGROUP];
#end
#repeat j EACH
    target_[first + {j}u * WORKGROUP] = value{j};
#end
}
