//! Inference: the network in evaluation mode, pruned to its main head.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;

use crate::data::Batch;
use crate::device::{Device, Reading, Regions, Session};
use crate::error::{Error, Result};
use crate::gpu::{Clock, DispatchTime};
use crate::graph::{Graph, Region, TensorId};
use crate::kernel::Step;
use crate::model::{Model, Network, Output};
use crate::ops::Softmax;
use crate::optim::TrainingState;
use crate::plan::{Layout, Plan, PlanOptions};
use crate::tensor::Element;
use crate::train::{initialize, upload_weights};

/// One class with its probability.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The class number.
    pub class: usize,
    /// Its probability, from 0 to 1.
    pub probability: f32,
}

/// Accuracy and loss over a data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// Number of images.
    pub count: usize,
    /// Number of images whose most probable class is their label.
    pub correct: usize,
    /// Number of images whose label is among the five most probable classes.
    pub correct5: usize,
    /// Mean cross-entropy.
    pub loss: f64,
}

impl Evaluation {
    /// Share of images classified correctly, from 0 to 1.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.count.max(1) as f64
    }

    /// Share of images whose label is among the five most probable classes.
    pub fn accuracy5(&self) -> f64 {
        self.correct5 as f64 / self.count.max(1) as f64
    }

    /// Adds an image.
    pub fn add(&mut self, probabilities: &[f32], label: usize) {
        let of_label = probabilities.get(label).copied().unwrap_or(0.0);
        // As on the device, the first class is predicted in a tie, and NaN is never correct.
        let behind = |(class, p): &(usize, &f32)| **p < of_label || (**p == of_label && *class >= label);
        let rank = probabilities.len() - probabilities.iter().enumerate().filter(behind).count();
        let likely = if of_label.is_nan() { of_label } else { of_label.max(f32::MIN_POSITIVE) };
        self.loss = (self.loss * self.count as f64 - f64::from(likely).ln()) / (self.count + 1) as f64;
        self.count += 1;
        self.correct += usize::from(rank == 0);
        self.correct5 += usize::from(rank < 5 && rank < probabilities.len());
    }
}

/// A network for classification on a device, without auxiliary heads and dropout.
#[derive(Debug)]
pub struct Classifier {
    device: Device,
    session: Session,
    input: TensorId,
    logits: TensorId,
    probabilities: TensorId,
    batch: usize,
    classes: usize,
    /// The pushed batches, oldest first, with the rows that are images.
    pushed: VecDeque<(Reading, Vec<bool>)>,
}

/// The evaluation graph of a network, pruned to the logits of its main head, followed by a softmax.
#[derive(Debug)]
pub struct InferenceGraph {
    /// The graph.
    pub graph: Graph,
    /// The images, batch x 3 x input x input.
    pub input: TensorId,
    /// The logits, batch x classes.
    pub logits: TensorId,
    /// The probabilities, batch x classes.
    pub probabilities: TensorId,
}

impl InferenceGraph {
    /// Builds it for batches of `batch` images with activations stored as `element`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Config`] or [`Error::Layer`] for a network that cannot be
    /// built.
    pub fn new(network: &impl Model, batch: usize, element: Element) -> Result<Self> {
        let net = network.build(batch)?.stored_as(element)?.evaluation()?;
        let logits = Output::Logits(net.main()?.name);
        let mut graph = net.graph.prune(&[logits])?.fold()?;
        let (input, logits) = (graph.find(Network::INPUT)?, graph.output(logits)?);
        let probabilities = graph.add("softmax", Softmax, &[logits])?;
        Ok(Self { graph, input, logits, probabilities })
    }

    /// Plans it like a classifier on this device, with its own memory or the layout of another
    /// plan.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the batch does not fit the device, [`Error::NoF16`] if the device
    /// does not support this element type, [`Error::Tensor`] if the layout lacks a parameter.
    pub fn plan(&self, device: impl Into<Device>, layout: Option<Arc<Layout>>) -> Result<Plan> {
        let device = &device.into();
        device.require_all(&self.graph)?;
        let options = PlanOptions {
            profile: device.profile(),
            outputs: &[self.probabilities, self.logits],
            metrics: &[],
            layout,
            choices: Some(&device.choices()),
        };
        Plan::new(&self.graph, &options)
    }
}

impl Classifier {
    /// A classifier with these weights and its own memory, with activations stored as `element`.
    /// Weights of auxiliary heads are ignored and may be missing. Averages are not used: replace
    /// the weights by them with [`TrainingState::averaged`].
    ///
    /// # Errors
    /// [`Error::Tensor`] naming a weight that is missing or has the wrong shape, [`Error::NoF16`]
    /// if the device does not support this element type, and errors of the device.
    pub async fn new(
        device: impl Into<Device>,
        network: &impl Model,
        batch: usize,
        element: Element,
        weights: &TrainingState,
    ) -> Result<Self> {
        let device = &device.into();
        let classifier = Self::build(device, network, batch, element, None).await?;
        upload_weights(device, classifier.session.regions(), weights)?;
        Ok(classifier)
    }

