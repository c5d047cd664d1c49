//! Recognition of GoogLeNet in an ONNX graph by its structure, for any tensor names. Tensor names
//! depend on the exporter, and batch norm is often fused into the preceding convolution. A fused
//! batch norm is imported as one that only adds the convolution's bias, so that the network
//! computes the same; its statistics adapt in further training.

use std::collections::{BTreeMap, BTreeSet};

use super::build::EPSILON;
use super::table::{
    BLOCKS, POOLED, TAPPED, aux_layers, block_layers, classifier_layer, conv_weight, stem_layers,
};
use super::trace::{Layer, Layers, Norm, Source, Step, Trace, follow};
use super::{Plane, Variant};
use crate::formats::OnnxGraph;
use crate::tensor::HostTensor;
use crate::text::plural;

/// The weights by the names of this crate, and further properties of the graph.
#[derive(Debug)]
pub(super) struct Found {
    pub tensors: BTreeMap<String, HostTensor>,
    /// Height and width of the input, if they are fixed.
    pub input: Option<usize>,
    /// Stride of the first convolution.
    pub stride: i64,
    pub planes: [Plane; 3],
}

/// The stride-2 pooling of the stem and of most blocks.
const POOL: Step = Step::MaxPool(3, 2, true);
/// The pooling in a block's last branch.
const SAME_POOL: Step = Step::MaxPool(3, 1, false);

/// Matches a graph with the table, starting at the input.
///
/// # Errors
/// The first difference from GoogLeNet.
pub(super) fn recognize(graph: &OnnxGraph) -> Result<Found, String> {
    let found = follow(graph)?;
    if found.joins.len() != BLOCKS.len() || found.joins.iter().any(|join| join.len() != 4) {
        let branches: Vec<usize> = found.joins.iter().map(Vec::len).collect();
        return Err(format!(
            "is not a GoogLeNet: it has nine concatenations of four branches, but this graph has {branches:?}"
        ));
    }
    let wide =
        layer_of(&found.joins[0][2]).and_then(|number| found.layers[number].weight.dims().get(2).copied());
    let variant = if wide == Some(5) { Variant::Paper } else { Variant::Torchvision };
    let mut matcher = Matcher { variant, found, used: BTreeSet::new(), tensors: BTreeMap::new() };
    let (stride, planes, mut before) = matcher.stem()?;
    for (number, (name, _)) in BLOCKS.iter().enumerate() {
        before = matcher.block(number, name, &before)?;
    }
    matcher.heads(before.source)?;
    let unused = matcher.found.layers.iter().enumerate().filter(|(i, _)| !matcher.used.contains(i));
    let unused: Vec<&str> = unused.map(|(_, layer)| layer.name()).collect();
    if !unused.is_empty() {
        return Err(format!("has layers that GoogLeNet does not have: {}", unused.join(", ")));
    }
    let input = match graph.inputs.first().map(|(_, dims)| dims.as_slice()) {
        Some([_, _, Some(height), Some(width)]) if height != width => {
            return Err(format!("takes images of {height}x{width}, which are not square"));
        }
        Some([_, _, height, _]) => *height,
        _ => None,
    };
    Ok(Found { tensors: matcher.tensors, input, stride, planes })
}

/// The index of the layer that computes a value.
fn layer_of(trace: &Trace) -> Option<usize> {
    match trace.source {
        Source::Layer(number) => Some(number),
        Source::Input | Source::Join(_) => None,
    }
}

/// As [`layer_of`], with an error that names the expected layer.
fn behind(trace: &Trace, name: &str) -> Result<usize, String> {
    layer_of(trace).ok_or_else(|| format!("has no layer where GoogLeNet has `{name}`"))
}

/// The source of a layer's input, and the operations between.
#[derive(Clone, Debug)]
struct Way {
    source: Source,
    steps: Vec<Step>,
}

/// Kernel size and stride of a convolution; some have two possible values.
struct Window {
    size: usize,
    strides: &'static [i64],
}

const fn window(size: usize) -> Window {
    Window { size, strides: &[1] }
}

struct Matcher<'a> {
    variant: Variant,
    found: Layers<'a>,
    used: BTreeSet<usize>,
    tensors: BTreeMap<String, HostTensor>,
}

