//! `incept look gradcam`

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use incept::Error;
use incept::look::{ActivationMap, GradCam};
use serde::Serialize;

use super::{Seen, Subject, name};
use crate::Result;
use crate::data::ImageArgs;
use crate::options::DeviceArgs;
use crate::plot::{INK, SOFT, check, head_color, save};
use crate::raster::{Heat, normalized};
use crate::report::{Reporter, shown};
use crate::tiles::{Tile, Tiles};

/// Plot Grad-CAM heat maps of the main and auxiliary heads for each image.
///
/// A head's heat map is computed from the last Inception block below it: 5b for main, 4a for aux1,
/// 4d for aux2. Yellow is the strongest evidence for the class, dark blue none. The heat maps of
/// the auxiliary heads have a higher resolution, but these heads are less accurate.
#[derive(Args, Debug)]
pub(super) struct Gradcam {
    /// Checkpoint, a run's folder (its best checkpoint), or `included`.
    checkpoint: PathBuf,
    /// Images, or folders of images.
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Class to explain [default: the main head's prediction].
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Plot only this head.
    #[arg(long, value_name = "NAME")]
    head: Option<HeadName>,
    /// File of the plot, .png or .svg.
    #[arg(
        short = 'o',
        long = "output",
        alias = "out",
        value_name = "FILE",
        default_value = "incept-gradcam.png"
    )]
    out: PathBuf,
    #[command(flatten)]
    loading: ImageArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HeadName {
    Main,
    Aux1,
    Aux2,
}

impl HeadName {
    fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Aux1 => "aux1",
            Self::Aux2 => "aux2",
        }
    }
}

#[derive(Serialize)]
struct Event<'a> {
    image: String,
    class: &'a str,
    heads: Vec<HeadEvent<'a>>,
    plot: &'a Path,
}

#[derive(Serialize)]
struct HeadEvent<'a> {
    head: &'static str,
    probability: f32,
    /// The class that this head predicts.
    top: &'a str,
    top_probability: f32,
    /// The heat map, row by row.
    map: Vec<&'a [f32]>,
}

impl Gradcam {
    pub(super) fn run(&self, reporter: &Reporter) -> Result {
        let device_args = &self.device;
        check(&self.out)?;
        let subject = Subject::load(&self.checkpoint)?;
        let class = self.class.as_deref().map(|name| subject.number(name)).transpose()?;
        let (seen, outcome) = subject.see(&self.images, &self.loading)?;
        let device = device_args.open()?;
        let mut gradcam =
            device.block_on(GradCam::new(&device, &subject.metadata.network, &subject.state))?;
        let shows = |head: &str| self.head.is_none_or(|wanted| wanted.name() == head);
        let heads: Vec<&'static str> = gradcam.heads().into_iter().filter(|h| shows(h)).collect();
        if heads.is_empty() {
            let reason = format!("{} has no auxiliary heads", shown(&self.checkpoint));
            return Err(Error::Config(reason));
        }
        let (heat, mut tiles) = (Heat::new(), Vec::new());
        let mut events = Vec::new();
        for one in &seen {
            let mut maps = device.block_on(gradcam.maps(&one.values, class))?;
            maps.retain(|m| heads.contains(&m.head));
            tiles.push(Tile { image: one.square.clone(), caption: vec![(name(&one.file), INK)] });
            tiles.extend(maps.iter().map(|map| tile(map, one, &subject, &heat)));
            events.push((one, maps));
        }
        let tiles = Tiles {
            title: "Grad-CAM heat maps per head".into(),
            subtitle: "yellow: strong evidence for the class, dark blue: none".into(),
            columns: heads.len() + 1,
            heads: std::iter::once(("image".to_string(), SOFT))
                .chain(heads.iter().map(|head| (heading(head), head_color(head))))
                .collect(),
            tile: 176,
            tiles,
        };
        save(&tiles, &self.out)?;
        for (one, maps) in &events {
            let probabilities: Vec<String> =
                maps.iter().map(|m| format!("{} {:.1}%", m.head, 100.0 * m.probability)).collect();
            let class = subject.class(maps.first().map_or(0, |m| m.class));
            reporter.line(&format!("{}  {class}: {}", shown(&one.file), probabilities.join("  ")))?;
            let heads = maps.iter().map(|m| HeadEvent {
                head: m.head,
                probability: m.probability,
                top: subject.class(m.top.0),
                top_probability: m.top.1,
                map: m.values.chunks(m.width.max(1)).collect(),
            });
            let image = shown(&one.file);
            reporter.event(&Event { image, class, heads: heads.collect(), plot: &self.out })?;
        }
        reporter.line(&format!("wrote {}", shown(&self.out)))?;
        Ok(outcome)
    }
}

/// The heading of a head's column.
fn heading(head: &str) -> String {
    let block = match head {
        "aux1" => "4a",
        "aux2" => "4d",
        _ => "5b",
    };
    format!("{head}, on {block}")
}

fn tile(map: &ActivationMap, one: &Seen, subject: &Subject, heat: &Heat) -> Tile {
    let values = normalized(&map.values);
    let mut caption = vec![(format!("{} {:.0}%", subject.label(map.class), 100.0 * map.probability), INK)];
    if map.top.0 != map.class {
        caption.push((format!("predicts {} {:.0}%", subject.label(map.top.0), 100.0 * map.top.1), SOFT));
    }
    if map.values.iter().all(|v| *v <= 0.0) {
        caption.push(("no evidence anywhere".to_string(), SOFT));
    }
    Tile { image: heat.over(&one.square, &values, map.width), caption }
}
