#parameters size join
// Reduces the `shares` of {size} invocations to the first, in a tree of fixed shape.
    for (var half = {size} / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half { shares[local] {join} shares[local + half]; }
    }
