//! Persistent memory on either device.

use std::sync::Arc;

use super::Device;
use crate::error::Result;
use crate::graph::Region;
use crate::plan::{Entry, Layout};
use crate::{cpu, gpu};

/// Parameters, gradients, optimizer vectors and running statistics of a network. Clones share the
/// memory.
#[derive(Clone, Debug)]
pub enum Regions {
    /// On a GPU.
    Gpu(Arc<gpu::Regions>),
    /// On the CPU.
    Cpu(Arc<cpu::Regions>),
}

impl Regions {
    /// The memory, if it is that of the CPU.
    pub(super) fn on_cpu(self) -> Option<Arc<cpu::Regions>> {
        match self {
            Self::Gpu(_) => None,
            Self::Cpu(regions) => Some(regions),
        }
    }

    /// Offsets of the tensors.
    pub fn layout(&self) -> &Arc<Layout> {
        match self {
            Self::Gpu(regions) => &regions.layout,
            Self::Cpu(regions) => &regions.layout,
        }
    }

    /// The same memory with `region` as parameters and the averaged running statistics, if any, as
    /// running statistics: inference with averages needs no copy.
    ///
    /// # Errors
    /// [`Error::Tensor`](crate::Error::Tensor) if there is no such region.
    pub fn with_averages(&self, region: Region) -> Result<Self> {
        Ok(match self {
            Self::Gpu(regions) => Self::Gpu(Arc::new(regions.with_averages(region)?)),
            Self::Cpu(regions) => Self::Cpu(Arc::new(regions.with_averages(region)?)),
        })
    }

    /// Whether a region exists.
    pub fn has(&self, region: Region) -> bool {
        match self {
            Self::Gpu(regions) => regions.regions().any(|other| other == region),
            Self::Cpu(regions) => regions.regions().any(|other| other == region),
        }
    }

    /// Bytes of all regions.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Gpu(regions) => regions.bytes(),
            Self::Cpu(regions) => regions.bytes(),
        }
    }

    /// Writes one tensor of a region.
    ///
    /// # Errors
    /// [`Error::Tensor`](crate::Error::Tensor) if the region has no such tensor or its size
    /// differs, [`Error::Config`](crate::Error::Config) if it is memory of another device.
    pub fn set(&self, device: impl Into<Device>, region: Region, name: &str, values: &[f32]) -> Result<()> {
        let device = device.into();
        match (self, &device) {
            (Self::Gpu(regions), Device::Gpu(gpu)) => regions.set(gpu, region, name, values),
            (Self::Cpu(regions), Device::Cpu(_)) => regions.set(region, name, values),
            _ => Err(device.foreign()),
        }
    }

    /// Reads all tensors of a region, in order.
    ///
    /// # Errors
    /// As [`gpu::Regions::get`] and [`cpu::Regions::get`].
    pub async fn get(&self, device: impl Into<Device>, region: Region) -> Result<Vec<(&Entry, Vec<f32>)>> {
        let device = device.into();
        match (self, &device) {
            (Self::Gpu(regions), Device::Gpu(gpu)) => regions.get(gpu, region).await,
            (Self::Cpu(regions), Device::Cpu(_)) => regions.get(region),
            _ => Err(device.foreign()),
        }
    }
}
