//! The sheet of `incept demo`: training curves above, validation images with predictions below.

use std::path::Path;

use image::{ImageFormat, RgbImage};
use incept::data::Image;
use incept::low_level::output::write_atomically;
use incept::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::plot::{BLUE, Drawn, FAMILY, GREEN, GRID, INK, SOFT, VERMILION, use_font};
use incept::learner::History;

/// Pixels of the file per pixel of the layout, for high-density screens.
const SCALE: i32 = 2;
const WIDTH: u32 = 1280 * SCALE as u32;
const MARGIN: i32 = 40 * SCALE;
const CHARTS_TOP: i32 = 112 * SCALE;
const CHARTS_HEIGHT: i32 = 340 * SCALE;
const COLUMNS: usize = 12;
const TILE: i32 = 84 * SCALE;
const TILE_HEIGHT: i32 = 128 * SCALE;
const TILES_TOP: i32 = CHARTS_TOP + CHARTS_HEIGHT + 60 * SCALE;

const HEADS: [RGBColor; 3] = [BLUE, VERMILION, GREEN];
const WRONG: RGBColor = VERMILION;

/// An image with its label and prediction.
#[derive(Debug)]
pub(crate) struct Tile {
    pub image: Image,
    pub label: String,
    pub prediction: String,
    pub probability: f32,
}

/// The contents of the sheet.
#[derive(Debug)]
pub(crate) struct Sheet<'a> {
    pub title: String,
    pub subtitle: String,
    pub history: &'a History,
    pub steps_per_epoch: usize,
    pub aux_weight: f32,
    pub tiles: Vec<Tile>,
}

type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

impl Sheet<'_> {
    /// Draws the sheet and writes it as PNG.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let png = self.png().map_err(|e| Error::format(path, format!("cannot be drawn: {e}")))?;
        write_atomically(path, &png)
    }

    fn height(&self) -> u32 {
        let rows = self.tiles.len().div_ceil(COLUMNS) as u32;
        TILES_TOP as u32 + rows * TILE_HEIGHT as u32 + 16 * SCALE as u32
    }

    fn png(&self) -> Drawn<Vec<u8>> {
        use_font()?;
        let height = self.height();
        let mut pixels = vec![0; 3 * (WIDTH * height) as usize];
        {
            let root = BitMapBackend::with_buffer(&mut pixels, (WIDTH, height)).into_drawing_area();
            root.fill(&WHITE)?;
            root.draw(&Text::new(
                self.title.clone(),
                (MARGIN, 30 * SCALE),
                (FAMILY, 30 * SCALE).into_font().color(&INK),
            ))?;
            let subtitle = (FAMILY, 17 * SCALE).into_font().color(&SOFT);
            root.draw(&Text::new(self.subtitle.clone(), (MARGIN, 72 * SCALE), subtitle))?;
            self.charts(&root)?;
            let caption =
                "Validation images with the main head's prediction and confidence; mistakes are framed";
            let style = (FAMILY, 17 * SCALE).into_font().color(&INK);
            root.draw(&Text::new(caption, (MARGIN, TILES_TOP - 34 * SCALE), style))?;
            for (i, tile) in self.tiles.iter().enumerate() {
                let pitch = (WIDTH as i32 - 2 * MARGIN) / COLUMNS as i32;
                let left = MARGIN + (i % COLUMNS) as i32 * pitch + (pitch - TILE) / 2;
                tile.draw(&root, left, TILES_TOP + (i / COLUMNS) as i32 * TILE_HEIGHT)?;
            }
            root.present()?;
        }
        let image = RgbImage::from_raw(WIDTH, height, pixels).ok_or("the image has the wrong size")?;
        let mut png = std::io::Cursor::new(Vec::new());
        image.write_to(&mut png, ImageFormat::Png)?;
        Ok(png.into_inner())
    }

    fn charts(&self, root: &Area<'_>) -> Drawn {
        let both = root.margin(CHARTS_TOP, 0, MARGIN - 10 * SCALE, MARGIN);
        let (both, _) = both.split_vertically(CHARTS_HEIGHT);
        let (left, right) = both.split_horizontally(700 * SCALE);
        self.losses(&left)?;
        self.accuracies(&right.margin(0, 0, 20 * SCALE, 0))
    }

    /// Plots each head's loss per step, faintly, and its moving average over a quarter of an epoch.
    fn losses(&self, area: &Area<'_>) -> Drawn {
        let steps = &self.history.steps;
        let per_epoch = self.steps_per_epoch.max(1);
        let epochs = steps.len() as f64 / per_epoch as f64;
        let losses = || steps.iter().flat_map(|s| &s.heads).map(|h| f64::from(h.loss));
        let top = losses().fold(0.1, f64::max).min(4.0) * 1.05;
        let mut chart = ChartBuilder::on(area)
            .caption("Training loss per head", (FAMILY, 19 * SCALE).into_font().color(&INK))
            .x_label_area_size(44 * SCALE)
            .y_label_area_size(52 * SCALE)
            .build_cartesian_2d(0.0..epochs.max(0.1), 0.0..top)?;
        mesh(&mut chart, "epoch", &|v| format!("{v:.1}"))?;
        let heads = steps.first().map_or(0, |s| s.heads.len());
        let window = (per_epoch / 4).max(1);
        for i in 0..heads {
            let color = HEADS[i % HEADS.len()];
            let values: Vec<f64> = steps.iter().map(|s| f64::from(s.heads[i].loss)).collect();
            let x = |step: usize| (step + 1) as f64 / per_epoch as f64;
            let raw = values.iter().enumerate().map(|(s, v)| (x(s), v.min(top)));
            chart.draw_series(LineSeries::new(raw, color.mix(0.18)))?;
            let mean = |s: usize| {
                let from = (s + 1).saturating_sub(window);
                values[from..=s].iter().sum::<f64>() / (s + 1 - from) as f64
            };
            let smooth = (0..values.len()).map(|s| (x(s), mean(s).min(top)));
            let name = self.history.steps[0].heads[i].name;
            let label = if i == 0 { name.into() } else { format!("{name} (weight {})", self.aux_weight) };
            let style = color.stroke_width(3 * SCALE as u32);
            chart.draw_series(LineSeries::new(smooth, style))?.label(label).legend(move |(x, y)| {
                Rectangle::new([(x, y - 2 * SCALE), (x + 18 * SCALE, y + 2 * SCALE)], color.filled())
            });
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight)
    }

    /// Plots each head's training accuracy, and the main head's validation accuracy.
    fn accuracies(&self, area: &Area<'_>) -> Drawn {
        let epochs = &self.history.epochs;
        let last = epochs.len().max(1) as f64;
        let mut chart = ChartBuilder::on(area)
            .caption("Accuracy", (FAMILY, 19 * SCALE).into_font().color(&INK))
            .x_label_area_size(44 * SCALE)
            .y_label_area_size(56 * SCALE)
            .build_cartesian_2d(0.0..last, 0.0..1.0)?;
        mesh(&mut chart, "epoch", &|v| format!("{:.0}%", 100.0 * v))?;
        let heads = epochs.first().map_or(0, |e| e.summary.heads.len());
        for i in 0..heads {
            let color = HEADS[i % HEADS.len()];
            let points = epochs.iter().enumerate();
            let points =
                points.filter_map(|(e, r)| r.summary.heads.get(i).map(|h| ((e + 1) as f64, h.accuracy)));
            let label = format!("{}, training", epochs[0].summary.heads[i].name);
            let style = color.stroke_width(2 * SCALE as u32);
            chart.draw_series(LineSeries::new(points, style))?.label(label).legend(move |(x, y)| {
                Rectangle::new([(x, y - SCALE), (x + 18 * SCALE, y + SCALE)], color.filled())
            });
        }
        let validation: Vec<(f64, f64)> = epochs
            .iter()
            .enumerate()
            .filter_map(|(e, r)| r.validation_accuracy.map(|a| ((e + 1) as f64, a)))
            .collect();
        chart.draw_series(LineSeries::new(validation.clone(), INK.stroke_width(3 * SCALE as u32)))?;
        let dots = validation.into_iter().map(|point| Circle::new(point, 4 * SCALE, INK.filled()));
        chart.draw_series(dots)?.label("main, validation").legend(|(x, y)| {
            EmptyElement::at((x, y))
                + Circle::new((9 * SCALE, 0), 4 * SCALE, INK.filled())
                + Rectangle::new([(0, -SCALE), (18 * SCALE, SCALE)], INK.filled())
        });
        legend(&mut chart, SeriesLabelPosition::LowerRight)
    }
}

