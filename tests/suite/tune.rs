//! Tuning: wrong kernels are never chosen, choices are applied, and caches are separate. No test
//! depends on timing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use incept::data::Batch;
use incept::gpu::Gpu;
use incept::graph::{Graph, Operation, TensorId};
use incept::kernel::{Implementation, Kernel, Operands, Profile, Slot, Step};
use incept::model::GoogLeNet;
use incept::optim::Optimizer;
use incept::plan::{Choice, Choices, Effort, Plan, PlanOptions, fingerprint};
use incept::reference::{Array, Real, Reference, relative_error};
use incept::tensor::Spec;
use incept::train::{Trainer, TrainingGraph};
use incept::tune::{TuneCache, TuneOptions, Tuning, tune};

use crate::support::gpu::missing;
use crate::support::gpu::open;
use crate::support::shared as gpu;

fn run(gpu: &Gpu, plan: &Plan, options: &TuneOptions) -> Tuning {
    gpu.block_on(tune(gpu, plan, options, |_| ControlFlow::Continue(()))).expect("tuning never fails")
}

/// y = 2 x, with the named implementations.
#[derive(Debug)]
struct Twice(&'static [&'static str]);

const TWICE: &str = "
//# plain
@compute @workgroup_size(64)
fn plain(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < p.count { y[id.x] = 2.0 * x[id.x]; }
}
//# other
@compute @workgroup_size(64)
fn other(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < p.count { y[id.x] = x[id.x] + x[id.x]; }
}
//# wrong
@compute @workgroup_size(64)
fn wrong(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < p.count { y[id.x] = 2.0 * x[id.x] + f32(id.x == p.count - 1u); }
}
//# idle
@compute @workgroup_size(64)
fn idle(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < 1u { y[id.x] = 2.0 * x[id.x]; }
}
//# writes_behind
@compute @workgroup_size(64)
fn writes_behind(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x <= p.count { y[id.x] = 2.0 * x[min(id.x, p.count - 1u)]; }
}
//# writes_input
@compute @workgroup_size(64)
fn writes_input(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < p.count { y[id.x] = 2.0 * x[id.x]; } else { x[id.x] = 0.0; }
}
//# reads_behind
@compute @workgroup_size(64)
fn reads_behind(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < p.count { y[id.x] = 2.0 * x[id.x] + 0.0 * x[id.x + 1u]; }
}
//# trusts_scratch
@compute @workgroup_size(64)
fn trusts_scratch(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < p.count { y[id.x] = 2.0 * x[id.x] + s[id.x]; }
}
//# does_not_compile
@compute @workgroup_size(64)
fn does_not_compile(@builtin(global_invocation_id) id: vec3<u32>) {
    y[id.x] = what_is_this;
}
";

impl<T: Real> Reference<T> for Twice {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        for (y, x) in outputs[0].data.iter_mut().zip(&inputs[0].data) {
            *y = *x + *x;
        }
    }
}

impl Operation for Twice {
    fn name(&self) -> &'static str {
        "twice"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        Ok(vec![inputs[0].clone()])
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let count = operands.outputs[0].volume();
        let kernel = |entry| {
            let kernel = Kernel::new(operands, TWICE, entry)
                .geometry("count", count)
                .bind("x", Slot::Input(0))
                .bind("y", Slot::Output(0))
                .linear(count + 1);
            let kernel = if entry == "idle" { kernel.groups(1, 1, 1) } else { kernel };
            if entry == "trusts_scratch" { kernel.bind("s", Slot::Scratch(0)) } else { kernel }
        };
        let implementation = |name: &&'static str| {
            let implementation = Implementation::new(name, vec![kernel(name)]);
            if *name == "trusts_scratch" { implementation.scratch(count) } else { implementation }
        };
        self.0.iter().map(implementation).collect()
    }
}

