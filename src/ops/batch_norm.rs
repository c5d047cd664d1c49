//! Batch normalisation (Ioffe and Szegedy 2015) and its gradient.

use std::sync::Arc;

use super::{activation, expect, parameters};
use crate::error::Result;
use crate::graph::{Alias, Backward, Inference, Operation, Spec};
use crate::kernel::{AdapterClass, Implementation, Kernel, Operand, Operands, Profile, Slot};
use crate::weights::{OnnxAttribute, OnnxExport};

const SOURCE: &str = include_str!("../../shaders/batch_norm.wgsl");

/// y = (x - mean) / sqrt(variance + epsilon) weight + bias for each channel. Inputs: x [batch, channels, height, width] and, of one value a
/// channel, weight, bias, running mean, running variance. In training, outputs y, the batch's mean, the inverse of its standard
/// deviation, and the running statistics in place; in evaluation y alone, from the running statistics.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// Keeps the quotient finite.
    pub epsilon: f32,
    /// Share of the batch in the running statistics: running = (1 - momentum) running + momentum batch, with the unbiased variance.
    pub momentum: f32,
    /// Whether max(y, 0) is applied to the result.
    pub relu: bool,
    /// Whether the batch's statistics are used.
    pub training: bool,
}

/// The gradient. Inputs: x, y, dy, weight and, in training, the batch's mean and inverse standard deviation, in evaluation the running mean
/// and variance, which do not depend on x; outputs: dx in place on dy, dweight, dbias.
#[derive(Clone, Debug)]
pub struct BatchNormGrad {
    /// As in [`BatchNorm`]; used in evaluation.
    pub epsilon: f32,
    /// Whether y went through a ReLU.
    pub relu: bool,
    /// Whether the batch's statistics were used.
    pub training: bool,
}

fn same_channels(x: &Spec, others: &[&Spec]) -> Result<usize, String> {
    let [_, channels, ..] = x.shape.nchw()?;
    activation(x)?;
    parameters(others)?;
    match others.iter().find(|s| s.dims() != [channels]) {
        Some(other) => Err(format!("{} has {channels} channels and a parameter is {}", x.shape, other.shape)),
        None => Ok(channels),
    }
}

impl BatchNorm {
    fn extents(&self, operands: &Operands<'_>, entry: &'static str) -> Kernel {
        extents(operands, entry, self.relu, &operands.inputs[0], &operands.outputs[0], &operands.outputs[0])
            .constant("TRAINING", self.training)
            .geometry("epsilon", self.epsilon)
            .geometry("momentum", self.momentum)
    }
}

fn extents(
    operands: &Operands<'_>,
    entry: &'static str,
    relu: bool,
    x: &Operand,
    y: &Operand,
    d: &Operand,
) -> Kernel {
    let [items, channels, plane] = x.spec.shape.ncs();
    Kernel::new(operands, SOURCE, entry).constant("RELU", relu).geometries([
        ("items", items),
        ("channels", channels),
        ("plane", plane),
        ("count", x.volume()),
        ("x_offset", x.offset),
        ("x_stride", x.batch_stride),
        ("y_offset", y.offset),
        ("y_stride", y.batch_stride),
        ("d_offset", d.offset),
        ("d_stride", d.batch_stride),
    ])
}

/// Invocations that share a plane on a GPU.
const SHARERS: u32 = 64;

/// The same kernels twice: a workgroup for each plane and then each channel, and an invocation for each. `first` goes over planes, `second` over channels.
fn families(x: &Operand, first: &Kernel, second: &Kernel, apply: &Kernel) -> Vec<Implementation> {
    let [items, channels, _] = x.spec.shape.ncs();
    let planes = items * channels;
    let shared = |kernel: &Kernel, groups| {
        let kernel = kernel.clone().constant("SHARERS", SHARERS).constant("ALONE", false);
        kernel.workgroup(SHARERS, 1, 1).linear_groups(groups)
    };
    let alone = |kernel: &Kernel, invocations| {
        kernel.clone().constant("ALONE", true).workgroup(8, 1, 1).linear(invocations)
    };
    let shared = vec![shared(first, planes), shared(second, channels), apply.clone()];
    let alone = vec![alone(first, planes), alone(second, channels), apply.clone()];
    vec![
        Implementation::new("shared", shared)
            .scratch(2 * planes)
            .workgroup_memory(4 * SHARERS as usize)
            .suits(AdapterClass::GPU),
        Implementation::new("alone", alone).scratch(2 * planes).suits(AdapterClass::SOFTWARE),
    ]
}

