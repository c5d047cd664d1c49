//! Golden sets of small networks from the f64 CPU reference, for cases that the other golden sets
//! do not cover.

use std::collections::BTreeMap;
use std::path::Path;

use incept::graph::{Graph, Role, TensorId};
use incept::kernel::Step;
use incept::model::{GoogLeNet, Network};
use incept::reference::{Array, Interpreter};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const SIZE: usize = 64;
const BATCH: usize = 2;
const CLASSES: usize = 5;
const RATE: f64 = 0.01;
const DECAY: f64 = 2e-4;

pub type Tensors = BTreeMap<String, Array<f32>>;

/// A network with its initial parameters and a batch.
pub struct Golden {
    net: Network,
    graph: Graph,
    pub parameters: Tensors,
    images: Array<f32>,
    labels: Vec<u32>,
}

impl Golden {
    /// Random parameters and images by seed.
    pub fn draw(seed: u64) -> Self {
        let network = GoogLeNet::paper().width(0.0625).classes(CLASSES).input(SIZE).dropout(0.0, 0.0);
        let network = network.keep_stem(true);
        let net = network.build(BATCH).expect("a network");
        let mut graph = net.graph.clone();
        graph.differentiate(net.loss).expect("has gradients");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut uniform = |scale: f64| (scale * (2.0 * random.random::<f64>() - 1.0)) as f32;
        let mut parameters = Tensors::new();
        for (_, tensor) in graph.tensors().filter(|(_, t)| matches!(t.role, Role::Parameter(_))) {
            let dims = tensor.spec.dims().to_vec();
            let volume: usize = dims.iter().product();
            let inputs: usize = dims.iter().skip(1).product();
            let bound = if dims.len() > 1 { (6.0 / inputs as f64).sqrt() } else { 0.1 };
            let data = (0..volume).map(|_| uniform(bound)).collect();
            parameters.insert(tensor.name.clone(), Array::new(&dims, data));
        }
        let dims = [BATCH, 3, SIZE, SIZE];
        let images = Array::new(&dims, (0..dims.iter().product::<usize>()).map(|_| uniform(1.5)).collect());
        Self { net, graph, parameters, images, labels: vec![1, 3] }
    }

    /// A network with confident predictions: every image is of class 1, and all heads predict it.
    pub fn sure(seed: u64) -> Self {
        let mut golden = Self::draw(seed);
        golden.labels = vec![1; BATCH];
        for name in ["loss1/classifier.bias", "loss2/classifier.bias", "loss3/classifier.bias"] {
            golden.parameters.get_mut(name).expect("a classifier").data[1] = 30.0;
        }
        golden
    }

    /// Changes a channel's bias so that one activation before a ReLU is zero up to rounding of the
    /// bias.
    pub fn tie(&mut self, layer: &str, channel: usize) {
        let node = self.graph.nodes().find(|(_, n)| n.name == layer && n.op.name() == "conv");
        let output = node.expect("a convolution").1.outputs[0];
        let values = self.run(&self.parameters);
        let before = values.get(output).expect("a value");
        let before = before.data[before.at(0, channel, 0, 0)];
        let bias = self.parameters.get_mut(&format!("{layer}.bias")).expect("a bias");
        let rest = before - f64::from(bias.data[channel]);
        bias.data[channel] = -rest as f32;
    }

    fn run(&self, parameters: &Tensors) -> Interpreter<'_, f64> {
        let mut interpreter = Interpreter::new(&self.graph);
        for (id, tensor) in self.graph.tensors() {
            if let Some(value) = parameters.get(&tensor.name) {
                interpreter.set(id, value.cast());
            }
        }
        interpreter.set(self.net.input, self.images.cast());
        let labels = self.labels.iter().map(|l| f64::from(*l)).collect();
        interpreter.set(self.net.labels, Array::new(&[BATCH], labels));
        interpreter.run(&Step::default()).expect("can be run");
        interpreter
    }

    /// Writes the set after one step of SGD.
    pub fn write(&self, folder: &Path, set: &str) {
        let values = self.run(&self.parameters);
        let get = |id: TensorId| values.get(id).expect("a value");
        let mut gradients = Tensors::new();
        let mut after = Tensors::new();
        for (id, tensor) in self.graph.tensors() {
            let Role::Gradient(parameter) = tensor.role else { continue };
            let name = &self.graph.tensor(parameter).name;
            let (gradient, parameter) = (get(id), &self.parameters[name]);
            let decay = if parameter.dims.len() > 1 { DECAY } else { 0.0 };
            let moved = parameter.data.iter().zip(&gradient.data);
            let moved = moved.map(|(w, g)| {
                let w = f64::from(*w);
                (w - RATE * (g + decay * w)) as f32
            });
            after.insert(name.clone(), Array::new(&parameter.dims, moved.collect()));
            gradients.insert(name.clone(), gradient.cast());
        }
        let scalar = |value: f64| Array { dims: Vec::new(), data: vec![value as f32] };
        let mut io = Tensors::new();
        for head in &self.net.heads {
            io.insert(format!("logits.{}", head.name), get(head.logits).cast());
            io.insert(format!("loss.{}", head.name), scalar(get(head.loss).data[0]));
        }
        let total = get(self.net.loss).data[0];
        io.insert("loss.total".into(), scalar(total));
        io.insert("loss.total_per_step".into(), Array::new(&[1], vec![total as f32]));
        io.insert("input".into(), self.images.clone());
        let labels = self.labels.iter().map(|l| *l as f32).collect();
        io.insert("labels".into(), Array::new(&[BATCH], labels));
        // Without batch norm and dropout, evaluation is the same graph.
        let main = self.net.heads[0].logits;
        let evaluated = self.run(&after).get(main).expect("logits").cast();
        io.insert("logits.main_eval_after_step1".into(), evaluated);
        for (part, tensors) in
            [("init", &self.parameters), ("io", &io), ("grads", &gradients), ("step1", &after)]
        {
            save(&folder.join(format!("{set}_{part}.safetensors")), tensors);
        }
    }
}

/// Writes tensors as a safetensors file.
pub fn save(path: &Path, tensors: &Tensors) {
    let bytes: BTreeMap<&String, Vec<u8>> = tensors
        .iter()
        .map(|(name, t)| (name, t.data.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = tensors.iter().map(|(name, t)| {
        (name, TensorView::new(Dtype::F32, t.dims.clone(), &bytes[name]).expect("a tensor"))
    });
    std::fs::write(path, safetensors::serialize(views, None).expect("can be written"))
        .expect("can be written");
}

/// Changes a tensor of a file.
pub fn change(path: &Path, name: &str, change: impl FnOnce(&mut Array<f32>)) {
    let (tensors, _) = incept::formats::read_tensors(path).expect("a golden file");
    let mut tensors: Tensors =
        tensors.into_iter().map(|(name, t)| (name, Array { dims: t.dims, data: t.data })).collect();
    change(tensors.get_mut(name).expect("the tensor"));
    save(path, &tensors);
}
