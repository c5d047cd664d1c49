//! The contents of the dashboard, drawn on the whole terminal: training curves, and their last
//! values as a table, which is the legend too.

use incept::low_level::untrusted::printable;
use incept::train::StepMetrics;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph};

use super::report::{bytes, thousands};
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

/// Columns from which on the numbers are at the right of the curves.
const WIDE: u16 = 100;

/// Columns of the numbers at the right, with their border.
const PANEL: u16 = 42;

/// Rows from which on the two charts are stacked.
const STACKED: u16 = 16;

/// A curve to draw: its points and color.
type Drawn<'a> = (&'a [(f64, f64)], Color);

/// The curves of one head.
#[derive(Clone, Debug)]
struct Head {
    name: &'static str,
    /// Loss on the last batch.
    loss: f64,
    losses: Curve,
    accuracies: Curve,
    /// Running mean of the training accuracy in percent: single batches are too noisy.
    accuracy: Option<f64>,
}

/// A validation accuracy in percent, after this many epochs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Validated {
    epochs: u64,
    accuracy: f64,
}

impl Validated {
    fn text(&self) -> String {
        format!("{:.2}% after epoch {}", self.accuracy, self.epochs)
    }
}

/// The state of the dashboard.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    title: String,
    device: String,
    memory: u64,
    epochs: u64,
    heads: Vec<Head>,
    /// Validation accuracy of the main head, for the curve.
    validation: Vec<(f64, f64)>,
    /// Name and validation accuracy in percent of each head after the last epoch.
    validated: Vec<(String, f64)>,
    last: Option<Validated>,
    best: Option<Validated>,
    at: f64,
    /// Completed steps.
    steps: u64,
    rate: f32,
    gradient_norm: Option<f32>,
    images_per_s: f64,
    left: String,
    /// Whether the user has asked to stop.
    pub stopping: bool,
}

impl Board {
    /// `best` is the best validation accuracy so far of a resumed run, in [0, 1], and its epoch
    /// from 0.
    pub(crate) fn new(title: &str, device: &str, memory: u64, epochs: u64, best: Option<(f64, u64)>) -> Self {
        Self {
            title: printable(title).into_owned(),
            device: printable(device).into_owned(),
            memory,
            epochs,
            heads: Vec::new(),
            validation: Vec::new(),
            validated: Vec::new(),
            last: None,
            best: best.map(|(accuracy, epoch)| Validated { epochs: epoch + 1, accuracy: 100.0 * accuracy }),
            at: 0.0,
            steps: 0,
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
            let head = |name| Head {
                name,
                loss: f64::NAN,
                losses: Curve::default(),
                accuracies: Curve::default(),
                accuracy: None,
            };
            self.heads = step.heads.iter().map(|h| head(h.name)).collect();
        }
        for (head, measured) in self.heads.iter_mut().zip(&step.heads) {
            head.loss = f64::from(measured.loss);
            head.losses.push(at, head.loss);
            let share = 100.0 * f64::from(measured.correct) / step.count.max(1) as f64;
            let before = head.accuracy.unwrap_or(share);
            let mean = before + MOMENTUM * (share - before);
            head.accuracy = Some(mean);
            head.accuracies.push(at, mean);
        }
        (self.at, self.rate, self.steps) = (at, step.lr, step.step + 1);
        // Accumulated batches without an update have none.
        self.gradient_norm = step.gradient_norm.or(self.gradient_norm);
        (self.images_per_s, self.left) = (images_per_s, left.into());
    }

    /// Adds a completed epoch.
    pub(crate) fn epoch(&mut self, record: &EpochReport) {
        let epochs = record.summary.epoch + 1;
        let Some(accuracy) = record.validation_accuracy.map(|share| 100.0 * share) else { return };
        self.validation.push((epochs as f64, accuracy));
        let aux = record.validation_aux.iter().map(|head| (head.name.clone(), 100.0 * head.accuracy));
        self.validated = [("main".to_string(), accuracy)].into_iter().chain(aux).collect();
        let validated = Validated { epochs, accuracy };
        self.last = Some(validated);
        if record.best {
            self.best = Some(validated);
        }
    }

