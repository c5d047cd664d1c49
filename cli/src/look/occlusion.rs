//! `incept look occlusion`

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use incept::infer::Classifier;
use incept::look::{Occlusion, OcclusionMap};
use incept::tensor::Element;
use serde::Serialize;

use super::{Subject, name};
use crate::Result;
use crate::data::ImageArgs;
use crate::numbers::whole;
use crate::options::DeviceArgs;
use crate::plot::{INK, SOFT, check, save};
use crate::raster::Heat;
use crate::report::{Rate, Reporter, shown};
use crate::tiles::{Tile, Tiles};

/// Plot occlusion maps: how much the probability of a class drops when a part of the image is
/// covered.
///
/// A square of the mean color slides over the image, and the map shows the drop at each position.
#[derive(Args, Debug)]
pub(super) struct OcclusionArgs {
    /// Checkpoint, a run's folder (its best checkpoint), `included` or `imagenet`.
    checkpoint: PathBuf,
    /// Images, or folders of images.
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Class to explain [default: the predicted one].
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Size of the square in pixels of the network's input [default: an eighth of the input].
    #[arg(long, value_name = "PIXELS", value_parser = whole::<usize>(1))]
    window: Option<usize>,
    /// Maximum distance between positions in pixels [default: half the square].
    #[arg(long, value_name = "PIXELS", value_parser = whole::<usize>(1))]
    stride: Option<usize>,
    /// Batch size.
    #[arg(short = 'b', long = "batch-size", alias = "batch", value_name = "COUNT", default_value_t = 32, value_parser = whole::<usize>(1))]
    batch: usize,
    /// File of the plot, .png or .svg.
    #[arg(
        short = 'o',
        long = "output",
        alias = "out",
        value_name = "FILE",
        default_value = "incept-occlusion.png"
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
    class: &'a str,
    probability: f32,
    window: usize,
    stride: usize,
    /// Drop of the probability at each position, row by row.
    map: Vec<&'a [f32]>,
    output: &'a Path,
}

impl OcclusionArgs {
    pub(super) fn run(&self, reporter: &Reporter) -> Result {
        let device_args = &self.device;
        check(&self.out)?;
        let subject = Subject::load(&self.checkpoint)?;
        let class = self.class.as_deref().map(|name| subject.number(name)).transpose()?;
        let (seen, outcome) = subject.see(&self.images, &self.loading)?;
        let network = &subject.metadata.network;
        let suited = Occlusion::suited(network.input);
        let window = self.window.unwrap_or(suited.window);
        let stride = self
            .stride
            .unwrap_or_else(|| if self.window.is_some() { window.div_ceil(2) } else { suited.stride });
        let occlusion = Occlusion { window, stride };
        let device = device_args.open()?;
        let mut classifier =
            device.block_on(Classifier::new(&device, network, self.batch, Element::F32, &subject.state))?;
        let (heat, mut tiles, mut maps) = (Heat::new(), Vec::new(), Vec::new());
        let per_image = occlusion.places(network.input).pow(2);
        {
            let mut bar = reporter.bar("occlusion", (per_image * seen.len()) as u64);
            let (mut rate, mut before) = (Rate::new(), 0);
            for one in &seen {
                let mut last = 0;
                let observe = |done: usize| {
                    rate.add(done - last);
                    last = done;
                    let left = rate.left(per_image * seen.len() - before - done);
                    bar.update((before + done) as u64, || {
                        format!("{:.0} positions/s  {left} left", rate.per_second())
                    });
                    ControlFlow::Continue(())
                };
                let map = occlusion.map(&mut classifier, &one.values, network.input, class, observe);
                maps.push(device.block_on(map)?);
                before += per_image;
            }
        }
        for (one, map) in seen.iter().zip(&maps) {
            let OcclusionMap { class, probability, side, drops } = map;
            let most = drops.iter().copied().fold(0.0, f32::max);
            // The color scale spans at least 10 percentage points: smaller drops are noise.
            let lost: Vec<f32> = drops.iter().map(|d| d.max(0.0) / most.max(0.1)).collect();
            let caption = vec![(format!("{} {:.0}%", subject.label(*class), 100.0 * probability), INK)];
            tiles.push(Tile { image: one.square.clone(), caption: vec![(name(&one.file), INK)] });
            tiles.push(Tile { image: heat.over(&one.square, &lost, *side), caption });
            let caption = vec![(format!("drops by up to {:.1} points", 100.0 * most), SOFT)];
            tiles.push(Tile { image: heat.map(&lost, *side), caption });
        }
        let heads = ["image", "overlay", "map"].map(|h| (h.to_string(), SOFT));
        let tiles = Tiles {
            title: "Occlusion maps".into(),
            subtitle: format!(
                "a square of {window} pixels, stride {stride}; yellow: largest drop of the probability"
            ),
            columns: 3,
            heads: heads.to_vec(),
            scale: None,
            tile: 176,
            tiles,
        };
        save(&tiles, &self.out)?;
        for (one, map) in seen.iter().zip(&maps) {
            let class = subject.class(map.class);
            let (probability, file) = (map.probability, shown(&one.file));
            let most = map.drops.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let (whole, lost) = (100.0 * probability, 100.0 * most);
            reporter.line(&format!("{file}  {class} {whole:.1}%, drops by up to {lost:.1} points"))?;
            let rows = map.drops.chunks(map.side.max(1)).collect();
            reporter.event(&Event {
                file,
                class,
                probability,
                window,
                stride,
                map: rows,
                output: &self.out,
            })?;
        }
        reporter.line(&format!("wrote {}", shown(&self.out)))?;
        Ok(outcome)
    }
}
