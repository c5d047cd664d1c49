//! Every kernel that a plan may choose, on each adapter class, is valid WGSL and translates to the
//! drivers' languages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use incept::gpu::probe_kernels;
use incept::graph::{Add, Copy, Fill};
use incept::graph::{Graph, Operation};
use incept::infer::InferenceGraph;
use incept::kernel::{AdapterClass, Cooperative, Kernel, Operand, Operands, Profile, Vendor, text_for};
use incept::model::GoogLeNet;
use incept::ops::{AdamW, AvgPool, AvgPoolGrad, Relu, ReluGrad};
use incept::optim::{Averaging, Optimizer, Precision, Rule};
use incept::plan::{Plan, PlanOptions};
use incept::tensor::{Element, Spec};
use incept::train::TrainingGraph;
use naga::ShaderStage;
use naga::back::{glsl, hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use rayon::prelude::*;

/// Profiles of every class, with and without compiled-in geometry, with WebGPU's limits and larger
/// ones; the larger ones are of a vendor whose compiler has many registers.
fn profiles() -> Vec<Profile> {
    let mut list = Vec::new();
    for class in AdapterClass::ALL {
        let webgpu = Profile::webgpu(*class);
        let large = Profile {
            workgroup_memory: 48 << 10,
            invocations: 1024,
            workgroup: [1024, 1024, 64],
            binding: 2 << 30,
            f16: true,
            subgroup: Some(8),
            vendor: Vendor::Nvidia,
            ..webgpu.clone()
        };
        list.extend([webgpu, large.clone()]);
        // Matrices of NVIDIA and AMD, of Metal, and emulated ones.
        for (size, subgroup, f32, emulated) in
            [(16, 32, false, false), (16, 64, false, false), (8, 32, true, false), (8, 32, true, true)]
        {
            if *class == AdapterClass::Discrete {
                let cooperative = Some(Cooperative { size, subgroup, f16: true, f32, emulated });
                list.push(Profile { cooperative, ..large.clone() });
            }
        }
    }
    list
}

/// Graphs that together contain every operation of the engine, with activations stored as
/// `element`.
fn graphs(element: Element) -> Vec<Graph> {
    let precision = if element == Element::F16 { Precision::f16() } else { Precision::F32 };
    let paper = GoogLeNet::paper().width(0.25).classes(10);
    let torchvision = GoogLeNet::torchvision().width(0.25).classes(10).input(64);
    let adamw = Optimizer::default()
        .rule(Rule::adamw([0.9, 0.999], 1e-8))
        .max_grad_norm(1.0)
        .average(Averaging::Exponential(0.99))
        .accumulate(2);
    let nesterov = Optimizer::default().rule(Rule::nesterov()).average(Averaging::Polyak);
    let lars = Optimizer::default().rule(Rule::lars(0.001));
    let mixed = GoogLeNet::paper()
        .width(0.0625)
        .classes(10)
        .input(32)
        .mixed_labels(true)
        .with_class_weights(vec![1.0; 10]);
    let mut list = Vec::new();
    let full = GoogLeNet::paper();
    for (network, optimizer, batch) in [
        (&full, Optimizer::default(), 8),
        (&paper, adamw, 4),
        (&paper.clone().input(32), nesterov, 32),
        (&torchvision, Optimizer::default(), 4),
        (&mixed, lars, 4),
    ] {
        let optimizer = optimizer.precision(precision);
        list.push(TrainingGraph::new(network, &optimizer, batch).expect("the network can be built").graph);
        list.push(InferenceGraph::new(network, batch, element).expect("the network can be built").graph);
    }
    list
}

/// All kernels that a plan of the graph may choose with this profile.
fn kernels_of(graph: &Graph, profile: &Profile) -> Vec<Kernel> {
    let plan = Plan::new(graph, &PlanOptions::new(profile)).expect("the graph can be planned");
    let mut kernels = Vec::new();
    for (_, node) in plan.graph.nodes() {
        let operand = |id: &incept::graph::TensorId| {
            let (_, view) = plan.place(*id);
            let spec = plan.graph.tensor(*id).spec.clone();
            Operand { spec, offset: view.offset, batch_stride: view.batch_stride }
        };
        let inputs: Vec<Operand> = node.inputs.iter().map(operand).collect();
        let outputs: Vec<Operand> = node.outputs.iter().map(operand).collect();
        let operands = Operands { layer: "layer", inputs: &inputs, outputs: &outputs };
        let offered = node.op.kernels(&operands, profile);
        kernels.extend(offered.into_iter().filter(|i| i.fits(profile)).flat_map(|i| i.kernels));
    }
    kernels
}

/// Kernels that no GoogLeNet uses.
fn other_kernels(profile: &Profile) -> Vec<Kernel> {
    let x = Spec::f32([2, 3, 14, 14]);
    let pool = AvgPool { kernel: 3, stride: 2, padding: 1, ceil: true };
    let small = pool.infer(&[&x]).expect("shapes fit").remove(0);
    let grad =
        |accumulate| AvgPoolGrad { pool: Some(pool.clone()), size: [14, 14], accumulate, masked: false };
    let region = Spec::f32([64]);
    let adam = vec![region.clone(), region.clone(), region.clone(), region, Spec::f32([2])];
    let calls: Vec<(Box<dyn Operation>, Vec<Spec>)> = vec![
        (Box::new(pool.clone()), vec![x.clone()]),
        (Box::new(grad(false)), vec![small.clone()]),
        (Box::new(grad(true)), vec![small, x.clone()]),
        (Box::new(Relu), vec![x.clone()]),
        (Box::new(ReluGrad), vec![x.clone(), x.clone()]),
        (Box::new(Add), vec![x.clone(), x.clone()]),
        (Box::new(Copy), vec![x]),
        // The logarithms of these are infinite, which WGSL cannot express as a literal.
        (Box::new(AdamW { beta2: 0.0, epsilon: 1e-8 }), adam),
        (Box::new(Fill { value: 1.0, shape: [1].into(), scaled: true }), vec![]),
    ];
    let mut kernels = probe_kernels(profile);
    for (op, specs) in calls {
        let refs: Vec<&Spec> = specs.iter().collect();
        let outputs = op.infer(&refs).expect("shapes fit");
        let dense = |specs: Vec<Spec>| specs.into_iter().map(Operand::dense).collect::<Vec<_>>();
        let (inputs, outputs) = (dense(specs), dense(outputs));
        let operands = Operands { layer: "layer", inputs: &inputs, outputs: &outputs };
        kernels.extend(op.kernels(&operands, profile).into_iter().flat_map(|i| i.kernels));
    }
    kernels
}

/// The source text and entry point of every pipeline, with its kernel.
type Pipelines = BTreeMap<(String, &'static str), Kernel>;

fn pipelines() -> &'static Pipelines {
    static PIPELINES: OnceLock<Pipelines> = OnceLock::new();
    PIPELINES.get_or_init(make_pipelines)
}

fn make_pipelines() -> Pipelines {
    let mut texts = BTreeMap::new();
    let (plain, mixed) = (graphs(Element::F32), graphs(Element::F16));
    for profile in profiles() {
        let graphs = plain.iter().chain(if profile.f16 { &mixed[..] } else { &[] });
        let kernels = graphs.clone().flat_map(|g| kernels_of(g, &profile)).chain(other_kernels(&profile));
        for kernel in kernels {
            texts.insert(text_for(&kernel, &profile).expect("a text"), kernel);
        }
        // Groups, in which bindings may share arrays.
        for graph in graphs {
            let plan = Plan::new(graph, &PlanOptions::new(&profile)).expect("the graph can be planned");
            for pipeline in plan.pipelines(&profile).expect("texts") {
                texts.insert((pipeline.text, pipeline.entry), pipeline.kernel.clone());
            }
        }
    }
    texts
}

fn translate(
    name: &str,
    entry: &str,
    cooperative: bool,
    module: &naga::Module,
    info: &ModuleInfo,
    wgsl: &str,
) {
    let stage = ShaderStage::Compute;
    let options = spv::PipelineOptions { shader_stage: stage, entry_point: entry.into() };
    // Subgroups need SPIR-V 1.3.
    let versioned = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
    let words = spv::write_vec(module, info, &versioned, Some(&options))
        .unwrap_or_else(|e| panic!("{name} in SPIR-V: {e}"));
    assert!(words.len() > 50, "{name}: too little SPIR-V");

    let lang_version = if cooperative { (2, 3) } else { (2, 1) };
    let options = msl::Options { lang_version, ..msl::Options::default() };
    let pipeline =
        msl::PipelineOptions { entry_point: Some((stage, entry.into())), ..msl::PipelineOptions::default() };
    let (text, _) =
        msl::write_string(module, info, &options, &pipeline).unwrap_or_else(|e| panic!("{name} in MSL: {e}"));
    assert!(text.contains("kernel void"), "{name}: no kernel in MSL");
    // Only Vulkan and Metal have cooperative matrices.
    if cooperative {
        return;
    }

    let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_2, ..hlsl::Options::default() };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((stage, entry.into())) };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .unwrap_or_else(|e| panic!("{name} in HLSL: {e}"));
    assert!(text.contains("numthreads"), "{name}: no entry point in HLSL");

    // wgpu has no f16 on OpenGL, and no plan for it uses any; it offers no subgroups either.
    if wgsl.contains("enable f16") || wgsl.contains("subgroupBroadcast") {
        return;
    }

    let options = glsl::Options { version: glsl::Version::new_gles(310), ..glsl::Options::default() };
    let pipeline = glsl::PipelineOptions { shader_stage: stage, entry_point: entry.into(), multiview: None };
    let mut text = String::new();
    glsl::Writer::new(
        &mut text,
        module,
        info,
        &options,
        &pipeline,
        naga::proc::BoundsCheckPolicies::default(),
    )
    .and_then(|mut writer| writer.write())
    .unwrap_or_else(|e| panic!("{name} in GLSL: {e}"));
    assert!(text.contains("void main()"), "{name}: no entry point in GLSL");
}

