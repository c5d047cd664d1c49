//! Safe code of other crates cannot crash the process: external kernels run with checks, and
//! mismatched arguments are typed errors. Tests that could crash run in a separate process.

#[path = "support/gpu.rs"]
mod gpu;
#[path = "support/skipped.rs"]
mod skipped;

use std::process::Command;
use std::sync::{Arc, OnceLock};

use incept::Error;
use incept::gpu::{Gpu, Regions, Session};
use incept::graph::{Alias, Graph, Initializer, Operation, ParameterInfo, Role, TensorId};
use incept::kernel::{Implementation, Kernel, Operand, Operands, Profile, Slot, Step};
use incept::ops::{
    Conv, Lars, LinearBiasGrad, MaxPool, MaxPoolGrad, Relu, Sgd, SoftmaxCrossEntropy,
    SoftmaxCrossEntropyGrad, offers,
};
use incept::plan::{Plan, PlanOptions, Store};
use incept::reference::{Array, Real, Reference};
use incept::tensor::{Element, Spec};
use incept::tune::Trial;

/// Environment variable naming the test of a child process.
const CHILD: &str = "INCEPT_SAFETY_CHILD";

/// Runs `body` in a child process, which must not crash. `test` is the name of the calling test.
fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var(CHILD).is_ok_and(|child| child == test) {
        return body();
    }
    let path = module_path!().split_once("::").map_or(test.into(), |(_, module)| format!("{module}::{test}"));
    let program = std::env::current_exe().expect("a test is a program");
    let output = Command::new(program).args([&path, "--exact", "--nocapture"]).env(CHILD, test).output();
    let output = output.expect("a test can run itself");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{}\n{told}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(gpu::open)
}

type Make = fn(&Operands<'_>, &Profile) -> Vec<Implementation>;

/// An external operation with one output like its first input.
#[derive(Clone, Debug)]
struct Outside {
    make: Make,
    aliases: Vec<Alias>,
}

impl<T: Real> Reference<T> for Outside {
    fn run(&self, _inputs: &[&Array<T>], _outputs: &mut [Array<T>], _step: &Step) {}
}

impl Operation for Outside {
    fn name(&self) -> &'static str {
        "outside"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        Ok(vec![inputs[0].clone()])
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        self.aliases.clone()
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        (self.make)(operands, profile)
    }
}

fn outside(make: Make) -> Outside {
    Outside { make, aliases: Vec::new() }
}

/// `x` contains an index far out of bounds, unknown at compile time.
const SOURCE: &str = "
//# workgroup_write
var<workgroup> few: array<u32, 64>;
@compute @workgroup_size(WORKGROUP_X)
fn workgroup_write(@builtin(local_invocation_index) i: u32) {
    few[i] = i;
    workgroupBarrier();
    few[i + u32(x[0])] = 1u;
    workgroupBarrier();
    y[i] = f32(few[i + u32(x[1])]);
}
//# read
@compute @workgroup_size(WORKGROUP_X)
fn read(@builtin(local_invocation_index) i: u32) { y[i] = x[i + u32(x[0])]; }
//# write
@compute @workgroup_size(WORKGROUP_X)
fn write(@builtin(local_invocation_index) i: u32) { y[i + u32(x[0])] = 3.0; }
//# private_write
@compute @workgroup_size(WORKGROUP_X)
fn private_write(@builtin(local_invocation_index) i: u32) {
    var few: array<f32, 4>;
    few[i + u32(x[0])] = 1.0;
    y[i] = few[i + u32(x[1])];
}
//# fine
@compute @workgroup_size(WORKGROUP_X)
fn fine(@builtin(local_invocation_index) i: u32) { y[i] = 2.0 * x[i]; }
//# refused
@compute @workgroup_size(WORKGROUP_X)
fn refused(@builtin(local_invocation_index) i: u32) { y[i] = what_is_this; }
";

fn kernel(operands: &Operands<'_>, entry: &'static str) -> Kernel {
    Kernel::new(operands, SOURCE, entry).bind("x", Slot::Input(0)).bind("y", Slot::Output(0))
}

fn one(kernel: Kernel) -> Vec<Implementation> {
    vec![Implementation::new("only", vec![kernel])]
}

