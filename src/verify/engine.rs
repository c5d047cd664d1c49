//! Runs one operation on the device or on a CPU reference.

use super::Engine;
use crate::cpu::{Cpu, trial};
use crate::device::Device;
use crate::error::{Error, Result};
#[cfg(not(target_arch = "wasm32"))]
use crate::gpu::Form;
use crate::gpu::Gpu;
use crate::graph::Operation;
use crate::kernel::Step;
use crate::reference::{Array, run_operation};
use crate::tensor::Spec;
use crate::tune::Trial;

/// Elements between the batch items of activations: dense, aligned for vector loads, and not.
const PADDINGS: [usize; 3] = [0, 4, 3];

/// An operation with its inputs.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub op: &'a dyn Operation,
    pub specs: Vec<Spec>,
    pub inputs: Vec<&'a Array<f32>>,
    /// Indices of 4-D inputs that are parameters, which are never windows of larger tensors.
    pub parameters: &'static [usize],
    /// Indices of 4-D outputs that are gradients of parameters.
    pub gradients: &'static [usize],
    pub step: Step,
}

impl Call<'_> {
    /// The outputs of each implementation of the engine, with its name. On a device, activations
    /// are tried dense, and as windows of larger tensors, aligned for vector loads and not.
    pub async fn run(&self, device: &Device, engine: Engine) -> Result<Vec<(String, Vec<Array<f32>>)>> {
        match engine {
            Engine::Reference32 => Ok(vec![(String::new(), self.on_reference::<f32>()?)]),
            Engine::Reference64 => Ok(vec![(String::new(), self.on_reference::<f64>()?)]),
            Engine::Device => match device {
                Device::Gpu(gpu) => self.on_gpu(gpu).await,
                Device::Cpu(cpu) => self.on_cpu(cpu),
            },
        }
    }

    async fn on_gpu(&self, gpu: &Gpu) -> Result<Vec<(String, Vec<Array<f32>>)>> {
        let mut results = Vec::new();
        for pad in PADDINGS {
            let mut trial = Trial::new(self.op, &self.specs, pad)?;
            for index in self.parameters {
                trial = trial.dense_input(*index);
            }
            for index in self.gradients {
                trial = trial.dense_output(*index);
            }
            let implementations = trial.implementations(gpu);
            // On real GPUs, most of the time is compilation in the driver.
            #[cfg(not(target_arch = "wasm32"))]
            gpu.compile_together(implementations.iter().flat_map(|implementation| {
                let checks = trial.checks(gpu, implementation);
                implementation.kernels.iter().map(move |kernel| Form::alone(kernel, checks, gpu.profile()))
            }))?;
            for implementation in implementations {
                let made = trial.run(gpu, &implementation, &self.inputs, &self.step).await?;
                let mut arrays = made.arrays;
                if !made.intact {
                    // Writes outside the outputs invalidate the result.
                    arrays.iter_mut().for_each(|a| a.data.fill(f32::NAN));
                }
                results.push((format!(" ({}, padding {pad})", implementation.name), arrays));
            }
        }
        Ok(results)
    }

    /// The fast kernel, or else the CPU reference.
    fn on_cpu(&self, cpu: &Cpu) -> Result<Vec<(String, Vec<Array<f32>>)>> {
        let mut results = Vec::new();
        for pad in PADDINGS {
            let memory = (pad, [self.parameters, self.gradients]);
            let found = trial(cpu, self.op, &self.specs, &self.inputs, memory, &self.step);
            match found.map_err(|reason| self.refused(reason))? {
                Some(arrays) => results.push((format!(" (cpu, padding {pad})"), arrays)),
                None => return Ok(vec![(" (reference)".into(), self.on_reference::<f32>()?)]),
            }
        }
        Ok(results)
    }

    /// Norms of a linear operation's outputs without cancellation: computed from the magnitudes of
    /// the inputs.
    pub fn sizes(&self) -> Result<Vec<f64>> {
        let magnitudes: Vec<Array<f64>> = self
            .inputs
            .iter()
            .map(|a| Array {
                dims: a.dims.clone(),
                data: a.data.iter().map(|v| f64::from(v.abs())).collect(),
            })
            .collect();
        let norm = |a: Array<f64>| a.data.iter().map(|v| v * v).sum::<f64>().sqrt();
        Ok(self.reference(&magnitudes)?.into_iter().map(norm).collect())
    }

    fn on_reference<T: crate::reference::Real>(&self) -> Result<Vec<Array<f32>>> {
        let inputs: Vec<Array<T>> = self.inputs.iter().map(|a| a.cast()).collect();
        Ok(self.reference(&inputs)?.iter().map(Array::cast).collect())
    }

    fn reference<T: crate::reference::Real>(&self, inputs: &[Array<T>]) -> Result<Vec<Array<T>>> {
        let inputs: Vec<&Array<T>> = inputs.iter().collect();
        let specs: Vec<&Spec> = self.specs.iter().collect();
        run_operation(self.op, &specs, &inputs, &self.step).map_err(|reason| self.refused(reason))
    }

    fn refused(&self, reason: String) -> Error {
        Error::Layer { layer: "golden".into(), operation: self.op.name(), reason }
    }
}
