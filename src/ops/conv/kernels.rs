//! The kernels of convolution: what the families share, and the family with register tiles that
//! runs everywhere. `tiled` is for GPUs, `lanes` for drivers that run on a CPU and have subgroups.

use super::product::{Epilogue, Product};
use super::{Conv, ConvInputGrad, Extents, cooperative, implicit::accessed, lanes, tiled, winograd};
use crate::kernel::{
    AdapterClass, Implementation, Kernel, Operand, Operands, Profile, Slot, TiledProduct, Traffic,
};

const SOURCE: &str = include_str!("../../../shaders/conv.wgsl");

pub(super) fn size(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Bytes of an element of the operand.
pub(super) fn bytes(operand: &Operand) -> usize {
    operand.spec.element.size()
}

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

/// Invocations of a workgroup of the register family: one vector of the CPU's.
const LANES: usize = 8;

/// A register tile for `m` results: channels an invocation holds, and pixels or columns.
fn register_tile(m: usize) -> [usize; 2] {
    if m <= 4 { [4, 8] } else { [8, 8] }
}

fn register(kernel: Kernel, extents: [usize; 3], element: [usize; 3], parts: usize) -> Kernel {
    let [m, n, _] = extents;
    let [each_m, each_n] = register_tile(m);
    kernel
        .traffic(traffic(extents, [each_m, LANES * each_n], [each_m, each_n], element, parts, false))
        .constant("EACH_M", size(each_m))
        .constant("EACH_N", size(each_n))
        .workgroup(size(LANES), 1, 1)
        .groups(n.div_ceil(LANES * each_n), m.div_ceil(each_m), parts)
}

pub(super) fn forward(
    operands: &Operands<'_>,
    e: &Extents,
    conv: &Conv,
    profile: &Profile,
) -> Vec<Implementation> {
    let (x, y) = (&operands.inputs[0], &operands.outputs[0]);
    let epilogue = Epilogue::forward(operands, conv);
    let base = |entry| {
        let kernel = kernel(operands, e, [SOURCE, entry], x, y)
            .bind("x_data", Slot::Input(0))
            .bind("weight", Slot::Input(1))
            .bind("y_data", Slot::Output(0));
        epilogue.apply(kernel, "f32")
    };
    let extents = [e.outputs, e.batch * e.out[0] * e.out[1], e.depth()];
    let registers = vec![register(base("forward_register"), extents, [4, bytes(x), bytes(y)], 1)];
    let product = Product { extents: e, source: x, result: y, transposed: false, epilogue };
    let mut list = for_gpus(operands, &product, profile);
    list.extend(lanes::product(operands, &product, profile));
    list.push(Implementation::new("register", registers).suits(AdapterClass::SOFTWARE));
    list
}

pub(super) fn input_gradient(
    operands: &Operands<'_>,
    e: &Extents,
    op: &ConvInputGrad,
    profile: &Profile,
) -> Vec<Implementation> {
    let (dy, dx) = (&operands.inputs[0], &operands.outputs[0]);
    let epilogue = Epilogue::gradient(operands, op);
    let base = |entry| {
        let kernel = kernel(operands, e, [SOURCE, entry], dx, dy)
            .bind("dy_data", Slot::Input(0))
            .bind("weight", Slot::Input(1))
            .bind("dx_data", Slot::Output(0));
        epilogue.apply(kernel, "f32")
    };
    let pixels = e.batch * e.size[0] * e.size[1];
    let extents = [e.channels, pixels, e.outputs * e.kernel[0] * e.kernel[1]];
    let elements = [4, bytes(dy), bytes(dx)];
    let mut registers = register(base("input_gradient_register"), extents, elements, 1);
    registers.traffic = registers.traffic.map(|t| epilogue.traffic(t, dx));
    let registers = vec![registers];
    let product = Product { extents: e, source: dy, result: dx, transposed: true, epilogue };
    let mut list = for_gpus(operands, &product, profile);
    list.extend(lanes::product(operands, &product, profile));
    list.push(Implementation::new("register", registers).suits(AdapterClass::SOFTWARE));
    list
}

/// The families for GPUs, the one that should be faster first: matrices have no use for three
/// channels, whose windows are read element by element.
fn for_gpus(operands: &Operands<'_>, product: &Product<'_>, profile: &Profile) -> Vec<Implementation> {
    let tiled = tiled::product(operands, product, profile);
    let cooperative = cooperative::product(operands, product, profile);
    let [mut first, rest] =
        if product.source.dims()[1] < 16 { [tiled, cooperative] } else { [cooperative, tiled] };
    first.extend(rest);
    first.extend(winograd::product(operands, product));
    first
}

/// Into how many parts of how many pixels the sum over pixels is cut: enough for `wanted`
/// workgroups in all, none shorter than `shortest`.
pub(super) fn split(pixels: usize, groups: usize, wanted: usize, shortest: usize) -> (usize, usize) {
    let parts = wanted.div_ceil(groups.max(1)).min(pixels / shortest).clamp(1, 256);
    let chunk = pixels.div_ceil(parts);
    (pixels.div_ceil(chunk), chunk)
}

pub(super) fn weight_gradient(
    operands: &Operands<'_>,
    e: &Extents,
    profile: &Profile,
) -> Vec<Implementation> {
    let (x, dy) = (&operands.inputs[0], &operands.inputs[1]);
    let (m, n, pixels) = (e.outputs, e.depth(), e.batch * e.out[0] * e.out[1]);
    let count = m * n;
    let base = |entry, parts: usize, chunk: usize| {
        // A sum that is not cut needs no second pass.
        let slot = if parts == 1 { Slot::Output(0) } else { Slot::Scratch(0) };
        kernel(operands, e, [SOURCE, entry], x, dy)
            .geometry("chunk", chunk)
            .bind("x_data", Slot::Input(0))
            .bind("dy_data", Slot::Input(1))
            .bind("partial", slot)
    };
    let finish = |implementation, parts| finish_parts(operands, SOURCE, implementation, parts, count);
    let mut list = cooperative::weight_gradient(operands, e, profile);
    list.extend(tiled::weight_gradient(operands, e, profile));
    let [each_m, each_n] = register_tile(m);
    // A CPU has few cores: a handful of parts is enough.
    let (parts, chunk) = split(pixels, m.div_ceil(each_m) * n.div_ceil(LANES * each_n), 32, 64);
    let elements = [bytes(dy), bytes(x), 4];
    let first = register(base("weight_gradient_register", parts, chunk), [m, n, pixels], elements, parts);
    list.extend(lanes::weight_gradient(operands, e, profile));
    let registers = Implementation::new("register", vec![first]).suits(AdapterClass::SOFTWARE);
    list.push(finish(registers, parts));
    list.extend(winograd::weight_gradient(operands, e, profile));
    list
}

/// Adds the second pass to an implementation whose first kernel leaves `parts` partial sums of
/// `count` elements in scratch 0; a sum that is not cut needs none.
pub(super) fn finish_parts(
    operands: &Operands<'_>,
    source: &'static str,
    implementation: Implementation,
    parts: usize,
    count: usize,
) -> Implementation {
    if parts == 1 {
        return implementation;
    }
    let second = Kernel::new(operands, source, "sum_parts")
        .geometries([("count", count), ("parts", parts)])
        .bind("partial", Slot::Scratch(0))
        .bind("dw", Slot::Output(0))
        .linear(count);
    let mut implementation = implementation.scratch(parts * count);
    implementation.kernels.push(second);
    implementation
}

pub(super) fn bias_gradient(operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
    let dy = &operands.inputs[0];
    let [items, outputs, plane] = dy.spec.shape.ncs();
    let planes = |entry, plane: usize| {
        Kernel::new(operands, SOURCE, entry).geometries([
            ("items", items),
            ("outputs", outputs),
            ("plane", plane),
            ("y_offset", dy.offset),
            ("y_stride", dy.batch_stride),
        ])
    };
    let second = |entry, sums: usize| {
        Kernel::new(operands, SOURCE, entry)
            .geometries([("items", sums), ("outputs", outputs)])
            .bind("partial", Slot::Scratch(0))
            .bind("db", Slot::Output(0))
    };
    // Workgroups of 64 invocations: a compute unit of a GPU has room for many.
    let most = (8 * profile.busy_workgroups()).div_ceil(outputs).min(items);
    let chunk = items.div_ceil(most);
    let parts = items.div_ceil(chunk);
    let vector = plane.is_multiple_of(4) && dy.is_aligned(4);
    let first = planes("bias_parts_tiled", if vector { plane / 4 } else { plane })
        .geometry("chunk", chunk)
        .constant("VECTOR", vector)
        .bind_as("dy_data", Slot::Input(0), accessed(vector))
        .linear_groups(parts * outputs);
    let tiled = if parts == 1 {
        Implementation::new("tiled", vec![first.bind("partial", Slot::Output(0))])
    } else {
        let kernels = vec![
            first.bind("partial", Slot::Scratch(0)),
            second("sum_items_tiled", parts).linear_groups(outputs),
        ];
        Implementation::new("tiled", kernels).scratch(parts * outputs)
    };
    let serial = planes("bias_planes", plane)
        .bind("dy_data", Slot::Input(0))
        .bind("partial", Slot::Scratch(0))
        .workgroup(8, 1, 1)
        .linear(items * outputs);
    vec![
        tiled.workgroup_memory(4 * 64).suits(AdapterClass::GPU),
        Implementation::new("serial", vec![serial, second("sum_items", items).linear(outputs)])
            .scratch(items * outputs)
            .suits(AdapterClass::SOFTWARE),
    ]
}
