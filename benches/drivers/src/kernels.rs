//! The kernels to compile: those of single convolutions, and all that plans of the networks use.

use std::collections::BTreeMap;

use incept::graph::{Graph, TensorId};
use incept::infer::InferenceGraph;
use incept::kernel::{AdapterClass, Kernel, Operand, Operands, Profile, Vendor, choose, text_for};
use incept::model::{GoogLeNet, Variant};
use incept::optim::{Optimizer, Precision};
use incept::plan::{Plan, PlanOptions};
use incept::tensor::Element;
use incept::train::TrainingGraph;

use crate::Result;
use crate::driver::{Compiled, Driver};
use crate::families::{Class, Family};
use crate::layers::{Direction, LAYERS, Layer};
use crate::matrix::{Device, Figures, Row};
use crate::translate::Translator;

impl Class {
    /// The engine's name for it.
    pub fn adapter(self) -> AdapterClass {
        match self {
            Self::Discrete => AdapterClass::Discrete,
            Self::Integrated => AdapterClass::Integrated,
        }
    }
}

/// The profile to create kernels for: the device's limits and this adapter class.
pub fn profile(driver: &Driver, class: AdapterClass) -> Profile {
    let limits = driver.limits();
    Profile {
        workgroup_memory: limits.max_compute_shared_memory_size,
        invocations: limits.max_compute_work_group_invocations,
        workgroup: limits.max_compute_work_group_size,
        ..of_vendor(driver, class)
    }
}

/// WebGPU's default limits for this adapter class and the vendor of the driver's GPUs.
fn of_vendor(driver: &Driver, class: AdapterClass) -> Profile {
    Profile { vendor: Vendor::of(0, driver.name()), ..Profile::webgpu(class) }
}

/// Compiles a kernel as the engine passes it to drivers.
pub fn compile(driver: &Driver, kernel: &Kernel, (text, entry): (&str, &'static str)) -> Result<Compiled> {
    driver.compile(&Translator::new(kernel, text, entry)?.spirv()?, entry)
}

/// Which pipelines of plans are compiled besides the single convolutions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Plans {
    /// None.
    None,
    /// The first of those that differ in nothing but numbers.
    First,
    /// All.
    All,
}

/// The main kernel of the default implementation, or with `all` of every one, with the
/// implementation's name.
pub fn of(
    layer: &Layer,
    direction: Direction,
    batch: usize,
    profile: &Profile,
    all: bool,
) -> Result<Vec<(&'static str, Kernel)>> {
    let (op, inputs) = layer.operation(direction, batch);
    let outputs = op.infer(&inputs.iter().collect::<Vec<_>>())?;
    let [inputs, outputs] =
        [inputs.to_vec(), outputs].map(|specs| specs.into_iter().map(Operand::dense).collect::<Vec<_>>());
    let operands = Operands { layer: layer.name, inputs: &inputs, outputs: &outputs };
    let list = op.kernels(&operands, profile);
    let chosen = choose(&list, profile).map(|i| i.name);
    let wanted = list.iter().filter(|i| i.fits(profile) && (all || Some(i.name) == chosen));
    // The kernel that computes a product reports its traffic.
    let main = |kernels: &[Kernel]| {
        let flops = |k: &&Kernel| k.traffic.as_ref().map_or(0, |t| t.flops);
        kernels.iter().max_by_key(flops).cloned()
    };
    Ok(wanted.filter_map(|i| Some((i.name, main(&i.kernels)?))).collect())
}

/// A pipeline of a plan.
pub struct Planned {
    /// A kernel that it runs.
    pub kernel: Kernel,
    /// Its WGSL.
    pub text: String,
    /// The entry point in it.
    pub entry: &'static str,
    /// Its implementation.
    pub implementation: &'static str,
}

/// A graph to plan, with the tensors that remain readable.
struct Planable {
    graph: Graph,
    outputs: Vec<TensorId>,
    metrics: Vec<TensorId>,
}

