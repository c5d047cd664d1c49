//! `incept look gradcam`

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use incept::Error;
use incept::look::{ActivationMap, CamMethod, GradCam};
use serde::Serialize;

use super::{Seen, Subject, name};
use crate::Result;
use crate::data::ImageArgs;
use crate::options::DeviceArgs;
use crate::plot::{INK, SOFT, check, head_color, save};
use crate::pretrained::note_untrained_heads;
use crate::raster::{Heat, from_zero};
use crate::report::{Reporter, shown};
use crate::tiles::{Tile, Tiles};

/// Plot heat maps (HiResCAM, or Grad-CAM) of the main and auxiliary heads for each image.
///
/// A head's heat map is computed from the last Inception block below it: 5b for main, 4a for aux1,
/// 4d for aux2. Dark blue is no evidence for the class, yellow the map's maximum, which is printed
/// in units of the logit: maps of small maxima show weak evidence. The heat maps of the auxiliary
/// heads have a higher resolution, but these heads are less accurate.
#[derive(Args, Debug)]
pub(super) struct Gradcam {
    /// Checkpoint, a run's folder (its best checkpoint), `included` or `imagenet`.
    checkpoint: PathBuf,
    /// Images, or folders of images.
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Class to explain [default: the main head's prediction].
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// How the gradient weights the channels.
    #[arg(long, value_name = "NAME", default_value = "hirescam")]
    method: MethodName,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MethodName {
    /// Activation times gradient at each position: faithful for the main head.
    Hirescam,
    /// Gradients averaged over positions: maps of auxiliary heads may be blank or misleading.
    Gradcam,
}

impl MethodName {
    fn method(self) -> CamMethod {
        match self {
            Self::Hirescam => CamMethod::HiResCam,
            Self::Gradcam => CamMethod::GradCam,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hirescam => "hirescam",
            Self::Gradcam => "gradcam",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Hirescam => "HiResCAM heat maps per head",
            Self::Gradcam => "Grad-CAM heat maps per head",
        }
    }
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
    file: String,
    class: &'a str,
    /// `hirescam` or `gradcam`.
    method: &'static str,
    heads: Vec<HeadEvent<'a>>,
    output: &'a Path,
}

#[derive(Serialize)]
struct HeadEvent<'a> {
    head: &'static str,
    probability: f32,
    /// The class that this head predicts.
    top: &'a str,
    top_probability: f32,
    /// Its logit for the class.
    logit: f32,
    /// Sum of the map before the ReLU; HiResCAM: the logit minus the bias, for the main head.
    sum: f32,
    /// The map's maximum, in units of the logit.
    maximum: f32,
    /// The heat map, row by row.
    map: Vec<&'a [f32]>,
}

impl Gradcam {
    pub(super) fn run(&self, reporter: &Reporter) -> Result {
        let device_args = &self.device;
        check(&self.out)?;
        let subject = Subject::load(&self.checkpoint)?;
        if self.head != Some(HeadName::Main) {
            note_untrained_heads(&self.checkpoint);
        }
        let class = self.class.as_deref().map(|name| subject.number(name)).transpose()?;
        let (seen, outcome) = subject.see(&self.images, &self.loading)?;
        let device = device_args.open()?;
        let gradcam = device.block_on(GradCam::new(&device, &subject.metadata.network, &subject.state))?;
        let mut gradcam = gradcam.method(self.method.method());
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
            title: self.method.title().into(),
            subtitle: "evidence for the class, in units of its logit".into(),
            columns: heads.len() + 1,
            heads: std::iter::once(("image".to_string(), SOFT))
                .chain(heads.iter().map(|head| (heading(head), head_color(head))))
                .collect(),
            scale: Some(("0".into(), "max of each map".into())),
            tile: 176,
            tiles,
        };
        save(&tiles, &self.out)?;
        for (one, maps) in &events {
            let maximum = |m: &ActivationMap| {
                format!("{} {:.1}% (max {:.3})", m.head, 100.0 * m.probability, m.maximum())
            };
            let probabilities: Vec<String> = maps.iter().map(maximum).collect();
            let class = subject.class(maps.first().map_or(0, |m| m.class));
            reporter.line(&format!("{}  {class}: {}", shown(&one.file), probabilities.join("  ")))?;
            let heads = maps.iter().map(|m| HeadEvent {
                head: m.head,
                probability: m.probability,
                top: subject.class(m.top.0),
                top_probability: m.top.1,
                logit: m.logit,
                sum: m.sum,
                maximum: m.maximum(),
                map: m.values.chunks(m.width.max(1)).collect(),
            });
            let file = shown(&one.file);
            let method = self.method.name();
            reporter.event(&Event { file, class, method, heads: heads.collect(), output: &self.out })?;
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
    let values = from_zero(&map.values);
    let mut caption = vec![(format!("{} {:.0}%", subject.label(map.class), 100.0 * map.probability), INK)];
    if map.top.0 != map.class {
        caption.push((format!("predicts {} {:.0}%", subject.label(map.top.0), 100.0 * map.top.1), SOFT));
    }
    if map.values.iter().all(|v| *v <= 0.0) {
        caption.push(("no evidence anywhere".to_string(), SOFT));
    } else {
        caption.push((format!("max {:.3}", map.maximum()), SOFT));
    }
    Tile { image: heat.over(&one.square, &values, map.width), caption }
}
