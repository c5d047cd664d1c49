//! A trained network on a device.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use incept::checkpoint::Checkpoint;
use incept::device::Device;
use incept::infer::{Classifier, require_finite};
use incept::tensor::Element;
use incept::{Error, Result};
use incept_cli::shared::{self, DeviceSettings};
use numpy::PyArray2;
use pyo3::prelude::*;

use crate::errors::{json, raised, to_python};
use crate::images::{Item, Loaded, loaded};
use crate::work::{Caller, OnSignal, run};

/// A checkpoint and the device to run it on.
#[pyclass(module = "incept._incept", frozen)]
#[derive(Clone, Debug)]
pub(crate) struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    checkpoint: Checkpoint,
    device: Device,
    element: Element,
    /// The planned network of the last call.
    classifier: Mutex<Option<Classifier>>,
}

impl Network {
    pub(crate) fn new(checkpoint: Checkpoint, device: Device, element: Element) -> Self {
        let classifier = Mutex::default();
        Self { shared: Arc::new(Shared { checkpoint, device, element, classifier }) }
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.shared.checkpoint
    }

    pub(crate) fn device(&self) -> &Device {
        &self.shared.device
    }
}

impl Shared {
    /// The probabilities of all images, in batches of this size.
    fn probabilities(&self, images: Vec<Loaded>, batch: usize, stop: &AtomicBool) -> Result<Vec<Vec<f32>>> {
        let metadata = &self.checkpoint.metadata;
        let mut kept = self.classifier.lock().unwrap_or_else(PoisonError::into_inner);
        // On a GPU compiling kernels takes longer than missing rows of a batch do.
        let fits = |has: usize| has == batch || (self.device.gpu().is_some() && has > batch);
        let classifier = match kept.take().filter(|classifier| fits(classifier.batch())) {
            Some(classifier) => kept.insert(classifier),
            None => {
                let state = self.checkpoint.state.clone().averaged();
                let new = Classifier::new(&self.device, &metadata.network, batch, self.element, &state);
                kept.insert(self.device.block_on(new)?)
            }
        };
        let mut rows = Vec::with_capacity(images.len());
        let mut images = images.into_iter().peekable();
        while images.peek().is_some() {
            if stop.load(Ordering::SeqCst) {
                return Err(Error::Interrupted);
            }
            let values = images
                .by_ref()
                .take(classifier.batch())
                .map(|image| Ok(metadata.preprocessing.apply(&image.image()?)))
                .collect::<Result<Vec<_>>>()?;
            let batch = incept::data::Batch::of(classifier.batch(), &values);
            let probabilities = self.device.block_on(classifier.probabilities(&batch))?;
            require_finite(&probabilities)?;
            rows.extend(probabilities);
        }
        Ok(rows)
    }
}

#[pymethods]
impl Network {
    /// The description of the checkpoint as JSON.
    fn description(&self, py: Python<'_>) -> PyResult<String> {
        json(py, &self.shared.checkpoint.metadata)
    }

    /// The device's name, class and driver.
    fn device_name(&self) -> String {
        self.shared.device.summary().to_string()
    }

    /// Number of parameters.
    fn parameters(&self) -> usize {
        self.shared.checkpoint.state.parameters.values().map(|tensor| tensor.data.len()).sum()
    }

    /// The probabilities of each class for each image.
    fn probabilities<'py>(
        &self,
        py: Python<'py>,
        images: Vec<Item<'py>>,
        batch: usize,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let images = loaded(images)?;
        let (shared, stop) = (Arc::clone(&self.shared), Arc::<AtomicBool>::default());
        let stopped = Arc::clone(&stop);
        let work = move |_: Caller<()>| shared.probabilities(images, batch, &stopped);
        let rows = run(py, &stop, OnSignal::Stop, work, |_, ()| Ok(()))?;
        PyArray2::from_vec2(py, &rows).map_err(|e| raised(py, "InceptError", &e.to_string()))
    }

    /// Writes the checkpoint.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let shared = Arc::clone(&self.shared);
        py.detach(move || shared.checkpoint.save(&path)).map_err(|error| to_python(py, &error))
    }
}

/// Loads weights and opens the device.
#[pyfunction]
pub(crate) fn load(
    py: Python<'_>,
    path: PathBuf,
    device: Option<String>,
    threads: Option<usize>,
    precision: String,
) -> PyResult<Network> {
    let work = move |_: Caller<()>| {
        let checkpoint = shared::load(&path)?;
        let device = DeviceSettings { device, threads }.open()?;
        let element = shared::element(&device, &precision)?;
        Ok(Network::new(checkpoint, device, element))
    };
    run(py, &Arc::default(), OnSignal::Leave, work, |_, ()| Ok(()))
}
