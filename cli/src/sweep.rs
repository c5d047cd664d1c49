//! `incept eval --early-exit`: temperature scaling, a sweep over thresholds, and a timed run at the
//! recommended one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use incept::data::{Dataset, Loader, LoaderOptions, Subset, stratified};
use incept::device::Device;
use incept::explain::{SweepPoint, THRESHOLDS, sweep};
use incept::infer::calibrate;
use incept::infer::{Answer, Classifier, EarlyExit, Exit, HeadLogits, require_finite, top};
use incept::model::{GoogLeNet, summary};
use incept::optim::{Progress, TrainingState};
use incept::tensor::Element;
use incept::{Error, Result};
use plotters::prelude::*;
use serde::Serialize;

use super::early_exit::{Calibrated, HeadCalibration};
use super::plot::{self, Area, Axes, BLUE, Drawn, Figure, INK, SOFT, Unit, VERMILION, heading, legend, line};
use super::report::{Rate, Reporter, note, plural, shown};

/// Fraction of the images in the calibration set, which fits the temperatures and chooses the
/// threshold; the others are evaluated.
const CALIBRATION: f64 = 0.2;
/// Maximum loss of accuracy, plus a standard error, at the recommended threshold.
const ALLOWED_LOSS: f64 = 0.005;

/// A checkpoint and the data to evaluate it on.
pub(crate) struct Subject<'a> {
    pub device: &'a Device,
    pub checkpoint: &'a std::path::Path,
    pub network: &'a GoogLeNet,
    pub state: &'a TrainingState,
    pub progress: &'a Progress,
    pub element: Element,
    pub set: Arc<dyn Dataset>,
    pub data: &'a str,
    pub options: LoaderOptions,
}

/// The timed run with early exit.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    threshold: f32,
    accuracy: f64,
    /// Number of images that exit at each head.
    answered: Vec<usize>,
    dispatches: u64,
    seconds: f64,
    /// The same images with the main head alone.
    full_accuracy: f64,
    full_dispatches: u64,
    full_seconds: f64,
}

/// Temperatures, and early exit at each threshold.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Swept {
    pub heads: Vec<&'static str>,
    pub calibration: Vec<HeadCalibration>,
    pub calibration_images: usize,
    /// Number of evaluated images, without those of the calibration.
    pub images: usize,
    /// Accuracy of each head on them, in [0, 1].
    pub head_accuracies: Vec<f64>,
    /// Multiply-adds of an image that exits at each head.
    pub macs: Vec<u64>,
    /// Multiply-adds of a network with the main head only.
    pub macs_full: u64,
    pub points: Vec<SweepPoint>,
    /// The point of the threshold that the calibration set recommends; none if there is none.
    pub recommended: Option<SweepPoint>,
}

#[derive(Serialize)]
struct SweepResult<'a> {
    event: &'static str,
    #[serde(flatten)]
    swept: &'a Swept,
    measured: Option<Measured>,
    calibration_file: &'a std::path::Path,
    plots: &'a [PathBuf],
}

