//! incept's side.

use std::sync::Arc;

use incept::data::Batch;
use incept::gpu::{Gpu, Session};
use incept::tensor::{Element, Spec};
use incept::graph::{Graph, TensorId};
use incept::kernel::Step;
use incept::model::GoogLeNet;
use incept::graph::Copy;
use incept::plan::{Plan, PlanOptions};
use incept::infer::Classifier;
use incept::optim::{Optimizer, Precision};
use incept::train::Trainer;

use crate::Result;
use crate::shared::{Direction, Layer};
use crate::timing::Contender;
use crate::work;

/// Training steps.
pub struct Training {
    gpu: Gpu,
    trainer: Trainer,
    batch: Batch,
    /// The losses of the last step: total, main, aux1, aux2.
    pub losses: Vec<f32>,
}

impl Training {
    pub fn new(gpu: &Gpu, network: &GoogLeNet, batch: usize, precision: Precision) -> Result<Self> {
        let (momentum, weight_decay) = (work::MOMENTUM, work::DECAY);
        let optimizer = Optimizer::default().momentum(momentum).weight_decay(weight_decay).precision(precision);
        let trainer = gpu.block_on(Trainer::new(gpu, network, &optimizer, batch, work::SEED, |_, _| ()))?;
        Ok(Self { gpu: gpu.clone(), trainer, batch: work::batch(network, batch), losses: Vec::new() })
    }

    fn take(&mut self, in_flight: usize) -> Result<()> {
        if let Some(last) = self.gpu.block_on(self.trainer.metrics(in_flight))?.pop() {
            self.losses = [last.loss].into_iter().chain(last.heads.iter().map(|h| h.loss)).collect();
        }
        Ok(())
    }
}

impl Contender for Training {
    fn name(&self) -> &'static str {
        "incept"
    }

    fn run(&mut self, times: u32) -> Result<()> {
        for _ in 0..times {
            self.trainer.step(&self.batch, work::RATE)?;
            self.take(2)?;
        }
        self.take(0)
    }
}

/// Inference: images to probabilities on the host.
pub struct Inference {
    gpu: Gpu,
    classifier: Classifier,
    batch: Batch,
    /// The probabilities of the last batch.
    pub probabilities: Vec<f32>,
}

impl Inference {
    pub fn new(gpu: &Gpu, network: &GoogLeNet, batch: usize) -> Result<Self> {
        let weights = work::weights(network)?;
        let classifier = gpu.block_on(Classifier::new(gpu, network, batch, Element::F32, &weights))?;
        let batch = work::batch(network, batch);
        Ok(Self { gpu: gpu.clone(), classifier, batch, probabilities: Vec::new() })
    }
}

impl Contender for Inference {
    fn name(&self) -> &'static str {
        "incept"
    }

    fn run(&mut self, times: u32) -> Result<()> {
        for _ in 0..times {
            self.probabilities = self.gpu.block_on(self.classifier.probabilities(&self.batch))?.concat();
        }
        Ok(())
    }
}

/// One direction of one convolution.
pub struct Single {
    gpu: Gpu,
    session: Session,
    output: TensorId,
    /// Copies one number: reading it waits for everything before and costs next to nothing.
    fence: Session,
    fenced: TensorId,
}

impl Single {
    /// The operation `repeats` times for each iteration, in one submission.
    pub fn new(gpu: &Gpu, layer: &Layer, direction: Direction, batch: usize, repeats: u32) -> Result<Self> {
        let (op, specs) = layer.operation(direction, batch);
        let mut graph = Graph::new();
        let [first, second] = specs;
        let inputs = [("first", first), ("second", second)].map(|(name, spec)| graph.input(name, spec));
        let mut output = inputs[0];
        for i in 0..repeats.max(1) {
            output = graph.add_node(format!("{direction}/{i}"), Arc::clone(&op), &inputs)?[0];
        }
        let (session, inputs, output) = prepare(gpu, &graph, &inputs, output)?;
        for (tensor, values) in inputs.iter().zip(layer.values(direction, batch)) {
            session.write(*tensor, &values)?;
        }

        let mut graph = Graph::new();
        let one = graph.input("one", Spec::f32(vec![1]));
        let copy = graph.add("copy", Copy, &[one])?;
        let (fence, _, fenced) = prepare(gpu, &graph, &[one], copy)?;
        Ok(Self { gpu: gpu.clone(), session, output, fence, fenced })
    }

    /// The result, dense.
    pub fn output(&self) -> Result<Vec<f32>> {
        Ok(self.gpu.block_on(self.session.read(self.output))?)
    }
}

fn prepare(
    gpu: &Gpu,
    graph: &Graph,
    inputs: &[TensorId],
    output: TensorId,
) -> Result<(Session, Vec<TensorId>, TensorId)> {
    let plan = Plan::new(graph, &PlanOptions::new(gpu.profile()).outputs(&[output]))?;
    let inputs = inputs.iter().map(|t| plan.tensor(*t)).collect::<incept::Result<_>>()?;
    let output = plan.tensor(output)?;
    Ok((gpu.block_on(Session::new(gpu, Arc::new(plan), None, |_, _| ()))?, inputs, output))
}

impl Contender for Single {
    fn name(&self) -> &'static str {
        "incept"
    }

    fn run(&mut self, times: u32) -> Result<()> {
        for _ in 0..times {
            self.session.submit(&Step::default())?;
        }
        self.fence.submit(&Step::default())?;
        self.gpu.block_on(self.fence.read(self.fenced))?;
        Ok(())
    }
}
