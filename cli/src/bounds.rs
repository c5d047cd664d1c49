//! Range checks of a run's numbers, whether they come from flags, a configuration or a checkpoint.

use incept::data::Mix;
use incept::model::GoogLeNet;
use incept::{Error, Result};

use super::fit::Run;

/// Maximum number of epochs: its product with the batches per epoch does not overflow.
const MAX_EPOCHS: u64 = 1 << 32;

impl Run {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option.
    pub(crate) fn check(&self) -> Result<()> {
        let fail = |reason: String| Err(Error::Config(reason));
        GoogLeNet::check_batch(self.batch)?;
        if self.epochs > MAX_EPOCHS {
            return fail(format!("--epochs must be up to {MAX_EPOCHS}, not {}", self.epochs));
        }
        for (value, option) in [(self.lr, "--lr"), (self.warmup, "--warmup-epochs")] {
            if !value.is_finite() || value < 0.0 {
                return fail(format!("{option} must be a number, at least 0, not {value}"));
            }
        }
        if let Some(augmentation) = &self.augmentation {
            for (value, name) in [(augmentation.shift, "shift"), (augmentation.zoom, "zoom")] {
                if !(0.0..1.0).contains(&value) {
                    return fail(format!("the augmentation's {name} must be in [0, 1), not {value}"));
                }
            }
        }
        self.mix.iter().try_for_each(Mix::validate)
    }
}
