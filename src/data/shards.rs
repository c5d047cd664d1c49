//! Data sets of several files (tar, parquet, lists), assigned to parts.

use std::path::{Path, PathBuf};

use super::parts::{Part, Parted};
use super::{Dataset, Found, Parquet, WebDataset, manifest, parquet, walk, webdataset};
use crate::error::{Error, Result};
use crate::text::plural;

const LISTS: [&str; 2] = ["csv", "tsv"];

fn has(path: &Path, endings: &[&str]) -> bool {
    let ends = |wanted: &&str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(wanted));
    endings.iter().any(ends)
}

/// The files of a format by part: those of a folder, or a single file as the training set.
fn files(path: &Path, endings: &[&str], notes: &mut Vec<String>) -> Result<Parted<Vec<PathBuf>>> {
    if path.is_dir() {
        return in_folder(path, endings, notes);
    }
    let train = Vec::from_iter(has(path, endings).then(|| path.to_path_buf()));
    Ok(Parted { train, ..Parted::default() })
}

/// The files of a format in a data set's folder, by part, with notes of skipped ones.
///
/// Files are searched in the folder itself, in `data/`, and in folders with the name of a part in
/// either. Files without a part in their name are training files only if no file names the training
/// set.
fn in_folder(root: &Path, endings: &[&str], notes: &mut Vec<String>) -> Result<Parted<Vec<PathBuf>>> {
    let mut files = Vec::new();
    collect(root, endings, true, &mut files)?;
    let (mut parted, mut others) = (Parted::<Vec<PathBuf>>::default(), Vec::new());
    for file in files {
        match Part::of_path(file.strip_prefix(root).unwrap_or(&file)) {
            Some(part) => parted.of(part).push(file),
            None => others.push(file),
        }
    }
    if parted.train.is_empty() {
        parted.train = others;
    } else if let Some(first) = others.first() {
        let (files, name) = (plural(others.len(), "file"), first.display());
        notes.push(format!(
            "skipped {files} without train, val or test in the name, which other files have; the first is {name}"
        ));
    }
    Ok(parted)
}

/// Adds the files with one of these extensions in a folder, and in its sub-folders that may be
/// parts.
fn collect(folder: &Path, endings: &[&str], data: bool, files: &mut Vec<PathBuf>) -> Result<()> {
    let has = |path: &Path| {
        path.extension().is_some_and(|e| endings.iter().any(|wanted| e.eq_ignore_ascii_case(wanted)))
    };
    let mut below = Vec::new();
    for path in walk::entries(folder)? {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if has(&path) && path.is_file() {
            files.push(path);
        } else if (Part::of(&name).is_some() || (data && name.eq_ignore_ascii_case("data"))) && path.is_dir()
        {
            below.push((name.eq_ignore_ascii_case("data"), path));
        }
    }
    for (is_data, path) in below {
        if is_data {
            collect(&path, endings, false, files)?;
        } else {
            let inside = walk::entries(&path)?;
            files.extend(inside.into_iter().filter(|path| has(path) && path.is_file()));
        }
    }
    Ok(())
}

/// A data set that is read from several files.
trait Shards: Dataset + Sized + 'static {
    /// `None` if no sample has a label.
    fn read(files: &[PathBuf], notes: &mut Vec<String>) -> Result<Option<Self>>;
    fn with_classes(self, classes: &[String]) -> Result<Self>;
    fn unlabelled(file: PathBuf) -> Error;
}

impl Shards for WebDataset {
    fn read(files: &[PathBuf], notes: &mut Vec<String>) -> Result<Option<Self>> {
        Self::read(files, notes)
    }

    fn with_classes(self, classes: &[String]) -> Result<Self> {
        self.with_classes(classes)
    }

    fn unlabelled(file: PathBuf) -> Error {
        webdataset::unlabelled(file)
    }
}

impl Shards for Parquet {
    fn read(files: &[PathBuf], notes: &mut Vec<String>) -> Result<Option<Self>> {
        Self::read(files, notes)
    }

    fn with_classes(self, classes: &[String]) -> Result<Self> {
        self.with_classes(classes)
    }

    fn unlabelled(file: PathBuf) -> Error {
        parquet::unlabelled(file)
    }
}

fn assemble<T: Shards>(mut found: Found, files: &Parted<Vec<PathBuf>>) -> Result<Found> {
    let mut classes: Option<Vec<String>> = None;
    let parts =
        [(&files.train, Part::Train), (&files.validation, Part::Validation), (&files.test, Part::Test)];
    for (files, part) in parts {
        let Some(first) = files.first() else { continue };
        let Some(set) = T::read(files, &mut found.notes)? else {
            if part != Part::Test || classes.is_none() {
                return Err(T::unlabelled(first.clone()));
            }
            let (count, first) = (plural(files.len(), "file"), first.display());
            found.notes.push(format!("skipped {count} of the test set without labels: {first}"));
            continue;
        };
        let set = match &classes {
            Some(classes) => set.with_classes(classes)?,
            None => set,
        };
        classes.get_or_insert_with(|| set.classes().to_vec());
        found.add(part, set);
    }
    Ok(found)
}

/// Tries a list, tar files or parquet files.
pub(super) fn open(path: &Path) -> Result<Option<Found>> {
    if path.is_file() && has(path, &LISTS) {
        return lists(path);
    }
    for (ending, kind) in [("tar", "WebDataset files"), ("parquet", "parquet files")] {
        let mut found = Found::of(path, kind);
        let files = files(path, &[ending], &mut found.notes)?;
        if files.train.is_empty() && files.validation.is_empty() && files.test.is_empty() {
            continue;
        }
        return Ok(Some(match ending {
            "tar" => assemble::<WebDataset>(found, &files)?,
            _ => assemble::<Parquet>(found, &files)?,
        }));
    }
    Ok(None)
}

/// Tries a list, or the lists in a folder.
pub(super) fn lists(path: &Path) -> Result<Option<Found>> {
    let mut found = Found::of(path, "images listed");
    let mut files = files(path, &LISTS, &mut found.notes)?;
    if path.is_dir() {
        for (files, labelled) in
            [(&mut files.train, true), (&mut files.validation, true), (&mut files.test, false)]
        {
            files.retain(|file| manifest::is_list(file, labelled));
        }
        if files.train.is_empty() && files.validation.is_empty() {
            return Ok(None);
        }
    }
    let parts = manifest::open(&files, &mut found.notes)?;
    found.add_all(parts);
    Ok(Some(found))
}
