//! Checks a kernel's results, also on shapes where a whole CPU reference would take minutes.
//!
//! Up to [`REFERENCE`] multiply-adds, the whole output is compared with the CPU reference in f64.
//! Above that:
//!
//! * elements of the output computed in f64 straight from the definition
//!   ([`Reference::element`](crate::reference::Reference)) must agree: every corner of the output,
//!   where tiles hang over, and many places drawn at random;
//! * the whole output must agree with that of the first implementation that passed, so a single
//!   wrong element is found unless two implementations are wrong in the same way, in the same
//!   place, and nowhere that was sampled.
//!
//! Inputs are noise of both signs, so that wrong products do not cancel and a missing ReLU is
//! found. Guard regions of NaNs around them and in scratch memory expose out-of-bounds reads, and
//! [`Stage`](crate::tune::Trial) detects out-of-bounds writes. A large operation that cannot be
//! sampled is not tuned.

use crate::graph::Operation;
use crate::kernel::Step;
use crate::reference::{self, Array, run_operation};
use crate::tensor::{Element, Spec};
use crate::text::plural;

/// Multiply-adds or elements up to which the reference computes the whole output.
const REFERENCE: u64 = 1 << 25;

/// The same limit where sampling is not possible.
const REFERENCE_ONLY: u64 = 1 << 26;

/// Multiply-adds for all sampled elements together.
const SAMPLING: u64 = 1 << 23;

/// Limits of the relative L2 error of an output, and of the largest error of an element relative to
/// the output's RMS. f32 sums of several hundred thousand products, in any order, are an order of
/// magnitude below.
const LIMITS: (f64, f64) = (1e-4, 1e-3);

/// The limits with f16 storage.
const LIMITS_F16: (f64, f64) = (2e-3, 2e-2);

/// Deterministic noise by seed: in [-1, 1), but vectors in [0.5, 1.5), because they may be
/// variances; labels and indices are zero, which is always valid.
pub(super) fn noise(spec: &Spec, seed: u64) -> Array<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let (low, span) = if spec.shape.rank() < 2 { (0.5, 1.0) } else { (-1.0, 2.0) };
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let value = low + span * ((state >> 40) as f32 / (1u32 << 24) as f32);
        match spec.element {
            Element::F32 => value,
            Element::F16 => half::f16::from_f32(value).to_f32(),
            Element::U32 => 0.0,
        }
    };
    Array::new(spec.dims(), (0..spec.shape.volume()).map(|_| next()).collect())
}

/// Expected outputs of an operation.
#[derive(Debug)]
pub(super) struct Expected {
    truth: Truth,
    limits: (f64, f64),
    /// Which outputs are integers and must match exactly.
    exact: Vec<bool>,
}

#[derive(Debug)]
enum Truth {
    /// All of them.
    Whole(Vec<Array<f32>>),
    /// Sampled elements of the only output, and the whole output of the first implementation that
    /// passed.
    Sampled { elements: Vec<(usize, f64)>, agreed: Option<Array<f32>> },
}

impl Expected {
    /// Computes the expected outputs within a time limit; `None` if they cannot be checked.
    pub(super) fn new(
        op: &dyn Operation,
        specs: &[&Spec],
        outputs: &[&Spec],
        inputs: &[&Array<f32>],
        step: &Step,
    ) -> Option<Self> {
        let all = || specs.iter().chain(outputs);
        let limits = if all().any(|s| s.element == Element::F16) { LIMITS_F16 } else { LIMITS };
        let exact = outputs.iter().map(|s| s.element == Element::U32).collect();
        let volume: usize = all().map(|s| s.shape.volume()).sum();
        let work = op.macs(specs, outputs).max(volume as u64);
        let sampled = || match outputs {
            [output] => sample(op, inputs, output, work),
            _ => None,
        };
        if let Some(elements) = if work > REFERENCE { sampled() } else { None } {
            return Some(Self { truth: Truth::Sampled { elements, agreed: None }, limits, exact });
        }
        if work > REFERENCE_ONLY {
            return None;
        }
        let wide: Vec<Array<f64>> = inputs.iter().map(|a| a.cast()).collect();
        let wide: Vec<&Array<f64>> = wide.iter().collect();
        let made = run_operation(op, specs, &wide, step).ok()?;
        let truth = Truth::Whole(made.iter().map(Array::cast).collect());
        Some(Self { truth, limits, exact })
    }

