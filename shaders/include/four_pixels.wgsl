#parameters line
// The four adjacent pixels for tap {k} of a kernel row, from the loaded columns.
    four[{line}u * KERNEL_W + {k}u] = vec4<f32>(
        seen[{k}u],
        seen[{k}u + STRIDE_W],
        seen[{k}u + 2u * STRIDE_W],
        seen[{k}u + 3u * STRIDE_W],
    );
