//! `incept data`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Subcommand};
use incept::Error;
use incept::data::{Dataset, Image, OpenOptions, OpenedData, open};
use incept::low_level::output::check_folder;
use incept::low_level::untrusted::printable;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Serialize;

use super::data::{FORMATS, ImageArgs, duplicate_note, note_all, refuse_split};
use super::fetch::Fetch;
use super::interrupt::interruptible;
use super::numbers::whole;
use super::plot::{self, Area, Drawn, Figure, INK, Unit, class_label};
use super::report::{Rate, Reporter, plural, shown, thousands};
use super::tiles::shortened;
use super::{Outcome, Result};

/// Inspect, split, preview and download data sets.
#[derive(Args, Debug)]
pub(crate) struct Data {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Info(Info),
    Split(Split),
    Preview(Preview),
    Fetch(Fetch),
}

/// Show statistics of a data set: images per class and split, sizes, mean and standard deviation,
/// unreadable files.
#[derive(Args, Debug)]
#[command(after_long_help = FORMATS)]
struct Info {
    /// Data set: `digits`, or the path of one.
    data: String,
    #[command(flatten)]
    split: SplitArgs,
    /// Number of images per split to decode for sizes, colors and damage, evenly spaced; 0 decodes
    /// all.
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = whole::<usize>(0))]
    sample: usize,
}

/// Write a data set as a folder of images with a stratified split into `train/` and `val/`.
///
/// Image files keep their format and name; other images are written as PNG. The folder must not
/// exist yet, and appears when everything has been written.
#[derive(Args, Debug)]
#[command(after_long_help = FORMATS)]
struct Split {
    /// Data set: `digits`, or the path of one.
    data: String,
    /// Folder to create.
    #[arg(short = 'o', long = "output", alias = "out", value_name = "FOLDER")]
    out: PathBuf,
    #[command(flatten)]
    split: SplitArgs,
}

/// Draw a contact sheet with images of each class.
#[derive(Args, Debug)]
#[command(after_long_help = FORMATS)]
struct Preview {
    /// Data set: `digits`, or the path of one.
    data: String,
    /// File of the sheet, .png.
    #[arg(
        short = 'o',
        long = "output",
        alias = "out",
        value_name = "FILE",
        default_value = "incept-data.png"
    )]
    out: PathBuf,
    /// Number of images per class.
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=24))]
    columns: u16,
    /// Maximum number of classes.
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    rows: u16,
    #[command(flatten)]
    split: SplitArgs,
}

/// How a data set without a fixed validation or test set is split.
#[derive(Args, Debug)]
struct SplitArgs {
    /// Fraction of the images to validate on if the data set has no validation or test set
    /// [default: 0.2].
    #[arg(long = "val-split", alias = "held-out", value_name = "FRACTION", help_heading = "Data")]
    val_split: Option<f64>,
    /// Random seed of the split; `incept train` always splits with 0, whatever its `--seed`
    /// [default: 0].
    #[arg(long, value_name = "NUMBER", help_heading = "Data", value_parser = whole::<u64>(0))]
    seed: Option<u64>,
    #[command(flatten)]
    images: ImageArgs,
}

impl SplitArgs {
    fn open(&self, what: &str) -> incept::Result<OpenedData> {
        self.images.set_limit()?;
        let default = OpenOptions::default();
        let val_split = self.val_split.unwrap_or(default.val_split);
        let seed = self.seed.unwrap_or(default.seed);
        let data = open(what, &default.val_split(val_split).seed(seed))?;
        refuse_split(&data, "--val-split", self.val_split.is_some())?;
        refuse_split(&data, "--seed", self.seed.is_some())?;
        Ok(data)
    }
}

impl Data {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        match &self.command {
            Command::Info(command) => command.run(reporter),
            Command::Split(command) => command.run(reporter),
            Command::Preview(command) => command.run(reporter),
            Command::Fetch(command) => command.run(reporter),
        }
    }
}

