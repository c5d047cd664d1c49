//! A trained network at work: classifying, early exit, and what a classifier is worth: confusion
//! matrix, precision and recall by class, calibration, worst mistakes; over crops of an image and
//! over several checkpoints.

mod assessment;
mod calibration;
mod classifier;
mod confusion;
mod early_exit;
mod ensemble;
mod evaluate;
mod latest;
mod reliability;

pub use assessment::{Assessment, Mistake};
pub use calibration::{Calibration, calibrate};
pub use classifier::{Classifier, Evaluation, InferenceGraph, Prediction, numbers, top};
pub use confusion::{ClassMetrics, Confusion, MeanMetrics};
pub use early_exit::{Answer, EarlyExit, Exit, HeadLogits, softmax};
pub use ensemble::{Member, Scores, score};
pub use evaluate::{evaluate, evaluate_heads};
pub use reliability::{Reliability, ReliabilityBin};