    /// Draws everything: with enough columns the numbers are at the right of the curves, else below
    /// them.
    pub(crate) fn draw(&self, frame: &mut Frame<'_>) {
        let table = self.table();
        let rows = [Constraint::Length(1), Constraint::Min(5), Constraint::Length(1), Constraint::Length(1)];
        let [top, middle, bar, bottom] = Layout::vertical(rows).areas(frame.area());
        let title = [
            Span::styled(" incept ", Style::new().add_modifier(Modifier::REVERSED)),
            format!(" {}, on {}", self.title, self.device).into(),
        ];
        frame.render_widget(Line::from_iter(title), top);
        let (curves, numbers) = if middle.width >= WIDE {
            let columns = [Constraint::Fill(1), Constraint::Length(PANEL)];
            let [curves, panel] = Layout::horizontal(columns).areas(middle);
            let block = Block::bordered().border_style(SOFT);
            let inner = block.inner(panel);
            frame.render_widget(block, panel);
            let more = self.facts().into_iter().map(|(name, value)| fact(name, &value));
            let lines: Vec<Line<'_>> = table.into_iter().chain([Line::default()]).chain(more).collect();
            (curves, (Paragraph::new(lines), inner))
        } else {
            let lines: Vec<Line<'_>> = table.into_iter().chain(self.short_facts()).collect();
            let rows = [Constraint::Min(4), Constraint::Length(lines.len() as u16)];
            let [curves, below] = Layout::vertical(rows).areas(middle);
            (curves, (Paragraph::new(lines), below))
        };
        frame.render_widget(numbers.0, numbers.1);
        // Curves need width more than height.
        let fill = [Constraint::Fill(1), Constraint::Fill(1)];
        let stacked = curves.height >= STACKED && curves.width < 5 * curves.height;
        let layout = if stacked { Layout::vertical(fill) } else { Layout::horizontal(fill) };
        let [first, second] = layout.areas(curves);
        self.losses(frame, first);
        self.accuracies(frame, second);
        let done = (self.at / self.epochs.max(1) as f64).clamp(0.0, 1.0);
        let label = format!("{:.0}%  {} left", 100.0 * done, self.left);
        frame.render_widget(Gauge::default().ratio(done).label(label).gauge_style(HEADS[0]), bar);
        let help = if self.stopping {
            " saving a checkpoint and stopping; press q again to quit immediately"
        } else {
            " q or Ctrl-C: save and stop"
        };
        frame.render_widget(Line::styled(help, SOFT), bottom);
    }

    /// The last values of the curves, in their colors: per head loss, training accuracy and
    /// validation accuracy; and the best validation accuracy.
    fn table(&self) -> Vec<Line<'static>> {
        let header = format!("{:10}{:>8}{:>10}{:>12}", "", "loss", "training", "validation");
        let mut lines = vec![Line::styled(header, SOFT)];
        for (i, (head, color)) in self.heads.iter().zip(HEADS).enumerate() {
            let accuracy = head.accuracy.map_or("-".into(), |a| format!("{a:.1}%"));
            let validated = self.validated.iter().find(|(name, _)| name == head.name);
            let validated = validated.map_or("-".into(), |(_, a)| format!("{a:.2}%"));
            let numbers = format!("{:>8}{accuracy:>10}", loss(head.loss));
            let validated = Span::styled(
                format!("{validated:>12}"),
                Style::new().fg(if i == 0 { VALIDATION } else { Color::Reset }),
            );
            let name = Span::styled(format!("\u{2501} {:8}", head.name), Style::new().fg(color));
            lines.push(Line::from_iter([name, numbers.into(), validated]));
        }
        let key = Span::styled("\u{2501} ", Style::new().fg(VALIDATION));
        let text = self.last.map_or("validation after each epoch".into(), |last| {
            format!("validation, main: {}", last.text())
        });
        lines.push(Line::from_iter([key, text.into()]));
        let best = self.best.map_or("-".into(), |best| best.text());
        lines.push(Line::from(format!("  best: {best}")));
        lines
    }

    /// Names and values for the panel.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("epoch", format!("{:.2} of {}", self.at, self.epochs)),
            ("step", thousands(self.steps)),
            ("speed", format!("{:.0} images/s", self.images_per_s)),
            ("time left", self.left.clone()),
            ("learning rate", format!("{:.2e}", self.rate)),
        ];
        facts.extend(self.gradient_norm.map(|norm| ("gradient norm", format!("{norm:.2}"))));
        facts.push(("memory", bytes(self.memory)));
        facts
    }

    /// The same in two lines.
    fn short_facts(&self) -> [Line<'static>; 2] {
        let norm = self.gradient_norm.map_or(String::new(), |n| format!("  gradient norm {n:.2}"));
        [
            Line::from(format!(
                "epoch {:.2} of {}  step {}  {:.0} images/s  {} left",
                self.at,
                self.epochs,
                thousands(self.steps),
                self.images_per_s,
                self.left
            )),
            Line::from(format!("learning rate {:.2e}{norm}  {}", self.rate, bytes(self.memory))),
        ]
    }

    fn losses(&self, frame: &mut Frame<'_>, area: Rect) {
        let values = || self.heads.iter().flat_map(|h| &h.losses.points).map(|p| p.1);
        let high = values().fold(0.1, f64::max) * 1.05;
        let curves = self.heads.iter().zip(HEADS).map(|(h, color)| (&h.losses.points[..], color));
        self.chart(frame, area, " loss ", high, curves.collect());
    }

    fn accuracies(&self, frame: &mut Frame<'_>, area: Rect) {
        let curves = self.heads.iter().zip(HEADS).map(|(h, color)| (&h.accuracies.points[..], color));
        let mut curves: Vec<_> = curves.collect();
        curves.push((&self.validation[..], VALIDATION));
        self.chart(frame, area, " accuracy % ", 100.0, curves);
    }

    /// Draws curves without a legend, which would cover them: the table has their colors.
    fn chart(&self, frame: &mut Frame<'_>, area: Rect, title: &str, high: f64, curves: Vec<Drawn<'_>>) {
        let end = self.at.max(0.01);
        let number = |v: f64| if v >= 10.0 { format!("{v:.0}") } else { format!("{v:.2}") };
        let axis = |high: f64| {
            let labels = [0.0, high / 2.0, high].map(|v| Span::styled(number(v), SOFT));
            Axis::default().bounds([0.0, high]).labels(labels).style(SOFT)
        };
        let data = curves.into_iter().map(|(points, color)| {
            let set = Dataset::default().data(points).style(Style::new().fg(color));
            set.marker(Marker::Braille).graph_type(GraphType::Line)
        });
        let block = Block::bordered().border_style(SOFT).title(title.to_string());
        let chart = Chart::new(data.collect())
            .block(block.title_bottom(Line::styled(" epochs ", SOFT).right_aligned()))
            .legend_position(None)
            .x_axis(axis(end))
            .y_axis(axis(high));
        frame.render_widget(chart, area);
    }
}

