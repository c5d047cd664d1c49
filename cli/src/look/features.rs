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
use crate::report::{Reporter, shown};
use crate::tiles::{Tile, Tiles};
use crate::{Outcome, Result};

/// Draw the channels of a layer for an image, the strongest first.
///
/// Each channel is scaled by itself: yellow is where it answers most. Layers are called as `incept
/// summary` calls them; a convolution is seen after its ReLU.
#[derive(Args, Debug)]
pub(super) struct FeaturesArgs {
    /// The checkpoint, a run's folder (its best one), or `included`: what comes with incept.
    checkpoint: PathBuf,
    /// The image.
    image: PathBuf,
    /// The layer, for example `conv1/7x7_s2` or `inception_4a/output`.
    #[arg(long, value_name = "NAME", default_value = "inception_3a/output")]
    layer: String,
    /// How many channels at most.
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = whole::<usize>(1))]
    most: usize,
    /// The figure, .png or .svg.
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
    image: String,
    layer: &'a str,
    channels: usize,
    height: usize,
    width: usize,
    /// Channels that answer nowhere.
    silent: usize,
    /// The largest activation of each channel.
    largest: Vec<f32>,
    plot: &'a Path,
}

impl FeaturesArgs {
    pub(super) fn run(&self, reporter: &Reporter) -> Result {
        let device = &self.device;
        check(&self.out)?;
        let subject = Subject::load(&self.checkpoint)?;
        let (seen, _) = subject.see(std::slice::from_ref(&self.image), &self.loading)?;
        if seen.len() > 1 {
            let what = shown(&self.image);
            let reason = format!("{what} has {} images, and the layer is drawn for one: name it", seen.len());
            return Err(Error::Config(reason));
        }
        let gpu = device.open()?;
        let features = Features::new(&gpu, &subject.metadata.network, &self.layer, &subject.state);
        let mut features = gpu.block_on(features)?;
        let heat = Heat::new();
        for one in &seen {
            let maps = gpu.block_on(features.maps(&one.values))?;
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
                title: format!("What {} answers to", self.layer),
                subtitle: format!(
                    "{shown_count} of {} channels of {} x {}, the strongest first; {silent} answer nowhere",
                    maps.channels, maps.height, maps.width
                ),
                columns: 11,
                heads: Vec::new(),
                tile: 84,
                tiles,
            };
            save(&tiles, &self.out)?;
            let image = shown(&one.file);
            reporter.line(&format!(
                "{image}  {}: {} channels of {} x {}, {silent} answer nowhere; drew {}",
                self.layer,
                maps.channels,
                maps.height,
                maps.width,
                shown(&self.out)
            ))?;
            reporter.event(&Event {
                image,
                layer: &self.layer,
                channels: maps.channels,
                height: maps.height,
                width: maps.width,
                silent,
                largest,
                plot: &self.out,
            })?;
        }
        Ok(Outcome::Done)
    }
}
