//! The messages of `onnx.proto` for networks without control flow. Fields that are not listed are
//! skipped when reading.

use prost::{Enumeration, Message};

use super::{OnnxAttribute, OnnxNode};
use crate::formats::wire::{self, Field};

/// `ModelProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Model {
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSet>,
    #[prost(string, tag = "2")]
    pub producer_name: String,
    #[prost(string, tag = "3")]
    pub producer_version: String,
    #[prost(string, tag = "6")]
    pub doc_string: String,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringEntry>,
}

/// `OperatorSetIdProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct OperatorSet {
    #[prost(string, tag = "1")]
    pub domain: String,
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// `StringStringEntryProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StringEntry {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
}

/// `NodeProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
}

/// `AttributeProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(enumeration = "AttributeType", tag = "20")]
    pub r#type: i32,
    #[prost(float, tag = "2")]
    pub f: f32,
    #[prost(int64, tag = "3")]
    pub i: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub t: Option<Tensor>,
    /// The branch of an `If`.
    #[prost(message, optional, boxed, tag = "6")]
    pub g: Option<Box<Graph>>,
    #[prost(float, repeated, tag = "7")]
    pub floats: Vec<f32>,
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
}

/// `AttributeProto.AttributeType`; files of the first version of the format do not set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum AttributeType {
    Undefined = 0,
    Float = 1,
    Int = 2,
    String = 3,
    Tensor = 4,
    Floats = 6,
    Ints = 7,
}

/// `TensorProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub name: String,
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringEntry>,
    /// 1 if the elements are external data.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

/// `ValueInfoProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueInfo {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<Type>,
}

/// `TypeProto`, of a tensor.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Type {
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
}

/// `TypeProto.Tensor`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorType {
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// `TensorShapeProto.Dimension`: a number or a name.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Dimension {
    #[prost(oneof = "Extent", tags = "1, 2")]
    pub value: Option<Extent>,
}

/// Value of a dimension.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Extent {
    #[prost(int64, tag = "1")]
    Value(i64),
    #[prost(string, tag = "2")]
    Name(String),
}

/// `TensorProto.DataType` of f32.
pub(super) const FLOAT: i32 = 1;

/// Memory per message, for [`wire::check`]: the struct and what it is converted to. Keep in sync
/// with the fields of the structs above.
pub(super) static MODEL: wire::Shape = wire::Shape {
    bytes: size_of::<Model>(),
    fields: &[
        (2, Field::Text),
        (3, Field::Text),
        (6, Field::Text),
        (7, Field::Message(&GRAPH)),
        (8, Field::Message(&OPERATOR_SET)),
        (14, Field::Message(&STRING_ENTRY)),
    ],
};
static OPERATOR_SET: wire::Shape =
    wire::Shape { bytes: size_of::<OperatorSet>(), fields: &[(1, Field::Text)] };
static STRING_ENTRY: wire::Shape =
    wire::Shape { bytes: size_of::<StringEntry>(), fields: &[(1, Field::Text), (2, Field::Text)] };
static GRAPH: wire::Shape = wire::Shape {
    bytes: size_of::<Graph>(),
    fields: &[
        (1, Field::Message(&NODE)),
        (2, Field::Text),
        (5, Field::Message(&TENSOR)),
        (11, Field::Message(&VALUE_INFO)),
        (12, Field::Message(&VALUE_INFO)),
    ],
};
static NODE: wire::Shape = wire::Shape {
    bytes: size_of::<Node>() + size_of::<OnnxNode>(),
    fields: &[
        (1, Field::Text),
        (2, Field::Text),
        (3, Field::Text),
        (4, Field::Text),
        (5, Field::Message(&ATTRIBUTE)),
    ],
};
/// A map with one attribute allocates room for eleven.
static ATTRIBUTE: wire::Shape = wire::Shape {
    bytes: size_of::<Attribute>() + 11 * size_of::<(String, OnnxAttribute)>(),
    fields: &[
        (1, Field::Text),
        (4, Field::Text),
        (5, Field::Message(&TENSOR)),
        (6, Field::Message(&GRAPH)),
        (7, Field::Numbers(4)),
        (8, Field::Numbers(8)),
    ],
};
static TENSOR: wire::Shape = wire::Shape {
    bytes: 2 * size_of::<Tensor>(),
    fields: &[
        (1, Field::Numbers(8)),
        (4, Field::Numbers(4)),
        (5, Field::Numbers(4)),
        (7, Field::Numbers(8)),
        (8, Field::Text),
        (9, Field::Text),
        (10, Field::Numbers(8)),
        (13, Field::Message(&STRING_ENTRY)),
    ],
};
static VALUE_INFO: wire::Shape =
    wire::Shape { bytes: size_of::<ValueInfo>(), fields: &[(1, Field::Text), (2, Field::Message(&TYPE))] };
static TYPE: wire::Shape =
    wire::Shape { bytes: size_of::<Type>(), fields: &[(1, Field::Message(&TENSOR_TYPE))] };
static TENSOR_TYPE: wire::Shape =
    wire::Shape { bytes: size_of::<TensorType>(), fields: &[(2, Field::Message(&TENSOR_SHAPE))] };
static TENSOR_SHAPE: wire::Shape =
    wire::Shape { bytes: size_of::<Shape>(), fields: &[(1, Field::Message(&DIMENSION))] };
static DIMENSION: wire::Shape = wire::Shape { bytes: size_of::<Dimension>(), fields: &[(2, Field::Text)] };
