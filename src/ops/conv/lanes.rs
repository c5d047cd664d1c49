//! The family for software drivers, which run a subgroup as one SIMD vector; see `conv_lanes.wgsl`.

use super::geometry::{Extents, Values, bytes, size};
use super::product::Product;
use super::shared::{finish_parts, kernel, split, traffic};
use crate::kernel::{AdapterClass, Implementation, Kernel, Operand, Operands, Profile, Slot};

const SOURCE: &str = include_str!("../../../shaders/conv_lanes.wgsl");

/// Lanes of a subgroup, and invocations of a workgroup.
const LANES: usize = 8;
/// Neighbouring pixels per lane.
const FOUR: usize = 4;
/// Maximum number of source columns for four pixels: kernels unroll them.
const MOST_COLUMNS: usize = 64;
/// K steps packed by one workgroup: with one step each, workgroups would take longer to start than
/// to run.
const PACKED: usize = 16;

/// The K steps of a product.
struct Steps {
    tile_m: usize,
    /// Channels per step.
    channels: usize,
    /// Vectors of weights that each lane loads per step.
    loads: usize,
}

impl Steps {
    /// The tile with the lowest estimated time. Costs were measured on lavapipe, in nanoseconds per
    /// vector of lanes: load of four 40, broadcast 0.7, multiply-add 0.65; `source` is the time to
    /// load one tap of four pixels.
    fn new(rows: usize, kernel_w: usize, source: f64) -> Self {
        let of = |tile_m: usize| {
            let channels = if kernel_w == 1 { 4 } else { 1 };
            let loads = (channels * kernel_w * tile_m).div_ceil(FOUR * LANES);
            Self { tile_m, channels, loads }
        };
        let cost = |tile_m: &usize| {
            let steps = of(*tile_m);
            let weights = 40.0 * steps.loads as f64 / (steps.channels * kernel_w) as f64;
            let each = weights + source + (0.7 + 4.0 * 0.65) * *tile_m as f64;
            each * rows.div_ceil(*tile_m) as f64
        };
        // Few shapes keep the number of compiled pipelines low.
        let best = [32, 24, 16, 8].into_iter().min_by(|a, b| cost(a).total_cmp(&cost(b)));
        of(best.unwrap_or(32))
    }
}

/// Whether the operand's rows are whole, aligned vectors of four.
fn whole_rows(operand: &Operand, width: usize) -> bool {
    width.is_multiple_of(FOUR) && operand.is_aligned(FOUR)
}

fn supported(profile: &Profile) -> bool {
    profile.class == AdapterClass::Software && profile.subgroup == Some(8)
}

/// Forward and input gradient.
pub(super) fn product(
    operands: &Operands<'_>,
    product: &Product<'_>,
    profile: &Profile,
) -> Option<Implementation> {
    let view = product.source_view()?;
    let e = view.extents;
    if !supported(profile) {
        return None;
    }
    let (source, result) = (product.source, product.result);
    // A 1x1 convolution without padding needs no neighbours: the plane is treated as one long row.
    let flat = e.kernel == [1, 1] && e.stride == [1, 1] && !view.pads() && !view.is_subpixel();
    let (size_in, out) =
        if flat { ([1, e.size[0] * e.size[1]], [1, e.out[0] * e.out[1]]) } else { (e.size, e.out) };
    let same = e.stride == [1, 1] && e.kernel[1] == 2 * e.padding[1] + 1 && size_in[1] == out[1];
    let vector = same
        && !view.is_subpixel()
        && whole_rows(source, size_in[1])
        && whole_rows(result, out[1])
        && product.epilogue.is_aligned();
    let [_, kernel_w] = e.kernel;
    let columns = 3 * e.stride[1] + kernel_w;
    if columns > MOST_COLUMNS {
        return None;
    }
    let source_cost = if vector { 40 + 19 * (kernel_w - 1) } else { 19 * columns };
    let steps = Steps::new(e.outputs, kernel_w, source_cost as f64 / kernel_w as f64);
    let row_groups = out[1].div_ceil(FOUR);
    let groups = (e.batch * out[0] * row_groups).div_ceil(LANES);
    let tiles = e.outputs.div_ceil(steps.tile_m);
    let step_count = e.channels.div_ceil(steps.channels) * e.kernel[0];
    if groups > 65_535 || step_count > 65_535 {
        return None;
    }
    let pack = e
        .taps(Kernel::new(operands, SOURCE, "pack_lanes"), Values::Compiled)
        .constant("TILE_M", size(steps.tile_m))
        .constant("STEP_C", size(steps.channels))
        .constant("EACH", size(PACKED))
        .geometries([("rows", e.outputs), ("depth", e.channels), ("steps", step_count)])
        .bind("weight", Slot::Input(1))
        .bind("panel", Slot::Scratch(0))
        .workgroup(size(FOUR * LANES), 1, 1)
        .groups(steps.loads, step_count.div_ceil(PACKED), tiles);
    let pack = view.pack(pack, product.transposed, Values::Compiled);
    let extents = [e.outputs, e.batch * out[0] * out[1], e.depth()];
    let elements = [4, bytes(source), bytes(result)];
    let moved = traffic(extents, [steps.tile_m, FOUR * LANES], [steps.tile_m, FOUR], elements, 1, false);
    let element = if vector { "vec4<f32>" } else { "f32" };
    let mut rows = view;
    (rows.extents.size, rows.extents.out) = (size_in, out);
    let kernel = rows
        .describe(Kernel::new(operands, SOURCE, "product_lanes"), product, rows.pads(), Values::Compiled)
        .constant("TILE_M", size(steps.tile_m))
        .constant("STEP_C", size(steps.channels))
        .constant("STEP_K", size(steps.channels * kernel_w))
        .constant("LOADS", size(steps.loads))
        .constant("COLUMNS", size(columns))
        .constant("SIDE", size(e.padding[1]))
        .constant("VECTOR", vector)
        .geometry("row_groups", row_groups)
        .bind_as("source", Slot::Input(0), element)
        .bind_as("panel", Slot::Scratch(0), "vec4<f32>")
        .bind_as("result", Slot::Output(0), element)
        .workgroup(size(LANES), 1, 1)
        .traffic(product.epilogue.traffic(moved, result))
        .groups(groups, tiles, 1);
    let kernel = product.epilogue.apply(view.scatter(kernel, Values::Compiled), element);
    let panel = tiles * step_count * steps.loads * FOUR * LANES;
    Some(Implementation::new("lanes", vec![pack, kernel]).scratch(panel).suits(AdapterClass::SOFTWARE))
}

