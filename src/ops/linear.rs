//! Fully connected layer (Caffe's InnerProduct) and its three gradients.

use std::sync::Arc;

use super::{Relu, ReluGrad, activation, expect, parameters};
use crate::error::Result;
use crate::graph::{Backward, Operation};
use crate::kernel::{
    AdapterClass, Implementation, Kernel, Operand, Operands, Profile, Slot, TiledProduct, Traffic,
};
use crate::tensor::{Shape, Spec};

const SOURCE: &str = include_str!("../../shaders/linear.wgsl");

/// y = x w^T + b. Inputs: x [batch, ...] with the rest flattened to features, weight [outputs,
/// features], b [outputs]; output: [batch, outputs].
#[derive(Clone, Debug)]
pub struct Linear {
    /// Whether max(y, 0) is applied to the result.
    pub relu: bool,
}

/// The gradient with respect to the input. Inputs: dy, weight; output: dx of the input's shape.
#[derive(Clone, Debug)]
pub struct LinearInputGrad {
    /// The extents of the input.
    pub shape: Shape,
}

/// The gradient with respect to the weight. Inputs: x, dy; output: dw.
#[derive(Clone, Debug)]
pub struct LinearWeightGrad;

/// The gradient with respect to the bias: the sum over the batch. Input: dy; output: db.
#[derive(Clone, Debug)]
pub struct LinearBiasGrad;

impl Operation for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x, weight, bias] = expect(inputs)?;
        activation(x)?;
        parameters(&[weight, bias])?;
        match (x.dims(), weight.dims(), bias.dims()) {
            ([batch, ..], [outputs, features], [biases])
                if x.shape.item() == *features && biases == outputs =>
            {
                Ok(vec![x.like([*batch, *outputs])])
            }
            _ => {
                Err(format!("input {}, weight {} and bias {} do not fit", x.shape, weight.shape, bias.shape))
            }
        }
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        let Some(mut dy) = context.grad(0) else { return Ok(()) };
        if self.relu {
            dy = context.emit("relu_grad", ReluGrad, &[context.output(0), dy])?[0];
        }
        let (x, weight) = (context.input(0), context.input(1));
        let shape = context.dims(x).into();
        context.contribute(2, LinearBiasGrad, &[dy])?;
        context.contribute(1, LinearWeightGrad, &[x, dy])?;
        context.contribute(0, LinearInputGrad { shape }, &[dy, weight])
    }

    fn fuse(&self, next: &dyn Operation) -> Option<Arc<dyn Operation>> {
        let fused = || -> Arc<dyn Operation> { Arc::new(Self { relu: true }) };
        (next.is::<Relu>() && !self.relu).then(fused)
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let (x, weight, y) = (&operands.inputs[0], &operands.inputs[1], &operands.outputs[0]);
        let [batch, outputs, _] = y.spec.shape.ncs();
        let product = Product {
            rows: batch,
            columns: outputs,
            depth: x.spec.shape.item(),
            along_k: [true, true],
            element: elements([x, weight, y]),
        };
        let entries = ["forward_tiled", "forward_register"];
        product.implementations(entries, Some("forward_finish"), profile, |entry, pass| {
            let mut kernel = kernel(operands, entry, x, y).constant("RELU", self.relu);
            if pass != Pass::Finish {
                kernel = kernel.bind("x_data", Slot::Input(0)).bind("weight", Slot::Input(1));
            }
            if pass != Pass::Parts {
                kernel = kernel.bind("bias", Slot::Input(2)).bind("y_data", Slot::Output(0));
            }
            kernel
        })
    }

    fn macs(&self, inputs: &[&Spec], outputs: &[&Spec]) -> u64 {
        outputs[0].shape.volume().saturating_mul(inputs[0].shape.item()) as u64
    }
}

