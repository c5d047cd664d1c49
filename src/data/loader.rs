//! Batches, prefetched by worker threads. The content of a batch depends only on seed, epoch and
//! its number.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::preprocess::load;
use super::{Augmentation, Dataset, Mix, MixedLabels, Preprocessing, permutation};
use crate::error::{Error, Result};
use crate::untrusted::contained;

/// Preprocessed images with their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// batch x 3 x input x input. Rows without an image are zero, or in training filled with other
    /// images of the epoch.
    pub images: Vec<f32>,
    /// One class per row; [`Batch::MISSING`] in rows without an image.
    pub labels: Vec<u32>,
    /// Rows with an image that counts.
    pub count: usize,
    /// Index of each row's image in the data set; shorter than the batch at the end of an epoch.
    pub indices: Vec<usize>,
    /// Second labels of mixed images; `None` without mixup and cutmix.
    pub mixed: Option<MixedLabels>,
}

impl Batch {
    /// Label of a row that is ignored: past the end of an epoch, or an unreadable image.
    pub const MISSING: u32 = u32::MAX;

    /// A batch of `size` rows for classification, from up to `size` preprocessed images; all labels
    /// are 0.
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

    /// Copies the images of the rows `from`, in turn, to the rows `to`.
    fn repeat(&mut self, from: &[usize], to: &[usize]) {
        let row = self.images.len() / self.labels.len().max(1);
        for (from, to) in from.iter().cycle().zip(to) {
            self.images.copy_within(from * row..(from + 1) * row, to * row);
        }
    }
}

/// Maximum decoding threads: each holds images in memory, and the system limits threads too.
const MAX_WORKERS: usize = 256;

/// Options of a [`Loader`]: `LoaderOptions::new(32, preprocessing).workers(2)`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoaderOptions {
    /// Batch size.
    pub batch: usize,
    /// Preprocessing of images.
    pub preprocessing: Preprocessing,
    /// Augmentation; `None` for validation.
    pub augmentation: Option<Augmentation>,
    /// Mixup and cutmix; `None` for neither.
    pub mix: Option<Mix>,
    /// Shuffle in each epoch.
    pub shuffle: bool,
    /// Seed of shuffling and augmentation.
    pub seed: u64,
    /// Decoding threads; 0 decodes on the caller's thread.
    pub workers: usize,
    /// Batches that each worker prefetches.
    pub prefetch: usize,
    /// Maximum unreadable images to skip; more are an error.
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

    /// Shuffled batches with augmentation, for training.
    #[must_use]
    pub fn training(self, seed: u64, augmentation: Option<Augmentation>) -> Self {
        Self { shuffle: true, seed, augmentation, ..self }
    }

    /// Batch size.
    #[must_use]
    pub fn batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// Preprocessing of images.
    #[must_use]
    pub fn preprocessing(self, preprocessing: Preprocessing) -> Self {
        Self { preprocessing, ..self }
    }

    /// Augmentation.
    #[must_use]
    pub fn augmentation(self, augmentation: impl Into<Option<Augmentation>>) -> Self {
        Self { augmentation: augmentation.into(), ..self }
    }

    /// Mixup and cutmix.
    #[must_use]
    pub fn mix(self, mix: impl Into<Option<Mix>>) -> Self {
        Self { mix: mix.into(), ..self }
    }

    /// Whether to shuffle in each epoch.
    #[must_use]
    pub fn shuffle(self, shuffle: bool) -> Self {
        Self { shuffle, ..self }
    }

    /// Seed of shuffling and augmentation.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Decoding threads; 0 decodes on the caller's thread.
    #[must_use]
    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// Batches that each worker prefetches.
    #[must_use]
    pub fn prefetch(self, prefetch: usize) -> Self {
        Self { prefetch, ..self }
    }

    /// Maximum unreadable images to skip.
    #[must_use]
    pub fn max_bad(self, max_bad: usize) -> Self {
        Self { max_bad, ..self }
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

/// Makes batches of a data set; clones share the list of unreadable images.
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

    /// Batches per epoch; the last may have rows without an image.
    pub fn batches_per_epoch(&self) -> usize {
        self.shared.set.len().div_ceil(self.shared.options.batch)
    }

    /// Unreadable images so far: name and reason.
    pub fn bad(&self) -> Vec<(String, String)> {
        let bad = self.shared.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.iter().map(|(index, reason)| (self.shared.set.name(*index), reason.clone())).collect()
    }

    /// The batches of an epoch, starting with batch `first`. Dropping the iterator stops its
    /// threads.
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
        // Fill with the following images of the epoch, then with its first ones.
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

    /// Fills missing rows with other images of the epoch; the loss still ignores them. Batch norm
    /// uses all rows, and copies of the few remaining images would have too small a variance.
    /// Returns the number of filled rows: all, unless the epoch has no more images than the batch.
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

    /// Loads an image for an epoch; `None`, and a record, if it is unreadable.
    fn load(&self, index: usize, epoch: u64) -> Result<Option<Vec<f32>>> {
        let LoaderOptions { preprocessing, augmentation, seed, .. } = &self.options;
        let augment = augmentation.as_ref().map(|a| (a, *seed, epoch));
        // A panic would end the worker and the run.
        let loaded = contained(|| Ok(load(self.set.as_ref(), index, preprocessing, augment)))
            .unwrap_or_else(|reason| Err(Error::format(self.set.name(index), reason)));
        match loaded {
            Ok(values) => Ok(Some(values)),
            Err(error) => self.skip(index, error).map(|()| None),
        }
    }

    /// Records an unreadable image, once.
    fn skip(&self, index: usize, error: Error) -> Result<()> {
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        if bad.contains_key(&index) {
            return Ok(());
        }
        log::warn!("skipped: {error}");
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
        // Worker w makes the batches first + w, first + w + count, ...; the reader takes from the
        // workers in turn, so batches need no sorting.
        let start = |worker: usize| {
            let (sender, receiver) = crossbeam_channel::bounded(shared.options.prefetch.max(1));
            let (shared, order) = (Arc::clone(&shared), Arc::clone(&order));
            std::thread::spawn(move || {
                for number in (first + worker..end).step_by(count) {
                    // The iterator was dropped.
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
        let batch =
            first.recv().unwrap_or_else(|_| Err(Error::internal("a worker that decodes images ended early")));
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
