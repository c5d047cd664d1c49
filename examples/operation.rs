//! A custom operation outside of the crate: SiLU (Elfwing et al. 2018), with its WGSL, its gradient
//! and its CPU reference. The kernels are compared with the reference, and a network with it is
//! trained on the digits: `cargo run --release --example operation`. Without a graphics driver the
//! network trains on the CPU, with the reference.

use incept::cpu::Cpu;
use incept::data::{OpenOptions, open};
use incept::device::Device;
use incept::gpu::{AdapterOptions, Gpu};
use incept::graph::{Backward, Operation};
use incept::kernel::{Implementation, Kernel, Operand, Operands, Profile, Slot, Step};
use incept::learner::Learner;
use incept::model::{Model, Network, NetworkBuilder};
use incept::reference::{Array, Real, Reference, register, run_operation};
use incept::tensor::Spec;
use incept::tune::Trial;
use incept::{Error, Result};
use serde::{Deserialize, Serialize};

/// y = x sigmoid(x). Input: any activation; output: the same shape.
#[derive(Clone, Debug)]
struct Silu;

/// The gradient: dx = dy s (1 + x (1 - s)) with s = sigmoid(x). Inputs: x and dy; output: dx.
#[derive(Clone, Debug)]
struct SiluGrad;

const SOURCE: &str = "
//# silu
@compute @workgroup_size(WORKGROUP_X)
fn silu(
#include \"invocation.wgsl\"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let value = f32(x[p.x_offset + i / p.item * p.x_stride + i % p.item]);
    y[p.y_offset + i / p.item * p.y_stride + i % p.item] = y_element(value / (1.0 + exp(-value)));
}

//# silu_grad
@compute @workgroup_size(WORKGROUP_X)
fn silu_grad(
#include \"invocation.wgsl\"
) {
    let i = linear_index(group, groups, local);
    if i >= p.count { return; }
    let item = i / p.item;
    let within = i % p.item;
    let value = f32(x[p.x_offset + item * p.x_stride + within]);
    let s = 1.0 / (1.0 + exp(-value));
    let slope = s * (1.0 + value * (1.0 - s));
    y[p.y_offset + item * p.y_stride + within] = y_element(f32(dy[p.dy_offset + item * p.dy_stride + within]) * slope);
}
";

/// A kernel with one invocation per element, and the geometry of its operands.
fn kernel(operands: &Operands<'_>, entry: &'static str) -> Kernel {
    let (x, y) = (&operands.inputs[0], &operands.outputs[0]);
    let place = |operand: &Operand| (operand.offset, operand.batch_stride);
    let ((x_offset, x_stride), (y_offset, y_stride)) = (place(x), place(y));
    Kernel::new(operands, SOURCE, entry)
        .geometries([("count", y.volume()), ("item", y.spec.shape.item())])
        .geometries([("x_offset", x_offset), ("x_stride", x_stride)])
        .geometries([("y_offset", y_offset), ("y_stride", y_stride)])
        .bind("x", Slot::Input(0))
        .bind("y", Slot::Output(0))
        .linear(y.volume())
}

impl Operation for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x] = inputs else { return Err(format!("expected 1 input, got {}", inputs.len())) };
        Ok(vec![(*x).clone()])
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        let Some(dy) = context.grad(0) else { return Ok(()) };
        let x = context.input(0);
        context.contribute(0, SiluGrad, &[x, dy])
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        vec![Implementation::new("linear", vec![kernel(operands, "silu")])]
    }
}

impl Operation for SiluGrad {
    fn name(&self) -> &'static str {
        "silu_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        match inputs {
            [x, dy] if x == dy => Ok(vec![(*x).clone()]),
            _ => Err("expected x and dy of equal shape".into()),
        }
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let dy = &operands.inputs[1];
        let kernel = kernel(operands, "silu_grad")
            .geometries([("dy_offset", dy.offset), ("dy_stride", dy.batch_stride)])
            .bind("dy", Slot::Input(1));
        vec![Implementation::new("linear", vec![kernel])]
    }
}