/// Formats a loss; `-` if it is not finite.
fn loss(value: f64) -> String {
    if value.is_finite() { format!("{value:.3}") } else { "-".into() }
}

/// A line of the panel.
fn fact(name: &'static str, value: &str) -> Line<'static> {
    Line::from_iter([Span::styled(format!("{name:14}"), SOFT), format!(" {value}").into()])
}

#[cfg(test)]
mod tests {
    use incept::train::HeadMetrics;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn board() -> Board {
        let mut board = Board::new("paper on digits", "a test device", 5 << 20, 4, None);
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
        board.validation = vec![(1.0, 93.5), (2.0, 90.0)];
        let validated = [("main", 90.0), ("aux1", 70.5), ("aux2", 80.25)];
        board.validated = validated.map(|(name, accuracy)| (name.to_string(), accuracy)).to_vec();
        board.last = Some(Validated { epochs: 2, accuracy: 90.0 });
        board.best = Some(Validated { epochs: 1, accuracy: 93.5 });
        board
    }

    /// The dashboard as text, one line per row of the terminal.
    fn rendered(board: &Board, (width, height): (u16, u16)) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| board.draw(frame)).expect("is drawn");
        let buffer = terminal.backend().buffer().clone();
        let cell = |x, y| buffer.cell((x, y)).map_or(" ", |cell| cell.symbol());
        (0..height).map(|y| (0..width).map(|x| cell(x, y)).collect()).collect()
    }

    #[test]
    fn every_size_has_curves_and_all_numbers() {
        let board = board();
        for size in [(60, 20), (80, 24), (120, 40), (200, 60)] {
            let lines = rendered(&board, size);
            let page = lines.join("\n");
            // Not cut off at any border.
            for text in [
                "loss  training  validation",
                "\u{2501} main       0.312     98.0%      90.00%",
                "\u{2501} aux1       0.612     98.0%      70.50%",
                "\u{2501} aux2       0.412     98.0%      80.25%",
                "\u{2501} validation, main: 90.00% after epoch 2",
                "best: 93.50% after epoch 1",
                "123 images/s",
                "2.00 of 4",
                "1,000",
                "50%  42 s left",
                "q or Ctrl-C: save and stop",
                " loss ",
                " accuracy % ",
                "paper on digits, on a test device",
                "learning rate",
                "gradient norm",
                "5.0 MiB",
            ] {
                assert!(page.contains(text), "{size:?}: no `{text}`:\n{page}");
            }
            // Curves from the first to the last column of a chart.
            let braille = |text: &str| text.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c));
            let rows = lines.iter().filter(|line| braille(line)).count();
            assert!(rows >= usize::from(size.1) / 4, "{size:?}: curves in {rows} rows:\n{page}");
            assert!(lines.iter().all(|line| line.chars().count() == usize::from(size.0)), "{page}");
            insta::assert_snapshot!(format!("dashboard_{}x{}", size.0, size.1), page);
        }
    }

    #[test]
    fn a_resumed_run_keeps_its_best_accuracy() {
        let board = Board::new("t", "d", 0, 4, Some((0.875, 2)));
        let page = rendered(&board, (80, 24)).join("\n");
        assert!(page.contains("best: 87.50% after epoch 3"), "{page}");
        assert!(page.contains("validation after each epoch"), "{page}");
    }

    #[test]
    fn long_runs_are_thinned_and_tiny_terminals_are_drawn() {
        let mut curve = Curve::default();
        (0..100_000).for_each(|i| curve.push(f64::from(i), 1.0));
        assert!(curve.points.len() < 2 * POINTS && curve.points.len() >= POINTS, "{}", curve.points.len());
        assert!(curve.points.iter().all(|p| p.1 == 1.0));
        for size in [(1, 1), (20, 5), (99, 3), (300, 4)] {
            assert_eq!(rendered(&board(), size).len(), usize::from(size.1));
        }
    }
}
