//! Distinguishes failures from near ties among results that exceed their limit.
//!
//! A ReLU or max pool whose decision depends on the last bits of f32 has two possible gradients,
//! far apart and both correct; the order of summation decides. So a result that exceeds its limit
//! is compared with witnesses: the CPU reference in f32, which sums in another order, and the one
//! in f64 from parameters and images changed by at most their last bit. Agreement with a witness,
//! within the same limit, is a near tie. This applies only to values that the f64 reference
//! reproduces; otherwise the golden value or the formula is wrong. The f32 reference itself is
//! compared only with f64 witnesses.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::{Engine, Found};
use super::compare::items;
use super::reference::on_reference;
use super::{Golden, Outcome};
use crate::error::Result;

/// Number of f64 witnesses. All of them decide a tie as the golden set does with probability 1/64.
const CHANGED: u64 = 6;

/// Finds the nearest witness of each result that exceeds its limit.
pub(super) fn explain(golden: &Golden, outcome: &Outcome, engine: Engine, found: &mut [Found]) -> Result<()> {
    let exact = on_reference::<f64>(golden)?;
    let reproduced: Vec<bool> =
        items(golden, &exact)?.iter().map(|item| item.error() <= item.limit).collect();
    let own = items(golden, outcome)?;
    let mut compare = |witness: &Outcome| -> Result<bool> {
        let theirs = items(golden, witness)?;
        for (i, found) in found.iter_mut().enumerate().filter(|(i, _)| reproduced.get(*i) == Some(&true)) {
            if found.error > found.limit
                && let (Some(own), Some(theirs)) = (own.get(i), theirs.get(i))
            {
                let distance = own.distance(theirs);
                found.witness = Some(found.witness.map_or(distance, |nearest| nearest.min(distance)));
            }
        }
        let open = |(found, reproduced): (&Found, &bool)| *reproduced && !found.passed();
        Ok(!found.iter().zip(&reproduced).any(open))
    };
    if engine == Engine::Device && compare(&on_reference::<f32>(golden)?)? {
        return Ok(());
    }
    for seed in 0..CHANGED {
        if compare(&on_reference::<f64>(&changed(golden, seed))?)? {
            break;
        }
    }
    Ok(())
}

/// The same set with about half of the parameter and image values moved to a neighboring f32.
fn changed(golden: &Golden, seed: u64) -> Golden {
    let mut golden = golden.clone();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let parameters = golden.init.parameters.values_mut().flat_map(|tensor| &mut tensor.data);
    for value in parameters.chain(&mut golden.batch.images) {
        match random.random_range(0..4) {
            0 => *value = value.next_up(),
            1 => *value = value.next_down(),
            _ => {}
        }
    }
    golden
}