fn sigmoid<T: Real>(x: T) -> T {
    T::one() / (T::one() + (-x).exp())
}

impl<T: Real> Reference<T> for Silu {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        for (y, x) in outputs[0].data.iter_mut().zip(&inputs[0].data) {
            *y = *x * sigmoid(*x);
        }
    }
}

impl<T: Real> Reference<T> for SiluGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        for ((dx, x), dy) in outputs[0].data.iter_mut().zip(&inputs[0].data).zip(&inputs[1].data) {
            let s = sigmoid(*x);
            *dx = *dy * s * (T::one() + *x * (T::one() - s));
        }
    }
}

/// The largest difference between a kernel and the reference.
fn compare(gpu: &Gpu, op: &dyn Operation, inputs: &[&Array<f32>]) -> Result<f32> {
    let specs: Vec<Spec> = inputs.iter().map(|array| Spec::f32(array.dims.as_slice())).collect();
    let step = Step::default();
    let want = run_operation(op, &specs.iter().collect::<Vec<_>>(), inputs, &step);
    let want = want.map_err(|reason| Error::tensor(op.name(), reason))?;
    let trial = Trial::new(op, &specs, 0)?;
    let mut worst: f32 = 0.0;
    for implementation in trial.implementations(gpu) {
        let made = gpu.block_on(trial.run(gpu, &implementation, inputs, &step))?;
        let pairs = made.arrays[0].data.iter().zip(&want[0].data);
        worst = pairs.map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
    }
    Ok(worst)
}

/// Three convolutions with SiLU, and a classifier.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Small;

impl Model for Small {
    fn class_count(&self) -> usize {
        10
    }

    fn input_size(&self) -> usize {
        32
    }

    fn build(&self, batch: usize) -> Result<Network> {
        let mut net = NetworkBuilder::new(batch, self.input_size());
        let mut x = net.images();
        for (i, channels) in [8, 16, 32].into_iter().enumerate() {
            x = net.conv(&format!("conv{i}"), x, channels, [3, 2, 1])?;
            x = net.batch_norm(&format!("bn{i}"), x)?;
            x = net.graph.add(format!("silu{i}"), Silu, &[x])?;
        }
        let logits = net.linear("fc", x, self.class_count())?;
        net.head(Network::MAIN, 1.0, x, logits)?;
        net.finish()
    }
}

/// Compares the kernels of both operations with their references.
fn compare_both(gpu: &Gpu) -> Result<()> {
    let (x, dy): (Vec<f32>, Vec<f32>) =
        (0..120).map(|i| (i as f32 / 10.0 - 6.0, (i * 7 % 11) as f32 / 5.0 - 1.0)).unzip();
    let (x, dy) = (Array::new(&[4, 30], x), Array::new(&[4, 30], dy));
    let (forward, backward) = (compare(gpu, &Silu, &[&x])?, compare(gpu, &SiluGrad, &[&x, &dy])?);
    println!("kernels against the reference: {forward:.1e} forward, {backward:.1e} backward");
    assert!(forward.max(backward) < 1e-6, "a kernel and its reference differ");
    Ok(())
}

fn main() -> Result<()> {
    register::<Silu>();
    register::<SiluGrad>();
    let device: Device = match Gpu::open_blocking(&AdapterOptions::default()) {
        Ok(gpu) => {
            compare_both(&gpu)?;
            gpu.into()
        }
        Err(error) => {
            println!("the kernels are not compared: {error}");
            Cpu::new(None)?.into()
        }
    };
    let data = open("digits", &OpenOptions::default())?;
    let builder = Learner::builder(Small).data(data.train).validation(data.validation);
    let builder = builder.epochs(12).target_accuracy(0.95).learning_rate(0.05);
    let history = builder.build_blocking(&device)?.fit_blocking(&mut ())?;
    let (accuracy, epoch) = history.best().unwrap_or_default();
    println!("{:.1}% of the validation set in epoch {}", 100.0 * accuracy, epoch + 1);
    assert!(accuracy >= 0.95, "accuracy after 12 epochs");
    Ok(())
}
