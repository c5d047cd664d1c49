//! `incept kernels`

mod translate;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use incept::infer::InferenceGraph;
use incept::kernel::{AdapterClass, Profile, Vendor};
use incept::low_level::output::{check_folder, write_atomically};
use incept::model::GoogLeNet;
use incept::optim::Optimizer;
use incept::plan::{Plan, PlanOptions, PlannedPipeline};
use incept::tensor::Element;
use incept::train::TrainingGraph;
use md5::{Digest as _, Md5};
use serde::Serialize;

use super::numbers::whole;
use super::options::{NetworkArgs, PrecisionArgs};
use super::profile::Class;
use super::report::{Reporter, note, plural, shown, thousands};
use super::{Outcome, Result};
use translate::{Language, Translator};

/// List the kernels of a training step or of inference, and write them for other compilers (needs
/// no device).
///
/// A row is a compute pipeline: its entry point, the first characters of its WGSL's MD5, its
/// dispatches per step, the size of its WGSL, the invocations of a workgroup, the workgroup memory
/// that it uses, and the first layer with its implementation. On GPUs kernels that are alike run in
/// groups, with the entry point `grouped`.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Kernels {
    /// Number of classes.
    #[arg(long, value_name = "COUNT", default_value_t = 1000, help_heading = "Network", value_parser = whole::<usize>(2))]
    classes: usize,
    #[command(flatten)]
    network: NetworkArgs,
    /// Batch size.
    #[arg(short = 'b', long = "batch-size", alias = "batch", value_name = "COUNT", default_value_t = 32, value_parser = whole::<usize>(1))]
    batch: usize,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// Kernels of a step with recomputed activations, as in `incept train --grad-checkpointing`.
    #[arg(long = "grad-checkpointing", alias = "checkpointing", conflicts_with = "infer")]
    checkpointing: bool,
    /// Kernels of inference instead of a training step.
    #[arg(long)]
    infer: bool,
    /// Adapter class to select kernels for, with WebGPU's default limits.
    #[arg(long, value_name = "CLASS", default_value = "discrete")]
    class: Class,
    /// Maker of the GPU, on whose compiler some default kernels depend.
    #[arg(long, value_name = "NAME", default_value = "unknown")]
    vendor: Maker,
    /// Select kernels for a discrete GPU with 16 x 16 f16 cooperative matrices (tensor cores).
    #[arg(long, conflicts_with_all = ["class", "vendor"])]
    matrices: bool,
    /// Folder to write each pipeline to, as a file named ENTRY-HASH.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Language of the files.
    #[arg(long, value_name = "LANGUAGE", default_value = "wgsl", requires = "write")]
    language: Language,
}

const EXAMPLES: &str = "Files are what the engine passes to drivers: without bounds checks, bindings in group 0 in the order of the WGSL. A kernel that a language cannot express is skipped and reported, and the exit code is 1.

