//! Why three softmaxes: what each loss sends to each layer, what the auxiliary heads change in
//! training, and what they already know.

mod comparison;
mod gradient_flow;
mod sweep;

pub use comparison::{Comparison, Curve, CurvePoint, Pairs, Recipe, Spread, train_curve};
pub use gradient_flow::{GradientFlow, LayerFlow, LossFlow, LossShare, PartFlow};
pub use sweep::{SweepPoint, THRESHOLDS, sweep};