/// A plan that doubles `count` values, with these choices.
fn plan_twice(ways: &'static [&'static str], count: usize, choices: Option<&Choices>) -> (Plan, TensorId) {
    incept::reference::register::<Twice>();
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::f32([count / 100, 100]));
    let y = graph.add("double", Twice(ways), &[x]).expect("any shape will do");
    let plan =
        Plan::new(&graph, &PlanOptions::new(gpu().profile()).outputs(&[y]).choices(choices)).expect("fits");
    let y = plan.tensor(y).expect("is planned");
    (plan, y)
}

/// The one choice of a tuning.
fn only(tuning: &Tuning) -> &Choice {
    assert_eq!(tuning.choices.len(), 1);
    tuning.choices.iter().next().expect("there is one").1
}

#[test]
fn wrong_kernels_are_never_chosen() {
    if missing() {
        return;
    }
    // The first is the default; most of the others would be faster.
    const BAD: [&str; 7] = [
        "wrong",
        "idle",
        "writes_behind",
        "writes_input",
        "reads_behind",
        "trusts_scratch",
        "does_not_compile",
    ];
    const WAYS: [&str; 8] = ["plain", BAD[0], BAD[1], BAD[2], BAD[3], BAD[4], BAD[5], BAD[6]];
    let gpu = open();
    // Not a multiple of the workgroup size.
    let (plan, _) = plan_twice(&WAYS, 100_000 - 100, None);
    for options in [TuneOptions::fast(), TuneOptions::full()] {
        let tuning = run(&gpu, &plan, &options);
        let choice = only(&tuning);
        assert_eq!(choice.implementation, "plain");
        assert_eq!(choice.microseconds.keys().collect::<Vec<_>>(), ["plain"]);
        let rejected: Vec<&str> = tuning.rejected.iter().map(|r| r.implementation.as_str()).collect();
        assert_eq!(rejected, BAD);
        assert_eq!((tuning.measured, tuning.changed, tuning.left), (1, 0, 0));
    }
}

#[test]
fn wrong_default_is_replaced() {
    if missing() {
        return;
    }
    let gpu = open();
    let (plan, _) = plan_twice(&["wrong", "plain"], 6400, None);
    let tuning = run(&gpu, &plan, &TuneOptions::fast());
    assert_eq!((only(&tuning).implementation.as_str(), tuning.changed), ("plain", 1));
    let (plan, _) = plan_twice(&["wrong", "plain"], 6400, Some(&gpu.choices()));
    assert_eq!(plan.nodes[0].implementation.name, "plain");
    // Without any correct implementation nothing is chosen or stored, and tuning does not fail.
    let (plan, _) = plan_twice(&["wrong", "idle"], 6400, None);
    let (gpu, options) = (open(), TuneOptions::fast());
    for _ in 0..2 {
        let tuning = run(&gpu, &plan, &options);
        assert_eq!((tuning.choices.len(), tuning.left, tuning.known, tuning.rejected.len()), (0, 1, 0, 2));
    }
}

/// Choices of `name` for every node of a plan.
fn force(gpu: &Gpu, plan: &Plan, name: impl Fn(&[Implementation]) -> &'static str) -> Choices {
    let mut choices = Choices::default();
    for planned in &plan.nodes {
        let node = plan.graph.node(planned.node);
        let operands = |list: &[TensorId]| list.iter().map(|t| plan.operand(*t)).collect::<Vec<_>>();
        let (inputs, outputs) = (operands(&node.inputs), operands(&node.outputs));
        let operands = Operands { layer: &node.name, inputs: &inputs, outputs: &outputs };
        let list = node.op.kernels(&operands, gpu.profile());
        let fitting: Vec<Implementation> = list.iter().filter(|i| i.fits(gpu.profile())).cloned().collect();
        let choice = Choice {
            implementation: name(&fitting).into(),
            kernels: fingerprint(&list, gpu.profile()),
            effort: Effort::Full,
            microseconds: BTreeMap::new(),
        };
        choices.insert(Choices::key(node.op.as_ref(), &operands), choice);
    }
    choices
}

