//! What kernels of all families share: constants and geometry, what they move, and sums that are cut
//! into parts.

use super::geometry::{Extents, size};
use crate::kernel::{Implementation, Kernel, Operand, Operands, Slot, TiledProduct, Traffic};

const SOURCE: &str = include_str!("../../../shaders/conv.wgsl");

/// What a kernel moves for a product that it cuts into tiles: `tile` of a workgroup, `register` of
/// an invocation. Elements of the operands and the result have so many bytes. With `shared`, tiles
/// go through workgroup memory.
pub(super) fn traffic(
    extents: [usize; 3],
    tile: [usize; 2],
    register: [usize; 2],
    element: [usize; 3],
    parts: usize,
    shared: bool,
) -> Traffic {
    TiledProduct { extents, tile, register, parts, element, shared }.traffic()
}

/// A kernel with what all directions share.
pub(super) fn kernel(
    operands: &Operands<'_>,
    e: &Extents,
    [source, entry]: [&'static str; 2],
    x: &Operand,
    y: &Operand,
) -> Kernel {
    // Only windows that can reach outside of the input pay for asking.
    let reach = |i: usize| e.padding[i] > 0;
    let plain = e.kernel == [1, 1] && e.stride == [1, 1] && e.padding == [0, 0];
    Kernel::new(operands, source, entry)
        .constant("KERNEL_H", size(e.kernel[0]))
        .constant("KERNEL_W", size(e.kernel[1]))
        .constant("STRIDE_H", size(e.stride[0]))
        .constant("STRIDE_W", size(e.stride[1]))
        .constant("PAD", reach(0) || reach(1))
        .constant("PLAIN", plain)
        .geometries([
            ("batch", e.batch),
            ("channels", e.channels),
            ("height", e.size[0]),
            ("width", e.size[1]),
            ("outputs", e.outputs),
            ("out_height", e.out[0]),
            ("out_width", e.out[1]),
            ("pad_h", e.padding[0]),
            ("pad_w", e.padding[1]),
            ("x_offset", x.offset),
            ("x_stride", x.batch_stride),
            ("y_offset", y.offset),
            ("y_stride", y.batch_stride),
        ])
}

/// The type of a binding that is accessed in fours, or one by one.
pub(super) fn accessed(vector: bool) -> &'static str {
    if vector { "vec4<f32>" } else { "f32" }
}

/// Into how many parts of how many pixels the sum over pixels is cut: enough for `wanted`
/// workgroups in all, none shorter than `shortest`.
pub(super) fn split(pixels: usize, groups: usize, wanted: usize, shortest: usize) -> (usize, usize) {
    let parts = wanted.div_ceil(groups.max(1)).min(pixels / shortest).clamp(1, 256);
    let chunk = pixels.div_ceil(parts);
    (pixels.div_ceil(chunk), chunk)
}

/// Adds the second pass to an implementation whose first kernel leaves `parts` partial sums of
/// `count` elements in scratch 0; a sum that is not cut needs none.
pub(super) fn finish_parts(
    operands: &Operands<'_>,
    implementation: Implementation,
    parts: usize,
    count: usize,
) -> Implementation {
    if parts == 1 {
        return implementation;
    }
    let second = Kernel::new(operands, SOURCE, "sum_parts")
        .geometries([("count", count), ("parts", parts)])
        .bind("partial", Slot::Scratch(0))
        .bind("dw", Slot::Output(0))
        .linear(count);
    let mut implementation = implementation.scratch(parts * count);
    implementation.kernels.push(second);
    implementation
}
