//! The filters of the first convolution as images, which is possible because its inputs are colors.

use crate::data::Image;
use crate::error::{Error, Result};
use crate::model::GoogLeNet;
use crate::optim::TrainingState;

/// The filters of the first convolution as images. Gray is zero; each filter is scaled by its
/// largest absolute weight.
///
/// # Errors
/// [`Error::Tensor`] if the weights lack this layer.
pub fn filters(network: &GoogLeNet, weights: &TrainingState) -> Result<Vec<Image>> {
    let net = network.build(1)?;
    let missing = || Error::tensor("data", "no layer reads it");
    let (_, first) = net.graph.nodes().find(|(_, n)| n.inputs.contains(&net.input)).ok_or_else(missing)?;
    let name = &net.graph.tensor(*first.inputs.get(1).ok_or_else(missing)?).name;
    let tensor = weights.parameters.get(name);
    let tensor = tensor.ok_or_else(|| Error::tensor(name, "is missing from the weights"))?;
    let [count, 3, height, width] = tensor.dims[..] else {
        return Err(Error::tensor(name, "must have the extents filters x 3 x height x width"));
    };
    let filter = |weights: &[f32]| {
        let largest = weights.iter().fold(f32::MIN_POSITIVE, |most, w| most.max(w.abs()));
        let plane = height * width;
        let value = |i: usize| (127.5 + 127.5 * weights[i % 3 * plane + i / 3] / largest).round() as u8;
        Image { width, height, channels: 3, pixels: (0..3 * plane).map(value).collect() }
    };
    Ok(tensor.data.chunks_exact(3 * height * width).take(count).map(filter).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::HostTensor;

    #[test]
    fn filters_are_scaled_to_colors() {
        let network = GoogLeNet::paper().width(0.03).classes(2).input(32);
        let mut data = vec![0.0; 2 * 3 * 49];
        // The first filter: red at its first place, against blue at its last.
        data[0] = 0.5;
        data[3 * 49 - 1] = -0.25;
        let mut weights = TrainingState::default();
        let tensor = HostTensor { dims: vec![2, 3, 7, 7], data };
        weights.parameters.insert("conv1/7x7_s2.weight".into(), tensor);
        let images = filters(&network, &weights).expect("two filters");
        assert_eq!((images.len(), images[0].width), (2, 7));
        assert_eq!(images[0].pixels[..3], [255, 128, 128]);
        assert_eq!(images[0].pixels[3 * 48..], [128, 128, 64]);
        let error = filters(&network, &TrainingState::default()).expect_err("no weights");
        assert!(error.to_string().contains("conv1/7x7_s2.weight"), "{error}");
    }
}