#[test]
fn plans_apply_valid_choices() {
    if missing() {
        return;
    }
    let (plan, _) = plan_twice(&["plain", "other"], 6400, None);
    assert_eq!(plan.nodes[0].implementation.name, "plain");
    let chosen = |choices: &Choices, ways, count| {
        plan_twice(ways, count, Some(choices)).0.nodes[0].implementation.name
    };
    let choices = force(gpu(), &plan, |_| "other");
    assert_eq!(chosen(&choices, &["plain", "other"], 6400), "other");
    // Another shape, another list or an unknown name gives the default.
    assert_eq!(chosen(&choices, &["plain", "other"], 12800), "plain");
    assert_eq!(chosen(&choices, &["plain", "other", "wrong"], 6400), "plain");
    assert_eq!(chosen(&force(gpu(), &plan, |_| "gone"), &["plain", "other"], 6400), "plain");
}

#[test]
fn budget_and_stop_are_respected() {
    if missing() {
        return;
    }
    let (plan, _) = plan_twice(&["plain", "other"], 6400, None);
    let gpu = open();
    let stopped = gpu.block_on(tune(&gpu, &plan, &TuneOptions::fast(), |_| ControlFlow::Break(())));
    assert!(stopped.expect("no error").choices.is_empty() && gpu.choices().is_empty());

    let none = Some(Duration::ZERO);
    let tuning = run(&gpu, &plan, &TuneOptions::fast().budget(none));
    assert_eq!((tuning.left, tuning.measured, only(&tuning).implementation.as_str()), (1, 0, "plain"));
    // Unmeasured operations count as decided for the next fast tuning, but not for a full one.
    assert_eq!(run(&gpu, &plan, &TuneOptions::fast()).known, 1);
    assert_eq!(run(&gpu, &plan, &TuneOptions::full()).measured, 1);
    assert_eq!(run(&gpu, &plan, &TuneOptions::full()).known, 1);
}

/// A network of width 1/16.
fn network() -> GoogLeNet {
    GoogLeNet::paper().width(0.0625).classes(10).input(32)
}

/// A trainer's implementations, and its parameters after one step.
fn one_step(gpu: &Gpu) -> (Vec<&'static str>, Vec<f32>) {
    let optimizer = Optimizer::default();
    let mut trainer =
        gpu.block_on(Trainer::new(gpu, &network(), &optimizer, 4, 1, |_, _| ())).expect("a trainer");
    let pixels = 3 * 32 * 32;
    let image = |i: usize| (0..pixels).map(|p| ((p * (i + 3)) % 17) as f32 / 8.0 - 1.0).collect::<Vec<f32>>();
    let batch = Batch::of(4, &(0..4).map(image).collect::<Vec<_>>());
    trainer.step(&batch, 0.01).expect("a step");
    let names = trainer.session().plan().nodes.iter().map(|n| n.implementation.name).collect();
    let state = gpu.block_on(trainer.state()).expect("the state");
    (names, state.parameters.values().flat_map(|t| t.data.clone()).collect())
}

#[test]
fn other_kernels_give_the_same_step() {
    if missing() {
        return;
    }
    let gpu = open();
    let (defaults, want) = one_step(&gpu);
    let plan = TrainingGraph::new(&network(), &Optimizer::default(), 4).and_then(|g| g.plan(&gpu));
    let others = force(&gpu, &plan.expect("a plan"), |fitting| {
        fitting.iter().rev().find(|i| !i.suits.contains(&gpu.profile().class)).unwrap_or(&fitting[0]).name
    });
    gpu.add_choices(others);
    let (names, got) = one_step(&gpu);
    let changed = names.iter().zip(&defaults).filter(|(a, b)| a != b).count();
    assert!(changed > 100, "only {changed} nodes run another implementation");
    let error = relative_error(&got, &want);
    assert!(error < 1e-6, "the parameters differ by {error:.1e}");
}