/// Statistics of one split.
#[derive(Debug, Default, Serialize)]
struct SplitInfo {
    count: usize,
    /// Number of images per class index.
    classes: Vec<usize>,
    decoded: usize,
    grey: usize,
    /// Minimum, median and maximum in pixels.
    width: [usize; 3],
    height: [usize; 3],
    /// Per channel, in [0, 1].
    mean: [f64; 3],
    std: [f64; 3],
    unreadable: Vec<String>,
}

#[derive(Serialize)]
struct InfoResult<'a> {
    data: &'a str,
    name: &'a str,
    classes: &'a [String],
    train: SplitInfo,
    validation: SplitInfo,
    /// Number of images in the test set, if it is not the validation set.
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<usize>,
    /// Number of images in both training and validation set; none if not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicates: Option<usize>,
    notes: Vec<String>,
}

impl SplitInfo {
    fn of(
        set: &dyn Dataset,
        sample: usize,
        stop: &AtomicBool,
        label: &str,
        reporter: &Reporter,
    ) -> incept::Result<Self> {
        let mut info = Self { count: set.len(), classes: vec![0; set.classes().len()], ..Self::default() };
        for index in 0..set.len() {
            info.classes[set.label(index) as usize] += 1;
        }
        let step = if sample == 0 { 1 } else { set.len().div_ceil(sample).max(1) };
        let mut bar = reporter.bar(label, set.len().div_ceil(step) as u64);
        let mut rate = Rate::new();
        let (mut widths, mut heights) = (Vec::new(), Vec::new());
        let (mut sums, mut squares, mut pixels) = ([0.0; 3], [0.0; 3], 0.0);
        for (done, index) in (0..set.len()).step_by(step).enumerate() {
            if stop.load(Ordering::SeqCst) {
                return Err(Error::Interrupted);
            }
            rate.add(1);
            let left = || rate.left(set.len().div_ceil(step) - done - 1);
            bar.update(done as u64 + 1, || format!("{:.0} images/s  {} left", rate.per_second(), left()));
            let image = match set.image(index) {
                Ok(image) => image,
                Err(error) => {
                    info.unreadable.push(error.to_string());
                    continue;
                }
            };
            info.decoded += 1;
            info.grey += usize::from(image.channels == 1);
            widths.push(image.width);
            heights.push(image.height);
            for pixel in image.pixels.chunks_exact(image.channels.max(1)) {
                for c in 0..3 {
                    let value = f64::from(pixel[c % image.channels]) / 255.0;
                    sums[c] += value;
                    squares[c] += value * value;
                }
            }
            pixels += (image.width * image.height) as f64;
        }
        let spread = |mut values: Vec<usize>| {
            values.sort_unstable();
            let at = |i: usize| values.get(i).copied().unwrap_or(0);
            [at(0), at(values.len() / 2), at(values.len().saturating_sub(1))]
        };
        (info.width, info.height) = (spread(widths), spread(heights));
        for c in 0..3 {
            info.mean[c] = sums[c] / f64::max(pixels, 1.0);
            info.std[c] = (squares[c] / f64::max(pixels, 1.0) - info.mean[c].powi(2)).max(0.0).sqrt();
        }
        Ok(info)
    }

    fn print(&self, title: &str, reporter: &Reporter) -> incept::Result<()> {
        let Self { width: w, height: h, mean, std, .. } = self;
        reporter.line(&format!("{title}: {}", plural(self.count as u64, "image")))?;
        let colors = match (self.grey, self.decoded - self.grey) {
            (_, 0) => "grayscale".to_string(),
            (0, _) => "color".to_string(),
            (grey, color) => format!("{color} color, {grey} grayscale"),
        };
        reporter.line(&format!(
            "  {} decoded: width {} to {} (median {}), height {} to {} (median {}); {colors}",
            thousands(self.decoded as u64),
            w[0],
            w[2],
            w[1],
            h[0],
            h[2],
            h[1]
        ))?;
        let three = |v: &[f64; 3]| format!("{:.3} {:.3} {:.3}", v[0], v[1], v[2]);
        reporter.line(&format!("  mean {}  standard deviation {}", three(mean), three(std)))?;
        for reason in self.unreadable.iter().take(10) {
            reporter.line(&format!("  unreadable: {reason}"))?;
        }
        if self.unreadable.len() > 10 {
            reporter.line(&format!("  unreadable: {} more", self.unreadable.len() - 10))?;
        }
        Ok(())
    }
}

