//! Validation between epochs.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::data::Loader;
use crate::error::{Error, Result};
use crate::infer::{Classifier, EarlyExit, Evaluation, evaluate, evaluate_heads};
use crate::model::Model;
use crate::runs::HeadRecord;
use crate::train::Trainer;

/// The result of a validation.
#[derive(Debug, Default)]
pub(super) struct Validated {
    /// The main head; `None` if validation was interrupted or failed.
    pub main: Option<Evaluation>,
    /// The auxiliary heads.
    pub aux: Vec<HeadRecord>,
    /// The error, if validation failed.
    pub failed: Option<Error>,
}

/// The classifier of the validated heads.
#[derive(Debug)]
enum Heads {
    Main(Box<Classifier>),
    All(Box<EarlyExit>),
}

/// Validates a trainer's network and shares its parameters.
#[derive(Debug)]
pub(super) struct Validator {
    heads: Heads,
    loader: Loader,
}

impl Validator {
    pub(super) async fn new<M: Model>(trainer: &Trainer<M>, loader: Loader) -> Result<Self> {
        let batch = trainer.batch();
        let heads = if trainer.heads().len() > 1 {
            Heads::All(Box::new(trainer.early_exit(batch).await?))
        } else {
            Heads::Main(Box::new(trainer.classifier(batch).await?))
        };
        Ok(Self { heads, loader })
    }

    pub(super) fn loader(&self) -> &Loader {
        &self.loader
    }

    /// Evaluates the heads on the validation set. No result if `stop` is set, because a part of the
    /// images is not comparable.
    pub(super) async fn validate(&mut self, stop: &AtomicBool) -> Validated {
        match self.measure(stop).await {
            Ok(_) if stop.load(Ordering::SeqCst) => Validated::default(),
            Ok((main, aux)) => Validated { main, aux, failed: None },
            Err(error) => Validated { failed: Some(error), ..Validated::default() },
        }
    }

    async fn measure(&mut self, stop: &AtomicBool) -> Result<(Option<Evaluation>, Vec<HeadRecord>)> {
        let flow = || {
            if stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match &mut self.heads {
            Heads::Main(classifier) => {
                let main = evaluate(classifier, &self.loader, |_, _| flow()).await?;
                Ok((Some(main), Vec::new()))
            }
            Heads::All(staged) => {
                let mut heads = evaluate_heads(staged, &self.loader, |_| flow()).await?.into_iter();
                let main = heads.next().map(|(_, evaluation)| evaluation);
                Ok((main, heads.map(|(name, e)| HeadRecord::of_evaluation(name, &e)).collect()))
            }
        }
    }
}
