//! Tests of the `incept` command. They are one test program, because each links the whole engine.

mod command_line;
#[cfg(unix)]
mod dashboard;
mod data_formats;
mod devices;
mod documents;
mod early_exit;
mod evaluation;
mod explain;
mod flags;
#[path = "../../../tests/support/gpu.rs"]
mod gpu;
mod images;
mod import_export;
mod kernels;
mod profile;
mod program;
mod recipes;
mod refusals;
mod saving;
mod sheets;
#[path = "../../../tests/support/skipped.rs"]
mod skipped;
mod terminals;
