//! Persistent memory on the CPU, which sessions with the same layout can share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::graph::Region;
use crate::plan::{Entry, Layout, Plan, Store};

/// The memory of each region.
pub(super) type Memory = BTreeMap<Region, Vec<f32>>;

/// One vector per region.
#[derive(Debug)]
pub struct Regions {
    /// Offsets of the tensors.
    pub layout: Arc<Layout>,
    memory: Arc<Mutex<Memory>>,
    /// Where each region of this view is in the memory.
    places: BTreeMap<Region, Region>,
}

/// A zeroed vector.
///
/// # Errors
/// [`Error::OutOfMemory`] if the system has too little memory.
pub(super) fn zeros(what: &str, bytes: u64) -> Result<Vec<f32>> {
    let short = || Error::OutOfMemory { context: format!("{what} of {bytes} bytes") };
    let length = usize::try_from(bytes.div_ceil(4)).map_err(|_| short())?;
    // Asks before `vec!`, which would end the process.
    Vec::<f32>::new().try_reserve_exact(length).map_err(|_| short())?;
    Ok(vec![0.0; length])
}

impl Regions {
    /// Allocates the regions of a plan, zeroed, with initial running statistics.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the system has too little memory.
    pub(super) fn new(plan: &Plan) -> Result<Self> {
        let mut memory = Memory::new();
        for (store, bytes) in &plan.stores {
            if let Store::Region(region) = store {
                memory.insert(*region, zeros(&format!("{region:?}"), *bytes)?);
            }
        }
        for region in [Region::State, Region::AveragedState] {
            let Some(values) = memory.get_mut(&region) else { continue };
            for entry in &plan.layout.state {
                if let Some(values) = values.get_mut(entry.offset..entry.offset + entry.shape.volume()) {
                    values.fill(entry.start);
                }
            }
        }
        let places = memory.keys().map(|region| (*region, *region)).collect();
        Ok(Self { layout: Arc::clone(&plan.layout), memory: Arc::new(Mutex::new(memory)), places })
    }

    /// The same memory with `region` as parameters and the averaged running statistics, if any, as
    /// running statistics.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there is no such region.
    pub fn with_averages(&self, region: Region) -> Result<Self> {
        let mut places = self.places.clone();
        places.insert(Region::Parameters, self.place(region)?);
        if let Some(state) = self.places.get(&Region::AveragedState) {
            places.insert(Region::State, *state);
        }
        Ok(Self { layout: Arc::clone(&self.layout), memory: Arc::clone(&self.memory), places })
    }

    /// The regions that exist.
    pub fn regions(&self) -> impl Iterator<Item = Region> {
        self.places.keys().copied()
    }

    /// Bytes of all regions.
    pub fn bytes(&self) -> u64 {
        let memory = self.lock();
        let length = |place| memory.get(place).map_or(0, |values: &Vec<f32>| 4 * values.len() as u64);
        self.places.values().map(length).sum()
    }

    /// Where a region is in the memory.
    pub(super) fn place(&self, region: Region) -> Result<Region> {
        let missing = || Error::tensor(format!("{region:?}"), "does not exist in this session");
        self.places.get(&region).copied().ok_or_else(missing)
    }

    /// The memory, for this thread alone.
    pub(super) fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one tensor of a region.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the region has no such tensor or its size differs.
    pub fn set(&self, region: Region, name: &str, values: &[f32]) -> Result<()> {
        let entry = self.layout.entries(region).iter().find(|e| e.name == name);
        let entry = entry.ok_or_else(|| Error::tensor(name, "is not in this network"))?;
        if values.len() != entry.shape.volume() {
            let reason =
                format!("has {} values, but {} needs {}", values.len(), entry.shape, entry.shape.volume());
            return Err(Error::tensor(&entry.name, reason));
        }
        let place = self.place(region)?;
        let mut memory = self.lock();
        let part =
            memory.get_mut(&place).and_then(|all| all.get_mut(entry.offset..)?.get_mut(..values.len()));
        part.ok_or_else(|| beyond(entry))?.copy_from_slice(values);
        Ok(())
    }

    /// Reads all tensors of a region, in order.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the layout is not that of the memory.
    pub fn get(&self, region: Region) -> Result<Vec<(&Entry, Vec<f32>)>> {
        let place = self.place(region)?;
        let memory = self.lock();
        let values = memory.get(&place);
        let slice = |entry| {
            let Entry { offset, shape, .. }: &Entry = entry;
            let rest = values.and_then(|all| all.get(*offset..)?.get(..shape.volume()));
            rest.map(|slice| (entry, slice.to_vec())).ok_or_else(|| beyond(entry))
        };
        self.layout.entries(region).iter().map(slice).collect()
    }
}

/// Error for a tensor outside memory that was allocated for another layout.
fn beyond(entry: &Entry) -> Error {
    Error::tensor(&entry.name, "is outside its region, which was allocated for another layout")
}