/// Every kernel of a whole network passes its check on this device, and tuning again measures
/// nothing.
#[test]
fn tuning_a_network_twice_measures_once() {
    if missing() {
        return;
    }
    let gpu = open();
    let plan = TrainingGraph::new(&network(), &Optimizer::default(), 4).and_then(|g| g.plan(&gpu));
    let plan = plan.expect("a plan");
    let mut seen = Vec::new();
    let first = gpu.block_on(tune(&gpu, &plan, &TuneOptions::fast().budget(None), |at| {
        seen.push((at.done, at.total));
        ControlFlow::Continue(())
    }));
    let first = first.expect("tuning");
    assert!(first.rejected.is_empty(), "{:?}", first.rejected);
    assert!(first.measured > 50 && first.left == 0 && first.known == 0, "{first:?}");
    assert!(seen.is_sorted() && seen.iter().all(|(done, total)| done <= total), "{seen:?}");
    let second = run(&gpu, &plan, &TuneOptions::fast());
    assert_eq!((second.known, second.measured, second.left), (first.measured, 0, 0));
    assert!(second.choices.is_empty());
}

fn choices(key: &str) -> Choices {
    let mut choices = Choices::default();
    let microseconds = BTreeMap::from([("a".to_string(), 1.5), ("b".to_string(), 2.0)]);
    let kernels = "0123456789abcdef".to_string();
    choices.insert(key, Choice { implementation: "a".into(), kernels, effort: Effort::Full, microseconds });
    choices
}

fn edit(path: &Path, field: &str, value: &str) {
    let text = std::fs::read_to_string(path).expect("a cache");
    let mut content: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(content[field].is_string(), "{content}");
    content[field] = value.into();
    std::fs::write(path, content.to_string()).expect("can be written");
}

#[test]
fn cache_round_trips_and_is_separate_per_device() {
    if missing() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let cache = TuneCache::in_folder(&folder.path().join("not/there/yet"), gpu().summary(), gpu().profile());
    assert!(cache.load().is_empty());
    cache.save(&choices("one")).expect("can be written");
    cache.save(&choices("two")).expect("can be written");
    let mut both = choices("one");
    both.extend(choices("two"));
    assert_eq!(cache.load(), both);
    // Other adapters, drivers, limits or matrices have separate files.
    let nearby = cache.path().parent().expect("a folder");
    let (summary, profile) = (gpu().summary(), gpu().profile());
    let mut others: Vec<TuneCache> = (0..3)
        .map(|field| {
            let mut other = summary.clone();
            *[&mut other.name, &mut other.driver, &mut other.backend][field] += " 2";
            TuneCache::in_folder(nearby, &other, profile)
        })
        .collect();
    let few = Profile { invocations: profile.invocations / 2, ..profile.clone() };
    let matrices = Profile { cooperative: Profile::with_matrices().cooperative, ..profile.clone() };
    others.extend([few, matrices].map(|p| TuneCache::in_folder(nearby, summary, &p)));
    for other in others {
        assert_ne!(other.path(), cache.path());
        assert!(other.load().is_empty());
    }
}

#[test]
fn damaged_or_foreign_cache_is_ignored_and_rewritten() {
    if missing() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let cache = TuneCache::in_folder(folder.path(), gpu().summary(), gpu().profile());
    let write = |bytes: &[u8]| std::fs::write(cache.path(), bytes).expect("can be written");
    let spoil: [&dyn Fn(); 7] = [
        &|| write(b""),
        &|| write(b"{\"engine\": \"0.1.0\", \"choi"),
        &|| write(b"[1, 2, 3]"),
        &|| write(&[0xff, 0xfe, 0x00]),
        &|| edit(cache.path(), "engine", "0.0.1"),
        &|| edit(cache.path(), "adapter", "another GPU"),
        &|| edit(cache.path(), "driver", "another driver"),
    ];
    for (i, spoil) in spoil.iter().enumerate() {
        cache.save(&choices("old")).expect("can be written");
        assert!(cache.load().get("old").is_some());
        spoil();
        assert!(cache.load().is_empty(), "{i}");
        cache.save(&choices("new")).expect("can be written");
        assert_eq!(cache.load(), choices("new"), "{i}");
        std::fs::remove_file(cache.path()).expect("is there");
    }
}
