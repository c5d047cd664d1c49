//! incept trains GoogLeNet (Inception v1) with all three of its softmaxes on any GPU that has a driver.

pub mod data;
pub mod error;
pub mod gpu;
pub mod graph;
pub mod kernel;
pub mod nn;
pub mod ops;
pub mod plan;
pub mod reference;
pub mod train;
pub mod tune;
pub mod verify;
pub mod weights;

pub use error::{Error, Result};