    /// Compares an implementation's outputs.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(&mut self, got: Vec<Array<f32>>) -> Result<(), String> {
        let (limits, exact) = (self.limits, &self.exact);
        match &mut self.truth {
            Truth::Whole(want) => {
                for ((got, want), exact) in got.iter().zip(want.iter()).zip(exact) {
                    compare(&got.data, &want.data, limits, *exact)?;
                }
            }
            Truth::Sampled { elements, agreed } => {
                let Some(got) = got.into_iter().next() else { return Ok(()) };
                let there: Vec<f32> = elements.iter().map(|(index, _)| got.data[*index]).collect();
                let want: Vec<f32> = elements.iter().map(|(_, value)| *value as f32).collect();
                compare(&there, &want, limits, false)?;
                match agreed {
                    Some(agreed) => compare(&got.data, &agreed.data, limits, false)?,
                    None => *agreed = Some(got),
                }
            }
        }
        Ok(())
    }
}

/// Indices and values of sampled output elements: corners, and random ones within the budget.
fn sample(op: &dyn Operation, inputs: &[&Array<f32>], output: &Spec, work: u64) -> Option<Vec<(usize, f64)>> {
    let (dims, volume) = (output.dims(), output.shape.volume());
    let count = (SAMPLING / (work / volume.max(1) as u64).max(1)).clamp(64, 4096);
    let mut corners = vec![0];
    for dim in dims {
        let ends = if *dim > 1 { vec![0, dim - 1] } else { vec![0] };
        corners = corners.iter().flat_map(|at| ends.iter().map(move |end| at * dim + end)).collect();
    }
    let places = noise(&Spec::f32([usize::try_from(count).unwrap_or(64)]), 99).data;
    let places = places.iter().map(|p| ((f64::from(*p) - 0.5) * volume as f64) as usize);
    let indices = corners.into_iter().chain(places.map(|i| i.min(volume.saturating_sub(1))));
    let reference = reference::of::<f64>(op)?;
    indices.map(|index| Some((index, reference.element(inputs, dims, index)?))).collect()
}

