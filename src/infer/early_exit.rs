//! Early exit: the network runs in stages that end at its heads, and images that a head classifies
//! with enough confidence exit there (Teerapittayanon et al., "BranchyNet", 2016). GoogLeNet
//! already has the branches. Each stage is a separate plan over the same parameters: images to
//! aux1, inception 4a to aux2, 4d to the main head. The activations of the remaining images are
//! compacted on the device into the next stage's batch, which runs when it is full. So the work of
//! later stages is proportional to the images that reach them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use web_time::Instant;

use crate::data::Batch;
use crate::device::{Device, Reading, Regions, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::kernel::Step;
use crate::model::{Model, Output};
use crate::optim::TrainingState;
use crate::plan::{Layout, Plan, PlanOptions};
use crate::tensor::Element;
use crate::train::upload_weights;

/// The exit criterion: `Exit::new(0.9).temperature("aux1", 1.2)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Exit {
    /// Threshold on the highest probability at which an image exits; above 1, no image exits early.
    pub threshold: f32,
    /// Temperatures that the logits of each head are divided by, by the head's name. Missing ones
    /// are 1.
    #[serde(deserialize_with = "by_name")]
    pub temperatures: BTreeMap<String, f32>,
}

impl Exit {
    /// A threshold on the highest probability, with temperatures of 1.
    pub fn new(threshold: f32) -> Self {
        Self { threshold, temperatures: BTreeMap::new() }
    }

    /// Temperature that the logits of a head are divided by.
    #[must_use]
    pub fn temperature(mut self, head: impl Into<String>, temperature: f32) -> Self {
        self.temperatures.insert(head.into(), temperature);
        self
    }
}

/// Temperatures by name, or the list of earlier versions.
fn by_name<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<BTreeMap<String, f32>, D::Error> {
    /// The order of the list.
    const HEADS: [&str; 3] = ["aux1", "aux2", "main"];
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Temperatures {
        ByName(BTreeMap<String, f32>),
        List(Vec<f32>),
    }
    Ok(match Temperatures::deserialize(from)? {
        Temperatures::ByName(map) => map,
        Temperatures::List(list) => HEADS.map(String::from).into_iter().zip(list).collect(),
    })
}

/// The classification of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Index of the image since the classifier was created.
    pub image: u64,
    /// The head of the exit.
    pub head: &'static str,
    /// The probability of each class, at the head's temperature.
    pub probabilities: Vec<f32>,
}

/// The logits of every head for a batch of images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeadLogits {
    /// heads x images x classes; the heads as in [`EarlyExit::heads`].
    pub logits: Vec<Vec<Vec<f32>>>,
    /// The label of each image.
    pub labels: Vec<u32>,
}

impl HeadLogits {
    /// Appends images.
    pub fn extend(&mut self, more: Self) {
        self.logits.resize(more.logits.len().max(self.logits.len()), Vec::new());
        for (mine, theirs) in self.logits.iter_mut().zip(more.logits) {
            mine.extend(theirs);
        }
        self.labels.extend(more.labels);
    }

    /// Accuracy of a head, in [0, 1].
    pub fn accuracy(&self, head: usize) -> f64 {
        let right = self.logits.get(head).into_iter().flatten().zip(&self.labels);
        let right = right.filter(|(row, label)| super::top(row, 1)[0].class == **label as usize).count();
        right as f64 / self.labels.len().max(1) as f64
    }
}

/// A network with an exit at each of its heads.
#[derive(Debug)]
pub struct EarlyExit {
    device: Device,
    /// In execution order: the main head's is last.
    stages: Vec<Stage>,
    batch: usize,
    classes: usize,
    images: u64,
    /// Pending logits of all stages with the labels of their batch, oldest first.
    sent: VecDeque<(Vec<Reading>, Vec<u32>)>,
}

/// The part of the network from one head to the next.
#[derive(Debug)]
struct Stage {
    head: &'static str,
    session: Session,
    input: TensorId,
    logits: TensorId,
    /// The activation that the next stage reads.
    activation: Option<TensorId>,
    macs: u64,
    /// Indices of the images in the rows of its input.
    rows: Vec<Option<u64>>,
    runs: u64,
}

/// A stage before it is planned.
struct StageGraph {
    head: &'static str,
    graph: Graph,
    input: TensorId,
    logits: TensorId,
    activation: Option<TensorId>,
}

