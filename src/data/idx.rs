//! MNIST's idx files (LeCun et al.): big-endian magic number, extents, bytes.

use std::path::Path;

use super::{InMemory, first_of, read};
use crate::error::{Error, Result};

const PARTS: [[&[&str]; 2]; 2] = [
    [
        &["train-images-idx3-ubyte", "train-images.idx3-ubyte"],
        &["train-labels-idx1-ubyte", "train-labels.idx1-ubyte"],
    ],
    [
        &["t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"],
        &["t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"],
    ],
];

/// Reads training and test part, if the folder has them.
pub(super) fn open(folder: &Path) -> Result<Option<(InMemory, InMemory)>> {
    let mut parts = Vec::new();
    for [images, labels] in PARTS {
        let Some(images) = first_of(folder, images) else { return Ok(None) };
        let labels = first_of(folder, labels)
            .ok_or_else(|| Error::format(&images, "has no file of labels beside it"))?;
        parts.push(part(&images, &labels)?);
    }
    let (test, train) = (parts.pop(), parts.pop());
    Ok(train.zip(test))
}

fn part(images: &Path, labels: &Path) -> Result<InMemory> {
    let (extents, pixels) = elements::<3>(images)?;
    let (counts, classes) = elements::<1>(labels)?;
    let [count, height, width] = extents;
    if counts != [count] {
        let reason = format!("has {} labels for {count} pictures of {}", counts[0], images.display());
        return Err(Error::format(labels, reason));
    }
    let most = classes.iter().copied().max().unwrap_or(0);
    Ok(InMemory {
        source: images.display().to_string(),
        classes: (0..=most.max(9)).map(|c| c.to_string()).collect(),
        width,
        height,
        channels: 1,
        pixels,
        labels: classes,
    })
}

/// The extents and bytes of an idx file of `N` dimensions.
fn elements<const N: usize>(path: &Path) -> Result<([usize; N], Vec<u8>)> {
    let bytes = read(path)?;
    let word = |i: usize| {
        let four = bytes.get(4 * i..4 * i + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
        four.map(|b| u32::from_be_bytes(b) as usize)
            .ok_or_else(|| Error::format(path, "is shorter than its header"))
    };
    // 0x08: bytes; then the number of dimensions.
    if word(0)? != 0x0800 + N {
        return Err(Error::format(path, format!("is not an idx file of {N}-dimensional bytes")));
    }
    let mut extents = [0; N];
    for (i, extent) in extents.iter_mut().enumerate() {
        *extent = word(i + 1)?;
    }
    let body = &bytes[4 * (N + 1)..];
    let expected = extents.iter().try_fold(1usize, |product, extent| product.checked_mul(*extent));
    if expected != Some(body.len()) {
        let reason = format!(
            "has {} bytes of data where {extents:?} was announced: the download may be incomplete",
            body.len()
        );
        return Err(Error::format(path, reason));
    }
    Ok((extents, body.to_vec()))
}
