//! The reliability diagram: accuracy over confidence, with the number of images below.

use incept::infer::{Reliability, ReliabilityBin};
use plotters::prelude::*;

use crate::plot::{Area, Axes, BLUE, Drawn, Figure, INK, SOFT, Unit, heading, legend, line, percent};

pub(crate) struct ReliabilityFigure<'a> {
    pub reliability: &'a Reliability,
    pub subtitle: String,
}

/// Bins with fewer images are noisy, and are drawn pale.
const FEW: u64 = 10;
/// Okabe and Ito's lighter pair.
const SKY: RGBColor = RGBColor(0x56, 0xb4, 0xe9);
const ORANGE: RGBColor = RGBColor(0xe6, 0x9f, 0x00);

impl Figure for ReliabilityFigure<'_> {
    fn size(&self) -> (u32, u32) {
        (680, 690)
    }

    fn draw<DB: DrawingBackend>(&self, root: &Area<DB>, unit: Unit) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        heading(root, unit, "Reliability diagram", &self.subtitle)?;
        let below = root.margin(unit.px(80), unit.px(12), unit.px(18), unit.px(14));
        let (upper, lower) = below.split_vertically(unit.px(410));
        let bins = self.reliability.bins();
        let filled: Vec<&ReliabilityBin> = bins.iter().filter(|b| b.count > 0).collect();
        accuracy(&upper, unit, &filled)?;
        self.images(&lower, unit, &filled)
    }
}

fn accuracy<DB: DrawingBackend>(area: &Area<DB>, unit: Unit, bins: &[&ReliabilityBin]) -> Drawn
where
    DB::ErrorType: 'static,
{
    let axes = Axes {
        title: "",
        x: 0.0..1.0,
        y: 0.0..1.0,
        x_name: "",
        y_name: "accuracy",
        ticks: (6, 6),
        x_label: &percent,
        y_label: &percent,
    };
    let mut chart = axes.on(area, unit)?;
    let bar = |from: f64, to: f64, b: &ReliabilityBin| [(b.above + 0.004, from), (b.to - 0.004, to)];
    let key = |color: RGBColor| {
        move |(x, y): (i32, i32)| {
            Rectangle::new([(x, y - unit.px(5)), (x + unit.px(16), y + unit.px(5))], color.filled())
        }
    };
    let ink =
        |color: RGBColor, b: &ReliabilityBin| color.mix(if b.count < FEW { 0.35 } else { 1.0 }).filled();
    let accuracy = bins.iter().map(|b| Rectangle::new(bar(0.0, b.accuracy, b), ink(BLUE, b)));
    chart.draw_series(accuracy)?.label("accuracy").legend(key(BLUE));
    let (under, over): (Vec<&ReliabilityBin>, Vec<_>) = bins.iter().partition(|b| b.accuracy > b.confidence);
    let gap = |b: &ReliabilityBin| bar(b.accuracy.min(b.confidence), b.accuracy.max(b.confidence), b);
    let above = under.iter().map(|b| Rectangle::new(gap(b), ink(SKY, b)));
    chart.draw_series(above)?.label("underconfident").legend(key(SKY));
    let below = over.iter().map(|b| Rectangle::new(gap(b), ink(ORANGE, b)));
    chart.draw_series(below)?.label("overconfident").legend(key(ORANGE));
    line(&mut chart, unit, &[(0.0, 0.0), (1.0, 1.0)], SOFT, "perfect calibration")?;
    legend(&mut chart, unit, SeriesLabelPosition::UpperLeft)
}

impl ReliabilityFigure<'_> {
    fn images<DB: DrawingBackend>(&self, area: &Area<DB>, unit: Unit, bins: &[&ReliabilityBin]) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let total = self.reliability.count().max(1) as f64;
        let most = bins.iter().map(|b| b.count as f64 / total).fold(0.0, f64::max).max(0.01);
        let axes = Axes {
            title: "",
            x: 0.0..1.0,
            y: 0.0..most * 1.08,
            x_name: "confidence: probability of the predicted class (pale: fewer than 10 images)",
            y_name: "fraction of images",
            ticks: (6, 4),
            x_label: &percent,
            y_label: &percent,
        };
        let mut chart = axes.on(area, unit)?;
        let bars = bins.iter().map(|b| {
            let corners = [(b.above + 0.004, 0.0), (b.to - 0.004, b.count as f64 / total)];
            Rectangle::new(corners, INK.mix(0.55).filled())
        });
        chart.draw_series(bars)?;
        Ok(())
    }
}
