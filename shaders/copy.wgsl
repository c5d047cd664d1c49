// y = x; integers as words, since drivers may flush those that are small numbers as f32. p: count
// (elements), item (elements of one item of the batch), offset and stride of y, other_offset and
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