/// A row of a stage with the index of its image.
type Row = (usize, u64);

impl EarlyExit {
    /// A classifier with these weights and its own memory, for batches of `batch` images with
    /// activations stored as `element`. A network without auxiliary heads has a single stage.
    /// Averages are not used: replace the weights by them with [`TrainingState::averaged`].
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
        let made = Self::build(device, network, batch, element, None).await?;
        upload_weights(device, made.stages[0].session.regions(), weights)?;
        Ok(made)
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
        mut regions: Option<Regions>,
    ) -> Result<Self> {
        let (graphs, layout) = stages(network, batch, element)?;
        let layout = regions.as_ref().map_or_else(|| Arc::new(layout), |r| Arc::clone(r.layout()));
        let mut stages = Vec::with_capacity(graphs.len());
        for StageGraph { head, graph, input, logits, activation } in graphs {
            device.require_all(&graph)?;
            let outputs: Vec<TensorId> = [logits].into_iter().chain(activation).collect();
            let options = PlanOptions {
                profile: device.profile(),
                outputs: &outputs,
                metrics: &[],
                layout: Some(Arc::clone(&layout)),
                choices: Some(&device.choices()),
            };
            let plan = Plan::new(&graph, &options)?;
            let (input, logits) = (plan.tensor(input)?, plan.tensor(logits)?);
            let activation = activation.map(|t| plan.tensor(t)).transpose()?;
            let session = Session::new(device, Arc::new(plan), regions.clone(), |_, _| ()).await?;
            regions.get_or_insert_with(|| session.regions().clone());
            let macs = graph.macs() / batch as u64;
            stages.push(Stage { head, session, input, logits, activation, macs, rows: Vec::new(), runs: 0 });
        }
        Ok(Self {
            device: device.clone(),
            stages,
            batch,
            classes: network.class_count(),
            images: 0,
            sent: VecDeque::new(),
        })
    }

    /// The heads in the network's order: `main`, `aux1`, `aux2`. All lists by head have this order.
    pub fn heads(&self) -> Vec<&'static str> {
        main_first(self.stages.iter().map(|s| s.head))
    }

    /// Batch size.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Multiply-adds of an image that exits at each head, over all stages up to it.
    pub fn macs(&self) -> Vec<u64> {
        let sums = self.stages.iter().scan(0, |sum, stage| {
            *sum += stage.macs;
            Some(*sum)
        });
        main_first(sums)
    }

    /// Number of images pushed so far, which is the index of the next one.
    pub fn images(&self) -> u64 {
        self.images
    }

    /// Number of runs so far of the stage that ends at each head.
    pub fn runs(&self) -> Vec<u64> {
        main_first(self.stages.iter().map(|s| s.runs))
    }

    /// Number of dispatches of all runs so far, as submitted to the device.
    pub fn dispatches(&self) -> u64 {
        self.stages.iter().map(|s| s.runs * s.session.dispatch_count() as u64).sum()
    }

    /// Classifies the images of a batch, without its missing rows. Returns the results so far in no
    /// particular order: some of these and earlier images may still wait for the batch of a later
    /// stage to fill up.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the batch has the wrong size, and errors of the device.
    pub async fn push(&mut self, batch: &Batch, exit: &Exit) -> Result<Vec<Answer>> {
        self.stages[0].session.write(self.stages[0].input, &batch.images)?;
        let images = &mut self.images;
        let number = |label: &u32| {
            (*label != Batch::MISSING).then(|| {
                *images += 1;
                *images - 1
            })
        };
        self.stages[0].rows = batch.labels.iter().map(number).collect();
        let mut answers = Vec::new();
        self.advance(0, exit, &mut answers).await?;
        Ok(answers)
    }

    /// Results of all images that still wait.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn finish(&mut self, exit: &Exit) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for stage in 1..self.stages.len() {
            if !self.stages[stage].rows.is_empty() {
                self.advance(stage, exit, &mut answers).await?;
            }
        }
        Ok(answers)
    }

    /// Runs a stage, and every later one whose batch fills up.
    async fn advance(&mut self, stage: usize, exit: &Exit, answers: &mut Vec<Answer>) -> Result<()> {
        let unsure = self.run(stage, exit, answers).await?;
        // Rows to be copied to the next stage, deepest stage first, because a stage must not run
        // again while rows of it wait.
        let mut moves = vec![(stage, unsure)];
        while let Some((stage, rows)) = moves.pop() {
            let next = stage + 1;
            if rows.is_empty() {
                continue;
            }
            let free = self.batch - self.stages[next].rows.len();
            let (now, later) = rows.split_at(free.min(rows.len()));
            self.move_rows(stage, now).await?;
            moves.push((stage, later.to_vec()));
            if self.stages[next].rows.len() == self.batch {
                moves.push((next, self.run(next, exit, answers).await?));
            }
        }
        Ok(())
    }

    /// Copies rows into the next stage's batch.
    async fn move_rows(&mut self, stage: usize, rows: &[Row]) -> Result<()> {
        let lost = || Error::tensor("activation", "of this stage is not available");
        let (from, to) = (&self.stages[stage], &self.stages[stage + 1]);
        let activation = from.activation.ok_or_else(lost)?;
        let first = to.rows.len();
        let pairs: Vec<(usize, usize)> =
            rows.iter().enumerate().map(|(i, (row, _))| (*row, first + i)).collect();
        Device::copy_rows((&from.session, activation), (&to.session, to.input), &pairs).await?;
        self.stages[stage + 1].rows.extend(rows.iter().map(|(_, image)| Some(*image)));
        Ok(())
    }

    /// Runs a stage. Confident images exit, the others are returned.
    async fn run(&mut self, stage: usize, exit: &Exit, answers: &mut Vec<Answer>) -> Result<Vec<Row>> {
        let logits = self.submit(stage).await?;
        let last = stage + 1 == self.stages.len();
        let head = self.stages[stage].head;
        let temperature = exit.temperatures.get(head).copied().unwrap_or(1.0);
        let rows = std::mem::take(&mut self.stages[stage].rows);
        let mut unsure = Vec::new();
        for (row, (logits, image)) in logits.iter().zip(rows).enumerate() {
            let Some(image) = image else { continue };
            let probabilities = softmax(logits, temperature);
            let sure = probabilities.iter().copied().fold(0.0, f32::max) >= exit.threshold;
            if sure || last {
                answers.push(Answer { image, head, probabilities });
            } else {
                unsure.push((row, image));
            }
        }
        Ok(unsure)
    }

    /// Runs a stage and reads its logits, one row per image.
    async fn submit(&mut self, stage: usize) -> Result<Vec<Vec<f32>>> {
        let classes = self.classes;
        let stage = &mut self.stages[stage];
        stage.session.submit(&Step::default())?;
        stage.runs += 1;
        let values = stage.session.read(stage.logits).await?;
        self.device.check("classifying")?;
        Ok(values.chunks(classes).map(<[f32]>::to_vec).collect())
    }

    /// The logits of every head for all images of a batch, for choosing thresholds and
    /// temperatures. No image may be waiting. Batches of [`EarlyExit::push_all`] that were not
    /// pulled are discarded.
    ///
    /// # Errors
    /// [`Error::Config`] if images wait, [`Error::Tensor`] if the batch has the wrong size, and
    /// errors of the device.
    pub async fn all_heads(&mut self, batch: &Batch) -> Result<HeadLogits> {
        self.sent.clear();
        self.push_all(batch).await?;
        Ok(self.pull_all().await?.unwrap_or_default())
    }

    /// Submits a batch to all stages without early exit. Push the next batch before pulling this
    /// one, so that the device does not wait for the host.
    ///
    /// # Errors
    /// As [`EarlyExit::all_heads`].
    pub async fn push_all(&mut self, batch: &Batch) -> Result<()> {
        if self.stages.iter().any(|s| !s.rows.is_empty()) {
            return Err(Error::Config(
                "images are still waiting for a later stage: call `EarlyExit::finish` first".into(),
            ));
        }
        self.stages[0].session.write(self.stages[0].input, &batch.images)?;
        let all: Vec<Row> = (0..self.batch).map(|row| (row, row as u64)).collect();
        let mut readings = Vec::with_capacity(self.stages.len());
        for number in 0..self.stages.len() {
            let stage = &mut self.stages[number];
            stage.session.submit(&Step::default())?;
            stage.runs += 1;
            readings.push(stage.session.send(stage.logits).await?);
            if number + 1 < self.stages.len() {
                self.move_rows(number, &all).await?;
                self.stages[number + 1].rows.clear();
            }
        }
        self.sent.push_back((readings, batch.labels.clone()));
        self.device.check("classifying")
    }

    /// The logits of the oldest batch that was not pulled yet, without its missing rows; `None`
    /// without one.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn pull_all(&mut self) -> Result<Option<HeadLogits>> {
        let Some((readings, labels)) = self.sent.pop_front() else { return Ok(None) };
        let there = |label: &u32| *label != Batch::MISSING;
        let mut found =
            HeadLogits { logits: Vec::new(), labels: labels.iter().copied().filter(there).collect() };
        for (stage, reading) in self.stages.iter().zip(readings) {
            let values = stage.session.receive(reading).await?;
            let rows = values.chunks(self.classes).zip(&labels).filter(|(_, label)| there(label));
            found.logits.push(rows.map(|(row, _)| row.to_vec()).collect());
        }
        found.logits = main_first(found.logits);
        self.device.check("classifying")?;
        Ok(Some(found))
    }

    /// Discards batches of [`EarlyExit::push_all`] that were not pulled.
    pub fn clear(&mut self) {
        self.sent.clear();
    }

    /// Seconds per run of the stage that ends at each head, read-back included: the minimum of
    /// `runs` runs after a warm-up.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn time_stages(&mut self, runs: usize) -> Result<Vec<f64>> {
        let mut seconds = Vec::with_capacity(self.stages.len());
        for stage in 0..self.stages.len() {
            self.submit(stage).await?;
            let mut least = Duration::MAX;
            for _ in 0..runs.max(1) {
                let start = Instant::now();
                self.submit(stage).await?;
                least = least.min(start.elapsed());
            }
            seconds.push(least.as_secs_f64());
        }
        // The warm-up and timing batches are not images.
        self.stages.iter_mut().for_each(|s| s.runs = 0);
        Ok(main_first(seconds))
    }
}

