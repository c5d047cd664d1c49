//! The plot of validation accuracy over epochs: with and without auxiliary heads, and of each head.

use incept::explain::{Comparison, Spread};
use plotters::prelude::*;

use crate::plot::{Area, Axes, Drawn, Figure, INK, Unit, band, head_color, heading, legend, line, percent};

/// The charts of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charts {
    /// Side by side.
    Both,
    /// The main head with and without auxiliary heads.
    Auxiliary,
    /// Each head.
    Heads,
}

pub(super) struct CurvesFigure<'a> {
    pub comparison: &'a Comparison,
    pub subtitle: String,
    pub charts: Charts,
}

/// One curve of a chart.
struct Series {
    spreads: Vec<Spread>,
    color: RGBColor,
    name: &'static str,
}

impl Figure for CurvesFigure<'_> {
    fn size(&self) -> (u32, u32) {
        if self.charts == Charts::Both { (1060, 470) } else { (860, 470) }
    }

    fn draw<DB: DrawingBackend>(&self, root: &Area<DB>, unit: Unit) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        heading(root, unit, "Training with and without auxiliary heads", &self.subtitle)?;
        let below = root.margin(unit.px(78), unit.px(10), unit.px(16), unit.px(10));
        let series = |with, head: &str, color, name| Series {
            spreads: self.comparison.spread(with, head),
            color,
            name,
        };
        let aux = [
            series(true, "main", head_color("main"), "with aux1 and aux2"),
            series(false, "main", INK, "without"),
        ];
        let heads = [
            series(true, "main", head_color("main"), "main"),
            series(true, "aux2", head_color("aux2"), "aux2, on 4d"),
            series(true, "aux1", head_color("aux1"), "aux1, on 4a"),
        ];
        let aux = |area: &Area<DB>| chart(area, unit, "Validation accuracy of the main head", &aux);
        let heads = |area: &Area<DB>| chart(area, unit, "Validation accuracy of each head", &heads);
        match self.charts {
            Charts::Both => {
                let (left, right) = below.split_horizontally(unit.px(530));
                aux(&left)?;
                heads(&right)
            }
            Charts::Auxiliary => aux(&below),
            Charts::Heads => heads(&below),
        }
    }
}

fn chart<DB: DrawingBackend>(area: &Area<DB>, unit: Unit, title: &str, series: &[Series]) -> Drawn
where
    DB::ErrorType: 'static,
{
    let epochs = series.iter().map(|s| s.spreads.len().saturating_sub(1)).max().unwrap_or(0).max(1);
    let axes = Axes {
        title,
        x: 0.0..epochs as f64,
        y: 0.0..1.0,
        x_name: "epochs",
        y_name: "",
        ticks: (epochs.min(10) + 1, 6),
        x_label: &|v| if (v - v.round()).abs() < 1e-6 { format!("{v:.0}") } else { String::new() },
        y_label: &percent,
    };
    let mut chart = axes.on(area, unit)?;
    let at = |s: &Series| {
        s.spreads.clone().into_iter().enumerate().map(|(e, s)| (e as f64, s)).collect::<Vec<_>>()
    };
    for one in series {
        let ranges: Vec<(f64, f64, f64)> = at(one).into_iter().map(|(x, s)| (x, s.least, s.most)).collect();
        if ranges.iter().any(|(_, least, most)| least < most) {
            band(&mut chart, &ranges, one.color)?;
        }
    }
    for one in series {
        let mean: Vec<(f64, f64)> = at(one).into_iter().map(|(x, s)| (x, s.mean)).collect();
        line(&mut chart, unit, &mean, one.color, one.name)?;
    }
    legend(&mut chart, unit, SeriesLabelPosition::UpperLeft)
}
