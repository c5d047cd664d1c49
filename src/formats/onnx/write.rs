//! Writing a graph as an ONNX model. `operations.rs` converts single operations.

use std::collections::BTreeMap;

use prost::Message;

use super::{OnnxAttribute, OnnxNode, operations, proto};
use crate::error::{Error, Result};
use crate::graph::{Graph, Role, TensorId};
use crate::optim::TrainingState;
use crate::tensor::HostTensor;
use crate::tensor::Spec;

/// Format and operator set versions of 2022, supported by all runtimes in use.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;

/// Options of an ONNX model: `ExportOptions::default().fold_batch_norm(true)`.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ExportOptions {
    /// `doc_string` of the model.
    pub description: String,
    /// Metadata properties.
    pub metadata: BTreeMap<String, String>,
    /// Fold batch norms into the preceding convolutions.
    pub fold_batch_norm: bool,
}

impl ExportOptions {
    /// `doc_string` of the model.
    #[must_use]
    pub fn description(self, description: impl Into<String>) -> Self {
        Self { description: description.into(), ..self }
    }

    /// Metadata properties.
    #[must_use]
    pub fn metadata(self, metadata: BTreeMap<String, String>) -> Self {
        Self { metadata, ..self }
    }

    /// Whether to fold batch norms into the preceding convolutions.
    #[must_use]
    pub fn fold_batch_norm(self, fold_batch_norm: bool) -> Self {
        Self { fold_batch_norm, ..self }
    }
}

/// Export of one operation: it reads the names of its inputs and adds nodes.
#[derive(Debug)]
pub(super) struct OnnxExport<'a> {
    name: &'a str,
    inputs: Vec<String>,
    specs: Vec<&'a Spec>,
    output: String,
    nodes: Vec<OnnxNode>,
    constants: Vec<(String, HostTensor)>,
}

impl OnnxExport<'_> {
    /// The name of an input.
    pub fn input(&self, index: usize) -> String {
        self.inputs.get(index).cloned().unwrap_or_default()
    }

    /// The names of all inputs.
    pub fn inputs(&self) -> Vec<String> {
        self.inputs.clone()
    }

    /// The spec of an input.
    pub fn spec(&self, index: usize) -> &Spec {
        self.specs[index]
    }

    /// Adds an initializer; returns its name.
    pub fn constant(&mut self, what: &str, dims: &[usize], data: Vec<f32>) -> String {
        let name = format!("{}/{what}", self.name);
        self.constants.push((name.clone(), HostTensor { dims: dims.to_vec(), data }));
        name
    }

    /// Adds a node with these inputs; returns the name of its output.
    pub fn node(
        &mut self,
        operator: &str,
        inputs: Vec<String>,
        attributes: &[(&str, OnnxAttribute)],
    ) -> String {
        let name = match self.nodes.len() {
            0 => self.name.to_string(),
            count => format!("{}/{count}", self.name),
        };
        self.nodes.push(OnnxNode {
            operator: operator.to_string(),
            outputs: vec![format!("{name}:0")],
            name: name.clone(),
            inputs,
            attributes: attributes.iter().map(|(key, value)| ((*key).to_string(), value.clone())).collect(),
        });
        format!("{name}:0")
    }

    /// Adds the fused ReLU of an operation, if `applies`.
    pub fn relu(&mut self, applies: bool) {
        if applies && let Some(last) = self.nodes.last() {
            let value = last.outputs[0].clone();
            self.node("Relu", vec![value], &[]);
        }
    }
}

