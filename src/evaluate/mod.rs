//! What a classifier is worth: confusions, precision and recall by class, calibration, worst mistakes; over crops of a picture and over
//! several checkpoints.

mod assessment;
mod confusion;
mod ensemble;
mod reliability;

pub use assessment::{Assessment, Mistake};
pub use confusion::{ClassMetrics, Confusion, MeanMetrics};
pub use ensemble::{Member, Scores, score};
pub use reliability::{Reliability, ReliabilityBin};
