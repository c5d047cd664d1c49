//! Passes over graphs: what they keep, what they save, and that results stay the same.

use std::collections::BTreeMap;

use incept::Error;
use incept::graph::{Graph, Role, TensorId};
use incept::model::{GoogLeNet, Output, Variant};
use incept::ops::MaxPool;
use incept::optim::Optimizer;
use incept::plan::value_bytes;
use incept::reference::{Array, relative_error};
use incept::tensor::{Element, Spec};
use incept::train::TrainingGraph;

use super::graph::{interpret, moved, trained, values};
use crate::support::gpu::missing;
use crate::support::gpu::open as gpu;
use crate::support::networks::small;

/// Recomputed activations give the same losses and gradients in less memory, and running statistics
/// are updated once.
#[test]
fn recomputation_preserves_gradients() {
    for variant in [Variant::Paper, Variant::Torchvision] {
        let net = small(variant).dropout(0.4, 0.7).build(2).expect("the network can be built");
        let mut graph = net.graph.clone();
        graph.keep_outputs(&[Output::Loss]).expect("is an output");
        let forward = graph.len();
        graph.differentiate(net.loss).expect("every operation has a gradient");
        let at = values(&net, 3);
        let before = interpret(&graph, &at);
        let bytes = value_bytes(&graph, &[net.loss]).expect("can be planned");
        for segments in [1, 2, 5] {
            let pass = graph.recompute(forward, segments).expect("can be recomputed");
            let after = interpret(&pass, &moved(&graph, &at, &pass));
            for (id, tensor) in graph.tensors() {
                let new = pass.find(&tensor.name).expect("no tensor is lost");
                if matches!(tensor.role, Role::Gradient(_)) || id == net.loss {
                    assert_eq!(before.get(id), after.get(new), "{}", tensor.name);
                }
            }
            let loss = pass.output(Output::Loss).expect("outputs stay");
            let recomputed = pass.nodes().filter(|(_, n)| n.name.ends_with("/recomputed")).count();
            assert_eq!(
                recomputed == 0,
                segments == 1,
                "{recomputed} recomputed nodes in {segments} segments"
            );
            let norms = |graph: &Graph| graph.nodes().filter(|(_, n)| n.op.name() == "batch_norm").count();
            assert_eq!(norms(&graph), norms(&pass));
            let less = value_bytes(&pass, &[loss]).expect("can be planned");
            assert!(segments == 1 || less < bytes, "{variant}: {less} bytes and {bytes} without");
        }
    }
}

/// On a device, checkpointing gives the same parameters in much less memory.
#[test]
fn checkpointing_saves_memory_with_equal_results() {
    if missing() {
        return;
    }
    let gpu = gpu();
    let network = small(Variant::Paper);
    let whole = Optimizer::default();
    let less = whole.checkpointing(true);
    let (expected, found) = (trained(&gpu, &network, &whole, 3), trained(&gpu, &network, &less, 3));
    for (name, tensor) in &expected.parameters {
        let error = relative_error(&found.parameters[name].data, &tensor.data);
        assert!(error < 1e-5, "{name}: {error}");
    }
    let bytes = |network: &GoogLeNet, optimizer: &Optimizer| {
        let graph = TrainingGraph::new(network, optimizer, 8).expect("can be built");
        value_bytes(&graph.graph, &graph.metrics).expect("can be planned")
    };
    let network = GoogLeNet::paper();
    assert!(2 * bytes(&network, &less) < bytes(&network, &whole));
}

/// Fused masks preserve gradients; only those before linear layers, which cannot fuse them, remain.
#[test]
fn fused_masks_preserve_gradients() {
    let net = small(Variant::Paper).build(2).expect("the network can be built");
    let mut graph = net.graph.clone();
    graph.keep_outputs(&[Output::Loss]).expect("is an output");
    let mut fused = graph.fuse().expect("can be fused");
    let loss = fused.output(Output::Loss).expect("was kept");
    fused.differentiate(loss).expect("every operation has a gradient");
    let masked = fused.fuse_masks().expect("can be fused");
    let masks =
        |graph: &Graph| graph.nodes().filter(|(_, n)| n.op.is_mask()).map(|(_, n)| n.name.clone()).collect();
    let (before, after): (Vec<String>, Vec<String>) = (masks(&fused), masks(&masked));
    assert_eq!(before.len(), 61, "57 convolutions and 2 of the heads, with 2 hidden layers");
    let heads = ["loss2/fc", "loss2/conv", "loss1/fc", "loss1/conv"];
    assert_eq!(after, heads.map(|layer| format!("{layer}/relu_grad")));
    let at = values(&net, 3);
    let gradients = |graph: &Graph, at: &BTreeMap<TensorId, Array<f64>>| {
        let interpreter = interpret(graph, at);
        let gradients = graph.tensors().filter_map(|(id, t)| match t.role {
            Role::Gradient(of) => Some((graph.tensor(of).name.clone(), interpreter.get(id)?.data.clone())),
            _ => None,
        });
        gradients.collect::<BTreeMap<_, _>>()
    };
    let expected = gradients(&fused, &moved(&graph, &at, &fused));
    assert!(expected.len() > 100);
    assert_eq!(gradients(&masked, &moved(&graph, &at, &masked)), expected);
}

