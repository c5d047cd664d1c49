//! Reading ONNX models as nodes and tensors, and writing them from a graph.

mod external;
mod operations;
mod proto;
mod write;

pub use write::{ExportOptions, write};
use write::{OnnxExport, int, ints};

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;

use super::{FileTensor, HostTensor, Stored, wire};
use crate::text::plural;
use external::External;
use proto::AttributeType;

/// The graph of an ONNX model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OnnxGraph {
    /// Producer name and version.
    pub producer: String,
    /// Operator set version.
    pub opset: i64,
    /// Nodes in topological order.
    pub nodes: Vec<OnnxNode>,
    /// Initializers and constants, by name.
    pub initializers: BTreeMap<String, FileTensor>,
    /// Inputs: names and dimensions; `None` for dynamic ones.
    pub inputs: Vec<(String, Vec<Option<usize>>)>,
    /// Names of the outputs.
    pub outputs: Vec<String>,
    /// Metadata properties.
    pub metadata: BTreeMap<String, String>,
}

/// A node of an ONNX graph.
#[derive(Clone, Debug, PartialEq)]
pub struct OnnxNode {
    /// Operator, for example `Conv`.
    pub operator: String,
    /// Name; may be empty.
    pub name: String,
    /// Names of input values; empty for an omitted optional input.
    pub inputs: Vec<String>,
    /// Names of output values.
    pub outputs: Vec<String>,
    /// Attributes by name.
    pub attributes: BTreeMap<String, OnnxAttribute>,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum OnnxAttribute {
    /// `FLOAT`.
    Float(f32),
    /// `INT`.
    Int(i64),
    /// `INTS`.
    Ints(Vec<i64>),
    /// `STRING`, as UTF-8.
    Text(String),
    /// `TENSOR`.
    Tensor(FileTensor),
}

impl OnnxNode {
    /// An integer attribute, or the operator's default.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.attributes.get(name) {
            Some(OnnxAttribute::Int(value)) => *value,
            _ => default,
        }
    }

    /// A float attribute, or the operator's default.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        match self.attributes.get(name) {
            Some(OnnxAttribute::Float(value)) => *value,
            _ => default,
        }
    }

    /// An integer list attribute; empty if missing.
    pub fn ints(&self, name: &str) -> &[i64] {
        match self.attributes.get(name) {
            Some(OnnxAttribute::Ints(values)) => values,
            _ => &[],
        }
    }

    /// A string attribute; empty if missing.
    pub fn text(&self, name: &str) -> &str {
        match self.attributes.get(name) {
            Some(OnnxAttribute::Text(text)) => text,
            _ => "",
        }
    }
}

/// Reads the model at `path` from its content. External data is read only from the model's folder.
///
/// # Errors
/// The reason, with the tensor's name where known.
pub(super) fn read(bytes: &[u8], path: &Path) -> Result<OnnxGraph, String> {
    wire::check(bytes, &proto::MODEL)?;
    let model = proto::Model::decode(bytes).map_err(|e| format!("is not a complete ONNX model: {e}"))?;
    let graph = model.graph.ok_or("is an ONNX model without a graph")?;
    let mut external = External::beside(path);
    let mut initializers = BTreeMap::new();
    for tensor in graph.initializer {
        let name = tensor.name.clone();
        let read = tensor_of(tensor, &mut external).map_err(|reason| format!("tensor `{name}` {reason}"))?;
        // A tensor of an unsupported type (string, complex) cannot be a weight.
        initializers.extend(read.map(|tensor| (name, tensor)));
    }
    let mut nodes = Vec::new();
    for node in graph.node {
        let node = branched(&node).unwrap_or(node);
        let mut attributes = BTreeMap::new();
        for attribute in node.attribute {
            let name = attribute.name.clone();
            let value = attribute_of(attribute, &mut external)
                .map_err(|reason| format!("attribute `{name}` of node `{}` {reason}", node.name))?;
            attributes.extend(value.map(|value| (name, value)));
        }
        let (operator, name) = (node.op_type, node.name);
        let node = OnnxNode { operator, name, inputs: node.input, outputs: node.output, attributes };
        match (node.operator.as_str(), constant(&node), node.outputs.first()) {
            ("Constant", Some(value), Some(output)) => drop(initializers.insert(output.clone(), value)),
            _ => nodes.push(node),
        }
    }
    let inputs = graph.input.into_iter().filter(|value| !initializers.contains_key(&value.name));
    let inputs = inputs.map(|value| {
        let shape = value.r#type.and_then(|t| t.tensor_type).and_then(|t| t.shape).unwrap_or_default();
        let extent = |dim: proto::Dimension| match dim.value {
            Some(proto::Extent::Value(value)) => usize::try_from(value).ok().filter(|value| *value > 0),
            _ => None,
        };
        (value.name, shape.dim.into_iter().map(extent).collect())
    });
    Ok(OnnxGraph {
        producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_string(),
        opset: model.opset_import.iter().find(|set| set.domain.is_empty()).map_or(1, |set| set.version),
        inputs: inputs.collect(),
        outputs: graph.output.into_iter().map(|value| value.name).collect(),
        metadata: model.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect(),
        nodes,
        initializers,
    })
}

