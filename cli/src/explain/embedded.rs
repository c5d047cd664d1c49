//! Gradient flow in another program, with the command's options.

use incept::checkpoint::Checkpoint;
use incept::device::Device;
use incept::explain::GradientFlow;
use incept::{Error, Result};
use serde::Deserialize;

use super::{Explain, Subject};
use crate::data::{IN_MEMORY, LoadArgs, Source};
use crate::options::{DeviceArgs, NetworkArgs, PixelArgs};
use crate::shared::configured;

/// What to measure the gradients of.
#[derive(Clone, Debug, Default)]
pub struct FlowOptions {
    /// The options of `incept explain`: the sections network, pixels and load of a configuration,
    /// and `data`.
    pub config: serde_json::Value,
    /// Images in memory, in place of `data`.
    pub source: Option<Source>,
    /// A trained network; `None` for a freshly initialized one.
    pub checkpoint: Option<Checkpoint>,
    /// Batch size; `None` for 128.
    pub batch: Option<usize>,
    /// Seed of initialization, shuffling and dropout.
    pub seed: u64,
}

/// The sections of `config`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sections {
    data: Option<String>,
    network: NetworkArgs,
    pixels: PixelArgs,
    load: LoadArgs,
}

/// The gradient of each head's loss at each layer, for one batch.
///
/// # Errors
/// As `incept explain`: [`Error::Config`] naming an option, and errors of data and device.
pub fn gradient_flow(device: &Device, options: FlowOptions) -> Result<GradientFlow> {
    let Sections { data, network, pixels, load } = configured(options.config)?;
    if options.batch == Some(0) {
        return Err(Error::Config("--batch-size must be an integer, at least 1, not 0".into()));
    }
    if options.checkpoint.is_some() && (network != NetworkArgs::default() || pixels != PixelArgs::default()) {
        return Err(Error::Config("the network and its preprocessing come with the weights".into()));
    }
    let data = if options.source.is_some() { Some(IN_MEMORY.into()) } else { data };
    let command = Explain {
        data,
        checkpoint: None,
        network,
        batch: options.batch,
        seed: options.seed,
        out: Vec::new(),
        train: false,
        story: false,
        epochs: 0,
        seeds: 0,
        lr: 0.0,
        limit: None,
        val_split: None,
        pixels,
        load,
        device: DeviceArgs::default(),
        source: options.source,
    };
    command.load.set_limit()?;
    let Subject { network, weights, batch, .. } = command.subject(options.checkpoint)?;
    device.block_on(GradientFlow::measure(device, &network, weights.as_ref(), options.seed, &batch))
}
