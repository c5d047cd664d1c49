//! Recognition of local response normalization that an exporter has decomposed, like PyTorch's
//! `local_response_norm`: x / (k + alpha mean(x^2))^beta, where the mean over neighbouring channels
//! is a pooling of five-dimensional values.

use super::trace::{Source, Step, Trace};
use crate::formats::OnnxNode;

/// A function of the squares of a value: (bias + factor mean)^power.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Squares {
    /// The squared value.
    source: Source,
    steps: Vec<Step>,
    /// Channels of the window; `None` before the mean.
    window: Option<i64>,
    /// Zero padding of the channels, if it is constant in the file. Computed padding must be right,
    /// as the result has as many channels as the value.
    padding: Option<[i64; 2]>,
    factor: f32,
    bias: f32,
    power: f32,
}

/// The parameters of a local response normalization.
#[derive(Clone, Copy, Debug)]
pub(super) struct Response {
    pub size: i64,
    pub alpha: f32,
    pub beta: f32,
    pub bias: f32,
}

impl Response {
    /// Whether these are the paper's.
    pub fn is_published(self) -> bool {
        let near = |found: f32, expected: f32| (found / expected - 1.0).abs() < 1e-3;
        self.size == 5 && near(self.alpha, 1e-4) && near(self.beta, 0.75) && near(self.bias, 1.0)
    }
}

impl Squares {
    /// The squares of a value.
    pub fn of(trace: &Trace) -> Self {
        let (source, steps) = (trace.source, trace.steps.clone());
        Self { source, steps, window: None, padding: None, factor: 1.0, bias: 0.0, power: 1.0 }
    }

    /// The result of a node, if it can be a part of a normalization. `constant` returns the
    /// elements of the node's constant inputs.
    pub fn then<'a>(
        mut self,
        node: &OnnxNode,
        constant: impl Fn(usize) -> Option<&'a [f32]>,
    ) -> Option<Self> {
        let scalar = || match (constant(0), constant(1)) {
            (None, Some([value])) => Some((*value, false)),
            (Some([value]), None) => Some((*value, true)),
            _ => None,
        };
        match node.operator.as_str() {
            "Reshape" | "Unsqueeze" | "Squeeze" | "Identity" | "Cast" | "CastLike" => {}
            "Pad" if self.window.is_none() && matches!(node.text("mode"), "" | "constant") => {
                let computed = !node.inputs.get(1).is_none_or(String::is_empty) && constant(1).is_none();
                let pads: Vec<i64> = match constant(1) {
                    Some(values) => values.iter().map(|value| *value as i64).collect(),
                    None => node.ints("pads").to_vec(),
                };
                if !computed {
                    let [before, behind] = around_channels(&pads)?;
                    let [old_before, old_behind] = self.padding.unwrap_or_default();
                    self.padding = Some([old_before.checked_add(before)?, old_behind.checked_add(behind)?]);
                }
            }
            "AveragePool" if self.window.is_none() && self.bias == 0.0 && self.power == 1.0 => {
                let [window, rest @ ..] = node.ints("kernel_shape") else { return None };
                let pads = node.ints("pads");
                let alone = !rest.is_empty()
                    && rest.iter().all(|size| *size == 1)
                    && node.ints("strides").iter().all(|stride| *stride == 1);
                // Excluding padding from the mean would change it at the edges.
                let [before, behind] = pool_padding(pads)?;
                if !alone || ([before, behind] != [0, 0] && node.int("count_include_pad", 0) != 1) {
                    return None;
                }
                if let Some([padded_before, padded_behind]) = self.padding.or((before > 0).then_some([0, 0]))
                {
                    let half = window / 2;
                    let sides = [padded_before.checked_add(before)?, padded_behind.checked_add(behind)?];
                    if sides != [half, half] {
                        return None;
                    }
                }
                self.window = Some(*window);
            }
            "Mul" if self.power == 1.0 => self.scale(scalar()?.0),
            "Div" if self.power == 1.0 => match scalar()? {
                (value, false) => self.scale(1.0 / value),
                _ => return None,
            },
            "Add" if self.power == 1.0 => self.bias += scalar()?.0,
            "Pow" => match scalar()? {
                (value, false) => self.power *= value,
                _ => return None,
            },
            "Sqrt" => self.power *= 0.5,
            "Reciprocal" => self.power = -self.power,
            _ => return None,
        }
        Some(self)
    }

    fn scale(&mut self, factor: f32) {
        self.factor *= factor;
        self.bias *= factor;
    }

    /// The normalization of `trace`, which is divided by this or multiplied with it.
    pub fn normalises(&self, trace: &Trace, divides: bool) -> Option<Response> {
        let same = self.source == trace.source && self.steps == trace.steps;
        let beta = if divides { self.power } else { -self.power };
        let size = self.window.filter(|_| same)?;
        Some(Response { size, alpha: self.factor, beta, bias: self.bias })
    }
}

/// Padding before and after the channels of a five-dimensional value, or of a four-dimensional one
/// in which each row is an image; `None` if other dimensions are padded.
fn around_channels(pads: &[i64]) -> Option<[i64; 2]> {
    let (before, behind) = pads.split_at(pads.len() / 2);
    let alone = |side: &[i64]| side.iter().enumerate().all(|(axis, pad)| axis == 2 || *pad == 0);
    let fits = matches!(pads.len(), 8 | 10) && alone(before) && alone(behind);
    Some([*before.get(2)?, *behind.get(2)?]).filter(|_| fits)
}

/// As [`around_channels`], for the padding of a pooling, which has entries for spatial dimensions
/// only.
fn pool_padding(pads: &[i64]) -> Option<[i64; 2]> {
    if pads.is_empty() {
        return Some([0, 0]);
    }
    let (before, behind) = pads.split_at(pads.len() / 2);
    let fits =
        before.iter().chain(behind).enumerate().all(|(i, pad)| i % before.len().max(1) == 0 || *pad == 0);
    Some([*before.first()?, *behind.first()?]).filter(|_| fits)
}
