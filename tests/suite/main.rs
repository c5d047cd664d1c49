//! What the library promises. All of it is one program, because each program of tests links the
//! whole engine.
//!
//! `tests/mutations.rs` is another: it counts the memory of its whole process.

mod data;
mod graph;
mod learner;
mod operations;
mod precision;
mod shaders;
mod static_profile;
#[path = "../support/mod.rs"]
mod support;
mod tune;
mod verify;
mod weights;
