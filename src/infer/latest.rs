//! Classifiers that share a trainer's memory and so always use its latest parameters.

use super::{Classifier, EarlyExit};
use crate::error::Result;
use crate::model::Model;
use crate::train::Trainer;

impl<M: Model> Trainer<M> {
    /// An early-exit classifier that shares this trainer's parameters: it always uses the latest
    /// ones, averaged if the trainer averages.
    ///
    /// # Errors
    /// As [`EarlyExit::new`].
    pub async fn early_exit(&self, batch: usize) -> Result<EarlyExit> {
        EarlyExit::sharing(self.device(), self.network(), batch, self.element(), self.inference_regions()?)
            .await
    }

    /// A classifier that shares this trainer's parameters: it always uses the latest ones, averaged
    /// if the trainer averages, like a checkpoint saved now.
    ///
    /// # Errors
    /// As [`Classifier::new`].
    pub async fn classifier(&self, batch: usize) -> Result<Classifier> {
        Classifier::sharing(self.device(), self.network(), batch, self.element(), self.inference_regions()?)
            .await
    }
}
