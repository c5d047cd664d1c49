//! The workload: the network, its initial weights and its batches, the same for all contenders.

use incept::data::Batch;
use incept::model::GoogLeNet;
use incept::tensor::HostTensor;
use incept::optim::TrainingState;

use crate::Result;

/// The seed of weights and images.
pub const SEED: u64 = 1;
/// The learning rate of every step.
pub const RATE: f32 = 0.01;
/// The momentum of every step.
pub const MOMENTUM: f32 = 0.9;
/// The weight decay of every step; biases have none.
pub const DECAY: f32 = 2e-4;

/// Pseudo-random values in [-1, 1].
pub fn noise(length: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = || {
        // Xorshift: sufficient for synthetic data.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..length).map(|_| draw()).collect()
}

/// A batch of noise with labels.
pub fn batch(network: &GoogLeNet, size: usize) -> Batch {
    let classes = network.classes as u32;
    Batch {
        images: noise(size * 3 * network.input * network.input, SEED),
        labels: (0..size as u32).map(|i| i * 7 % classes).collect(),
        count: size,
        indices: (0..size).collect(),
        mixed: None,
    }
}

/// incept's initial parameters, for the other contenders.
pub fn weights(network: &GoogLeNet) -> Result<TrainingState> {
    let graph = network.build(1)?.graph;
    let parameter = |(_, tensor, info): (_, &incept::graph::Tensor, &incept::graph::ParameterInfo)| {
        let mut data = vec![0.0; tensor.spec.shape.volume()];
        info.init.fill(SEED, &tensor.name, &mut data);
        (tensor.name.clone(), HostTensor { dims: tensor.spec.dims().to_vec(), data })
    };
    Ok(TrainingState { parameters: graph.parameters().map(parameter).collect(), ..TrainingState::default() })
}

/// The largest difference of two lists, relative to the largest value of the first.
pub fn difference(ours: &[f32], theirs: &[f32]) -> Result<f32> {
    if ours.len() != theirs.len() {
        return Err(format!("{} values against {}", ours.len(), theirs.len()).into());
    }
    let scale = ours.iter().fold(1e-12f32, |m, v| m.max(v.abs()));
    let worst = ours.iter().zip(theirs).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    // A NaN on either side would vanish in `max`.
    let finite = ours.iter().chain(theirs).all(|v| v.is_finite());
    Ok(if finite { worst / scale } else { f32::INFINITY })
}

/// Fails if two sides do not compute the same.
pub fn agree(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) -> Result<()> {
    let difference = difference(ours, theirs).map_err(|e| format!("{what}: {e}"))?;
    if difference > tolerance {
        return Err(format!("{what}: results differ by {difference:.1e}").into());
    }
    Ok(())
}
