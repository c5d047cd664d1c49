//! Training: a network, its backward graph and an optimizer as one plan, and the training state on
//! the host.

mod fit;
mod graph;
mod metrics;

pub(crate) use fit::IN_FLIGHT;
pub use fit::{EpochSummary, HeadSummary, train_epoch, train_epoch_from};
pub use graph::TrainingGraph;
pub use metrics::{HeadMetrics, ScalingMetrics, StepMetrics};
use metrics::{Places, Sent};

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::data::Batch;
use crate::device::{Device, Regions, Session};
use crate::error::{Error, Result};
use crate::gpu::{Clock, DispatchTime};
use crate::graph::{Region, TensorId};
use crate::kernel::{Step, Window};
use crate::model::{GoogLeNet, Model};
use crate::optim::{Optimizer, Pace, Progress, TrainingState, is_loss_scale};
use crate::tensor::{Element, HostTensor};

/// A network in training on a device.
#[derive(Debug)]
pub struct Trainer<M = GoogLeNet> {
    device: Device,
    network: M,
    optimizer: Optimizer,
    batch: usize,
    session: Session,
    input: TensorId,
    labels: TensorId,
    mixed: Option<[TensorId; 2]>,
    heads: Vec<&'static str>,
    logits: Vec<TensorId>,
    places: Places,
    /// The first node that runs once per update instead of once per step.
    update_from: usize,
    progress: Progress,
    sent: VecDeque<Sent>,
}

