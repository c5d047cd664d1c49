//! Inference: classification, early exit, ensembles over crops and checkpoints, and metrics:
//! confusion matrix, precision and recall by class, calibration, most confident mistakes.

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
pub use classifier::{Classifier, Evaluation, InferenceGraph, Prediction, require_finite, top};
pub use confusion::{ClassMetrics, Confusion, MeanMetrics};
pub use early_exit::{Answer, EarlyExit, Exit, HeadLogits, softmax};
pub use ensemble::{Member, Scores, score};
pub use evaluate::{evaluate, evaluate_heads};
pub use reliability::{Reliability, ReliabilityBin};
