//! Parts that kernels of all families share: constants and geometry, memory traffic, and split-K.

use super::geometry::{Extents, Values};
use crate::kernel::{Implementation, Kernel, Operand, Operands, Slot, TiledProduct, Traffic};

const SOURCE: &str = include_str!("../../../shaders/conv.wgsl");

/// Memory traffic of a tiled product: `tile` per workgroup, `register` per invocation; `element`
/// are the bytes per element of the operands and the result. With `shared`, tiles go through
/// workgroup memory.
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

/// A kernel with the constants and geometry of all directions.
pub(super) fn kernel(
    operands: &Operands<'_>,
    e: &Extents,
    [source, entry]: [&'static str; 2],
    x: &Operand,
    y: &Operand,
    values: Values,
) -> Kernel {
    // Bounds are checked only if windows can exceed the input.
    let plain = e.kernel == [1, 1] && e.stride == [1, 1] && e.padding == [0, 0];
    let kernel = e.windows(Kernel::new(operands, source, entry).groupable(), e.padding != [0, 0], values);
    kernel.constant("PLAIN", plain).geometries([
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

/// The type of a binding: vectors of four, or scalars.
pub(super) fn accessed(vector: bool) -> &'static str {
    if vector { "vec4<f32>" } else { "f32" }
}

/// Split-K over pixels: the number of parts and pixels per part, for at least `wanted` workgroups
/// and parts of at least `shortest`.
pub(super) fn split(pixels: usize, groups: usize, wanted: usize, shortest: usize) -> (usize, usize) {
    let parts = wanted.div_ceil(groups.max(1)).min(pixels / shortest).clamp(1, 256);
    let chunk = pixels.div_ceil(parts);
    (pixels.div_ceil(chunk), chunk)
}

/// Adds the second pass of split-K to an implementation whose first kernel leaves `parts` partial
/// sums of `count` elements in scratch 0; nothing with one part.
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
        .groupable()
        .geometries([("count", count), ("parts", parts)])
        .bind("partial", Slot::Scratch(0))
        .bind("dw", Slot::Output(0))
        .linear(count);
    let mut implementation = implementation.scratch(parts * count);
    implementation.kernels.push(second);
    implementation
}
