//! Printing: results to standard output, progress and notes to standard error.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use incept::low_level::text::noun_after;
use incept::low_level::untrusted::{is_hostile, printable_lines};
use incept::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::flags::flags;
use super::old_keys::with_old_keys;

/// Interval between progress lines where no terminal can redraw them.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// Prints results as text or as JSON.
#[derive(Debug)]
pub(crate) struct Reporter {
    json: bool,
    terminal: bool,
    /// The command's name, which is the `event` of lines of JSON that have no other.
    command: String,
}

impl Reporter {
    pub(crate) fn new(json: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && redraws();
        Self { json, terminal, command: String::new() }
    }

    /// The same for this command.
    #[must_use]
    pub(crate) fn named(self, command: String) -> Self {
        Self { command, ..self }
    }

    /// Whether results are printed as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// The same with plain lines in place of redrawn progress bars.
    #[must_use]
    pub(crate) fn plain(&self) -> Self {
        Self { json: self.json, terminal: false, command: self.command.clone() }
    }

    /// Whether progress bars are redrawn in place.
    pub(crate) fn redraws_bars(&self) -> bool {
        self.terminal
    }

    /// Prints a line of text, unless results are JSON.
    pub(crate) fn line(&self, text: &str) -> Result<()> {
        if self.json { Ok(()) } else { print(text) }
    }

    /// Prints a value as one line of JSON, if results are JSON. Objects have an `event`: their own,
    /// or the command's name.
    pub(crate) fn event(&self, value: &impl Serialize) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let text = serde_json::to_string(value).map_err(|e| Error::Config(e.to_string()))?;
        print(&escaped(with_old_keys(with_event(text, &self.command))))
    }

    /// Like [`Reporter::line`], but a closed pipe is no error: training continues without a reader.
    pub(crate) fn line_if_open(&self, text: &str) -> Result<()> {
        if_read(self.line(text))
    }

    /// Like [`Reporter::event`], but a closed pipe is no error.
    pub(crate) fn event_if_open(&self, value: &impl Serialize) -> Result<()> {
        if_read(self.event(value))
    }

    /// A progress bar over `length` units.
    pub(crate) fn bar(&self, label: &str, length: u64) -> Bar {
        let bar = ProgressBar::new(length);
        let template = "{prefix} [{bar:28}] {pos}/{len} {wide_msg}";
        // The template is a constant that a test parses.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("━━╌"));
        let label = printable_lines(label).into_owned();
        bar.set_prefix(label.clone());
        Bar { bar, label, lines: !self.terminal, last: Instant::now(), length }
    }
}

/// The JSON with an `event` of this name, if it is an object without one.
fn with_event(json: String, name: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Named {
        event: Option<serde::de::IgnoredAny>,
    }
    match (serde_json::from_str::<Named>(&json), json.strip_prefix('{')) {
        (Ok(Named { event: None }), Some(rest)) if !name.is_empty() => {
            let comma = if rest == "}" { "" } else { "," };
            format!("{{\"event\":\"{name}\"{comma}{rest}")
        }
        _ => json,
    }
}

