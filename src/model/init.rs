//! Weight initialization: a pure function of the run's seed, the parameter's name and the element's
//! index.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::graph::Initializer;

/// FNV-1a hash, for a separate random stream per parameter.
fn hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The random stream of a layer.
pub(super) fn salt(name: &str) -> u32 {
    let hash = hash(name);
    (hash ^ (hash >> 32)) as u32
}

impl Initializer {
    /// Writes the initial values of the parameter called `name`.
    pub fn fill(&self, seed: u64, name: &str, values: &mut [f32]) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(hash(name));
        let mut uniform = || random.random::<f64>();
        match *self {
            Self::Constant(value) => values.fill(value),
            Self::Xavier { fan } => {
                let limit = (3.0 / fan.max(1.0)).sqrt();
                values.fill_with(|| ((2.0 * uniform() - 1.0) * limit) as f32);
            }
            Self::He { fan_in } => {
                let deviation = (2.0 / fan_in.max(1) as f64).sqrt();
                // Box-Muller transform; 1 - u keeps the logarithm finite.
                values.fill_with(|| {
                    let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
                    (radius * (std::f64::consts::TAU * uniform()).cos() * deviation) as f32
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(init: Initializer, seed: u64, name: &str) -> Vec<f32> {
        let mut values = vec![0.0; 20_000];
        init.fill(seed, name, &mut values);
        values
    }

    #[test]
    fn initial_values_have_documented_variance() {
        for (init, variance) in
            [(Initializer::Xavier { fan: 50.0 }, 1.0 / 50.0), (Initializer::He { fan_in: 50 }, 2.0 / 50.0)]
        {
            let values = draw(init, 1, "a");
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / 2e4;
            let spread = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / 2e4;
            assert!(mean.abs() < 5e-3 && (spread / variance - 1.0).abs() < 0.05, "{init:?}: {mean} {spread}");
        }
    }

    #[test]
    fn initial_values_depend_on_seed_and_name_only() {
        let init = Initializer::Xavier { fan: 9.0 };
        assert_eq!(draw(init, 1, "a"), draw(init, 1, "a"));
        assert_ne!(draw(init, 1, "a"), draw(init, 2, "a"));
        assert_ne!(draw(init, 1, "a"), draw(init, 1, "b"));
    }
}
