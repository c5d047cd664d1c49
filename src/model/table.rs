//! The network's tables: table 1 of Szegedy et al., "Going Deeper with Convolutions" (2014).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{GoogLeNet, Variant};
use crate::error::{Error, Result};

/// Channel counts of one Inception block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The 1x1 branch.
    pub conv1: usize,
    /// The reduction before 3x3.
    pub reduce3: usize,
    /// The 3x3 branch.
    pub conv3: usize,
    /// The reduction before 5x5.
    pub reduce5: usize,
    /// The 5x5 branch.
    pub conv5: usize,
    /// The projection after the pooling.
    pub project: usize,
}

const fn block(
    conv1: usize,
    reduce3: usize,
    conv3: usize,
    reduce5: usize,
    conv5: usize,
    project: usize,
) -> Block {
    Block { conv1, reduce3, conv3, reduce5, conv5, project }
}

/// The Inception blocks in order.
pub const BLOCKS: [(&str, Block); 9] = [
    ("3a", block(64, 96, 128, 16, 32, 32)),
    ("3b", block(128, 128, 192, 32, 96, 64)),
    ("4a", block(192, 96, 208, 16, 48, 64)),
    ("4b", block(160, 112, 224, 24, 64, 64)),
    ("4c", block(128, 128, 256, 24, 64, 64)),
    ("4d", block(112, 144, 288, 32, 64, 64)),
    ("4e", block(256, 160, 320, 32, 128, 128)),
    ("5a", block(256, 160, 320, 32, 128, 128)),
    ("5b", block(384, 192, 384, 48, 128, 128)),
];

/// The blocks that a stride-2 max pool follows.
pub(super) const POOLED: [&str; 2] = ["3b", "4e"];

/// The blocks that an auxiliary head reads.
pub(super) const TAPPED: [&str; 2] = ["4a", "4d"];

/// Channel counts of every layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channels {
    /// conv1 7x7, conv2 reduction, conv2 3x3.
    pub stem: [usize; 3],
    /// The Inception blocks in order.
    pub blocks: Vec<Block>,
    /// The 1x1 convolution and the hidden layer of an auxiliary head.
    pub aux: [usize; 2],
}

impl Block {
    fn map(self, f: impl Fn(usize) -> usize) -> Self {
        block(f(self.conv1), f(self.reduce3), f(self.conv3), f(self.reduce5), f(self.conv5), f(self.project))
    }
}

impl Channels {
    /// The paper's counts.
    pub fn full() -> Self {
        Self { stem: [64, 64, 192], blocks: BLOCKS.iter().map(|(_, b)| *b).collect(), aux: [128, 1024] }
    }

    /// Each count multiplied and rounded to the nearest positive integer.
    #[must_use]
    pub fn scaled(&self, width: f64) -> Self {
        let scale = |n: usize| ((n as f64 * width).round() as usize).max(1);
        Self {
            stem: self.stem.map(scale),
            blocks: self.blocks.iter().map(|b| b.map(scale)).collect(),
            aux: self.aux.map(scale),
        }
    }
}

/// The names of a block's convolutions, in the order of [`Block`]'s fields.
pub(super) fn block_layers(variant: Variant, block: &str) -> [String; 6] {
    match variant {
        Variant::Paper => ["1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj"]
            .map(|layer| format!("inception_{block}/{layer}")),
        Variant::Torchvision => ["branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1"]
            .map(|layer| format!("inception{block}.{layer}")),
    }
}

/// The names of the stem's convolutions.
pub(super) fn stem_layers(variant: Variant) -> [&'static str; 3] {
    match variant {
        Variant::Paper => ["conv1/7x7_s2", "conv2/3x3_reduce", "conv2/3x3"],
        Variant::Torchvision => ["conv1", "conv2", "conv3"],
    }
}

/// The names of an auxiliary head's layers: convolution, hidden layer, classifier.
pub(super) fn aux_layers(variant: Variant, head: usize) -> [String; 3] {
    match variant {
        Variant::Paper => ["conv", "fc", "classifier"].map(|layer| format!("loss{head}/{layer}")),
        Variant::Torchvision => ["conv", "fc1", "fc2"].map(|layer| format!("aux{head}.{layer}")),
    }
}

/// The name of the main classifier.
pub(super) fn classifier_layer(variant: Variant) -> &'static str {
    match variant {
        Variant::Paper => "loss3/classifier",
        Variant::Torchvision => "fc",
    }
}