/// Converts an `If` whose branches differ only by a `Squeeze` to that `Squeeze`: PyTorch exports
/// `squeeze` of a value with unknown dimensions that way. `None` for any other node.
fn branched(node: &proto::Node) -> Option<proto::Node> {
    if node.op_type != "If" {
        return None;
    }
    let branch = |name: &str| {
        let graph = node.attribute.iter().find(|attribute| attribute.name == name)?.g.as_ref()?;
        let mut nodes = graph.node.iter().filter(|node| node.op_type != "Constant");
        let only = nodes.next().filter(|_| nodes.next().is_none())?;
        matches!(only.op_type.as_str(), "Squeeze" | "Identity").then_some(only.input.first()?)
    };
    let from = branch("then_branch").filter(|from| branch("else_branch") == Some(*from))?;
    Some(proto::Node {
        op_type: "Squeeze".into(),
        input: vec![from.clone()],
        output: node.output.clone(),
        name: node.name.clone(),
        attribute: Vec::new(),
    })
}

/// The value of a `Constant` node.
fn constant(node: &OnnxNode) -> Option<FileTensor> {
    let tensor = |stored, dims, data| FileTensor { stored, tensor: HostTensor { dims, data } };
    node.attributes.values().find_map(|attribute| match attribute {
        OnnxAttribute::Tensor(tensor) => Some(tensor.clone()),
        OnnxAttribute::Float(value) => Some(tensor(Stored::F32, Vec::new(), vec![*value])),
        OnnxAttribute::Int(value) => Some(tensor(Stored::I64, Vec::new(), vec![*value as f32])),
        OnnxAttribute::Ints(values) => {
            Some(tensor(Stored::I64, vec![values.len()], values.iter().map(|v| *v as f32).collect()))
        }
        OnnxAttribute::Text(_) => None,
    })
}

fn attribute_of(
    attribute: proto::Attribute,
    external: &mut External<'_>,
) -> Result<Option<OnnxAttribute>, String> {
    // Version 1 of the format has no attribute types, so the type is guessed from the set field.
    let guessed = match &attribute {
        a if a.t.is_some() => AttributeType::Tensor,
        a if !a.ints.is_empty() => AttributeType::Ints,
        a if !a.floats.is_empty() => AttributeType::Floats,
        a if !a.s.is_empty() => AttributeType::String,
        a if a.f != 0.0 => AttributeType::Float,
        _ => AttributeType::Int,
    };
    let kind = match AttributeType::try_from(attribute.r#type) {
        Ok(AttributeType::Undefined) => guessed,
        Ok(kind) => kind,
        Err(_) => return Ok(None),
    };
    Ok(match (kind, attribute.t) {
        (AttributeType::Float, _) => Some(OnnxAttribute::Float(attribute.f)),
        (AttributeType::Int, _) => Some(OnnxAttribute::Int(attribute.i)),
        (AttributeType::String, _) => {
            Some(OnnxAttribute::Text(String::from_utf8_lossy(&attribute.s).into_owned()))
        }
        (AttributeType::Ints, _) => Some(OnnxAttribute::Ints(attribute.ints)),
        (AttributeType::Floats, _) => {
            let tensor = HostTensor { dims: vec![attribute.floats.len()], data: attribute.floats };
            Some(OnnxAttribute::Tensor(FileTensor { stored: Stored::F32, tensor }))
        }
        (AttributeType::Tensor, Some(tensor)) => tensor_of(tensor, external)?.map(OnnxAttribute::Tensor),
        (AttributeType::Tensor | AttributeType::Undefined, _) => None,
    })
}

/// `TensorProto.DataType` by number.
fn element(data_type: i32) -> Option<Stored> {
    Some(match data_type {
        1 => Stored::F32,
        2 => Stored::U8,
        3 => Stored::I8,
        5 => Stored::I16,
        6 => Stored::I32,
        7 => Stored::I64,
        9 => Stored::Bool,
        10 => Stored::F16,
        11 => Stored::F64,
        16 => Stored::Bf16,
        _ => return None,
    })
}

/// Converts a tensor; `None` if its type is not supported.
fn tensor_of(tensor: proto::Tensor, external: &mut External<'_>) -> Result<Option<FileTensor>, String> {
    let Some(stored) = element(tensor.data_type) else { return Ok(None) };
    let dims: Option<Vec<usize>> = tensor.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
    let dims = dims.ok_or("has negative dimensions")?;
    let volume = dims.iter().try_fold(1usize, |volume, dim| volume.checked_mul(*dim));
    let length = volume.and_then(|volume| volume.checked_mul(stored.size()));
    let (Some(volume), Some(length)) = (volume, length) else { return Err("is too large".into()) };
    let data = if tensor.data_location == 1 {
        stored.floats(&external.read(&tensor.external_data, length)?)
    } else if !tensor.raw_data.is_empty() {
        stored.floats(&tensor.raw_data)
    } else {
        match stored {
            Stored::F32 => tensor.float_data,
            Stored::F64 => tensor.double_data.iter().map(|v| *v as f32).collect(),
            Stored::I64 => tensor.int64_data.iter().map(|v| *v as f32).collect(),
            // f16 and bf16 elements are stored as the integers with the same bits.
            Stored::F16 | Stored::Bf16 => {
                let bytes = tensor.int32_data.iter().flat_map(|v| (*v as u16).to_le_bytes());
                stored.floats(&bytes.collect::<Vec<_>>())
            }
            _ => tensor.int32_data.iter().map(|v| *v as f32).collect(),
        }
    };
    if data.len() != volume {
        return Err(format!("has {}, but its dimensions need {volume}", plural(data.len(), "element")));
    }
    Ok(Some(FileTensor { stored, tensor: HostTensor { dims, data } }))
}
