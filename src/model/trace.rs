//! Traces an ONNX graph: layers with weights and the operations between them. Independent of
//! GoogLeNet, except that layers are convolutions and products and that branches are concatenated.

use std::collections::HashMap;
use std::rc::Rc;

use super::Plane;
use super::response::{Response, Squares};
use crate::formats::{OnnxGraph, OnnxNode};
use crate::tensor::HostTensor;
use crate::text::plural;

/// The source of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The graph's input.
    Input,
    /// A layer, by index.
    Layer(usize),
    /// A concatenation of branches, by index.
    Join(usize),
}

/// Operations between layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Relu,
    /// Window, stride, and whether the size is rounded up.
    MaxPool(i64, i64, bool),
    AveragePool,
    /// Caffe's local response normalization with the paper's parameters.
    Lrn,
}

/// A value: its source and the operations since.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trace {
    pub source: Source,
    pub steps: Vec<Step>,
    /// The input's channels, if nothing has combined them yet.
    pub planes: Vec<Plane>,
    /// Whether it is flat, without rows and columns.
    flat: bool,
    /// A function of squares, as part of a normalization.
    squares: Option<Box<Squares>>,
}

/// The attributes of a batch norm node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm<'a> {
    pub epsilon: f32,
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    pub mean: &'a [f32],
    pub variance: &'a [f32],
}

/// A tensor of the file, possibly transposed. It is copied only once it is known to be a weight,
/// because a graph may refer to a tensor any number of times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constant<'a> {
    tensor: &'a HostTensor,
    transposed: bool,
}

impl<'a> Constant<'a> {
    fn data(self) -> &'a [f32] {
        &self.tensor.data
    }

    fn transpose(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    pub fn dims(self) -> Vec<usize> {
        let mut dims = self.tensor.dims.clone();
        if self.transposed {
            dims.reverse();
        }
        dims
    }

    /// A computed tensor.
    pub fn copied(self) -> HostTensor {
        match self.tensor.dims[..] {
            [rows, columns] if self.transposed => {
                let data = (0..rows * columns).map(|i| self.tensor.data[i % rows * columns + i / rows]);
                HostTensor { dims: vec![columns, rows], data: data.collect() }
            }
            _ => self.tensor.clone(),
        }
    }
}

/// A convolution or a product with its bias and batch norm.
#[derive(Clone, Debug)]
pub(super) struct Layer<'a> {
    pub node: &'a OnnxNode,
    pub from: Rc<Trace>,
    /// The weight, outputs first.
    pub weight: Constant<'a>,
    pub bias: Option<&'a [f32]>,
    pub norm: Option<Norm<'a>>,
}

impl Layer<'_> {
    /// Its name in messages.
    pub fn name(&self) -> &str {
        let output = self.node.outputs.first().map_or("", String::as_str);
        if self.node.name.is_empty() { output } else { &self.node.name }
    }

    pub fn is_conv(&self) -> bool {
        self.node.operator == "Conv"
    }

    pub fn outputs(&self) -> usize {
        self.weight.dims().first().copied().unwrap_or(0)
    }
}

/// The layers and concatenations of a graph, in its order.
#[derive(Debug, Default)]
pub(super) struct Layers<'a> {
    pub layers: Vec<Layer<'a>>,
    pub joins: Vec<Vec<Rc<Trace>>>,
}

/// A traced value, or the reason why it could not be traced. Shared, because a graph may refer to a
/// value any number of times.
type Value = Result<Rc<Trace>, Rc<str>>;

type Constants<'a> = HashMap<&'a str, Constant<'a>>;

