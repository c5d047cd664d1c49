//! What the command promises, as a person or another program runs it. All of it is one program,
//! because each program of tests links the whole engine.

mod command_line;
#[cfg(unix)]
mod dashboard;
mod data_formats;
mod early_exit;
mod evaluation;
mod explain;
#[path = "../../../tests/support/gpu.rs"]
mod gpu;
mod import_export;
mod pictures;
mod profile;
mod program;
mod recipes;
mod refusals;
mod saving;
#[path = "../../../tests/support/skipped.rs"]
mod skipped;
