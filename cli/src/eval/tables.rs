//! The text output of `incept eval`.

use incept::infer::{Assessment, Confusion};
use incept::low_level::untrusted::printable;

use super::{Candidate, Measured};
use crate::Result;
use crate::report::{Reporter, plural, shown};

/// Maximum number of classes for which the confusion matrix fits a terminal.
const MATRIX: usize = 12;
/// Number of pairs of classes to list where it does not.
const PAIRS: usize = 8;

/// Prints all results, the most important ones last.
pub(super) fn print(
    measured: &Measured,
    candidates: &[Candidate<'_>],
    classes: &[String],
    reporter: &Reporter,
) -> Result<()> {
    let classes: &[String] = &classes.iter().map(|name| printable(name).into_owned()).collect::<Vec<_>>();
    let ensemble = &measured.ensemble;
    by_class(ensemble, classes, reporter)?;
    confusions(&ensemble.confusion, classes, reporter)?;
    let reliability = &ensemble.reliability;
    reporter.line(&format!(
        "\ncalibration: ECE {:.2}%, MCE {:.1}%, mean confidence {:.2}%",
        100.0 * reliability.ece(),
        100.0 * reliability.mce(),
        100.0 * reliability.confidence()
    ))?;
    if measured.members.len() > 1 {
        for (candidate, member) in candidates.iter().zip(&measured.members) {
            reporter.line(&format!("{}  {}", line(member), shown(candidate.path)))?;
        }
    }
    let of = if measured.members.len() > 1 { "ensemble, " } else { "" };
    reporter.line(&format!(
        "{}  {of}{}, {:.0} images/s",
        line(ensemble),
        plural(ensemble.evaluation.count as u64, "image"),
        measured.images_per_s
    ))
}

fn line(assessment: &Assessment) -> String {
    let evaluation = &assessment.evaluation;
    // With up to five classes it is always 100%.
    let top5 = if assessment.confusion.classes() > 5 {
        format!("  top-5 {:.2}%", 100.0 * evaluation.accuracy5())
    } else {
        String::new()
    };
    format!("top-1 {:.2}%{top5}  loss {:.4}", 100.0 * evaluation.accuracy(), evaluation.loss)
}

fn by_class(assessment: &Assessment, classes: &[String], reporter: &Reporter) -> Result<()> {
    let width = classes.iter().map(|c| c.chars().count()).max().unwrap_or(0).max(5);
    reporter.line(&format!(
        "{:>width$}  {:>9}  {:>7}  {:>7}  {:>8}  {:>8}",
        "class", "precision", "recall", "F1", "correct", "images"
    ))?;
    let percent = |share: Option<f64>| share.map_or("-".to_string(), |s| format!("{:.2}%", 100.0 * s));
    for (class, m) in classes.iter().zip(assessment.confusion.metrics()) {
        let (precision, recall, f1) = (percent(m.precision), percent(m.recall), percent(m.f1));
        reporter.line(&format!(
            "{class:>width$}  {precision:>9}  {recall:>7}  {f1:>7}  {:>8}  {:>8}",
            m.correct, m.support
        ))?;
    }
    let mean = assessment.confusion.mean();
    let (precision, recall, f1) =
        (percent(Some(mean.precision)), percent(Some(mean.recall)), percent(Some(mean.f1)));
    let (correct, count) = (assessment.evaluation.correct, assessment.evaluation.count);
    reporter
        .line(&format!("{:>width$}  {precision:>9}  {recall:>7}  {f1:>7}  {correct:>8}  {count:>8}", "mean"))
}

/// Prints the confusion matrix, or the most confused pairs of classes where it does not fit.
fn confusions(confusion: &Confusion, classes: &[String], reporter: &Reporter) -> Result<()> {
    if classes.len() <= MATRIX {
        reporter.line("\nconfusion matrix (rows: true class, columns: predicted class):")?;
        let short = |class: &String| class.chars().take(8).collect::<String>();
        let most = (0..classes.len()).flat_map(|l| confusion.row(l)).max().unwrap_or(0);
        let cell = classes.iter().map(|c| short(c).chars().count()).max().unwrap_or(1);
        let cell = cell.max(most.to_string().len());
        let width = classes.iter().map(|c| c.chars().count()).max().unwrap_or(0);
        let head: Vec<String> = classes.iter().map(|c| format!("{:>cell$}", short(c))).collect();
        reporter.line(&format!("{:>width$}  {}", "", head.join(" ")))?;
        for (label, class) in classes.iter().enumerate() {
            let number = |count: &u64| {
                let text = if *count == 0 { "·".to_string() } else { count.to_string() };
                format!("{text:>cell$}")
            };
            let cells: Vec<String> = confusion.row(label).iter().map(number).collect();
            reporter.line(&format!("{class:>width$}  {}", cells.join(" ")))?;
        }
        return Ok(());
    }
    let pairs = confusion.most_confused(PAIRS);
    if !pairs.is_empty() {
        reporter.line("\nmost confused classes (true class -> predicted class):")?;
    }
    for (label, prediction, count) in pairs {
        let total: u64 = confusion.row(label).iter().sum();
        reporter.line(&format!("  {} -> {}: {count} of {total}", classes[label], classes[prediction]))?;
    }
    Ok(())
}
