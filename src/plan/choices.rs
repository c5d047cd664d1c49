//! Which implementation to run where it was measured, in place of the default policy.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::graph::Operation;
use crate::kernel::{Implementation, Operand, Operands, Profile, Scalar};

/// How thoroughly implementations are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// A few repetitions within a time budget.
    Fast,
    /// Many repetitions of everything.
    Full,
}

/// What was decided for one operation on one set of shapes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The name of the implementation.
    pub implementation: String,
    /// The fingerprint of the kernels that it was chosen among. The choice holds for these alone:
    /// any others have been neither checked nor measured.
    pub kernels: String,
    /// How thoroughly it was measured.
    pub effort: Effort,
    /// Microseconds of each implementation that was measured. None where the time did not suffice:
    /// the default was left then.
    pub microseconds: BTreeMap<String, f64>,
}

/// Choices by [`Choices::key`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Choices(BTreeMap<String, Choice>);

impl Choices {
    /// What a choice depends on, as a line to read: the operation with its attributes, and of each
    /// operand the shape and what kernels may ask about its place. Nodes with the same key are
    /// offered the same kernels.
    pub fn key(op: &dyn Operation, operands: &Operands<'_>) -> String {
        let mut key = format!("{} {op:?}", op.name());
        for (separator, list) in [(" (", operands.inputs), (") -> (", operands.outputs)] {
            key.push_str(separator);
            for (i, operand) in list.iter().enumerate() {
                // Writing to a string cannot fail.
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

    /// Takes up a choice; an older one with the same key goes.
    pub fn insert(&mut self, key: impl Into<String>, choice: Choice) {
        self.0.insert(key.into(), choice);
    }

    /// Takes up all choices of another, which win over older ones.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Choice)> {
        self.0.iter().map(|(key, choice)| (key.as_str(), choice))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The implementation that was chosen for an operation. None if nothing was chosen, or was
    /// chosen among other kernels, or is not in the list, or does not fit the device: then the
    /// default policy holds.
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

/// What kernels may ask about an operand's place beside its shape; nothing for the common case.
fn placing(operand: &Operand) -> String {
    let mut text = String::new();
    if !operand.is_dense() {
        text.push_str(" window");
    }
    // Vectors of up to eight f16 are loaded at once. How items follow each other in a dense tensor
    // is in its shape.
    let aligned = |width: usize| {
        if operand.is_dense() { operand.offset.is_multiple_of(width) } else { operand.is_aligned(width) }
    };
    let width = [8, 4, 2].into_iter().find(|width| aligned(*width)).unwrap_or(1);
    if width != 8 {
        let _ = write!(text, " by {width}");
    }
    text
}

/// A number that changes with anything that the implementations which fit a device run, apart from
/// offsets and strides, which differ between nodes of one key.
pub fn fingerprint(list: &[Implementation], profile: &Profile) -> String {
    let mut hash = Fingerprint::default();
    for implementation in list.iter().filter(|i| i.fits(profile)) {
        hash.text(implementation.name);
        implementation.scratch.iter().for_each(|bytes| hash.word(*bytes));
        for kernel in &implementation.kernels {
            hash.text(kernel.entry);
            // Of a file that cannot be read there is no kernel either, and so no choice.
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

/// FNV-1a over words of eight bytes: the same on every platform and in every version of the
/// compiler, as a file needs it.
struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    fn word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
        // Multiplying carries nothing down to the low bits.
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
    fn keys_tell_shapes_attributes_and_places_apart() {
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
    fn a_choice_holds_only_for_the_kernels_that_it_was_made_among() {
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