/// Traces the graph's input through its nodes.
///
/// # Errors
/// The operator that is not supported, if a layer depends on it.
pub(super) fn follow(graph: &OnnxGraph) -> Result<Layers<'_>, String> {
    let mut layers = Layers::default();
    let mut constants: Constants<'_> = HashMap::new();
    for (name, file) in &graph.initializers {
        constants.insert(name, Constant { tensor: &file.tensor, transposed: false });
    }
    if graph.nodes.len() > MOST_NODES {
        return Err(format!("has {} nodes; the limit is {MOST_NODES}", graph.nodes.len()));
    }
    let (input, _) = graph.inputs.first().ok_or("has no input")?;
    let planes = (0..3).map(Plane::of).collect();
    let trace = Trace { source: Source::Input, steps: Vec::new(), planes, flat: false, squares: None };
    let mut values: HashMap<&str, Value> = HashMap::from([(input.as_str(), Ok(Rc::new(trace)))]);
    for node in &graph.nodes {
        if let Some(constant) = constant(node, &constants) {
            constants.extend(node.outputs.first().map(|output| (output.as_str(), constant)));
            continue;
        }
        // Shapes, axes and dropout probabilities do not affect the source of values; they may be
        // computed by operators that are not traced.
        let read = match node.operator.as_str() {
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Dropout" | "Pad" | "CastLike"
            | "ReduceMean" => 1,
            _ => node.inputs.len(),
        };
        let traces = node.inputs.iter().take(read).map(|name| values.get(name.as_str()).cloned().transpose());
        let known: Result<Vec<Option<Rc<Trace>>>, Rc<str>> = traces.collect();
        // An unsupported value is an error only if a layer needs it.
        let outputs =
            known.and_then(|traces| value(node, &traces, &constants, &mut layers).map_err(Rc::from));
        match outputs {
            Ok(traces) => {
                let outputs = node.outputs.iter().map(String::as_str);
                values.extend(outputs.zip(traces.into_iter().map(|trace| Ok(Rc::new(trace)))));
            }
            Err(reason) => {
                if matches!(node.operator.as_str(), "Conv" | "Gemm") {
                    return Err(reason.to_string());
                }
                let failed = |output| (output, Err(Rc::clone(&reason)));
                values.extend(node.outputs.iter().map(String::as_str).map(failed));
            }
        }
    }
    Ok(layers)
}

/// The result of a node with only constant inputs, if it keeps their elements.
fn constant<'a>(node: &OnnxNode, constants: &Constants<'a>) -> Option<Constant<'a>> {
    let input = *constants.get(node.inputs.first()?.as_str())?;
    match node.operator.as_str() {
        "Identity" | "Cast" | "CastLike" | "Unsqueeze" | "Squeeze" | "Reshape" => Some(input),
        "Transpose" if input.tensor.dims.len() == 2 => Some(input.transpose()),
        _ => None,
    }
}

/// Maximum channels and operations between layers, as a limit on memory.
const LIMIT: usize = 64;

/// Maximum nodes of a graph: exporters that decompose every operation need some thousands.
const MOST_NODES: usize = 20_000;

/// Maximum bytes of a name in an error.
const SHOWN: usize = 200;

