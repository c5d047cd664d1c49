//! 3x3 convolutions by Winograd's algorithm on GPUs, in all three directions; see
//! `conv_winograd.wgsl`. Never the default: tuning ([`tune`](crate::tune)) chooses it where it is
//! fastest, after checking its error.

use super::geometry::{Extents, Values, bytes, size};
use super::product::{Product, View};
use super::shared::{finish_parts, kernel, split};
use crate::kernel::{AdapterClass, Implementation, Kernel, Operands, Profile, Slot, Traffic};

const SOURCE: &str = include_str!("../../../shaders/conv_winograd.wgsl");

/// Rows and columns of a workgroup's products.
const BLOCK: usize = 32;
/// Elements of a patch.
const PLACES: usize = 16;
/// Invocations of a workgroup.
const INVOCATIONS: usize = 256;

/// Names and K per step: longer steps have fewer barriers but need more workgroup memory (16 KiB
/// for four).
const DEPTHS: [(&str, usize); 2] = [("winograd", 8), ("winograd_small", 4)];

/// Whether the device holds the sums of an invocation in registers: a software driver has memory
/// anyway, but on an Intel GPU the family needs 100 spills.
fn holds(profile: &Profile) -> bool {
    profile.has_many_registers() || !profile.grouped
}

/// Forward and input gradient; `None` unless this is a 3x3 convolution with stride 1.
pub(super) fn product(
    operands: &Operands<'_>,
    product: &Product<'_>,
    profile: &Profile,
) -> Vec<Implementation> {
    let Some(view) = product.source_view().filter(|_| holds(profile)) else { return Vec::new() };
    if view.extents.kernel != [3, 3] || view.extents.stride != [1, 1] || view.is_subpixel() {
        return Vec::new();
    }
    DEPTHS.iter().map(|(name, depth)| with_depth(name, *depth, operands, product, &view)).collect()
}

fn with_depth(
    name: &'static str,
    depth: usize,
    operands: &Operands<'_>,
    product: &Product<'_>,
    view: &View,
) -> Implementation {
    let (source, result, e) = (product.source, product.result, &view.extents);
    let [down, across] = e.out.map(|n| n.div_ceil(2));
    let patches = e.batch * down * across;
    let steps = e.channels.div_ceil(depth);
    let (tiles, columns) = (e.outputs.div_ceil(BLOCK), patches.div_ceil(BLOCK));
    let channels = steps * depth;
    let pack = Kernel::new(operands, SOURCE, "pack_winograd")
        .groupable()
        .constant("TRANSPOSED", product.transposed)
        .geometries([("rows", e.outputs), ("depth", e.channels), ("quads", channels / 4)])
        .bind("weight", Slot::Input(1))
        .bind("panel", Slot::Scratch(0))
        .linear(tiles * BLOCK * channels);
    let kernel = view.describe(
        Kernel::new(operands, SOURCE, "product_winograd").groupable(),
        product,
        view.pads(),
        Values::Compiled,
    );
    let kernel = view
        .scatter(stepped(kernel, depth), Values::Compiled)
        .constant("QUADS", size(depth / 4))
        .constant("LEFT_LOADS", size(depth / 4 * PLACES * BLOCK / INVOCATIONS))
        .constant("PARTIAL", !e.channels.is_multiple_of(depth))
        .constant("SPLIT", false)
        .constant("STORE_VECTOR", false)
        .geometries([("down", down), ("across", across), ("steps", steps)])
        .bind("source", Slot::Input(0))
        .bind_as("panel", Slot::Scratch(0), "vec4<f32>")
        .bind("result", Slot::Output(0))
        .workgroup(size(INVOCATIONS), 1, 1)
        .groups(tiles, columns, 1);
    let stored = bytes(result) * result.volume();
    // Each tile of rows loads all patches, each column of patches all weights.
    let patch = bytes(source) * PLACES * patches * e.channels;
    let weights = 4 * PLACES * e.outputs * e.channels;
    let traffic = Traffic {
        flops: e.macs().saturating_mul(2),
        loaded: (patch * tiles + weights * columns) as u64,
        stored: stored as u64,
        // At best, the patch of each pixel's neighbours is loaded once.
        attainable: (patch / 4 * e.outputs.div_ceil(128) + weights * patches.div_ceil(128) + stored) as u64,
        shared: shared(tiles * columns, channels),
        register: [8, 8],
        parts: 1,
        fused: 0,
    };
    let kernel = product.epilogue.apply(kernel, "f32").traffic(product.epilogue.traffic(traffic, result));
    implementation(name, vec![pack, kernel], depth).scratch(tiles * BLOCK * channels * PLACES)
}

