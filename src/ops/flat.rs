//! Shared by operations on whole regions: regions larger than a binding are processed in parts.

use std::ops::Range;

use super::{expect, parameters};
use crate::kernel::BLOCK;
use crate::kernel::{Kernel, Operands, Profile, Slot};
use crate::tensor::Spec;

/// Checks that all inputs are flat, f32, of equal length, a multiple of the block length.
pub(super) fn same_length<const N: usize>(inputs: &[&Spec]) -> Result<Spec, String> {
    let specs = expect::<N>(inputs)?;
    let first = specs.first().ok_or("expected inputs")?;
    parameters(&specs)?;
    let flat = first.shape.rank() == 1 && first.shape.volume().is_multiple_of(BLOCK);
    if flat && specs.iter().all(|s| s == first) {
        Ok((*first).clone())
    } else {
        let shapes: Vec<String> = specs.iter().map(ToString::to_string).collect();
        Err(format!("expected flat regions of equal length, got {}", shapes.join(", ")))
    }
}

/// Checks that `multipliers` has factors on learning rate and weight decay for each block of
/// `region`.
pub(super) fn multipliers_fit(region: &Spec, multipliers: &Spec) -> Result<(), String> {
    if multipliers.dims() == [region.shape.volume() / BLOCK * 2] {
        Ok(())
    } else {
        Err(format!("multipliers {} do not fit {}", multipliers.shape, region.shape))
    }
}

/// The first `count` inputs of an operation, and whether the guard of a
/// [`LossScale`](super::LossScale) follows them.
pub(super) fn guarded<'a, 'b>(
    inputs: &'b [&'a Spec],
    count: usize,
) -> Result<(&'b [&'a Spec], bool), String> {
    match inputs.split_at_checked(count) {
        Some((own, [])) => Ok((own, false)),
        Some((own, [guard])) if **guard == Spec::f32([3]) => Ok((own, true)),
        _ => Err(format!("expected {count} inputs and optionally a guard, got {}", inputs.len())),
    }
}

/// Binds the guard that may follow `count` inputs.
pub(super) fn bind_guard(kernel: Kernel, operands: &Operands<'_>, count: usize) -> Kernel {
    let guarded = operands.inputs.len() > count;
    let kernel = kernel.constant("GUARDED", guarded);
    if guarded { kernel.bind("guard", Slot::Input(count)) } else { kernel }
}

/// A part of a region, in elements.
pub(super) struct Part {
    elements: Range<usize>,
}

/// Divides `length` elements into parts that the device can bind, aligned so that the multipliers
/// can be bound too.
pub(super) fn parts(length: usize, profile: &Profile) -> Vec<Part> {
    let bytes = usize::try_from(profile.binding).unwrap_or(usize::MAX);
    let alignment = usize::try_from(profile.alignment).unwrap_or(256);
    // A block has 8 bytes of multipliers.
    let unit = BLOCK * alignment.div_ceil(8);
    let most = (bytes / 4 / unit).max(1) * unit;
    (0..length.div_ceil(most)).map(|i| Part { elements: i * most..((i + 1) * most).min(length) }).collect()
}

impl Part {
    /// A kernel for this part; `p.count` is in vectors of four elements.
    pub(super) fn kernel(
        &self,
        operands: &Operands<'_>,
        source: &'static str,
        entry: &'static str,
    ) -> Kernel {
        let count = self.elements.len() / 4;
        Kernel::new(operands, source, entry).geometry("count", count).linear(count)
    }

    /// Number of blocks before the part.
    pub(super) fn first_block(&self) -> usize {
        self.elements.start / BLOCK
    }

    /// Number of blocks of the part.
    pub(super) fn blocks(&self) -> usize {
        self.elements.len() / BLOCK
    }

    /// Byte range of the part in a region.
    pub(super) fn bytes(&self) -> Range<u64> {
        4 * self.elements.start as u64..4 * self.elements.end as u64
    }

    /// Binds the part of a region.
    pub(super) fn bind(&self, kernel: Kernel, name: &'static str, slot: Slot) -> Kernel {
        kernel.bind_range(name, slot, "vec4<f32>", self.bytes())
    }

    /// Binds the multipliers of the part's blocks.
    pub(super) fn bind_multipliers(&self, kernel: Kernel, slot: Slot) -> Kernel {
        let bytes = self.bytes();
        let each = BLOCK as u64 / 2;
        kernel.bind_range("multipliers", slot, "vec2<f32>", bytes.start / each..bytes.end / each)
    }
}
