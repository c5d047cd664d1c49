//! `incept runs`

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use incept::Error;
use incept::low_level::untrusted::printable;
use incept::runs::{EpochRecord, Lock, Manifest, Record, RunFolder, StopReason, read_log_leniently};
use serde::Serialize;

use super::report::{Reporter, note, seconds};
use super::{Outcome, Result};

/// List all runs, or compare two of them.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  incept runs                 all runs in ./runs, with data, recipe, epochs and best accuracy
  incept runs compare 3 5     differences in configuration and results
  incept runs --json          one object per run")]
pub(crate) struct Runs {
    #[command(subcommand)]
    what: Option<What>,
    /// Folder of all runs.
    #[arg(long, value_name = "FOLDER", default_value = "runs", env = "INCEPT_RUNS_DIR", global = true)]
    runs_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Compare the configurations and results of two runs.
    Compare {
        /// First run: its folder, number or name.
        a: String,
        /// Second run.
        b: String,
    },
}

/// A row of the list.
#[derive(Debug, Serialize)]
struct Summary {
    run: String,
    /// Seconds since 1970.
    started: u64,
    data: String,
    recipe: Option<String>,
    epochs: u64,
    /// Why it ended; none while it is running or after a crash.
    ended: Option<StopReason>,
    /// The error of a failed run.
    message: Option<String>,
    /// Id of the process that is training it.
    process: Option<u32>,
    /// Unreadable files of its folder or lines of its log.
    damaged: Vec<String>,
    best_accuracy: Option<f64>,
    best_epoch: Option<u64>,
    final_accuracy: Option<f64>,
    final_losses: BTreeMap<String, f64>,
    images_per_s: Option<f64>,
    seconds: f64,
    device: String,
    parameters: usize,
    memory_bytes: u64,
}

impl Summary {
    /// Reads as much of a run as possible.
    fn of(run: &RunFolder) -> Self {
        let mut damaged = Vec::new();
        let manifest: Option<Manifest> = run.manifest().map_err(|e| damaged.push(e.to_string())).ok();
        let path = run.log_path();
        let read = if path.exists() { read_log_leniently(&path) } else { Ok(Default::default()) };
        let (log, lines) = read.map_err(|e| damaged.push(e.to_string())).unwrap_or_default();
        damaged.extend(lines.iter().map(|line| Error::format(&path, line.as_str()).to_string()));
        let epochs: Vec<&EpochRecord> = log.iter().filter_map(Record::epoch).collect();
        let last = epochs.last();
        let best = epochs.iter().rfind(|e| e.best);
        let accuracy = |e: &EpochRecord| e.validation.as_ref().map(|h| h.accuracy);
        let (ended, message) = match log.last() {
            Some(Record::End { reason, message, .. }) => (Some(*reason), message.clone()),
            _ => (None, None),
        };
        Self {
            run: run.title(),
            started: manifest.as_ref().map_or(0, |m| m.started),
            data: manifest.as_ref().map_or_else(|| "?".into(), |m| m.data.clone()),
            recipe: manifest.as_ref().and_then(|m| m.recipe.clone()),
            epochs: last.map_or(0, |e| e.epoch.saturating_add(1)),
            ended,
            message,
            process: Lock::holder(&run.lock_path()).map(|owner| owner.process),
            damaged,
            best_accuracy: best.and_then(|e| accuracy(e)),
            best_epoch: best.map(|e| e.epoch),
            final_accuracy: last.and_then(|e| accuracy(e)),
            final_losses: last.iter().flat_map(|e| &e.heads).map(|h| (h.name.clone(), h.loss)).collect(),
            images_per_s: last.map(|e| e.images_per_s),
            seconds: epochs.iter().map(|e| e.seconds).filter(|s| s.is_finite()).sum(),
            device: manifest.as_ref().map_or_else(String::new, |m| m.machine.adapter.clone()),
            parameters: manifest.as_ref().map_or(0, |m| m.parameters),
            memory_bytes: manifest.as_ref().map_or(0, |m| m.memory_bytes),
        }
    }

    fn losses(&self) -> String {
        let order = ["main", "aux1", "aux2"].iter().filter_map(|name| self.final_losses.get(*name));
        order.map(|loss| format!("{loss:.3}")).collect::<Vec<_>>().join(" ")
    }

    fn state(&self) -> String {
        match (self.process, self.ended) {
            (Some(process), _) => format!("running (process {process})"),
            (None, Some(StopReason::Done)) => "done".into(),
            (None, Some(StopReason::Patience)) => "early stopping".into(),
            (None, Some(StopReason::Interrupted)) => "interrupted".into(),
            (None, Some(StopReason::Failed)) => {
                let message = self.message.as_deref().unwrap_or_default();
                format!("failed: {}", message.lines().next().unwrap_or_default())
            }
            (None, None) => "incomplete".into(),
        }
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".into(), |s| format!("{:.2}%", 100.0 * s))
}

/// Formats a time in the local time zone.
fn when(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    let zoned = time.map(|t| t.to_zoned_datetime(jiff::tz::TimeZone::system()));
    zoned.map_or("-".into(), |z| z.strftime("%Y-%m-%d %H:%M").to_string())
}

/// An option that differs between two runs.
#[derive(Debug, Serialize)]
struct Difference {
    what: String,
    a: Option<String>,
    b: Option<String>,
}

#[derive(Serialize)]
struct Comparison<'a> {
    a: &'a Summary,
    b: &'a Summary,
    configuration: &'a [Difference],
}

