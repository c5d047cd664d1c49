//! Tests of the library, in one program because each test program links the whole engine.
//!
//! `tests/mutations.rs` is separate because it counts the memory of its process.

mod cpu;
mod data;
mod dispatches;
mod graph;
mod heatmaps;
mod learner;
mod model;
mod operations;
mod passes;
mod precision;
mod shaders;
mod static_profile;
#[path = "../support/mod.rs"]
mod support;
mod tune;
mod verify;
mod weights;