type Chart<'a, 'b> = ChartContext<
    'a,
    BitMapBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn mesh(chart: &mut Chart<'_, '_>, x: &str, y_label: &dyn Fn(&f64) -> String) -> Drawn {
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .set_all_tick_mark_size(4 * SCALE)
        .bold_line_style(GRID)
        .axis_style(SOFT)
        .x_labels(8)
        .y_labels(6)
        .x_desc(x)
        .x_label_formatter(&|v| format!("{v:.0}"))
        .y_label_formatter(y_label)
        .label_style((FAMILY, 15 * SCALE).into_font().color(&SOFT))
        .draw()?;
    Ok(())
}

fn legend<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>, position: SeriesLabelPosition) -> Drawn {
    chart
        .configure_series_labels()
        .position(position)
        .margin(12 * SCALE)
        .legend_area_size(26 * SCALE)
        .background_style(WHITE.mix(0.85))
        .label_font((FAMILY, 15 * SCALE).into_font().color(&INK))
        .draw()?;
    Ok(())
}

impl Tile {
    /// Draws the image, enlarged without smoothing to show its pixels, with its caption below.
    fn draw(&self, root: &Area<'_>, left: i32, top: i32) -> Drawn {
        let Image { width, height, channels, pixels } = &self.image;
        let wrong = self.label != self.prediction;
        for y in 0..*height {
            for x in 0..*width {
                let at = (y * width + x) * channels;
                let value = |c: usize| pixels[at + c % channels];
                let color = RGBColor(value(0), value(1), value(2));
                let edge = |i: usize, of: usize| (i as i32 * TILE) / of as i32;
                let from = (left + edge(x, *width), top + edge(y, *height));
                let to = (left + edge(x + 1, *width), top + edge(y + 1, *height));
                root.draw(&Rectangle::new([from, to], color.filled()))?;
            }
        }
        if wrong {
            let frame = WRONG.stroke_width(4 * SCALE as u32);
            root.draw(&Rectangle::new(
                [(left - 3 * SCALE, top - 3 * SCALE), (left + TILE + 3 * SCALE, top + TILE + 3 * SCALE)],
                frame,
            ))?;
        }
        let middle = Pos::new(HPos::Center, VPos::Top);
        let percent = format!("{:.0}%", 100.0 * self.probability);
        let text = if wrong {
            format!("{} {percent}, true: {}", self.prediction, self.label)
        } else {
            format!("{}  {percent}", self.prediction)
        };
        let color = if wrong { WRONG } else { INK };
        let style = (FAMILY, 16 * SCALE).into_font().color(&color).pos(middle);
        root.draw(&Text::new(text, (left + TILE / 2, top + TILE + 9 * SCALE), style))?;
        Ok(())
    }
}
