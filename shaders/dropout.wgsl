// Dropout: y = x / (1 - probability) for kept elements, 0 for the others; the gradient is the same
// function of dy. The mask is not stored: it is a function of seed, step, salt (the layer) and
// element index, in integers only, so it is the same on every device. p: count, item, x_offset,
// x_stride, y_offset, y_stride, salt, threshold (draws below it, of 2^32, drop the element), scale.

// One round of the PCG hash (Jarzynski and Olano, "Hash Functions for GPU Rendering", 2020).
fn mix(value: u32) -> u32 {
    let state = value * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

//# dropout
@compute @workgroup_size(WORKGROUP_X)
fn dropout(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let draw = mix(i ^ mix(step.step ^ mix(p.salt ^ mix(step.seed_high ^ mix(step.seed)))));
    let item = i / p.item;
    let within = i - item * p.item;
    let x = f32(x_data[p.x_offset + item * p.x_stride + within]);
    let y = select(x * p.scale, 0.0, draw < p.threshold);
    y_data[p.y_offset + item * p.y_stride + within] = y_data_element(y);
}
