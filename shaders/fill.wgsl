// y = value, times the loss scale if scaled is 1. p: count (elements), item (elements per batch
// item), offset and stride of y, value, scaled.

//# fill
@compute @workgroup_size(WORKGROUP_X)
fn fill(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let scale = select(1.0, step.loss_scale, p.scaled == 1u);
    y[p.offset + i / p.item * p.stride + i % p.item] = y_element(p.value * scale);
}
