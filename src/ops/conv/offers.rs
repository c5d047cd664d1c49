//! The implementations of all families for each direction, the default first.

use super::geometry::Extents;
use super::product::Product;
use super::{cooperative, direct, lanes, tiled, winograd};
use crate::kernel::{Implementation, Operands, Profile};

/// Forward and input gradient.
pub(super) fn product(
    operands: &Operands<'_>,
    product: &Product<'_>,
    profile: &Profile,
) -> Vec<Implementation> {
    let tiled = tiled::product(operands, product, profile);
    let cooperative = cooperative::product(operands, product, profile);
    // Of the families for GPUs, the one with the lower estimate comes first: with three channels,
    // windows are read element by element, and matrices gain nothing.
    let [mut list, rest] =
        if product.source.dims()[1] < 16 { [tiled, cooperative] } else { [cooperative, tiled] };
    list.extend(rest);
    list.extend(winograd::product(operands, product, profile));
    list.extend(lanes::product(operands, product, profile));
    list.push(direct::product(operands, product));
    list
}

/// The weight gradient.
pub(super) fn weight_gradient(
    operands: &Operands<'_>,
    e: &Extents,
    profile: &Profile,
) -> Vec<Implementation> {
    let mut list = cooperative::weight_gradient(operands, e, profile);
    list.extend(tiled::weight_gradient(operands, e, profile));
    list.extend(lanes::weight_gradient(operands, e, profile));
    list.push(direct::weight_gradient(operands, e));
    list.extend(winograd::weight_gradient(operands, e, profile));
    list
}
