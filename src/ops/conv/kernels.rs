//! The kernels of convolution: a family with workgroup tiles for GPUs, one with register tiles for drivers that run on a CPU.

use super::{Extents, cooperative};
use crate::kernel::{AdapterClass, Implementation, Kernel, Operand, Operands, Profile, Slot};

const SOURCE: &str = include_str!("../../../shaders/conv.wgsl");

/// Workgroup tiles: `m` x `n` results, `each_m` x `each_n` of them an invocation, `depth` terms of the sum at a time.
#[derive(Clone, Copy, Debug)]
struct Tile {
    name: &'static str,
    m: usize,
    n: usize,
    depth: usize,
    each_m: usize,
    each_n: usize,
}

/// Tile shapes from large to small. All have 256 invocations or fewer and at most 16 KiB of workgroup memory.
const TILES: [Tile; 3] = [
    Tile { name: "tiled_128x128", m: 128, n: 128, depth: 8, each_m: 8, each_n: 8 },
    Tile { name: "tiled_64x64", m: 64, n: 64, depth: 16, each_m: 4, each_n: 4 },
    Tile { name: "tiled_32x32", m: 32, n: 32, depth: 16, each_m: 4, each_n: 2 },
];

/// Workgroups that keep a large GPU busy: two for each of some hundred compute units.
const BUSY: usize = 264;

impl Tile {
    fn invocations(&self) -> usize {
        self.m / self.each_m * (self.n / self.each_n)
    }

    fn groups(&self, m: usize, n: usize) -> [usize; 2] {
        [n.div_ceil(self.n), m.div_ceil(self.m)]
    }

    fn apply(&self, kernel: Kernel) -> Kernel {
        kernel
            .constant("TILE_M", size(self.m))
            .constant("TILE_N", size(self.n))
            .constant("DEPTH", size(self.depth))
            .constant("EACH_M", size(self.each_m))
            .constant("EACH_N", size(self.each_n))
            .workgroup(size(self.invocations()), 1, 1)
    }

    fn finish(&self, kernels: Vec<Kernel>) -> Implementation {
        let memory = 4 * (self.m + self.n) * self.depth;
        Implementation::new(self.name, kernels).suits(AdapterClass::GPU).workgroup_memory(memory)
    }
}

/// The tiles in the order of preference for `m` x `n` results cut into `parts`: the largest that still gives enough workgroups first.
fn tiles(m: usize, n: usize, parts: impl Fn(&Tile) -> usize) -> Vec<Tile> {
    let busy = |t: &Tile| t.groups(m, n).iter().product::<usize>() * parts(t) >= BUSY;
    // A tile that is mostly outside of the results computes for nothing.
    let fits = |t: &Tile| t.m < 2 * m.next_multiple_of(32) && t.n < 2 * n.next_multiple_of(32);
    let mut order = TILES.to_vec();
    order.sort_by_key(|t| {
        (!fits(t), !busy(t), std::cmp::Reverse(if busy(t) { t.m * t.n } else { 0 }), t.m * t.n)
    });
    order
}

