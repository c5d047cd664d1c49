//! Concatenation of channels and its reverse. Neither runs a kernel: the planner lets producers
//! write into windows of the result, and readers read windows of the input.

use super::expect;
use crate::error::Result;
use crate::graph::{Alias, Backward, Operation};
use crate::kernel::{Implementation, Operands, Profile};
use crate::tensor::Spec;
use crate::text::plural;

/// The inputs concatenated along the channels. Inputs: different tensors, [batch, channels, height,
/// width] that differ only in the number of channels.
#[derive(Clone, Debug)]
pub struct Concat;

/// A window of the channels. Input: [batch, channels, height, width]; output: [batch, `channels`,
/// height, width].
#[derive(Clone, Debug)]
pub struct Slice {
    /// The first channel.
    pub channel: usize,
    /// Number of channels.
    pub channels: usize,
}

impl Operation for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let Some(first) = inputs.first() else { return Err("expected inputs".into()) };
        let [batch, _, height, width] = first.shape.nchw()?;
        let mut channels = 0;
        for input in inputs {
            let [n, c, h, w] = input.shape.nchw()?;
            if [n, h, w] != [batch, height, width] || input.element != first.element {
                return Err(format!("cannot concatenate {input} and {first}"));
            }
            channels = c.saturating_add(channels);
        }
        Ok(vec![Spec { shape: [batch, channels, height, width].into(), element: first.element }])
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        let Some(dy) = context.grad(0) else { return Ok(()) };
        let mut slices = Vec::new();
        let mut channel = 0;
        // All slices are added before any node that rewrites one of them in place.
        for i in 0..context.input_count() {
            let channels = context.dims(context.input(i))[1];
            slices.push(context.emit(&format!("slice{i}"), Slice { channel, channels }, &[dy])?[0]);
            channel += channels;
        }
        slices.into_iter().enumerate().try_for_each(|(i, slice)| context.pass(i, slice))
    }

    fn aliases(&self, inputs: &[&Spec]) -> Vec<Alias> {
        let mut channel = 0;
        let place = |(input, spec): (usize, &&Spec)| {
            let alias = Alias::Gather { output: 0, input, channel };
            channel += spec.shape.ncs()[1];
            alias
        };
        inputs.iter().enumerate().map(place).collect()
    }

    fn kernels(&self, _operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        Vec::new()
    }
}

impl Operation for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x] = expect(inputs)?;
        let [batch, channels, height, width] = x.shape.nchw()?;
        if self.channel.checked_add(self.channels).is_none_or(|end| end > channels) {
            return Err(format!(
                "a window of {} from channel {} exceeds {}",
                plural(self.channels, "channel"),
                self.channel,
                x.shape
            ));
        }
        Ok(vec![Spec { shape: [batch, self.channels, height, width].into(), element: x.element }])
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        vec![Alias::Window { output: 0, input: 0, channel: self.channel }]
    }

    fn kernels(&self, _operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        Vec::new()
    }
}
