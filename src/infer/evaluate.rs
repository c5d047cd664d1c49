//! Evaluation of a classifier over a data set.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::{Classifier, EarlyExit, Evaluation, softmax};
use crate::data::{Batch, Loader};
use crate::error::Result;
use crate::train::IN_FLIGHT;

/// Classifies every image of the loader. `observe` is called with the number of images done and may
/// stop early.
///
/// # Errors
/// Errors of the loader and the device.
pub async fn evaluate(
    classifier: &mut Classifier,
    loader: &Loader,
    mut observe: impl FnMut(&Batch, &[Vec<f32>]) -> ControlFlow<()>,
) -> Result<Evaluation> {
    let mut evaluation = Evaluation::default();
    let mut batches = loader.epoch(0, 0);
    let mut pushed: VecDeque<Batch> = VecDeque::new();
    classifier.clear();
    loop {
        while pushed.len() < IN_FLIGHT
            && let Some(batch) = batches.next()
        {
            let batch = batch?;
            classifier.push(&batch).await?;
            pushed.push_back(batch);
        }
        let (Some(batch), Some(rows)) = (pushed.pop_front(), classifier.pull().await?) else { break };
        let labels = batch.labels.iter().filter(|label| **label != Batch::MISSING);
        for (row, label) in rows.iter().zip(labels) {
            evaluation.add(row, *label as usize);
        }
        if observe(&batch, &rows).is_break() {
            classifier.clear();
            break;
        }
    }
    Ok(evaluation)
}

/// Evaluates every head over a loader's images, in the order of [`EarlyExit::heads`].
/// `observe` is called after each batch and may stop early.
///
/// # Errors
/// Errors of the loader and the device.
pub async fn evaluate_heads(
    classifier: &mut EarlyExit,
    loader: &Loader,
    mut observe: impl FnMut(&Batch) -> ControlFlow<()>,
) -> Result<Vec<(&'static str, Evaluation)>> {
    let mut heads: Vec<_> =
        classifier.heads().into_iter().map(|head| (head, Evaluation::default())).collect();
    let mut batches = loader.epoch(0, 0);
    let mut pushed: VecDeque<Batch> = VecDeque::new();
    classifier.clear();
    loop {
        while pushed.len() < IN_FLIGHT
            && let Some(batch) = batches.next()
        {
            let batch = batch?;
            classifier.push_all(&batch).await?;
            pushed.push_back(batch);
        }
        let (Some(batch), Some(found)) = (pushed.pop_front(), classifier.pull_all().await?) else { break };
        for ((_, evaluation), rows) in heads.iter_mut().zip(&found.logits) {
            for (row, label) in rows.iter().zip(&found.labels) {
                evaluation.add(&softmax(row, 1.0), *label as usize);
            }
        }
        if observe(&batch).is_break() {
            classifier.clear();
            break;
        }
    }
    Ok(heads)
}
