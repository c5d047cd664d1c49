//! Gradients of single operations against finite differences, on the CPU references in f64.

use std::sync::Arc;

use incept::Result;
use incept::graph::{Backward, Graph, Initializer, Operation, ParameterInfo, TensorId};
use incept::kernel::{Implementation, Operands, Profile, Step};
use incept::reference::{Array, Interpreter, Real, Reference, register};
use incept::tensor::Spec;

use super::support::{noise, spec};

/// The scalar that autodiff starts from: the sum of x weight. Inputs: x and weight of one shape;
/// output: [1].
#[derive(Clone, Debug)]
struct Dot;

/// Its gradient with respect to x: weight dy. Inputs: weight and dy [1]; output: dx.
#[derive(Clone, Debug)]
struct DotGrad;

impl Operation for Dot {
    fn name(&self) -> &'static str {
        "dot"
    }

    fn infer(&self, _: &[&Spec]) -> Result<Vec<Spec>, String> {
        Ok(vec![Spec::f32([1])])
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        let Some(dy) = context.grad(0) else { return Ok(()) };
        let weight = context.input(1);
        context.contribute(0, DotGrad, &[weight, dy])
    }

    fn kernels(&self, _: &Operands<'_>, _: &Profile) -> Vec<Implementation> {
        Vec::new()
    }
}

impl Operation for DotGrad {
    fn name(&self) -> &'static str {
        "dot_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        Ok(vec![inputs[0].clone()])
    }

    fn kernels(&self, _: &Operands<'_>, _: &Profile) -> Vec<Implementation> {
        Vec::new()
    }
}

impl<T: Real> Reference<T> for Dot {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _: &Step) {
        outputs[0].data[0] = inputs[0].data.iter().zip(&inputs[1].data).map(|(x, w)| *x * *w).sum();
    }
}

impl<T: Real> Reference<T> for DotGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _: &Step) {
        let dy = inputs[1].data[0];
        outputs[0].data.iter_mut().zip(&inputs[0].data).for_each(|(dx, w)| *dx = *w * dy);
    }
}

/// A weighted sum of an operation's first output, and its graph.
struct Sum {
    graph: Graph,
    inputs: Vec<TensorId>,
    weight: TensorId,
    sum: TensorId,
}

impl Sum {
    /// The inputs at these positions are differentiable, so they are parameters.
    fn of(op: &(impl Operation + Clone), inputs: &[Array<f64>], differentiable: &[usize]) -> Self {
        register::<Dot>();
        register::<DotGrad>();
        let info = ParameterInfo { lr: 1.0, weight_decay: 0.0, init: Initializer::Constant(0.0) };
        let mut graph = Graph::new();
        let mut add = |(i, x): (usize, &Array<f64>)| {
            let (name, dims) = (format!("input {i}"), x.dims.as_slice());
            let spec = Spec::f32(dims);
            if differentiable.contains(&i) {
                graph.parameter(name, dims, info)
            } else {
                graph.input(name, spec)
            }
        };
        let inputs: Vec<TensorId> = inputs.iter().enumerate().map(&mut add).collect();
        let y = graph.add_node("layer", Arc::new(op.clone()), &inputs).expect("the shapes are rejected")[0];
        let weight = graph.input("weight", graph.tensor(y).spec.clone());
        let sum = graph.add("sum", Dot, &[y, weight]).expect("takes any shape");
        Self { graph, inputs, weight, sum }
    }

    /// All tensors of `graph`, which is this one or has its gradient too.
    fn run<'a>(&self, graph: &'a Graph, values: &[Array<f64>]) -> Interpreter<'a, f64> {
        let mut interpreter = Interpreter::new(graph);
        self.inputs.iter().zip(values).for_each(|(id, x)| interpreter.set(*id, x.clone()));
        let weight = noise(self.graph.tensor(self.weight).spec.dims(), 99);
        interpreter.set(self.weight, weight.cast());
        interpreter.run(&Step::default()).expect("has a reference");
        interpreter
    }

    fn value(&self, values: &[Array<f64>]) -> f64 {
        self.run(&self.graph, values).get(self.sum).expect("was computed").data[0]
    }
}

/// Relative error of an operation's gradient, as `backward` adds it to a graph, with respect to the
/// inputs at the positions `differentiable`: along a random direction d,
/// (f(x + h d) - f(x - h d)) / 2h equals gradient times d, where f is a weighted sum of the first
/// output. The worst of three directions per input. The inputs must not be within 1e-6 of a kink,
/// as a ReLU has at 0.
fn gradient_error(op: &(impl Operation + Clone), inputs: &[&Array<f32>], differentiable: &[usize]) -> f64 {
    const H: f64 = 1e-6;
    let inputs: Vec<Array<f64>> = inputs.iter().map(|x| x.cast()).collect();
    let sum = Sum::of(op, &inputs, differentiable);
    let mut graph = sum.graph.clone();
    let gradients = graph.differentiate(sum.sum).expect("has a gradient");
    let at = sum.run(&graph, &inputs);
    let mut worst: f64 = 0.0;
    for input in differentiable {
        let gradient = gradients.of(sum.inputs[*input]).and_then(|g| at.get(g)).expect("has a gradient");
        for seed in 0..3 {
            let direction: Array<f64> = noise(&inputs[*input].dims, 100 + seed).cast();
            let slope: f64 = gradient.data.iter().zip(&direction.data).map(|(g, d)| g * d).sum();
            let moved = |h: f64| {
                let mut moved = inputs.clone();
                moved[*input].data.iter_mut().zip(&direction.data).for_each(|(x, d)| *x += h * d);
                sum.value(&moved)
            };
            let measured = (moved(H) - moved(-H)) / (2.0 * H);
            worst = worst.max((measured - slope).abs() / slope.abs().max(1e-3));
        }
    }
    worst
}

/// Compares an operation's gradient with finite differences, with respect to the inputs at the
/// positions `differentiable`.
pub fn check_gradient(op: &(impl Operation + Clone), inputs: &[&Array<f32>], differentiable: &[usize]) {
    let error = gradient_error(op, inputs, differentiable);
    let specs: Vec<Spec> = inputs.iter().map(|x| spec(x)).collect();
    assert!(error < 1e-6, "{op:?} {specs:?}: the gradient has error {error:.1e}");
}

/// 2x, with the gradient of x.
#[derive(Clone, Debug)]
struct WrongGradient;

impl Operation for WrongGradient {
    fn name(&self) -> &'static str {
        "wrong_gradient"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        Ok(vec![inputs[0].clone()])
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        context.grad(0).map_or(Ok(()), |dy| context.pass(0, dy))
    }

    fn kernels(&self, _: &Operands<'_>, _: &Profile) -> Vec<Implementation> {
        Vec::new()
    }
}

impl<T: Real> Reference<T> for WrongGradient {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _: &Step) {
        outputs[0].data.iter_mut().zip(&inputs[0].data).for_each(|(y, x)| *y = *x + *x);
    }
}

#[test]
fn finite_differences_find_a_wrong_gradient() {
    register::<WrongGradient>();
    let x = noise(&[2, 3, 4, 4], 1);
    let error = gradient_error(&WrongGradient, &[&x], &[0]);
    assert!((error - 1.0).abs() < 1e-6, "twice the slope is an error of 1, not {error}");
}