/// An integer attribute.
pub(super) fn int(value: usize) -> OnnxAttribute {
    OnnxAttribute::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

/// An integer list attribute.
pub(super) fn ints(values: impl IntoIterator<Item = usize>) -> OnnxAttribute {
    OnnxAttribute::Ints(values.into_iter().map(|v| i64::try_from(v).unwrap_or(i64::MAX)).collect())
}

/// Serializes a graph as an ONNX model with these named outputs. The batch dimension is dynamic.
/// Equal graphs and weights give equal bytes.
///
/// # Errors
/// [`Error::Layer`] for an operation without an ONNX equivalent, [`Error::Tensor`] for a weight
/// that is missing or has the wrong shape.
pub fn write(
    graph: &Graph,
    outputs: &[(TensorId, &str)],
    weights: &TrainingState,
    options: &ExportOptions,
) -> Result<Vec<u8>> {
    let name = |id: TensorId| match outputs.iter().find(|(output, _)| *output == id) {
        Some((_, name)) => (*name).to_string(),
        None => graph.tensor(id).name.clone(),
    };
    let mut nodes = Vec::new();
    let mut tensors = BTreeMap::new();
    for (_, node) in graph.nodes() {
        let mut export = OnnxExport {
            name: &node.name,
            inputs: node.inputs.iter().map(|t| name(*t)).collect(),
            specs: graph.input_specs(node),
            output: name(node.outputs[0]),
            nodes: Vec::new(),
            constants: Vec::new(),
        };
        operations::export(node.op.as_ref(), &mut export).map_err(|reason| Error::Layer {
            layer: node.name.clone(),
            operation: node.op.name(),
            reason,
        })?;
        if let Some(last) = export.nodes.last_mut() {
            last.outputs = vec![export.output];
        }
        nodes.extend(export.nodes);
        tensors.extend(export.constants);
    }
    let mut inputs = Vec::new();
    for (id, tensor) in graph.tensors() {
        match tensor.role {
            Role::Input => inputs.push(value_info(&name(id), tensor.spec.dims())),
            Role::Parameter(_) | Role::State(_) => {
                let values = weights.parameters.get(&tensor.name).or_else(|| weights.state.get(&tensor.name));
                let values =
                    values.ok_or_else(|| Error::tensor(&tensor.name, "is missing from the weights"))?;
                if values.dims != tensor.spec.dims() || values.data.len() != tensor.spec.shape.volume() {
                    let reason = format!("is {:?} in the weights, expected {}", values.dims, tensor.spec);
                    return Err(Error::tensor(&tensor.name, reason));
                }
                tensors.insert(tensor.name.clone(), values.clone());
            }
            _ => {}
        }
    }
    if options.fold_batch_norm {
        nodes = fold(nodes, &mut tensors);
    }
    let output = |(id, name): &(TensorId, &str)| value_info(name, graph.tensor(*id).spec.dims());
    let model = proto::Model {
        ir_version: IR_VERSION,
        opset_import: vec![proto::OperatorSet { domain: String::new(), version: OPSET }],
        producer_name: env!("CARGO_PKG_NAME").into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        doc_string: options.description.clone(),
        graph: Some(proto::Graph {
            node: nodes.into_iter().map(node_proto).collect(),
            name: "main".into(),
            initializer: tensors.iter().map(|(name, tensor)| tensor_proto(name, tensor)).collect(),
            input: inputs,
            output: outputs.iter().map(output).collect(),
        }),
        metadata_props: options.metadata.iter().map(entry).collect(),
    };
    Ok(model.encode_to_vec())
}

/// Folds batch norms into preceding convolutions without a bias: w' = w s, b' = b - mean s, with s
/// = weight / sqrt(variance + epsilon), in f64 so that it rounds once.
fn fold(nodes: Vec<OnnxNode>, tensors: &mut BTreeMap<String, HostTensor>) -> Vec<OnnxNode> {
    let mut readers: BTreeMap<String, usize> = BTreeMap::new();
    for input in nodes.iter().flat_map(|node| &node.inputs) {
        *readers.entry(input.clone()).or_default() += 1;
    }
    let mut folded: Vec<OnnxNode> = Vec::new();
    for node in nodes {
        let joins = |conv: &OnnxNode| {
            let alone = readers.get(&conv.outputs[0]) == Some(&1);
            conv.operator == "Conv" && conv.inputs.len() == 2 && conv.outputs[0] == node.inputs[0] && alone
        };
        let conv = folded.iter_mut().rfind(|conv| node.operator == "BatchNormalization" && joins(conv));
        let parameters = |i: usize| node.inputs.get(i).and_then(|name| tensors.get(name)).cloned();
        let (Some(conv), [Some(scale), Some(shift), Some(mean), Some(variance)]) =
            (conv, [1, 2, 3, 4].map(parameters))
        else {
            folded.push(node);
            continue;
        };
        node.inputs[1..].iter().for_each(|name| drop(tensors.remove(name)));
        let epsilon = f64::from(node.float("epsilon", 1e-5));
        let values = scale.data.iter().zip(&shift.data).zip(mean.data.iter().zip(&variance.data));
        let folded_values = values.map(|((scale, shift), (mean, variance))| {
            let factor = f64::from(*scale) / (f64::from(*variance) + epsilon).sqrt();
            (factor, (f64::from(*shift) - f64::from(*mean) * factor) as f32)
        });
        let (factors, bias): (Vec<f64>, Vec<f32>) = folded_values.unzip();
        if let Some(weight) = tensors.get_mut(&conv.inputs[1]) {
            let size = (weight.data.len() / factors.len().max(1)).max(1);
            for (channel, factor) in weight.data.chunks_mut(size).zip(&factors) {
                channel.iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
            }
        }
        let name = format!("{}.bias", conv.name);
        tensors.insert(name.clone(), HostTensor { dims: vec![bias.len()], data: bias });
        conv.inputs.push(name);
        conv.outputs = node.outputs;
    }
    folded
}

fn entry((key, value): (&String, &String)) -> proto::StringEntry {
    proto::StringEntry { key: key.clone(), value: value.clone() }
}

fn extents(dims: &[usize]) -> impl Iterator<Item = i64> {
    dims.iter().map(|d| i64::try_from(*d).unwrap_or(i64::MAX))
}

fn value_info(name: &str, dims: &[usize]) -> proto::ValueInfo {
    let mut dim: Vec<proto::Dimension> =
        extents(dims).map(|d| proto::Dimension { value: Some(proto::Extent::Value(d)) }).collect();
    if let Some(batch) = dim.first_mut() {
        batch.value = Some(proto::Extent::Name("batch".into()));
    }
    let tensor_type = proto::TensorType { elem_type: proto::FLOAT, shape: Some(proto::Shape { dim }) };
    proto::ValueInfo { name: name.into(), r#type: Some(proto::Type { tensor_type: Some(tensor_type) }) }
}

fn tensor_proto(name: &str, tensor: &HostTensor) -> proto::Tensor {
    proto::Tensor {
        dims: extents(&tensor.dims).collect(),
        data_type: proto::FLOAT,
        name: name.into(),
        raw_data: tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..proto::Tensor::default()
    }
}

fn node_proto(node: OnnxNode) -> proto::Node {
    let attribute = |(name, value): (String, OnnxAttribute)| {
        let mut attribute = proto::Attribute { name, ..proto::Attribute::default() };
        match value {
            OnnxAttribute::Float(value) => {
                attribute.set_type(proto::AttributeType::Float);
                attribute.f = value;
            }
            OnnxAttribute::Int(value) => {
                attribute.set_type(proto::AttributeType::Int);
                attribute.i = value;
            }
            OnnxAttribute::Ints(values) => {
                attribute.set_type(proto::AttributeType::Ints);
                attribute.ints = values;
            }
            OnnxAttribute::Text(text) => {
                attribute.set_type(proto::AttributeType::String);
                attribute.s = text.into_bytes();
            }
            OnnxAttribute::Tensor(tensor) => {
                attribute.set_type(proto::AttributeType::Tensor);
                attribute.t = Some(tensor_proto("", &tensor.tensor));
            }
        }
        attribute
    };
    proto::Node {
        input: node.inputs,
        output: node.outputs,
        name: node.name,
        op_type: node.operator,
        attribute: node.attributes.into_iter().map(attribute).collect(),
    }
}