impl Info {
    fn run(&self, reporter: &Reporter) -> Result {
        let stop = interruptible()?;
        let data = self.split.open(&self.data)?;
        let info = |set: &dyn Dataset, label| SplitInfo::of(set, self.sample, &stop, label, reporter);
        let train = info(data.train.as_ref(), "training set")?;
        let validation = info(data.validation.as_ref(), "validation set")?;
        let classes = data.train.classes();
        reporter.line(&format!("{}, {}", data.name, plural(classes.len() as u64, "class")))?;
        train.print("training set", reporter)?;
        validation.print("validation set", reporter)?;
        let width = classes.iter().map(|name| name.chars().count()).max().unwrap_or(0).clamp(5, 40);
        reporter.line(&format!("{:width$}  {:>8}  {:>10}", "class", "training", "validation"))?;
        for (i, name) in classes.iter().enumerate() {
            let counts =
                [&train, &validation].map(|p| thousands(p.classes.get(i).copied().unwrap_or(0) as u64));
            reporter.line(&format!("{:width$}  {:>8}  {:>10}", printable(name), counts[0], counts[1]))?;
        }
        let mut notes = data.notes.clone();
        let duplicates = data.duplicates();
        notes.extend(duplicate_note(&data, duplicates));
        let test =
            data.test.as_ref().filter(|test| !Arc::ptr_eq(test, &data.validation)).map(|test| test.len());
        if let Some(count) = test {
            let count = plural(count as u64, "image");
            notes.push(format!("test set: {count}; `incept eval --part test` evaluates on it"));
        }
        notes.iter().try_for_each(|note| reporter.line(&format!("note: {}", printable(note))))?;
        let damaged = train.unreadable.len() + validation.unreadable.len();
        reporter.event(&InfoResult {
            data: &self.data,
            name: &data.name,
            classes,
            train,
            validation,
            test,
            duplicates,
            notes,
        })?;
        Ok(if damaged == 0 { Outcome::Done } else { Outcome::Failed })
    }
}

#[derive(Serialize)]
struct SplitResult<'a> {
    output: &'a Path,
    classes: &'a [String],
    train: usize,
    validation: usize,
    skipped: Vec<String>,
}

impl Split {
    fn run(&self, reporter: &Reporter) -> Result {
        let stop = interruptible()?;
        if self.out.symlink_metadata().is_ok() {
            return Err(Error::format(&self.out, "already exists; give a new folder with --output"));
        }
        let parent = self.out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        check_folder(parent)?;
        let data = self.split.open(&self.data)?;
        note_all(&data.notes);
        std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        let making = tempfile::Builder::new().prefix(".incept-split").tempdir_in(parent);
        let making = making.map_err(|e| Error::io(parent, e))?;
        let mut skipped = Vec::new();
        let mut write = |set: &Arc<dyn Dataset>, part: &str| -> incept::Result<usize> {
            let mut bar = reporter.bar(part, set.len() as u64);
            let mut rate = Rate::new();
            let mut written = 0;
            for index in 0..set.len() {
                if stop.load(Ordering::SeqCst) {
                    return Err(Error::Interrupted);
                }
                rate.add(1);
                let left = || rate.left(set.len() - index - 1);
                bar.update(index as u64 + 1, || {
                    format!("{:.0} images/s  {} left", rate.per_second(), left())
                });
                let class = folder_name(&set.classes()[set.label(index) as usize]);
                let folder = making.path().join(part).join(class);
                match write_image(set.as_ref(), index, &folder) {
                    Ok(()) => written += 1,
                    Err(error @ Error::Io { .. }) => return Err(error),
                    Err(error) => skipped.push(error.to_string()),
                }
            }
            Ok(written)
        };
        let train = write(&data.train, "train")?;
        let validation = write(&data.validation, "val")?;
        std::fs::rename(making.path(), &self.out).map_err(|e| Error::io(&self.out, e))?;
        for reason in &skipped {
            reporter.line(&format!("skipped: {reason}"))?;
        }
        reporter.line(&format!(
            "wrote {}: {} training and {}",
            shown(&self.out),
            thousands(train as u64),
            plural(validation as u64, "validation image")
        ))?;
        let classes = data.train.classes();
        reporter.event(&SplitResult { output: &self.out, classes, train, validation, skipped })?;
        Ok(Outcome::Done)
    }
}

