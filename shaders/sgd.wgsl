// SGD with momentum on a whole region, in vectors of four. p: count (vectors). Constants: NESTEROV,
// GUARDED (with a guard, see loss_scale.wgsl).

//# sgd
@compute @workgroup_size(WORKGROUP_X)
fn sgd(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
#include "guard.wgsl"
#include "gradient_scale.wgsl"
    // A block of 64 elements is 16 vectors.
    let multiplier = multipliers[i / 16u];
    let w = parameters[i];
    let g = gradients[i] / scale + step.weight_decay * multiplier.y * w;
    let v = step.momentum * momentum[i] + g;
    momentum[i] = v;
#if NESTEROV
    parameters[i] = w - step.lr * multiplier.x * (g + step.momentum * v);
#else
    parameters[i] = w - step.lr * multiplier.x * v;
#endif
}