pub(super) fn size(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A kernel with what all directions share.
fn kernel(operands: &Operands<'_>, e: &Extents, entry: &'static str, x: &Operand, y: &Operand) -> Kernel {
    // Only windows that can reach outside of the input pay for asking.
    let reach = |i: usize| e.padding[i] > 0;
    let plain = e.kernel == [1, 1] && e.stride == [1, 1] && e.padding == [0, 0];
    Kernel::new(operands, SOURCE, entry)
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

fn register(kernel: Kernel, m: usize, n: usize, parts: usize) -> Kernel {
    let [each_m, each_n] = register_tile(m);
    kernel
        .constant("EACH_M", size(each_m))
        .constant("EACH_N", size(each_n))
        .workgroup(size(LANES), 1, 1)
        .groups(n.div_ceil(LANES * each_n), m.div_ceil(each_m), parts)
}

pub(super) fn forward(
    operands: &Operands<'_>,
    e: &Extents,
    relu: bool,
    profile: &Profile,
) -> Vec<Implementation> {
    let (x, y) = (&operands.inputs[0], &operands.outputs[0]);
    let bias = operands.inputs.len() > 2;
    let base = |entry| {
        let kernel = kernel(operands, e, entry, x, y)
            .constant("RELU", relu)
            .constant("BIAS", bias)
            .bind("x_data", Slot::Input(0))
            .bind("weight", Slot::Input(1))
            .bind("y_data", Slot::Output(0));
        if bias { kernel.bind("bias", Slot::Input(2)) } else { kernel }
    };
    let (m, n) = (e.outputs, e.batch * e.out[0] * e.out[1]);
    let tiled = |tile: Tile| {
        let [x, y] = tile.groups(m, n);
        tile.finish(vec![tile.apply(base("forward_tiled")).groups(x, y, 1)])
    };
    let mut list: Vec<Implementation> =
        cooperative::forward(operands, e, relu, profile).into_iter().collect();
    list.extend(tiles(m, n, |_| 1).into_iter().map(tiled));
    let registers = vec![register(base("forward_register"), m, n, 1)];
    list.push(Implementation::new("register", registers).suits(AdapterClass::SOFTWARE));
    list
}

pub(super) fn input_gradient(
    operands: &Operands<'_>,
    e: &Extents,
    accumulate: bool,
    profile: &Profile,
) -> Vec<Implementation> {
    let (dy, dx) = (&operands.inputs[0], &operands.outputs[0]);
    let base = |entry| {
        kernel(operands, e, entry, dx, dy)
            .constant("ACCUMULATE", accumulate)
            .bind("dy_data", Slot::Input(0))
            .bind("weight", Slot::Input(1))
            .bind("dx_data", Slot::Output(0))
    };
    let (m, n) = (e.channels, e.batch * e.size[0] * e.size[1]);
    let tiled = |tile: Tile| {
        let [x, y] = tile.groups(m, n);
        tile.finish(vec![tile.apply(base("input_gradient_tiled")).groups(x, y, 1)])
    };
    let mut list: Vec<Implementation> =
        cooperative::input_gradient(operands, e, accumulate, profile).into_iter().collect();
    list.extend(tiles(m, n, |_| 1).into_iter().map(tiled));
    let registers = vec![register(base("input_gradient_register"), m, n, 1)];
    list.push(Implementation::new("register", registers).suits(AdapterClass::SOFTWARE));
    list
}

/// Into how many parts of how many pixels the sum over pixels is cut: enough for `wanted` workgroups in all, none shorter than `shortest`.
pub(super) fn split(pixels: usize, groups: usize, wanted: usize, shortest: usize) -> (usize, usize) {
    let parts = wanted.div_ceil(groups.max(1)).min(pixels / shortest).clamp(1, 256);
    let chunk = pixels.div_ceil(parts);
    (pixels.div_ceil(chunk), chunk)
}

/// Adds the pass that sums up the `parts` of a weight gradient of `count` elements in their order, if there are several.
pub(super) fn second_pass(
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
        kernel(operands, e, entry, x, dy)
            .geometry("chunk", chunk)
            .bind("x_data", Slot::Input(0))
            .bind("dy_data", Slot::Input(1))
            .bind("partial", slot)
    };
    let finish = |implementation, parts| second_pass(operands, implementation, parts, count);
    let cut = |tile: &Tile| split(pixels, tile.groups(m, n).iter().product(), 2 * BUSY, 8 * tile.depth);
    let tiled = |tile: Tile| {
        let (parts, chunk) = cut(&tile);
        let [x, y] = tile.groups(m, n);
        let first = tile.apply(base("weight_gradient_tiled", parts, chunk)).groups(x, y, parts);
        finish(tile.finish(vec![first]), parts)
    };
    let mut list: Vec<Implementation> =
        cooperative::weight_gradient(operands, e, 2 * BUSY, profile).into_iter().collect();
    list.extend(tiles(m, n, |t| cut(t).0).into_iter().map(tiled));
    let [each_m, each_n] = register_tile(m);
    // A CPU has few cores: a handful of parts is enough.
    let (parts, chunk) = split(pixels, m.div_ceil(each_m) * n.div_ceil(LANES * each_n), 32, 64);
    let first = register(base("weight_gradient_register", parts, chunk), m, n, parts);
    let registers = Implementation::new("register", vec![first]).suits(AdapterClass::SOFTWARE);
    list.push(finish(registers, parts));
    list
}

pub(super) fn bias_gradient(operands: &Operands<'_>) -> Vec<Implementation> {
    let dy = &operands.inputs[0];
    let [items, outputs, plane] = dy.spec.shape.ncs();
    let planes = |entry| {
        Kernel::new(operands, SOURCE, entry)
            .geometries([
                ("items", items),
                ("outputs", outputs),
                ("plane", plane),
                ("y_offset", dy.offset),
                ("y_stride", dy.batch_stride),
            ])
            .bind("dy_data", Slot::Input(0))
            .bind("partial", Slot::Scratch(0))
    };
    let second = Kernel::new(operands, SOURCE, "sum_items")
        .geometries([("items", items), ("outputs", outputs)])
        .bind("partial", Slot::Scratch(0))
        .bind("db", Slot::Output(0))
        .linear(outputs);
    let tiled = planes("bias_planes_tiled").linear_groups(items * outputs);
    let serial = planes("bias_planes").workgroup(8, 1, 1).linear(items * outputs);
    vec![
        Implementation::new("tiled", vec![tiled, second.clone()])
            .scratch(items * outputs)
            .workgroup_memory(4 * 64)
            .suits(AdapterClass::GPU),
        Implementation::new("serial", vec![serial, second])
            .scratch(items * outputs)
            .suits(AdapterClass::SOFTWARE),
    ]
}
