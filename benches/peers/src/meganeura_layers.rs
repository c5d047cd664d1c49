//! meganeura's side of single convolutions, in strict f32.

use std::sync::Arc;

use meganeura::graph::{Graph, NodeId};
use meganeura::runtime::{CoopPolicy, GpuOptions, Session, SessionOptions, init_gpu_context_with};
use meganeura::train::{Mode, SessionConfig, build};

use crate::Result;
use crate::shared::{Direction, Layer};
use crate::timing::Contender;

/// One direction of one convolution.
pub struct Single {
    session: Session,
    length: usize,
}

impl Single {
    /// The operation `repeats` times in one submission, on the adapter that the driver knows by
    /// `id`.
    pub fn new(id: u32, layer: &Layer, direction: Direction, batch: usize, repeats: u32) -> Result<Self> {
        let shapes = layer.shapes(batch);
        let [x, weight, dy] = shapes.map(|s| s.iter().product::<usize>());
        let length = match direction {
            Direction::Forward => dy,
            Direction::InputGradient => x,
            Direction::WeightGradient => weight,
        };
        let mut graph = Graph::new();
        let mut outputs = Vec::new();
        let [first, second] = layer.values(direction, batch);
        for i in 0..repeats.max(1) {
            // Inputs of its own keep the optimizer from seeing that all do the same.
            let first = graph.input(&format!("first{i}"), &[first.len()]);
            let second = match direction {
                Direction::WeightGradient => graph.input(&format!("second{i}"), &[second.len()]),
                _ => graph.parameter(&format!("second{i}"), &[second.len()]),
            };
            outputs.push(node(&mut graph, layer, direction, batch, [first, second]));
        }
        graph.set_outputs(outputs);
        let runtime = SessionOptions { coop: CoopPolicy::Disabled, ..SessionOptions::default() };
        let options = GpuOptions { device_id: Some(id), ..GpuOptions::default() };
        let context = init_gpu_context_with(options)
            .map_err(|e| format!("meganeura cannot open the adapter: {e:?}"))?;
        let gpu = Some(Arc::new(context));
        let config = SessionConfig { mode: Mode::Inference, gpu, runtime, ..SessionConfig::default() };
        let (mut session, _) = build(&graph, config);
        for i in 0..repeats.max(1) {
            session.set_input(&format!("first{i}"), &first);
            match direction {
                Direction::WeightGradient => session.set_input(&format!("second{i}"), &second),
                _ => session.set_parameter(&format!("second{i}"), &second),
            }
        }
        Ok(Self { session, length })
    }

    /// The last result, dense.
    pub fn result(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.length];
        self.session.read_output_by_index(0, &mut values);
        Ok(values)
    }
}

fn node(
    graph: &mut Graph,
    layer: &Layer,
    direction: Direction,
    batch: usize,
    [first, second]: [NodeId; 2],
) -> NodeId {
    let Layer { channels, outputs, size, kernel, stride, padding, .. } = *layer;
    let [n, c, s, o, k, t, p] = [batch, channels, size, outputs, kernel, stride, padding].map(|v| v as u32);
    match direction {
        Direction::Forward => graph.conv2d(first, second, n, c, s, s, o, k, k, t, p),
        Direction::InputGradient => graph.conv2d_grad_input(first, second, n, c, s, s, o, k, k, t, p, p),
        Direction::WeightGradient => graph.conv2d_grad_weight(second, first, c, s, s, o, k, k, t, p, p),
    }
}

impl Contender for Single {
    fn name(&self) -> &'static str {
        "meganeura"
    }

    fn run(&mut self, times: u32) -> Result<()> {
        for _ in 0..times {
            self.session.step();
        }
        self.session.wait();
        Ok(())
    }
}