/// Whether the terminal supports redrawing, by `TERM`.
pub(crate) fn redraws() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Escapes control characters beyond ASCII, which serde leaves in strings and terminals may
/// interpret.
fn escaped(json: String) -> String {
    if !json.contains(is_hostile) {
        return json;
    }
    let escape = |c: char| if is_hostile(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    json.chars().map(escape).collect()
}

/// Lines held back while the dashboard has the terminal, each with whether it goes to standard
/// output; none while nothing is held.
static WAITING: Mutex<Option<Vec<(bool, String)>>> = Mutex::new(None);

/// Holds lines from now on: the dashboard has the terminal.
pub(crate) fn hold() {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default();
}

/// Prints the held lines, and stops holding.
pub(crate) fn release() {
    let lines = WAITING.lock().unwrap_or_else(PoisonError::into_inner).take();
    for (result, line) in lines.into_iter().flatten() {
        // A closed stream is not worth reporting here.
        let _ = if result {
            writeln!(std::io::stdout(), "{line}")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    }
}

/// Holds a line if the dashboard has the terminal, and returns whether it did.
fn held(result: bool, text: &str) -> bool {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.as_mut().map(|lines| lines.push((result, text.to_string()))).is_some()
}

/// Text for a terminal: with flags in place of the library's field names, and without control
/// characters.
fn sanitized(text: &str) -> String {
    printable_lines(&flags(text)).into_owned()
}

/// The log's output: standard error, or the held lines.
#[derive(Debug)]
pub(crate) struct LogOutput;

impl Write for LogOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let text = sanitized(&text);
        if !held(false, text.trim_end()) {
            std::io::stderr().write_all(text.as_bytes())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Prints a note to standard error.
pub(crate) fn note(text: &str) {
    let text = sanitized(text);
    if !held(false, &text) {
        complain(&text);
    }
}

/// Writes a line to standard error; a closed stream is ignored.
pub(crate) fn complain(text: &str) {
    let text = sanitized(text);
    match LISTENER.get() {
        Some(listener) => listener(&text),
        None => drop(writeln!(std::io::stderr(), "{text}")),
    }
}

/// What receives notes and progress lines in a program that is not the command.
static LISTENER: OnceLock<fn(&str)> = OnceLock::new();

/// Passes notes and progress lines to a function, in place of standard error.
pub(crate) fn listen(listener: fn(&str)) {
    LISTENER.get_or_init(|| listener);
}

/// Whether an error only means that the reader of the output closed the pipe.
pub(crate) fn is_unread(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::BrokenPipe)
}

fn if_read(written: Result<()>) -> Result<()> {
    written.or_else(|error| if is_unread(&error) { Ok(()) } else { Err(error) })
}

fn print(text: &str) -> Result<()> {
    // It may contain names from files, with control characters.
    let text = sanitized(text);
    let text = &*text;
    if held(true, text) {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n"));
    written.and_then(|()| out.flush()).map_err(|e| Error::io("standard output", e))
}

/// A progress bar in a terminal; elsewhere a plain line every [`LINE_EVERY`].
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    label: String,
    lines: bool,
    last: Instant,
    length: u64,
}

impl Bar {
    /// Sets the number of units, if it was not known at the start.
    pub(crate) fn set_length(&mut self, length: u64) {
        self.length = length;
        self.bar.set_length(length);
    }

    /// Sets the position; `message` is only called if it is shown.
    pub(crate) fn update(&mut self, position: u64, message: impl FnOnce() -> String) {
        if !self.lines {
            self.bar.set_position(position);
            self.bar.set_message(printable_lines(&message()).into_owned());
        } else if self.last.elapsed() >= LINE_EVERY {
            self.last = Instant::now();
            complain(&format!("{} {position}/{} {}", self.label, self.length, message()));
        }
    }
}

impl Bar {
    /// Prints a note above the bar.
    pub(crate) fn note(&self, text: &str) {
        self.bar.suspend(|| note(text));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Throughput in units per second, and the remaining time at that rate.
#[derive(Debug)]
pub(crate) struct Rate {
    start: Instant,
    done: usize,
}

impl Rate {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), done: 0 }
    }

    pub(crate) fn add(&mut self, units: usize) {
        self.done += units;
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.done as f64 / self.start.elapsed().as_secs_f64().max(1e-9)
    }

    /// The estimated time for `units` more, formatted.
    pub(crate) fn left(&self, units: usize) -> String {
        if self.done == 0 {
            return "?".into();
        }
        seconds(units as f64 / self.per_second().max(1e-9))
    }
}

/// Formats a duration: 42 s, 3:07 min, 2:05 h.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{}:{:02} min", seconds / 60, seconds % 60),
        _ => format!("{}:{:02} h", seconds / 3600, seconds / 60 % 60),
    }
}

