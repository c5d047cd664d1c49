//! Numbers of a run that its flags, its configuration or its checkpoint give: what is out of range
//! is refused before anything is computed with it.

use incept::data::Mix;
use incept::model::GoogLeNet;
use incept::{Error, Result};

use super::fit::Run;

/// More epochs than any run has, and few enough to be multiplied by the batches of one.
const MAX_EPOCHS: u64 = 1 << 32;

impl Run {
    /// Checks the values, whoever gave them.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option.
    pub(crate) fn check(&self) -> Result<()> {
        let fail = |reason: String| Err(Error::Config(reason));
        GoogLeNet::check_batch(self.batch)?;
        if self.epochs > MAX_EPOCHS {
            return fail(format!("--epochs must be at most {MAX_EPOCHS}, not {}", self.epochs));
        }
        for (value, option) in [(self.rate, "--lr"), (self.warmup, "--warmup-epochs")] {
            if !value.is_finite() || value < 0.0 {
                return fail(format!("{option} must be a number from 0 up, not {value}"));
            }
        }
        if let Some(augmentation) = &self.augmentation {
            for (value, name) in [(augmentation.shift, "shift"), (augmentation.zoom, "zoom")] {
                if !(0.0..1.0).contains(&value) {
                    return fail(format!("the augmentation's {name} must be from 0 to below 1, not {value}"));
                }
            }
        }
        self.mix.iter().try_for_each(Mix::validate)
    }
}
