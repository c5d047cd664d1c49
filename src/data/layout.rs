//! Layouts of image folders: class folders at the top, or inside train/val/test folders.

use std::path::{Path, PathBuf};

use super::Dataset as _;
use super::folder::{ClassFiles, Folder, class_files};
use super::parts::{Part, Parted};
use super::walk::{self, file_name};
use crate::error::{Error, Result};
use crate::text::plural;
use crate::untrusted::read_text;

/// A data set of image folders by its parts.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub train: Option<Folder>,
    pub validation: Option<Folder>,
    pub test: Option<Folder>,
}

/// Reads the layout of a folder. Folders with the name of a part are parts if they contain folders
/// with images; otherwise all folders are classes.
pub(super) fn read(root: &Path, notes: &mut Vec<String>) -> Result<Layout> {
    let mut parts = Parted::<Vec<PathBuf>>::default();
    let mut others = Vec::new();
    for folder in walk::folders(root)? {
        match Part::of(&file_name(&folder)) {
            Some(part) => parts.of(part).push(folder),
            None => others.push(folder),
        }
    }
    let train = holding(&parts.train)?;
    if train.is_empty() {
        // A class may be called `train` or `test tube`: these are parts only if there is no other
        // class.
        let classes = those(&others, walk::has_images)?;
        match classes.as_slice() {
            [] => {}
            [only] if is_data_set(root, only, &parts)? => {
                let (name, root) = (file_name(only), root.display());
                notes.push(format!(
                    "`{name}` is the only folder in {root} with images: it is read as the data set"
                ));
                return read(only, notes);
            }
            _ => return beside_classes(root, &classes, &parts, notes),
        }
        if holding(&parts.validation)?.is_empty() && holding(&parts.test)?.is_empty() {
            let reason =
                "must have at least two sub-folders with images, one per class, directly or in `train`";
            return Err(Error::format(root, reason));
        }
    }
    // Folders with images outside class folders are not a training set; they are reported.
    let train = if train.is_empty() { those(&parts.train, walk::has_images)? } else { train };
    let skipped = others.iter().map(|folder| Ok((folder, walk::images(folder)?.images.len())));
    for (folder, count) in skipped.collect::<Result<Vec<_>>>()? {
        if count > 0 {
            let (images, folder) = (plural(count, "image"), folder.display());
            notes.push(format!("skipped {images} in {folder}, which is not a train, val or test folder"));
        }
    }
    by_parts(root, &parts, &train, notes)
}

/// Class folders at the top. A validation or test folder next to them is recognized by containing
/// one of the classes.
fn beside_classes(
    root: &Path,
    classes: &[PathBuf],
    parts: &Parted<Vec<PathBuf>>,
    notes: &mut Vec<String>,
) -> Result<Layout> {
    let names: Vec<String> = classes.iter().map(|class| file_name(class)).collect();
    let of = |folders: &[PathBuf]| {
        let mut found = Vec::new();
        for folder in folders {
            if walk::folders(folder)?.iter().any(|class| names.contains(&file_name(class))) {
                found.push(folder.clone());
            }
        }
        Ok::<_, Error>(found)
    };
    let (validation, test) = (of(&parts.validation)?, of(&parts.test)?);
    let mut found = class_files(root, notes)?;
    for (name, _) in &found {
        if Part::of(name).is_some() && !validation.iter().chain(&test).any(|part| file_name(part) == *name) {
            let root = root.display();
            notes.push(format!(
                "{name} in {root} is read as a class: it has images but no class folders; move it elsewhere if it is a part of the data set"
            ));
        }
    }
    found.retain(|(name, _)| !validation.iter().chain(&test).any(|part| file_name(part) == *name));
    let train = Folder::from_classes(found).checked(root)?;
    let validation = part_of(&validation, Part::Validation, Some(train.classes()), notes)?;
    let test = part_of(&test, Part::Test, Some(train.classes()), notes)?;
    Ok(Layout { train: Some(train), validation, test })
}

fn by_parts(
    root: &Path,
    parts: &Parted<Vec<PathBuf>>,
    train: &[PathBuf],
    notes: &mut Vec<String>,
) -> Result<Layout> {
    let mut layout = Layout::default();
    if !train.is_empty() {
        let mut classes = ClassFiles::new();
        for folder in train {
            merge(&mut classes, class_files(&inner(folder)?, notes)?);
        }
        layout.train = Some(Folder::from_classes(classes).checked(&train[0])?);
    }
    // Without a training set, the first of the other parts defines the classes.
    let known = layout.train.as_ref().map(|set| set.classes().to_vec());
    layout.validation = part_of(&parts.validation, Part::Validation, known.as_deref(), notes)?;
    let known = known.or_else(|| layout.validation.as_ref().map(|set| set.classes().to_vec()));
    layout.test = part_of(&parts.test, Part::Test, known.as_deref(), notes)?;
    if layout.train.is_none() && layout.validation.is_none() && layout.test.is_none() {
        return Err(Error::format(root, "has no images in folders of classes"));
    }
    Ok(layout)
}