impl Operation for LinearInputGrad {
    fn name(&self) -> &'static str {
        "linear_input_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [dy, weight] = expect(inputs)?;
        activation(dy)?;
        parameters(&[weight])?;
        match (dy.dims(), weight.dims()) {
            ([batch, outputs], [of, features])
                if outputs == of
                    && self.shape.dims().first() == Some(batch)
                    && self.shape.item() == *features =>
            {
                Ok(vec![dy.like(self.shape.clone())])
            }
            _ => Err(format!("gradient {} and weight {} do not fit {}", dy.shape, weight.shape, self.shape)),
        }
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let (dy, weight, dx) = (&operands.inputs[0], &operands.inputs[1], &operands.outputs[0]);
        let [batch, outputs, _] = dy.spec.shape.ncs();
        let product = Product {
            rows: batch,
            columns: dx.spec.shape.item(),
            depth: outputs,
            along_k: [true, false],
            element: elements([dy, weight, dx]),
        };
        let entries = ["input_gradient_tiled", "input_gradient_register"];
        product.implementations(entries, Some("input_gradient_finish"), profile, |entry, pass| {
            let mut kernel = kernel(operands, entry, dx, dy);
            if pass != Pass::Finish {
                kernel = kernel.bind("dy_data", Slot::Input(0)).bind("weight", Slot::Input(1));
            }
            if pass != Pass::Parts {
                kernel = kernel.bind("dx_data", Slot::Output(0));
            }
            kernel
        })
    }

    fn macs(&self, inputs: &[&Spec], outputs: &[&Spec]) -> u64 {
        inputs[0].shape.volume().saturating_mul(outputs[0].shape.item()) as u64
    }
}

impl Operation for LinearWeightGrad {
    fn name(&self) -> &'static str {
        "linear_weight_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x, dy] = expect(inputs)?;
        match (x.dims(), dy.dims()) {
            ([batch, ..], [items, outputs]) if batch == items => {
                Ok(vec![Spec::f32([*outputs, x.shape.item()])])
            }
            _ => Err(format!("input {} and gradient {} do not fit", x.shape, dy.shape)),
        }
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let (x, dy) = (&operands.inputs[0], &operands.inputs[1]);
        let [batch, outputs, _] = dy.spec.shape.ncs();
        let columns = x.spec.shape.item();
        let product = Product {
            rows: outputs,
            columns,
            depth: batch,
            along_k: [false, false],
            element: elements([dy, x, &operands.outputs[0]]),
        };
        // Short sums over the batch and many results: split-K gains nothing.
        let entries = ["weight_gradient_tiled", "weight_gradient_register"];
        product.implementations(entries, None, profile, |entry, _| {
            kernel(operands, entry, x, dy)
                .bind("x_data", Slot::Input(0))
                .bind("dy_data", Slot::Input(1))
                .bind("dw", Slot::Output(0))
        })
    }

    fn macs(&self, inputs: &[&Spec], outputs: &[&Spec]) -> u64 {
        inputs[0].dims().first().copied().unwrap_or(1).saturating_mul(outputs[0].shape.volume()) as u64
    }
}

impl Operation for LinearBiasGrad {
    fn name(&self) -> &'static str {
        "linear_bias_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [dy] = expect(inputs)?;
        match dy.dims() {
            [_, outputs] => Ok(vec![Spec::f32([*outputs])]),
            _ => Err(format!("expected batch x outputs, got {}", dy.shape)),
        }
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let dy = &operands.inputs[0];
        let [batch, outputs, _] = dy.spec.shape.ncs();
        let kernel = Kernel::new(operands, SOURCE, "bias_gradient")
            .groupable()
            .geometries([
                ("rows", batch),
                ("outputs", outputs),
                ("y_offset", dy.offset),
                ("y_stride", dy.batch_stride),
            ])
            .bind("dy_data", Slot::Input(0))
            .bind("db", Slot::Output(0))
            .groups(outputs.div_ceil(64), 1, 1);
        vec![Implementation::new("columns", vec![kernel])]
    }
}

fn kernel(operands: &Operands<'_>, entry: &'static str, x: &Operand, y: &Operand) -> Kernel {
    Kernel::new(operands, SOURCE, entry).groupable().geometries([
        ("features", x.spec.shape.item()),
        ("outputs", y.spec.shape.item()),
        ("x_offset", x.offset),
        ("x_stride", x.batch_stride),
        ("y_offset", y.offset),
        ("y_stride", y.batch_stride),
    ])
}

/// Bytes per element of each operand.
fn elements(operands: [&Operand; 3]) -> [usize; 3] {
    operands.map(|operand| operand.spec.element.size())
}

/// M, N and K of a matrix product, and whether K is contiguous in its operands.
struct Product {
    rows: usize,
    columns: usize,
    depth: usize,
    /// Bytes per element of the left operand, the right operand and the result.
    element: [usize; 3],
    along_k: [bool; 2],
}

/// The part of a product that a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// The whole product.
    Whole,
    /// First pass of split-K: partial sums, into scratch 0.
    Parts,
    /// Second pass of split-K: the sum of the parts, and the epilogue.
    Finish,
}

