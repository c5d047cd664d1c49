//! Networks for tests.

use incept::model::{GoogLeNet, Variant};

/// A network small enough for a CPU: width 1/16, 32x32, no dropout.
pub fn small(variant: Variant) -> GoogLeNet {
    GoogLeNet::of(variant).width(1.0 / 16.0).classes(4).input(32).dropout(0.0, 0.0)
}