/// Fits the temperatures on a fifth of the images, sweeps over the thresholds on the others, and
/// returns these too.
pub(crate) fn swept(
    device: &Device,
    network: &GoogLeNet,
    staged: &mut EarlyExit,
    (set, options): (&Arc<dyn Dataset>, &LoaderOptions),
    reporter: &Reporter,
) -> Result<(Swept, Arc<dyn Dataset>)> {
    let (evaluation, calibration) = stratified(set.as_ref(), CALIBRATION, 0);
    if evaluation.is_empty() || calibration.is_empty() {
        let images = plural(set.len() as u64, "image");
        return Err(Error::Config(format!("{images}: too few for calibration")));
    }
    let subset = |indices| -> Arc<dyn Dataset> { Arc::new(Subset::new(Arc::clone(set), indices)) };
    let (evaluation, calibration) = (subset(evaluation), subset(calibration));
    let heads = staged.heads();
    let mut logits = |set: &Arc<dyn Dataset>, label| {
        let loader = Loader::new(Arc::clone(set), options.clone())?;
        all_heads(device, staged, &loader, label, reporter)
    };
    let calibrating = logits(&calibration, "calibration")?;
    let all = logits(&evaluation, "all heads")?;
    let fit = |(head, logits): (&&str, &Vec<Vec<f32>>)| HeadCalibration {
        head: (*head).to_string(),
        calibration: calibrate(logits, &calibrating.labels),
    };
    let calibration: Vec<HeadCalibration> = heads.iter().zip(&calibrating.logits).map(fit).collect();
    let temperatures: Vec<f32> = calibration.iter().map(|c| c.calibration.temperature).collect();
    let macs_full = summary(&network.build(1)?).macs_inference;
    let macs = staged.macs();
    let points = sweep(&all, &temperatures, &macs, macs_full, &THRESHOLDS);
    // The calibration set chooses the threshold, so that the evaluation is unbiased.
    let chosen = choose(&sweep(&calibrating, &temperatures, &macs, macs_full, &THRESHOLDS));
    let swept = Swept {
        head_accuracies: (0..heads.len()).map(|head| all.accuracy(head)).collect(),
        recommended: points.iter().find(|p| Some(p.threshold) == chosen).cloned(),
        calibration_images: calibrating.labels.len(),
        images: all.labels.len(),
        heads,
        calibration,
        macs,
        macs_full,
        points,
    };
    Ok((swept, evaluation))
}

/// The logits of all heads for a set.
fn all_heads(
    device: &Device,
    staged: &mut EarlyExit,
    loader: &Loader,
    label: &str,
    reporter: &Reporter,
) -> Result<HeadLogits> {
    let mut bar = reporter.bar(label, loader.len() as u64);
    let (mut all, mut rate) = (HeadLogits::default(), Rate::new());
    for batch in loader.epoch(0, 0) {
        let batch = batch?;
        let found = device.block_on(staged.all_heads(&batch))?;
        found.logits.iter().try_for_each(|rows| require_finite(rows))?;
        all.extend(found);
        rate.add(batch.count);
        let left = rate.left(loader.len().saturating_sub(all.labels.len()));
        bar.update(all.labels.len() as u64, || format!("{:.0} images/s  {left} left", rate.per_second()));
    }
    Ok(all)
}

