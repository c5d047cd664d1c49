//! Batches, made by worker threads ahead of their use. What is in a batch depends on seed, epoch
//! and its number alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::preprocess::load;
use super::{Augmentation, Dataset, Mix, MixedLabels, Preprocessing, permutation};
use crate::error::{Error, Result};
use crate::untrusted::contained;

/// Images as a network takes them, with their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// batch x 3 x input x input; rows that are missing hold zeros, or in training other images of
    /// the epoch.
    pub images: Vec<f32>,
    /// One a row; [`Batch::MISSING`] in rows that are missing.
    pub labels: Vec<u32>,
    /// Rows that are not missing.
    pub count: usize,
    /// The images' numbers in the data set, one a row; rows at the end of an epoch may have none.
    pub indices: Vec<usize>,
    /// The second labels, where images were mixed.
    pub mixed: Option<MixedLabels>,
}

impl Batch {
    /// The label of a row that does not count: the last of an epoch, or an image that could not be
    /// read.
    pub const MISSING: u32 = u32::MAX;

    /// A batch of `size` rows from preprocessed images, at most as many, all with label 0: what a
    /// classifier takes.
    pub fn of(size: usize, images: &[Vec<f32>]) -> Self {
        let row = images.first().map_or(0, Vec::len);
        let mut rows = vec![0.0; size * row];
        let mut labels = vec![Self::MISSING; size];
        for (i, image) in images.iter().take(size).enumerate() {
            rows[i * row..(i + 1) * row].copy_from_slice(image);
            labels[i] = 0;
        }
        let count = images.len().min(size);
        Self { images: rows, labels, count, indices: (0..count).collect(), mixed: None }
    }

    /// Repeats the images of the rows `from` in the rows `to`.
    fn repeat(&mut self, from: &[usize], to: &[usize]) {
        let row = self.images.len() / self.labels.len().max(1);
        for (from, to) in from.iter().cycle().zip(to) {
            self.images.copy_within(from * row..(from + 1) * row, to * row);
        }
    }
}

/// Threads that may decode: each holds images, and systems have a limit of their own at some point.
const MAX_WORKERS: usize = 256;

/// How batches are made.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Rows of a batch.
    pub batch: usize,
    /// How images become numbers.
    pub preprocessing: Preprocessing,
    /// What is done to training images.
    pub augmentation: Option<Augmentation>,
    /// How the images of a batch are mixed with each other.
    pub mix: Option<Mix>,
    /// Whether each epoch has an order of its own.
    pub shuffle: bool,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Threads that decode; 0 makes batches when they are asked for.
    pub workers: usize,
    /// Batches that each worker makes ahead.
    pub prefetch: usize,
    /// Unreadable images that are passed over; one more is an error.
    pub max_bad: usize,
}

impl LoaderOptions {
    /// Batches in the data set's order without augmentation.
    pub fn new(batch: usize, preprocessing: Preprocessing) -> Self {
        let workers = default_workers();
        Self {
            batch,
            preprocessing,
            augmentation: None,
            mix: None,
            shuffle: false,
            seed: 0,
            workers,
            prefetch: 2,
            max_bad: 10,
        }
    }

    /// The same, with images mixed with each other.
    #[must_use]
    pub fn mixing(self, mix: Option<Mix>) -> Self {
        Self { mix, ..self }
    }

    /// Batches in a new order each epoch, with augmentation.
    #[must_use]
    pub fn training(self, seed: u64, augmentation: Option<Augmentation>) -> Self {
        Self { shuffle: true, seed, augmentation, ..self }
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().clamp(1, 8))
}

#[cfg(target_arch = "wasm32")]
fn default_workers() -> usize {
    0
}

/// Makes batches of a data set.
#[derive(Clone, Debug)]
pub struct Loader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    set: Arc<dyn Dataset>,
    options: LoaderOptions,
    bad: Mutex<BTreeMap<usize, String>>,
}