/// A plan of one node with inputs of these shapes; returns the inputs and the first output too.
fn plan(op: impl Operation, specs: &[Spec]) -> Result<(Plan, Vec<TensorId>, TensorId), Error> {
    let mut graph = Graph::new();
    let inputs: Vec<TensorId> =
        specs.iter().enumerate().map(|(i, spec)| graph.input(format!("input {i}"), spec.clone())).collect();
    let output = graph.add("layer", op, &inputs)?;
    let plan = Plan::new(&graph, &PlanOptions::new(gpu().profile()).outputs(&[output]))?;
    let inputs = inputs.iter().map(|t| plan.tensor(*t)).collect::<Result<_, _>>()?;
    let output = plan.tensor(output)?;
    Ok((plan, inputs, output))
}

fn session(plan: Plan) -> Result<Session, Error> {
    gpu().block_on(Session::new(gpu(), Arc::new(plan), None, |_, _| ()))
}

/// Runs one node with constant inputs and returns its output.
fn run(op: impl Operation, inputs: &[(Spec, f32)]) -> Result<Vec<f32>, Error> {
    let specs: Vec<Spec> = inputs.iter().map(|(spec, _)| spec.clone()).collect();
    let (plan, ids, output) = plan(op, &specs)?;
    let mut session = session(plan)?;
    for (id, (spec, value)) in ids.iter().zip(inputs) {
        session.write(*id, &vec![*value; spec.shape.volume()])?;
    }
    session.submit(&Step::default())?;
    gpu().block_on(session.read(output))
}

/// An index beyond any array, not a power of two.
const FAR: f32 = 123_456_789.0;

fn far(make: Make) {
    let made = run(outside(make), &[(Spec::f32([64]), FAR)]).expect("a checked kernel runs");
    assert_eq!(made.len(), 64);
}

#[test]
fn write_past_workgroup_memory_is_contained() {
    if gpu::missing() {
        return;
    }
    alone("write_past_workgroup_memory_is_contained", || far(|o, _| one(kernel(o, "workgroup_write"))));
}

#[test]
fn write_past_private_memory_is_contained() {
    if gpu::missing() {
        return;
    }
    alone("write_past_private_memory_is_contained", || far(|o, _| one(kernel(o, "private_write"))));
}

#[test]
fn read_past_storage_is_contained() {
    if gpu::missing() {
        return;
    }
    alone("read_past_storage_is_contained", || far(|o, _| one(kernel(o, "read"))));
}

#[test]
fn write_past_storage_is_contained() {
    if gpu::missing() {
        return;
    }
    alone("write_past_storage_is_contained", || far(|o, _| one(kernel(o, "write"))));
}

/// Crate kernels in external operations are checked: they are only safe for the operands that they
/// were created for.
#[test]
fn crate_kernels_in_external_operations_are_checked() {
    if gpu::missing() {
        return;
    }
    alone("crate_kernels_in_external_operations_are_checked", || {
        let own: Vec<Make> = vec![
            // More invocations and elements than there is memory for.
            |o, profile| {
                let mut list = offers(&Relu, o, profile);
                list[0].kernels[0].geometry.iter_mut().for_each(|(_, value)| *value = 0x4000_0000_u32.into());
                list[0].kernels[0].groups = [60_000, 1, 1];
                list
            },
            // Created for larger tensors.
            |_, profile| {
                let large = [Operand::dense(Spec::f32([1 << 28]))];
                let operands = Operands { layer: "large", inputs: &large, outputs: &large };
                offers(&Relu, &operands, profile)
            },
            // A convolution asked directly for kernels of the wrong shape.
            |_, profile| {
                let of = |dims: [usize; 4]| Operand::dense(Spec::f32(dims));
                let (inputs, outputs) = ([of([1, 1, 900, 900]), of([1, 1, 5, 5])], [of([1, 1, 896, 896])]);
                let operands = Operands { layer: "conv", inputs: &inputs, outputs: &outputs };
                let mut list = Conv::new(1, 0).kernels(&operands, profile);
                for binding in list.iter_mut().flat_map(|i| &mut i.kernels).flat_map(|k| &mut k.bindings) {
                    if binding.slot == Slot::Input(1) {
                        binding.slot = Slot::Input(0);
                    }
                }
                list
            },
        ];
        for make in own {
            far(make);
        }
    });
}

