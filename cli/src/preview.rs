//! `incept train --preview-augment`: a sheet of augmented training images.

use std::path::Path;

use incept::data::{Batch, Loader};
use incept::{Error, Result};

use super::config::AugmentArgs;
use super::fit::Setup;
use super::plot::{self, INK, SOFT, class_label};
use super::raster::raster;
use super::tiles::{Tile, Tiles};

/// Images per row: one without augmentation, then one per epoch.
const COLUMNS: usize = 8;
/// Number of rows, each of one image.
const ROWS: usize = 6;
/// Size of an image in the layout.
const SIDE: u32 = 96;

/// Draws the same images in several epochs; the first column is without augmentation.
pub(super) fn write(path: &Path, plain: &Loader, training: &Loader, setup: &Setup) -> Result<()> {
    let preprocessing = &setup.preprocessing;
    let first = |loader: &Loader, epoch: usize| -> Result<Batch> {
        let none = || Err(Error::Config("the training set is empty".into()));
        loader.epoch(epoch as u64, 0).next().unwrap_or_else(none)
    };
    let columns = (0..COLUMNS)
        .map(|epoch| if epoch == 0 { first(plain, 0) } else { first(training, epoch) })
        .collect::<Result<Vec<Batch>>>()?;
    let size = 3 * preprocessing.input * preprocessing.input;
    let set = setup.data.train.as_ref();
    let rows = columns.iter().map(|batch| batch.count).min().unwrap_or(0).min(ROWS);
    let tile = |row: usize, column: usize| {
        let Batch { images, indices, .. } = &columns[column];
        let class = || {
            let class = set.label(indices[row]) as usize;
            class_label(&set.classes()[class], class)
        };
        Tile {
            image: raster(&preprocessing.undo(&images[row * size..(row + 1) * size])),
            caption: if column == 0 { vec![(class(), INK)] } else { Vec::new() },
        }
    };
    let epochs = (1..COLUMNS).map(|epoch| (format!("epoch {epoch}"), SOFT));
    let sheet = Tiles {
        title: format!("Augmented training images of {}", setup.data.name),
        subtitle: described(&setup.run.config.augment),
        columns: COLUMNS,
        heads: std::iter::once(("original".into(), INK)).chain(epochs).collect(),
        scale: None,
        tile: SIDE,
        tiles: (0..rows)
            .flat_map(|row| (0..COLUMNS).map(move |column| (row, column)))
            .map(|(r, c)| tile(r, c))
            .collect(),
    };
    plot::save(&sheet, path)
}

/// The augmentation options that are on.
fn described(augment: &AugmentArgs) -> String {
    let kind = augment.augment.map(|kind| format!("augment {kind:?}").to_lowercase());
    let switch = |name: &str, on: Option<bool>| on.filter(|on| *on).map(|_| name.to_string());
    let amount = |name: &str, value: Option<f64>| value.filter(|v| *v > 0.0).map(|v| format!("{name} {v}"));
    let parts = [
        kind,
        switch("hflip", augment.hflip),
        switch("vflip", augment.vflip),
        amount("photometric", augment.photometric),
        switch("random interpolation", augment.random_interpolation),
        amount("mixup", augment.mixup),
        amount("cutmix", augment.cutmix),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
