//! Implementations chosen by measurement, which replace the default policy.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::graph::Operation;
use crate::kernel::{Implementation, Operand, Operands, Profile, Scalar};

/// Effort of tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// A few repetitions within a time budget.
    Fast,
    /// Many repetitions, without a time budget.
    Full,
}

/// The choice for one operation and set of shapes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Name of the implementation.
    pub implementation: String,
    /// Fingerprint of the candidate kernels. The choice is valid only for these, because other
    /// kernels were neither checked nor measured.
    pub kernels: String,
    /// Effort of the measurement.
    pub effort: Effort,
    /// Microseconds by measured implementation. Empty if the time budget was used up and the
    /// default kept.
    pub microseconds: BTreeMap<String, f64>,
}

/// Choices by [`Choices::key`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Choices(BTreeMap<String, Choice>);

impl Choices {
    /// The key of a choice, human-readable: the operation with its attributes, and per operand the
    /// shape and the placement properties that kernels depend on. Nodes with the same key are
    /// offered the same kernels.
    pub fn key(op: &dyn Operation, operands: &Operands<'_>) -> String {
        let mut key = format!("{} {op:?}", op.name());
        for (separator, list) in [(" (", operands.inputs), (") -> (", operands.outputs)] {
            key.push_str(separator);
            for (i, operand) in list.iter().enumerate() {
                // Writing to a `String` cannot fail.
                let _ = write!(key, "{}{}", if i > 0 { ", " } else { "" }, operand.spec);
                key.push_str(&placing(operand));
            }
        }
        key.push(')');
        key
    }

    /// The choice with this key.
    pub fn get(&self, key: &str) -> Option<&Choice> {
        self.0.get(key)
    }

    /// Adds a choice and replaces one with the same key.
    pub fn insert(&mut self, key: impl Into<String>, choice: Choice) {
        self.0.insert(key.into(), choice);
    }

    /// Adds all choices of `other`, which replace those with the same keys.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// All choices, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Choice)> {
        self.0.iter().map(|(key, choice)| (key.as_str(), choice))
    }

    /// Number of choices.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no choices.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The chosen implementation of an operation. `None`, for the default policy, if there is no
    /// choice, its candidates were other kernels, or it is not in the list or does not fit the
    /// device.
    pub fn pick<'a>(
        &self,
        op: &dyn Operation,
        operands: &Operands<'_>,
        list: &'a [Implementation],
        profile: &Profile,
    ) -> Option<&'a Implementation> {
        if self.is_empty() {
            return None;
        }
        let choice = self.get(&Self::key(op, operands))?;
        let found = list.iter().find(|i| i.name == choice.implementation && i.fits(profile))?;
        (choice.kernels == fingerprint(list, profile)).then_some(found)
    }
}

/// Placement properties of an operand that kernels depend on; empty in the common case.
fn placing(operand: &Operand) -> String {
    let mut text = String::new();
    if !operand.is_dense() {
        text.push_str(" window");
    }
    // Vectors of up to eight f16 are loaded at once. The batch stride of a dense tensor follows
    // from its shape.
    let aligned = |width: usize| {
        if operand.is_dense() { operand.offset.is_multiple_of(width) } else { operand.is_aligned(width) }
    };
    let width = [8, 4, 2].into_iter().find(|width| aligned(*width)).unwrap_or(1);
    if width != 8 {
        let _ = write!(text, " by {width}");
    }
    text
}

