//! Inference: the network in evaluation mode, pruned to its main softmax.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;

use crate::data::Batch;
use crate::error::{Error, Result};
use crate::gpu::{Clock, DispatchTime, Gpu, Reading, Regions, Session};
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

/// What an evaluation over a data set found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// Images that were classified.
    pub count: usize,
    /// Those whose most probable class is their label.
    pub correct: usize,
    /// Those whose label is among the five most probable classes.
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

    /// Takes up one image.
    pub fn add(&mut self, probabilities: &[f32], label: usize) {
        let of_label = probabilities.get(label).copied().unwrap_or(0.0);
        // As on the device, the first of equals is the prediction, and what is no number is never
        // right.
        let behind = |(class, p): &(usize, &f32)| **p < of_label || (**p == of_label && *class >= label);
        let rank = probabilities.len() - probabilities.iter().enumerate().filter(behind).count();
        let likely = if of_label.is_nan() { of_label } else { of_label.max(f32::MIN_POSITIVE) };
        self.loss = (self.loss * self.count as f64 - f64::from(likely).ln()) / (self.count + 1) as f64;
        self.count += 1;
        self.correct += usize::from(rank == 0);
        self.correct5 += usize::from(rank < 5 && rank < probabilities.len());
    }
}

/// A network ready to classify on a device; it holds no aux head and no dropout.
#[derive(Debug)]
pub struct Classifier {
    gpu: Gpu,
    session: Session,
    input: TensorId,
    logits: TensorId,
    probabilities: TensorId,
    batch: usize,
    classes: usize,
    /// What was pushed, the oldest first, and which rows are images.
    pushed: VecDeque<(Reading, Vec<bool>)>,
}

/// The evaluation graph of a network, pruned to the logits of its main head, with a softmax behind
/// them.
#[derive(Debug)]
pub struct InferenceGraph {
    /// The nodes.
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

    /// Plans it as a classifier on this device does, on memory of its own or with the layout of
    /// another plan.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the batch does not fit the device, [`Error::NoF16`] if the device
    /// cannot store activations so, [`Error::Tensor`] if the layout lacks a parameter.
    pub fn plan(&self, gpu: &Gpu, layout: Option<Arc<Layout>>) -> Result<Plan> {
        gpu.require_all(&self.graph)?;
        let options = PlanOptions {
            profile: gpu.profile(),
            outputs: &[self.probabilities, self.logits],
            metrics: &[],
            layout,
            choices: Some(&gpu.choices()),
        };
        Plan::new(&self.graph, &options)
    }
}

impl Classifier {
    /// A classifier with these weights, on memory of its own, with activations stored as `element`.
    /// Aux heads among the weights are left out; they need not be there. Averages are not looked
    /// at: [`TrainingState::averaged`] puts them in the place of the weights.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming a weight that is missing or misshapen, [`Error::NoF16`] if the
    /// device cannot store activations so, and what the device reports.
    pub async fn new(
        gpu: &Gpu,
        network: &impl Model,
        batch: usize,
        element: Element,
        weights: &TrainingState,
    ) -> Result<Self> {
        let classifier = Self::build(gpu, network, batch, element, None).await?;
        upload_weights(gpu, classifier.session.regions(), weights)?;
        Ok(classifier)
    }

    /// A classifier with the parameters that training from this seed begins with: for measurements,
    /// which need no weights.
    ///
    /// # Errors
    /// As [`Classifier::new`].
    pub async fn untrained(
        gpu: &Gpu,
        network: &impl Model,
        batch: usize,
        element: Element,
        seed: u64,
    ) -> Result<Self> {
        let classifier = Self::build(gpu, network, batch, element, None).await?;
        initialize(gpu, classifier.session.regions(), seed, &[Region::Parameters])?;
        Ok(classifier)
    }

    /// A classifier that reads the parameters of other sessions where they are.
    pub(super) async fn sharing(
        gpu: &Gpu,
        network: &impl Model,
        batch: usize,
        element: Element,
        regions: Arc<Regions>,
    ) -> Result<Self> {
        Self::build(gpu, network, batch, element, Some(regions)).await
    }

