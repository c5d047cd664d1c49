//! What a report is made from: a run's folder, or a checkpoint and a log of JSON lines.

use std::path::{Path, PathBuf};

use incept::weights::Checkpoint;
use incept::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

/// Everything that is known of a run.
#[derive(Debug)]
pub(super) struct Source {
    /// What it is called.
    pub title: String,
    pub checkpoint: PathBuf,
    pub curves: Curves,
    /// The configuration as its file has it, or as the checkpoint keeps it.
    pub configuration: String,
    /// What ran where, as pairs of a name and a value.
    pub machine: Vec<(String, String)>,
    pub command_line: Vec<String>,
}

/// One softmax at one time.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct HeadPoint {
    pub name: String,
    pub loss: f64,
    #[serde(default)]
    pub accuracy: Option<f64>,
}

/// One step of training.
#[derive(Clone, Debug)]
pub(super) struct StepPoint {
    /// Epochs done, as a fraction.
    pub epoch: f64,
    pub rate: Option<f64>,
    pub heads: Vec<HeadPoint>,
    pub gradient_norm: Option<f64>,
}

/// One epoch of training.
#[derive(Clone, Debug)]
pub(super) struct EpochPoint {
    /// Epochs done.
    pub done: f64,
    pub rate: Option<f64>,
    pub heads: Vec<HeadPoint>,
    pub held_out: Option<f64>,
    pub gradient_norm: Option<f64>,
    pub seconds: f64,
    pub images_per_s: Option<f64>,
}

/// The log in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Curves {
    pub steps: Vec<StepPoint>,
    pub epochs: Vec<EpochPoint>,
}

/// The kind of a log's line: run folders call it `kind`, `incept train --json` calls it `event`. What a report does not show is left out.
#[derive(Debug, Deserialize)]
struct Kind {
    #[serde(alias = "event")]
    kind: String,
}

/// A step or an epoch.
#[derive(Debug, Deserialize)]
struct Line {
    epoch: f64,
    rate: Option<f64>,
    #[serde(default)]
    heads: Vec<HeadPoint>,
    gradient_norm: Option<f64>,
    held_out: Option<HeldOut>,
    held_out_accuracy: Option<f64>,
    seconds: Option<f64>,
    images_per_s: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct HeldOut {
    accuracy: Option<f64>,
}

/// What a run's folder says of itself.
#[derive(Debug, Deserialize)]
struct Manifest {
    name: String,
    machine: serde_json::Map<String, Value>,
    checkpoint: Option<PathBuf>,
    #[serde(default)]
    command_line: Vec<String>,
}

const MANIFEST: &str = "run.json";

impl Source {
    /// Reads what `run` names.
    pub(super) fn open(run: &Path, log: Option<&Path>) -> Result<Self> {
        if !run.is_dir() {
            return Self::of_checkpoint(run, log);
        }
        let path = run.join(MANIFEST);
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|e| Error::format(&path, e.to_string()))?;
        let own = [run.join("best.safetensors"), run.join("last.safetensors")];
        let checkpoint = own.into_iter().find(|p| p.is_file()).or(manifest.checkpoint);
        let checkpoint = checkpoint.ok_or_else(|| Error::format(run, "has no checkpoint yet"))?;
        let log = log.map_or_else(|| run.join("log.jsonl"), Path::to_path_buf);
        let (curves, _) = read_log(&log)?;
        let config = run.join("config.toml");
        let configuration = std::fs::read_to_string(&config).map_err(|e| Error::io(&config, e))?;
        Ok(Self {
            title: manifest.name,
            checkpoint,
            curves,
            configuration,
            machine: pairs(&manifest.machine),
            command_line: manifest.command_line,
        })
    }

    fn of_checkpoint(path: &Path, log: Option<&Path>) -> Result<Self> {
        let metadata = Checkpoint::load(path)?.metadata;
        let (curves, device) = match log {
            Some(log) => read_log(log)?,
            None => (Curves::default(), None),
        };
        let configuration = serde_json::json!({ "run": metadata.run, "network": metadata.network });
        Ok(Self {
            title: path.file_stem().map_or_else(|| "run".into(), |s| s.to_string_lossy().into_owned()),
            checkpoint: path.to_path_buf(),
            curves,
            configuration: serde_json::to_string_pretty(&configuration)
                .map_err(|e| Error::Config(e.to_string()))?,
            machine: device.as_ref().and_then(Value::as_object).map(pairs).unwrap_or_default(),
            command_line: metadata.command_line,
        })
    }
}

