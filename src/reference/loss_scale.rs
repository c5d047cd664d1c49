//! CPU reference of `ops/loss_scale.rs`.

use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::LossScale;

impl<T: Real> Reference<T> for LossScale {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let [smallest, largest] = Self::RANGE.map(|s| T::of(f64::from(s)));
        let (scale, good, skipped) = (inputs[1].data[0], inputs[2].data[0], inputs[3].data[0]);
        let overflow = inputs[0].data.iter().any(|g| !g.to_f64().is_finite());
        let two = T::of(2.0);
        let [next, good, now_skipped] = if overflow {
            [(scale / two).larger(smallest), T::zero(), skipped + T::one()]
        } else if good.to_index() + 1 >= self.interval as usize {
            [if scale * two > largest { largest } else { scale * two }, T::zero(), skipped]
        } else {
            [scale, good + T::one(), skipped]
        };
        outputs[0].data[0] = next;
        outputs[1].data[0] = good;
        outputs[2].data[0] = now_skipped;
        outputs[3].data = vec![if overflow { T::zero() } else { T::one() }, scale, skipped];
        outputs[4].data[0] = scale;
        outputs[5].data[0] = now_skipped;
    }
}

/// Evaluates an optimizer's guard: `None` if the gradients overflowed and the update is skipped,
/// else the loss scale and the number of skipped updates.
pub(super) fn guarded<T: Real>(guard: Option<&&Array<T>>, step: &Step) -> Option<(T, T)> {
    match guard.map(|g| &g.data[..]) {
        None => Some((T::of(f64::from(step.loss_scale)), T::zero())),
        Some(&[apply, scale, skipped]) if apply > T::zero() => Some((scale, skipped)),
        Some(_) => None,
    }
}