/// The name of a convolution's weight.
pub(super) fn conv_weight(variant: Variant, layer: &str) -> String {
    match variant {
        Variant::Paper => format!("{layer}.weight"),
        Variant::Torchvision => format!("{layer}.conv.weight"),
    }
}

/// The part of the network that a layer or parameter of this name belongs to: `conv1`, `conv2`, a
/// block of [`BLOCKS`], `aux1`, `aux2`, or `classifier` for what follows the last block. Pools and
/// norms between blocks belong to the part that they follow.
pub fn part_of(name: &str) -> &'static str {
    let inception = name.strip_prefix("inception").map(|rest| rest.trim_start_matches('_'));
    if let Some(rest) = inception {
        let block = BLOCKS.iter().map(|(block, _)| *block).find(|block| rest.starts_with(block));
        return block.unwrap_or("classifier");
    }
    // torchvision's `conv3` is the paper's `conv2/3x3`.
    let prefixes = [
        ("conv1", "conv1"),
        ("pool1", "conv1"),
        ("conv2", "conv2"),
        ("conv3", "conv2"),
        ("pool2", "conv2"),
        ("pool3", "3b"),
        ("pool4", "4e"),
        ("loss1", "aux1"),
        ("aux1", "aux1"),
        ("loss2", "aux2"),
        ("aux2", "aux2"),
    ];
    prefixes.iter().find(|(prefix, _)| name.starts_with(prefix)).map_or("classifier", |(_, part)| part)
}

impl GoogLeNet {
    /// The network with weights of these names and shapes. Properties that shapes do not determine
    /// have the variant's defaults; without weights of auxiliary heads, the aux weight is 0.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming a layer whose weight is missing.
    pub fn from_tensors(shapes: &BTreeMap<String, Vec<usize>>) -> Result<Self> {
        let variant =
            if shapes.contains_key("conv1.conv.weight") { Variant::Torchvision } else { Variant::Paper };
        let [_, aux_hidden, _] = aux_layers(variant, 1);
        let has_aux = shapes.contains_key(&format!("{aux_hidden}.weight"));
        Self::of_counts(variant, has_aux, |name| {
            let dims = shapes.get(name).and_then(|dims| dims.first()).copied();
            dims.ok_or_else(|| Error::tensor(name, "is missing: these are not the weights of a GoogLeNet"))
        })
    }

    /// The network with the channel counts that `outputs` returns for the names of weights.
    pub(super) fn of_counts<E>(
        variant: Variant,
        has_aux: bool,
        outputs: impl Fn(&str) -> Result<usize, E>,
    ) -> Result<Self, E> {
        let conv = |layer: &str| outputs(&conv_weight(variant, layer));
        let mut stem = [0; 3];
        for (count, layer) in stem.iter_mut().zip(stem_layers(variant)) {
            *count = conv(layer)?;
        }
        let mut blocks = Vec::new();
        for (name, _) in BLOCKS {
            let mut counts = [0; 6];
            for (count, layer) in counts.iter_mut().zip(block_layers(variant, name)) {
                *count = conv(&layer)?;
            }
            let [conv1, reduce3, conv3, reduce5, conv5, project] = counts;
            blocks.push(block(conv1, reduce3, conv3, reduce5, conv5, project));
        }
        let [aux_conv, aux_hidden, _] = aux_layers(variant, 1);
        let aux = if has_aux {
            [conv(&aux_conv)?, outputs(&format!("{aux_hidden}.weight"))?]
        } else {
            Channels::full().aux
        };
        let classes = outputs(&format!("{}.weight", classifier_layer(variant)))?;
        let network = Self::of(variant).classes(classes);
        let aux_weight = if has_aux { network.aux_weight } else { 0.0 };
        Ok(Self { channels: Channels { stem, blocks, aux }, aux_weight, ..network })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_layer_and_parameter_names() {
        for (name, part) in [
            ("conv1/7x7_s2.weight", "conv1"),
            ("conv3.bn.bias", "conv2"),
            ("inception_4a/5x5_reduce.bias", "4a"),
            ("inception4e.branch2.1.conv.weight", "4e"),
            ("pool3/3x3_s2", "3b"),
            ("loss2/fc.weight", "aux2"),
            ("aux1.fc2.weight", "aux1"),
            ("loss3/classifier.weight", "classifier"),
            ("fc.bias", "classifier"),
        ] {
            assert_eq!(part_of(name), part, "{name}");
        }
    }
}
