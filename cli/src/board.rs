//! The contents of the dashboard: training curves and metrics, drawn on the whole terminal.

use incept::low_level::untrusted::printable;
use incept::train::StepMetrics;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, LegendPosition, Paragraph};

use super::report::bytes;
use incept::runs::EpochReport;

/// Okabe and Ito's blue, vermilion and green, as in all plots; blue is lighter, for dark terminals.
const HEADS: [Color; 3] =
    [Color::Rgb(0x56, 0xb4, 0xe9), Color::Rgb(0xd5, 0x5e, 0x00), Color::Rgb(0x00, 0x9e, 0x73)];
/// Okabe and Ito's yellow.
const VALIDATION: Color = Color::Rgb(0xf0, 0xe4, 0x42);
const SOFT: Style = Style::new().add_modifier(Modifier::DIM);

/// Resolution of a curve: at twice as many points, pairs of neighbors are averaged.
const POINTS: usize = 400;

/// Weight of the newest batch in the running mean of accuracies.
const MOMENTUM: f64 = 0.05;

/// A curve over epochs.
#[derive(Clone, Debug, Default)]
struct Curve {
    /// (epoch, value), with fractions of epochs.
    points: Vec<(f64, f64)>,
    /// Number of values averaged into one point.
    each: usize,
    /// Values of the next point.
    pending: Vec<(f64, f64)>,
}

impl Curve {
    fn push(&mut self, x: f64, y: f64) {
        if !y.is_finite() {
            return;
        }
        self.pending.push((x, y));
        if self.pending.len() >= self.each.max(1) {
            self.points.push(mean(&self.pending));
            self.pending.clear();
        }
        if self.points.len() >= 2 * POINTS {
            self.points = self.points.chunks(2).map(mean).collect();
            self.each = 2 * self.each.max(1);
        }
    }
}

fn mean(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len().max(1) as f64;
    (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n)
}

/// A curve to draw: its name, points and color.
type Drawn<'a> = (&'a str, &'a [(f64, f64)], Color);

/// The curves of one head.
#[derive(Clone, Debug)]
struct Head {
    name: &'static str,
    losses: Curve,
    accuracies: Curve,
    /// Running mean of the training accuracy in percent: single batches are too noisy.
    accuracy: Option<f64>,
}

/// The state of the dashboard.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    title: String,
    device: String,
    memory: u64,
    epochs: u64,
    heads: Vec<Head>,
    validation: Vec<(f64, f64)>,
    at: f64,
    rate: f32,
    gradient_norm: Option<f32>,
    images_per_s: f64,
    left: String,
    /// Whether the user has asked to stop.
    pub stopping: bool,
}

impl Board {
    pub(crate) fn new(title: &str, device: &str, memory: u64, epochs: u64) -> Self {
        Self {
            title: printable(title).into_owned(),
            device: printable(device).into_owned(),
            memory,
            epochs,
            heads: Vec::new(),
            validation: Vec::new(),
            at: 0.0,
            rate: 0.0,
            gradient_norm: None,
            images_per_s: 0.0,
            left: "?".into(),
            stopping: false,
        }
    }

    /// Adds a step; `at` is the number of epochs done, with fractions.
    pub(crate) fn step(&mut self, step: &StepMetrics, at: f64, images_per_s: f64, left: &str) {
        if self.heads.is_empty() {
            let head =
                |name| Head { name, losses: Curve::default(), accuracies: Curve::default(), accuracy: None };
            self.heads = step.heads.iter().map(|h| head(h.name)).collect();
        }
        for (head, measured) in self.heads.iter_mut().zip(&step.heads) {
            head.losses.push(at, f64::from(measured.loss));
            let share = 100.0 * f64::from(measured.correct) / step.count.max(1) as f64;
            let before = head.accuracy.unwrap_or(share);
            let mean = before + MOMENTUM * (share - before);
            head.accuracy = Some(mean);
            head.accuracies.push(at, mean);
        }
        (self.at, self.rate) = (at, step.lr);
        // Accumulated batches without an update have none.
        self.gradient_norm = step.gradient_norm.or(self.gradient_norm);
        (self.images_per_s, self.left) = (images_per_s, left.into());
    }

    /// Adds a completed epoch.
    pub(crate) fn epoch(&mut self, record: &EpochReport) {
        let at = (record.summary.epoch + 1) as f64;
        self.validation.extend(record.validation_accuracy.map(|a| (at, 100.0 * a)));
    }

    /// Draws everything.
    pub(crate) fn draw(&self, frame: &mut Frame<'_>) {
        let rows = [Constraint::Length(1), Constraint::Min(8), Constraint::Length(4), Constraint::Length(1)];
        let [top, middle, numbers, bottom] = Layout::vertical(rows).areas(frame.area());
        let title = [
            Span::styled(" incept ", Style::new().add_modifier(Modifier::REVERSED)),
            format!(" {}", self.title).into(),
        ];
        frame.render_widget(Line::from_iter(title), top);
        let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(middle);
        self.losses(frame, left);
        self.accuracies(frame, right);
        self.numbers(frame, numbers);
        let help = if self.stopping {
            " saving a checkpoint and stopping; press q again to quit immediately"
        } else {
            " q or Ctrl-C: save and stop"
        };
        frame.render_widget(Line::styled(help, SOFT), bottom);
    }