impl Loader {
    /// A loader of `set`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if the batch has no rows or there are too many workers,
    /// [`Error::Config`] if the data set has no images.
    pub fn new(set: Arc<dyn Dataset>, options: LoaderOptions) -> Result<Self> {
        if options.batch == 0 {
            return Err(Error::out_of_range("LoaderOptions::batch", "above zero", 0));
        }
        if set.is_empty() {
            return Err(Error::Config("the data set has no images".into()));
        }
        if options.workers > MAX_WORKERS {
            let allowed = format!("at most {MAX_WORKERS}");
            return Err(Error::out_of_range("LoaderOptions::workers", allowed, options.workers));
        }
        Ok(Self { shared: Arc::new(Shared { set, options, bad: Mutex::default() }) })
    }

    /// The images that batches are made of.
    pub fn dataset(&self) -> &Arc<dyn Dataset> {
        &self.shared.set
    }

    /// How batches are made.
    pub fn options(&self) -> &LoaderOptions {
        &self.shared.options
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.shared.set.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.shared.set.is_empty()
    }

    /// Batches of an epoch; the last may have missing rows.
    pub fn batches_per_epoch(&self) -> usize {
        self.shared.set.len().div_ceil(self.shared.options.batch)
    }

    /// The images that could not be read so far: name and reason.
    pub fn bad(&self) -> Vec<(String, String)> {
        let bad = self.shared.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.iter().map(|(index, reason)| (self.shared.set.name(*index), reason.clone())).collect()
    }

    /// The batches of an epoch from number `first` on. Dropping the iterator ends its threads.
    pub fn epoch(&self, epoch: u64, first: usize) -> Batches {
        let order = if self.shared.options.shuffle {
            permutation(self.shared.set.len(), self.shared.options.seed, epoch)
        } else {
            (0..self.shared.set.len()).collect()
        };
        Batches::new(Arc::clone(&self.shared), order, epoch, first, self.batches_per_epoch())
    }
}

impl Shared {
    /// Makes batch number `number` of an epoch.
    fn batch(&self, order: &[usize], epoch: u64, number: usize) -> Result<Batch> {
        let LoaderOptions { batch: size, preprocessing, mix, seed, .. } = &self.options;
        let start = (number * size).min(order.len());
        let end = (start + size).min(order.len());
        let indices = order[start..end].to_vec();
        let row = 3 * preprocessing.input * preprocessing.input;
        let (images, labels) = (vec![0.0; size * row], vec![Batch::MISSING; *size]);
        let mut batch = Batch { images, labels, count: 0, indices, mixed: None };
        for i in 0..batch.indices.len() {
            let index = batch.indices[i];
            if let Some(values) = self.load(index, epoch)? {
                batch.images[i * row..(i + 1) * row].copy_from_slice(&values);
                batch.labels[i] = self.set.label(index);
                batch.count += 1;
            }
        }
        let missing: Vec<usize> = (0..*size).filter(|i| batch.labels[*i] == Batch::MISSING).collect();
        // The next images of the epoch come first, and those of its beginning after the last.
        let others = order[end..].iter().chain(&order[..start]);
        let filled = if self.options.shuffle { self.fill(&mut batch, &missing, others, epoch)? } else { 0 };
        let (fillers, rest) = missing.split_at(filled);
        if let Some(mix) = mix {
            mix.apply(&mut batch, fillers, *seed, epoch, number as u64);
        }
        if self.options.shuffle && !rest.is_empty() {
            let there: Vec<usize> = (0..*size).filter(|i| !rest.contains(i)).collect();
            batch.repeat(&there, rest);
        }
        Ok(batch)
    }