fn compare(got: &[f32], want: &[f32], limits: (f64, f64), exact: bool) -> Result<(), String> {
    if exact {
        let wrong = got.iter().zip(want).filter(|(a, b)| a != b).count();
        return if wrong == 0 { Ok(()) } else { Err(plural(wrong, "wrong integer")) };
    }
    let (mut squares, mut norm, mut worst) = (0.0f64, 0.0f64, 0.0f64);
    for (got, want) in got.iter().zip(want) {
        let difference = f64::from(*got) - f64::from(*want);
        squares += difference * difference;
        norm += f64::from(*want) * f64::from(*want);
        worst = worst.max(difference.abs());
    }
    let size = norm.sqrt().max(1e-12);
    let root_mean_square = size / (want.len().max(1) as f64).sqrt();
    let (whole, one) = (squares.sqrt() / size, worst / root_mean_square);
    // A NaN in the results makes `whole` NaN, for which no comparison is true.
    if got.len() == want.len() && whole <= limits.0 && one <= limits.1 {
        return Ok(());
    }
    Err(format!("results are wrong: relative error {whole:.1e}, largest of an element {one:.1e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Conv, ConvInputGrad, ConvWeightGrad, Linear, LinearInputGrad, LinearWeightGrad};

    /// For every operation with sampling, each sampled element equals that of the whole reference.
    #[test]
    fn sampled_elements_match_the_whole_reference() {
        let dims = |dims: &[usize]| Spec::f32(dims);
        let (x, w, b) = (dims(&[2, 3, 7, 9]), dims(&[5, 3, 3, 2]), dims(&[5]));
        let (stride, padding, size) = ([2, 3], [1, 2], [7, 9]);
        let forward = Conv { stride, padding, relu: true, norm: None };
        let dy = forward.infer(&[&x, &w, &b]).expect("shapes fit").remove(0);
        let (rows, weight, dz) = (dims(&[4, 6]), dims(&[5, 6]), dims(&[4, 5]));
        let shape = rows.shape.clone();
        let cases: [(&dyn Operation, Vec<&Spec>); 8] = [
            (&forward, vec![&x, &w, &b]),
            (&Conv { stride, padding, relu: false, norm: None }, vec![&x, &w]),
            (&ConvInputGrad { stride, padding, size, accumulate: false, masked: false }, vec![&dy, &w]),
            (&ConvInputGrad { stride, padding, size, accumulate: true, masked: false }, vec![&dy, &w, &x]),
            (&ConvWeightGrad { stride, padding, kernel: [3, 2] }, vec![&x, &dy]),
            (&Linear { relu: true }, vec![&rows, &weight, &b]),
            (&LinearInputGrad { shape }, vec![&dz, &weight]),
            (&LinearWeightGrad, vec![&rows, &dz]),
        ];
        for (op, specs) in cases {
            let inputs: Vec<Array<f32>> =
                specs.iter().enumerate().map(|(i, s)| noise(s, 1 + i as u64)).collect();
            let wide: Vec<Array<f64>> = inputs.iter().map(Array::cast).collect();
            let inputs: Vec<&Array<f32>> = inputs.iter().collect();
            let wide: Vec<&Array<f64>> = wide.iter().collect();
            let want = run_operation(op, &specs, &wide, &Step::default()).expect("shapes fit").remove(0);
            for (index, want_here) in want.data.iter().enumerate() {
                let got = reference::of::<f64>(op)
                    .expect("has one")
                    .element(&inputs, &want.dims, index)
                    .expect("can be sampled");
                assert!((got - want_here).abs() < 1e-12, "{op:?} {index}: {got} is not {want_here}");
            }
        }
    }

    /// A single wrong element or NaN in a million is found.
    #[test]
    fn single_wrong_elements_are_found() {
        let want = noise(&Spec::f32([1000, 1000]), 7).data;
        assert_eq!(compare(&want, &want, LIMITS, false), Ok(()));
        for wrong in [want[123_456] + 0.01, f32::NAN, f32::INFINITY] {
            let mut got = want.clone();
            got[123_456] = wrong;
            assert!(compare(&got, &want, LIMITS, false).is_err(), "{wrong}");
        }
        assert!(compare(&want[1..], &want, LIMITS, false).is_err());
    }

    /// In large outputs, one wrong sampled element fails, as does any element on which two
    /// implementations differ.
    #[test]
    fn large_outputs_are_sampled_and_compared_with_each_other() {
        let (x, w) = (Spec::f32([4, 64, 32, 32]), Spec::f32([64, 64, 3, 3]));
        let op = Conv::new(1, 1);
        let y = op.infer(&[&x, &w]).expect("shapes fit").remove(0);
        assert!(op.macs(&[&x, &w], &[&y]) > REFERENCE);
        let (a, b) = (noise(&x, 1), noise(&w, 2));
        let made = run_operation(&op, &[&x, &w], &[&a, &b], &Step::default()).expect("shapes fit");
        let expected =
            || Expected::new(&op, &[&x, &w], &[&y], &[&a, &b], &Step::default()).expect("can be checked");
        let mut fresh = expected();
        assert_eq!(fresh.check(made.clone()), Ok(()));
        // The last element is a corner; this one was not sampled.
        let Truth::Sampled { elements, .. } = &fresh.truth else { panic!("is not sampled") };
        assert!(elements.len() > 1000);
        let hidden = (0..).find(|i| elements.iter().all(|(at, _)| at != i)).expect("not all are sampled");
        let with = |index: usize| {
            let mut wrong = made.clone();
            wrong[0].data[index] += 1.0;
            wrong
        };
        assert!(fresh.check(with(hidden)).is_err());
        assert!(expected().check(with(made[0].data.len() - 1)).is_err());
        assert_eq!(expected().check(with(hidden)), Ok(()), "nothing to compare it with");
    }
}
