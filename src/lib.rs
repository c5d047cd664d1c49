//! incept trains GoogLeNet (Inception v1) with all three of its heads on any GPU that has a driver,
//! or on the CPU.
//!
//! Data flows one way: data set, batch, graph, plan, device, metrics; the modules follow it. A
//! network is built by [`model`] as a [`graph`], differentiated and pruned there, laid out in
//! memory by [`plan`], and run on a [`device`]: by [`gpu`] with the kernels of [`ops`], or by
//! [`cpu`]. [`train`] combines them.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use incept::data::{Loader, LoaderOptions, OpenOptions, Preprocessing, open};
//! use incept::device::{Device, DeviceOptions};
//! use incept::model::GoogLeNet;
//! use incept::optim::Optimizer;
//! use incept::train::{Trainer, train_epoch};
//!
//! # fn main() -> incept::Result<()> {
//! let device = Device::open_blocking(&DeviceOptions::default())?.device;
//! let data = open("digits", &OpenOptions::default())?;
//! let preprocessing = Preprocessing::new(32).measure(data.train.as_ref(), 500);
//! let loading = LoaderOptions::new(8, preprocessing.clone()).training(1, None);
//! let loader = Loader::new(data.train, loading)?;
//! let network = GoogLeNet::paper().width(0.0625).classes(10).input(32);
//! let optimizer = Optimizer::default();
//! let trainer = Trainer::new(&device, &network, &optimizer, 8, 1, |_, _| ());
//! let mut trainer = device.block_on(trainer)?;
//! // Stop after two steps of the epoch.
//! let observe = |step: &incept::train::StepMetrics| {
//!     assert_eq!(step.heads.len(), 3);
//!     if step.step == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
//! };
//! let epoch = device.block_on(train_epoch(&mut trainer, &loader, |_| 0.01, observe))?;
//! assert!(epoch.interrupted && epoch.loss.is_finite());
//! let mut classifier = device.block_on(trainer.classifier(1))?;
//! let image = preprocessing.apply(&data.validation.image(0)?);
//! let top = device.block_on(classifier.classify(&[image]))?;
//! assert_eq!(top[0].len(), 10);
//! # Ok(())
//! # }
//! ```

pub mod checkpoint;
pub mod cpu;
pub mod data;
pub mod device;
pub mod error;
pub mod explain;
pub mod formats;
pub mod gpu;
pub mod graph;
pub mod infer;
pub mod kernel;
#[cfg(not(target_arch = "wasm32"))]
pub mod learner;
pub mod look;
pub mod model;
pub mod ops;
pub mod optim;
mod output;
pub mod plan;
pub mod reference;
#[cfg(not(target_arch = "wasm32"))]
pub mod runs;
pub mod tensor;
mod text;
pub mod train;
pub mod tune;
mod untrusted;
mod verify;

pub use error::{Error, Result};
/// The version of wgpu that the crate is built with: [`gpu::AdapterOptions`] takes one of its
/// types.
pub use wgpu;

/// What the command, the benchmarks and the fuzz targets share with the library: not designed for
/// others, and it may change in any version.
pub mod low_level {
    /// Files that are written atomically.
    pub mod output {
        pub use crate::output::*;
    }
    /// Counts with their nouns.
    pub mod text {
        pub use crate::text::{noun_after, plural};
    }
    /// Files that are read without being believed.
    pub mod untrusted {
        pub use crate::untrusted::*;
    }
    /// Golden sets against device and CPU reference.
    pub mod verify {
        pub use crate::verify::*;
    }
}

/// How to add a model or an operation. This module contains only text.
pub mod extending {
    #![doc = include_str!("extending.md")]
}

/// The architecture of the crate: `ARCHITECTURE.md` of the repository. This module contains only
/// text.
pub mod architecture {
    #![doc = include_str!("../ARCHITECTURE.md")]
}

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