/// The weight gradient.
pub(super) fn weight_gradient(
    operands: &Operands<'_>,
    e: &Extents,
    profile: &Profile,
) -> Option<Implementation> {
    if !supported(profile) || 3 * e.stride[1] + e.kernel[1] > MOST_COLUMNS {
        return None;
    }
    let (x, dy) = (&operands.inputs[0], &operands.inputs[1]);
    let flat = e.kernel == [1, 1] && e.stride == [1, 1] && e.padding == [0, 0];
    let (size_in, out) =
        if flat { ([1, e.size[0] * e.size[1]], [1, e.out[0] * e.out[1]]) } else { (e.size, e.out) };
    let vector = whole_rows(dy, out[1]);
    let same = e.stride == [1, 1] && e.kernel[1] == 2 * e.padding[1] + 1 && size_in[1] == out[1];
    // Lanes are channels if there are enough channels to fill most lanes.
    let channels = e.channels >= 6;
    let vector_x = channels && same && whole_rows(x, size_in[1]);
    let tile_m = e.outputs.next_multiple_of(LANES).min(32);
    let (columns, lines) = (e.depth(), e.batch * out[0]);
    let (lane_groups, blocks, across) = if channels {
        let lane_groups = (6 / e.kernel[1]).clamp(1, 4).min(e.channels.div_ceil(LANES));
        (lane_groups, lane_groups * e.kernel[1], e.channels.div_ceil(lane_groups * LANES) * e.kernel[0])
    } else {
        let lane_groups = columns.div_ceil(LANES).min(4);
        (lane_groups, lane_groups, columns.div_ceil(lane_groups * LANES))
    };
    let groups = [across, e.outputs.div_ceil(tile_m)];
    // A CPU has few cores, so a few parts suffice, each long enough to pay for the second pass.
    let shortest = 256_usize.div_ceil(out[1]);
    let (parts, chunk) = split(lines, groups[0] * groups[1], 32, shortest);
    let slot = if parts == 1 { Slot::Output(0) } else { Slot::Scratch(0) };
    let extents = [e.outputs, columns, lines * out[1]];
    let elements = [bytes(dy), bytes(x), 4];
    let moved = traffic(extents, [tile_m, LANES * blocks], [tile_m, blocks], elements, parts, false);
    let kernel = kernel(
        operands,
        &Extents { size: size_in, out, ..*e },
        [SOURCE, "weight_gradient_lanes"],
        x,
        dy,
        Values::Compiled,
    )
    .constant("TILE_M", size(tile_m))
    .constant("TILE_ROWS", size(tile_m / LANES))
    .constant("CHANNELS", channels)
    .constant("GROUPS", size(lane_groups))
    .constant("BLOCKS", size(blocks))
    .constant("COLUMNS", size(3 * e.stride[1] + e.kernel[1]))
    .constant("SIDE", size(e.padding[1]))
    .constant("VECTOR", vector)
    .constant("VECTOR_X", vector_x)
    .geometry("chunk", chunk)
    .bind_as("x_data", Slot::Input(0), if vector_x { "vec4<f32>" } else { "f32" })
    .bind_as("dy_data", Slot::Input(1), if vector { "vec4<f32>" } else { "f32" })
    .bind("partial", slot)
    .workgroup(size(LANES), 1, 1)
    .traffic(moved)
    .groups(groups[0], groups[1], parts);
    let implementation = Implementation::new("lanes", vec![kernel]).suits(AdapterClass::SOFTWARE);
    Some(finish_parts(operands, implementation, parts, e.outputs * columns))
}
