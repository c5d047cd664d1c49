//! The reliability diagram: accuracy over confidence, with the number of pictures below.

use incept::evaluate::{Reliability, ReliabilityBin};
use plotters::prelude::*;

use crate::cli::plot::{
    Area, Axes, BLUE, Drawn, Figure, INK, SOFT, Unit, VERMILION, heading, legend, line, percent,
};

pub(crate) struct ReliabilityFigure<'a> {
    pub reliability: &'a Reliability,
    pub subtitle: String,
}

impl Figure for ReliabilityFigure<'_> {
    fn size(&self) -> (u32, u32) {
        (620, 680)
    }

    fn draw<DB: DrawingBackend>(&self, root: &Area<DB>, unit: Unit) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        heading(root, unit, "Do probabilities mean what they say?", &self.subtitle)?;
        let below = root.margin(unit.px(80), unit.px(12), unit.px(18), unit.px(14));
        let (upper, lower) = below.split_vertically(unit.px(410));
        let bins = self.reliability.bins();
        let there: Vec<&ReliabilityBin> = bins.iter().filter(|b| b.count > 0).collect();
        accuracy(&upper, unit, &there)?;
        self.pictures(&lower, unit, &there)
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
    let bars = bins.iter().map(|b| Rectangle::new(bar(0.0, b.accuracy, b), BLUE.mix(0.75).filled()));
    let key = |color: RGBAColor| {
        move |(x, y): (i32, i32)| {
            Rectangle::new([(x, y - unit.px(5)), (x + unit.px(16), y + unit.px(5))], color.filled())
        }
    };
    chart.draw_series(bars)?.label("accuracy of the pictures").legend(key(BLUE.mix(0.75)));
    let gaps = bins.iter().map(|b| {
        let (low, high) = (b.accuracy.min(b.confidence), b.accuracy.max(b.confidence));
        Rectangle::new(bar(low, high, b), VERMILION.mix(0.35).filled())
    });
    chart.draw_series(gaps)?.label("gap to their mean confidence").legend(key(VERMILION.mix(0.35)));
    line(&mut chart, unit, &[(0.0, 0.0), (1.0, 1.0)], SOFT, "if they meant it")?;
    legend(&mut chart, unit, SeriesLabelPosition::UpperLeft)
}

impl ReliabilityFigure<'_> {
    fn pictures<DB: DrawingBackend>(&self, area: &Area<DB>, unit: Unit, bins: &[&ReliabilityBin]) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let total = self.reliability.count().max(1) as f64;
        let most = bins.iter().map(|b| b.count as f64 / total).fold(0.0, f64::max).max(0.01);
        let axes = Axes {
            title: "",
            x: 0.0..1.0,
            y: 0.0..most * 1.08,
            x_name: "confidence: the probability of the most probable class",
            y_name: "share of pictures",
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
