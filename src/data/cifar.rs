//! CIFAR-10's and CIFAR-100's binary files (Krizhevsky 2009): labels and 3 x 32 x 32 bytes a picture.

use std::path::{Path, PathBuf};

use super::{InMemory, first_of, read};
use crate::error::{Error, Result};

const SIZE: usize = 32;
const PLANE: usize = SIZE * SIZE;

/// Reads training and test part, if the folder has them.
pub(super) fn open(folder: &Path) -> Result<Option<(InMemory, InMemory)>> {
    let batches: Vec<PathBuf> =
        (1..=5).filter_map(|i| first_of(folder, &[format!("data_batch_{i}.bin").as_str()])).collect();
    if !batches.is_empty() {
        let test = first_of(folder, &["test_batch.bin"])
            .ok_or_else(|| Error::format(folder, "has CIFAR-10's data_batch files but no test_batch.bin"))?;
        let classes = names(folder, "batches.meta.txt", 10)?;
        return Ok(Some((part(&batches, 1, &classes)?, part(&[test], 1, &classes)?)));
    }
    if let (Some(train), Some(test)) = (first_of(folder, &["train.bin"]), first_of(folder, &["test.bin"])) {
        let classes = names(folder, "fine_label_names.txt", 100)?;
        // CIFAR-100 has a coarse label before the fine one.
        return Ok(Some((part(&[train], 2, &classes)?, part(&[test], 2, &classes)?)));
    }
    Ok(None)
}

fn names(folder: &Path, file: &str, count: usize) -> Result<Vec<String>> {
    let path = folder.join(file);
    if !path.is_file() {
        return Ok((0..count).map(|c| c.to_string()).collect());
    }
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect();
    if names.len() == count {
        Ok(names)
    } else {
        Err(Error::format(path, format!("has {} names for {count} classes", names.len())))
    }
}

fn part(files: &[PathBuf], label_bytes: usize, classes: &[String]) -> Result<InMemory> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in files {
        let bytes = read(path)?;
        let record = label_bytes + 3 * PLANE;
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            let reason = format!("has {} bytes, which is no multiple of a record's {record}", bytes.len());
            return Err(Error::format(path, reason));
        }
        for (i, record) in bytes.chunks_exact(record).enumerate() {
            let label = record[label_bytes - 1];
            if usize::from(label) >= classes.len() {
                return Err(Error::format(
                    path,
                    format!("picture {i} has label {label} of {} classes", classes.len()),
                ));
            }
            labels.push(label);
            let planes = &record[label_bytes..];
            pixels.extend((0..PLANE).flat_map(|k| [planes[k], planes[PLANE + k], planes[2 * PLANE + k]]));
        }
    }
    let source = files.first().map(|p| p.display().to_string()).unwrap_or_default();
    Ok(InMemory { source, classes: classes.to_vec(), width: SIZE, height: SIZE, channels: 3, pixels, labels })
}