impl Matcher<'_> {
    fn paper(&self) -> bool {
        self.variant == Variant::Paper
    }

    /// A layer and its predecessor.
    fn pair(&self, trace: &Trace, names: [&str; 2]) -> Result<[usize; 2], String> {
        let second = behind(trace, names[1])?;
        let first = behind(&self.found.layers[second].from, names[0])?;
        Ok([first, second])
    }

    /// The operations before the next layer: a ReLU and possibly others.
    fn expect_steps(found: &[Step], expected: &[Step], name: &str) -> Result<(), String> {
        let alike = |(a, b): (&Step, &Step)| match (a, b) {
            // Rounding does not matter for 2x2 windows on even sizes and for windows of stride 1.
            (Step::MaxPool(size, stride, _), Step::MaxPool(size2, stride2, _))
                if *stride == 1 || *size == 2 =>
            {
                (size, stride) == (size2, stride2)
            }
            (a, b) => a == b,
        };
        let mut found = found.to_vec();
        // Two consecutive products are one adaptive pooling.
        found.dedup_by(|a, b| *a == Step::AveragePool && a == b);
        if found.len() == expected.len() && found.iter().zip(expected).all(alike) {
            return Ok(());
        }
        Err(format!("`{name}` has {found:?} before it where GoogLeNet has {expected:?}"))
    }

    /// Assigns layer `number` to `name`, after checking its predecessor.
    fn take(&mut self, number: usize, name: &str, way: &Way, window: Option<&Window>) -> Result<(), String> {
        let layer = &self.found.layers[number];
        if layer.from.source != way.source {
            return Err(format!("`{}` has another predecessor than GoogLeNet's `{name}`", layer.name()));
        }
        Self::expect_steps(&layer.from.steps, &way.steps, name)?;
        // A fully connected layer may be a 1x1 convolution.
        let product = !layer.is_conv() || matches!(layer.weight.dims()[..], [_, _, 1, 1]);
        if layer.is_conv() != window.is_some() && (window.is_some() || !product) {
            return Err(format!(
                "`{}` is {} where GoogLeNet has `{name}`",
                layer.name(),
                layer.node.operator
            ));
        }
        if let Some(window) = window {
            check_window(layer, name, window)?;
        }
        if !self.used.insert(number) {
            return Err(format!("`{}` is used twice", layer.name()));
        }
        let mut weight = layer.weight.copied();
        let outputs = layer.outputs();
        let bias = match layer.bias {
            // A scalar applies to all outputs.
            Some([bias]) => vec![*bias; outputs],
            Some(bias) if bias.len() == outputs => bias.to_vec(),
            Some(bias) => {
                return Err(format!(
                    "`{}` has {}, but its bias has {}",
                    layer.name(),
                    plural(outputs, "output"),
                    bias.len()
                ));
            }
            None => vec![0.0; outputs],
        };
        if window.is_none() {
            self.put(format!("{name}.bias"), bias);
            self.tensors.insert(format!("{name}.weight"), weight);
            return Ok(());
        }
        let norm = layer.norm;
        if self.paper() {
            let bias = match norm {
                Some(norm) => fold(norm, &mut weight, &bias),
                None => bias,
            };
            self.put(format!("{name}.bias"), bias);
        } else {
            let [scale, shift, mean, variance] = norm_of(norm, bias);
            self.put(format!("{name}.bn.weight"), scale);
            self.put(format!("{name}.bn.bias"), shift);
            self.put(format!("{name}.bn.running_mean"), mean);
            self.put(format!("{name}.bn.running_var"), variance);
        }
        self.tensors.insert(conv_weight(self.variant, name), weight);
        Ok(())
    }

    fn put(&mut self, name: String, data: Vec<f32>) {
        self.tensors.insert(name, HostTensor { dims: vec![data.len()], data });
    }

    /// The three convolutions before the blocks: stride and input planes of the first one, and the
    /// source of the blocks.
    fn stem(&mut self) -> Result<(i64, [Plane; 3], Way), String> {
        let names = stem_layers(self.variant);
        let third = behind(&self.found.layers_of_join(0, 0)?.from, names[2])?;
        let [first, second] = self.pair(&self.found.layers[third].from, [names[0], names[1]])?;
        let conv1 = &self.found.layers[first];
        let stride = conv1.node.ints("strides").first().copied().unwrap_or(1);
        let planes: [Plane; 3] = conv1.from.planes.clone().try_into().map_err(|_| {
            format!("`{}` does not read the three channels of the input", self.found.layers[first].name())
        })?;
        if [0, 1, 2].iter().any(|c| !planes.iter().any(|plane| plane.channel == *c && plane.scale != 0.0)) {
            return Err("does not use each input channel exactly once".into());
        }
        let lrn: &[Step] = if self.paper() { &[Step::Lrn] } else { &[] };
        let way = |source, steps: Vec<Step>| Way { source, steps };
        let input = way(Source::Input, Vec::new());
        self.take(first, names[0], &input, Some(&Window { size: 7, strides: &[1, 2] }))?;
        let after = way(Source::Layer(first), [&[Step::Relu, POOL], lrn].concat());
        self.take(second, names[1], &after, Some(&window(1)))?;
        let after = way(Source::Layer(second), vec![Step::Relu]);
        self.take(third, names[2], &after, Some(&window(3)))?;
        let after = way(Source::Layer(third), [&[Step::Relu], lrn, &[POOL]].concat());
        Ok((stride, planes, after))
    }

    /// Matches a block that reads from `before`; returns its output.
    fn block(&mut self, number: usize, name: &str, before: &Way) -> Result<Way, String> {
        let layers = block_layers(self.variant, name);
        let [conv1, reduce3, conv3, reduce5, conv5, project] = layers.each_ref().map(String::as_str);
        let join = self.found.joins[number].clone();
        let [branch1, branch2, branch3, branch4] = &join[..] else {
            return Err(format!("block {name} does not have four branches"));
        };
        for branch in &join {
            Self::expect_steps(&branch.steps, &[Step::Relu], &format!("inception_{name}/output"))?;
        }
        let one = Some(window(1));
        let wide = window(if self.paper() { 5 } else { 3 });
        self.take(behind(branch1, conv1)?, conv1, before, one.as_ref())?;
        for (branch, [first, second], wide) in
            [(branch2, [reduce3, conv3], window(3)), (branch3, [reduce5, conv5], wide)]
        {
            let [reduce, conv] = self.pair(branch, [first, second])?;
            self.take(reduce, first, before, one.as_ref())?;
            let after = Way { source: Source::Layer(reduce), steps: vec![Step::Relu] };
            self.take(conv, second, &after, Some(&wide))?;
        }
        let pooled = Way { steps: [&before.steps[..], &[SAME_POOL]].concat(), ..*before };
        self.take(behind(branch4, project)?, project, &pooled, one.as_ref())?;
        let pool = match name {
            "4e" if !self.paper() => vec![Step::MaxPool(2, 2, true)],
            _ if POOLED.contains(&name) => vec![POOL],
            _ => Vec::new(),
        };
        Ok(Way { source: Source::Join(number), steps: pool })
    }

    /// The main classifier after the last block, and the auxiliary classifiers, if any.
    fn heads(&mut self, last: Source) -> Result<(), String> {
        let reads = |found: &Layers<'_>, source: Source, conv: bool| {
            found.layers.iter().position(|layer| layer.from.source == source && layer.is_conv() == conv)
        };
        let missing = |name: &str| format!("has no layer where GoogLeNet has `{name}`");
        let name = classifier_layer(self.variant);
        let main = reads(&self.found, last, false).or_else(|| reads(&self.found, last, true));
        let main = main.ok_or_else(|| missing(name))?;
        self.take(main, name, &Way { source: last, steps: vec![Step::AveragePool] }, None)?;
        for (index, tapped) in TAPPED.iter().enumerate() {
            let Some(block) = BLOCKS.iter().position(|(name, _)| name == tapped) else { continue };
            let source = Source::Join(block);
            let conv = self.found.layers.iter().enumerate().position(|(i, layer)| {
                layer.from.source == source && layer.is_conv() && !self.used.contains(&i)
            });
            let Some(conv) = conv else { continue };
            let names = aux_layers(self.variant, index + 1);
            let [first, hidden, classifier] = names.each_ref().map(String::as_str);
            let pooled = Way { source, steps: vec![Step::AveragePool] };
            self.take(conv, first, &pooled, Some(&window(1)))?;
            let mut source = Source::Layer(conv);
            for name in [hidden, classifier] {
                let layer = reads(&self.found, source, false).ok_or_else(|| missing(name))?;
                self.take(layer, name, &Way { source, steps: vec![Step::Relu] }, None)?;
                source = Source::Layer(layer);
            }
        }
        Ok(())
    }
}