fn value<'a>(
    node: &'a OnnxNode,
    traces: &[Option<Rc<Trace>>],
    constants: &Constants<'a>,
    layers: &mut Layers<'a>,
) -> Result<Vec<Trace>, String> {
    let place = || {
        let name = if node.name.is_empty() { node.outputs.first() } else { Some(&node.name) };
        let shown = |text: &str| text.chars().take(SHOWN).collect::<String>();
        format!("operator `{}` (node `{}`)", shown(&node.operator), shown(name.map_or("", String::as_str)))
    };
    let unknown = || format!("{} does not occur in GoogLeNet", place());
    let constant = |i: usize| node.inputs.get(i).and_then(|name| constants.get(name.as_str())).copied();
    let weight = |i: usize| constant(i).ok_or_else(|| format!("{} has no weight in the file", place()));
    let shared = |i: usize| traces.get(i).cloned().flatten().ok_or_else(unknown);
    let traced = |i: usize| shared(i).map(Rc::unwrap_or_clone);
    let mut layer = |from: Rc<Trace>, weight: Constant<'a>, bias: Option<&'a [f32]>| {
        if weight.data().is_empty() {
            return Err(format!("{} has an empty weight", place()));
        }
        let flat = node.operator != "Conv";
        layers.layers.push(Layer { node, from, weight, bias, norm: None });
        let source = Source::Layer(layers.layers.len() - 1);
        Ok(vec![Trace { source, steps: Vec::new(), planes: Vec::new(), flat, squares: None }])
    };
    let then = |mut trace: Trace, step: Step, flat: bool| {
        // Changed channels are no longer the input's.
        trace.planes.clear();
        trace.flat |= flat;
        trace.steps.push(step);
        if trace.steps.len() > LIMIT {
            return Err(unknown());
        }
        Ok(vec![trace])
    };
    if let Some(trace) = response(node, traces, constants).map_err(|what| format!("{} {what}", place()))? {
        return Ok(vec![trace]);
    }
    match node.operator.as_str() {
        "Conv" => {
            let weight = weight(1)?;
            if weight.dims().len() != 4 || weight.data().is_empty() {
                return Err(format!("{} is not a 2D convolution", place()));
            }
            layer(shared(0)?, weight, constant(2).map(Constant::data))
        }
        "Gemm" => {
            let plain = node.float("alpha", 1.0) == 1.0 && node.float("beta", 1.0) == 1.0;
            if !plain || node.int("transA", 0) != 0 {
                return Err(format!("{} is not a fully connected layer", place()));
            }
            let weight = weight(1)?;
            let weight = if node.int("transB", 0) == 0 { weight.transpose() } else { weight };
            layer(shared(0)?, weight, constant(2).map(Constant::data))
        }
        "MatMul" => match (traced(0), traced(1)) {
            // Adaptive pooling is exported as products with rows and columns.
            (Err(_), Ok(trace)) => then(trace, Step::AveragePool, false),
            (Ok(trace), _) if !trace.flat => then(trace, Step::AveragePool, false),
            (trace, _) => layer(Rc::new(trace?), weight(1)?.transpose(), None),
        },
        "BatchNormalization" => {
            let trace = traced(0)?;
            let vector = |i| weight(i).map(Constant::data);
            let norm = Norm {
                epsilon: node.float("epsilon", 1e-5),
                scale: vector(1)?,
                shift: vector(2)?,
                mean: vector(3)?,
                variance: vector(4)?,
            };
            let layer = match trace.source {
                Source::Layer(number) if trace.steps.is_empty() => layers.layers.get_mut(number),
                _ => None,
            };
            let layer = layer.filter(|layer| layer.is_conv() && layer.norm.is_none()).ok_or_else(unknown)?;
            let outputs = layer.outputs();
            if [norm.scale, norm.shift, norm.mean, norm.variance].iter().any(|v| v.len() != outputs) {
                return Err(format!("{} does not have {}", place(), plural(outputs, "channel")));
            }
            layer.norm = Some(norm);
            Ok(vec![trace])
        }
        "Add" | "Sub" | "Mul" | "Div" => arithmetic(node, traces, constants, layers).ok_or_else(unknown),
        "Relu" => then(traced(0)?, Step::Relu, false),
        "MaxPool" => {
            let square = |values: &[i64], default| match values {
                [] => Some(default),
                [a, b] if a == b => Some(*a),
                _ => None,
            };
            let (window, stride) = (square(node.ints("kernel_shape"), 0), square(node.ints("strides"), 1));
            let (Some(window), Some(stride)) = (window, stride) else { return Err(unknown()) };
            then(traced(0)?, Step::MaxPool(window, stride, rounds_up(node)), false)
        }
        "AveragePool" => then(traced(0)?, Step::AveragePool, false),
        "GlobalAveragePool" | "ReduceMean" => then(traced(0)?, Step::AveragePool, true),
        "LRN" => {
            let number = |name, default| node.float(name, default);
            let (alpha, beta, bias) = (number("alpha", 1e-4), number("beta", 0.75), number("bias", 1.0));
            let response = Response { size: node.int("size", 0), alpha, beta, bias };
            if !response.is_published() {
                return Err(format!("{} {OTHER_NUMBERS}", place()));
            }
            then(traced(0)?, Step::Lrn, false)
        }
        "Identity" | "Dropout" | "Cast" | "CastLike" | "Unsqueeze" | "Softmax" | "LogSoftmax" => {
            Ok(vec![traced(0)?])
        }
        "Flatten" | "Reshape" | "Squeeze" => {
            let trace = traced(0)?;
            Ok(vec![Trace { flat: true, planes: Vec::new(), ..trace }])
        }
        "Gather" if node.int("axis", 0) == 1 => {
            let chosen = constant(1).ok_or_else(unknown)?.data().iter().map(|i| *i as i64);
            Ok(vec![choose(traced(0)?, chosen).ok_or_else(unknown)?])
        }
        "Slice" => {
            let whole = |i: usize, name: &str| -> Vec<i64> {
                let input = constant(i).map(|tensor| tensor.data().iter().map(|v| *v as i64).collect());
                input.unwrap_or_else(|| node.ints(name).to_vec())
            };
            let (starts, ends, axes) = (whole(1, "starts"), whole(2, "ends"), whole(3, "axes"));
            let ([start], [end], [1]) = (&starts[..], &ends[..], &axes[..]) else { return Err(unknown()) };
            let trace = traced(0)?;
            let count = trace.planes.len() as i64;
            let place = |i: i64| if i < 0 { i.saturating_add(count) } else { i }.clamp(0, count);
            Ok(vec![choose(trace, place(*start)..place(*end)).ok_or_else(unknown)?])
        }
        "Split" if node.int("axis", 0) == 1 => {
            let trace = traced(0)?;
            if trace.planes.len() != node.outputs.len() {
                return Err(unknown());
            }
            (0..trace.planes.len() as i64).map(|i| choose(trace.clone(), [i]).ok_or_else(unknown)).collect()
        }
        "Concat" if node.int("axis", 1) == 1 => {
            let branches: Vec<Rc<Trace>> = (0..node.inputs.len()).map(shared).collect::<Result<_, _>>()?;
            if branches.iter().all(|trace| !trace.planes.is_empty()) {
                let planes = branches.iter().flat_map(|trace| trace.planes.iter().copied());
                let planes: Vec<Plane> = planes.take(LIMIT + 1).collect();
                if planes.len() > LIMIT {
                    return Err(unknown());
                }
                return Ok(vec![Trace {
                    source: Source::Input,
                    steps: Vec::new(),
                    planes,
                    flat: false,
                    squares: None,
                }]);
            }
            layers.joins.push(branches);
            let source = Source::Join(layers.joins.len() - 1);
            Ok(vec![Trace { source, steps: Vec::new(), planes: Vec::new(), flat: false, squares: None }])
        }
        _ => Err(unknown()),
    }
}

