// The weighted sum of up to seven scalars, and its gradient. Constants: COUNT. p: weight_0 and so
// on; scale in the gradient.

//# weighted_sum
@compute @workgroup_size(1)
fn weighted_sum() {
    var sum = 0.0;
#repeat i COUNT
    sum += p.weight_{i} * term_{i}[0];
#end
    y[0] = sum;
}

//# weighted_sum_grad
@compute @workgroup_size(1)
fn weighted_sum_grad() {
    dx[0] = p.scale * dy[0];
}