/// The images of a validation or test set; `None` if there are none or they have no labels.
fn part_of(
    folders: &[PathBuf],
    part: Part,
    known: Option<&[String]>,
    notes: &mut Vec<String>,
) -> Result<Option<Folder>> {
    let mut classes = ClassFiles::new();
    for folder in folders {
        let folder = inner(folder)?;
        let mut own = Vec::new();
        let found = match annotated(&folder)? {
            Some(found) => found,
            None => class_files(&folder, &mut own)?,
        };
        let is_known = |class: &String| known.is_none_or(|known| known.contains(class));
        if found.iter().any(|(class, _)| is_known(class)) {
            notes.append(&mut own);
            merge(&mut classes, found);
            continue;
        }
        let count = walk::images(&folder)?.images.len();
        let (images, name) = (plural(count, "image"), folder.display());
        match (part, count) {
            (_, 0) => notes.push(format!("skipped {name}: it has no images")),
            (Part::Test, _) => notes.push(format!(
                "skipped {images} in {name}: the test set has no labels, because none of its folders is a class"
            )),
            _ => {
                let reason = format!(
                    "has {images} but no class folder of the training set: sort them into class folders, or rename it"
                );
                return Err(Error::format(folder, reason));
            }
        }
    }
    if classes.is_empty() {
        return Ok(None);
    }
    let at = folders.first().map_or(Path::new(""), PathBuf::as_path);
    match known {
        Some(known) => Folder::with_classes(at, classes, known).map(Some),
        None => Ok(Some(Folder::from_classes(classes))),
    }
}

/// Merges the files of `more` into `classes`, which stays sorted.
fn merge(classes: &mut ClassFiles, more: ClassFiles) {
    for (class, files) in more {
        match classes.binary_search_by(|(name, _)| name.cmp(&class)) {
            Ok(at) => classes[at].1.extend(files),
            Err(at) => classes.insert(at, (class, files)),
        }
    }
}

/// The folders that satisfy `is`.
fn those(folders: &[PathBuf], is: fn(&Path) -> Result<bool>) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in folders {
        if is(folder)? {
            found.push(folder.clone());
        }
    }
    Ok(found)
}

/// The folders that contain folders with images.
fn holding(folders: &[PathBuf]) -> Result<Vec<PathBuf>> {
    those(folders, holds_classes)
}

/// Whether `only`, the only folder with images in `root`, is the data set itself: a wrapper folder
/// of an archive, or `data/` in Hugging Face repositories.
fn is_data_set(root: &Path, only: &Path, parts: &Parted<Vec<PathBuf>>) -> Result<bool> {
    let named = [&parts.train, &parts.validation, &parts.test].into_iter().flatten();
    for part in named {
        if walk::has_images(part)? {
            return Ok(false);
        }
    }
    Ok(holds_classes(only)? && !walk::leads_back(root, only))
}

/// Whether a folder contains a folder with images.
fn holds_classes(folder: &Path) -> Result<bool> {
    for class in walk::folders(folder)? {
        if walk::has_images(&class)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Skips a wrapper folder of an archive: `seg_train/seg_train` for `seg_train`.
fn inner(folder: &Path) -> Result<PathBuf> {
    let inside = walk::folders(folder)?;
    match inside.as_slice() {
        [only]
            if Part::of(&file_name(only)).is_some()
                && Part::of(&file_name(only)) == Part::of(&file_name(folder)) =>
        {
            Ok(only.clone())
        }
        _ => Ok(folder.to_path_buf()),
    }
}

/// The classes of a folder with a `val_annotations.txt` as in Tiny ImageNet: file name, class and
/// bounding box, tab-separated, per line.
fn annotated(folder: &Path) -> Result<Option<ClassFiles>> {
    let list = folder.join("val_annotations.txt");
    if !list.is_file() {
        return Ok(None);
    }
    let images = folder.join("images");
    let images = if images.is_dir() { images } else { folder.to_path_buf() };
    let mut classes = std::collections::BTreeMap::<String, Vec<PathBuf>>::new();
    for (number, line) in read_text(&list)?.lines().enumerate() {
        let mut cells = line.split('\t').map(str::trim);
        let (name, class) = match (cells.next(), cells.next()) {
            (Some(name), Some(class)) if !name.is_empty() && !class.is_empty() => (name, class),
            (None | Some(""), _) => continue,
            _ => return Err(Error::format(list, format!("line {} lacks a class", number + 1))),
        };
        // A path could point outside this folder.
        if Path::new(name).components().count() != 1 || name.contains("..") {
            return Err(Error::format(
                list,
                format!("line {}: `{name}` is not the name of a file", number + 1),
            ));
        }
        classes.entry(class.to_string()).or_default().push(images.join(name));
    }
    classes.values_mut().for_each(|files| files.sort());
    Ok(Some(classes.into_iter().collect()))
}
