//! The curves of a run.

use plotters::prelude::*;

use incept::runs::{EpochRecord, HeadRecord, StepRecord};

use super::source::Curves;
use crate::plot::{Area, Axes, Drawn, Figure, INK, Unit, head_color, legend, line, percent, power_of_ten};

/// The y axis of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Linear, from 0.
    Plain,
    /// Fractions in [0, 1], as percent.
    Share,
    /// Decimal logarithms.
    Logarithmic,
}

/// A series of values over epochs.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub name: String,
    pub color: RGBColor,
    /// (epoch, value).
    pub points: Vec<(f64, f64)>,
    /// Values of single steps, drawn faintly in the background.
    pub faint: Vec<(f64, f64)>,
}

/// A chart of a few series.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub title: &'static str,
    pub scale: Scale,
    pub series: Vec<Series>,
    pub legend: SeriesLabelPosition,
    /// Number of epochs of the run: the end of the x axis of all charts.
    pub epochs: f64,
}

const HEADS: [&str; 3] = ["main", "aux1", "aux2"];

/// Selects a value of a head.
type Of = fn(&HeadRecord) -> f64;

/// Maximum number of epochs in a chart: damaged logs may have any number.
const MAX_EPOCHS: f64 = 1e9;

/// Whether a point can be drawn: losses of diverged training may be NaN, infinite or huge.
fn is_drawable((epoch, value): &(f64, f64)) -> bool {
    (0.0..=MAX_EPOCHS).contains(epoch) && value.abs() < 1e30
}

/// The charts for which the log has values.
pub(super) fn charts(curves: &Curves) -> Vec<Chart> {
    let of_heads = |heads: &[HeadRecord], head: &str, of: Of| heads.iter().find(|h| h.name == head).map(of);
    let done = |e: &EpochRecord| e.epoch.saturating_add(1) as f64;
    let series = |head: &str, name: String, of: Of| Series {
        name,
        color: head_color(head),
        points: curves.epochs.iter().filter_map(|e| Some((done(e), of_heads(&e.heads, head, of)?))).collect(),
        faint: curves.steps.iter().filter_map(|s| Some((s.epoch, of_heads(&s.heads, head, of)?))).collect(),
    };
    let losses = HEADS.map(|head| series(head, head.to_string(), |h| h.loss));
    let mut accuracies: Vec<Series> = HEADS
        .iter()
        .map(|head| Series { faint: Vec::new(), ..series(head, format!("{head}, training"), |h| h.accuracy) })
        .collect();
    let plain = |name: &str, color, points| Series { name: name.into(), color, points, faint: Vec::new() };
    let validation =
        curves.epochs.iter().filter_map(|e| Some((done(e), e.validation.as_ref()?.accuracy))).collect();
    accuracies.push(plain("main, validation", INK, validation));
    // Validation accuracy replaces training accuracy for the auxiliary heads, which have much
    // dropout in training.
    let aux: Vec<Series> = HEADS[1..]
        .iter()
        .map(|head| {
            let found = |e: &EpochRecord| Some((done(e), of_heads(&e.validation_aux, head, |h| h.accuracy)?));
            plain(
                &format!("{head}, validation"),
                head_color(head),
                curves.epochs.iter().filter_map(found).collect(),
            )
        })
        .filter(|series| !series.points.is_empty())
        .collect();
    if !aux.is_empty() {
        accuracies.retain(|series| !HEADS[1..].iter().any(|head| series.name.starts_with(head)));
        accuracies.extend(aux);
    }
    let steps = |of: fn(&StepRecord) -> Option<f64>| -> Vec<(f64, f64)> {
        curves.steps.iter().filter_map(|s| Some((s.epoch, of(s)?))).collect()
    };
    // A run with few images may have logged a single step, which makes no line.
    let epochs = || curves.epochs.iter().map(|e| (done(e), e.lr)).collect();
    let rate = Some(steps(|s| Some(s.lr))).filter(|points| points.len() > 1).unwrap_or_else(epochs);
    let norms = steps(|s| s.gradient_norm);
    let norms = norms.into_iter().filter(|(_, v)| *v > 0.0).map(|(x, v)| (x, v.log10())).collect();
    let ends = curves.epochs.iter().map(done).chain(curves.steps.iter().map(|s| s.epoch));
    let end = ends.filter(|end| *end <= MAX_EPOCHS).fold(0.0, f64::max);
    let chart = |title, scale, mut series: Vec<Series>, legend| {
        for one in &mut series {
            one.points.retain(is_drawable);
            one.faint.retain(is_drawable);
        }
        series.retain(|s| !s.points.is_empty());
        Chart { epochs: end, title, scale, series, legend }
    };
    let (above, below) = (SeriesLabelPosition::UpperRight, SeriesLabelPosition::LowerRight);
    let all = vec![
        chart("Loss per head", Scale::Plain, losses.to_vec(), above.clone()),
        chart("Accuracy", Scale::Share, accuracies, below),
        chart("Learning rate", Scale::Plain, vec![plain("", INK, rate)], above.clone()),
        chart("Gradient norm", Scale::Logarithmic, vec![plain("", INK, norms)], above),
    ];
    all.into_iter().filter(|c| !c.series.is_empty()).collect()
}