/// The entries of an object that have a value to show.
fn pairs(object: &serde_json::Map<String, Value>) -> Vec<(String, String)> {
    let text = |value: &Value| match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(true) => Some("yes".into()),
        Value::Bool(false) => Some("no".into()),
        _ => None,
    };
    object.iter().filter_map(|(name, value)| Some((name.replace('_', " "), text(value)?))).collect()
}

/// The curves of a log, and the device if it says so. A last line that was cut off is left out.
fn read_log(path: &Path) -> Result<(Curves, Option<Value>)> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let (mut curves, mut device) = (Curves::default(), None);
    for (i, line) in whole.lines().enumerate() {
        let wrong =
            |e: serde_json::Error| Error::format(path, format!("line {} is no line of a log: {e}", i + 1));
        let value: Value = serde_json::from_str(line).map_err(wrong)?;
        let Kind { kind } = Kind::deserialize(&value).map_err(wrong)?;
        match kind.as_str() {
            "step" => curves.steps.push(Line::deserialize(&value).map_err(wrong)?.into()),
            "epoch" => curves.epochs.push(Line::deserialize(&value).map_err(wrong)?.into()),
            "start" => device = value.get("device").cloned(),
            _ => {}
        }
    }
    Ok((curves, device))
}

impl From<Line> for StepPoint {
    fn from(line: Line) -> Self {
        Self { epoch: line.epoch, rate: line.rate, heads: line.heads, gradient_norm: line.gradient_norm }
    }
}

impl From<Line> for EpochPoint {
    fn from(line: Line) -> Self {
        Self {
            done: line.epoch + 1.0,
            rate: line.rate,
            heads: line.heads,
            held_out: line.held_out_accuracy.or_else(|| line.held_out.and_then(|h| h.accuracy)),
            gradient_norm: line.gradient_norm,
            seconds: line.seconds.unwrap_or(0.0),
            images_per_s: line.images_per_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log as a run's folder has it and as `incept train --json` prints it.
    #[test]
    fn both_kinds_of_logs_are_read() {
        let head = r#"{"name":"main","loss":0.5,"accuracy":0.75}"#;
        let folder = format!(
            "{}\n{}\n{}\n{}",
            format_args!(
                r#"{{"kind":"step","step":0,"epoch":0.5,"rate":0.1,"heads":[{head}],"gradient_norm":2.0}}"#
            ),
            format_args!(
                r#"{{"kind":"epoch","epoch":0,"rate":0.1,"heads":[{head}],"held_out":{{"accuracy":0.9}}}}"#
            ),
            r#"{"kind":"end","reason":"done","epochs":1,"seconds":3.0}"#,
            r#"{"kind":"ep"#,
        );
        let printed = format!(
            "{}\n{}\n",
            r#"{"event":"start","held_out":7,"device":{"name":"a GPU","driver":""}}"#,
            format_args!(
                r#"{{"event":"epoch","epoch":0,"heads":[{head}],"held_out_accuracy":0.9,"seconds":2.0}}"#
            ),
        );
        let folder_of_logs = tempfile::tempdir().expect("a folder");
        for (text, steps) in [(folder, 1), (printed, 0)] {
            let path = folder_of_logs.path().join("log.jsonl");
            std::fs::write(&path, text).expect("can be written");
            let (curves, device) = read_log(&path).expect("a log");
            assert_eq!((curves.steps.len(), curves.epochs.len()), (steps, 1));
            assert_eq!((curves.epochs[0].done, curves.epochs[0].held_out), (1.0, Some(0.9)));
            let device = device.as_ref().and_then(Value::as_object).map(pairs);
            assert!(device.is_none_or(|d| d == [("name".to_string(), "a GPU".to_string())]));
        }
        let path = folder_of_logs.path().join("log.jsonl");
        std::fs::write(&path, "{}\n").expect("can be written");
        assert!(read_log(&path).expect_err("no log").to_string().contains("line 1"));
    }
}
