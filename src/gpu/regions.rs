//! Persistent device memory: parameters, gradients, optimizer vectors, running statistics. Sessions
//! with the same layout can share it, as training and evaluation do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Gpu;
use crate::error::{Error, Result};
use crate::graph::Region;
use crate::plan::{Entry, Layout, Plan, Store};
use crate::text::plural;

/// One buffer per region.
#[derive(Debug)]
pub struct Regions {
    /// Offsets of the tensors.
    pub layout: Arc<Layout>,
    pub(super) gpu: Gpu,
    buffers: BTreeMap<Region, wgpu::Buffer>,
    /// How often the content was changed; sessions that keep weights in another form compare it.
    version: Arc<AtomicU64>,
}

impl Regions {
    /// Allocates the regions of a plan, zeroed, with initial running statistics.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the device has too little memory.
    pub async fn new(gpu: &Gpu, plan: &Plan) -> Result<Self> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let mut buffers = BTreeMap::new();
        for (store, bytes) in &plan.stores {
            if let Store::Region(region) = store {
                buffers.insert(*region, gpu.buffer(&format!("{region:?}"), *bytes, usage).await?);
            }
        }
        let regions =
            Self { layout: Arc::clone(&plan.layout), gpu: gpu.clone(), buffers, version: Arc::default() };
        for region in [Region::State, Region::AveragedState] {
            for entry in &regions.layout.state {
                if entry.start != 0.0 && regions.buffers.contains_key(&region) {
                    regions.write(gpu, region, entry, &vec![entry.start; entry.shape.volume()])?;
                }
            }
        }
        Ok(regions)
    }

    /// The same memory with `region` as parameters and the averaged running statistics, if any, as
    /// running statistics: inference with averages needs no copy.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there is no such region.
    pub fn with_averages(&self, region: Region) -> Result<Self> {
        let mut buffers = self.buffers.clone();
        buffers.insert(Region::Parameters, self.buffer(region)?.clone());
        if let Some(state) = self.buffers.get(&Region::AveragedState) {
            buffers.insert(Region::State, state.clone());
        }
        let version = Arc::clone(&self.version);
        Ok(Self { layout: Arc::clone(&self.layout), gpu: self.gpu.clone(), buffers, version })
    }

    /// Notes that the content changes.
    pub(super) fn change(&self) {
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that changes with the content.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// The regions that exist.
    pub fn regions(&self) -> impl Iterator<Item = Region> {
        self.buffers.keys().copied()
    }

    /// Bytes of all regions.
    pub fn bytes(&self) -> u64 {
        self.buffers.values().map(wgpu::Buffer::size).sum()
    }

    pub(super) fn buffer(&self, region: Region) -> Result<&wgpu::Buffer> {
        let missing = || Error::tensor(format!("{region:?}"), "does not exist in this session");
        self.buffers.get(&region).ok_or_else(missing)
    }

    fn write(&self, gpu: &Gpu, region: Region, entry: &Entry, values: &[f32]) -> Result<()> {
        if values.len() != entry.shape.volume() {
            let (count, shape) = (plural(values.len(), "value"), &entry.shape);
            let reason = format!("has {count}, but {shape} needs {}", shape.volume());
            return Err(Error::tensor(&entry.name, reason));
        }
        gpu.require_own(&self.gpu)?;
        let (buffer, bytes) = (self.buffer(region)?, bytemuck::cast_slice(values));
        let offset = 4 * entry.offset as u64;
        if offset.saturating_add(bytes.len() as u64) > buffer.size() {
            return Err(beyond(entry));
        }
        gpu.queue().write_buffer(buffer, offset, bytes);
        self.change();
        Ok(())
    }

    /// Writes one tensor of a region.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the region has no such tensor or its size differs, [`Error::Config`] if
    /// it is memory of another device.
    pub fn set(&self, gpu: &Gpu, region: Region, name: &str, values: &[f32]) -> Result<()> {
        let entry = self.layout.entries(region).iter().find(|e| e.name == name);
        let entry = entry.ok_or_else(|| Error::tensor(name, "is not in this network"))?;
        self.write(gpu, region, entry, values)
    }

    /// Reads all tensors of a region, in order.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the layout is not that of the memory, [`Error::Config`] if the memory
    /// is of another device, [`Error::Driver`] if the buffer cannot be read.
    pub async fn get(&self, gpu: &Gpu, region: Region) -> Result<Vec<(&Entry, Vec<f32>)>> {
        gpu.require_own(&self.gpu)?;
        let buffer = self.buffer(region)?;
        let bytes = gpu.download(buffer, 0, buffer.size()).await?;
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        let slice = |entry| {
            let Entry { offset, shape, .. }: &Entry = entry;
            let rest = values.get(*offset..).and_then(|rest| rest.get(..shape.volume()));
            rest.map(|slice| (entry, slice.to_vec())).ok_or_else(|| beyond(entry))
        };
        self.layout.entries(region).iter().map(slice).collect()
    }
}

/// Error for a tensor outside memory that was allocated for another layout.
fn beyond(entry: &Entry) -> Error {
    Error::tensor(&entry.name, "is outside its region, which was allocated for another layout")
}
