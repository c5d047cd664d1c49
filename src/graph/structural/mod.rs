//! Operations that autodiff and the planner insert into any graph: sums of gradients, their seed,
//! and copies where storage cannot be shared.

mod add;
mod copy;
mod fill;

pub use add::Add;
pub use copy::Copy;
pub use fill::Fill;