/// The text without its numbers, which is equal for pipelines that differ only in geometry.
fn shape(text: &str) -> String {
    let mut shape = String::with_capacity(text.len());
    let mut number = false;
    for c in text.chars() {
        if !(number && c.is_ascii_digit()) {
            shape.push(if c.is_ascii_digit() { '#' } else { c });
        }
        number = c.is_ascii_digit();
    }
    shape
}

type Chosen = (&'static (String, &'static str), &'static Kernel);

/// The first and last of pipelines that differ only in numbers; `INCEPT_SHADERS=all` selects all,
/// which takes minutes.
fn chosen() -> Vec<Chosen> {
    if std::env::var("INCEPT_SHADERS").is_ok_and(|which| which == "all") {
        return pipelines().iter().collect();
    }
    let mut ends: BTreeMap<String, Vec<Chosen>> = BTreeMap::new();
    for pipeline in pipelines() {
        let alike = ends.entry(shape(&pipeline.0.0)).or_default();
        alike.truncate(1);
        alike.push(pipeline);
    }
    ends.into_values().flatten().collect()
}

#[test]
fn every_pipeline_is_valid_and_translates() {
    let chosen = chosen();
    assert!(chosen.len() > 100, "only {} pipelines", chosen.len());
    println!("{} of {} pipelines", chosen.len(), pipelines().len());
    chosen.par_iter().for_each(|((text, entry), kernel)| {
        let name = format!("{} {}", kernel.label, kernel.entry);
        let module = naga::front::wgsl::parse_str(text)
            .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(text)));
        // Capabilities of every WebGPU device, and those that the kernel requests.
        let mut capabilities = Capabilities::default();
        capabilities.set(Capabilities::SHADER_FLOAT16, text.contains("enable f16"));
        capabilities.set(Capabilities::SUBGROUP, text.contains("subgroupBroadcast") || kernel.cooperative);
        capabilities.set(Capabilities::COOPERATIVE_MATRIX, kernel.cooperative);
        let info = Validator::new(ValidationFlags::all(), capabilities)
            .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
            .subgroup_operations(naga::valid::SubgroupOperationSet::all())
            .validate(&module)
            .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(text)));
        translate(&name, entry, kernel.cooperative, &module, &info, text);
    });
}