/// What the stages have, in the network's order of heads: the main head is its first and the last
/// to run.
fn main_first<T>(of_stages: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut of_heads: VecDeque<T> = of_stages.into_iter().collect();
    if let Some(main) = of_heads.pop_back() {
        of_heads.push_front(main);
    }
    of_heads.into()
}

/// The network divided into stages at the activations where heads branch off, and the layout of all
/// parameters.
fn stages(network: &impl Model, batch: usize, element: Element) -> Result<(Vec<StageGraph>, Layout)> {
    let net = network.build(batch)?.stored_as(element)?.evaluation()?;
    // The main head is the network's first and the last to run.
    let mut heads = net.heads.iter().skip(1).chain(net.heads.first()).peekable();
    let mut input = net.input;
    let mut stages = Vec::with_capacity(net.heads.len());
    while let Some(head) = heads.next() {
        let logits = Output::Logits(head.name);
        let activation = heads.peek().map(|_| Output::Tap(head.name));
        let outputs: Vec<Output> = [logits].into_iter().chain(activation).collect();
        let graph = net.graph.cut(&[input], &outputs)?.fuse()?;
        stages.push(StageGraph {
            head: head.name,
            input: graph.find(&net.graph.tensor(input).name)?,
            logits: graph.output(logits)?,
            activation: activation.map(|output| graph.output(output)).transpose()?,
            graph,
        });
        input = head.tap;
    }
    Ok((stages, Layout::of(&net.graph)))
}

/// Softmax of logits divided by a temperature.
pub fn softmax(logits: &[f32], temperature: f32) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|v| ((v - largest) / temperature).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Earlier versions wrote temperatures as a list, in execution order.
    #[test]
    fn temperatures_are_written_by_name_and_lists_are_read() {
        let exit = Exit::new(0.5).temperature("main", 3.0).temperature("aux1", 1.5).temperature("aux2", 2.0);
        let old: Exit =
            serde_json::from_str(r#"{"threshold":0.5,"temperatures":[1.5,2.0,3.0]}"#).expect("read");
        assert_eq!(old, exit);
        let text = serde_json::to_string(&exit).expect("written");
        assert_eq!(text, r#"{"threshold":0.5,"temperatures":{"aux1":1.5,"aux2":2.0,"main":3.0}}"#);
        assert_eq!(serde_json::from_str::<Exit>(&text).expect("read"), exit);
    }

    #[test]
    fn main_head_is_first() {
        assert_eq!(main_first(["aux1", "aux2", "main"]), ["main", "aux1", "aux2"]);
        assert_eq!(main_first(["main"]), ["main"]);
    }
}