impl Runs {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        match &self.what {
            None => self.list(reporter),
            Some(What::Compare { a, b }) => self.compare(a, b, reporter),
        }
    }

    fn list(&self, reporter: &Reporter) -> Result {
        let folders = if self.runs_dir.is_dir() { RunFolder::list(&self.runs_dir)? } else { Vec::new() };
        if folders.is_empty() {
            reporter.line(&format!("no runs in {}", self.runs_dir.display()))?;
        }
        let runs: Vec<Summary> = folders.iter().map(Summary::of).collect();
        for run in &runs {
            // Only the first one: a damaged log may have many.
            if let Some(first) = run.damaged.first() {
                let more = match run.damaged.len() {
                    1 => String::new(),
                    count => format!(", and {} more", count - 1),
                };
                note(&format!("note: {} is damaged: {}{more}", printable(&run.run), printable(first)));
            }
        }
        let header =
            ["run", "started", "data", "recipe", "epochs", "best", "last", "losses", "time", "status"]
                .map(String::from);
        let rows = runs.iter().map(row);
        if !runs.is_empty() {
            table(&std::iter::once(header).chain(rows).collect::<Vec<_>>(), reporter)?;
        }
        for run in &runs {
            reporter.event(run)?;
        }
        Ok(Outcome::Done)
    }

    fn compare(&self, a: &str, b: &str, reporter: &Reporter) -> Result {
        let folders = [RunFolder::find(&self.runs_dir, a)?, RunFolder::find(&self.runs_dir, b)?];
        let [a, b] = [Summary::of(&folders[0]), Summary::of(&folders[1])];
        let [ours, theirs] = [options(&folders[0])?, options(&folders[1])?];
        let names: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        let configuration: Vec<Difference> = names
            .into_iter()
            .filter(|name| ours.get(*name) != theirs.get(*name))
            .map(|name| Difference {
                what: name.clone(),
                a: ours.get(name).cloned(),
                b: theirs.get(name).cloned(),
            })
            .collect();
        reporter.event(&Comparison { a: &a, b: &b, configuration: &configuration })?;
        let value = |v: &Option<String>| v.clone().unwrap_or_else(|| "-".into());
        let mut rows = vec![[String::new(), a.run.clone(), b.run.clone()]];
        rows.extend(configuration.iter().map(|d| [d.what.clone(), value(&d.a), value(&d.b)]));
        let mut result =
            |what: &str, of: &dyn Fn(&Summary) -> String| rows.push([what.into(), of(&a), of(&b)]);
        result("epochs", &|r| r.epochs.to_string());
        result("best accuracy", &|r| percent(r.best_accuracy));
        result("best epoch", &|r| r.best_epoch.map_or("-".into(), |e| e.saturating_add(1).to_string()));
        result("last accuracy", &|r| percent(r.final_accuracy));
        result("last losses", &Summary::losses);
        result("images/s", &|r| r.images_per_s.map_or("-".into(), |i| format!("{i:.0}")));
        result("time", &|r| seconds(r.seconds));
        result("status", &Summary::state);
        table(&rows, reporter)?;
        Ok(Outcome::Done)
    }
}

/// The row of a run, without control characters.
fn row(r: &Summary) -> [String; 10] {
    let cells = [
        r.run.clone(),
        when(r.started),
        r.data.clone(),
        r.recipe.clone().unwrap_or_else(|| "-".into()),
        r.epochs.to_string(),
        percent(r.best_accuracy),
        percent(r.final_accuracy),
        r.losses(),
        seconds(r.seconds),
        r.state(),
    ];
    cells.map(|cell| printable(&cell).into_owned())
}

/// The rows of the list, for a test on damaged folders.
#[cfg(test)]
pub(super) fn rows(folders: &[RunFolder]) -> Vec<[String; 10]> {
    folders.iter().map(|folder| row(&Summary::of(folder))).collect()
}

/// The options of a run, keyed by `section.name`.
pub(super) fn options(run: &RunFolder) -> incept::Result<BTreeMap<String, String>> {
    let text = run.config()?;
    let table: toml::Table =
        toml::from_str(&text).map_err(|e| Error::format(run.path().join("config.toml"), e.to_string()))?;
    let mut options = BTreeMap::new();
    for (section, value) in table {
        match value {
            toml::Value::Table(entries) => {
                options.extend(
                    entries.into_iter().map(|(name, v)| (format!("{section}.{name}"), v.to_string())),
                );
            }
            value => {
                options.insert(section, value.to_string());
            }
        }
    }
    Ok(options)
}

/// Prints rows with aligned columns.
fn table<const N: usize>(rows: &[[String; N]], reporter: &Reporter) -> incept::Result<()> {
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| printable(cell).into_owned())).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        reporter.line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