    /// A classifier with the parameters initialized from `seed`, for measurements that need no
    /// trained weights.
    ///
    /// # Errors
    /// As [`Classifier::new`].
    pub async fn untrained(
        device: impl Into<Device>,
        network: &impl Model,
        batch: usize,
        element: Element,
        seed: u64,
    ) -> Result<Self> {
        let device = &device.into();
        let classifier = Self::build(device, network, batch, element, None).await?;
        initialize(device, classifier.session.regions(), seed, &[Region::Parameters])?;
        Ok(classifier)
    }

    /// A classifier that shares the parameters of other sessions.
    pub(super) async fn sharing(
        device: &Device,
        network: &impl Model,
        batch: usize,
        element: Element,
        regions: Regions,
    ) -> Result<Self> {
        Self::build(device, network, batch, element, Some(regions)).await
    }

    async fn build(
        device: &Device,
        network: &impl Model,
        batch: usize,
        element: Element,
        regions: Option<Regions>,
    ) -> Result<Self> {
        let inference = InferenceGraph::new(network, batch, element)?;
        let layout: Option<Arc<Layout>> = regions.as_ref().map(|r| Arc::clone(r.layout()));
        let plan = inference.plan(device, layout)?;
        let input = plan.tensor(inference.input)?;
        let (logits, probabilities) = (plan.tensor(inference.logits)?, plan.tensor(inference.probabilities)?);
        let session = Session::new(device, Arc::new(plan), regions, |_, _| ()).await?;
        let (device, classes, pushed) = (device.clone(), network.class_count(), VecDeque::new());
        Ok(Self { device, session, input, logits, probabilities, batch, classes, pushed })
    }

    /// Batch size.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The session of the network.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The logits of the last batch, batch x classes, row by row.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn logits(&self) -> Result<Vec<f32>> {
        self.session.read(self.logits).await
    }

    /// The probabilities of each class for each image of a batch, without its missing rows. Pushed
    /// batches that were not pulled are discarded.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the batch has the wrong size, and errors of the device.
    pub async fn probabilities(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        self.clear();
        self.push(batch).await?;
        Ok(self.pull().await?.unwrap_or_default())
    }

    /// Submits a batch. Push the next batch before pulling this one, so that the device does not
    /// wait for the host.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the batch has the wrong size, and errors of the device.
    pub async fn push(&mut self, batch: &Batch) -> Result<()> {
        self.session.write(self.input, &batch.images)?;
        self.session.submit(&Step::default())?;
        let reading = self.session.send(self.probabilities).await?;
        let there = batch.labels.iter().map(|label| *label != Batch::MISSING).collect();
        self.pushed.push_back((reading, there));
        Ok(())
    }

    /// The probabilities of the oldest batch that was not pulled yet, as
    /// [`Classifier::probabilities`]; `None` without one.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn pull(&mut self) -> Result<Option<Vec<Vec<f32>>>> {
        let Some((reading, there)) = self.pushed.pop_front() else { return Ok(None) };
        let rows = self.session.receive(reading).await?;
        self.device.check("classifying")?;
        let rows = rows.chunks(self.classes).zip(there);
        Ok(Some(rows.filter(|(_, there)| *there).map(|(row, _)| row.to_vec()).collect()))
    }

    /// Discards pushed batches that were not pulled.
    pub fn clear(&mut self) {
        self.pushed.clear();
    }

    /// Times each dispatch of one batch separately.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the batch has the wrong size, and errors of the device.
    pub async fn profile(&self, batch: &Batch, clock: Clock) -> Result<Vec<DispatchTime>> {
        self.session.write(self.input, &batch.images)?;
        self.session.profile(&Step::default(), clock).await
    }

    /// The classes of preprocessed images
    /// ([`Preprocessing::apply`](crate::data::Preprocessing::apply)), most probable first, for each
    /// image.
    ///
    /// # Errors
    /// [`Error::Tensor`] if an image has the wrong size or a non-finite output, and errors of the
    /// device.
    pub async fn classify(&mut self, images: &[Vec<f32>]) -> Result<Vec<Vec<Prediction>>> {
        let mut results = Vec::with_capacity(images.len());
        for chunk in images.chunks(self.batch) {
            let rows = self.probabilities(&Batch::of(self.batch, chunk)).await?;
            require_finite(&rows)?;
            results.extend(rows.iter().map(|row| top(row, self.classes)));
        }
        Ok(results)
    }
}

/// Rejects outputs that are NaN or infinite.
///
/// # Errors
/// [`Error::Tensor`] if one is.
pub fn require_finite(rows: &[Vec<f32>]) -> Result<()> {
    if rows.iter().flatten().all(|value| value.is_finite()) {
        return Ok(());
    }
    let reason =
        "is not finite: activations overflowed; use `Optimizer::precision` f32 if they are stored as f16";
    Err(Error::tensor("softmax", reason))
}

/// The `top` most probable classes, most probable first; the lower class number first in a tie.
pub fn top(probabilities: &[f32], top: usize) -> Vec<Prediction> {
    let mut order: Vec<Prediction> = probabilities
        .iter()
        .enumerate()
        .map(|(class, &probability)| Prediction { class, probability })
        .collect();
    order.sort_by(|a, b| b.probability.total_cmp(&a.probability).then(a.class.cmp(&b.class)));
    order.truncate(top);
    order
}
