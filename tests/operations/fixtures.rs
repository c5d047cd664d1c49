//! The goldens.

use std::collections::BTreeMap;

use incept::reference::Array;
use safetensors::{Dtype, SafeTensors};

/// The tensors of a golden file; labels become f32.
pub fn fixture(name: &str) -> BTreeMap<String, Array<f32>> {
    let path = format!("{}/tests/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{path}: {e}"));
    let array = |view: &safetensors::tensor::TensorView<'_>| {
        let data = match view.dtype() {
            Dtype::F32 => bytemuck::pod_collect_to_vec(view.data()),
            Dtype::I64 => {
                bytemuck::pod_collect_to_vec::<u8, i64>(view.data()).into_iter().map(|i| i as f32).collect()
            }
            other => panic!("{path}: unexpected {other:?}"),
        };
        Array::new(view.shape(), data)
    };
    file.tensors().iter().map(|(name, view)| (name.clone(), array(view))).collect()
}
