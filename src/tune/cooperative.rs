//! Whether cooperative matrices do what they should on a device: asked for when it is opened,
//! tested by small convolutions in all three directions, and left alone if a result differs from
//! the CPU twin's.

use super::Trial;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::Operation;
use crate::kernel::{Cooperative, Implementation, Operands, Profile, Step};
use crate::ops::{Conv, ConvInputGrad, ConvWeightGrad, offers};
use crate::reference::{Array, relative_error, run_operation};
use crate::tensor::{Element, Spec};

/// Sums of products of f16 in f32, rounded to f16 at the end; a sum that is begun wrongly or
/// counted twice is off by far more.
const LIMIT: f64 = 2e-3;

/// A convolution to test matrices with.
struct Case {
    op: Box<dyn Operation>,
    specs: Vec<Spec>,
    inputs: Vec<Array<f32>>,
}

/// Numbers between -1 and 1 that f16 has, different for each seed.
fn numbers(dims: &[usize], seed: u32) -> Array<f32> {
    let value = |i: u32| {
        let hash = (i ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
        ((hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35) >> 22) as f32 / 512.0 - 1.0
    };
    let count = u32::try_from(dims.iter().product::<usize>()).unwrap_or(0);
    Array::new(dims, (0..count).map(value).collect())
}

/// Convolutions in all three directions, with several tiles in each dimension, edges that no tile
/// fits, and a weight gradient in several parts: 3x3 on a plane that is loaded element by element,
/// and 1x1 on one that is loaded in vectors.
fn cases(element: Element) -> Vec<Case> {
    let three = directions(element, 3, [19, 18]);
    three.into_iter().chain(directions(element, 1, [20, 16])).collect()
}

fn directions(element: Element, kernel: usize, size: [usize; 2]) -> [Case; 3] {
    let (stride, padding) = ([1, 1], [kernel / 2; 2]);
    let [height, width] = size;
    let (x, dy) = (numbers(&[2, 36, height, width], 1), numbers(&[2, 70, height, width], 4));
    let (w, b) = (numbers(&[70, 36, kernel, kernel], 2), numbers(&[70], 3));
    let activation = |a: &Array<f32>| Spec { shape: a.dims.as_slice().into(), element };
    let parameter = |a: &Array<f32>| Spec::f32(a.dims.as_slice());
    [
        Case {
            op: Box::new(Conv { stride, padding, relu: false, norm: None }),
            specs: vec![activation(&x), parameter(&w), parameter(&b)],
            inputs: vec![x.clone(), w.clone(), b],
        },
        Case {
            op: Box::new(ConvInputGrad { stride, padding, size, accumulate: false, masked: false }),
            specs: vec![activation(&dy), parameter(&w)],
            inputs: vec![dy.clone(), w],
        },
        Case {
            op: Box::new(ConvWeightGrad { stride, padding, kernel: [kernel; 2] }),
            specs: vec![activation(&x), activation(&dy)],
            inputs: vec![x, dy],
        },
    ]
}

/// Runs the convolutions on matrices of a device that is not yet known to have good ones.
pub(super) async fn self_test(gpu: &Gpu, candidate: &Cooperative) -> Result<()> {
    for element in [Element::F16, Element::F32] {
        let has = if element == Element::F16 { candidate.f16 } else { candidate.f32 };
        for case in cases(element).iter().filter(|_| has) {
            let profile = Profile { cooperative: Some(*candidate), ..gpu.profile().clone() };
            let trial = Trial::new(case.op.as_ref(), &case.specs, 0)?.on(*candidate);
            let operands = Operands { layer: "self-test", inputs: trial.inputs(), outputs: trial.outputs() };
            let list = offers(case.op.as_ref(), &operands, &profile);
            let fits = |i: &&Implementation| i.matrices && i.fits(&profile);
            let mut fitting = list.iter().filter(fits).peekable();
            if fitting.peek().is_none() {
                let reason = "has no kernel on matrices that fits this device".to_string();
                return Err(Error::Layer { layer: "self-test".into(), operation: case.op.name(), reason });
            }
            let inputs: Vec<&Array<f32>> = case.inputs.iter().collect();
            let specs: Vec<&Spec> = case.specs.iter().collect();
            let wanted = run_operation(case.op.as_ref(), &specs, &inputs, &Step::default());
            let wanted = wanted.map_err(|reason| Error::Layer {
                layer: "self-test".into(),
                operation: case.op.name(),
                reason,
            })?;
            // Every tile is a default for some layer, and a driver may compile one wrongly and
            // another not.
            for implementation in fitting {
                let made = trial.run(gpu, implementation, &inputs, &Step::default()).await?;
                compare(case.op.name(), implementation.name, &made.arrays, &wanted)?;
            }
        }
    }
    Ok(())
}

/// Compares what a device made with the twin's result.
fn compare(operation: &str, tile: &str, made: &[Array<f32>], wanted: &[Array<f32>]) -> Result<()> {
    for (got, want) in made.iter().zip(wanted) {
        let error = relative_error(&got.data, &want.data);
        if error > LIMIT {
            let reason = format!("{operation} by {tile} is off by {error:.1e}");
            return Err(Error::Kernel { kernel: "self-test".into(), reason, source: None });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::AdapterOptions;

    /// The emulation goes through all of the self-test but the matrices themselves.
    #[test]
    fn the_self_test_passes_where_matrices_are_right() -> Result<()> {
        let gpu = Gpu::open_blocking(&AdapterOptions::default())?;
        let f16 = gpu.profile().f16;
        for (size, subgroup) in [(16, 32), (8, 32)] {
            let candidate = Cooperative { size, subgroup, f16, f32: size == 8, emulated: true };
            gpu.block_on(self_test(&gpu, &candidate))?;
        }
        Ok(())
    }

    #[test]
    fn the_self_test_fails_where_they_are_not() -> Result<()> {
        for case in cases(Element::F16) {
            let (specs, inputs): (Vec<&Spec>, Vec<&Array<f32>>) =
                (case.specs.iter().collect(), case.inputs.iter().collect());
            let right = run_operation(case.op.as_ref(), &specs, &inputs, &Step::default());
            let right = right.map_err(|reason| Error::tensor("trial", reason))?;
            let differs = |made: &[Array<f32>]| compare(case.op.name(), "matrices", made, &right);
            differs(&right)?;
            let mut broken = right.clone();
            // A sum that was counted twice, in one matrix.
            broken[0].data.iter_mut().take(64).for_each(|v| *v *= 2.0);
            assert!(differs(&broken).is_err(), "{:?}", case.op);
            broken[0].data.fill(f32::NAN);
            assert!(differs(&broken).is_err(), "{:?}", case.op);
        }
        Ok(())
    }

    #[test]
    fn a_device_without_matrices_fails_without_a_panic() -> Result<()> {
        let gpu = Gpu::open_blocking(&AdapterOptions::default())?;
        if gpu.profile().cooperative.is_none() {
            let candidate = Cooperative { size: 16, subgroup: 32, f16: true, f32: false, emulated: false };
            assert!(gpu.block_on(self_test(&gpu, &candidate)).is_err());
        }
        Ok(())
    }
}