impl Subject<'_> {
    pub(crate) fn sweep(&self, plots: &[PathBuf], reporter: &Reporter) -> Result<()> {
        let staged = EarlyExit::new(self.device, self.network, self.options.batch, self.element, self.state);
        let mut staged = self.device.block_on(staged)?;
        let (swept, evaluation) =
            swept(self.device, self.network, &mut staged, (&self.set, &self.options), reporter)?;
        swept.print(reporter)?;
        let Swept { calibration, calibration_images, images, recommended, points, .. } = &swept;
        let measured = match recommended {
            Some(point) => {
                let exit = calibration.iter().fold(Exit::new(point.threshold), |exit, head| {
                    exit.temperature(&head.head, head.calibration.temperature)
                });
                Some(self.measure(&mut staged, &exit, &evaluation, reporter)?)
            }
            None => None,
        };
        let saved = Calibrated {
            heads: calibration.iter().map(|h| (h.head.clone(), h.calibration)).collect(),
            images: *calibration_images,
            threshold: recommended.as_ref().map(|p| p.threshold),
            progress: self.progress.clone(),
        }
        .save(self.checkpoint)?;
        let figure = SweepFigure {
            points,
            main: swept.head_accuracies.first().copied().unwrap_or(0.0),
            recommended: recommended.as_ref(),
            subtitle: format!(
                "{}, {} of {}",
                shown(self.checkpoint),
                plural(*images as u64, "image"),
                self.data
            ),
        };
        plots.iter().try_for_each(|path| plot::save(&figure, path))?;
        let files: Vec<String> = plots.iter().map(|p| shown(p)).collect();
        reporter.line(&format!(
            "plot: {}; calibration for `incept classify --early-exit`: {}",
            files.join(", "),
            shown(&saved)
        ))?;
        reporter.event(&SweepResult {
            event: "early_exit",
            swept: &swept,
            measured,
            calibration_file: &saved,
            plots,
        })
    }

    /// Runs and times early exit and the main head alone on the same images.
    fn measure(
        &self,
        staged: &mut EarlyExit,
        exit: &Exit,
        set: &Arc<dyn Dataset>,
        reporter: &Reporter,
    ) -> Result<Measured> {
        let batch = self.options.batch;
        let mut whole = self.device.block_on(Classifier::new(
            self.device,
            self.network,
            batch,
            self.element,
            self.state,
        ))?;
        let loader = Loader::new(Arc::clone(set), self.options.clone())?;
        let mut bar = reporter.bar("early exit and whole network", 2 * loader.len() as u64);
        // Warm-up of the whole network; early exit has run already.
        if let Some(first) = loader.epoch(0, 0).next() {
            self.device.block_on(whole.probabilities(&first?))?;
        }
        let (before, earlier) = (staged.dispatches(), staged.images());
        let (mut labels, mut answers): (Vec<u32>, Vec<Answer>) = (Vec::new(), Vec::new());
        let (mut seconds, mut full_seconds) = (0.0, 0.0);
        let (mut full_correct, mut batches) = (0usize, 0u64);
        for batch in loader.epoch(0, 0) {
            let batch = batch?;
            let real = || batch.labels.iter().copied().filter(|l| *l != incept::data::Batch::MISSING);
            labels.extend(real());
            let start = Instant::now();
            answers.extend(self.device.block_on(staged.push(&batch, exit))?);
            seconds += start.elapsed().as_secs_f64();
            let start = Instant::now();
            let rows = self.device.block_on(whole.probabilities(&batch))?;
            full_seconds += start.elapsed().as_secs_f64();
            batches += 1;
            full_correct +=
                rows.iter().zip(real()).filter(|(row, l)| top(row, 1)[0].class == *l as usize).count();
            bar.update(2 * labels.len() as u64, String::new);
        }
        let start = Instant::now();
        answers.extend(self.device.block_on(staged.finish(exit))?);
        seconds += start.elapsed().as_secs_f64();
        drop(bar);
        let exits = |head: &&str| answers.iter().filter(|answer| answer.head == *head).count();
        let answered = staged.heads().iter().map(exits).collect();
        let mut correct = 0;
        for answer in &answers {
            let label = labels.get((answer.image - earlier) as usize);
            correct += usize::from(label == Some(&(top(&answer.probabilities, 1)[0].class as u32)));
        }
        let count = labels.len().max(1) as f64;
        let measured = Measured {
            threshold: exit.threshold,
            accuracy: correct as f64 / count,
            answered,
            dispatches: staged.dispatches() - before,
            seconds,
            full_accuracy: full_correct as f64 / count,
            full_dispatches: batches * whole.session().dispatch_count() as u64,
            full_seconds,
        };
        let saved = 100.0 * (1.0 - seconds / full_seconds.max(1e-9));
        reporter.line(&format!(
            "measured at {}: {:.2} ms per image instead of {:.2} ms ({:.0}% {}), accuracy {:.2}% instead of {:.2}%, {} dispatches instead of {}",
            exit.threshold,
            1e3 * seconds / count,
            1e3 * full_seconds / count,
            saved.abs(),
            if saved < 0.0 { "slower" } else { "saved" },
            100.0 * measured.accuracy,
            100.0 * measured.full_accuracy,
            measured.dispatches,
            measured.full_dispatches
        ))?;
        Ok(measured)
    }
}

