//! Golden sets of single operations. The name of a case encodes its hyperparameters:
//! `k3s2_ceil_7x10` has kernel 3, stride 2 and ceil mode.

use std::collections::BTreeSet;
use std::path::Path;

use super::engine::Call;
use super::norm_sizes::NormSizes;
use super::{Engine, Found, Tensors, error_beyond, file, tensor};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::read_tensors;
use crate::graph::Operation;
use crate::kernel::BLOCK;
use crate::kernel::Step;
use crate::ops::{
    AdaptiveAvgPool, AvgPool, AvgPoolGrad, BatchNorm, BatchNormGrad, Conv, ConvBiasGrad, ConvInputGrad,
    ConvWeightGrad, Lrn, LrnGrad, MaxPool, MaxPoolGrad, Sgd, SoftmaxCrossEntropy, SoftmaxCrossEntropyGrad,
};
use crate::reference::Array;
use crate::tensor::HostTensor;
use crate::tensor::{Element, Spec};

/// Limit of the relative error of an operation in f32.
const LIMIT: f64 = 2e-6;
/// The limit with powers, exponentials or differences of nearly equal sums.
const WIDE: f64 = 1e-5;
/// A result below this share of its norm without cancellation is near zero; its error is relative
/// to that share.
const SMALL: f64 = 0.1;

/// Runs the cases of a file on an engine.
pub(super) async fn run(device: &Device, folder: &Path, set: &str, engine: Engine) -> Result<Vec<Found>> {
    let path = file(folder, set);
    let (tensors, _) = read_tensors(&path)?;
    let cases: BTreeSet<&str> =
        tensors.keys().filter_map(|name| name.rsplit_once('.')).map(|(case, _)| case).collect();
    let mut runner = Runner { device, engine, found: Vec::new() };
    for name in cases {
        let case = Case { tensors: &tensors, name };
        match set {
            "op_conv" => conv(&mut runner, case).await?,
            "op_maxpool" => max_pool(&mut runner, case).await?,
            "op_avgpool" => avg_pool(&mut runner, case).await?,
            "op_lrn" => lrn(&mut runner, case).await?,
            "op_batchnorm" => batch_norm(&mut runner, case).await?,
            "op_softmax_cross_entropy" => softmax_cross_entropy(&mut runner, case).await?,
            "op_sgd" => sgd(&mut runner, case).await?,
            _ => return Err(Error::format(path, "is a golden set of an unknown operation")),
        }
    }
    Ok(runner.found)
}

/// One case of a file.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    tensors: &'a Tensors,
    pub name: &'a str,
}

impl Case<'_> {
    fn get(&self, name: &str) -> Result<Array<f32>> {
        let tensor = tensor(self.tensors, &format!("{}.{name}", self.name))?;
        // Scalars become arrays of one element.
        let dims = if tensor.dims.is_empty() { vec![1] } else { tensor.dims.clone() };
        Ok(Array { dims, data: tensor.data.clone() })
    }

    /// The number after a letter in the first part of the name: 3 for `k` in `k3s2_ceil_7x10`.
    fn number(&self, letter: char) -> Option<usize> {
        let part = self.name.split('_').next()?;
        let rest = &part[part.find(letter)? + letter.len_utf8()..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse().ok()
    }

    /// Kernel, stride and padding.
    fn window(&self) -> Result<[usize; 3]> {
        let kernel = self.number('k').ok_or_else(|| self.unknown())?;
        Ok([kernel, self.number('s').unwrap_or(1), self.number('p').unwrap_or(0)])
    }

    /// The number after the last underscore: 0.1 for `smoothing_0.1`.
    fn value(&self) -> Result<f32> {
        let last = self.name.rsplit('_').next().and_then(|v| v.parse().ok());
        last.ok_or_else(|| self.unknown())
    }

    fn unknown(&self) -> Error {
        Error::tensor(self.name, "is a case without valid hyperparameters in its name")
    }
}

struct Runner<'a> {
    device: &'a Device,
    engine: Engine,
    found: Vec<Found>,
}

fn specs(inputs: &[&Array<f32>]) -> Vec<Spec> {
    inputs.iter().map(|a| Spec::f32(a.dims.as_slice())).collect()
}

