//! Operations that autodiff and the planner put into any graph: sums of gradients, their start, and
//! copies where storage cannot be shared.

mod add;
mod copy;
mod fill;

pub use add::Add;
pub use copy::Copy;
pub use fill::Fill;
