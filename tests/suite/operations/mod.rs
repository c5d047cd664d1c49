//! Single operations: every implementation on the device against the f64 reference. Goldens of
//! operations are in `tests/suite/verify.rs`.

mod conv;
mod elementwise;
mod gradient;
mod half;
mod linear;
mod loss;
mod norm;
mod optimizer;
mod pool;
mod support;
