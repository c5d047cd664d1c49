//! Detection of validation images that are also in the training set.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::Dataset;
use crate::untrusted::MAX_SAMPLE_BYTES;

/// Maximum images of both sets together; beyond it the search for duplicates is too slow and
/// skipped.
pub const MAX_COMPARED_IMAGES: usize = 200_000;

/// Bytes compared first, enough to distinguish most images of equal size.
const HEAD: u64 = 4 << 10;

/// Number of `validation` images that are byte for byte equal to a `train` image, compared by size,
/// then by the first bytes, then by all bytes. `None` if there are too many images or sizes are
/// unknown.
pub(super) fn duplicates(train: &dyn Dataset, validation: &dyn Dataset) -> Option<usize> {
    if train.len() + validation.len() > MAX_COMPARED_IMAGES {
        return None;
    }
    let sizes = |set: &dyn Dataset| (0..set.len()).map(|i| set.stored_bytes(i)).collect::<Option<Vec<u64>>>();
    let (train_sizes, validation_sizes) = (sizes(train)?, sizes(validation)?);
    let wanted: HashSet<u64> = validation_sizes.iter().copied().collect();
    let there: HashSet<u64> = train_sizes.iter().copied().collect();
    let mut alike: HashMap<(u64, u64), (Vec<usize>, Vec<usize>)> = HashMap::new();
    for (index, size) in (0..).zip(train_sizes).filter(|(_, size)| wanted.contains(size)) {
        alike.entry((size, digest(train, index, HEAD)?)).or_default().0.push(index);
    }
    for (index, size) in (0..).zip(validation_sizes).filter(|(_, size)| there.contains(size)) {
        alike.entry((size, digest(validation, index, HEAD)?)).or_default().1.push(index);
    }
    let mut count = 0;
    for ((size, _), (first, second)) in alike {
        if first.is_empty() || second.is_empty() {
            continue;
        }
        if size <= HEAD {
            count += second.len();
            continue;
        }
        let known: HashSet<u64> =
            first.into_iter().map(|i| digest(train, i, MAX_SAMPLE_BYTES)).collect::<Option<_>>()?;
        for index in second {
            count += usize::from(known.contains(&digest(validation, index, MAX_SAMPLE_BYTES)?));
        }
    }
    Some(count)
}

/// Hash of the first `limit` bytes of an image. Unreadable images differ from all others.
fn digest(set: &dyn Dataset, index: usize, limit: u64) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    match set.stored(index, limit) {
        Some(bytes) => bytes.hash(&mut hasher),
        None => (set.name(index), index).hash(&mut hasher),
    }
    Some(hasher.finish())
}
