//! The dashboard's terminal: raw mode, keyboard and restoring the terminal in every case.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use incept::train::StepMetrics;
use incept::{Error, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use serde::{Deserialize, Serialize};

use super::board::Board;
use super::report::{Reporter, hold, redraws, release};
use incept::runs::EpochReport;

/// Minimum interval between redraws, and between polls of the keyboard.
const EVERY: Duration = Duration::from_millis(100);

/// The values of `--view`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ViewName {
    /// Dashboard in a terminal, else plain lines.
    #[default]
    Auto,
    /// Full-screen curves and metrics.
    Dashboard,
    /// Progress bar.
    Bar,
    /// A line every 15 seconds.
    Plain,
}

/// The progress display of a training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum View {
    Dashboard,
    /// The reporter's own: a bar in a terminal, plain lines elsewhere.
    #[default]
    Bar,
}

impl ViewName {
    /// The view for this terminal.
    pub(crate) fn view(self, reporter: &Reporter) -> Result<View> {
        let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal() && redraws();
        match self {
            Self::Dashboard if !terminal || reporter.is_json() => Err(Error::Config(
                "--view dashboard needs a terminal that supports redrawing (TERM is not `dumb`), and no --json"
                    .into(),
            )),
            Self::Auto if terminal && !reporter.is_json() => Ok(View::Dashboard),
            Self::Dashboard => Ok(View::Dashboard),
            Self::Auto | Self::Bar | Self::Plain => Ok(View::Bar),
        }
    }
}

/// Whether the dashboard has the terminal.
static OPEN: AtomicBool = AtomicBool::new(false);

/// Restores the terminal, if the dashboard has it.
pub(crate) fn restore() {
    if OPEN.swap(false, Ordering::SeqCst) {
        ratatui::restore();
        release();
    }
}

/// The dashboard on the terminal; dropping it restores the terminal.
#[derive(Debug)]
pub(crate) struct Dashboard {
    terminal: DefaultTerminal,
    board: Board,
    stop: Arc<AtomicBool>,
    drawn: Option<Instant>,
    closed: Arc<AtomicBool>,
    keys: Option<JoinHandle<()>>,
}

impl Dashboard {
    /// Takes the terminal. The keys q and Ctrl-C set `stop`; pressed again, they quit the program.
    pub(crate) fn open(board: Board, stop: Arc<AtomicBool>) -> Result<Self> {
        let terminal = ratatui::try_init().map_err(|e| Error::io("the terminal", e))?;
        OPEN.store(true, Ordering::SeqCst);
        hold();
        let closed = Arc::new(AtomicBool::new(false));
        let keys = listen(Arc::clone(&stop), Arc::clone(&closed));
        let mut dashboard = Self { terminal, board, stop, drawn: None, closed, keys: Some(keys) };
        dashboard.draw()?;
        Ok(dashboard)
    }

    pub(crate) fn step(&mut self, step: &StepMetrics, at: f64, images_per_s: f64, left: &str) -> Result<()> {
        self.board.step(step, at, images_per_s, left);
        if self.drawn.is_some_and(|at| at.elapsed() < EVERY) { Ok(()) } else { self.draw() }
    }

    pub(crate) fn epoch(&mut self, record: &EpochReport) -> Result<()> {
        self.board.epoch(record);
        self.draw()
    }

    fn draw(&mut self) -> Result<()> {
        self.board.stopping = self.stop.load(Ordering::SeqCst);
        self.drawn = Some(Instant::now());
        let board = &self.board;
        self.terminal.draw(|frame| board.draw(frame)).map_err(|e| Error::io("the terminal", e))?;
        Ok(())
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        if let Some(keys) = self.keys.take() {
            // A panic of the keyboard thread is no reason to fail here.
            let _ = keys.join();
        }
        restore();
    }
}

/// Polls the keyboard until `closed`: in raw mode Ctrl-C is a key, not a signal.
fn listen(stop: Arc<AtomicBool>, closed: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        while !closed.load(Ordering::SeqCst) {
            // If the terminal is gone, training continues without keys.
            match event::poll(EVERY) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => break,
            }
            let Ok(Event::Key(key)) = event::read() else { continue };
            let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            let asked = key.kind == KeyEventKind::Press && (control_c || key.code == KeyCode::Char('q'));
            if asked && stop.swap(true, Ordering::SeqCst) {
                restore();
                std::process::exit(130);
            }
        }
    })
}