    async fn build(
        gpu: &Gpu,
        network: &impl Model,
        batch: usize,
        element: Element,
        regions: Option<Arc<Regions>>,
    ) -> Result<Self> {
        let inference = InferenceGraph::new(network, batch, element)?;
        let layout: Option<Arc<Layout>> = regions.as_ref().map(|r| Arc::clone(&r.layout));
        let plan = inference.plan(gpu, layout)?;
        let input = plan.tensor(inference.input)?;
        let (logits, probabilities) = (plan.tensor(inference.logits)?, plan.tensor(inference.probabilities)?);
        let session = Session::new(gpu, Arc::new(plan), regions, |_, _| ()).await?;
        let (gpu, classes, pushed) = (gpu.clone(), network.class_count(), VecDeque::new());
        Ok(Self { gpu, session, input, logits, probabilities, batch, classes, pushed })
    }

    /// Images of a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The session that runs the network.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The logits of the last batch, batch x classes, row by row.
    ///
    /// # Errors
    /// What the device reports.
    pub async fn logits(&self) -> Result<Vec<f32>> {
        self.session.read(self.logits).await
    }

    /// The probabilities of each class for each image of a batch, its missing rows left out. What
    /// was pushed and not pulled is forgotten.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the batch has the wrong size, and what the device reports.
    pub async fn probabilities(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        self.forget();
        self.push(batch).await?;
        Ok(self.pull().await?.unwrap_or_default())
    }

    /// Sends a batch on its way through the network. With the next one pushed before this one is
    /// pulled, the device does not wait for the host.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the batch has the wrong size, and what the device reports.
    pub async fn push(&mut self, batch: &Batch) -> Result<()> {
        self.session.write(self.input, &batch.images)?;
        self.session.submit(&Step::default())?;
        let reading = self.session.send(self.probabilities).await?;
        let there = batch.labels.iter().map(|label| *label != Batch::MISSING).collect();
        self.pushed.push_back((reading, there));
        Ok(())
    }

    /// The probabilities of the oldest batch that was pushed and not pulled, as
    /// [`Classifier::probabilities`]; none if there is none.
    ///
    /// # Errors
    /// What the device reports.
    pub async fn pull(&mut self) -> Result<Option<Vec<Vec<f32>>>> {
        let Some((reading, there)) = self.pushed.pop_front() else { return Ok(None) };
        let rows = self.session.receive(reading).await?;
        self.gpu.check("classifying")?;
        let rows = rows.chunks(self.classes).zip(there);
        Ok(Some(rows.filter(|(_, there)| *there).map(|(row, _)| row.to_vec()).collect()))
    }

    /// Forgets what was pushed and not pulled.
    pub fn forget(&mut self) {
        self.pushed.clear();
    }

    /// Times each dispatch of one batch by itself.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the batch has the wrong size, and what the device reports.
    pub async fn profile(&self, batch: &Batch, clock: Clock) -> Result<Vec<DispatchTime>> {
        self.session.write(self.input, &batch.images)?;
        self.session.profile(&Step::default(), clock).await
    }

    /// The classes of preprocessed images
    /// ([`Preprocessing::apply`](crate::data::Preprocessing::apply)), most probable first, for each
    /// image.
    ///
    /// # Errors
    /// [`Error::Tensor`] if an image has the wrong size or gives no numbers, and what the device
    /// reports.
    pub async fn classify(&mut self, images: &[Vec<f32>]) -> Result<Vec<Vec<Prediction>>> {
        let mut results = Vec::with_capacity(images.len());
        for chunk in images.chunks(self.batch) {
            let rows = self.probabilities(&Batch::of(self.batch, chunk)).await?;
            numbers(&rows)?;
            results.extend(rows.iter().map(|row| top(row, self.classes)));
        }
        Ok(results)
    }
}

/// Refuses outputs that are NaN or infinite.
///
/// # Errors
/// [`Error::Tensor`] if one is.
pub fn numbers(rows: &[Vec<f32>]) -> Result<()> {
    if rows.iter().flatten().all(|value| value.is_finite()) {
        return Ok(());
    }
    let reason = "gives NaN or infinite values: activations overflow; use `Optimizer::precision` f32 if they are stored as f16";
    Err(Error::tensor("softmax", reason))
}

/// The `top` most probable classes, most probable first; of equals the first.
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
