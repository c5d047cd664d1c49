//! Operations on single elements.

use super::super::operands::{Call, Input, Output};
use super::super::parallel::each;
use super::super::simd::wide;
use super::Kernel;
use super::cut::{Piece, mask, pieces};
use crate::graph::{Add, Copy, Fill};
use crate::ops::{Dropout, Relu, ReluGrad};

/// Computes an output in parts, each with the same part of the inputs.
fn run<'a, const N: usize>(
    inputs: [Input<'a>; N],
    output: &'a mut Output<'_>,
    part: impl Fn(Piece<'_, N>) + Sync + Send,
) -> Option<()> {
    let volume: usize = output.dims().iter().product();
    each(pieces(inputs, output)?, volume, part);
    Some(())
}

impl Kernel for Relu {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        run([], call.outputs.first_mut()?, |piece| {
            for y in piece.output {
                *y = if *y > 0.0 { *y } else { 0.0 };
            }
        })
    }
}

impl Kernel for ReluGrad {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        run([call.input(0)?], call.outputs.first_mut()?, |piece| {
            mask(piece.output, piece.inputs[0]);
        })
    }
}

impl Kernel for Add {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        run([call.input(1)?], call.outputs.first_mut()?, |piece| {
            for (y, b) in piece.output.iter_mut().zip(piece.inputs[0]) {
                *y += *b;
            }
        })
    }
}

impl Kernel for Copy {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        run([call.input(0)?], call.outputs.first_mut()?, |piece| {
            piece.output.copy_from_slice(piece.inputs[0]);
        })
    }
}

impl Kernel for Fill {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let scale = if self.scaled { call.step.loss_scale } else { 1.0 };
        let value = self.value * scale;
        run([], call.outputs.first_mut()?, |piece| {
            piece.output.fill(value);
        })
    }
}

/// One round of the PCG hash.
#[inline(always)]
fn mix(value: u32) -> u32 {
    let state = value.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

/// Values of a run of [`Dropout`].
#[derive(Clone, Copy)]
struct Drop {
    layer: u32,
    threshold: u32,
    scale: f32,
}

impl Drop {
    /// The elements from index `first` on.
    #[inline(always)]
    fn part(self, first: usize, y: &mut [f32], x: &[f32]) {
        // Element indices are 32 bits, as on GPUs.
        let first = first as u32;
        for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
            let kept = mix(first.wrapping_add(i as u32) ^ self.layer) >= self.threshold;
            *y = if kept { *x * self.scale } else { 0.0 };
        }
    }
}

impl Kernel for Dropout {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let step = call.step;
        let layer = mix(step.step ^ mix(self.salt ^ mix(step.seed_high ^ mix(step.seed))));
        let drop = Drop { layer, threshold: self.threshold(), scale: 1.0 / (1.0 - self.probability) };
        run([call.input(0)?], call.outputs.first_mut()?, |piece| {
            wide(
                #[inline(always)]
                || drop.part(piece.first, piece.output, piece.inputs[0]),
            );
        })
    }
}
