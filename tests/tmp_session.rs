use incept::gpu::*;
use incept::graph::*;
use incept::kernel::*;
use incept::ops::*;
use incept::plan::*;
use incept::reference::*;
use std::sync::Arc;
#[test]
fn fan_out() {
    let gpu = Gpu::open_blocking(&AdapterOptions::default()).unwrap();
    let mut g = Graph::new();
    let x = g.input("x", Spec::f32([2, 3, 4, 5]));
    let a = g.add("a", Relu, &[x]).unwrap();
    let b = g.add("b", Add, &[a, x]).unwrap();
    let c = g.add("c", Add, &[b, b]).unwrap();
    let d = g.add("d", Add, &[b, c]).unwrap();
    let profile = gpu.profile().clone();
    let plan =
        Plan::new(&g, &PlanOptions { profile: &profile, outputs: &[c, d], metrics: &[], layout: None })
            .unwrap();
    println!(
        "{:?} nodes {:?}",
        plan.memory,
        plan.graph.nodes().map(|(_, n)| n.name.clone()).collect::<Vec<_>>()
    );
    let data: Vec<f32> = (0..120).map(|i| i as f32 - 50.0).collect();
    let (px, pc, pd) = (plan.tensor(x).unwrap(), plan.tensor(c).unwrap(), plan.tensor(d).unwrap());
    let mut s = gpu.block_on(Session::new(&gpu, Arc::new(plan), None, |_, _| ())).unwrap();
    s.write(px, &data).unwrap();
    s.submit(&Step::default()).unwrap();
    let (rc, rd) = (gpu.block_on(s.read(pc)).unwrap(), gpu.block_on(s.read(pd)).unwrap());
    let mut i = Interpreter::<f32>::new(&g);
    i.set(x, Array::new(&[2, 3, 4, 5], data));
    i.run(&Step::default()).unwrap();
    assert_eq!(rc, i.get(c).unwrap().data);
    assert_eq!(rd, i.get(d).unwrap().data);
}
