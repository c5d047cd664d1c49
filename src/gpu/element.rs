//! Conversion between f32 on the host and a tensor's stored bytes.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::tensor::Element;

/// Values in storage format.
#[derive(Debug)]
pub(crate) enum Encoded<'a> {
    F32(&'a [f32]),
    F16(Vec<f16>),
    U32(Vec<u32>),
}

impl Encoded<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::F16(values) => bytemuck::cast_slice(values),
            Self::U32(values) => bytemuck::cast_slice(values),
        }
    }
}

/// Encodes f32 values as `element`; for u32 they must be integers.
pub(crate) fn encode(element: Element, values: &[f32]) -> Encoded<'_> {
    match element {
        Element::F32 => Encoded::F32(values),
        Element::F16 => {
            let mut rounded = vec![f16::ZERO; values.len()];
            round(values, &mut rounded);
            Encoded::F16(rounded)
        }
        Element::U32 => Encoded::U32(values.iter().map(|v| *v as u32).collect()),
    }
}

/// On all cores: a single core rounds a batch more slowly than a GPU processes it.
#[cfg(not(target_arch = "wasm32"))]
fn round(values: &[f32], rounded: &mut [f16]) {
    use rayon::iter::{IndexedParallelIterator, ParallelIterator};
    use rayon::slice::{ParallelSlice, ParallelSliceMut};
    const CHUNK: usize = 1 << 16;
    let chunks = rounded.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK));
    chunks.for_each(|(to, from)| to.convert_from_f32_slice(from));
}

#[cfg(target_arch = "wasm32")]
fn round(values: &[f32], rounded: &mut [f16]) {
    rounded.convert_from_f32_slice(values);
}

/// Decodes bytes of [`encode`]; the values are rounded to `element`.
pub(crate) fn decode(element: Element, bytes: &[u8]) -> Vec<f32> {
    match element {
        Element::F32 => bytemuck::pod_collect_to_vec(bytes),
        Element::F16 => bytemuck::pod_collect_to_vec::<u8, f16>(bytes).into_iter().map(f16::to_f32).collect(),
        Element::U32 => {
            bytemuck::pod_collect_to_vec::<u8, u32>(bytes).into_iter().map(|v| v as f32).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encode_decode_rounds_to_the_element_type() {
        let values = [0.0, -1.5, 0.1, 70_000.0, 6e-8];
        for (element, expected) in [
            (Element::F32, values),
            (Element::F16, [0.0, -1.5, 0.099_975_586, f32::INFINITY, 5.960_464_5e-8]),
            (Element::U32, [0.0, 0.0, 0.0, 70_000.0, 0.0]),
        ] {
            let encoded = encode(element, &values);
            assert_eq!(encoded.bytes().len(), values.len() * element.size());
            assert_eq!(decode(element, encoded.bytes()), expected);
        }
    }
}
