//! CIFAR-10 and CIFAR-100 files (Krizhevsky 2009): labels and 3 x 32 x 32 bytes per image.

use std::path::{Path, PathBuf};

use super::parts::Part;
use super::read::{first_of, names_in, read};
use super::{Found, Uniform, cifar_python};
use crate::error::{Error, Result};
use crate::text::plural;
use crate::untrusted::read_text;

const SIZE: usize = 32;
const PLANE: usize = SIZE * SIZE;

/// CIFAR-10's classes in the order of their labels.
const NAMES_10: &str = "airplane automobile bird cat deer dog frog horse ship truck";

/// CIFAR-100's fine classes in the order of their labels.
const NAMES_100: &str = "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle \
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl \
    hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree \
    orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea \
    seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger \
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm";

/// Subfolders to search, including those that the official archives unpack to.
const PLACES: [&str; 5] =
    ["", "cifar-10-batches-bin", "cifar-100-binary", "cifar-10-batches-py", "cifar-100-python"];

/// File names and encoding of one version of the data set.
struct Version {
    train: &'static [&'static str],
    test: &'static str,
    /// Text file with class names, one per line.
    names_file: &'static str,
    names: &'static str,
    content: Content,
}

/// Encoding of a file.
#[derive(Clone, Copy)]
enum Content {
    /// Binary records: label bytes, of which the last one is used, then an image.
    Records { label_bytes: usize },
    /// A pickled dictionary with labels and class names under these keys.
    Pickle { labels: &'static str, names: &'static str },
}

const BINARY_10: Version = Version {
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: "test_batch.bin",
    names_file: "batches.meta.txt",
    names: NAMES_10,
    content: Content::Records { label_bytes: 1 },
};

const BINARY_100: Version = Version {
    train: &["train.bin"],
    test: "test.bin",
    names_file: "fine_label_names.txt",
    names: NAMES_100,
    // The coarse label precedes the fine one.
    content: Content::Records { label_bytes: 2 },
};

const PYTHON_10: Version = Version {
    train: &["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"],
    test: "test_batch",
    names_file: "batches.meta",
    names: NAMES_10,
    content: Content::Pickle { labels: "labels", names: "label_names" },
};

const PYTHON_100: Version = Version {
    train: &["train"],
    test: "test",
    names_file: "meta",
    names: NAMES_100,
    content: Content::Pickle { labels: "fine_labels", names: "fine_label_names" },
};

/// Reads training and test set, if the folder has them.
pub(super) fn open(root: &Path) -> Result<Option<Found>> {
    for place in PLACES {
        let folder = root.join(place);
        for version in [&BINARY_10, &BINARY_100, &PYTHON_10, &PYTHON_100] {
            if let Some(found) = version.open(root, &folder)? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

impl Version {
    fn open(&self, root: &Path, folder: &Path) -> Result<Option<Found>> {
        let (mut train, mut missing) = (Vec::new(), Vec::new());
        // `train` and `test` are common names, so the content decides.
        let pickle = matches!(self.content, Content::Pickle { .. });
        let file =
            |name: &str| first_of(folder, &[name]).filter(|path| !pickle || cifar_python::is_pickle(path));
        for name in self.train {
            match file(name) {
                Some(path) => train.push(path),
                None => missing.push(*name),
            }
        }
        let test = file(self.test);
        if train.is_empty() && test.is_none() {
            return Ok(None);
        }
        let mut found = Found::of(root, "CIFAR files");
        let classes = self.classes(folder)?;
        if train.is_empty() {
            found.notes.push(format!("there are no CIFAR files of the training set in {}", folder.display()));
        } else {
            if !missing.is_empty() {
                let (count, of) = (missing.len(), self.train.len());
                let (are, folder) = (if count == 1 { "is" } else { "are" }, folder.display());
                found.notes.push(format!(
                    "{count} of {of} files of the training set {are} missing in {folder}: {}",
                    missing.join(", ")
                ));
            }
            found.add(Part::Train, self.part(&train, &classes)?);
        }
        match test {
            Some(test) => found.add(Part::Test, self.part(&[test], &classes)?),
            None => found.notes.push(format!("{} is missing in {}", self.test, folder.display())),
        }
        Ok(Some(found))
    }

    fn classes(&self, folder: &Path) -> Result<Vec<String>> {
        let known: Vec<String> = self.names.split_whitespace().map(String::from).collect();
        let path = folder.join(self.names_file);
        if !path.exists() {
            return Ok(known);
        }
        let names = match self.content {
            Content::Records { .. } => names_in(&read_text(&path)?),
            Content::Pickle { names, .. } => cifar_python::names(&path, names)?,
        };
        if names.len() == known.len() {
            Ok(names)
        } else {
            let (names, classes) = (plural(names.len(), "name"), plural(known.len(), "class"));
            Err(Error::format(path, format!("has {names} for {classes}")))
        }
    }

    fn part(&self, files: &[PathBuf], classes: &[String]) -> Result<Uniform> {
        let mut set = empty(files, classes);
        for path in files {
            match self.content {
                Content::Records { label_bytes } => add_records(&mut set, path, label_bytes)?,
                Content::Pickle { labels, .. } => {
                    let batch = cifar_python::batch(path, labels)?;
                    let images = batch.planes.chunks_exact(3 * PLANE).zip(&batch.labels);
                    for (i, (planes, label)) in images.enumerate() {
                        push(&mut set, path, i, *label, planes)?;
                    }
                }
            }
        }
        Ok(set)
    }
}

fn add_records(set: &mut Uniform, path: &Path, label_bytes: usize) -> Result<()> {
    let bytes = read(path)?;
    let record = label_bytes + 3 * PLANE;
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        let length = plural(bytes.len(), "byte");
        let reason = format!("has {length}, which is not a multiple of a record's {record}");
        return Err(Error::format(path, reason));
    }
    for (i, record) in bytes.chunks_exact(record).enumerate() {
        let (labels, planes) = record.split_at(label_bytes);
        push(set, path, i, labels.last().copied().unwrap_or(0).into(), planes)?;
    }
    Ok(())
}

fn empty(files: &[PathBuf], classes: &[String]) -> Uniform {
    let source = files.first().map(|p| p.display().to_string()).unwrap_or_default();
    let (pixels, labels) = (Vec::new(), Vec::new());
    Uniform { source, classes: classes.to_vec(), width: SIZE, height: SIZE, channels: 3, pixels, labels }
}

/// Adds an image stored as red, green and blue planes.
fn push(set: &mut Uniform, path: &Path, number: usize, label: i64, planes: &[u8]) -> Result<()> {
    let class = u8::try_from(label).ok().filter(|class| usize::from(*class) < set.classes.len());
    let Some(class) = class else {
        let reason = format!("image {number} has label {label} of {} classes", set.classes.len());
        return Err(Error::format(path, reason));
    };
    set.labels.push(class);
    set.pixels.extend((0..PLANE).flat_map(|k| [planes[k], planes[PLANE + k], planes[2 * PLANE + k]]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_classes_have_names() {
        let names: std::collections::BTreeSet<&str> = NAMES_100.split_whitespace().collect();
        assert_eq!((NAMES_10.split_whitespace().count(), names.len()), (10, 100));
        assert!(NAMES_100.split_whitespace().is_sorted());
    }
}