/// A device may allow more invocations per workgroup than per dimension: cooperative tiles with
/// subgroups of 64 have 512 in one dimension.
#[test]
fn workgroups_respect_per_dimension_limits() {
    let matrices = Cooperative { size: 16, subgroup: 64, f16: true, f32: false, emulated: false };
    let wide = Profile { cooperative: Some(matrices), ..Profile::with_matrices() };
    let narrow = Profile { workgroup: [256, 256, 64], ..wide.clone() };
    let widest = |profile: &Profile| {
        let kernels = graphs(Element::F16).into_iter().flat_map(|g| kernels_of(&g, profile));
        kernels.map(|k| k.workgroup[0]).max()
    };
    assert_eq!((widest(&wide), widest(&narrow)), (Some(512), Some(256)));
}

/// The WGSL files, includes too: path and text.
fn files() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let of = |folder: &PathBuf| std::fs::read_dir(folder).expect("the shaders are there");
    let files = [folder.join("include"), folder];
    let paths = files.iter().flat_map(of).map(|file| file.expect("the folder can be read").path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.is_file()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a shader can be read");
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// Code that several kernels share is in an include file.
#[test]
fn shaders_have_no_duplicate_code() {
    const MOST: usize = 7;
    let mut seen: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut twice = Vec::new();
    for (path, text) in files() {
        let code = |line: &str| line.split("//").next().unwrap_or_default().trim().to_string();
        let lines: Vec<(usize, String)> = text.lines().map(code).enumerate().collect();
        let lines: Vec<(usize, String)> = lines.into_iter().filter(|(_, line)| !line.is_empty()).collect();
        for run in lines.windows(MOST + 1) {
            let place = format!("{}:{}", path.display(), run[0].0 + 1);
            let run: Vec<String> = run.iter().map(|(_, line)| line.clone()).collect();
            if let Some(before) = seen.insert(run, place.clone()) {
                twice.push(format!("{before} and {place}"));
            }
        }
    }
    assert!(seen.len() > 1000, "only {} runs of lines", seen.len());
    assert!(twice.is_empty(), "the same {} lines:\n{}", MOST + 1, twice.join("\n"));
}

/// `&&` in a value becomes a branch. SwiftShader's compiler took more than 6 GB for eight windows
/// with five of them each, and half a second without.
#[test]
fn conditions_in_values_are_no_branches() {
    let is_value = |line: &&str| line.trim_start().starts_with("let ") || line.contains("select(");
    let (mut values, mut wrong) = (0, Vec::new());
    for (path, text) in files() {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| is_value(line)) {
            values += 1;
            // A guard may be of a load that is out of range otherwise.
            if line.contains("&&") && !line.contains("second[") {
                wrong.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(values > 500, "only {values} values");
    assert!(wrong.is_empty(), "use `&`:\n{}", wrong.join("\n"));
}

/// A condition on a constant that no kernel sets drops lines silently, and a constant that no
/// shader uses is dead.
#[test]
fn shaders_use_exactly_the_constants_of_kernels() {
    let text: String = files().into_iter().map(|(_, text)| text).collect();
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code: Vec<&str> = code.collect();
    let mut given: BTreeSet<&str> = pipelines().values().flat_map(|k| &k.constants).map(|c| c.0).collect();
    let conditions = code.iter().filter_map(|line| line.trim().strip_prefix("#if "));
    let asked: BTreeSet<&str> = conditions.map(|name| name.trim_start_matches('!').trim()).collect();
    let unknown: Vec<_> = asked.difference(&given).collect();
    assert!(asked.len() > 20 && unknown.is_empty(), "constants that no kernel sets: {unknown:?}");
    let words = code.iter().flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
    words.for_each(|word| {
        given.remove(word);
    });
    assert!(given.is_empty(), "constants that no shader uses: {given:?}");
}

#[test]
fn every_entry_point_of_every_file_is_used() {
    let used: BTreeSet<(&str, &str)> = pipelines().values().map(|k| (k.source, k.entry)).collect();
    let mut unused = Vec::new();
    for (path, text) in files() {
        let mut entries = 0;
        for part in text.split("@compute").skip(1) {
            let name = part.split("fn ").nth(1).and_then(|rest| rest.split('(').next()).unwrap_or_default();
            if !used.iter().any(|(source, entry)| source.contains(&text) && *entry == name) {
                unused.push(format!("{}: {name}", path.display()));
            }
            entries += 1;
        }
        let included = path.parent().is_some_and(|folder| folder.ends_with("include"));
        assert!(entries > 0 || included, "{} has no entry point", path.display());
    }
    assert!(unused.is_empty(), "unused entry points: {unused:?}");
}

/// WebGPU's default limit is eight storage buffers.
#[test]
fn kernels_bind_at_most_eight_storage_buffers() {
    for kernel in pipelines().values() {
        assert!(kernel.bindings.len() <= 8, "{} binds {}", kernel.label, kernel.bindings.len());
    }
}
