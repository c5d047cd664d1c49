//! Numbers of the host as a tensor's bytes, and back.

use half::f16;

use crate::graph::Element;

/// The bytes that f32 values are stored as; whole numbers where the elements are u32.
pub(super) fn encode(element: Element, values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    let values = values.into_iter();
    match element {
        Element::F32 => values.flat_map(f32::to_le_bytes).collect(),
        Element::F16 => values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
        Element::U32 => values.flat_map(|v| (v as u32).to_le_bytes()).collect(),
    }
}

/// The values that bytes stand for: what [`encode`] made, rounded to the element.
pub(super) fn decode(element: Element, bytes: &[u8]) -> Vec<f32> {
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
    fn values_come_back_rounded_to_their_element() {
        let values = [0.0, -1.5, 0.1, 70_000.0, 6e-8];
        for (element, expected) in [
            (Element::F32, values),
            (Element::F16, [0.0, -1.5, 0.099_975_586, f32::INFINITY, 5.960_464_5e-8]),
            (Element::U32, [0.0, 0.0, 0.0, 70_000.0, 0.0]),
        ] {
            let bytes = encode(element, values);
            assert_eq!(bytes.len(), values.len() * element.size());
            assert_eq!(decode(element, &bytes), expected);
        }
    }
}