/// Formats seconds read from a file; `-` for values that are no valid duration.
pub(crate) fn seconds(count: f64) -> String {
    // Longer than any training; logs of damaged runs may have any number.
    const MOST: f64 = 1e9;
    if (0.0..=MOST).contains(&count) { duration(Duration::from_secs_f64(count)) } else { "-".into() }
}

/// Formats a number of bytes in MiB or GiB.
pub(crate) fn bytes(count: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    let mib = count as f64 / MIB;
    if mib < 1024.0 { format!("{mib:.1} MiB") } else { format!("{:.2} GiB", mib / 1024.0) }
}

/// Formats a count with its noun: 1 epoch, 2 epochs, 1,000 classes.
pub(crate) fn plural(count: u64, noun: &str) -> String {
    format!("{} {}", thousands(count), noun_after(count == 1, noun))
}

/// Formats a whole number with thousands separators.
pub(crate) fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A bar of `width` characters for a share from 0 to 1.
pub(crate) fn share_bar(share: f32, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * width as f32 * 8.0).round() as usize;
    let mut text = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        text.push(['▏', '▎', '▍', '▌', '▋', '▊', '▉'][eighths % 8 - 1]);
    }
    let used = text.chars().count();
    text.push_str(&" ".repeat(width - used));
    text
}

/// The arguments of the command that this process runs.
static COMMAND_LINE: OnceLock<Vec<String>> = OnceLock::new();

/// Remembers the arguments of the command; invalid Unicode is replaced.
pub(crate) fn set_command_line(arguments: &[OsString]) {
    COMMAND_LINE.get_or_init(|| arguments.iter().map(|one| one.to_string_lossy().into_owned()).collect());
}

/// The command line; empty where the process runs no command.
pub(crate) fn command_line() -> Vec<String> {
    COMMAND_LINE.get().cloned().unwrap_or_default()
}

/// A path as text.
pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_template_is_valid() {
        assert!(ProgressStyle::with_template("{prefix} [{bar:28}] {pos}/{len} {wide_msg}").is_ok());
    }

    #[test]
    fn json_escapes_control_characters_and_keeps_its_value() {
        let name = "\u{1b}[2J\u{9b}2J\u{202e}cat\u{7f}";
        let json = escaped(serde_json::to_string(name).expect("JSON"));
        assert!(json.is_ascii(), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), name);
    }

    #[test]
    fn objects_have_an_event() {
        let event = |json: &str| with_event(json.into(), "data_info");
        assert_eq!(event(r#"{"a":1}"#), r#"{"event":"data_info","a":1}"#);
        assert_eq!(event("{}"), r#"{"event":"data_info"}"#);
        assert_eq!(event(r#"{"a":{"event":"x"}}"#), r#"{"event":"data_info","a":{"event":"x"}}"#);
        for other in [r#"{"a":1,"event":"end"}"#, "[1]", "3"] {
            assert_eq!(event(other), other);
        }
    }

    #[test]
    fn numbers_and_durations_are_formatted() {
        assert_eq!(thousands(6_998_552), "6,998,552");
        assert_eq!(thousands(999), "999");
        assert_eq!([0, 1, 1000].map(|n| plural(n, "epoch")), ["0 epochs", "1 epoch", "1,000 epochs"]);
        assert_eq!(duration(Duration::from_secs(187)), "3:07 min");
        assert_eq!(
            [187.0, -1.0, f64::NAN, f64::INFINITY, 1e300].map(seconds),
            ["3:07 min", "-", "-", "-", "-"]
        );
        assert_eq!(bytes(5 << 29), "2.50 GiB");
        assert_eq!(share_bar(0.5, 4), "██  ");
        assert_eq!(share_bar(1.0, 4), "████");
        assert_eq!(share_bar(0.03, 4), "▏   ");
    }
}
