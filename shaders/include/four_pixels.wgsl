#parameters line
// The four neighbouring pixels that tap {k} of a kernel's line sees, of the columns that were
// loaded.
    four[{line}u * KERNEL_W + {k}u] = vec4<f32>(
        seen[{k}u],
        seen[{k}u + STRIDE_W],
        seen[{k}u + 2u * STRIDE_W],
        seen[{k}u + 3u * STRIDE_W],
    );
