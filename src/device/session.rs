//! A plan that is ready to run on either device.

use std::ops::Range;
use std::sync::Arc;

use super::{Device, Regions};
use crate::error::Result;
use crate::gpu::{Clock, DispatchTime, Metrics};
use crate::graph::TensorId;
use crate::kernel::Step;
use crate::plan::Plan;
use crate::{cpu, gpu};

/// A plan that is ready to run. On the CPU a run is complete when the call that submits it returns;
/// on a GPU it is only started.
#[derive(Debug)]
pub struct Session {
    on: On,
    regions: Regions,
}

#[derive(Debug)]
enum On {
    Gpu(gpu::Session),
    Cpu(cpu::Session),
}

/// A started read-back of a tensor.
#[derive(Debug)]
pub struct Reading(From);

#[derive(Debug)]
enum From {
    Gpu(gpu::Reading),
    Cpu(cpu::Reading),
}

impl Session {
    /// Allocates the plan's memory and, on a GPU, compiles its kernels. With `regions`, it shares
    /// the memory of another session with the same layout. `progress` is called with (prepared
    /// nodes, total nodes).
    ///
    /// # Errors
    /// As [`gpu::Session::new`] and [`cpu::Session::new`].
    pub async fn new(
        device: &Device,
        plan: Arc<Plan>,
        regions: Option<Regions>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        let on = match (device, regions) {
            (Device::Gpu(gpu), None) => On::Gpu(gpu::Session::new(gpu, plan, None, progress).await?),
            (Device::Gpu(gpu), Some(Regions::Gpu(regions))) => {
                On::Gpu(gpu::Session::new(gpu, plan, Some(regions), progress).await?)
            }
            (Device::Cpu(_), Some(Regions::Gpu(_))) | (Device::Gpu(_), Some(Regions::Cpu(_))) => {
                return Err(device.foreign());
            }
            (Device::Cpu(cpu), regions) => {
                let regions = regions.and_then(Regions::on_cpu);
                let nodes = plan.nodes.len();
                let session = cpu::Session::new(cpu, plan, regions)?;
                progress(nodes, nodes);
                On::Cpu(session)
            }
        };
        let regions = match &on {
            On::Gpu(session) => Regions::Gpu(Arc::clone(session.regions())),
            On::Cpu(session) => Regions::Cpu(Arc::clone(session.regions())),
        };
        Ok(Self { on, regions })
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        match &self.on {
            On::Gpu(session) => session.plan(),
            On::Cpu(session) => session.plan(),
        }
    }

    /// The persistent memory.
    pub fn regions(&self) -> &Regions {
        &self.regions
    }

    /// Dispatches per run; on the CPU nodes.
    pub fn dispatch_count(&self) -> usize {
        match &self.on {
            On::Gpu(session) => session.dispatch_count(),
            On::Cpu(session) => session.node_count(),
        }
    }

    /// As [`gpu::Session::limit_submissions`]; no effect on the CPU.
    pub fn limit_submissions(&mut self, multiply_adds: u64) {
        if let On::Gpu(session) = &mut self.on {
            session.limit_submissions(multiply_adds);
        }
    }

    /// Writes an input of [`Plan::graph`] for the next run, rounded to f16 if stored as such.
    ///
    /// # Errors
    /// [`Error::Tensor`](crate::Error::Tensor) if the size differs.
    pub fn write(&self, tensor: TensorId, values: &[f32]) -> Result<()> {
        match &self.on {
            On::Gpu(session) => session.write(tensor, values),
            On::Cpu(session) => session.write(tensor, values),
        }
    }

    /// Writes an input of u32 for the next run, as [`Session::write`].
    ///
    /// # Errors
    /// [`Error::Tensor`](crate::Error::Tensor) if the size differs.
    pub fn write_labels(&self, tensor: TensorId, values: &[u32]) -> Result<()> {
        match &self.on {
            On::Gpu(session) => session.write_labels(tensor, values),
            On::Cpu(session) => session.write_labels(tensor, values),
        }
    }

    /// Submits a run of the whole plan and starts reading back its scalars. Returns the
    /// [`Metrics::run`] of the run.
    ///
    /// # Errors
    /// As [`gpu::Session::submit`] and [`cpu::Session::submit`].
    pub fn submit(&mut self, step: &Step) -> Result<u64> {
        match &mut self.on {
            On::Gpu(session) => session.submit(step),
            On::Cpu(session) => session.submit(step),
        }
    }

    /// Submits a range of nodes of [`Plan::graph`]; consecutive ranges are equivalent to a whole
    /// run. With `send`, they count as a run and its scalars are read back.
    ///
    /// # Errors
    /// As [`Session::submit`].
    pub fn submit_nodes(&mut self, step: &Step, nodes: Range<usize>, send: bool) -> Result<()> {
        match &mut self.on {
            On::Gpu(session) => session.submit_nodes(step, nodes, send),
            On::Cpu(session) => session.submit_nodes(step, nodes, send),
        }
    }

