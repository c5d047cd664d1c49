// Adam with decoupled weight decay on a whole region, in vectors of four. p: count (vectors),
// beta2, log_beta2, epsilon; beta1 is the step's momentum, which a schedule may change. Constants:
// GUARDED (with a guard, see loss_scale.wgsl).

// 1 - beta^t without the cancellation of 1 - pow(beta, t) for small t.
fn correction(log_beta: f32, t: f32) -> f32 {
    let x = log_beta * t;
    if x < -0.25 { return 1.0 - exp(x); }
    return -x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0)))));
}

//# adamw
@compute @workgroup_size(WORKGROUP_X)
fn adamw(
#include "invocation.wgsl"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
#include "guard.wgsl"
#include "gradient_scale.wgsl"
#if GUARDED
    let t = f32(step.update + 1u) - guard[2];
#else
    let t = f32(step.update + 1u);
#endif
    let multiplier = multipliers[i / 16u];
    let lr = step.lr * multiplier.x;
    let g = gradients[i] / scale;
    let m = step.momentum * mean[i] + (1.0 - step.momentum) * g;
    let v = p.beta2 * square[i] + (1.0 - p.beta2) * g * g;
    mean[i] = m;
    square[i] = v;
    let w = parameters[i] * (1.0 - lr * step.weight_decay * multiplier.y);
    let denominator = sqrt(v / correction(p.log_beta2, t)) + p.epsilon;
    parameters[i] = w - lr * (m / correction(step.log_momentum, t)) / denominator;
}
