//! Validation between epochs.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use incept::data::Loader;
use incept::gpu::Gpu;
use incept::infer::{Classifier, EarlyExit, Evaluation, evaluate, evaluate_heads};
use incept::runs::HeadRecord;
use incept::train::Trainer;
use incept::{Error, Result};

/// What the validation set says after an epoch.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// The main head; none if validation was interrupted or failed.
    pub main: Option<Evaluation>,
    /// The auxiliary heads.
    pub aux: Vec<HeadRecord>,
    /// Why there is nothing.
    pub failed: Option<Error>,
}

/// The heads that are validated: all where there are several.
enum Heads {
    Main(Box<Classifier>),
    All(Box<EarlyExit>),
}

/// Validates a trainer's network.
pub(crate) struct Judge {
    heads: Heads,
    validation: Loader,
}

impl Judge {
    pub(crate) fn new(trainer: &Trainer, has_aux: bool, batch: usize, validation: Loader) -> Result<Self> {
        let gpu = trainer.gpu();
        let heads = if has_aux {
            Heads::All(Box::new(gpu.block_on(trainer.early_exit(batch))?))
        } else {
            Heads::Main(Box::new(gpu.block_on(trainer.classifier(batch))?))
        };
        Ok(Self { heads, validation })
    }

    /// The heads over the validation set; nothing once `stop` is set, as some of the images are no
    /// measure of the epoch.
    pub(crate) fn judge(&mut self, gpu: &Gpu, stop: &AtomicBool) -> Judged {
        match self.measure(gpu, stop) {
            Ok(_) if stop.load(Ordering::SeqCst) => Judged::default(),
            Ok((main, aux)) => Judged { main, aux, failed: None },
            Err(error) => Judged { failed: Some(error), ..Judged::default() },
        }
    }

    fn measure(&mut self, gpu: &Gpu, stop: &AtomicBool) -> Result<(Option<Evaluation>, Vec<HeadRecord>)> {
        let go_on = || {
            if stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match &mut self.heads {
            Heads::Main(classifier) => {
                let main = gpu.block_on(evaluate(classifier, &self.validation, |_, _| go_on()))?;
                Ok((Some(main), Vec::new()))
            }
            Heads::All(staged) => {
                let mut heads = gpu.block_on(evaluate_heads(staged, &self.validation, |_| go_on()))?;
                let main = heads.pop().map(|(_, evaluation)| evaluation);
                Ok((main, heads.iter().map(|(name, e)| HeadRecord::of_evaluation(name, e)).collect()))
            }
        }
    }
}