impl Operation for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x, others @ ..] = inputs else { return Err("expected an input".into()) };
        let channels = same_channels(x, &expect::<4>(others)?)?;
        let each = || Spec::f32([channels]);
        let mut outputs = vec![(*x).clone()];
        if self.training {
            outputs.extend([each(), each(), each(), each()]);
        }
        Ok(outputs)
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        let Some(dy) = context.grad(0) else { return Ok(()) };
        let [mean, spread] = if self.training {
            [context.output(1), context.output(2)]
        } else {
            [context.input(3), context.input(4)]
        };
        let inputs = [context.input(0), context.output(0), dy, context.input(1), mean, spread];
        let op = BatchNormGrad { epsilon: self.epsilon, relu: self.relu, training: self.training };
        let made = context.emit("grad", op, &inputs)?;
        (0..3).try_for_each(|i| context.pass(i, made[i]))
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        if !self.training {
            return Vec::new();
        }
        vec![Alias::InPlace { output: 3, input: 3 }, Alias::InPlace { output: 4, input: 4 }]
    }

    fn fuse(&self, next: &dyn Operation) -> Option<Arc<dyn Operation>> {
        let fused = || -> Arc<dyn Operation> { Arc::new(Self { relu: true, ..self.clone() }) };
        (next.name() == "relu" && !self.relu).then(fused)
    }

    fn for_inference(&self) -> Inference {
        Inference::Replace(Arc::new(Self { training: false, ..self.clone() }))
    }

    fn onnx(&self, export: &mut OnnxExport<'_>) -> Result<(), String> {
        if self.training {
            return Err("uses the statistics of its batch: export the evaluation graph".into());
        }
        let attributes = [("epsilon", OnnxAttribute::Float(self.epsilon))];
        export.node("BatchNormalization", export.inputs(), &attributes);
        export.relu(self.relu);
        Ok(())
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let x = &operands.inputs[0];
        let apply = self
            .extents(operands, "apply")
            .bind("x_data", Slot::Input(0))
            .bind("weight", Slot::Input(1))
            .bind("bias", Slot::Input(2))
            .bind("y_data", Slot::Output(0))
            .linear(x.volume());
        if !self.training {
            let apply = apply.bind("means", Slot::Input(3)).bind("variances", Slot::Input(4));
            return vec![Implementation::new("running", vec![apply])];
        }
        let apply = apply.bind("means", Slot::Output(1)).bind("inverse_stds", Slot::Output(2));
        let statistics = self
            .extents(operands, "statistics")
            .bind("partial", Slot::Scratch(0))
            .bind("means", Slot::Output(1))
            .bind("inverse_stds", Slot::Output(2))
            .bind("running_mean", Slot::Output(3))
            .bind("running_var", Slot::Output(4));
        let first =
            self.extents(operands, "planes").bind("x_data", Slot::Input(0)).bind("partial", Slot::Scratch(0));
        families(x, &first, &statistics, &apply)
    }
}

impl Operation for BatchNormGrad {
    fn name(&self) -> &'static str {
        "batch_norm_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x, y, dy, weight, mean, spread] = expect(inputs)?;
        if x != y || x != dy {
            return Err(format!("input {x}, output {y} and gradient {dy} differ"));
        }
        let channels = same_channels(x, &[weight, mean, spread])?;
        Ok(vec![x.clone(), Spec::f32([channels]), Spec::f32([channels])])
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        vec![Alias::InPlace { output: 0, input: 2 }]
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let (x, y, dx) = (&operands.inputs[0], &operands.inputs[1], &operands.outputs[0]);
        let base = |entry| {
            let kernel = extents(operands, entry, self.relu, x, y, dx)
                .constant("TRAINING", self.training)
                .geometry("epsilon", self.epsilon)
                .bind("x_data", Slot::Input(0))
                .bind("dx_data", Slot::Output(0))
                .bind("means", Slot::Input(4))
                .bind(if self.training { "inverse_stds" } else { "variances" }, Slot::Input(5));
            if self.relu { kernel.bind("y_data", Slot::Input(1)) } else { kernel }
        };
        let first = base("grad_planes").bind("partial", Slot::Scratch(0));
        let parameters = extents(operands, "grad_parameters", self.relu, x, y, dx)
            .bind("partial", Slot::Scratch(0))
            .bind("dweight", Slot::Output(1))
            .bind("dbias", Slot::Output(2));
        let apply = base("grad_apply")
            .bind("weight", Slot::Input(3))
            .bind("dweight", Slot::Output(1))
            .bind("dbias", Slot::Output(2))
            .linear(x.volume());
        families(x, &first, &parameters, &apply)
    }
}
