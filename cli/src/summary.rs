//! `incept summary`

use clap::Args;
use incept::infer::InferenceGraph;
use incept::kernel::{AdapterClass, Profile};
use incept::model::{LayerSummary, summary};
use incept::optim::Optimizer;
use incept::plan::{Launches, Memory, Plan, PlanOptions};
use incept::train::TrainingGraph;
use serde::Serialize;

use super::numbers::whole;
use super::options::{NetworkArgs, PrecisionArgs};
use super::report::{Reporter, bytes, plural, thousands};
use super::{Outcome, Result};

/// Print the layers, parameters, multiply-adds and memory of a network (needs no device).
#[derive(Args, Debug)]
pub(crate) struct Summary {
    /// Number of classes.
    #[arg(long, value_name = "COUNT", default_value_t = 1000, help_heading = "Network", value_parser = whole::<usize>(2))]
    classes: usize,
    #[command(flatten)]
    network: NetworkArgs,
    /// Batch size, for shapes and memory.
    #[arg(short = 'b', long = "batch-size", alias = "batch", value_name = "COUNT", default_value_t = 32, value_parser = whole::<usize>(1))]
    batch: usize,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// Memory with recomputed activations, as in `incept train --grad-checkpointing`.
    #[arg(long = "grad-checkpointing", alias = "checkpointing")]
    checkpointing: bool,
}

#[derive(Serialize)]
struct SummaryResult<'a> {
    network: &'a incept::model::GoogLeNet,
    batch: usize,
    layers: &'a [LayerSummary],
    parameters: usize,
    parameters_inference: usize,
    macs: u64,
    macs_inference: u64,
    memory_training: Memory,
    memory_inference: Memory,
    launches_training: Launches,
    launches_inference: Launches,
}

impl Summary {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        self.network.refuse_unseen(false)?;
        let network = self.network.network(self.classes, 224)?;
        let built = network.build(self.batch)?;
        let totals = summary(&built);
        // No limits on tensor sizes, to report the memory of networks that exceed WebGPU's
        // defaults.
        let profile = Profile {
            binding: u64::from(u32::MAX),
            buffer: u64::MAX,
            ..Profile::webgpu(AdapterClass::Discrete)
        };
        let precision = self.precision.of(&profile);
        let optimizer = Optimizer::default().precision(precision).checkpointing(self.checkpointing);
        let training = TrainingGraph::new(&network, &optimizer, self.batch)?;
        let training = Plan::new(&training.graph, &PlanOptions::new(&profile).metrics(&training.metrics))?;
        let launches_training = training.launches(&profile)?;
        let training = training.memory;
        let inference = InferenceGraph::new(&network, self.batch, precision.element())?;
        let outputs = [inference.probabilities];
        let inference = Plan::new(&inference.graph, &PlanOptions::new(&profile).outputs(&outputs))?;
        let launches_inference = inference.launches(&profile)?;
        let inference = inference.memory;

        let name = totals.layers.iter().map(|l| l.name.len()).max().unwrap_or(0);
        reporter.line(&format!(
            "{:>3}  {:<name$}  {:<21}  {:>18}  {:>10}  {:>13}",
            "#", "layer", "operation", "output", "parameters", "multiply-adds"
        ))?;
        for (i, layer) in totals.layers.iter().enumerate() {
            let dims: Vec<String> = layer.output.iter().map(ToString::to_string).collect();
            let count = |n: u64| if n == 0 { String::new() } else { thousands(n) };
            let row = format!(
                "{:>3}  {:<name$}  {:<21}  {:>18}  {:>10}  {:>13}  {}",
                i + 1,
                layer.name,
                layer.operation,
                dims.join("x"),
                count(layer.parameters as u64),
                count(layer.macs / self.batch as u64),
                if layer.training_only { "training only" } else { "" }
            );
            reporter.line(row.trim_end())?;
        }
        reporter.line(&format!(
            "\nparameters       {:>13} at inference  {:>13} with the auxiliary heads",
            thousands(totals.parameters_inference as u64),
            thousands(totals.parameters as u64)
        ))?;
        reporter.line(&format!(
            "multiply-adds    {:>13} at inference  {:>13} in training (forward pass), per image",
            thousands(totals.macs_inference),
            thousands(totals.macs)
        ))?;
        for (what, m) in [("training", training), ("inference", inference)] {
            reporter.line(&format!(
                "memory, batch {}: {what} {}: activations {} (without reuse {}, lower bound {}); weights and optimizer {}; input {}",
                self.batch,
                bytes(m.total_bytes()),
                bytes(m.planned_bytes),
                bytes(m.naive_bytes),
                bytes(m.bound_bytes),
                bytes(m.persistent_bytes),
                bytes(m.io_bytes)
            ))?;
        }
        for (what, l) in [("training step", launches_training), ("inference", launches_inference)] {
            reporter.line(&format!(
                "on a large GPU: {what}: {} ({} with few workgroups), {}, {}",
                plural(l.dispatches as u64, "dispatch"),
                l.with_few_workgroups,
                plural(l.barriers as u64, "barrier"),
                plural(l.pipelines as u64, "pipeline"),
            ))?;
        }
        reporter.event(&SummaryResult {
            network: &network,
            batch: self.batch,
            layers: &totals.layers,
            parameters: totals.parameters,
            parameters_inference: totals.parameters_inference,
            macs: totals.macs,
            macs_inference: totals.macs_inference,
            memory_training: training,
            memory_inference: inference,
            launches_training,
            launches_inference,
        })?;
        Ok(Outcome::Done)
    }
}