/// The error for a normalization with other parameters than the paper's.
const OTHER_NUMBERS: &str = "does not have GoogLeNet's parameters: size 5, alpha 0.0001, beta 0.75, k 1";

/// A step of a decomposed local response normalization, if the node is one: squares, functions of
/// them, and the normalized value.
///
/// # Errors
/// An unknown function of squares, or a normalization with other parameters.
fn response(
    node: &OnnxNode,
    traces: &[Option<Rc<Trace>>],
    constants: &Constants<'_>,
) -> Result<Option<Trace>, String> {
    let squared =
        |trace: &Trace| Trace { squares: Some(Box::new(Squares::of(trace))), ..Trace::clone(trace) };
    let constant =
        |i: usize| node.inputs.get(i).and_then(|name| constants.get(name.as_str())).map(|c| c.data());
    let on_its_way = |trace: &Option<Rc<Trace>>| trace.as_ref().is_some_and(|trace| trace.squares.is_some());
    if !traces.iter().any(on_its_way) {
        return Ok(match (node.operator.as_str(), traces) {
            ("Mul", [Some(trace), Some(_)]) if node.inputs.first() == node.inputs.get(1) => {
                Some(squared(trace))
            }
            ("Pow", [Some(trace), ..]) if trace.planes.is_empty() && constant(1) == Some(&[2.0]) => {
                Some(squared(trace))
            }
            _ => None,
        });
    }
    let lost =
        || "computes a function of squares that is not GoogLeNet's local response normalization".to_string();
    let (value, squares, divides) = match (node.operator.as_str(), traces) {
        ("Div", [Some(value), Some(by)]) if !on_its_way(&traces[0]) => (value, &by.squares, true),
        ("Mul", [Some(value), Some(by)]) if !on_its_way(&traces[0]) => (value, &by.squares, false),
        ("Mul", [Some(by), Some(value)]) if !on_its_way(&traces[1]) => (value, &by.squares, false),
        (_, [Some(trace), ..] | [None, Some(trace)]) => {
            let squares = trace.squares.clone().ok_or_else(lost)?;
            let squares = squares.then(node, constant).ok_or_else(lost)?;
            return Ok(Some(Trace { squares: Some(Box::new(squares)), ..Trace::clone(trace) }));
        }
        _ => return Err(lost()),
    };
    let response =
        squares.as_ref().and_then(|squares| squares.normalises(value, divides)).ok_or_else(lost)?;
    if !response.is_published() {
        return Err(OTHER_NUMBERS.into());
    }
    let mut value = Trace::clone(value);
    value.planes.clear();
    value.steps.push(Step::Lrn);
    Ok(Some(value))
}