impl Swept {
    fn print(&self, reporter: &Reporter) -> Result<()> {
        let images = self.calibration_images;
        for HeadCalibration { head, calibration: c } in &self.calibration {
            reporter.line(&format!(
                "{head:<5} temperature {:.3}: NLL {:.4} before, {:.4} after, on {} of the calibration set",
                c.temperature,
                c.before,
                c.after,
                plural(images as u64, "image")
            ))?;
        }
        let accuracies = self.heads.iter().zip(&self.head_accuracies);
        let accuracies: Vec<String> =
            accuracies.map(|(head, a)| format!("{head} {:.2}%", 100.0 * a)).collect();
        reporter.line(&format!("accuracy of each head on the other images: {}\n", accuracies.join("  ")))?;
        let columns: String = self.heads.iter().map(|head| format!("  {head:>7}")).collect();
        reporter.line(&format!("threshold{columns}  accuracy  compute"))?;
        for point in &self.points {
            let shares: String = point.shares.iter().map(|s| format!("  {:>6.1}%", 100.0 * s)).collect();
            let threshold =
                if point.threshold > 1.0 { "never".to_string() } else { point.threshold.to_string() };
            let mark = if self.recommended.as_ref() == Some(point) { "  <" } else { "" };
            reporter.line(&format!(
                "{threshold:>9}{shares}  {:>7.2}%  {:>6.1}%{mark}",
                100.0 * point.accuracy,
                100.0 * point.compute
            ))?;
        }
        match &self.recommended {
            Some(p) => reporter.line(&format!(
                "\n--early-exit {} saves {:.1}% of the multiply-adds for {:.2} percentage points of accuracy",
                p.threshold,
                100.0 * (1.0 - p.compute),
                100.0 * p.lost.max(0.0)
            )),
            None => {
                note(&format!(
                    "no threshold saves compute for up to half a percentage point of accuracy, plus the standard error on {}",
                    plural(images as u64, "image")
                ));
                Ok(())
            }
        }
    }
}

/// The threshold with the least compute whose loss of accuracy is up to [`ALLOWED_LOSS`]. The
/// standard error is added to the loss, because on few images the smallest one would be chosen by
/// chance.
fn choose(points: &[SweepPoint]) -> Option<f32> {
    points
        .iter()
        .filter(|p| p.lost + p.lost_error <= ALLOWED_LOSS + 1e-9 && p.compute < 1.0)
        .min_by(|a, b| a.compute.total_cmp(&b.compute))
        .map(|p| p.threshold)
}

/// The corner with the fewest points, which have coordinates in [0, 1]: the place for the legend.
fn emptiest(points: &[(f64, f64)]) -> SeriesLabelPosition {
    let corners = [
        (SeriesLabelPosition::LowerRight, true, false),
        (SeriesLabelPosition::UpperLeft, false, true),
        (SeriesLabelPosition::UpperRight, true, true),
        (SeriesLabelPosition::LowerLeft, false, false),
    ];
    let inside = |right: bool, upper: bool| {
        let there = |p: &&(f64, f64)| (p.0 > 0.5) == right && if upper { p.1 > 0.65 } else { p.1 < 0.35 };
        points.iter().filter(there).count()
    };
    let fewest = corners.into_iter().min_by_key(|(_, right, upper)| inside(*right, *upper));
    fewest.map_or(SeriesLabelPosition::LowerRight, |(corner, ..)| corner)
}

/// Plot of accuracy against mean compute per image.
pub(crate) struct SweepFigure<'a> {
    pub points: &'a [SweepPoint],
    /// Accuracy of the main head alone.
    pub main: f64,
    pub recommended: Option<&'a SweepPoint>,
    pub subtitle: String,
}