/// Hash of everything that the fitting implementations run, except offsets and strides, which
/// differ between nodes with the same key.
pub fn fingerprint(list: &[Implementation], profile: &Profile) -> String {
    let mut hash = Fingerprint::default();
    for implementation in list.iter().filter(|i| i.fits(profile)) {
        hash.text(implementation.name);
        implementation.scratch.iter().for_each(|bytes| hash.word(*bytes));
        for kernel in &implementation.kernels {
            hash.text(kernel.entry);
            // A source that cannot be read gives no kernel, so there is nothing to choose.
            hash.text(&kernel.whole_source().unwrap_or_default());
            for (name, value) in &kernel.constants {
                hash.text(name);
                hash.word(match value {
                    Scalar::U32(v) => u64::from(*v),
                    Scalar::F32(v) => u64::from(v.to_bits()),
                    Scalar::Bool(v) => u64::from(*v),
                });
            }
            kernel.geometry.iter().for_each(|(name, _)| hash.text(name));
            for binding in &kernel.bindings {
                hash.text(binding.name);
                hash.text(binding.element);
            }
            kernel.workgroup.iter().chain(&kernel.groups).for_each(|n| hash.word(u64::from(*n)));
        }
    }
    format!("{:016x}", hash.0)
}

/// FNV-1a over words of eight bytes, stable across platforms and compiler versions, because it is
/// stored in files.
struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    fn word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
        // Multiplication does not propagate to lower bits.
        self.0 = mixed ^ (mixed >> 29);
    }

    fn text(&mut self, text: &str) {
        self.word(text.len() as u64);
        for chunk in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{AdapterClass, Kernel};
    use crate::ops::Conv;
    use crate::tensor::Spec;

    const NOTHING: Operands<'_> = Operands { layer: "layer", inputs: &[], outputs: &[] };

    fn list(source: &'static str) -> Vec<Implementation> {
        let kernel = |entry| vec![Kernel::new(&NOTHING, source, entry)];
        vec![Implementation::new("a", kernel("a")), Implementation::new("b", kernel("b"))]
    }

    fn choice(kernels: String) -> Choice {
        Choice { implementation: "b".into(), kernels, effort: Effort::Fast, microseconds: BTreeMap::new() }
    }

    #[test]
    fn keys_differ_by_shape_attributes_and_placement() {
        let dense = |dims: [usize; 4]| Operand::dense(Spec::f32(dims));
        let (x, w, y) = (dense([2, 3, 8, 8]), dense([16, 3, 1, 1]), dense([2, 16, 8, 8]));
        let key = |op: &Conv, y: &Operand| {
            let inputs = [x.clone(), w.clone()];
            Choices::key(op, &Operands { layer: "l", inputs: &inputs, outputs: std::slice::from_ref(y) })
        };
        let window = Operand { offset: 4, batch_stride: 2048, ..y.clone() };
        let op = Conv::new(1, 0);
        assert_eq!(
            key(&op, &window),
            "conv Conv { stride: [1, 1], padding: [0, 0], relu: false, norm: None } (f32 2x3x8x8, f32 16x3x1x1) -> (f32 2x16x8x8 window by 4)"
        );
        let further = Operand { offset: 12, ..window.clone() };
        assert_eq!(key(&op, &window), key(&op, &further));
        let odd = Operand { offset: 3, ..window.clone() };
        let others = [key(&op, &y), key(&op, &odd), key(&Conv { relu: true, ..op.clone() }, &window)];
        assert!(others.iter().all(|other| *other != key(&op, &window)), "{others:?}");
    }

    #[test]
    fn choices_are_invalid_for_changed_kernels() {
        let profile = Profile::webgpu(AdapterClass::Discrete);
        let operands = Operands { layer: "l", inputs: &[], outputs: &[] };
        let (op, old, new) = (Conv::new(1, 0), list("old"), list("new"));
        let mut choices = Choices::default();
        choices.insert(Choices::key(&op, &operands), choice(fingerprint(&old, &profile)));
        let pick = |choices: &Choices, list: &[Implementation], profile: &Profile| {
            choices.pick(&op, &operands, list, profile).map(|i| i.name)
        };
        assert_eq!(pick(&choices, &old, &profile), Some("b"));
        assert_eq!(pick(&choices, &new, &profile), None);
        assert_eq!(pick(&choices, &old[..1], &profile), None);
        // A device with lower limits is offered fewer kernels.
        assert_eq!(pick(&choices, &old, &Profile { invocations: 32, ..profile.clone() }), None);
        assert_eq!(pick(&Choices::default(), &old, &profile), None);
    }
}
