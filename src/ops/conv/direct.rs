//! The family that runs everywhere: each invocation holds a tile of results in registers and reads
//! its operands directly from storage; see `conv.wgsl`.

use super::geometry::{Extents, Values, bytes, size};
use super::product::Product;
use super::shared::{finish_parts, kernel, split, traffic};
use crate::kernel::{AdapterClass, Implementation, Kernel, Operands, Slot};

const SOURCE: &str = include_str!("../../../shaders/conv.wgsl");

/// Invocations of a workgroup of this family: one SIMD vector of the CPU.
const LANES: usize = 8;

/// A register tile for `m` results: channels per invocation, and pixels or columns.
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

/// Forward and input gradient.
pub(super) fn product(operands: &Operands<'_>, product: &Product<'_>) -> Implementation {
    let (e, source, result) = (product.extents, product.source, product.result);
    let kernel = if product.transposed {
        kernel(operands, e, [SOURCE, "input_gradient_register"], result, source, Values::Compiled)
            .bind("dy_data", Slot::Input(0))
            .bind("weight", Slot::Input(1))
            .bind("dx_data", Slot::Output(0))
    } else {
        kernel(operands, e, [SOURCE, "forward_register"], source, result, Values::Compiled)
            .bind("x_data", Slot::Input(0))
            .bind("weight", Slot::Input(1))
            .bind("y_data", Slot::Output(0))
    };
    let kernel = product.epilogue.apply(kernel, "f32");
    let taps = e.kernel[0] * e.kernel[1];
    let extents = if product.transposed {
        [e.channels, e.batch * e.size[0] * e.size[1], e.outputs * taps]
    } else {
        [e.outputs, e.batch * e.out[0] * e.out[1], e.channels * taps]
    };
    let mut kernel = register(kernel, extents, [4, bytes(source), bytes(result)], 1);
    kernel.traffic = kernel.traffic.map(|traffic| product.epilogue.traffic(traffic, result));
    Implementation::new("register", vec![kernel]).suits(AdapterClass::SOFTWARE)
}

/// The weight gradient.
pub(super) fn weight_gradient(operands: &Operands<'_>, e: &Extents) -> Implementation {
    let (x, dy) = (&operands.inputs[0], &operands.inputs[1]);
    let (m, n, pixels) = (e.outputs, e.depth(), e.batch * e.out[0] * e.out[1]);
    let [each_m, each_n] = register_tile(m);
    // A CPU has few cores, so a few parts suffice.
    let (parts, chunk) = split(pixels, m.div_ceil(each_m) * n.div_ceil(LANES * each_n), 32, 64);
    // Without split-K there is no second pass.
    let slot = if parts == 1 { Slot::Output(0) } else { Slot::Scratch(0) };
    let kernel = kernel(operands, e, [SOURCE, "weight_gradient_register"], x, dy, Values::Compiled)
        .geometry("chunk", chunk)
        .bind("x_data", Slot::Input(0))
        .bind("dy_data", Slot::Input(1))
        .bind("partial", slot);
    let first = register(kernel, [m, n, pixels], [bytes(dy), bytes(x), 4], parts);
    let registers = Implementation::new("register", vec![first]).suits(AdapterClass::SOFTWARE);
    finish_parts(operands, registers, parts, m * n)
}