/// Labels, indices and segments are tensors with arbitrary content.
#[test]
fn out_of_range_indices_in_tensors_are_contained() {
    if gpu::missing() {
        return;
    }
    alone("out_of_range_indices_in_tensors_are_contained", || {
        let softmax = SoftmaxCrossEntropy { smoothing: 0.0 };
        let labels = |value: f32| (Spec::u32([8]), value);
        let (logits, share, weights) = (Spec::f32([8, 10]), (Spec::f32([8]), 0.5), (Spec::f32([10]), 1.0));
        let loss =
            run(softmax, &[(logits.clone(), 1.0), labels(3.0), labels(FAR), share.clone(), weights.clone()]);
        assert!(loss.expect("runs")[0].is_finite());
        let grad = SoftmaxCrossEntropyGrad { smoothing: 0.0, logits: Element::F32 };
        let of_loss = (Spec::f32([1]), 1.0);
        run(grad, &[(logits, 0.1), labels(3.0), of_loss, labels(FAR), share, weights]).expect("runs");

        let pool = MaxPool::new(3, 2, 0);
        let grad = MaxPoolGrad { pool, size: [9, 9], accumulate: false, masked: false };
        let (dy, indices) = (Spec::f32([2, 3, 4, 4]), Spec::u32([2, 3, 4, 4]));
        let specs = [dy.clone(), indices.clone()];
        let trial = Trial::new(&grad, &specs, 0).expect("shapes fit");
        let (dy, indices) = (Array::new(dy.dims(), vec![1.0; 96]), Array::new(indices.dims(), vec![FAR; 96]));
        for implementation in trial.implementations(gpu()) {
            let made = gpu().block_on(trial.run(gpu(), &implementation, &[&dy, &indices], &Step::default()));
            assert!(made.expect("runs").intact, "{}", implementation.name);
        }

        let region = || Spec::f32([128]);
        for segments in [FAR, -FAR, f32::NAN, f32::INFINITY, 1.0] {
            let regions = [(region(), 1.0), (region(), 1.0), (region(), 0.0), (Spec::f32([4]), 1.0)];
            let inputs = [&regions[..], &[(Spec::f32([4]), segments)]].concat();
            run(Lars { trust_coefficient: 0.001 }, &inputs).expect("runs");
        }
    });
}

#[test]
fn windows_past_their_tensor_are_rejected() {
    if gpu::missing() {
        return;
    }
    alone("windows_past_their_tensor_are_rejected", || {
        for alias in [
            Alias::Window { output: 0, input: 0, channel: 1 << 30 },
            Alias::Window { output: 0, input: 0, channel: usize::MAX },
            Alias::Window { output: 1, input: 0, channel: 0 },
            Alias::InPlace { output: 0, input: 7 },
        ] {
            let mut graph = Graph::new();
            let x = graph.input("x", Spec::f32([2, 3, 4, 4]));
            let relu = graph.add("relu", Relu, &[x]).expect("fits");
            let window = Outside { make: |_, _| Vec::new(), aliases: vec![alias] };
            let window = graph.add("window", window, &[relu]).expect("fits");
            let y = graph.add("bias", LinearBiasGrad, &[window]);
            let y = y.or_else(|_| graph.add("after", Relu, &[window])).expect("fits");
            let profile = gpu().profile();
            let error = Plan::new(&graph, &PlanOptions::new(profile).outputs(&[y]))
                .expect_err("a window past its tensor");
            assert!(matches!(error, Error::Tensor { .. } | Error::Layer { .. }), "{error:?}");
        }
    });
}

/// The error of a node with this kernel.
fn error_of(make: Make) -> Error {
    match run(outside(make), &[(Spec::f32([64]), 1.0)]) {
        Err(error) => error,
        Ok(made) => panic!("it runs and gives {made:?}"),
    }
}

