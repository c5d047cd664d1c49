//! `incept train --preview-augment`: a sheet of training pictures as the network will see them.

use std::path::Path;

use image::{ImageFormat, Rgb, RgbImage};
use incept::data::{Batch, Loader, Picture, Preprocessing};
use incept::weights::write_atomically;
use incept::{Error, Result};

/// Pictures in a row, each in another epoch.
const COLUMNS: usize = 8;
/// Rows, each another picture.
const ROWS: usize = 6;
/// Pixels of a picture's side at least, and between pictures.
const SIDE: usize = 96;
const GAP: usize = 8;

/// Draws the same pictures over several epochs: what augmentation does shows along a row. The first picture of a row is not augmented.
pub(super) fn write(
    path: &Path,
    plain: &Loader,
    training: &Loader,
    preprocessing: &Preprocessing,
) -> Result<()> {
    let scale = SIDE.div_ceil(preprocessing.input).max(1);
    let side = preprocessing.input * scale;
    let extent = |n: usize| (n * (side + GAP) + GAP) as u32;
    let mut sheet = RgbImage::from_pixel(extent(COLUMNS), extent(ROWS), Rgb([255; 3]));
    let size = 3 * preprocessing.input * preprocessing.input;
    let mut place = |row: usize, column: usize, values: &[f32]| {
        let picture = preprocessing.undo(values);
        let at = |n: usize| GAP + n * (side + GAP);
        enlarge(&mut sheet, &picture, scale, at(column), at(row));
    };
    let first = |loader: &Loader, epoch: u64| -> Result<Batch> {
        loader.epoch(epoch, 0).next().unwrap_or_else(|| Err(Error::Config("there are no pictures".into())))
    };
    let batch = first(plain, 0)?;
    for row in 0..ROWS.min(batch.count) {
        place(row, 0, &batch.images[row * size..(row + 1) * size]);
    }
    for column in 1..COLUMNS {
        let batch = first(training, column as u64)?;
        for row in 0..ROWS.min(batch.count) {
            place(row, column, &batch.images[row * size..(row + 1) * size]);
        }
    }
    let mut png = std::io::Cursor::new(Vec::new());
    sheet.write_to(&mut png, ImageFormat::Png).map_err(|e| Error::format(path, e.to_string()))?;
    write_atomically(path, &png.into_inner())
}

/// Draws a picture with each pixel as a square, so that nothing is blurred.
fn enlarge(sheet: &mut RgbImage, picture: &Picture, scale: usize, left: usize, top: usize) {
    for y in 0..picture.height * scale {
        for x in 0..picture.width * scale {
            let i = 3 * ((y / scale) * picture.width + x / scale);
            let pixel = [picture.pixels[i], picture.pixels[i + 1], picture.pixels[i + 2]];
            sheet.put_pixel((left + x) as u32, (top + y) as u32, Rgb(pixel));
        }
    }
}