impl Figure for SweepFigure<'_> {
    fn size(&self) -> (u32, u32) {
        (860, 520)
    }

    fn draw<DB: DrawingBackend>(&self, root: &Area<DB>, unit: Unit) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        heading(root, unit, "Early exit: accuracy vs. compute", &self.subtitle)?;
        let area = root.margin(unit.px(76), unit.px(8), unit.px(20), unit.px(14));
        let accuracies = || self.points.iter().map(|p| p.accuracy).chain([self.main]);
        let least = accuracies().fold(1.0, f64::min);
        let most = accuracies().fold(0.0, f64::max);
        // The axis spans at least 2 percentage points: smaller differences are noise.
        let gap = (most - least).max(0.02);
        let least_compute = self.points.iter().map(|p| p.compute).fold(1.0, f64::min);
        let widest = self.points.iter().map(|p| p.compute).fold(1.0, f64::max);
        let span = (widest - least_compute).max(0.02);
        let axes = Axes {
            title: "",
            x: (least_compute - 0.15 * span)..(widest + 0.06 * span),
            y: (least - 0.12 * gap)..(most + 0.12 * gap).min(1.0 + 0.02 * gap),
            x_name: "mean multiply-adds per image, relative to the main head alone",
            y_name: "accuracy",
            ticks: (9, 7),
            // Enough digits to distinguish the labels.
            x_label: &|v| format!("{:.*}%", usize::from(span < 0.1), 100.0 * v),
            y_label: &|v| format!("{:.*}%", if gap < 0.02 { 2 } else { 1 }, 100.0 * v),
        };
        let mut chart = axes.on(&area, unit)?;
        let points: Vec<(f64, f64)> = self.points.iter().map(|p| (p.compute, p.accuracy)).collect();
        line(&mut chart, unit, &points, BLUE, "early exit, one dot per threshold")?;
        let square = |half: i32, style: ShapeStyle| {
            let corners = [(unit.px(-half), unit.px(-half)), (unit.px(half), unit.px(half))];
            EmptyElement::at((1.0, self.main)) + Rectangle::new(corners, style)
        };
        let drawn = chart.draw_series([square(5, INK.filled())])?;
        drawn.label("main head alone").legend(move |(x, y)| {
            Rectangle::new(
                [(x + unit.px(5), y - unit.px(5)), (x + unit.px(15), y + unit.px(5))],
                INK.filled(),
            )
        });
        if let Some(p) = self.recommended {
            let ring = Circle::new((p.compute, p.accuracy), unit.px(8), unit.stroke(VERMILION, 2));
            let label = format!(
                "{}: saves {:.0}% for {:.2} points",
                p.threshold,
                100.0 * (1.0 - p.compute),
                100.0 * p.lost.max(0.0)
            );
            chart.draw_series([ring])?.label(label).legend(move |(x, y)| {
                Circle::new((x + unit.px(10), y), unit.px(6), unit.stroke(VERMILION, 2))
            });
        }
        // Label thresholds that are far enough apart.
        let mut last = f64::NEG_INFINITY;
        for (p, next) in
            self.points.iter().zip(self.points.iter().skip(1)).filter(|(p, _)| p.threshold <= 1.0)
        {
            if p.compute - last > 0.07 * span {
                last = p.compute;
                // Right of the dot, away from the curve.
                let down = if next.accuracy < p.accuracy { -18 } else { 6 };
                let right = if self.recommended == Some(p) { 12 } else { 5 };
                let place = (unit.px(right), unit.px(down));
                let text = Text::new(p.threshold.to_string(), place, unit.text(12, &SOFT));
                chart.draw_series([EmptyElement::at((p.compute, p.accuracy)) + text])?;
            }
        }
        let place = |p: (f64, f64)| {
            (
                (p.0 - axes.x.start) / (axes.x.end - axes.x.start),
                (p.1 - axes.y.start) / (axes.y.end - axes.y.start),
            )
        };
        let places = points.iter().copied().chain([(1.0, self.main)]).map(place).collect::<Vec<_>>();
        legend(&mut chart, unit, emptiest(&places))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_threshold_allows_for_the_standard_error() {
        let point = |threshold, lost, lost_error, compute| SweepPoint {
            threshold,
            shares: Vec::new(),
            accuracies: Vec::new(),
            accuracy: 0.9 - lost,
            lost,
            lost_error,
            compute,
        };
        let never = point(2.0, 0.0, 0.0, 1.02);
        let [bold, lucky, sure] =
            [point(0.3, 0.02, 0.003, 0.3), point(0.5, 0.004, 0.002, 0.5), point(0.8, 0.003, 0.002, 0.7)];
        assert_eq!(choose(&[bold.clone(), lucky.clone(), sure, never.clone()]), Some(0.8));
        assert_eq!(choose(&[bold, lucky, never]), None);
    }
}