/// The name of a class as the name of a folder: without characters that file systems reserve.
fn folder_name(class: &str) -> String {
    let name: String =
        class.chars().map(|c| if c.is_control() || r#"/\:*?"<>|"#.contains(c) { '_' } else { c }).collect();
    match name.trim_start_matches('.').trim() {
        "" => "_".into(),
        name => name.into(),
    }
}

/// Copies an image file; writes other images as PNG.
fn write_image(set: &dyn Dataset, index: usize, folder: &Path) -> incept::Result<()> {
    let source = PathBuf::from(set.name(index));
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    if let Some(name) = source.file_name().filter(|_| source.is_file()) {
        // Files from different folders may have the same name.
        let mut target = folder.join(name);
        if target.exists() {
            target = folder.join(format!("{index}-{}", name.to_string_lossy()));
        }
        return std::fs::copy(&source, &target).map(|_| ()).map_err(|e| Error::io(&source, e));
    }
    let image = set.image(index)?;
    let path = folder.join(format!("{index:06}.png"));
    let mut png = std::io::Cursor::new(Vec::new());
    let image = to_image(&image).ok_or_else(|| Error::format(&path, "has no pixels"))?;
    image.write_to(&mut png, image::ImageFormat::Png).map_err(|e| Error::format(&path, e.to_string()))?;
    std::fs::write(&path, png.into_inner()).map_err(|e| Error::io(&path, e))
}

fn to_image(image: &Image) -> Option<image::DynamicImage> {
    let (width, height) = (u32::try_from(image.width).ok()?, u32::try_from(image.height).ok()?);
    let pixels = image.pixels.clone();
    if image.channels == 1 {
        image::GrayImage::from_raw(width, height, pixels).map(image::DynamicImage::ImageLuma8)
    } else {
        image::RgbImage::from_raw(width, height, pixels).map(image::DynamicImage::ImageRgb8)
    }
}

/// The contact sheet: one row per class.
struct ContactSheet {
    title: String,
    subtitle: String,
    columns: u32,
    rows: Vec<(String, Vec<image::DynamicImage>)>,
}

/// Sizes in pixels of the layout.
const TILE: u32 = 72;
const GAP: u32 = 6;
const NAME: u32 = 170;
const TOP: u32 = 84;
const MARGIN: u32 = 28;

impl Figure for ContactSheet {
    fn size(&self) -> (u32, u32) {
        let width = 2 * MARGIN + NAME + self.columns * (TILE + GAP);
        (width.max(560), TOP + self.rows.len() as u32 * (TILE + GAP) + MARGIN)
    }

    fn draw<DB: DrawingBackend>(&self, root: &Area<DB>, unit: Unit) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        plot::heading(root, unit, &self.title, &self.subtitle)?;
        for (row, (name, images)) in self.rows.iter().enumerate() {
            let top = (TOP + row as u32 * (TILE + GAP)) as i32;
            let style = unit.text(14, &INK).pos(Pos::new(HPos::Left, VPos::Center));
            let at = (unit.px(MARGIN as i32), unit.px(top + TILE as i32 / 2));
            root.draw(&Text::new(shortened(name, 22), at, style))?;
            for (column, image) in images.iter().enumerate() {
                let side = unit.px(TILE as i32).unsigned_abs();
                // Small images are enlarged without smoothing, to show their pixels.
                let filter = if image.width().max(image.height()) <= 48 {
                    image::imageops::FilterType::Nearest
                } else {
                    image::imageops::FilterType::Triangle
                };
                let fitted = image.resize(side, side, filter).to_rgb8();
                let left = unit.px((MARGIN + NAME + column as u32 * (TILE + GAP)) as i32);
                let middle = |of: u32| ((side - of) / 2) as i32;
                let corner = (left + middle(fitted.width()), unit.px(top) + middle(fitted.height()));
                let image = image_element(corner, &fitted)?;
                root.draw(&image)?;
            }
        }
        Ok(())
    }
}

