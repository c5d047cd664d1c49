// ReLU and its gradient, in place. p: count (elements), item (elements per batch item), offset and
// stride (of the tensor changed in place), forward_offset and forward_stride (of y in the
// gradient).

//# relu
@compute @workgroup_size(WORKGROUP_X)
fn relu(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let at = p.offset + i / p.item * p.stride + i % p.item;
    // Not `max`, which turns NaN into 0 on most drivers: an overflowed sum must reach the loss.
    let x = f32(y[at]);
    y[at] = y_element(select(x, 0.0, x <= 0.0));
}

//# relu_grad
@compute @workgroup_size(WORKGROUP_X)
fn relu_grad(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let item = i / p.item;
    let within = i % p.item;
    // NaN has no gradient; it is visible in the loss.
    if !(f32(y[p.forward_offset + item * p.forward_stride + within]) > 0.0) {
        dy[p.offset + item * p.stride + within] = dy_element(0.0);
    }
}