    fn losses(&self, frame: &mut Frame<'_>, area: Rect) {
        let values = || self.heads.iter().flat_map(|h| &h.losses.points).map(|p| p.1);
        let high = values().fold(0.1, f64::max) * 1.05;
        let curves = self.heads.iter().zip(HEADS).map(|(h, color)| (h.name, &h.losses.points[..], color));
        self.chart(frame, area, " loss ", high, curves.collect());
    }

    fn accuracies(&self, frame: &mut Frame<'_>, area: Rect) {
        let curves = self.heads.iter().zip(HEADS).map(|(h, color)| (h.name, &h.accuracies.points[..], color));
        let mut curves: Vec<_> = curves.collect();
        curves.push(("validation", &self.validation[..], VALIDATION));
        self.chart(frame, area, " accuracy % ", 100.0, curves);
    }

    fn chart(&self, frame: &mut Frame<'_>, area: Rect, title: &str, high: f64, curves: Vec<Drawn<'_>>) {
        // Losses fall and accuracies rise: place the legend in the other corner.
        let legend = if high == 100.0 { LegendPosition::TopLeft } else { LegendPosition::TopRight };
        let end = self.at.max(0.01);
        let number = |v: f64| if v >= 10.0 { format!("{v:.0}") } else { format!("{v:.2}") };
        let axis = |high: f64| {
            let labels = [0.0, high / 2.0, high].map(|v| Span::styled(number(v), SOFT));
            Axis::default().bounds([0.0, high]).labels(labels).style(SOFT)
        };
        let data = curves.into_iter().map(|(name, points, color)| {
            let set = Dataset::default().name(name.to_string()).data(points).style(Style::new().fg(color));
            set.marker(Marker::Braille).graph_type(GraphType::Line)
        });
        let chart = Chart::new(data.collect())
            .block(Block::bordered().title(title.to_string()).border_style(SOFT))
            .legend_position(Some(legend))
            .hidden_legend_constraints((Constraint::Percentage(60), Constraint::Percentage(60)))
            .x_axis(axis(end).title(Span::styled("epochs", SOFT)))
            .y_axis(axis(high));
        frame.render_widget(chart, area);
    }

    fn numbers(&self, frame: &mut Frame<'_>, area: Rect) {
        let block = Block::bordered().border_style(SOFT);
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let [line, bar] = Layout::vertical([Constraint::Length(1), Constraint::Length(1)]).areas(inner);
        let norm = self.gradient_norm.map_or(String::new(), |n| format!("  gradient norm {n:.2}"));
        let text = format!(
            "{:.0} images/s  learning rate {:.2e}{norm}  {} on {}",
            self.images_per_s,
            self.rate,
            bytes(self.memory),
            self.device
        );
        frame.render_widget(Paragraph::new(text), line);
        let done = (self.at / self.epochs.max(1) as f64).clamp(0.0, 1.0);
        let label = format!("epoch {:.2}/{}  {} left", self.at, self.epochs, self.left);
        frame.render_widget(Gauge::default().ratio(done).label(label).gauge_style(HEADS[0]), bar);
    }
}

#[cfg(test)]
mod tests {
    use incept::train::HeadMetrics;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn board() -> Board {
        let mut board = Board::new("paper on digits", "a test device", 5 << 20, 4);
        for i in 0..1000 {
            let at = f64::from(i) / 500.0;
            let head =
                |name, loss: f64| HeadMetrics { name, loss: loss as f32, correct: (8.0 * at / 2.0) as f32 };
            let loss = 2.3 * (-at).exp();
            let heads = vec![head("main", loss), head("aux1", loss + 0.3), head("aux2", loss + 0.1)];
            let (gradient_norm, rate) = (Some(1.5), 0.01);
            let step = StepMetrics {
                step: i as u64,
                count: 8,
                lr: rate,
                loss: 1.0,
                heads,
                gradient_norm,
                scaling: None,
            };
            board.step(&step, at, 123.4, "42 s");
        }
        board.validation = vec![(1.0, 40.0), (2.0, 90.0)];
        board
    }

    #[test]
    fn dashboard_shows_curves_of_all_heads() {
        let mut terminal = Terminal::new(TestBackend::new(100, 24)).expect("a terminal");
        terminal.draw(|frame| board().draw(frame)).expect("is drawn");
        insta::assert_snapshot!(terminal.backend());
    }

    #[test]
    fn long_runs_are_thinned_and_tiny_terminals_are_drawn() {
        let mut curve = Curve::default();
        (0..100_000).for_each(|i| curve.push(f64::from(i), 1.0));
        assert!(curve.points.len() < 2 * POINTS && curve.points.len() >= POINTS, "{}", curve.points.len());
        assert!(curve.points.iter().all(|p| p.1 == 1.0));
        for (width, height) in [(1, 1), (20, 5)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
            terminal.draw(|frame| board().draw(frame)).expect("is drawn");
        }
    }
}
