//! Softmax with cross-entropy (Caffe's SoftmaxWithLoss) and its gradient; softmax alone for
//! inference.

use super::{activation, expect, parameters};
use crate::error::Result;
use crate::graph::{Backward, Operation};
use crate::kernel::{AdapterClass, Implementation, Kernel, Operand, Operands, Profile, Slot};
use crate::tensor::{Element, Spec};

const SOURCE: &str = include_str!("../../shaders/softmax_cross_entropy.wgsl");

/// The mean over the batch of -sum over c of target[c] log softmax(logits)[c]. Inputs: logits
/// [batch, classes], labels u32 [batch]; a label that is not a class marks a row to ignore.
/// Outputs, in f32: loss [1], probabilities [batch, classes], and the number of correct rows [1],
/// whose largest logit (the first in a tie) is the label's. Only the loss can be differentiated.
/// Two optional inputs give each row a second label, for mixup (Zhang et al. 2018) and cutmix (Yun
/// et al. 2019): second labels u32 [batch], and the shares of the first labels [batch], in [0, 1].
/// The target is the mean of both labels weighted by their shares, and a correct row counts the
/// share of the label that was predicted. A second label must be a class where the first is one. An
/// optional last input has a weight per class [classes], as torch's `CrossEntropyLoss(weight=...)`:
/// the summand of class c is multiplied by weight c, label smoothing included, and the sum over the
/// batch is divided by the sum of the labels' weights times their shares instead of the number of
/// rows.
#[derive(Clone, Debug)]
pub struct SoftmaxCrossEntropy {
    /// Label smoothing: share of the target that is spread evenly over the classes (Szegedy et al.
    /// 2016, section 7).
    pub smoothing: f32,
}

/// The gradient. Inputs: probabilities, labels, the gradient of the loss [1], and the optional
/// inputs of the forward pass; output: the gradient of the logits.
#[derive(Clone, Debug)]
pub struct SoftmaxCrossEntropyGrad {
    /// As in the forward pass.
    pub smoothing: f32,
    /// Element type of the logits and of their gradient.
    pub logits: Element,
}

/// exp(x) / sum of exp(x) over each row. Input: [batch, classes]; output: the same shape in f32.
#[derive(Clone, Debug)]
pub struct Softmax;

fn rows(x: &Spec) -> Result<[usize; 2], String> {
    activation(x)?;
    match x.dims() {
        [batch, classes] if *classes > 0 => Ok([*batch, *classes]),
        _ => Err(format!("expected batch x classes, got {}", x.shape)),
    }
}

fn labelled(x: &Spec, labels: &Spec) -> Result<[usize; 2], String> {
    let [batch, classes] = rows(x)?;
    if labels.element != Element::U32 || labels.dims() != [batch] {
        return Err(format!("the labels must be u32 {batch}, not {labels}"));
    }
    Ok([batch, classes])
}

/// The optional inputs that are present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Targets {
    /// Second labels and shares.
    pub mixed: bool,
    /// Class weights.
    pub weighted: bool,
}

impl Targets {
    /// Derived from the number of optional inputs.
    pub fn of(optional: usize) -> Self {
        Self { mixed: optional >= 2, weighted: !optional.is_multiple_of(2) }
    }

    fn check(self, [batch, classes]: [usize; 2], optional: &[&Spec]) -> Result<(), String> {
        if optional.len() > 3 {
            return Err(format!(
                "expected at most second labels, shares and class weights, not {optional:?}"
            ));
        }
        if self.mixed {
            let (second, share) = (optional[0], optional[1]);
            if *second != Spec::u32([batch]) || share.dims() != [batch] {
                return Err(format!(
                    "second labels must be u32 {batch} and shares {batch}, not {second} and {share}"
                ));
            }
            activation(share)?;
        }
        if let Some(weights) = optional.last().filter(|_| self.weighted)
            && **weights != Spec::f32([classes])
        {
            return Err(format!("class weights must be f32 {classes}, not {weights}"));
        }
        Ok(())
    }

    /// Binds them, starting at input `first`.
    fn bind(self, kernel: Kernel, first: usize) -> Kernel {
        let mut kernel = kernel.constant("MIXED", self.mixed).constant("WEIGHTED", self.weighted);
        if self.mixed {
            let second = Slot::Input(first);
            kernel = kernel.bind_as("second", second, "u32").bind("share", Slot::Input(first + 1));
        }
        if self.weighted {
            let slot = Slot::Input(first + 2 * usize::from(self.mixed));
            kernel = kernel.bind("class_weights", slot);
        }
        kernel
    }
}

