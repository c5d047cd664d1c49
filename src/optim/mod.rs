//! What moves parameters: update rules, learning rate schedules, mixed precision; and the training
//! state that they change.

mod optimizer;
mod precision;
mod schedule;
mod state;

pub use optimizer::{Averaging, Optimizer, Rule};
pub(crate) use precision::{LOSS_SCALE, ScaleState};
pub use precision::{LossScaling, Precision};
pub use schedule::{Moment, Pace, Schedule};
pub use state::{Progress, TrainingState};
