//! Each operation by itself: the CPU twin against goldens, every implementation on the device against the f64 twin.

mod conv;
mod elementwise;
mod fixtures;
mod linear;
mod loss;
mod norm;
mod optimizer;
mod pool;
mod support;
