//! Static analysis of kernels for large GPUs: the plan's cost model, and the SPIR-V passed to
//! drivers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use incept::graph::{Graph, Operation};
use incept::infer::InferenceGraph;
use incept::kernel::{
    AdapterClass, BUSY_GROUPS, Kernel, MOST_GROUPS, Operand, Operands, Profile, Vendor, choose, pipeline_text,
};
use incept::model::{GoogLeNet, Variant};
use incept::ops::{Conv, ConvInputGrad, ConvWeightGrad};
use incept::optim::{Optimizer, Precision};
use incept::plan::{ENOUGH_INTENSITY, ENOUGH_OF_A_GROUP, NodeCost, Plan, PlanOptions};
use incept::tensor::{Element, Spec};
use incept::train::TrainingGraph;
use naga::ShaderStage;
use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};

const BATCH: usize = 32;

fn training() -> Graph {
    let network = GoogLeNet::paper();
    TrainingGraph::new(&network, &Optimizer::default(), BATCH).expect("the network can be built").graph
}

fn plan(graph: &Graph, class: AdapterClass) -> Plan {
    plan_for(graph, &Profile::webgpu(class))
}

fn plan_for(graph: &Graph, profile: &Profile) -> Plan {
    Plan::new(graph, &PlanOptions::new(profile)).expect("the graph can be planned")
}

/// The plan of a training step of each variant on a discrete GPU.
fn discrete_training() -> [(Variant, Plan); 2] {
    [GoogLeNet::paper(), GoogLeNet::torchvision()].map(|network| {
        let training = TrainingGraph::new(&network, &Optimizer::default(), BATCH).expect("can be built");
        (network.variant, plan(&training.graph, AdapterClass::Discrete))
    })
}

/// The convolutions with over 1% of the FLOP of a training step at 224 on a discrete GPU, and the
/// workgroups of the dispatch that multiplies.
fn heavy_with_workgroups() -> Vec<(NodeCost, u64)> {
    let mut heavy = Vec::new();
    for (_, plan) in discrete_training() {
        heavy.extend(heavy_of(&plan));
    }
    assert!(heavy.len() > 40, "only {} convolutions", heavy.len());
    heavy
}

fn heavy_of(plan: &Plan) -> Vec<(NodeCost, u64)> {
    let mut heavy = Vec::new();
    let (workgroups, costs) = (plan.workgroups(), plan.costs());
    for (dispatch, workgroups) in plan.dispatches.iter().zip(workgroups) {
        for member in &dispatch.members {
            let kernel = &plan.nodes[member.node].implementation.kernels[member.kernel];
            let cost = &costs[member.node];
            let main = cost.main().is_some_and(|main| main.kernel == kernel.entry);
            if main && cost.operation.starts_with("conv") && cost.share > 0.01 {
                heavy.push((cost.clone(), workgroups));
            }
        }
    }
    heavy
}

fn heavy_convolutions() -> Vec<NodeCost> {
    heavy_with_workgroups().into_iter().map(|(cost, _)| cost).collect()
}

fn listed(failures: &[String]) -> String {
    format!("{} of the heavy convolutions:\n{}", failures.len(), failures.join("\n"))
}

#[test]
fn heavy_convolutions_meet_intensity_bound() {
    let mut failures = Vec::new();
    for node in heavy_convolutions() {
        let wanted = ENOUGH_OF_A_GROUP * ENOUGH_INTENSITY.min(node.intensity_bound());
        if node.intensity() < wanted {
            failures.push(format!(
                "{} ({}): {:.1} below {wanted:.1}",
                node.layer,
                node.implementation,
                node.intensity()
            ));
        }
    }
    assert!(failures.is_empty(), "{}", listed(&failures));
}

#[test]
fn heavy_convolutions_launch_enough_workgroups() {
    let mut failures = Vec::new();
    for (node, workgroups) in heavy_with_workgroups() {
        // Nearly one per compute unit of a large GPU, with those of its group.
        if workgroups < BUSY_GROUPS as u64 * 3 / 8 {
            failures.push(format!("{} ({}): {workgroups}", node.layer, node.implementation));
        }
    }
    assert!(failures.is_empty(), "{}", listed(&failures));
}

