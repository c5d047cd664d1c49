//! How many dispatches and pipelines a GPU gets: what bounds small networks on it.

use incept::device::Device;
use incept::graph::{Graph, TensorId};
use incept::infer::{Classifier, InferenceGraph};
use incept::kernel::{AdapterClass, Profile};
use incept::model::{GoogLeNet, Variant};
use incept::optim::{Optimizer, TrainingState};
use incept::plan::{Dispatch, Member, Plan, PlanOptions};
use incept::tensor::Element;
use incept::train::{Trainer, TrainingGraph};

use crate::graph::batch;
use crate::support::gpu::missing;
use crate::support::networks::small;
use crate::support::shared_as_gpu;

fn plan(graph: &Graph, profile: &Profile, outputs: &[TensorId]) -> Plan {
    Plan::new(graph, &PlanOptions::new(profile).outputs(outputs)).expect("the graph can be planned")
}

/// Limits of a plan: dispatches, pipelines.
struct Limits {
    name: &'static str,
    dispatches: usize,
    pipelines: usize,
}

/// What a plan needs, and what the same graph needs without groups.
fn assert_limits(limits: &Limits, class: AdapterClass, graph: &Graph, outputs: &[TensorId]) {
    let profile = Profile::webgpu(class);
    let grouped = plan(graph, &profile, outputs);
    let alone = plan(graph, &Profile { grouped: false, ..profile.clone() }, outputs);
    let name = format!("{}, {class:?}", limits.name);
    let count = grouped.dispatches.len();
    println!(
        "{name}: {count} of {}, {} with few workgroups",
        alone.dispatches.len(),
        few_workgroups(&grouped)
    );
    assert!(count <= limits.dispatches, "{name}: {count} dispatches");
    assert!(grouped.barriers() <= count, "{name}: {} barriers", grouped.barriers());
    let pipelines = grouped.pipelines(&profile).expect("texts");
    assert!(pipelines.len() <= limits.pipelines, "{name}: {} pipelines", pipelines.len());
    let bytes: usize = pipelines.iter().map(|pipeline| pipeline.text.len()).sum();
    assert!(bytes < 1_000_000, "{name}: {bytes} bytes of WGSL");
    if grouped.preparation.is_empty() {
        let (with, without) = (grouped.memory.total_bytes(), alone.memory.total_bytes());
        assert!(with * 100 <= without * 105, "{name}: {with} bytes, {without} without groups");
    }
    for dispatch in grouped.preparation.iter().chain(&grouped.dispatches) {
        for window in &dispatch.windows {
            assert!(window.range.end - window.range.start <= profile.binding, "{name}: {window:?}");
        }
    }
}

/// Dispatches with too few workgroups for a large GPU.
fn few_workgroups(plan: &Plan) -> usize {
    plan.workgroups().iter().filter(|count| **count < 132).count()
}

#[test]
fn training_steps_are_few_dispatches_and_pipelines() {
    let steps = [
        (
            GoogLeNet::paper().width(0.25).input(64),
            Limits { name: "paper, width 1/4, 64", dispatches: 230, pipelines: 80 },
        ),
        (
            GoogLeNet::torchvision().width(0.25).input(64),
            Limits { name: "torchvision, width 1/4, 64", dispatches: 300, pipelines: 100 },
        ),
        (GoogLeNet::paper(), Limits { name: "paper, width 1, 224", dispatches: 260, pipelines: 90 }),
    ];
    for (network, limits) in steps {
        let training = TrainingGraph::new(&network, &Optimizer::default(), 32).expect("can be built");
        for class in AdapterClass::GPU {
            assert_limits(&limits, *class, &training.graph, &training.metrics);
        }
    }
}

#[test]
fn inference_is_few_dispatches_and_packs_weights_once() {
    let inference = InferenceGraph::new(&GoogLeNet::paper(), 1, Element::F32).expect("can be built");
    for class in AdapterClass::GPU {
        let limits = Limits { name: "inference", dispatches: 60, pipelines: 40 };
        assert_limits(&limits, *class, &inference.graph, &[inference.probabilities]);
        let plan = plan(&inference.graph, &Profile::webgpu(*class), &[inference.probabilities]);
        let packs = |dispatch: &Dispatch| {
            let first = dispatch.members[0];
            plan.nodes[first.node].implementation.kernels[first.kernel].entry.starts_with("pack")
        };
        assert!(plan.preparation.iter().all(packs) && !plan.preparation.is_empty());
        assert!(!plan.dispatches.iter().any(packs), "weights are packed in every run");
    }
}