impl Runner<'_> {
    fn add(&mut self, quantity: &'static str, subject: String, error: f64, limit: f64) {
        self.found.push(Found { quantity, subject, error, limit, witness: None });
    }

    /// Compares the outputs of a call with golden ones and returns those of the first
    /// implementation. `sizes` are the norms of the outputs without cancellation; `None` computes
    /// them from the magnitudes of the inputs, which is correct for linear operations.
    async fn check(
        &mut self,
        case: Case<'_>,
        call: Call<'_>,
        wanted: &[(&'static str, Array<f32>)],
        limit: f64,
        sizes: Option<&[f64]>,
    ) -> Result<Vec<Array<f32>>> {
        let results = call.run(self.device, self.engine).await?;
        let sizes = sizes.map_or_else(|| call.sizes(), |sizes| Ok(sizes.to_vec()))?;
        for (implementation, outputs) in &results {
            for (((quantity, want), got), size) in wanted.iter().zip(outputs).zip(&sizes) {
                // Flat regions are padded to whole blocks.
                let length = want.data.len().min(got.data.len());
                let error = error_beyond(&got.data[..length], &want.data, SMALL * size);
                self.add(quantity, format!("{}{implementation}", case.name), error, limit);
            }
        }
        let first = results.into_iter().next().map(|(_, outputs)| outputs);
        let reason = "has no kernel for this device".to_string();
        first.ok_or_else(|| Error::Layer { layer: "verify".into(), operation: call.op.name(), reason })
    }
}

fn call<'a>(op: &'a dyn Operation, inputs: &[&'a Array<f32>]) -> Call<'a> {
    Call {
        op,
        specs: specs(inputs),
        inputs: inputs.to_vec(),
        parameters: &[],
        gradients: &[],
        step: Step::default(),
    }
}

/// Height and width of a 4-D tensor.
fn plane(case: &Case<'_>, x: &Array<f32>) -> Result<[usize; 2]> {
    match x.dims[..] {
        [_, _, height, width] => Ok([height, width]),
        _ => {
            Err(Error::tensor(case.name, format!("has a tensor of shape {:?}, not four dimensions", x.dims)))
        }
    }
}

async fn conv(runner: &mut Runner<'_>, case: Case<'_>) -> Result<()> {
    let [_, stride, padding] = case.window()?;
    let (x, weight, bias) = (case.get("input")?, case.get("weight")?, case.get("bias")?);
    let dy = case.get("grad_output")?;
    let op = Conv::new(stride, padding);
    let forward = Call { parameters: &[1], ..call(&op, &[&x, &weight, &bias]) };
    runner.check(case, forward, &[("output", case.get("output")?)], LIMIT, None).await?;
    let (stride, padding) = (op.stride, op.padding);
    let op = ConvInputGrad { stride, padding, size: plane(&case, &x)?, accumulate: false, masked: false };
    let input = Call { parameters: &[1], ..call(&op, &[&dy, &weight]) };
    runner.check(case, input, &[("grad_input", case.get("grad_input")?)], LIMIT, None).await?;
    let op = ConvWeightGrad { stride, padding, kernel: plane(&case, &weight)? };
    let weights = Call { gradients: &[0], ..call(&op, &[&x, &dy]) };
    runner.check(case, weights, &[("grad_weight", case.get("grad_weight")?)], LIMIT, None).await?;
    let wanted = [("grad_bias", case.get("grad_bias")?)];
    runner.check(case, call(&ConvBiasGrad, &[&dy]), &wanted, LIMIT, None).await?;
    Ok(())
}

/// L2 norm.
fn norm(array: &Array<f32>) -> f64 {
    array.data.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

async fn max_pool(runner: &mut Runner<'_>, case: Case<'_>) -> Result<()> {
    let [kernel, stride, padding] = case.window()?;
    let ceil = case.name.contains("_ceil");
    let (x, dy) = (case.get("input")?, case.get("grad_output")?);
    let pool = MaxPool { ceil, ..MaxPool::new(kernel, stride, padding) };
    let outputs =
        runner.check(case, call(&pool, &[&x]), &[("output", case.get("output")?)], LIMIT, None).await?;
    let Some(chosen) = outputs.get(1) else { return Err(case.unknown()) };
    let op = MaxPoolGrad { pool, size: plane(&case, &x)?, accumulate: false, masked: false };
    let specs = vec![Spec::f32(dy.dims.as_slice()), Spec::u32(chosen.dims.as_slice())];
    let grad = Call { specs, ..call(&op, &[&dy, chosen]) };
    runner.check(case, grad, &[("grad_input", case.get("grad_input")?)], LIMIT, None).await?;
    Ok(())
}

async fn avg_pool(runner: &mut Runner<'_>, case: Case<'_>) -> Result<()> {
    let (x, dy) = (case.get("input")?, case.get("grad_output")?);
    let adaptive = |n| AdaptiveAvgPool { output: [n, n] };
    let (op, pool): (Box<dyn Operation>, _) = if case.name.starts_with("global") {
        (Box::new(adaptive(1)), None)
    } else if case.name.starts_with("adaptive") {
        (Box::new(adaptive(case.number('e').ok_or_else(|| case.unknown())?)), None)
    } else {
        let [kernel, stride, padding] = case.window()?;
        let pool = AvgPool { kernel, stride, padding, ceil: case.name.contains("_ceil") };
        (Box::new(pool.clone()), Some(pool))
    };
    let wanted = [("output", case.get("output")?)];
    runner.check(case, call(op.as_ref(), &[&x]), &wanted, LIMIT, None).await?;
    let op = AvgPoolGrad { pool, size: plane(&case, &x)?, accumulate: false, masked: false };
    runner.check(case, call(&op, &[&dy]), &[("grad_input", case.get("grad_input")?)], LIMIT, None).await?;
    Ok(())
}

async fn lrn(runner: &mut Runner<'_>, case: Case<'_>) -> Result<()> {
    let (x, dy) = (case.get("input")?, case.get("grad_output")?);
    let (alpha, k) = if case.name == "googlenet" { (1e-4, 1.0) } else { (1.0, 2.0) };
    let lrn = Lrn { size: 5, alpha, beta: 0.75, k };
    // The output has no cancellation. A gradient is the upstream one divided by at least k^beta,
    // minus contributions of neighboring channels.
    runner.check(case, call(&lrn, &[&x]), &[("output", case.get("output")?)], WIDE, Some(&[0.0])).await?;
    let wanted = [("grad_input", case.get("grad_input")?)];
    let size = norm(&dy) * f64::from(k.powf(-lrn.beta));
    let op = LrnGrad { lrn, masked: false };
    runner.check(case, call(&op, &[&x, &dy]), &wanted, WIDE, Some(&[size])).await?;
    Ok(())
}

async fn batch_norm(runner: &mut Runner<'_>, case: Case<'_>) -> Result<()> {
    let (x, dy, weight) = (case.get("input")?, case.get("grad_output")?, case.get("weight")?);
    let bias = case.get("bias")?;
    let (mean, variance) = (case.get("running_mean")?, case.get("running_var")?);
    let epsilon = 1e-3;
    let training = case.name.starts_with("train");
    let op = BatchNorm { epsilon, momentum: 0.1, relu: false, training };
    let forward = call(&op, &[&x, &weight, &bias, &mean, &variance]);
    let sizes = NormSizes::of(&case, [&x, &dy, &weight, &bias, &mean, &variance], epsilon, training)?;
    let wanted = [("output", case.get("output")?)];
    let outputs = runner.check(case, forward, &wanted, WIDE, Some(&[sizes.output])).await?;
    let (mean, spread) = match &outputs[..] {
        [_, mean, inverse_std, running_mean, running_var] => {
            for (quantity, got, size) in
                [("running_mean", running_mean, sizes.mean), ("running_var", running_var, 0.0)]
            {
                let want = case.get(&format!("{quantity}_after"))?;
                let error = error_beyond(&got.data, &want.data, SMALL * size);
                runner.add(quantity, case.name.to_string(), error, LIMIT);
            }
            (mean, inverse_std)
        }
        _ => (&mean, &variance),
    };
    let op = BatchNormGrad { epsilon, relu: false, training };
    let wanted = [
        ("grad_input", case.get("grad_input")?),
        ("grad_weight", case.get("grad_weight")?),
        ("grad_bias", case.get("grad_bias")?),
    ];
    let grad = call(&op, &[&x, &outputs[0], &dy, &weight, mean, spread]);
    runner.check(case, grad, &wanted, WIDE, Some(&sizes.gradients)).await?;
    Ok(())
}

async fn softmax_cross_entropy(runner: &mut Runner<'_>, case: Case<'_>) -> Result<()> {
    let smoothing = case.value()?;
    let (x, labels, upstream) = (case.get("input")?, case.get("labels")?, case.get("grad_output")?);
    let label_spec = Spec::u32(labels.dims.as_slice());
    let op = SoftmaxCrossEntropy { smoothing };
    let specs = vec![Spec::f32(x.dims.as_slice()), label_spec];
    let forward = Call { specs: specs.clone(), ..call(&op, &[&x, &labels]) };
    // A loss is a difference of two numbers as large as the logits; its gradient is a difference of
    // probabilities, divided by the number of rows.
    let largest = x.data.iter().fold(1.0, |m: f64, v| m.max(f64::from(v.abs())));
    let wanted = [("output", case.get("output")?)];
    let outputs = runner.check(case, forward, &wanted, WIDE, Some(&[largest])).await?;
    let Some(probabilities) = outputs.get(1) else { return Err(case.unknown()) };
    let op = SoftmaxCrossEntropyGrad { smoothing, logits: Element::F32 };
    let specs = [&specs[..], &[Spec::f32(upstream.dims.as_slice())]].concat();
    let grad = Call { specs, ..call(&op, &[probabilities, &labels, &upstream]) };
    let size = norm(&upstream) / (labels.data.len().max(1) as f64).sqrt();
    let wanted = [("grad_input", case.get("grad_input")?)];
    runner.check(case, grad, &wanted, WIDE, Some(&[size])).await?;
    Ok(())
}

/// Each update starts from the parameters and momentum of the one before.
async fn sgd(runner: &mut Runner<'_>, case: Case<'_>) -> Result<()> {
    let (initial, gradients) = (tensor(case.tensors, "initial")?, tensor(case.tensors, "gradients")?);
    let wanted = case.get("parameters")?;
    let n = initial.data.len();
    if n == 0 || !gradients.data.len().is_multiple_of(n) || wanted.data.len() != gradients.data.len() {
        let reason =
            "needs a row of gradients and one of parameters, as long as the initial ones, for each update";
        return Err(Error::tensor(case.name, reason));
    }
    let flat = |values: &[f32]| {
        let mut data = values.to_vec();
        data.resize(n.next_multiple_of(BLOCK), 0.0);
        Array { dims: vec![data.len()], data }
    };
    let (mut parameters, mut momentum) = (flat(&initial.data), flat(&vec![0.0; n]));
    let multipliers = vec![1.0; parameters.data.len() / BLOCK * 2];
    let multipliers = Array { dims: vec![multipliers.len()], data: multipliers };
    let op = Sgd { nesterov: false };
    let step = Step { lr: 0.01, momentum: 0.9, weight_decay: case.value()?, ..Step::default() };
    let row = |tensor: &HostTensor, i: usize| tensor.data[i * n..(i + 1) * n].to_vec();
    for update in 0..gradients.data.len() / n {
        let gradient = flat(&row(gradients, update));
        let update_call = Call { step, ..call(&op, &[&parameters, &gradient, &momentum, &multipliers]) };
        let want = Array { dims: vec![n], data: wanted.data[update * n..(update + 1) * n].to_vec() };
        // A parameter and its update may nearly cancel.
        let size = Some(&[norm(&parameters)][..]);
        let outputs = runner.check(case, update_call, &[("parameters", want)], LIMIT, size).await?;
        let mut outputs = outputs.into_iter();
        let (Some(next), Some(v)) = (outputs.next(), outputs.next()) else { return Err(case.unknown()) };
        (parameters, momentum) = (next, v);
    }
    Ok(())
}
