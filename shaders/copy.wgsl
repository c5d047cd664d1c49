// y = x; integers are copied as words, because drivers may flush those that are denormal as f32. p:
// count (elements), item (elements per batch item), offset and stride of y, other_offset and
// other_stride of x.

//# copy
@compute @workgroup_size(WORKGROUP_X)
fn copy(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let item = i / p.item;
    let within = i % p.item;
    y[p.offset + item * p.stride + within] = x[p.other_offset + item * p.other_stride + within];
}
