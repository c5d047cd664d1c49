// LARS, layer-wise adaptive rate scaling (You et al. 2017): momentum on the gradient of each tensor
// of a region, scaled to a share of the tensor's norm. Sums have a fixed order: blocks of 64
// elements first, then the blocks of a tensor by one workgroup. p: count (blocks or vectors of this
// part), first (block of this part), blocks (in all), tensors, trust_coefficient. Constants:
// GUARDED (with a guard, see loss_scale.wgsl).

// Sums of squares of parameters and gradients, one block per invocation.
//# squares
@compute @workgroup_size(WORKGROUP_X)
fn squares(
#include "invocation.wgsl"
) {
    let block = linear_index(group, groups, local);
    if block >= p.count { return; }
    var w = vec4(0.0);
    var g = vec4(0.0);
    for (var i = 16u * block; i < 16u * block + 16u; i++) {
        w += parameters[i] * parameters[i];
        g += gradients[i] * gradients[i];
    }
    partial[2u * (p.first + block)] = w.x + w.y + w.z + w.w;
    partial[2u * (p.first + block) + 1u] = g.x + g.y + g.z + g.w;
}

// One workgroup per tensor computes the factor of its gradient and writes it for each of its
// blocks.
//# ratios
var<workgroup> shares: array<vec2<f32>, WORKGROUP>;

@compute @workgroup_size(WORKGROUP_X)
fn ratios(
#include "invocation.wgsl"
) {
    // Workgroups past the last tensor repeat it, so that all reach the barriers.
    let tensor = min(linear_group(group, groups), p.tensors - 1u);
    // Clamped, so that invalid segments cause no out-of-bounds access.
    let blocks = f32(p.blocks);
    let first = min(u32(clamp(segments[2u * tensor], 0.0, blocks)), p.blocks - 1u);
    let end = min(first + u32(clamp(segments[2u * tensor + 1u], 0.0, blocks)), p.blocks);
    var sum = vec2(0.0);
    for (var block = first + local; block < end; block += WORKGROUP) {
        sum += vec2(partial[2u * block], partial[2u * block + 1u]);
    }
    shares[local] = sum;
#include "tree.wgsl" size = WORKGROUP; join = +=
    workgroupBarrier();
#include "gradient_scale.wgsl"
    let weight = sqrt(shares[0].x);
    let gradient = sqrt(shares[0].y) / scale;
    let decay = step.weight_decay * multipliers[2u * first + 1u];
    // Biases and batch norm parameters have no weight decay and keep the plain learning rate.
    var ratio = 1.0;
    if multipliers[2u * first + 1u] > 0.0 && weight > 0.0 && gradient > 0.0 {
        ratio = p.trust_coefficient * weight / (gradient + decay * weight);
    }
    for (var block = first + local; block < end; block += WORKGROUP) { ratio_of[block] = ratio; }
}

//# lars
@compute @workgroup_size(WORKGROUP_X)
fn lars(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
#include "guard.wgsl"
#include "gradient_scale.wgsl"
    // A block of 64 elements is 16 vectors.
    let block = p.first + i / 16u;
    let lr = step.lr * multipliers[2u * block];
    let decay = step.weight_decay * multipliers[2u * block + 1u];
    let w = parameters[i];
    // The learning rate is inside the momentum, as in the paper: a change affects only new
    // gradients.
    let v = step.momentum * momentum[i] + lr * ratio_of[block] * (gradients[i] / scale + decay * w);
    momentum[i] = v;
    parameters[i] = w - v;
}