#[test]
fn invalid_kernels_are_typed_errors() {
    if gpu::missing() {
        return;
    }
    let cases: [(&str, Make); 14] = [
        ("what_is_this", |o, _| one(kernel(o, "refused"))),
        ("nowhere", |o, _| one(kernel(o, "nowhere"))),
        ("not finite", |o, _| one(kernel(o, "fine").constant("C", f32::NAN))),
        ("C", |o, _| one(kernel(o, "fine").constant("C", 1_u32).constant("C", 2_u32))),
        ("Workgroup size", |o, _| one(kernel(o, "fine").workgroup(0, 1, 1))),
        ("binds 12 tensors", |o, _| {
            const MORE: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
            one(MORE.iter().fold(kernel(o, "fine"), |kernel, name| kernel.bind(name, Slot::Input(0))))
        }),
        ("there is none", |o, _| one(kernel(o, "fine").bind("z", Slot::Input(1)))),
        ("there is none", |o, _| one(kernel(o, "fine").bind("z", Slot::Output(9)))),
        ("there is none", |o, _| one(kernel(o, "fine").bind("z", Slot::Scratch(0)))),
        ("binds the bytes", |o, _| one(kernel(o, "fine").bind_range("z", Slot::Input(0), "f32", 0..1 << 40))),
        ("binds the bytes", |o, _| one(kernel(o, "fine").bind_range("z", Slot::Input(0), "f32", 16..16))),
        ("cooperative", |o, _| one(kernel(o, "fine").cooperative())),
        ("alignment", |o, _| one(kernel(o, "fine").bind_range("z", Slot::Input(0), "f32", 4..8))),
        ("no_such_type", |o, _| one(kernel(o, "fine").bind_as("z", Slot::Input(0), "no_such_type"))),
    ];
    for (words, make) in cases {
        let error = error_of(make);
        // Kernels that fit no device are not chosen.
        assert!(matches!(error, Error::Kernel { .. } | Error::Layer { .. }), "{words}: {error:?}");
        assert!(
            error.to_string().contains(words) || matches!(error, Error::Layer { .. }),
            "{words}: {error}"
        );
    }
    // Only plans exclude kernels that do not fit; trials do not.
    let too_many: Make = |o, _| {
        let mut kernel = kernel(o, "fine");
        kernel.groups = [70_000, 1, 1];
        one(kernel)
    };
    assert!(matches!(error_of(too_many), Error::Layer { .. }));
    let x = Array::new(&[64], vec![1.0; 64]);
    for (words, make) in [
        ("70000 workgroups", too_many),
        ("Workgroup size", |o: &Operands<'_>, _: &Profile| {
            one(kernel(o, "fine").workgroup(1 << 20, 1 << 20, 1))
        }),
    ] {
        let op = outside(make);
        let trial = Trial::new(&op, &[Spec::f32([64])], 0).expect("fits");
        let operands = Operands { layer: "trial", inputs: trial.inputs(), outputs: trial.outputs() };
        let implementation = op.kernels(&operands, gpu().profile()).remove(0);
        let error = gpu().block_on(trial.run(gpu(), &implementation, &[&x], &Step::default())).unwrap_err();
        assert!(matches!(&error, Error::Kernel { .. }) && error.to_string().contains(words), "{error:?}");
    }
    assert!(gpu().check("the end").is_ok(), "an unexpected error was reported");
}

#[test]
fn modified_plans_are_rejected() {
    if gpu::missing() {
        return;
    }
    let specs = [Spec::f32([640])];
    let relu = || plan(Relu, &specs).expect("fits").0;
    let scratch: Make =
        |o, _| vec![one(kernel(o, "fine").bind("z", Slot::Scratch(0))).remove(0).scratch(100)];
    type Change = fn(&mut Plan);
    let cases: [(Plan, Change); 6] = [
        (relu(), |plan| plan.stores.values_mut().for_each(|bytes| *bytes = 16)),
        (relu(), |plan| plan.stores.retain(|store, _| matches!(store, Store::Region(_)))),
        (relu(), |plan| plan.graph = Graph::new()),
        (relu(), |plan| {
            let (larger, ..) = self::plan(Relu, &[Spec::f32([1 << 20])]).expect("fits");
            (plan.graph, plan.nodes) = (larger.graph, larger.nodes);
        }),
        (plan(outside(scratch), &specs).expect("fits").0, |plan| plan.nodes[0].scratch.clear()),
        (plan(outside(scratch), &specs).expect("fits").0, |plan| plan.nodes[0].scratch[0].bytes = 4),
    ];
    for (number, (mut plan, change)) in cases.into_iter().enumerate() {
        assert!(!plan.nodes.is_empty());
        change(&mut plan);
        let error = session(plan).expect_err("it does not fit together");
        assert!(matches!(error, Error::Kernel { .. } | Error::Tensor { .. }), "change {number}: {error:?}");
    }
    assert!(gpu().check("the end").is_ok(), "an unexpected error was reported");
}

