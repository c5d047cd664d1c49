//! Batch normalization (Ioffe and Szegedy 2015) and its gradient.

use std::sync::Arc;

use super::{Relu, activation, expect, parameters};
use crate::error::Result;
use crate::graph::{Alias, Backward, Inference, Operation};
use crate::kernel::{AdapterClass, Implementation, Kernel, Operand, Operands, Profile, Slot};
use crate::tensor::Spec;
use crate::text::plural;

const SOURCE: &str = include_str!("../../shaders/batch_norm.wgsl");

/// y = (x - mean) / sqrt(variance + epsilon) weight + bias for each channel. Inputs: x [batch,
/// channels, height, width] and, with one value per channel, weight, bias, running mean, running
/// variance. In training, outputs y, the batch's mean, the inverse of its standard deviation, and
/// the running statistics in place; in evaluation y alone, from the running statistics.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// Added to the variance.
    pub epsilon: f32,
    /// Weight of the batch in the running statistics: running = (1 - momentum) running + momentum
    /// batch, with the unbiased variance.
    pub momentum: f32,
    /// Whether max(y, 0) is applied to the result.
    pub relu: bool,
    /// Whether to use the batch's statistics (training) or the running ones (evaluation).
    pub training: bool,
}

/// The gradient. Inputs: x, y, dy, weight and, in training, the batch's mean and inverse standard
/// deviation, in evaluation the running mean and variance (constants); outputs: dx in place on dy,
/// dweight, dbias.
#[derive(Clone, Debug)]
pub struct BatchNormGrad {
    /// As in [`BatchNorm`]; used in evaluation.
    pub epsilon: f32,
    /// Whether the forward pass applied a ReLU.
    pub relu: bool,
    /// Whether the batch's statistics were used.
    pub training: bool,
}

fn same_channels(x: &Spec, others: &[&Spec]) -> Result<usize, String> {
    let [_, channels, ..] = x.shape.nchw()?;
    activation(x)?;
    parameters(others)?;
    match others.iter().find(|s| s.dims() != [channels]) {
        Some(other) => {
            let channels = plural(channels, "channel");
            Err(format!("{} has {channels} and a parameter is {}", x.shape, other.shape))
        }
        None => Ok(channels),
    }
}

/// Builds the kernels of one node, which all iterate over planes of the same tensors.
struct Maker<'a> {
    operands: &'a Operands<'a>,
    relu: bool,
    training: bool,
    epsilon: f32,
    x: &'a Operand,
    y: &'a Operand,
    d: &'a Operand,
}

/// On software drivers, planes of at least this many values are shared by a workgroup: one plane
/// per invocation would read at strides that map to the same cache sets.
const LONG: usize = 32;
/// Invocations that share a plane on a GPU.
const SHARERS: u32 = 64;
/// Invocations that share a channel on a GPU.
const MANY: u32 = 256;
/// Values of a channel that one workgroup sums up: a second dispatch takes longer.
const MOST_OF_A_WORKGROUP: usize = 16384;
/// Invocations of a workgroup on software drivers: one SIMD vector of the CPU.
const LANES: u32 = 8;

