// Gradient accumulation over micro-batches, weighted by their images (see `Window`), in vectors of
// four. p: count (vectors).

//# accumulate
@compute @workgroup_size(WORKGROUP_X)
fn accumulate(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let share = gradients[i] / step.divisor;
    sums[i] = select(sums[i] + share, share, step.starts != 0u) * step.completion;
}