#[test]
fn foreign_regions_are_rejected() {
    if gpu::missing() {
        return;
    }
    let info = ParameterInfo { lr: 1.0, weight_decay: 1.0, init: Initializer::Constant(0.0) };
    let updated = |length: usize| {
        let mut graph = Graph::new();
        let parameter = graph.parameter("w", [length], info);
        let flat = |graph: &mut Graph, name: &str, region| {
            graph.add_tensor(name, Spec::f32([length]), Role::Flat(region))
        };
        let slots = incept::graph::Region::Slots(0);
        let regions = [incept::graph::Region::Parameters, incept::graph::Region::Gradients, slots];
        let mut inputs: Vec<TensorId> =
            regions.iter().map(|region| flat(&mut graph, &format!("{region:?}"), *region)).collect();
        inputs.push(graph.input("multipliers", Spec::f32([length / 32])));
        let y = graph.add("sgd", Sgd { nesterov: false }, &inputs).expect("fits");
        let relu = graph.add("relu", Relu, &[parameter]).expect("fits");
        let profile = gpu().profile();
        Arc::new(Plan::new(&graph, &PlanOptions::new(profile).outputs(&[y, relu])).expect("fits"))
    };
    let (small, large) = (updated(64), updated(6400));
    let regions = || gpu().block_on(Regions::new(gpu(), &small)).expect("fits");
    let with = |plan: &Arc<Plan>, regions: Regions| {
        gpu().block_on(Session::new(gpu(), Arc::clone(plan), Some(Arc::new(regions)), |_, _| ()))
    };
    assert!(with(&small, regions()).is_ok());
    assert!(with(&large, regions()).is_err());
    let mut pretending = regions();
    pretending.layout = Arc::clone(&large.layout);
    let error = with(&large, pretending).expect_err("the memory is too small");
    assert!(matches!(error, Error::Kernel { .. }), "{error:?}");
    let mut pretending = regions();
    pretending.layout = Arc::clone(&large.layout);
    let region = incept::graph::Region::Parameters;
    let read = gpu().block_on(pretending.get(gpu(), region)).map(|values| values.len());
    assert!(matches!(read, Err(Error::Tensor { .. })), "{read:?}");
    assert!(pretending.set(gpu(), region, "w", &[0.0; 6400]).is_err());
    // Regions of another device too.
    let other = gpu::open();
    let foreign = || other.block_on(Regions::new(&other, &small)).expect("fits");
    let config = |error: Option<Error>| assert!(matches!(error, Some(Error::Config(_))), "{error:?}");
    config(with(&small, foreign()).err());
    config(gpu().block_on(foreign().get(gpu(), region)).err());
    config(foreign().set(gpu(), region, "w", &[0.0; 64]).err());
    let own = with(&small, regions()).expect("fits");
    let there = other.block_on(Session::new(&other, Arc::clone(&small), None, |_, _| ())).expect("fits");
    let tensor = small.graph.tensors().next().expect("there are some").0;
    let sent = other.block_on(there.send(tensor)).expect("is sent");
    config(gpu().block_on(own.receive(sent)).err());
    config(gpu().block_on(gpu().copy_rows((&there, tensor), (&own, tensor), &[(0, 0)])).err());
    config(gpu().block_on(gpu().copy_rows((&own, tensor), (&there, tensor), &[(0, 0)])).err());
    assert!(gpu().check("the end").is_ok(), "an unexpected error was reported");
}