/// Training steps of batch 32 and inference of batch 1 and 32, of both variants, at full width and
/// 224 pixels and at a quarter of the width and 64 pixels.
fn graphs(element: Element) -> Result<Vec<Planable>> {
    let precision = if element == Element::F16 { Precision::f16() } else { Precision::F32 };
    let mut list = Vec::new();
    for variant in [Variant::Paper, Variant::Torchvision] {
        for (width, input) in [(1.0, 224), (0.25, 64)] {
            let network = GoogLeNet::of(variant).width(width).input(input);
            let optimizer = Optimizer::default().precision(precision);
            let training = TrainingGraph::new(&network, &optimizer, 32)?;
            list.push(Planable {
                graph: training.graph,
                outputs: training.logits,
                metrics: training.metrics,
            });
            for batch in [1, 32] {
                let inference = InferenceGraph::new(&network, batch, element)?;
                let outputs = vec![inference.probabilities, inference.logits];
                list.push(Planable { graph: inference.graph, outputs, metrics: Vec::new() });
            }
        }
    }
    Ok(list)
}

/// The distinct pipelines of all plans with these profiles; f16 too, where the profile has it. With
/// `first`, only the first of those that differ in nothing but numbers.
pub fn planned(profiles: &[Profile], first: bool) -> Result<Vec<Planned>> {
    let plain = graphs(Element::F32)?;
    let half = if profiles.iter().any(|p| p.f16) { graphs(Element::F16)? } else { Vec::new() };
    let mut found: BTreeMap<(String, &'static str), Planned> = BTreeMap::new();
    for profile in profiles {
        // No limits on tensor sizes: devices of the class exceed WebGPU's defaults.
        let profile = &Profile { binding: u64::from(u32::MAX), buffer: u64::MAX, ..profile.clone() };
        for Planable { graph, outputs, metrics } in
            plain.iter().chain(if profile.f16 { &half[..] } else { &[] })
        {
            let plan = Plan::new(graph, &PlanOptions::new(profile).outputs(outputs).metrics(metrics))?;
            for pipeline in plan.pipelines(profile)? {
                let key = if first { without_numbers(&pipeline.text) } else { pipeline.text.clone() };
                found.entry((key, pipeline.entry)).or_insert_with(|| Planned {
                    kernel: pipeline.kernel.clone(),
                    text: pipeline.text,
                    entry: pipeline.entry,
                    implementation: plan.nodes[pipeline.node].implementation.name,
                });
            }
        }
    }
    Ok(found.into_values().collect())
}

/// A text with each number replaced by a mark.
fn without_numbers(text: &str) -> String {
    let mut marked = String::with_capacity(text.len());
    let mut number = false;
    for c in text.chars() {
        if !(number && c.is_ascii_digit()) {
            marked.push(if c.is_ascii_digit() { '#' } else { c });
        }
        number = c.is_ascii_digit();
    }
    marked
}

/// Compiles everything for the family that this process was configured for, and prints a line of
/// JSON for the device and for each kernel.
///
/// # Errors
/// Errors of the driver, except those about single kernels.
pub fn print_rows(family: &Family, batch: usize, plans: Plans) -> Result<()> {
    let driver = Driver::open(0)?;
    println!("{}", serde_json::to_string(&Device::of(&driver))?);
    let class = family.class.adapter();
    let profiles = [of_vendor(&driver, class), profile(&driver, class)];
    let row =
        |place: String, limits: &str, implementation: &str, kernel: &Kernel, text: (&str, &'static str)| {
            let compiled = compile(&driver, kernel, text).map_err(|e| e.to_string());
            let row = Row {
                place,
                limits: limits.into(),
                implementation: implementation.into(),
                kernel: kernel.label.clone(),
                figures: compiled.map(|compiled| Figures::of(&compiled)),
            };
            serde_json::to_string(&row).map(|line| println!("{line}"))
        };
    for layer in &LAYERS {
        for direction in Direction::ALL {
            let mut found: Vec<((String, &'static str), &str, Kernel, &str)> = Vec::new();
            for (profile, limits) in profiles.iter().zip(["WebGPU's", "the device's"]) {
                for (implementation, kernel) in of(layer, direction, batch, profile, false)? {
                    let text = text_for(&kernel, profile)?;
                    match found.iter_mut().find(|known| known.0 == text) {
                        Some(known) => known.3 = "both",
                        None => found.push((text, implementation, kernel, limits)),
                    }
                }
            }
            for ((text, entry), implementation, kernel, limits) in &found {
                row(format!("{} {direction}", layer.name), limits, implementation, kernel, (text, entry))?;
            }
        }
    }
    if plans != Plans::None {
        for Planned { kernel, text, entry, implementation } in planned(&profiles, plans == Plans::First)? {
            row(String::new(), "", implementation, &kernel, (&text, entry))?;
        }
    }
    Ok(())
}