/// In NCHW planes a 3x3 window is not aligned, so its pixels are loaded one by one. Everything else
/// is loaded as vec4: weights, output gradients, and the source of a 1x1 product.
#[test]
fn heavy_convolutions_load_vectors_where_channels_allow() {
    let (mut failures, mut checked) = (Vec::new(), BTreeMap::<String, usize>::new());
    for (network, plan) in discrete_training() {
        for (planned, cost) in plan.nodes.iter().zip(plan.costs()) {
            let node = plan.graph.node(planned.node);
            let Some(main) = cost.main().filter(|_| cost.operation.starts_with("conv") && cost.share > 0.01)
            else {
                continue;
            };
            let kernel = planned.implementation.kernels.iter().find(|k| k.entry == main.kernel);
            let kernel = kernel.expect("it is one of its kernels");
            let dims = |i: usize| plan.graph.tensor(node.inputs[i]).spec.dims().to_vec();
            let in_fours = |dims: &[usize]| dims[2..].iter().product::<usize>().is_multiple_of(4);
            let (first, second) = (dims(0), dims(1));
            // Required vec4 loads: the weights, packed in a panel; dy of weight gradients; and the
            // source of 1x1.
            let mut wanted = match cost.operation {
                "conv_weight_grad" => {
                    if in_fours(&second) {
                        vec!["dy_data"]
                    } else {
                        Vec::new()
                    }
                }
                _ => {
                    if second[0].is_multiple_of(4) {
                        vec!["panel"]
                    } else {
                        Vec::new()
                    }
                }
            };
            if cost.operation != "conv_weight_grad" && second[2..] == [1, 1] && in_fours(&first) {
                wanted.push("source");
            }
            for name in wanted {
                *checked.entry(format!("{} {name}", cost.operation)).or_default() += 1;
                let element = kernel.bindings.iter().find(|b| b.name == name).map(|b| b.element);
                if element.is_none_or(|element| !element.starts_with("vec4")) {
                    failures.push(format!(
                        "{network} {} ({}): {name} is {element:?}",
                        cost.layer, cost.implementation
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", listed(&failures));
    assert!(checked.len() >= 3 && checked.values().all(|count| *count > 5), "{checked:?}");
}

/// The same in f16 on cooperative matrices: arithmetic intensity, workgroups, vector loads.
#[test]
fn cooperative_kernels_meet_intensity_bound() {
    let optimizer = Optimizer::default().precision(Precision::f16());
    let graph = TrainingGraph::new(&GoogLeNet::paper(), &optimizer, BATCH).expect("can be built").graph;
    let heavy = heavy_of(&plan_for(&graph, &Profile::with_matrices()));
    assert!(heavy.iter().filter(|(c, _)| c.implementation.starts_with("cooperative")).count() > 20);
    let faults = |(cost, workgroups): &(NodeCost, u64)| {
        // A group has more workgroups than its kernels.
        let mut flags = cost.flags();
        flags.retain(|flag| !flag.contains("workgroups, below"));
        if *workgroups < BUSY_GROUPS as u64 * 3 / 8 {
            flags.push(format!("{workgroups} workgroups"));
        }
        (!flags.is_empty()).then(|| format!("{} ({}): {flags:?}", cost.layer, cost.implementation))
    };
    let failures: Vec<String> = heavy.iter().filter_map(faults).collect();
    assert!(failures.is_empty(), "{}", listed(&failures));
}

/// A batch that fits 2 GiB bindings in f16 has more tiles than one grid dimension allows.
#[test]
fn large_batches_fit_the_grid() {
    let optimizer = Optimizer::default().precision(Precision::f16());
    let graph = TrainingGraph::new(&GoogLeNet::paper(), &optimizer, 1024).expect("can be built").graph;
    for class in [AdapterClass::Discrete, AdapterClass::Integrated] {
        let profile = Profile { binding: 2 << 30, buffer: 1 << 40, f16: true, ..Profile::webgpu(class) };
        for planned in &plan_for(&graph, &profile).nodes {
            let kernels = &planned.implementation.kernels;
            let groups: Vec<[u32; 3]> = kernels.iter().map(|k| k.groups).collect();
            let fit = groups.iter().flatten().all(|n| *n <= MOST_GROUPS);
            assert!(fit, "{} ({}): {groups:?}", graph.node(planned.node).name, planned.implementation.name);
        }
    }
}

/// Plausible costs: no implementation has less arithmetic than its algorithm needs or moves less
/// than its tensors, except biases and padding.
#[test]
fn costs_are_plausible() {
    for class in AdapterClass::ALL {
        for node in plan(&training(), *class).costs() {
            let least: u64 = node.dispatches.iter().map(|d| d.least_bytes).sum();
            let (name, moved) = (&node.layer, node.storage());
            assert!(
                moved as f64 >= 0.9 * least as f64,
                "{name} ({}) moves {moved} of {least} bytes",
                node.implementation
            );
            let flops: u64 = node.dispatches.iter().map(|d| d.traffic.flops).sum();
            // Winograd's smallest tiles save 5/9 of the multiply-adds.
            let enough = node.flops == 0 || flops as f64 > 0.3 * node.flops as f64;
            assert!(enough, "{name} ({}): {flops} of {} FLOPs", node.implementation, node.flops);
        }
    }
}

/// Costs list exactly the plan's dispatches, in order.
#[test]
fn every_dispatch_has_a_cost() {
    let plan = plan(&training(), AdapterClass::Discrete);
    let kernels = plan.nodes.iter().flat_map(|n| &n.implementation.kernels);
    let costs = plan.costs();
    let counted: Vec<&str> = costs.iter().flat_map(|c| &c.dispatches).map(|d| d.kernel).collect();
    assert_eq!(kernels.map(|k| k.entry).collect::<Vec<_>>(), counted);
    assert!(plan.barriers() < counted.len());
    let shares: f64 = costs.iter().map(|c| c.share).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
}

/// For each operation with several implementations: the choices of each adapter class in GoogLeNet.
fn choices() -> BTreeMap<&'static str, [BTreeSet<&'static str>; 3]> {
    let graphs = [
        training(),
        InferenceGraph::new(&GoogLeNet::paper(), BATCH, Element::F32)
            .expect("the network can be built")
            .graph,
        TrainingGraph::new(&GoogLeNet::torchvision(), &Optimizer::default(), BATCH)
            .expect("the network can be built")
            .graph,
    ];
    let mut choices: BTreeMap<&str, [BTreeSet<&str>; 3]> = BTreeMap::new();
    for graph in &graphs {
        let [discrete, integrated, software] =
            [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Software].map(Profile::webgpu);
        let subgroups = Profile { subgroup: Some(8), ..software.clone() };
        for (column, profile) in [(0, discrete), (1, integrated), (2, software), (2, subgroups)] {
            let plan = plan_for(graph, &profile);
            for planned in &plan.nodes {
                let node = plan.graph.node(planned.node);
                let operand = |id: &incept::graph::TensorId| {
                    let (_, view) = plan.place(*id);
                    let spec = plan.graph.tensor(*id).spec.clone();
                    Operand { spec, offset: view.offset, batch_stride: view.batch_stride }
                };
                let inputs: Vec<Operand> = node.inputs.iter().map(operand).collect();
                let outputs: Vec<Operand> = node.outputs.iter().map(operand).collect();
                let operands = Operands { layer: "layer", inputs: &inputs, outputs: &outputs };
                if node.op.kernels(&operands, &profile).len() > 1 {
                    choices.entry(node.op.name()).or_default()[column].insert(planned.implementation.name);
                }
            }
        }
    }
    choices
}

/// The table of defaults in `docs/performance.md` matches the code.
#[test]
fn documented_defaults_match_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
    let text = std::fs::read_to_string(path).expect("the documentation is there");
    let cell = |names: &BTreeSet<&str>| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    let expected: Vec<String> = choices()
        .iter()
        .map(|(op, [discrete, integrated, software])| {
            format!("| `{op}` | {} | {} | {} |", cell(discrete), cell(integrated), cell(software))
        })
        .collect();
    let table = text.lines().skip_while(|l| !l.starts_with("| operation | discrete")).skip(2);
    let written: Vec<&str> = table.take_while(|l| l.starts_with('|')).collect();
    assert_eq!(written, expected, "the table should have:\n{}", expected.join("\n"));
}

/// A SPIR-V module parsed into functions, blocks and instructions, enough to analyze loops.
#[derive(Debug, Default)]
struct Module {
    functions: HashMap<u32, Function>,
    constants: BTreeSet<u32>,
    floats: BTreeSet<u32>,
    entry: u32,
}

#[derive(Debug, Default)]
struct Function {
    parameters: Vec<u32>,
    blocks: Vec<Block>,
}

#[derive(Debug, Default)]
struct Block {
    label: u32,
    instructions: Vec<Instruction>,
}

#[derive(Clone, Debug)]
struct Instruction {
    code: u16,
    words: Vec<u32>,
}

/// SPIR-V opcodes.
mod op {
    pub const EXT_INST: u16 = 12;
    pub const ENTRY_POINT: u16 = 15;
    pub const TYPE_FLOAT: u16 = 22;
    pub const TYPE_VECTOR: u16 = 23;
    pub const CONSTANTS: std::ops::RangeInclusive<u16> = 41..=52;
    pub const FUNCTION: u16 = 54;
    pub const FUNCTION_PARAMETER: u16 = 55;
    pub const FUNCTION_CALL: u16 = 57;
    pub const FIRST_PURE: u16 = 77;
    pub const F_ADD: u16 = 129;
    pub const U_DIV: u16 = 134;
    pub const S_DIV: u16 = 135;
    pub const F_MUL: u16 = 133;
    pub const U_MOD: u16 = 137;
    pub const S_REM: u16 = 138;
    pub const S_MOD: u16 = 139;
    pub const VECTOR_TIMES_SCALAR: u16 = 142;
    pub const LAST_PURE: u16 = 200;
    pub const LOOP_MERGE: u16 = 246;
    pub const LABEL: u16 = 248;
    pub const BRANCH: u16 = 249;
    pub const BRANCH_CONDITIONAL: u16 = 250;
    pub const SWITCH: u16 = 251;
    pub const COOPERATIVE_MATRIX_MULTIPLY_ADD: u16 = 4459;
}

impl Module {
    fn parse(words: &[u32]) -> Self {
        let mut module = Self::default();
        let mut current = None;
        let mut at = 5;
        while at < words.len() {
            let (code, length) = ((words[at] & 0xffff) as u16, (words[at] >> 16) as usize);
            let operands = words[at + 1..at + length].to_vec();
            at += length;
            match code {
                op::ENTRY_POINT => module.entry = operands[1],
                op::TYPE_FLOAT => {
                    module.floats.insert(operands[0]);
                }
                op::TYPE_VECTOR if module.floats.contains(&operands[1]) => {
                    module.floats.insert(operands[0]);
                }
                code if op::CONSTANTS.contains(&code) => {
                    module.constants.insert(operands[1]);
                }
                op::FUNCTION => {
                    module.functions.insert(operands[1], Function::default());
                    current = Some(operands[1]);
                }
                op::FUNCTION_PARAMETER => {
                    module.function(current).parameters.push(operands[1]);
                }
                op::LABEL => {
                    let block = Block { label: operands[0], instructions: Vec::new() };
                    module.function(current).blocks.push(block);
                }
                _ => {
                    let function = current.and_then(|id| module.functions.get_mut(&id));
                    if let Some(block) = function.and_then(|f| f.blocks.last_mut()) {
                        block.instructions.push(Instruction { code, words: operands });
                    }
                }
            }
        }
        module
    }

    fn function(&mut self, id: Option<u32>) -> &mut Function {
        self.functions.get_mut(&id.expect("within a function")).expect("was begun")
    }

    /// Analyzes the entry point and all called functions.
    fn inspect(&self) -> Findings {
        let mut findings = Findings::default();
        self.walk(self.entry, self.constants.clone(), None, &mut findings);
        findings
    }

    /// Analyzes a function. `known` are the IDs that are constant in this call; `outer` is the loop
    /// that contains the call.
    fn walk(&self, id: u32, mut known: BTreeSet<u32>, outer: Option<usize>, findings: &mut Findings) {
        let function = &self.functions[&id];
        let labels: HashMap<u32, usize> =
            function.blocks.iter().enumerate().map(|(i, b)| (b.label, i)).collect();
        // Naga writes the blocks of a loop between its header and its merge block, so loops nest
        // like brackets.
        let mut open: Vec<(u32, usize)> = Vec::new();
        for block in &function.blocks {
            while open.last().is_some_and(|(merge, _)| *merge == block.label) {
                open.pop();
            }
            for instruction in &block.instructions {
                let inside = open.last().map(|(_, l)| *l).or(outer);
                let Instruction { code, words } = instruction;
                match *code {
                    op::LOOP_MERGE => {
                        if let Some(outer) = inside {
                            findings.loops[outer].innermost = false;
                        }
                        findings.loops.push(Loop { innermost: true, ..Loop::default() });
                        open.push((words[0], findings.loops.len() - 1));
                    }
                    op::FUNCTION_CALL => {
                        let callee = words[2];
                        let mut constants = self.constants.clone();
                        let parameters = &self.functions[&callee].parameters;
                        for (parameter, argument) in parameters.iter().zip(&words[3..]) {
                            if known.contains(argument) {
                                constants.insert(*parameter);
                            }
                        }
                        self.walk(callee, constants, inside, findings);
                    }
                    op::U_DIV | op::S_DIV | op::U_MOD | op::S_REM | op::S_MOD
                        if !known.contains(&words[3]) =>
                    {
                        if let Some(inside) = inside {
                            findings.loops[inside].divisions += 1;
                        }
                    }
                    op::F_MUL | op::F_ADD | op::VECTOR_TIMES_SCALAR => {
                        if let Some(inside) = inside {
                            findings.loops[inside].multiplies |= *code != op::F_ADD;
                            findings.loops[inside].adds |= *code == op::F_ADD;
                        }
                    }
                    // Fma is instruction 50 of GLSL.std.450.
                    op::EXT_INST if words[3] == 50 && self.floats.contains(&words[0]) => {
                        if let Some(inside) = inside {
                            findings.loops[inside].multiplies = true;
                            findings.loops[inside].adds = true;
                        }
                    }
                    op::COOPERATIVE_MATRIX_MULTIPLY_ADD => {
                        if let Some(inside) = inside {
                            findings.loops[inside].matrices = true;
                        }
                    }
                    op::BRANCH_CONDITIONAL | op::SWITCH => {
                        // Every loop has an exit branch, which is not counted.
                        let merge = open.last().map(|(merge, _)| *merge);
                        let leaves = |target: &u32| {
                            let block = &function.blocks[labels[target]];
                            Some(*target) == merge
                                || matches!(block.instructions.as_slice(),
                                    [Instruction { code: op::BRANCH, words }] if Some(words[0]) == merge)
                        };
                        let way_out = *code == op::BRANCH_CONDITIONAL && words[1..3].iter().any(leaves);
                        if let Some(inside) = inside.filter(|_| !way_out) {
                            findings.loops[inside].branches += 1;
                        }
                    }
                    // Arithmetic on constants is constant.
                    code if (op::FIRST_PURE..=op::LAST_PURE).contains(&code)
                        && words.len() > 2
                        && words[2..].iter().all(|w| known.contains(w)) =>
                    {
                        known.insert(words[1]);
                    }
                    _ => {}
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct Findings {
    loops: Vec<Loop>,
}

#[derive(Debug, Default)]
struct Loop {
    innermost: bool,
    multiplies: bool,
    adds: bool,
    /// Whether it multiplies cooperative matrices.
    matrices: bool,
    /// Integer divisions by a non-constant, not counting inner loops.
    divisions: usize,
    /// Branches other than the loop's exit.
    branches: usize,
}

impl Findings {
    /// The innermost multiply-add loops; in cooperative kernels those on matrices, because the
    /// fused batch norm also multiplies and adds.
    fn multiply_adds(&self) -> impl Iterator<Item = &Loop> {
        let matrices = self.loops.iter().any(|l| l.matrices);
        let products = move |l: &&Loop| if matrices { l.matrices } else { l.multiplies && l.adds };
        self.loops.iter().filter(|l| l.innermost).filter(products)
    }
}

/// The SPIR-V with the given policies for bounds and loops.
fn spirv(kernel: &Kernel, bake: bool, policy: BoundsCheckPolicy, bounded: bool) -> Module {
    let text = pipeline_text(kernel, bake).expect("a text");
    let module = naga::front::wgsl::parse_str(&text)
        .unwrap_or_else(|e| panic!("{}: {}", kernel.label, e.emit_to_string(&text)));
    let mut capabilities = Capabilities::default();
    capabilities.set(Capabilities::SHADER_FLOAT16, text.contains("enable f16"));
    capabilities.set(Capabilities::SUBGROUP, kernel.cooperative);
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, kernel.cooperative);
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}: {}", kernel.label, e.emit_to_string(&text)));
    let options = spv::Options {
        // Subgroups came with SPIR-V 1.3.
        lang_version: if kernel.cooperative { (1, 3) } else { spv::Options::default().lang_version },
        bounds_check_policies: BoundsCheckPolicies {
            index: policy,
            buffer: policy,
            ..BoundsCheckPolicies::default()
        },
        force_loop_bounding: bounded,
        emit_int_div_checks: bounded,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..spv::Options::default()
    };
    let pipeline =
        spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: kernel.entry.into() };
    let words = spv::write_vec(&module, &info, &options, Some(&pipeline))
        .unwrap_or_else(|e| panic!("{} in SPIR-V: {e}", kernel.label));
    Module::parse(&words)
}

/// Training and inference plans on GPUs: both variants within WebGPU's limits, and in f16 on
/// cooperative matrices.
fn gpu_plans() -> Vec<(String, Profile, Plan)> {
    let mut plans = Vec::new();
    let precise = AdapterClass::GPU.iter().map(|class| (Profile::webgpu(*class), Precision::default()));
    for (profile, precision) in precise.chain([(Profile::with_matrices(), Precision::f16())]) {
        for network in [GoogLeNet::paper(), GoogLeNet::torchvision()] {
            let optimizer = Optimizer::default().precision(precision);
            let training = TrainingGraph::new(&network, &optimizer, BATCH).expect("can be built").graph;
            let inference = InferenceGraph::new(&network, BATCH, precision.element()).expect("can be built");
            let matrices = if profile.cooperative.is_some() { " with matrices" } else { "" };
            for (pass, graph) in [("training", &training), ("inference", &inference.graph)] {
                let name = format!("{} {pass}, {:?}{matrices}", network.variant, profile.class);
                plans.push((name, profile.clone(), plan_for(graph, &profile)));
            }
        }
    }
    plans
}

/// The kernels of a plan's convolutions and linear layers, one per pipeline.
fn products(plan: &Plan, bake: bool) -> BTreeMap<String, Kernel> {
    let mut kernels = BTreeMap::new();
    for planned in &plan.nodes {
        let name = plan.graph.node(planned.node).op.name();
        if name.starts_with("conv") || name.starts_with("linear") {
            for kernel in &planned.implementation.kernels {
                kernels.insert(pipeline_text(kernel, bake).expect("a text"), kernel.clone());
            }
        }
    }
    assert!(kernels.len() > 5, "only {} kernels", kernels.len());
    kernels
}

/// Kernels for CPU drivers may compute window positions in their only loop; those for GPUs do so
/// while loading tiles.
#[test]
fn inner_loops_have_no_branches_or_divisions() {
    let mut failures = Vec::new();
    for (name, profile, plan) in gpu_plans() {
        let (mut loops, mut matrices) = (0, 0);
        for kernel in products(&plan, profile.bake).values() {
            matrices += usize::from(kernel.cooperative);
            let findings = spirv(kernel, profile.bake, BoundsCheckPolicy::Unchecked, false).inspect();
            loops += findings.multiply_adds().count();
            if findings.loops.iter().any(|l| l.divisions > 0) {
                failures.push(format!("{name}: {} divides", kernel.label));
            }
            if findings.multiply_adds().any(|l| l.branches > 0) {
                failures.push(format!("{name}: {} branches", kernel.label));
            }
            let multiplies = findings.multiply_adds().count() > 0;
            assert!(
                multiplies || !kernel.cooperative,
                "{name}: {} has no loop that multiplies",
                kernel.label
            );
        }
        assert!(loops > 5, "only {loops} loops that multiply and add were seen for {name}");
        assert!(matrices > 5 || profile.cooperative.is_none(), "only {matrices} kernels on matrices: {name}");
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The same for kernels that only tuning chooses.
#[test]
fn winograd_inner_loops_have_no_branches_or_divisions() {
    let profile = Profile {
        workgroup_memory: 32 << 10,
        ..Profile { vendor: Vendor::Nvidia, ..Profile::webgpu(AdapterClass::Discrete) }
    };
    let (x, w, y) = (Spec::f32([2, 20, 14, 14]), Spec::f32([40, 20, 3, 3]), Spec::f32([2, 40, 14, 14]));
    let (stride, padding, size, kernel) = ([1; 2], [1; 2], [14; 2], [3; 2]);
    let input_grad = ConvInputGrad { stride, padding, size, accumulate: false, masked: false };
    let directions: [(&dyn Operation, [&Spec; 2]); 3] = [
        (&Conv::new(1, 1), [&x, &w]),
        (&input_grad, [&y, &w]),
        (&ConvWeightGrad { stride, padding, kernel }, [&x, &y]),
    ];
    for (op, inputs) in directions {
        let outputs = op.infer(&inputs).expect("shapes fit");
        let inputs: Vec<Operand> = inputs.into_iter().cloned().map(Operand::dense).collect();
        let outputs: Vec<Operand> = outputs.into_iter().map(Operand::dense).collect();
        let list = op.kernels(&Operands { layer: "layer", inputs: &inputs, outputs: &outputs }, &profile);
        let winograd: Vec<_> = list.iter().filter(|i| i.name.starts_with("winograd")).collect();
        assert_eq!(winograd.len(), 2, "{}", op.name());
        for implementation in winograd {
            assert!(implementation.fits(&profile), "{}", implementation.workgroup_memory);
            let mut products = implementation.kernels.iter().filter(|k| k.traffic.is_some());
            let kernel = products.next().expect("one does the arithmetic");
            let findings = spirv(kernel, true, BoundsCheckPolicy::Unchecked, false).inspect();
            assert!(findings.loops.iter().all(|l| l.divisions == 0), "{}: {findings:?}", kernel.label);
            assert!(findings.multiply_adds().count() > 0, "{}: {findings:?}", kernel.label);
            // With a K step of 4, some invocations have nothing to load and need a branch.
            let branches = findings.multiply_adds().any(|l| l.branches > 0);
            assert!(implementation.name == "winograd_small" || !branches, "{}: {findings:?}", kernel.label);
        }
    }
}

/// The default convolution kernel of an adapter class.
fn conv(class: AdapterClass) -> Kernel {
    let specs = [Spec::f32([2, 8, 14, 14]), Spec::f32([16, 8, 3, 3])];
    let op = Conv::new(1, 1);
    let outputs = op.infer(&specs.iter().collect::<Vec<_>>()).expect("shapes fit");
    let [inputs, outputs] =
        [specs.to_vec(), outputs].map(|s| s.into_iter().map(Operand::dense).collect::<Vec<_>>());
    let profile = Profile::webgpu(class);
    let operands = Operands { layer: "layer", inputs: &inputs, outputs: &outputs };
    let list = op.kernels(&operands, &profile);
    let kernels = &choose(&list, &profile).expect("one fits").kernels;
    kernels.iter().find(|k| k.traffic.is_some()).expect("one does the arithmetic").clone()
}

/// The analysis detects branches and divisions in a kernel compiled with checks.
#[test]
fn analysis_detects_checks_and_divisions() {
    let kernel = conv(AdapterClass::Discrete);
    let checked = spirv(&kernel, true, BoundsCheckPolicy::ReadZeroSkipWrite, false).inspect();
    assert!(checked.multiply_adds().any(|l| l.branches > 0), "{checked:?}");
    let bare = spirv(&kernel, true, BoundsCheckPolicy::Unchecked, false).inspect();
    assert!(bare.multiply_adds().count() > 0);

    let source = "//# f\n@compute @workgroup_size(1)\nfn f() {\n    for (var i = 0u; i < 9u; i++) { data[i] = data[i] / WHAT; }\n}\n";
    for (what, divisions) in [("7u", 0), ("p.n", 1), ("(data[0] + 1u)", 1)] {
        let text: &'static str = Box::leak(source.replace("WHAT", what).into_boxed_str());
        let operands = Operands { layer: "layer", inputs: &[], outputs: &[] };
        let kernel = Kernel::new(&operands, text, "f").geometry("n", 5usize).bind_as(
            "data",
            incept::kernel::Slot::Output(0),
            "u32",
        );
        for bounded in [false, true] {
            let findings = spirv(&kernel, false, BoundsCheckPolicy::Unchecked, bounded).inspect();
            let found: usize = findings.loops.iter().map(|l| l.divisions).sum();
            assert_eq!(found, divisions, "division by {what}");
        }
        // Compiled-in geometry is constant.
        let baked = spirv(&kernel, true, BoundsCheckPolicy::Unchecked, false).inspect();
        let found: usize = baked.loops.iter().map(|l| l.divisions).sum();
        assert_eq!(found, usize::from(what.contains("data")), "division by {what}");
    }
}

/// The row and column of a lane in an invocation's tile, from the lines of a shader.
fn place_of_lane(shader: &str, which: usize, lane: u32) -> [u32; 2] {
    ["down", "across"].map(|name| {
        let start = format!("let {name} = bit(");
        let line = shader.lines().filter(|line| line.trim().starts_with(&start)).nth(which);
        let sum = line.expect("a line").trim().trim_end_matches(';').split(" = ").nth(1).expect("a sum");
        let term = |term: &str| {
            let (factor, bit) = term.split_once("u * ").unwrap_or(("1", term));
            let number =
                bit.trim_start_matches("bit(lane, ").trim_start_matches("bit(local, ").trim_end_matches("u)");
            let number: u32 = number.parse().expect("a number");
            factor.parse::<u32>().expect("a factor") * ((lane >> number) & 1)
        };
        sum.split(" + ").map(term).sum()
    })
}

/// Lanes that read the same 16 bytes of workgroup memory are n and n ^ 1, or n and n ^ 2, for both
/// operands: NVIDIA's GPUs then load them in half the passes.
#[test]
fn lanes_share_the_loads_of_both_operands() {
    let tiled = include_str!("../../shaders/conv_tiled.wgsl");
    let winograd = include_str!("../../shaders/conv_winograd.wgsl");
    for (shader, which, rows, columns) in [(tiled, 0, 4, 8), (winograd, 0, 4, 4), (winograd, 1, 4, 4)] {
        let places: Vec<[u32; 2]> =
            (0..rows * columns).map(|lane| place_of_lane(shader, which, lane)).collect();
        let distinct: BTreeSet<_> = places.iter().collect();
        assert_eq!(distinct.len(), places.len(), "two lanes compute the same results");
        assert!(places.iter().all(|[down, across]| *down < rows && *across < columns));
        for operand in 0..2 {
            let shares =
                |other: usize| (0..places.len()).all(|n| places[n][operand] == places[n ^ other][operand]);
            assert!(shares(1) || shares(2), "operand {operand}");
        }
    }
}