#[test]
fn tensors_of_another_size_or_graph_are_rejected() {
    if gpu::missing() {
        return;
    }
    let (plan, inputs, output) = plan(Relu, &[Spec::f32([64])]).expect("fits");
    let mut many = Graph::new();
    let far = (0..100).map(|i| many.input(format!("{i}"), Spec::f32([64]))).last().expect("there are 100");
    let session = session(plan).expect("fits");
    let tensor = |result: Result<(), Error>| {
        let error = result.expect_err("it does not fit");
        assert!(matches!(error, Error::Tensor { .. }), "{error:?}");
    };
    for length in [0, 63, 65, 1 << 20] {
        tensor(session.write(inputs[0], &vec![0.0; length]));
        tensor(session.write_labels(inputs[0], &vec![0; length]));
    }
    tensor(session.write(far, &[0.0; 64]));
    tensor(gpu().block_on(session.read(far)).map(drop));
    tensor(gpu().block_on(gpu().copy_rows((&session, far), (&session, output), &[(0, 0)])));
    tensor(gpu().block_on(gpu().copy_rows((&session, output), (&session, inputs[0]), &[(0, 64)])));
    let error = many.add("relu", Relu, &[output]).and_then(|_| Graph::new().add("relu", Relu, &[far]));
    assert!(matches!(error, Err(Error::Layer { .. })), "{error:?}");
    let empty = many.input("empty", Spec::f32([0, 4]));
    let error = many.add("relu", Relu, &[empty]).expect_err("nothing to do");
    assert!(matches!(error, Error::Layer { .. }), "{error:?}");

    let x = Array::new(&[64], vec![1.0; 64]);
    let short = Array::new(&[8], vec![1.0; 8]);
    let dense = || vec![Operand::dense(Spec::f32([4, 16]))];
    let run = |inputs: Vec<Operand>, outputs: Vec<Operand>, arrays: &[&Array<f32>]| {
        let kernels =
            offers(&Relu, &Operands { layer: "trial", inputs: &dense(), outputs: &dense() }, gpu().profile());
        let trial = Trial::of(&Relu, inputs, outputs);
        gpu().block_on(trial.run(gpu(), &kernels[0], arrays, &Step::default())).map(drop)
    };
    run(dense(), dense(), &[&x]).expect("fits");
    tensor(run(dense(), dense(), &[]));
    tensor(run(dense(), dense(), &[&short]));
    let on_top = vec![Operand { batch_stride: 1, ..dense().remove(0) }];
    tensor(run(dense(), on_top, &[&x]));
    let far = vec![Operand { offset: usize::MAX, ..dense().remove(0) }];
    tensor(run(dense(), far, &[&x]));
    assert!(gpu().check("the end").is_ok(), "an unexpected error was reported");
}

/// Attributes that would need huge kernels or overflow.
#[test]
fn extreme_attributes_are_rejected() {
    let x = Spec::f32([1, 4, 8, 8]);
    let weight = Spec::f32([4, 4, 1, 1]);
    for conv in
        [Conv::new(usize::MAX, 0), Conv::new(1, usize::MAX), Conv::new(1 << 31, 1 << 31), Conv::new(0, 0)]
    {
        assert!(conv.infer(&[&x, &weight]).is_err(), "{conv:?}");
    }
    for pool in
        [MaxPool::new(1 << 20, 1, (1 << 20) - 1), MaxPool::new(usize::MAX, usize::MAX, usize::MAX - 1)]
    {
        assert!(pool.infer(&[&x]).is_err(), "{pool:?}");
    }
    let lrn = incept::ops::Lrn { size: usize::MAX, alpha: 1.0, beta: 0.75, k: 1.0 };
    assert!(lrn.infer(&[&x]).is_err());
    assert!(incept::ops::Slice { channel: usize::MAX, channels: 2 }.infer(&[&x]).is_err());
}

/// A kernel declared safe by `unchecked` runs without checks, for exactly those operands.
#[test]
fn unchecked_kernels_have_their_own_pipeline() {
    if gpu::missing() {
        return;
    }
    let make: Make = |o, profile| {
        let implementation = one(kernel(o, "fine").workgroup(64, 1, 1)).remove(0);
        // SAFETY: 64 invocations read and write one element each of tensors of 64 elements.
        #[expect(unsafe_code, reason = "this is what the test is about")]
        let implementation = unsafe { implementation.unchecked(o, profile) };
        vec![implementation]
    };
    let before = gpu().pipeline_count();
    let made = run(outside(make), &[(Spec::f32([64]), 3.0)]).expect("runs");
    assert_eq!(made, vec![6.0; 64]);
    let checked: Make = |o, _| one(kernel(o, "fine").workgroup(64, 1, 1));
    run(outside(checked), &[(Spec::f32([64]), 3.0)]).expect("runs");
    assert!(gpu().pipeline_count() >= before + 2, "checked and unchecked kernels share a pipeline");
}
