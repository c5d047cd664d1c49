//! How many dispatches and pipelines a GPU gets: what bounds small networks on it.

use std::collections::BTreeMap;

use incept::graph::Graph;
use incept::infer::InferenceGraph;
use incept::kernel::{AdapterClass, Profile};
use incept::model::GoogLeNet;
use incept::optim::Optimizer;
use incept::plan::{Plan, PlanOptions};
use incept::tensor::Element;
use incept::train::TrainingGraph;

fn plan(graph: &Graph, profile: &Profile, outputs: &[incept::graph::TensorId]) -> Plan {
    let options = PlanOptions { profile, outputs, metrics: &[], layout: None, choices: None };
    Plan::new(graph, &options).expect("the graph can be planned")
}

fn networks() -> [(&'static str, GoogLeNet); 3] {
    [
        ("paper, width 1/4, 64", GoogLeNet::paper().width(0.25).input(64)),
        ("torchvision, width 1/4, 64", GoogLeNet::torchvision().width(0.25).input(64)),
        ("paper, width 1, 224", GoogLeNet::paper()),
    ]
}

#[test]
fn print_counts() {
    for class in [AdapterClass::Discrete, AdapterClass::Integrated, AdapterClass::Software] {
        let profile = Profile::webgpu(class);
        for (name, network) in networks() {
            let training = TrainingGraph::new(&network, &Optimizer::default(), 32).expect("can be built");
            let start = std::time::Instant::now();
            let one = plan(&training.graph, &profile, &[]);
            let seconds = start.elapsed();
            let apart = Profile { grouped: false, ..profile.clone() };
            let before = plan(&training.graph, &apart, &[]);
            let pipelines = one.pipelines(&profile).expect("texts");
            let bytes: usize = pipelines.keys().map(|(text, _)| text.len()).sum();
            let few = one.workgroups().iter().filter(|n| **n < 132).count();
            println!(
                "{class:?} {name}: {} dispatches (before {}), {} barriers, {} pipelines, {} KB, {few} small grids, memory {:.3}, planned in {seconds:?}",
                one.dispatches.len(), before.dispatches.len(), one.barriers(), pipelines.len(), bytes / 1000,
                one.memory.total_bytes() as f64 / before.memory.total_bytes() as f64,
            );
            if std::env::var("INCEPT_LIST").is_ok() && class == AdapterClass::Discrete {
                let mut by: BTreeMap<String, (usize, usize)> = BTreeMap::new();
                for d in &one.dispatches {
                    let k = d.members[0];
                    let kernel = &one.nodes[k.node].implementation.kernels[k.kernel];
                    println!("  {:<32} x{} {:?}", kernel.entry, d.members.len(), d.members.iter().map(|m| format!("{} {} {:?}", one.nodes[m.node].implementation.kernels[m.kernel].label, one.nodes[m.node].implementation.name, one.nodes[m.node].implementation.kernels[m.kernel].constants.iter().filter(|c| ["VECTOR","TAP_OUTER","PAD","SPLIT","STORE_VECTOR","ACCUMULATE","MASK"].contains(&c.0)).map(|c| format!("{}{:?}",&c.0[..2],c.1)).collect::<String>().replace("Bool",""))).collect::<Vec<_>>());
                    let entry = by.entry(kernel.entry.to_string()).or_default();
                    entry.0 += 1;
                    entry.1 += d.members.len();
                }
                println!("  {by:#?}");
                for ((text, _), n) in &pipelines { println!("  {n} {}", text.lines().filter(|l| l.starts_with("const") || l.starts_with("fn ") || l.contains("var<storage")).map(|l| l.trim_start_matches("@group(0) ")).collect::<Vec<_>>().join(" ")); }
            }
        }
        let inference = InferenceGraph::new(&GoogLeNet::paper(), 1, Element::F32).expect("can be built");
        let one = plan(&inference.graph, &profile, &[inference.probabilities]);
        if std::env::var("INCEPT_LIST").is_ok() && class == AdapterClass::Discrete {
            for d in &one.dispatches {
                let k = d.members[0];
                let kernel = &one.nodes[k.node].implementation.kernels[k.kernel];
                println!("  I {:<32} x{} {:?}", kernel.entry, d.members.len(), d.members.iter().map(|m| one.nodes[m.node].implementation.name).collect::<Vec<_>>());
            }
        }
        println!("{class:?} inference: {} + {} dispatches, {} pipelines", one.preparation.len(), one.dispatches.len(), one.pipelines(&profile).expect("texts").len());
    }
}
