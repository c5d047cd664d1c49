//! Whether a result that is beyond its limit is a fault, or the other side of a near tie.
//!
//! A ReLU or max pool whose decision hangs on the last bits of f32 has two possible gradients, far
//! apart and both right. Which one it is depends on the order of sums. So a result beyond its limit
//! is compared with witnesses: the CPU reference in f32, which adds in its own order, and the one
//! in f64 from parameters and images that are changed by no more than their last bit. Agreement
//! with one of them, within the same limit as with the golden value, is a near tie. It excuses
//! nothing that the f64 reference itself does not reproduce: then the golden value or the formula
//! is wrong. Nor does the f32 reference speak for itself: only the f64 ones do.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::{Engine, Found};
use super::compare::items;
use super::reference::on_reference;
use super::{Golden, Outcome};
use crate::error::Result;

/// Witnesses from changed parameters. A tie falls to the golden side in all of them once in 64
/// sets.
const CHANGED: u64 = 6;

/// Looks for the witness that is nearest to each result beyond its limit.
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

/// The same set with about half of the parameters' and images' values at one of their neighbours in
/// f32.
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
