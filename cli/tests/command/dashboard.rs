//! The dashboard of `incept train` in a pseudo-terminal: contents, keys, and restoring the
//! terminal.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::program::text;
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

const SIZE: PtySize = PtySize { rows: 30, cols: 100, pixel_width: 0, pixel_height: 0 };

/// A command in a pseudo-terminal, with its screen.
struct Terminal {
    master: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
}

impl Terminal {
    fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let pair = native_pty_system().openpty(SIZE).expect("a terminal");
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_incept"));
        command.args(arguments);
        command.env_remove("RUST_LOG");
        command.env("INCEPT_CACHE_DIR", env!("CARGO_TARGET_TMPDIR"));
        command.env("TERM", "xterm-256color");
        variables.iter().for_each(|(name, value)| command.env(name, value));
        let child = pair.slave.spawn_command(command).expect("the program can be started");
        let mut reader = pair.master.try_clone_reader().expect("its output");
        let keys = pair.master.take_writer().expect("its keyboard");
        let (send, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Reading fails once the program in the terminal has ended.
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                if send.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let screen = vt100::Parser::new(SIZE.rows, SIZE.cols, 100);
        Self { master: pair.master, keys, child, output, screen }
    }

    /// Waits for the end; returns the exit code and all output bytes.
    fn bytes(&mut self) -> (u32, Vec<u8>) {
        let status = self.child.wait().expect("it was started");
        let mut all = Vec::new();
        while let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(500)) {
            all.extend(bytes);
        }
        (status.exit_code(), all)
    }

    /// Reads output until the screen fulfills a condition; returns its contents.
    fn until(&mut self, what: &str, holds: impl Fn(&vt100::Screen) -> bool) -> String {
        let start = Instant::now();
        while !holds(self.screen.screen()) {
            let shown = || self.screen.screen().contents();
            assert!(start.elapsed() < Duration::from_secs(240), "no {what}:\n{}", shown());
            match self.output.recv_timeout(Duration::from_millis(100)) {
                Ok(bytes) => self.screen.process(&bytes),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("it ended without {what}:\n{}", shown()),
            }
        }
        self.screen.screen().contents()
    }

    /// Waits for the end; returns the exit code and the final contents of the screen.
    fn end(&mut self) -> (u32, String) {
        let status = self.child.wait().expect("it was started");
        while let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(500)) {
            self.screen.process(&bytes);
        }
        (status.exit_code(), self.screen.screen().contents())
    }

    fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).and_then(|()| self.keys.flush()).expect("a keyboard");
    }

    /// Whether the terminal is in canonical mode with echo, as for a shell.
    fn is_usual(&self) -> bool {
        let flags = self.master.get_termios().expect("its modes").local_flags;
        let flags = format!("{flags:?}");
        flags.contains("ICANON") && flags.contains("ECHO") && flags.contains("ISIG")
    }
}

impl Drop for Terminal {
    /// Kills the program if a test fails.
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
    }
}

/// A small network that trains in a terminal.
fn train(runs: &Path, epochs: &str, more: &[&str]) -> Terminal {
    train_with(runs, epochs, more, &[])
}

fn train_with(runs: &Path, epochs: &str, more: &[&str], variables: &[(&str, &str)]) -> Terminal {
    let network =
        ["train", "digits", "--width", "0.125", "--image-size", "32", "--init", "he", "--tune", "off"];
    let run = [
        "--limit",
        "60",
        "--batch-size",
        "10",
        "--epochs",
        epochs,
        "--name",
        "shown",
        "--runs-dir",
        text(runs),
    ];
    Terminal::start_with(&[&network[..], &run, more].concat(), variables)
}

#[test]
fn dashboard_shows_all_heads_and_restores_the_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut terminal = train(folder.path(), "2", &[]);
    let page = terminal.until("a page with a step on it", |s| {
        s.alternate_screen()
            && s.contents().contains("gradient norm")
            && s.contents().contains("save and stop")
    });
    for word in
        ["loss", "accuracy %", "main", "aux1", "aux2", "validation", "images/s", "of 2", "step", "best"]
    {
        assert!(page.contains(word), "no {word}:\n{page}");
    }
    assert!(terminal.screen.screen().hide_cursor());
    let (code, left) = terminal.end();
    assert_eq!(code, 0, "{left}");
    let screen = terminal.screen.screen();
    assert!(!screen.alternate_screen() && !screen.hide_cursor() && terminal.is_usual());
    // Lines held during the dashboard are printed afterwards.
    assert!(left.contains("epoch 2/2") && left.contains("saved"), "{left}");
}

#[test]
fn q_and_control_c_stop_and_save() {
    for key in [b"q".as_slice(), b"\x03"] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut terminal = train(folder.path(), "5000", &[]);
        terminal.until("a step", |s| s.alternate_screen() && s.contents().contains("gradient norm"));
        assert!(!terminal.is_usual(), "keys come one at a time");
        terminal.press(key);
        let (code, left) = terminal.end();
        assert_eq!(code, 130, "{left}");
        assert!(left.contains("interrupted; saved"), "{left}");
        let run = folder.path().join("0001-shown");
        // The terminal wraps long lines.
        let lines = left.replace('\n', "");
        assert!(lines.contains(&format!("resume with: incept train --resume {}", text(&run))), "{left}");
        assert!(folder.path().join("0001-shown/last.safetensors").is_file());
        let screen = terminal.screen.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor() && terminal.is_usual());
    }
}

#[test]
fn view_plain_prints_lines() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut terminal = train(folder.path(), "1", &["--view", "plain"]);
    let (code, left) = terminal.end();
    assert_eq!(code, 0, "{left}");
    assert!(left.contains("epoch 1/1") && !terminal.screen.screen().alternate_screen(), "{left}");
}

#[test]
fn dumb_terminals_get_plain_lines() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut terminal = train_with(folder.path(), "1", &[], &[("TERM", "dumb")]);
    let (code, bytes) = terminal.bytes();
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("epoch 1/1"), "{text}");
    // The terminal ends lines with CR LF; there are no other carriage returns or escape sequences.
    assert!(!text.contains('\u{1b}') && !text.replace("\r\n", "").contains('\r'), "{text:?}");
    let mut terminal = train_with(folder.path(), "1", &["--view", "dashboard"], &[("TERM", "dumb")]);
    let (code, bytes) = terminal.bytes();
    let text = String::from_utf8_lossy(&bytes);
    assert!(code != 0 && text.contains("TERM"), "{text}");
}

#[test]
fn no_color_is_respected() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut terminal = train_with(folder.path(), "1", &[], &[("NO_COLOR", "1")]);
    let (code, bytes) = terminal.bytes();
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(code, 0, "{text}");
    // Sequences that set foreground (38) or background (48) colors, from a palette or RGB.
    assert!(text.contains('\u{1b}') && !text.contains("38;2;") && !text.contains("48;2;"), "{text:?}");
    assert!(!text.contains("38;5;") && !text.contains("48;5;"), "{text:?}");
}
