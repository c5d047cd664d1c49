// The pixel of a linear invocation of an entry point with `invocation.wgsl`: row y, column x,
// channel c, item n, and the plane, counted over the batch.
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let row = i / p.width;
    let x = i - row * p.width;
    let plane = row / p.height;
    let y = row - plane * p.height;
    let n = plane / p.channels;
    let c = plane - n * p.channels;
