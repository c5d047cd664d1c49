// y += b. p: count (elements), item (elements per batch item), offset and stride of y, other_offset
// and other_stride of b.

//# add
@compute @workgroup_size(WORKGROUP_X)
fn add(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let item = i / p.item;
    let within = i % p.item;
    let at = p.offset + item * p.stride + within;
    y[at] = y_element(f32(y[at]) + f32(b[p.other_offset + item * p.other_stride + within]));
}