impl<'a> Layers<'a> {
    /// The layer that computes a branch of a concatenation.
    fn layers_of_join(&self, join: usize, branch: usize) -> Result<&Layer<'a>, String> {
        let number = self.joins.get(join).and_then(|join| layer_of(join.get(branch)?));
        number
            .map(|number| &self.layers[number])
            .ok_or_else(|| "concatenates a value that no layer computes".into())
    }
}

fn check_window(layer: &Layer<'_>, name: &str, window: &Window) -> Result<(), String> {
    let node = layer.node;
    let size = i64::try_from(window.size).unwrap_or(i64::MAX);
    let all = |attribute: &str, default: i64, allowed: &[i64]| {
        let values = node.ints(attribute);
        match values {
            [] => allowed.contains(&default),
            [first, rest @ ..] => allowed.contains(first) && rest.iter().all(|value| value == first),
        }
    };
    // At stride 1, both kinds of automatic padding are half of an odd window.
    let automatic = node.text("auto_pad").starts_with("SAME") && window.strides == [1];
    let fits = layer.weight.dims()[2..] == [window.size; 2]
        && all("strides", 1, window.strides)
        && all("dilations", 1, &[1])
        && (automatic || all("pads", 0, &[size / 2]))
        && node.int("group", 1) == 1;
    if fits {
        return Ok(());
    }
    Err(format!(
        "`{}` ({:?}, strides {:?}, pads {:?}) is not GoogLeNet's `{name}`, which is {size}x{size}",
        layer.name(),
        layer.weight.dims(),
        node.ints("strides"),
        node.ints("pads"),
    ))
}