Examples:
  incept kernels --class integrated                                        pipelines of a training step
  incept kernels --class integrated --vendor amd                           those of an AMD GPU without its own memory
  incept kernels --infer --write shaders --language spirv && spirv-val shaders/*.spv
  incept kernels --write shaders --language msl && xcrun metal -c shaders/*.metal
  incept kernels --write shaders --language hlsl && dxc -T cs_6_2 -E grouped shaders/product_tiled-*.hlsl";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Maker {
    Amd,
    Apple,
    Intel,
    Nvidia,
    Unknown,
}

impl From<Maker> for Vendor {
    fn from(maker: Maker) -> Self {
        match maker {
            Maker::Amd => Self::Amd,
            Maker::Apple => Self::Apple,
            Maker::Intel => Self::Intel,
            Maker::Nvidia => Self::Nvidia,
            Maker::Unknown => Self::Unknown,
        }
    }
}

/// A distinct pipeline of a plan.
#[derive(Debug, Serialize)]
struct Pipeline {
    entry: &'static str,
    /// The entry point in the text: that of a group where kernels run in groups.
    entry_point: &'static str,
    /// First characters of the MD5 of its WGSL.
    hash: String,
    dispatches: usize,
    wgsl_bytes: usize,
    workgroup: [u32; 3],
    workgroup_memory_bytes: u32,
    /// First node that uses it, and that node's implementation.
    layer: String,
    implementation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// Why there is no file.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

#[derive(Serialize)]
struct KernelsResult<'a> {
    network: &'a GoogLeNet,
    batch: usize,
    pass: &'static str,
    precision: Element,
    class: AdapterClass,
    vendor: Vendor,
    dispatches: usize,
    wgsl_bytes: usize,
    pipelines: &'a [Pipeline],
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<Language>,
    /// Pipelines that the language cannot express.
    skipped: usize,
}

impl Kernels {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        self.network.refuse_unseen(false)?;
        let network = self.network.network(self.classes, 224)?;
        self.write.as_deref().map_or(Ok(()), check_folder)?;
        let class = self.class.adapter();
        let device = if self.matrices {
            Profile::with_matrices()
        } else {
            Profile { vendor: self.vendor.into(), ..Profile::webgpu(class) }
        };
        // No limits on tensor sizes: devices of this class exceed WebGPU's defaults.
        let profile = Profile { binding: u64::from(u32::MAX), buffer: u64::MAX, ..device };
        let mut listed = Vec::new();
        for (mut pipeline, translator) in pipelines(&self.plan(&network, &profile)?, &profile)? {
            if let Some(folder) = &self.write {
                pipeline.write(&translator, folder, self.language)?;
            }
            listed.push(pipeline);
        }
        let pipelines = listed;
        self.report(&network, &profile, &pipelines, reporter)
    }

    fn plan(&self, network: &GoogLeNet, profile: &Profile) -> Result<Plan> {
        let plan = |graph, outputs: &[_], metrics: &[_]| {
            Plan::new(graph, &PlanOptions::new(profile).outputs(outputs).metrics(metrics))
        };
        let precision = self.precision.of(profile);
        if self.infer {
            let inference = InferenceGraph::new(network, self.batch, precision.element())?;
            return plan(&inference.graph, &[inference.probabilities, inference.logits], &[]);
        }
        let optimizer = Optimizer::default().precision(precision).checkpointing(self.checkpointing);
        let training = TrainingGraph::new(network, &optimizer, self.batch)?;
        plan(&training.graph, &training.logits, &training.metrics)
    }

    /// Prints the pipelines.
    fn report(
        &self,
        network: &GoogLeNet,
        profile: &Profile,
        pipelines: &[Pipeline],
        reporter: &Reporter,
    ) -> Result {
        let entry = pipelines.iter().map(|p| p.entry.len()).max().unwrap_or(0);
        reporter.line(&format!(
            "{:<entry$}  {:<8}  {:>10}  {:>10}  {:>10}  {:>10}  first layer: implementation",
            "entry", "hash", "dispatches", "WGSL bytes", "workgroup", "memory"
        ))?;
        for p in pipelines {
            reporter.line(&format!(
                "{:<entry$}  {:<8}  {:>10}  {:>10}  {:>10}  {:>10}  {}: {}",
                p.entry,
                p.hash,
                p.dispatches,
                thousands(p.wgsl_bytes as u64),
                p.workgroup.map(|n| n.to_string()).join("x"),
                thousands(p.workgroup_memory_bytes.into()),
                p.layer,
                p.implementation
            ))?;
        }
        let dispatches = pipelines.iter().map(|p| p.dispatches).sum();
        let wgsl_bytes = pipelines.iter().map(|p| p.wgsl_bytes).sum();
        let skipped = pipelines.iter().filter(|p| p.skipped.is_some()).count();
        reporter.line(&format!(
            "\n{}, {}, {} bytes of WGSL",
            plural(dispatches as u64, "dispatch"),
            plural(pipelines.len() as u64, "distinct pipeline"),
            thousands(wgsl_bytes as u64)
        ))?;
        if let Some(folder) = &self.write {
            let written = plural((pipelines.len() - skipped) as u64, "file");
            reporter.line(&format!("{}: {written} in {}", shown(folder), self.language))?;
        }
        for p in pipelines {
            if let Some(reason) = &p.skipped {
                note(&format!("skipped {}-{}: {reason}", p.entry, p.hash));
            }
        }
        if skipped > 0 {
            note(&format!("{} cannot be written in {}", plural(skipped as u64, "pipeline"), self.language));
        }
        reporter.event(&KernelsResult {
            network,
            batch: self.batch,
            pass: if self.infer { "inference" } else { "training" },
            precision: self.precision.of(profile).element(),
            class: profile.class,
            vendor: profile.vendor,
            dispatches,
            wgsl_bytes,
            pipelines,
            language: self.write.as_ref().map(|_| self.language),
            skipped,
        })?;
        Ok(if skipped > 0 { Outcome::Failed } else { Outcome::Done })
    }
}

impl Pipeline {
    /// Writes its file, or notes why there is none.
    fn write(&mut self, translator: &Translator, folder: &Path, language: Language) -> Result<()> {
        match translator.translate(language) {
            Ok(content) => {
                let name = format!("{}-{}.{}", self.entry, self.hash, extension(language));
                write_atomically(&folder.join(&name), &content)?;
                self.file = Some(name);
            }
            Err(reason) => self.skipped = Some(reason.to_string()),
        }
        Ok(())
    }
}

/// The distinct pipelines of a plan.
fn pipelines(plan: &Plan, profile: &Profile) -> Result<Vec<(Pipeline, Translator)>> {
    let described = |planned: PlannedPipeline<'_>| {
        let node = &plan.nodes[planned.node];
        let translator = Translator::new(planned.kernel, &planned.text, planned.entry)?;
        let pipeline = Pipeline {
            entry: planned.kernel.entry,
            entry_point: planned.entry,
            hash: hash(&planned.text),
            dispatches: planned.dispatches,
            wgsl_bytes: planned.text.len(),
            workgroup: planned.kernel.workgroup,
            workgroup_memory_bytes: workgroup_memory(&translator),
            layer: plan.graph.node(node.node).name.clone(),
            implementation: node.implementation.name,
            file: None,
            skipped: None,
        };
        Ok((pipeline, translator))
    };
    plan.pipelines(profile)?.into_iter().map(described).collect()
}

/// Bytes of workgroup memory that the entry point uses.
fn workgroup_memory(translator: &Translator) -> u32 {
    let Translator { module, info, entry, .. } = translator;
    let Some(index) = module.entry_points.iter().position(|e| e.name == *entry) else { return 0 };
    let used = info.get_entry_point(index);
    let shared = module.global_variables.iter().filter(|(handle, variable)| {
        variable.space == naga::AddressSpace::WorkGroup && !used[*handle].is_empty()
    });
    let size = |ty| module.types[ty].inner.try_size(module.to_ctx()).unwrap_or(u32::MAX);
    shared.fold(0, |sum: u32, (_, variable)| sum.saturating_add(size(variable.ty)))
}

/// The extension of files in a language.
fn extension(language: Language) -> &'static str {
    match language {
        Language::Wgsl => "wgsl",
        Language::Spirv => "spv",
        Language::Msl => "metal",
        Language::Hlsl => "hlsl",
        Language::Glsl => "comp",
    }
}

/// The first 8 hexadecimal digits of a text's MD5.
fn hash(text: &str) -> String {
    Md5::digest(text).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}