/// Sets K per step.
fn stepped(kernel: Kernel, depth: usize) -> Kernel {
    kernel.constant("DEPTH", size(depth)).constant("IDLE", depth * BLOCK < INVOCATIONS)
}

/// Workgroup memory traffic in bytes of `workgroups` for sums of length `k`: a step stores both
/// operands once, and for each element of a patch sixteen invocations load eight rows and eight
/// columns.
fn shared(workgroups: usize, k: usize) -> u64 {
    (4 * PLACES * k * workgroups * (2 * BLOCK + 16 * 16)) as u64
}

fn implementation(name: &'static str, kernels: Vec<Kernel>, depth: usize) -> Implementation {
    let words = 2 * PLACES * BLOCK * depth;
    Implementation::new(name, kernels).suits(AdapterClass::NONE).workgroup_memory(4 * words)
}

/// The weight gradient; `None` unless this is a 3x3 convolution with stride 1.
pub(super) fn weight_gradient(
    operands: &Operands<'_>,
    e: &Extents,
    profile: &Profile,
) -> Vec<Implementation> {
    if e.kernel != [3, 3] || e.stride != [1, 1] || !holds(profile) {
        return Vec::new();
    }
    let (x, dy) = (&operands.inputs[0], &operands.inputs[1]);
    let [down, across] = e.out.map(|n| n.div_ceil(2));
    let patches = e.batch * down * across;
    let (rows, columns) = (e.outputs.div_ceil(BLOCK), e.channels.div_ceil(BLOCK));
    let (parts, chunk) = split(patches, rows * columns, profile.wanted_workgroups(), 64);
    let count = e.outputs * e.depth();
    // Each column of tiles loads all of dy, and each row of tiles four pixels of x per pixel.
    let loaded = bytes(dy) * dy.volume() * columns + bytes(x) * PLACES * patches * e.channels * rows;
    let stored = 4 * count * parts;
    let with_depth = |(name, depth): &(&'static str, usize)| {
        let traffic = Traffic {
            flops: e.macs().saturating_mul(2),
            loaded: loaded as u64,
            stored: stored as u64,
            attainable: (bytes(dy) * dy.volume() * e.channels.div_ceil(128)
                + bytes(x) * x.volume() * e.outputs.div_ceil(128)
                + stored) as u64,
            shared: shared(rows * columns, patches),
            register: [8, 8],
            parts: size(parts),
            fused: 0,
        };
        // Without split-K there is no second pass.
        let slot = if parts == 1 { Slot::Output(0) } else { Slot::Scratch(0) };
        let kernel = kernel(operands, e, [SOURCE, "weight_gradient_winograd"], x, dy, Values::Compiled)
            .geometries([("down", down), ("across", across), ("chunk", chunk)])
            .bind("x_data", Slot::Input(0))
            .bind("dy_data", Slot::Input(1))
            .bind("partial", slot)
            .workgroup(size(INVOCATIONS), 1, 1)
            .groups(rows, columns, parts)
            .traffic(traffic);
        let first = implementation(name, vec![stepped(kernel, *depth)], *depth);
        finish_parts(operands, first, parts, count)
    };
    DEPTHS.iter().map(with_depth).collect()
}
