//! Optimizers, learning rate schedules, mixed precision, and the training state.

mod optimizer;
mod precision;
mod schedule;
mod state;

pub use optimizer::{Averaging, Optimizer, Rule};
pub use precision::{LossScaling, Precision};
pub(crate) use precision::{ScaleState, is_loss_scale};
pub use schedule::{Moment, Pace, Schedule};
pub use state::{Progress, TrainingState};