/// Scale, shift, mean and variance of this crate's batch norm, whose epsilon is [`EPSILON`].
fn norm_of(norm: Option<Norm<'_>>, bias: Vec<f32>) -> [Vec<f32>; 4] {
    let outputs = bias.len();
    match norm {
        // Variance plus epsilon is 1.
        None => [vec![1.0; outputs], bias, vec![0.0; outputs], vec![1.0 - EPSILON; outputs]],
        Some(norm) => {
            let ratio = |variance: &f32| {
                let ours = (f64::from(*variance) + f64::from(EPSILON)).sqrt();
                ours / (f64::from(*variance) + f64::from(norm.epsilon)).sqrt()
            };
            let scales = norm.scale.iter().zip(norm.variance);
            let scale = scales.map(|(scale, variance)| (f64::from(*scale) * ratio(variance)) as f32);
            let mean = norm.mean.iter().zip(&bias).map(|(mean, bias)| mean - bias);
            [scale.collect(), norm.shift.to_vec(), mean.collect(), norm.variance.to_vec()]
        }
    }
}

/// Fuses a batch norm into the preceding convolution; returns the bias.
fn fold(norm: Norm<'_>, weight: &mut HostTensor, bias: &[f32]) -> Vec<f32> {
    let size = (weight.data.len() / norm.scale.len().max(1)).max(1);
    let mut folded = Vec::with_capacity(bias.len());
    for (c, channel) in weight.data.chunks_mut(size).enumerate() {
        let (Some(scale), Some(bias)) = (norm.scale.get(c), bias.get(c)) else { break };
        let factor = f64::from(*scale) / (f64::from(norm.variance[c]) + f64::from(norm.epsilon)).sqrt();
        channel.iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
        let shift = f64::from(norm.shift[c]) + (f64::from(*bias) - f64::from(norm.mean[c])) * factor;
        folded.push(shift as f32);
    }
    folded
}