impl Figure for Chart {
    fn size(&self) -> (u32, u32) {
        (560, 330)
    }

    fn draw<DB: DrawingBackend>(&self, root: &Area<DB>, unit: Unit) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let points = || self.series.iter().flat_map(|s| &s.points);
        let last = self.epochs.max(1.0);
        let least = points().map(|p| p.1).fold(f64::INFINITY, f64::min);
        let most = points().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
        // Scaled to epochs: the first steps may be far above and are clamped.
        let y = match self.scale {
            Scale::Share => 0.0..1.0,
            Scale::Plain => 0.0..(most * 1.1).max(1e-12),
            Scale::Logarithmic => (least - 0.2).floor()..(most + 0.2).ceil(),
        };
        let plain = |v: &f64| if *v != 0.0 && v.abs() < 0.01 { format!("{v:.0e}") } else { short(*v) };
        let axes = Axes {
            title: self.title,
            x: 0.0..last,
            y: y.clone(),
            x_name: "epochs",
            y_name: "",
            ticks: ((last as usize + 1).clamp(2, 8), 6),
            x_label: &|v| short(*v),
            y_label: match self.scale {
                Scale::Share => &percent,
                Scale::Plain => &plain,
                Scale::Logarithmic => &power_of_ten,
            },
        };
        let inner = root.margin(unit.px(6), unit.px(2), unit.px(2), unit.px(4));
        let mut chart = axes.on(&inner, unit)?;
        for Series { faint, color, .. } in &self.series {
            let inside = faint.iter().map(|(x, v)| (*x, v.clamp(y.start, y.end)));
            chart.draw_series(LineSeries::new(inside, unit.stroke(color.mix(0.22), 1)))?;
        }
        for Series { name, color, points, .. } in &self.series {
            // Many dots would hide the curve.
            if points.len() > 60 {
                let drawn =
                    chart.draw_series(LineSeries::new(points.iter().copied(), unit.stroke(*color, 2)))?;
                if !name.is_empty() {
                    let color = *color;
                    drawn.label(name).legend(move |(x, y)| {
                        let corners = [(x, y - unit.px(2)), (x + unit.px(18), y + unit.px(2))];
                        Rectangle::new(corners, color.filled())
                    });
                }
            } else {
                line(&mut chart, unit, points, *color, name)?;
            }
        }
        if self.series.iter().any(|s| !s.name.is_empty()) {
            legend(&mut chart, unit, self.legend.clone())?;
        }
        Ok(())
    }
}

/// Formats a number with up to three decimals.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_no_trailing_zeros() {
        assert_eq!([0.0, 0.5, 2.0, 0.125].map(short), ["0", "0.5", "2", "0.125"]);
    }

    #[test]
    fn empty_logs_have_no_charts() {
        assert!(charts(&Curves::default()).is_empty());
    }

    #[test]
    fn invalid_values_of_damaged_logs_are_not_drawn() {
        let head = |loss| HeadRecord { name: "main".into(), loss, accuracy: 0.5 };
        let step = |epoch, loss, norm| StepRecord {
            step: 0,
            epoch,
            lr: loss,
            loss,
            heads: vec![head(loss)],
            gradient_norm: Some(norm),
            loss_scale: None,
            images_per_s: f64::NAN,
            seconds: f64::NAN,
        };
        let values = [1.0, f64::NAN, f64::INFINITY, -1e300, 1e300];
        let steps = values.iter().flat_map(|v| [step(*v, *v, *v), step(0.5, *v, *v), step(*v, 0.5, 0.5)]);
        let epoch = |number, loss| EpochRecord {
            epoch: number,
            step: 1,
            lr: loss,
            loss,
            heads: vec![head(loss)],
            validation: None,
            validation_aux: Vec::new(),
            best: false,
            images_per_s: loss,
            seconds: loss,
            device_busy: None,
            memory_bytes: 0,
            time: 0,
        };
        let epochs = values.iter().flat_map(|v| [epoch(0, *v), epoch(u64::MAX, *v)]);
        let charts = charts(&Curves { steps: steps.collect(), epochs: epochs.collect() });
        assert_eq!(charts.len(), 4);
        for chart in &charts {
            assert!(crate::plot::svg(chart).expect("can be drawn").contains("</svg>"));
        }
    }
}
