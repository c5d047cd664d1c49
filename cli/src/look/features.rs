//! `incept look features`

use std::path::{Path, PathBuf};

use clap::Args;
use incept::Error;
use incept::look::Features;
use serde::Serialize;

use super::{Subject, name};
use crate::data::ImageArgs;
use crate::numbers::whole;
use crate::options::DeviceArgs;
use crate::plot::{INK, SOFT, check, save};
use crate::raster::{Heat, normalized};
use crate::report::{Reporter, plural, shown};
use crate::tiles::{Tile, Tiles};
use crate::{Outcome, Result};

/// Plot the feature maps of a layer for an image, the channels with the highest activations first.
///
/// Each channel is normalized separately: yellow is its maximum. Layer names are those of `incept
/// summary`; convolutions are shown after their ReLU.
#[derive(Args, Debug)]
pub(super) struct FeaturesArgs {
    /// Checkpoint, a run's folder (its best checkpoint), `included` or `imagenet`.
    checkpoint: PathBuf,
    /// Image.
    image: PathBuf,
    /// Layer, for example `conv1/7x7_s2` or `inception_4a/output`.
    #[arg(long, value_name = "NAME", default_value = "inception_3a/output")]
    layer: String,
    /// Maximum number of channels to plot.
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = whole::<usize>(1))]
    most: usize,
    /// File of the plot, .png or .svg.
    #[arg(
        short = 'o',
        long = "output",
        alias = "out",
        value_name = "FILE",
        default_value = "incept-features.png"
    )]
    out: PathBuf,
    #[command(flatten)]
    loading: ImageArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Serialize)]
struct Event<'a> {
    file: String,
    layer: &'a str,
    channels: usize,
    height: usize,
    width: usize,
    /// Number of channels that are zero everywhere.
    silent: usize,
    /// The largest activation of each channel.
    largest: Vec<f32>,
    output: &'a Path,
}

impl FeaturesArgs {
    pub(super) fn run(&self, reporter: &Reporter) -> Result {
        let device_args = &self.device;
        check(&self.out)?;
        let subject = Subject::load(&self.checkpoint)?;
        let (seen, _) = subject.see(std::slice::from_ref(&self.image), &self.loading)?;
        if seen.len() > 1 {
            let what = shown(&self.image);
            let reason = format!("{what} has {} images: features are plotted for one image", seen.len());
            return Err(Error::Config(reason));
        }
        let device = device_args.open()?;
        let features = Features::new(&device, &subject.metadata.network, &self.layer, &subject.state);
        let mut features = device.block_on(features)?;
        let heat = Heat::new();
        for one in &seen {
            let maps = device.block_on(features.maps(&one.values))?;
            let plane = (maps.height * maps.width).max(1);
            let most = |values: &[f32]| values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let largest: Vec<f32> = maps.values.chunks(plane).map(most).collect();
            let mut order: Vec<usize> = (0..maps.channels).collect();
            order.sort_by(|a, b| largest[*b].total_cmp(&largest[*a]));
            let channel = |c: &usize| Tile {
                image: heat.map(&normalized(&maps.values[c * plane..(c + 1) * plane]), maps.width),
                caption: vec![(format!("#{c}, to {:.2}", largest[*c]), SOFT)],
            };
            let mut tiles = vec![Tile { image: one.square.clone(), caption: vec![(name(&one.file), INK)] }];
            tiles.extend(order.iter().take(self.most).map(channel));
            let silent = largest.iter().filter(|l| **l <= 0.0).count();
            let shown_count = tiles.len() - 1;
            let tiles = Tiles {
                title: format!("Feature maps of {}", self.layer),
                subtitle: format!(
                    "{shown_count} of {} of {} x {}, by maximum activation; {silent} zero everywhere",
                    plural(maps.channels as u64, "channel"),
                    maps.height,
                    maps.width
                ),
                columns: 11,
                heads: Vec::new(),
                scale: None,
                tile: 84,
                tiles,
            };
            save(&tiles, &self.out)?;
            let file = shown(&one.file);
            reporter.line(&format!(
                "{file}  {}: {} of {} x {}, {silent} zero everywhere; wrote {}",
                self.layer,
                plural(maps.channels as u64, "channel"),
                maps.height,
                maps.width,
                shown(&self.out)
            ))?;
            reporter.event(&Event {
                file,
                layer: &self.layer,
                channels: maps.channels,
                height: maps.height,
                width: maps.width,
                silent,
                largest,
                output: &self.out,
            })?;
        }
        Ok(Outcome::Done)
    }
}