fn kernel(operands: &Operands<'_>, entry: &'static str, x: &Operand, y: &Operand, smoothing: f32) -> Kernel {
    Kernel::new(operands, SOURCE, entry)
        .groupable()
        .geometries([
            ("rows", x.dims()[0]),
            ("classes", x.dims()[1]),
            ("x_offset", x.offset),
            ("x_stride", x.batch_stride),
            ("y_offset", y.offset),
            ("y_stride", y.batch_stride),
        ])
        .geometry("smoothing", smoothing)
}

/// Invocations that share a row on a GPU.
const SHARERS: u32 = 64;

/// Two implementations: a workgroup per row, and an invocation per row.
fn families(rows: usize, base: Kernel, then: Option<&Kernel>) -> Vec<Implementation> {
    let shared = base
        .clone()
        .constant("SHARERS", SHARERS)
        .constant("ALONE", false)
        .workgroup(SHARERS, 1, 1)
        .linear_groups(rows);
    let alone = base.constant("SHARERS", 1u32).constant("ALONE", true).workgroup(8, 1, 1).linear(rows);
    let with = |kernel: Kernel| std::iter::once(kernel).chain(then.cloned()).collect();
    let scratch = |i: Implementation| if then.is_some() { i.scratch(3 * rows) } else { i };
    let shared = Implementation::new("shared", with(shared)).workgroup_memory(4 * SHARERS as usize);
    let alone = Implementation::new("alone", with(alone)).workgroup_memory(4);
    vec![scratch(shared.suits(AdapterClass::GPU)), scratch(alone.suits(AdapterClass::SOFTWARE))]
}

impl Operation for SoftmaxCrossEntropy {
    fn name(&self) -> &'static str {
        "softmax_cross_entropy"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x, labels, optional @ ..] = inputs else {
            return Err(format!("expected logits and labels, got {} inputs", inputs.len()));
        };
        Targets::of(optional.len()).check(labelled(x, labels)?, optional)?;
        Ok(vec![Spec::f32([1]), Spec::f32(x.shape.clone()), Spec::f32([1])])
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        let Some(dloss) = context.grad(0) else { return Ok(()) };
        let mut inputs = vec![context.output(1), context.input(1), dloss];
        inputs.extend((2..context.input_count()).map(|i| context.input(i)));
        let logits = context.element(context.input(0));
        context.contribute(0, SoftmaxCrossEntropyGrad { smoothing: self.smoothing, logits }, &inputs)
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let (x, y) = (&operands.inputs[0], &operands.outputs[1]);
        let base = kernel(operands, "rows", x, y, self.smoothing)
            .constant("LABELS", true)
            .bind("x_data", Slot::Input(0))
            .bind_as("labels", Slot::Input(1), "u32")
            .bind("y_data", Slot::Output(1))
            .bind("partial", Slot::Scratch(0));
        let base = Targets::of(operands.inputs.len() - 2).bind(base, 2);
        let totals = Kernel::new(operands, SOURCE, "totals")
            .groupable()
            .geometry("rows", x.dims()[0])
            .bind("partial", Slot::Scratch(0))
            .bind("loss", Slot::Output(0))
            .bind("correct", Slot::Output(2))
            .workgroup(1, 1, 1);
        families(x.dims()[0], base, Some(&totals))
    }
}

impl Operation for SoftmaxCrossEntropyGrad {
    fn name(&self) -> &'static str {
        "softmax_cross_entropy_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [probabilities, labels, dloss, optional @ ..] = inputs else {
            return Err(format!(
                "expected probabilities, labels and a gradient, got {} inputs",
                inputs.len()
            ));
        };
        Targets::of(optional.len()).check(labelled(probabilities, labels)?, optional)?;
        parameters(&[*probabilities, *dloss])?;
        if dloss.shape.volume() != 1 {
            return Err(format!("the gradient of the loss must be a scalar, not {}", dloss.shape));
        }
        Ok(vec![Spec { shape: probabilities.shape.clone(), element: self.logits }])
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let (x, y) = (&operands.inputs[0], &operands.outputs[0]);
        let kernel = kernel(operands, "softmax_cross_entropy_grad", x, y, self.smoothing)
            .bind("probabilities", Slot::Input(0))
            .bind_as("labels", Slot::Input(1), "u32")
            .bind("dloss", Slot::Input(2))
            .bind("dx_data", Slot::Output(0))
            .linear(y.volume());
        let kernel = Targets::of(operands.inputs.len() - 3).bind(kernel, 3);
        vec![Implementation::new("linear", vec![kernel])]
    }
}

impl Operation for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x] = expect(inputs)?;
        rows(x)?;
        Ok(vec![Spec::f32(x.shape.clone())])
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let (x, y) = (&operands.inputs[0], &operands.outputs[0]);
        let base = kernel(operands, "rows", x, y, 0.0)
            .constant("LABELS", false)
            .constant("MIXED", false)
            .constant("WEIGHTED", false)
            .bind("x_data", Slot::Input(0))
            .bind("y_data", Slot::Output(0));
        families(x.dims()[0], base, None)
    }
}
