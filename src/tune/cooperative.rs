//! Self-test of cooperative matrices when a device is opened: small convolutions in all three
//! directions are compared with the CPU reference; matrices are not used if a result differs.

use super::Trial;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::Operation;
use crate::kernel::{Cooperative, Implementation, Operands, Profile, Step};
use crate::ops::{Conv, ConvInputGrad, ConvWeightGrad, offers};
use crate::reference::{Array, relative_error, run_operation};
use crate::tensor::{Element, Spec};

/// Error limit: f16 products are summed in f32 and rounded to f16; a wrong initial value or a
/// product counted twice gives a far larger error.
const LIMIT: f64 = 2e-3;

/// A test convolution.
struct Case {
    op: Box<dyn Operation>,
    specs: Vec<Spec>,
    inputs: Vec<Array<f32>>,
}

/// Deterministic values in [-1, 1), exact in f16, by seed.
fn numbers(dims: &[usize], seed: u32) -> Array<f32> {
    let value = |i: u32| {
        let hash = (i ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
        ((hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35) >> 22) as f32 / 512.0 - 1.0
    };
    let count = u32::try_from(dims.iter().product::<usize>()).unwrap_or(0);
    Array::new(dims, (0..count).map(value).collect())
}

/// Convolutions in all three directions, with several tiles per dimension, partial tiles at the
/// edges, and a split-K weight gradient: 3x3 on a plane with scalar loads, and 1x1 on one with
/// vector loads.
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

/// Runs the test convolutions on a device's cooperative matrices.
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
                let reason = "has no cooperative kernel that fits this device".to_string();
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
            // Every tile size is the default of some layer, and a driver may miscompile only one of
            // them.
            for implementation in fitting {
                let made = trial.run(gpu, implementation, &inputs, &Step::default()).await?;
                compare(case.op.name(), implementation.name, &made.arrays, &wanted)?;
            }
        }
    }
    Ok(())
}

/// Compares device results with the reference.
fn compare(operation: &str, tile: &str, made: &[Array<f32>], wanted: &[Array<f32>]) -> Result<()> {
    for (got, want) in made.iter().zip(wanted) {
        let error = relative_error(&got.data, &want.data);
        if error > LIMIT {
            let reason = format!("{operation} with {tile} has a relative error of {error:.1e}");
            return Err(Error::Kernel { kernel: "self-test".into(), reason, source: None });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::AdapterOptions;

    /// With emulated matrices, the self-test covers everything but the matrix instructions.
    #[test]
    fn self_test_passes_with_emulated_matrices() -> Result<()> {
        let gpu = Gpu::open_blocking(&AdapterOptions::default())?;
        let f16 = gpu.profile().f16;
        for (size, subgroup) in [(16, 32), (8, 32)] {
            let candidate = Cooperative { size, subgroup, f16, f32: size == 8, emulated: true };
            gpu.block_on(self_test(&gpu, &candidate))?;
        }
        Ok(())
    }

    #[test]
    fn self_test_detects_wrong_sums() -> Result<()> {
        for case in cases(Element::F16) {
            let (specs, inputs): (Vec<&Spec>, Vec<&Array<f32>>) =
                (case.specs.iter().collect(), case.inputs.iter().collect());
            let right = run_operation(case.op.as_ref(), &specs, &inputs, &Step::default());
            let right = right.map_err(|reason| Error::tensor("trial", reason))?;
            let differs = |made: &[Array<f32>]| compare(case.op.name(), "matrices", made, &right);
            differs(&right)?;
            let mut broken = right.clone();
            // A sum counted twice, in one matrix.
            broken[0].data.iter_mut().take(64).for_each(|v| *v *= 2.0);
            assert!(differs(&broken).is_err(), "{:?}", case.op);
            broken[0].data.fill(f32::NAN);
            assert!(differs(&broken).is_err(), "{:?}", case.op);
        }
        Ok(())
    }

    #[test]
    fn self_test_without_matrices_fails_without_panic() -> Result<()> {
        let gpu = Gpu::open_blocking(&AdapterOptions::default())?;
        if gpu.profile().cooperative.is_none() {
            let candidate = Cooperative { size: 16, subgroup: 32, f16: true, f32: false, emulated: false };
            assert!(gpu.block_on(self_test(&gpu, &candidate)).is_err());
        }
        Ok(())
    }
}
