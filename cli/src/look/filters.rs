//! `incept look filters`

use std::path::{Path, PathBuf};

use clap::Args;
use incept::look::filters;
use serde::Serialize;

use super::Subject;
use crate::plot::{check, save};
use crate::raster::raster;
use crate::report::{Reporter, shown};
use crate::tiles::{Tile, Tiles};
use crate::{Outcome, Result};

/// Draw the filters of the first convolution: the patterns of colour and light that the network
/// looks for first.
///
/// Grey is zero; each filter is scaled by itself. In a network that is trained well they are smooth
/// edges, gratings and spots of colour; noise means that it saw too few images or too much of one.
/// Needs no GPU.
#[derive(Args, Debug)]
pub(super) struct FiltersArgs {
    /// The checkpoint, a run's folder (its best one), or `included`: what comes with incept.
    checkpoint: PathBuf,
    /// The figure, .png or .svg.
    #[arg(
        short = 'o',
        long = "output",
        alias = "out",
        value_name = "FILE",
        default_value = "incept-filters.png"
    )]
    out: PathBuf,
}

#[derive(Serialize)]
struct Event<'a> {
    filters: usize,
    height: usize,
    width: usize,
    plot: &'a Path,
}

impl FiltersArgs {
    pub(super) fn run(&self, reporter: &Reporter) -> Result {
        check(&self.out)?;
        let subject = Subject::load(&self.checkpoint)?;
        let images = filters(&subject.metadata.network, &subject.state)?;
        let (height, width) = images.first().map_or((0, 0), |p| (p.height, p.width));
        let count = images.len();
        let tiles = Tiles {
            title: "The filters of the first convolution".into(),
            subtitle: format!("{count} filters of {height} x {width}; grey is zero"),
            columns: 16,
            heads: Vec::new(),
            tile: 56,
            tiles: images.iter().map(|p| Tile { image: raster(p), caption: Vec::new() }).collect(),
        };
        save(&tiles, &self.out)?;
        reporter.line(&format!("drew {count} filters of {height} x {width} as {}", shown(&self.out)))?;
        reporter.event(&Event { filters: count, height, width, plot: &self.out })?;
        Ok(Outcome::Done)
    }
}
