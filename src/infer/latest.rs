//! Classifiers that share a trainer's memory: they always see its latest parameters.

use super::{Classifier, EarlyExit};
use crate::error::Result;
use crate::model::Model;
use crate::train::Trainer;

impl<M: Model> Trainer<M> {
    /// A classifier that can stop at each softmax, reading this trainer's parameters where they
    /// are: it always sees the latest, the averaged ones if it averages.
    ///
    /// # Errors
    /// As [`EarlyExit::new`].
    pub async fn early_exit(&self, batch: usize) -> Result<EarlyExit> {
        EarlyExit::sharing(self.gpu(), self.network(), batch, self.element(), self.inference_regions()?).await
    }

    /// A classifier that reads this trainer's parameters where they are, averaged ones if it
    /// averages: it always sees the latest, and says what a checkpoint will say.
    ///
    /// # Errors
    /// As [`Classifier::new`].
    pub async fn classifier(&self, batch: usize) -> Result<Classifier> {
        Classifier::sharing(self.gpu(), self.network(), batch, self.element(), self.inference_regions()?)
            .await
    }
}