/// Invocations of a workgroup of the register family: one SIMD vector of the CPU.
const LANES: usize = 8;
/// Rows, columns and K per step of the tiled family's tiles.
const TILE: usize = 32;
/// Minimum K per part; shorter parts do not pay for the second pass.
const LEAST_PART: usize = 4 * TILE;

impl Product {
    fn traffic(&self, tile: [usize; 2], register: [usize; 2], parts: usize, shared: bool) -> Traffic {
        let extents = [self.rows, self.columns, self.depth];
        TiledProduct { extents, tile, register, parts, element: self.element, shared }.traffic()
    }

    /// K per part of a split-K that occupies a GPU: a batch has few rows, so there are few
    /// workgroups without it, and tiles are so small that a compute unit needs about eight of them.
    fn part(&self, profile: &Profile) -> usize {
        let groups = self.columns.div_ceil(TILE) * self.rows.div_ceil(TILE);
        let parts = (4 * profile.busy_workgroups()).div_ceil(groups);
        self.depth.div_ceil(parts).next_multiple_of(TILE).max(LEAST_PART)
    }

    fn implementations(
        &self,
        entries: [&'static str; 2],
        finish: Option<&'static str>,
        profile: &Profile,
        make: impl Fn(&'static str, Pass) -> Kernel,
    ) -> Vec<Implementation> {
        let with_extents = |entry, pass| {
            make(entry, pass)
                .geometries([("rows", self.rows), ("columns", self.columns), ("depth", self.depth)])
                .constant("SPLIT", pass == Pass::Parts)
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let tiled = |pass: Pass, part: usize| {
            let parts = self.depth.div_ceil(part);
            with_extents(entries[0], pass)
                .geometry("part", part)
                .constant("LEFT_ALONG_K", self.along_k[0])
                .constant("RIGHT_ALONG_K", self.along_k[1])
                .constant("TILE_M", count(TILE))
                .constant("TILE_N", count(TILE))
                .constant("DEPTH", count(TILE))
                .constant("EACH_M", 4u32)
                .constant("EACH_N", 2u32)
                .workgroup(128, 1, 1)
                .traffic(self.traffic([TILE, TILE], [4, 2], parts, true))
                .groups(self.columns.div_ceil(TILE), self.rows.div_ceil(TILE), parts)
        };
        // Few rows leave registers for more columns. K of a sum over the batch is a constant
        // (BATCH_K): lavapipe recompiles a kernel in every step if a loop that is short enough to
        // unroll takes its length from a uniform.
        let each_m = self.rows.min(LANES);
        let each_n = (32 / each_m).min(8);
        let register = |broadcast: bool| {
            with_extents(entries[1], Pass::Whole)
                .constant("EACH_M", count(each_m))
                .constant("EACH_N", count(each_n))
                .constant("BROADCAST", broadcast)
                .constant("LEFT_ALONG_K", self.along_k[0])
                .constant("BATCH_K", count(self.depth))
                .constant("LANES", count(LANES))
                .workgroup(count(LANES), 1, 1)
                .traffic(self.traffic([each_m, LANES * each_n], [each_m, each_n], 1, false))
                .groups(self.columns.div_ceil(LANES * each_n), self.rows.div_ceil(each_m), 1)
        };
        let on_gpus = |name, kernels| {
            Implementation::new(name, kernels)
                .workgroup_memory(4 * 2 * TILE * (TILE + 1))
                .suits(AdapterClass::GPU)
        };
        let mut list = Vec::new();
        let part = self.part(profile);
        let parts = self.depth.div_ceil(part);
        if let Some(entry) = finish.filter(|_| parts > 1) {
            let results = self.rows * self.columns;
            let sums = tiled(Pass::Parts, part).bind("partial", Slot::Scratch(0));
            let finish = with_extents(entry, Pass::Finish)
                .geometry("parts", parts)
                .bind("partial", Slot::Scratch(0))
                .linear(results);
            list.push(on_gpus("tiled_split", vec![sums, finish]).scratch(parts * results));
        }
        list.push(on_gpus("tiled", vec![tiled(Pass::Whole, self.depth)]));
        if profile.class == AdapterClass::Software && profile.subgroup.is_some_and(|s| s as usize == LANES) {
            list.push(Implementation::new("lanes", vec![register(true)]).suits(AdapterClass::SOFTWARE));
        }
        list.push(Implementation::new("register", vec![register(false)]).suits(AdapterClass::SOFTWARE));
        list
    }
}
