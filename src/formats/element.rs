//! Element types of weight files; all are converted to f32.

/// An element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// 64-bit floating point.
    F64,
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point, IEEE 754.
    F16,
    /// 16-bit floating point with the exponent of f32.
    Bf16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// Boolean, one byte.
    Bool,
}

impl Stored {
    /// The safetensors name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::Bool => "bool",
        }
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Converts little-endian elements to f32. An incomplete last element is ignored.
    pub fn floats(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F64 => convert(bytes, |b| f64::from_le_bytes(b) as f32),
            Self::F32 => convert(bytes, f32::from_le_bytes),
            Self::F16 => convert(bytes, |b| half::f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => convert(bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
            Self::I64 => convert(bytes, |b| i64::from_le_bytes(b) as f32),
            Self::I32 => convert(bytes, |b| i32::from_le_bytes(b) as f32),
            Self::I16 => convert(bytes, |b| f32::from(i16::from_le_bytes(b))),
            Self::I8 => convert(bytes, |b| f32::from(i8::from_le_bytes(b))),
            Self::U8 | Self::Bool => bytes.iter().map(|b| f32::from(*b)).collect(),
        }
    }
}

fn convert<const N: usize>(bytes: &[u8], to: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| to(*chunk)).collect()
}