/// No dispatch of a plan binds overlapping parts of a buffer: browsers refuse that.
#[test]
fn bindings_of_a_dispatch_do_not_overlap() {
    for network in [GoogLeNet::paper().width(0.25).input(64), GoogLeNet::torchvision()] {
        let training = TrainingGraph::new(&network, &Optimizer::default(), 8).expect("can be built");
        let plan = plan(&training.graph, &Profile::webgpu(AdapterClass::Discrete), &[]);
        let several = plan.dispatches.iter().filter(|dispatch| dispatch.members.len() > 1);
        assert!(several.clone().count() > 20);
        for Dispatch { windows, arrays, members, .. } in several {
            for (i, a) in windows.iter().enumerate() {
                for (j, b) in windows.iter().enumerate().skip(i + 1) {
                    let apart =
                        a.store != b.store || a.range.end <= b.range.start || b.range.end <= a.range.start;
                    assert!(apart || arrays[i] == arrays[j], "{members:?}: {a:?} and {b:?}");
                }
            }
        }
    }
}

/// Every kernel of a plan runs exactly once.
#[test]
fn every_kernel_is_dispatched_once() {
    let network = GoogLeNet::torchvision().width(0.125).input(32);
    let training = TrainingGraph::new(&network, &Optimizer::default(), 4).expect("can be built");
    let plan = plan(&training.graph, &Profile::webgpu(AdapterClass::Integrated), &[]);
    let all = plan.preparation.iter().chain(&plan.dispatches).flat_map(|dispatch| &dispatch.members);
    let mut members: Vec<Member> = all.copied().collect();
    members.sort_unstable();
    let kernels = plan.nodes.iter().enumerate().flat_map(|(node, planned)| {
        (0..planned.implementation.kernels.len()).map(move |kernel| Member { node, kernel })
    });
    assert_eq!(members, kernels.collect::<Vec<_>>());
}

fn trained(device: &Device, from: Option<&TrainingState>, steps: std::ops::Range<u64>) -> TrainingState {
    let network = small(Variant::Torchvision).dropout(0.4, 0.7);
    let optimizer = Optimizer::default();
    let trainer = Trainer::new(device, &network, &optimizer, 4, 99, |_, _| ());
    let mut trainer = device.block_on(trainer).expect("a trainer");
    if let Some(state) = from {
        trainer.restore(state).expect("is a state of this network");
    }
    for step in steps {
        trainer.step(&batch(4, step), 0.01).expect("a step");
    }
    device.block_on(trainer.state()).expect("a state")
}

#[test]
fn grouped_training_is_deterministic_and_resumes_exactly() {
    if missing() {
        return;
    }
    let device = Device::from(shared_as_gpu());
    let whole = trained(&device, None, 0..4);
    assert_eq!(whole, trained(&device, None, 0..4));
    let half = trained(&device, None, 0..2);
    assert_eq!(whole, trained(&device, Some(&half), 2..4));
}

/// A classifier packs its weights once, and again after they were changed.
#[test]
fn changed_weights_are_packed_again() {
    if missing() {
        return;
    }
    let device = Device::from(shared_as_gpu());
    let network = small(Variant::Paper);
    let optimizer = Optimizer::default();
    let trainer = Trainer::new(&device, &network, &optimizer, 4, 7, |_, _| ());
    let mut trainer = device.block_on(trainer).expect("a trainer");
    let mut classifier = device.block_on(trainer.classifier(4)).expect("a classifier");
    assert!(!classifier.session().plan().preparation.is_empty());
    for step in 0..3 {
        let images = batch(4, 100);
        let shared = device.block_on(classifier.probabilities(&images)).expect("probabilities");
        let again = device.block_on(classifier.probabilities(&images)).expect("probabilities");
        assert_eq!(shared, again);
        let state = device.block_on(trainer.state()).expect("a state");
        let other = device.block_on(Classifier::new(&device, &network, 4, Element::F32, &state));
        let mut other = other.expect("a classifier");
        assert_eq!(shared, device.block_on(other.probabilities(&images)).expect("probabilities"));
        trainer.step(&batch(4, step), 0.1).expect("a step");
    }
}
