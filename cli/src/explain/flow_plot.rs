//! The plot of the gradients of the three losses over the depth of the network.

use std::ops::Range;

use incept::explain::{GradientFlow, PartFlow};
use plotters::prelude::*;

use crate::plot::{
    Area, Axes, Chart, Drawn, Figure, INK, Unit, head_color, heading, legend, line, marker, percent,
    power_of_ten,
};

pub(super) struct FlowFigure<'a> {
    pub flow: &'a GradientFlow,
    pub subtitle: String,
}

impl Figure for FlowFigure<'_> {
    fn size(&self) -> (u32, u32) {
        (960, 640)
    }

    fn draw<DB: DrawingBackend>(&self, root: &Area<DB>, unit: Unit) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        heading(root, unit, "Gradient of each loss per block of the network", &self.subtitle)?;
        let below = root.margin(unit.px(76), unit.px(8), unit.px(20), unit.px(14));
        let (upper, lower) = below.split_vertically(unit.px(330));
        // The auxiliary heads' own layers are not part of the trunk.
        let trunk: Vec<&PartFlow> = self.flow.parts.iter().filter(|p| !p.part.starts_with("aux")).collect();
        self.norms(&upper, unit, &trunk)?;
        self.shares(&lower, unit, &trunk)
    }
}

/// Marks where the auxiliary heads branch off: between the block that they read and the next.
fn branches<DB: DrawingBackend>(
    chart: &mut Chart<'_, DB>,
    unit: Unit,
    trunk: &[&PartFlow],
    y: &Range<f64>,
    words: bool,
) -> Drawn
where
    DB::ErrorType: 'static,
{
    for (head, tap) in [("aux1", "4a"), ("aux2", "4d")] {
        if let Some(at) = trunk.iter().position(|p| p.part == tap) {
            let word = if words { format!("{head} on {tap}") } else { String::new() };
            marker(chart, unit, at as f64 + 0.5, y, &word, head_color(head))?;
        }
    }
    Ok(())
}

/// The block at a position of the x axis, which is its index in `trunk`.
fn part_at<'a>(trunk: &[&'a PartFlow], value: f64) -> Option<&'a PartFlow> {
    let is_index = (value - value.round()).abs() < 1e-6 && value > -0.5;
    if is_index { trunk.get(value.round() as usize).copied() } else { None }
}

impl FlowFigure<'_> {
    /// Plots the norms of the weighted gradients and of their sum, logarithmically.
    fn norms<DB: DrawingBackend>(&self, area: &Area<DB>, unit: Unit, trunk: &[&PartFlow]) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let all = || {
            let losses = trunk.iter().flat_map(|p| p.losses.iter().map(|l| l.weighted));
            losses.chain(trunk.iter().map(|p| p.sum)).filter(|v| *v > 0.0).map(f64::log10)
        };
        let least = all().fold(f64::INFINITY, f64::min);
        let most = all().fold(f64::NEG_INFINITY, f64::max);
        let (least, most) = if least.is_finite() { (least.floor(), most.ceil()) } else { (-1.0, 0.0) };
        let y = least..(most + 0.25 * (most - least).max(1.0));
        let axes = Axes {
            title: "",
            x: -0.6..trunk.len() as f64 - 0.4,
            y: y.clone(),
            x_name: "",
            y_name: "norm of the weighted gradient",
            ticks: (trunk.len() + 2, (y.end - y.start).ceil() as usize + 1),
            x_label: &|v| part_at(trunk, *v).map_or(String::new(), |p| p.part.to_string()),
            y_label: &power_of_ten,
        };
        let mut chart = axes.on(area, unit)?;
        branches(&mut chart, unit, trunk, &y, true)?;
        let sum = trunk.iter().enumerate().map(|(i, p)| (i as f64, p.sum.log10()));
        let sum: Vec<(f64, f64)> = sum.filter(|(_, v)| v.is_finite()).collect();
        if self.flow.losses.len() > 1 {
            line(&mut chart, unit, &sum, INK, "sum")?;
        }
        for (i, loss) in self.flow.losses.iter().enumerate() {
            let points = trunk.iter().enumerate().map(|(x, p)| (x as f64, p.losses[i].weighted.log10()));
            let points: Vec<(f64, f64)> = points.filter(|(_, v)| v.is_finite()).collect();
            let name = if loss.name == "main" {
                "main".to_string()
            } else {
                format!("{} (weight {})", loss.name, loss.weight)
            };
            line(&mut chart, unit, &points, head_color(loss.name), &name)?;
        }
        legend(&mut chart, unit, SeriesLabelPosition::LowerRight)
    }

    /// Plots each loss's share of the summed gradient as stacked bars.
    fn shares<DB: DrawingBackend>(&self, area: &Area<DB>, unit: Unit, trunk: &[&PartFlow]) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let below = |p: &&PartFlow| p.losses.iter().map(|l| l.share.min(0.0)).sum::<f64>();
        let above = |p: &&PartFlow| p.losses.iter().map(|l| l.share.max(0.0)).sum::<f64>();
        let least = trunk.iter().map(below).fold(0.0, f64::min);
        let most = trunk.iter().map(above).fold(1.0, f64::max);
        let y = least..most;
        let axes = Axes {
            title: "",
            x: -0.6..trunk.len() as f64 - 0.4,
            y: y.clone(),
            x_name: "block (depth: number of layers with weights up to its end)",
            y_name: "share of the gradient (projection on the sum)",
            ticks: (trunk.len() + 2, 6),
            x_label: &|v| part_at(trunk, *v).map_or(String::new(), |p| format!("{} ({})", p.part, p.depth)),
            y_label: &percent,
        };
        let mut chart = axes.on(area, unit)?;
        for (x, part) in trunk.iter().enumerate() {
            let (mut up, mut down) = (0.0, 0.0);
            for (loss, share) in self.flow.losses.iter().zip(&part.losses) {
                let from = if share.share < 0.0 { &mut down } else { &mut up };
                let (start, end) = (*from, *from + share.share);
                *from = end;
                let corners = [(x as f64 - 0.36, start), (x as f64 + 0.36, end)];
                chart.draw_series([Rectangle::new(corners, head_color(loss.name).filled())])?;
            }
        }
        branches(&mut chart, unit, trunk, &y, false)
    }
}