impl Maker<'_> {
    /// Whether activations are bound as vectors of four pixels.
    fn vector(&self) -> bool {
        let [.., pixels] = self.x.spec.shape.ncs();
        pixels.is_multiple_of(4) && [self.x, self.y, self.d].iter().all(|o| o.is_aligned(4))
    }

    fn planes(&self) -> usize {
        let [items, channels, _] = self.x.spec.shape.ncs();
        items * channels
    }

    /// Values (scalars or vectors of four) per plane.
    fn plane(&self) -> usize {
        let [.., pixels] = self.x.spec.shape.ncs();
        if self.vector() { pixels / 4 } else { pixels }
    }

    fn kernel(&self, entry: &'static str) -> Kernel {
        let [items, channels, pixels] = self.x.spec.shape.ncs();
        let each = if self.vector() { 4 } else { 1 };
        Kernel::new(self.operands, SOURCE, entry)
            .groupable()
            .constant("RELU", self.relu)
            .constant("VECTOR", self.vector())
            .constant("TRAINING", self.training)
            .geometries([
                ("items", items),
                ("channels", channels),
                ("pixels", pixels),
                ("plane", self.plane()),
                ("x_offset", self.x.offset / each),
                ("x_stride", self.x.batch_stride / each),
                ("y_offset", self.y.offset / each),
                ("y_stride", self.y.batch_stride / each),
                ("d_offset", self.d.offset / each),
                ("d_stride", self.d.batch_stride / each),
            ])
            .geometry("epsilon", self.epsilon)
    }

    /// Binds an activation.
    fn bind(&self, kernel: Kernel, name: &'static str, slot: Slot) -> Kernel {
        kernel.bind_as(name, slot, if self.vector() { "vec4<f32>" } else { "f32" })
    }

    /// `apply` for GPUs: neighbouring invocations process neighbouring values.
    fn spread(&self, apply: &Kernel) -> Kernel {
        let kernel = apply.clone().constant("LOOP", false).constant("ALONG", false);
        kernel.linear(self.planes() * self.plane())
    }

    /// `apply` for software drivers: a loop over a plane, which computes the factors of a channel
    /// once instead of per value.
    fn looped(&self, apply: &Kernel) -> Kernel {
        let along = self.plane() >= LONG;
        let kernel = apply.clone().workgroup(LANES, 1, 1).constant("LOOP", true).constant("ALONG", along);
        let kernel = kernel.constant("STEP", if along { LANES } else { 1 });
        if along { kernel.linear_groups(self.planes()) } else { kernel.linear(self.planes()) }
    }

    /// The same kernels in two variants: a workgroup per plane and channel, or an invocation per
    /// plane and channel. `first` reduces planes, `second` channels.
    ///
    /// `whole` does both at once, where a workgroup can sum up a channel: one dispatch less.
    fn families(
        &self,
        whole: &Kernel,
        first: &Kernel,
        second: &Kernel,
        apply: &Kernel,
    ) -> Vec<Implementation> {
        let [items, channels, _] = self.x.spec.shape.ncs();
        let planes = self.planes();
        let shared = |kernel: &Kernel, groups| {
            let kernel = kernel.clone().constant("SHARERS", SHARERS).constant("ALONE", false);
            kernel.workgroup(SHARERS, 1, 1).linear_groups(groups)
        };
        let alone = |kernel: &Kernel, invocations| {
            kernel.clone().constant("ALONE", true).workgroup(LANES, 1, 1).linear(invocations)
        };
        let whole = whole.clone().constant("SHARERS", MANY).constant("ALONE", false).workgroup(MANY, 1, 1);
        let whole = vec![whole.linear_groups(channels), self.spread(apply)];
        let few = items * self.plane() <= MOST_OF_A_WORKGROUP;
        let shared = vec![shared(first, planes), shared(second, channels), self.spread(apply)];
        let alone = vec![alone(first, planes), alone(second, channels), self.looped(apply)];
        vec![
            Implementation::new("whole", whole).workgroup_memory(4 * MANY as usize).suits(if few {
                AdapterClass::GPU
            } else {
                AdapterClass::NONE
            }),
            Implementation::new("shared", shared)
                .scratch(2 * planes)
                .workgroup_memory(4 * SHARERS as usize)
                .suits(AdapterClass::GPU),
            Implementation::new("alone", alone).scratch(2 * planes).suits(AdapterClass::SOFTWARE),
        ]
    }
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
        (next.is::<Relu>() && !self.relu).then(fused)
    }

    fn for_inference(&self) -> Inference {
        Inference::Replace(Arc::new(Self { training: false, ..self.clone() }))
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let (x, y) = (&operands.inputs[0], &operands.outputs[0]);
        let Self { relu, training, epsilon, momentum } = *self;
        let maker = Maker { operands, relu, training, epsilon, x, y, d: y };
        let kernel = |entry| maker.kernel(entry).geometry("momentum", momentum);
        let apply = maker.bind(kernel("apply"), "x_data", Slot::Input(0));
        let apply = maker.bind(apply, "y_data", Slot::Output(0));
        let apply = apply.bind("weight", Slot::Input(1)).bind("bias", Slot::Input(2));
        if !training {
            let apply = apply.bind("means", Slot::Input(3)).bind("variances", Slot::Input(4));
            return vec![
                Implementation::new("spread", vec![maker.spread(&apply)]).suits(AdapterClass::GPU),
                Implementation::new("looped", vec![maker.looped(&apply)]).suits(AdapterClass::SOFTWARE),
            ];
        }
        let apply = apply.bind("means", Slot::Output(1)).bind("inverse_stds", Slot::Output(2));
        let statistics = kernel("statistics")
            .bind("partial", Slot::Scratch(0))
            .bind("means", Slot::Output(1))
            .bind("inverse_stds", Slot::Output(2))
            .bind("running_mean", Slot::Output(3))
            .bind("running_var", Slot::Output(4));
        let first = maker.bind(kernel("planes"), "x_data", Slot::Input(0)).bind("partial", Slot::Scratch(0));
        let whole = maker
            .bind(kernel("channels"), "x_data", Slot::Input(0))
            .bind("means", Slot::Output(1))
            .bind("inverse_stds", Slot::Output(2))
            .bind("running_mean", Slot::Output(3))
            .bind("running_var", Slot::Output(4));
        maker.families(&whole, &first, &statistics, &apply)
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
        let Self { relu, training, epsilon } = *self;
        let maker = Maker { operands, relu, training, epsilon, x, y, d: dx };
        let base = |entry| {
            let kernel = maker.bind(maker.kernel(entry), "x_data", Slot::Input(0));
            let kernel = maker
                .bind(kernel, "dx_data", Slot::Output(0))
                .bind("means", Slot::Input(4))
                .bind(if training { "inverse_stds" } else { "variances" }, Slot::Input(5));
            if relu { maker.bind(kernel, "y_data", Slot::Input(1)) } else { kernel }
        };
        let first = base("grad_planes").bind("partial", Slot::Scratch(0));
        let parameters = maker
            .kernel("grad_parameters")
            .bind("partial", Slot::Scratch(0))
            .bind("dweight", Slot::Output(1))
            .bind("dbias", Slot::Output(2));
        let apply = base("grad_apply")
            .bind("weight", Slot::Input(3))
            .bind("dweight", Slot::Output(1))
            .bind("dbias", Slot::Output(2));
        let whole = base("grad_channels").bind("dweight", Slot::Output(1)).bind("dbias", Slot::Output(2));
        maker.families(&whole, &first, &parameters, &apply)
    }
}