    /// The scalars of finished runs, oldest first, without waiting.
    ///
    /// # Errors
    /// As [`gpu::Session::arrived`].
    pub fn arrived(&mut self) -> Result<Vec<Metrics>> {
        match &mut self.on {
            On::Gpu(session) => session.arrived(),
            On::Cpu(session) => Ok(session.arrived()),
        }
    }

    /// Waits until at most `limit` runs are pending, and returns the scalars of finished runs,
    /// oldest first.
    ///
    /// # Errors
    /// As [`gpu::Session::settle`].
    pub async fn settle(&mut self, limit: usize) -> Result<Vec<Metrics>> {
        match &mut self.on {
            On::Gpu(session) => session.settle(limit).await,
            On::Cpu(session) => Ok(session.arrived()),
        }
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// As [`gpu::Session::wait`].
    pub async fn wait(&self) -> Result<()> {
        match &self.on {
            On::Gpu(session) => session.wait().await,
            On::Cpu(_) => Ok(()),
        }
    }

    /// Runs the whole plan once and returns the timing of each dispatch, on the CPU of each node,
    /// in order. It has the effects of a run, but no scalars are read back.
    ///
    /// # Errors
    /// As [`Session::submit`].
    pub async fn profile(&self, step: &Step, clock: Clock) -> Result<Vec<DispatchTime>> {
        match &self.on {
            On::Gpu(session) => session.profile(step, clock).await,
            On::Cpu(session) => session.profile(step),
        }
    }

    /// Starts measuring the device's busy time in runs with scalars. Returns whether the device
    /// supports it.
    ///
    /// # Errors
    /// As [`gpu::Session::watch`].
    pub async fn watch(&mut self) -> Result<bool> {
        match &mut self.on {
            On::Gpu(session) => session.watch().await,
            On::Cpu(session) => {
                session.watch();
                Ok(true)
            }
        }
    }

    /// Busy seconds of the device in finished runs since [`Session::watch`]; `None` if not watched.
    pub fn busy_seconds(&self) -> Option<f64> {
        match &self.on {
            On::Gpu(session) => session.busy_seconds(),
            On::Cpu(session) => session.busy_seconds(),
        }
    }

    /// Reads an output tensor of [`Plan::graph`], dense and as f32, after all runs submitted
    /// before.
    ///
    /// # Errors
    /// As [`gpu::Session::read`] and [`cpu::Session::read`].
    pub async fn read(&self, tensor: TensorId) -> Result<Vec<f32>> {
        match &self.on {
            On::Gpu(session) => session.read(tensor).await,
            On::Cpu(session) => session.read(tensor),
        }
    }

    /// Starts reading an output tensor of [`Plan::graph`], for [`Session::receive`].
    ///
    /// # Errors
    /// As [`Session::read`].
    pub async fn send(&self, tensor: TensorId) -> Result<Reading> {
        match &self.on {
            On::Gpu(session) => Ok(Reading(From::Gpu(session.send(tensor).await?))),
            On::Cpu(session) => Ok(Reading(From::Cpu(session.send(tensor)?))),
        }
    }

    /// Waits for a started read, but not for later runs; dense and as f32.
    ///
    /// # Errors
    /// As [`gpu::Session::receive`]; [`Error::Config`](crate::Error::Config) if it was started on
    /// another device.
    pub async fn receive(&self, reading: Reading) -> Result<Vec<f32>> {
        match (&self.on, reading.0) {
            (On::Gpu(session), From::Gpu(reading)) => session.receive(reading).await,
            (On::Cpu(_), From::Cpu(reading)) => Ok(cpu::Session::receive(reading)),
            (On::Gpu(session), From::Cpu(_)) => Err(Device::from(session.gpu()).foreign()),
            (On::Cpu(session), From::Gpu(_)) => Err(Device::from(session.cpu()).foreign()),
        }
    }

    /// Copies rows of a tensor of this session to rows of an input of another.
    pub(super) async fn copy_rows(
        &self,
        output: TensorId,
        (target, input): (&Self, TensorId),
        rows: &[(usize, usize)],
    ) -> Result<()> {
        match (&self.on, &target.on) {
            (On::Gpu(source), On::Gpu(target)) => {
                source.gpu().copy_rows((source, output), (target, input), rows).await
            }
            (On::Cpu(source), On::Cpu(target)) => target.receive_rows(input, (source, output), rows),
            (On::Gpu(source), On::Cpu(_)) => Err(Device::from(source.gpu()).foreign()),
            (On::Cpu(source), On::Gpu(_)) => Err(Device::from(source.cpu()).foreign()),
        }
    }
}
