//! Why three softmaxes: the gradient of each head's loss at each layer, training with and without
//! auxiliary heads, and the accuracy of each head as an early exit.

mod comparison;
mod gradient_flow;
mod sweep;

pub use comparison::{Comparison, Curve, CurvePoint, Pairs, Recipe, Spread, train_curve};
pub use gradient_flow::{GradientFlow, LayerFlow, LossFlow, LossShare, PartFlow};
pub use sweep::{SweepPoint, THRESHOLDS, sweep};