/// Whether a pooling's size is rounded up: by its attribute, or by padding at the end only.
fn rounds_up(node: &OnnxNode) -> bool {
    let behind = matches!(node.ints("pads"), [0, 0, bottom, right] if *bottom > 0 && *right > 0);
    node.int("ceil_mode", 0) == 1 || behind || node.text("auto_pad") == "SAME_UPPER"
}

/// A selection of the input's channels.
fn choose(trace: Trace, channels: impl IntoIterator<Item = i64>) -> Option<Trace> {
    let count = trace.planes.len() as i64;
    let chosen = channels.into_iter().map(|i| {
        let place = usize::try_from(if i < 0 { i + count } else { i }).ok()?;
        trace.planes.get(place).copied()
    });
    let planes: Vec<Plane> = chosen.collect::<Option<_>>()?;
    (1..=LIMIT).contains(&planes.len()).then_some(Trace { planes, ..trace })
}

/// Arithmetic with a constant: on the input's channels, or a bias after a layer.
fn arithmetic<'a>(
    node: &OnnxNode,
    traces: &[Option<Rc<Trace>>],
    constants: &Constants<'a>,
    layers: &mut Layers<'a>,
) -> Option<Vec<Trace>> {
    let operand = |i: usize| node.inputs.get(i).and_then(|name| constants.get(name.as_str())).copied();
    let (mut trace, values, constant_first) = match (traces, operand(0), operand(1)) {
        ([Some(trace), _], _, Some(values)) => (Trace::clone(trace), values.data(), false),
        ([_, Some(trace)], Some(values), _) => (Trace::clone(trace), values.data(), true),
        _ => return None,
    };
    if trace.planes.is_empty() {
        let Source::Layer(number) = trace.source else { return None };
        let layer = layers.layers.get_mut(number)?;
        let fits = trace.steps.is_empty() && layer.norm.is_none() && values.len() == layer.outputs();
        if node.operator != "Add" || !fits || layer.bias.is_some() {
            return None;
        }
        layer.bias = Some(values);
        return Some(vec![trace]);
    }
    if values.len() != 1 && values.len() != trace.planes.len() {
        return None;
    }
    for (plane, value) in trace.planes.iter_mut().zip(values.iter().cycle()) {
        let (scale, shift) = match (node.operator.as_str(), constant_first) {
            ("Add", _) => (1.0, *value),
            ("Sub", false) => (1.0, -value),
            ("Sub", true) => (-1.0, *value),
            ("Mul", _) => (*value, 0.0),
            ("Div", false) => (1.0 / value, 0.0),
            _ => return None,
        };
        plane.scale *= scale;
        plane.shift = plane.shift * scale + shift;
    }
    Some(vec![trace])
}