/// Passes renumber tensors: each output is found by its name in what every one of them makes, with
/// the value that it had.
#[test]
fn named_outputs_survive_every_pass() {
    for variant in [Variant::Paper, Variant::Torchvision] {
        let net = small(variant).dropout(0.0, 0.0).build(2).expect("the network can be built");
        let at = values(&net, 3);
        let outputs = |graph: &Graph| {
            let interpreter = interpret(graph, &moved(&net.graph, &at, graph));
            let value = |id| interpreter.get(id).expect("was computed").data.clone();
            graph.outputs().map(|(name, id)| (name.to_string(), value(id))).collect::<BTreeMap<_, _>>()
        };
        let expected = outputs(&net.graph);
        assert_eq!(expected.len(), 16, "the loss, and five of each head");
        let fused = net.graph.fuse().expect("can be fused");
        assert!(fused.len() < net.graph.len());
        assert_eq!(outputs(&fused), expected);
        let mut graph = fused.clone();
        graph.differentiate(fused.output(Output::Loss).expect("stays")).expect("has gradients");
        let masked = graph.fuse_masks().expect("can be fused");
        // Batch norm's gradient masks by itself.
        assert!(masked.len() <= graph.len());
        assert_eq!(outputs(&masked), expected);
        let recomputed = masked.recompute(fused.len(), 5).expect("can be recomputed");
        assert!(recomputed.len() > masked.len());
        assert_eq!(outputs(&recomputed), expected);

        // A pruned graph has only the requested outputs.
        let logits = Output::Logits("main");
        let pruned = net.graph.prune(&[logits]).expect("can be pruned");
        let evaluation = net.graph.evaluation().expect("can be evaluated");
        let names = |graph: &Graph| graph.outputs().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&pruned), ["main/logits"]);
        let [before, after] = [&net.graph, &pruned].map(|g| g.output(logits).expect("stays"));
        assert_eq!(net.graph.tensor(before).name, pruned.tensor(after).name);
        let stored = net.graph.stored_as(Element::F16).expect("can be stored so");
        for graph in [&evaluation, &evaluation.fold().expect("can be folded"), &stored] {
            assert!(names(graph).iter().eq(expected.keys()));
        }
        assert_eq!(stored.tensor(stored.output(logits).expect("stays")).spec.element, Element::F16);
        let tap = net.graph.output(Output::Tap("aux1")).expect("is an output");
        let cut = net.graph.cut(&[tap], &[Output::Tap("aux2")]).expect("can be cut");
        let input = cut.find(&net.graph.tensor(tap).name).expect("is an input now");
        assert_eq!((cut.tensor(input).role.clone(), names(&cut)), (Role::Input, vec!["aux2/tap".into()]));
    }
}

/// An output that a pass has no place for is an error that names it, as is one that there is not.
#[test]
fn lost_outputs_are_errors() {
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::f32([1, 2, 8, 8]));
    let pooled = graph.add_node("pool", std::sync::Arc::new(MaxPool::new(2, 2, 0)), &[x]).expect("fits");
    graph.set_output("pooled", pooled[0]);
    let of = |error: Error| match error {
        Error::Tensor { tensor, .. } => tensor,
        other => panic!("{other}"),
    };
    assert_eq!(of(graph.output("indices").expect_err("there is none")), "indices");
    assert_eq!(of(graph.prune(&["indices"]).expect_err("there is none")), "indices");
    assert!(graph.evaluation().is_ok());
    graph.set_output("indices", pooled[1]);
    assert_eq!(graph.output("indices").expect("was set"), pooled[1]);
    assert_eq!(of(graph.evaluation().expect_err("only gradients need them")), "indices");
}
