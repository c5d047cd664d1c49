//! `incept look filters`

use std::path::{Path, PathBuf};

use clap::Args;
use incept::look::filters;
use serde::Serialize;

use super::Subject;
use crate::plot::{check, save};
use crate::raster::raster;
use crate::report::{Reporter, plural, shown};
use crate::tiles::{Tile, Tiles};
use crate::{Outcome, Result};

/// Plot the filters of the first convolution (needs no device).
///
/// Gray is zero; each filter is normalized separately. The filters of a well-trained network are
/// smooth edges, gratings and color blobs; noisy filters are a sign of too little data or of
/// overfitting.
#[derive(Args, Debug)]
pub(super) struct FiltersArgs {
    /// Checkpoint, a run's folder (its best checkpoint), `included` or `imagenet`.
    checkpoint: PathBuf,
    /// File of the plot, .png or .svg.
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
    output: &'a Path,
}

impl FiltersArgs {
    pub(super) fn run(&self, reporter: &Reporter) -> Result {
        check(&self.out)?;
        let subject = Subject::load(&self.checkpoint)?;
        let images = filters(&subject.metadata.network, &subject.state)?;
        let (height, width) = images.first().map_or((0, 0), |p| (p.height, p.width));
        let count = images.len();
        let filters = plural(count as u64, "filter");
        let tiles = Tiles {
            title: "Filters of the first convolution".into(),
            subtitle: format!("{filters} of {height} x {width}; gray is zero"),
            columns: 16,
            heads: Vec::new(),
            scale: None,
            tile: 56,
            tiles: images.iter().map(|p| Tile { image: raster(p), caption: Vec::new() }).collect(),
        };
        save(&tiles, &self.out)?;
        reporter.line(&format!("{filters} of {height} x {width}; wrote {}", shown(&self.out)))?;
        reporter.event(&Event { filters: count, height, width, output: &self.out })?;
        Ok(Outcome::Done)
    }
}