    /// Puts other images of the epoch into the rows that are missing, which stay so for the loss:
    /// batch norm takes its mean and variance over all rows, and copies of the few images that are
    /// left would have too small a variance. Returns how many rows have one: all, unless the epoch
    /// has no more images than the batch.
    fn fill<'a>(
        &self,
        batch: &mut Batch,
        missing: &[usize],
        mut others: impl Iterator<Item = &'a usize>,
        epoch: u64,
    ) -> Result<usize> {
        let row = batch.images.len() / batch.labels.len().max(1);
        let mut filled = 0;
        while let Some(to) = missing.get(filled)
            && let Some(index) = others.next()
        {
            if let Some(values) = self.load(*index, epoch)? {
                batch.images[to * row..(to + 1) * row].copy_from_slice(&values);
                filled += 1;
            }
        }
        Ok(filled)
    }

    /// An image as it is in an epoch; none if it cannot be read, which is noted.
    fn load(&self, index: usize, epoch: u64) -> Result<Option<Vec<f32>>> {
        let LoaderOptions { preprocessing, augmentation, seed, .. } = &self.options;
        let augment = augmentation.as_ref().map(|a| (a, *seed, epoch));
        // A panic would end the worker, and with it the run.
        let loaded = contained(|| Ok(load(self.set.as_ref(), index, preprocessing, augment)))
            .unwrap_or_else(|reason| Err(Error::format(self.set.name(index), reason)));
        match loaded {
            Ok(values) => Ok(Some(values)),
            Err(error) => self.pass_over(index, error).map(|()| None),
        }
    }

    /// Notes an image that cannot be read, once.
    fn pass_over(&self, index: usize, error: Error) -> Result<()> {
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        if bad.contains_key(&index) {
            return Ok(());
        }
        log::warn!("passed over: {error}");
        bad.insert(index, error.to_string());
        if bad.len() > self.options.max_bad {
            let max = self.options.max_bad;
            return Err(Error::TooManyBad { bad: bad.len(), max, source: Box::new(error) });
        }
        if bad.len() == self.set.len() {
            return Err(Error::NothingReadable { count: bad.len(), source: Box::new(error) });
        }
        Ok(())
    }
}

/// The batches of an epoch, in order.
#[derive(Debug)]
pub struct Batches {
    shared: Arc<Shared>,
    order: Arc<Vec<usize>>,
    epoch: u64,
    next: usize,
    end: usize,
    #[cfg(not(target_arch = "wasm32"))]
    workers: Vec<crossbeam_channel::Receiver<Result<Batch>>>,
}

impl Batches {
    #[cfg(not(target_arch = "wasm32"))]
    fn new(shared: Arc<Shared>, order: Vec<usize>, epoch: u64, first: usize, end: usize) -> Self {
        let order = Arc::new(order);
        let count = shared.options.workers.min(end.saturating_sub(first));
        // Worker w makes the batches first + w, first + w + count and so on: the reader goes round,
        // and order needs no sorting.
        let start = |worker: usize| {
            let (sender, receiver) = crossbeam_channel::bounded(shared.options.prefetch.max(1));
            let (shared, order) = (Arc::clone(&shared), Arc::clone(&order));
            std::thread::spawn(move || {
                for number in (first + worker..end).step_by(count) {
                    // The reader is gone: nobody needs the rest.
                    if sender.send(shared.batch(&order, epoch, number)).is_err() {
                        break;
                    }
                }
            });
            receiver
        };
        let workers = (0..count).map(start).collect();
        Self { shared, order, epoch, next: first, end, workers }
    }

    #[cfg(target_arch = "wasm32")]
    fn new(shared: Arc<Shared>, order: Vec<usize>, epoch: u64, first: usize, end: usize) -> Self {
        Self { shared, order: Arc::new(order), epoch, next: first, end }
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn prefetched(&mut self) -> Option<Result<Batch>> {
        let (first, rest) = self.workers.split_first_mut()?;
        let batch = first
            .recv()
            .unwrap_or_else(|_| Err(Error::internal("a worker that decodes images ended before its time")));
        if !rest.is_empty() {
            self.workers.rotate_left(1);
        }
        Some(batch)
    }

    #[cfg(target_arch = "wasm32")]
    fn prefetched(&mut self) -> Option<Result<Batch>> {
        None
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let number = self.next;
        self.next += 1;
        Some(self.prefetched().unwrap_or_else(|| self.shared.batch(&self.order, self.epoch, number)))
    }
}