impl<M: Model> Trainer<M> {
    /// Plans the training step, compiles its kernels and initializes the parameters from `seed`.
    /// `progress` is called with (compiled nodes, total nodes).
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Config`] or [`Error::Layer`] for a network that cannot be
    /// built, [`Error::NoF16`] if the precision is not the device's, [`Error::TooLarge`] if the
    /// batch does not fit, and errors of the device.
    pub async fn new(
        device: impl Into<Device>,
        network: &M,
        optimizer: &Optimizer,
        batch: usize,
        seed: u64,
        progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        let device = &device.into();
        let training = TrainingGraph::new(network, optimizer, batch)?;
        let plan = Arc::new(training.plan(device)?);
        let update_from = match training.accumulated {
            Some(sum) => {
                let producer = plan.graph.tensor(plan.tensor(sum)?).producer;
                producer.map_or(usize::MAX, |node| node.index() + 1)
            }
            None => usize::MAX,
        };
        let (input, labels) = (plan.tensor(training.input)?, plan.tensor(training.labels)?);
        let mixed = match training.mixed {
            Some([second, share]) => Some([plan.tensor(second)?, plan.tensor(share)?]),
            None => None,
        };
        let logits = training.logits.iter().map(|t| plan.tensor(*t)).collect::<Result<_>>()?;
        let session = Session::new(device, plan, None, progress).await?;
        let mut trainer = Self {
            device: device.clone(),
            network: network.clone(),
            optimizer: *optimizer,
            batch,
            session,
            input,
            labels,
            mixed,
            heads: training.heads,
            logits,
            places: training.places,
            update_from,
            progress: Progress { seed, ..Progress::default() },
            sent: VecDeque::new(),
        };
        trainer.initialize()?;
        Ok(trainer)
    }

    /// Initializes the parameters from the seed.
    fn initialize(&mut self) -> Result<()> {
        // Averages start from the initial parameters.
        let targets: Vec<Region> =
            [Region::Parameters].into_iter().chain(self.optimizer.average_slot()).collect();
        initialize(&self.device, self.session.regions(), self.progress.seed, &targets)
    }

    /// Gradient accumulation steps; the last update of an epoch may have fewer.
    pub fn accumulate(&self) -> u32 {
        self.optimizer.accumulate
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The network's configuration.
    pub fn network(&self) -> &M {
        &self.network
    }

    /// Batch size.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The names of the heads: `main` first.
    pub fn heads(&self) -> &[&'static str] {
        &self.heads
    }

    /// The session of the training plan.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Starts to measure how long the device works on steps. Returns whether the device supports
    /// it.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn watch(&mut self) -> Result<bool> {
        self.session.watch().await
    }

    /// Device seconds of the completed steps since [`Trainer::watch`]; `None` if they are not
    /// measured.
    pub fn busy_seconds(&self) -> Option<f64> {
        self.session.busy_seconds()
    }

    /// Times each dispatch of one training step separately; the step updates parameters but has no
    /// metrics.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the batch has the wrong size, and errors of the device.
    pub async fn profile(&mut self, batch: &Batch, lr: f32, clock: Clock) -> Result<Vec<DispatchTime>> {
        self.write(batch)?;
        let window = self.window(batch, true);
        let times = self.session.profile(&self.step_values(lr.into(), window), clock).await?;
        self.advance(batch, true);
        Ok(times)
    }

    /// Training progress.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Sets the position in the data, for the training state.
    pub fn set_position(&mut self, epoch: u64, batch: u64) {
        self.progress.epoch = epoch;
        self.progress.batch = batch;
    }

    /// As [`Session::limit_submissions`].
    pub fn limit_submissions(&mut self, multiply_adds: u64) {
        self.session.limit_submissions(multiply_adds);
    }

    /// Submits one training step without waiting; [`Trainer::metrics`] returns its metrics. With
    /// [`Optimizer::accumulate`], parameters are updated after that many steps, weighted by their
    /// number of images.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the batch has the wrong size, and errors of the device.
    pub fn step(&mut self, batch: &Batch, pace: impl Into<Pace>) -> Result<()> {
        self.send(batch, pace.into(), self.progress.waiting.saturating_add(1) >= self.optimizer.accumulate)
    }

    /// As [`Trainer::step`], for the last step of an epoch: updates the parameters from all
    /// accumulated gradients, even if steps are missing.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn last_step(&mut self, batch: &Batch, pace: impl Into<Pace>) -> Result<()> {
        self.send(batch, pace.into(), true)
    }

    fn send(&mut self, batch: &Batch, pace: Pace, updates: bool) -> Result<()> {
        self.write(batch)?;
        let step = self.step_values(pace, self.window(batch, updates));
        let nodes = if updates { 0..usize::MAX } else { 0..self.update_from };
        self.session.submit_nodes(&step, nodes, true)?;
        self.sent.push_back(Sent {
            step: self.progress.step,
            count: batch.count,
            lr: pace.lr as f32,
            updates,
        });
        self.advance(batch, updates);
        Ok(())
    }

    /// Counts a micro-batch.
    fn advance(&mut self, batch: &Batch, updates: bool) {
        let progress = &mut self.progress;
        progress.step += 1;
        if updates {
            (progress.waiting, progress.waiting_weight) = (0, 0.0);
            progress.update += 1;
        } else {
            progress.waiting = progress.waiting.saturating_add(1);
            progress.waiting_weight += weight(batch, &self.network);
        }
    }

    /// Weights of the gradients of this micro-batch, so that the accumulated gradient is the mean
    /// over all images.
    fn window(&self, batch: &Batch, ends: bool) -> Window {
        let own = weight(batch, &self.network);
        let all = self.progress.waiting_weight + own;
        // Dividing by the weight of a window of full micro-batches is exact if all are full.
        let full = self.optimizer.accumulate as f32 * self.batch as f32;
        let over = |weight: f32| if weight > 0.0 { full / weight } else { 1.0 };
        let completion = if ends { over(all) } else { 1.0 };
        Window { starts: self.progress.waiting == 0, divisor: over(own), completion }
    }

    /// Uploads the images and labels of the next step. For a network with mixed labels, a batch
    /// without second labels uses its labels only.
    fn write(&self, batch: &Batch) -> Result<()> {
        self.session.write(self.input, &batch.images)?;
        self.session.write_labels(self.labels, &batch.labels)?;
        match (self.mixed, &batch.mixed) {
            (Some([second, share]), Some(mixed)) => {
                self.session.write_labels(second, &mixed.second)?;
                self.session.write(share, &mixed.share)
            }
            (Some([second, share]), None) => {
                self.session.write_labels(second, &batch.labels)?;
                self.session.write(share, &vec![1.0; batch.labels.len()])
            }
            (None, Some(_)) => Err(Error::tensor(
                "label/second",
                "is not an input of this network: build it with `mixed_labels`",
            )),
            (None, None) => Ok(()),
        }
    }

    /// The values of the next step.
    fn step_values(&self, pace: Pace, window: Window) -> Step {
        let Progress { seed, step, update, .. } = self.progress;
        // Step counters have 32 bits and wrap after 2^32 steps.
        Step {
            seed: seed as u32,
            seed_high: (seed >> 32) as u32,
            step: step as u32,
            update: update as u32,
            lr: pace.lr as f32,
            momentum: pace.momentum.map_or(self.optimizer.base_momentum(), |momentum| momentum as f32),
            weight_decay: self.optimizer.weight_decay,
            loss_scale: 1.0,
            window,
        }
    }

    /// Metrics of the steps since the last call, oldest first; waits until at most `in_flight`
    /// steps are pending.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn metrics(&mut self, in_flight: usize) -> Result<Vec<StepMetrics>> {
        let arrived = self.session.settle(in_flight).await?;
        let mut list = Vec::with_capacity(arrived.len());
        for metrics in arrived {
            let Some(sent) = self.sent.pop_front() else { break };
            list.push(self.places.read(&sent, &metrics.values));
        }
        Ok(list)
    }

    /// The logits of each head in the last step, batch x classes, row by row; waits for it.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn logits(&self) -> Result<Vec<(&'static str, Vec<f32>)>> {
        let mut list = Vec::with_capacity(self.heads.len());
        for (name, tensor) in self.heads.iter().zip(&self.logits) {
            list.push((*name, self.session.read(*tensor).await?));
        }
        Ok(list)
    }

    /// Reads the training state back to the host.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn state(&self) -> Result<TrainingState> {
        let regions = self.session.regions();
        let mut slots = Vec::new();
        for region in self.optimizer.kept_slots() {
            slots.push(download(&self.device, regions, region).await?);
        }
        let average = match self.optimizer.average_slot() {
            Some(region) => {
                let mut average = download(&self.device, regions, region).await?;
                if self.averages_statistics() {
                    let statistics = download(&self.device, regions, Region::AveragedState).await?;
                    average.extend(statistics.into_iter().filter(|(name, _)| !is_loss_scale(name)));
                }
                Some(average)
            }
            None => None,
        };
        let state = if regions.layout().state.is_empty() {
            BTreeMap::new()
        } else {
            download(&self.device, regions, Region::State).await?
        };
        Ok(TrainingState {
            parameters: download(&self.device, regions, Region::Parameters).await?,
            state,
            slots,
            average,
            progress: self.progress.clone(),
        })
    }

    /// Restores a training state. Missing optimizer vectors start at zero, missing averages at the
    /// current values, and a missing loss scale at its initial value.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming a tensor that is missing or has the wrong shape.
    pub fn restore(&mut self, state: &TrainingState) -> Result<()> {
        let regions = self.session.regions().clone();
        upload(&self.device, &regions, Region::Parameters, &state.parameters)?;
        let mut values = state.state.clone();
        // A run in f32 has no loss scale.
        for entry in regions.layout().state.iter().filter(|e| is_loss_scale(&e.name)) {
            let start = HostTensor { dims: entry.shape.dims().to_vec(), data: vec![entry.start] };
            values.entry(entry.name.clone()).or_insert(start);
        }
        if !regions.layout().state.is_empty() {
            upload(&self.device, &regions, Region::State, &values)?;
        }
        for (region, slot) in self.optimizer.kept_slots().zip(&state.slots) {
            upload(&self.device, &regions, region, slot)?;
        }
        if let Some(region) = self.optimizer.average_slot() {
            // Missing averages start at the current values: earlier versions did not average
            // statistics.
            let average = state.average.as_ref().unwrap_or(&state.parameters);
            upload(&self.device, &regions, region, average)?;
            if self.averages_statistics() {
                values.extend(average.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
                upload(&self.device, &regions, Region::AveragedState, &values)?;
            }
        }
        self.progress = state.progress.clone();
        Ok(())
    }

    /// Starts from the weights of another run: parameters and running statistics, except the
    /// parameters named in `reinitialized`, which keep their initial values. Progress and optimizer
    /// vectors are not restored, and averages start from the new parameters.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming a tensor that is missing or has the wrong shape.
    pub async fn start_from(&mut self, state: &TrainingState, reinitialized: &[String]) -> Result<()> {
        let mut start = self.state().await?;
        let keep = |name: &String| !reinitialized.contains(name) && !is_loss_scale(name);
        for (own, other) in [(&mut start.parameters, &state.parameters), (&mut start.state, &state.state)] {
            own.retain(|name, _| !keep(name));
            own.extend(other.iter().filter(|(name, _)| keep(name)).map(|(n, t)| (n.clone(), t.clone())));
        }
        start.average = None;
        self.restore(&start)
    }

    /// Element type of activations.
    pub fn element(&self) -> Element {
        self.optimizer.precision.element()
    }

    /// Whether running statistics are averaged like the parameters.
    fn averages_statistics(&self) -> bool {
        self.session.regions().has(Region::AveragedState)
    }

    /// The memory that classifiers share.
    pub(crate) fn inference_regions(&self) -> Result<Regions> {
        let regions = self.session.regions();
        match self.optimizer.average_slot() {
            Some(average) => regions.with_averages(average),
            None => Ok(regions.clone()),
        }
    }
}

/// The denominator of a batch's loss: its images, or with class weights the sum of their labels'
/// weights.
fn weight(batch: &Batch, network: &impl Model) -> f32 {
    let classes = network.class_count();
    let of =
        |label: u32| network.class_weights().map_or(1.0, |w| w.get(label as usize).copied().unwrap_or(0.0));
    let rows = batch.labels.iter().enumerate().filter(|(_, label)| (**label as usize) < classes);
    let weights = rows.map(|(i, &label)| match &batch.mixed {
        Some(mixed) => mixed.share[i] * of(label) + (1.0 - mixed.share[i]) * of(mixed.second[i]),
        None => of(label),
    });
    weights.sum()
}

/// Writes the initial parameters of `seed` into each of these regions.
pub(crate) fn initialize(device: &Device, regions: &Regions, seed: u64, targets: &[Region]) -> Result<()> {
    for entry in &regions.layout().parameters {
        let Some(info) = entry.info else { continue };
        let mut values = vec![0.0; entry.shape.volume()];
        info.init.fill(seed, &entry.name, &mut values);
        for target in targets {
            regions.set(device, *target, &entry.name, &values)?;
        }
    }
    Ok(())
}

/// Reads all tensors of a region.
async fn download(
    device: &Device,
    regions: &Regions,
    region: Region,
) -> Result<BTreeMap<String, HostTensor>> {
    let list = regions.get(device, region).await?;
    let tensor = |(entry, data): (&crate::plan::Entry, Vec<f32>)| {
        (entry.name.clone(), HostTensor { dims: entry.shape.dims().to_vec(), data })
    };
    Ok(list.into_iter().map(tensor).collect())
}

/// Writes every tensor of a region; the map may have more tensors.
pub(crate) fn upload(
    device: &Device,
    regions: &Regions,
    region: Region,
    tensors: &BTreeMap<String, HostTensor>,
) -> Result<()> {
    let entries = regions.layout().entries(region);
    let missing: Vec<&str> =
        entries.iter().map(|e| e.name.as_str()).filter(|name| !tensors.contains_key(*name)).collect();
    if !missing.is_empty() {
        return Err(Error::tensor(missing.join("`, `"), "is missing from the weights"));
    }
    for entry in entries {
        let tensor = &tensors[&entry.name];
        if tensor.dims != entry.shape.dims() {
            let shape = crate::tensor::Shape::from(tensor.dims.as_slice());
            return Err(Error::tensor(
                &entry.name,
                format!("is {shape} in the weights, but {} in the network", entry.shape),
            ));
        }
        regions.set(device, region, &entry.name, &tensor.data)?;
    }
    Ok(())
}

/// Writes the weights of a network for inference: parameters, and running statistics if it has any.
pub(crate) fn upload_weights(device: &Device, regions: &Regions, weights: &TrainingState) -> Result<()> {
    upload(device, regions, Region::Parameters, &weights.parameters)?;
    if regions.layout().state.is_empty() {
        return Ok(());
    }
    upload(device, regions, Region::State, &weights.state)
}