/// An image as plotters draws it.
fn image_element(corner: (i32, i32), image: &image::RgbImage) -> Drawn<BitMapElement<'static, (i32, i32)>> {
    let size = (image.width(), image.height());
    let element = BitMapElement::with_owned_buffer(corner, size, image.as_raw().clone());
    element.ok_or_else(|| "the image has the wrong size".into())
}

#[derive(Serialize)]
struct PreviewResult<'a> {
    output: &'a Path,
    classes: usize,
    images: usize,
    unreadable: Vec<String>,
}

impl Preview {
    fn run(&self, reporter: &Reporter) -> Result {
        plot::check_png(&self.out)?;
        let data = self.split.open(&self.data)?;
        let set = data.train.as_ref();
        let (columns, most) = (usize::from(self.columns), usize::from(self.rows));
        let mut of_class: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for index in 0..set.len() {
            of_class.entry(set.label(index)).or_default().push(index);
        }
        let mut unreadable = Vec::new();
        let mut rows = Vec::new();
        for (class, members) in of_class.iter().take(most) {
            let mut images = Vec::new();
            // Evenly spaced: neighbors in a data set are often similar.
            let step = (members.len() / columns).max(1);
            for index in members.iter().step_by(step) {
                if images.len() == columns {
                    break;
                }
                match set.image(*index) {
                    Ok(image) => images.extend(to_image(&image)),
                    Err(error) => unreadable.push(error.to_string()),
                }
            }
            let class = *class as usize;
            rows.push((class_label(&set.classes()[class], class), images));
        }
        let images = rows.iter().map(|(_, images)| images.len()).sum();
        let subtitle = format!(
            "{}, {} training and {}",
            plural(set.classes().len() as u64, "class"),
            thousands(set.len() as u64),
            plural(data.validation.len() as u64, "validation image")
        );
        let classes = rows.len();
        let title = data.name.clone();
        plot::save(&ContactSheet { title, subtitle, columns: u32::from(self.columns), rows }, &self.out)?;
        unreadable.iter().try_for_each(|reason| reporter.line(&format!("unreadable: {reason}")))?;
        let omitted = of_class.len() - classes;
        let more = if omitted > 0 {
            format!(
                ", {classes} of {} (--rows {} for all)",
                plural(of_class.len() as u64, "class"),
                of_class.len()
            )
        } else {
            String::new()
        };
        reporter.line(&format!("wrote {}{more}", shown(&self.out)))?;
        reporter.event(&PreviewResult { output: &self.out, classes, images, unreadable })?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_names_become_valid_folder_names() {
        assert_eq!(folder_name("tabby, tabby cat"), "tabby, tabby cat");
        assert_eq!(folder_name("a/b\\c:d"), "a_b_c_d");
        assert_eq!(folder_name("../x"), "_x");
        assert_eq!(folder_name(".."), "_");
    }
}
