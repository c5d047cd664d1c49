//! Listing of folders: images at any depth in an order independent of the file system, and counts
//! of skipped files.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::{ImageKind, image_kind};
use crate::error::{Error, Result};
use crate::text::plural;

/// The images below a folder.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    /// Images; those of a folder precede those of its sub-folders, each in alphabetical order.
    pub images: Vec<PathBuf>,
    /// Counts of images in unsupported formats, by format name.
    pub unreadable: BTreeMap<String, usize>,
}

impl Listing {
    fn add(&mut self, file: PathBuf) {
        match image_kind(&file) {
            ImageKind::Readable => self.images.push(file),
            ImageKind::Unreadable(name) => *self.unreadable.entry(name).or_default() += 1,
            ImageKind::Other => {}
        }
    }

    /// Adds the counts of another listing.
    pub fn count(&mut self, other: &Self) {
        for (name, count) in &other.unreadable {
            *self.unreadable.entry(name.clone()).or_default() += count;
        }
    }

    /// Message about images in unsupported formats; `None` if there are none.
    pub fn note(&self, folder: &Path) -> Option<String> {
        let total: usize = self.unreadable.values().sum();
        let each: Vec<String> =
            self.unreadable.iter().map(|(name, count)| format!("{count} {name}")).collect();
        (total > 0).then(|| {
            format!(
                "skipped {} in {} in unsupported formats ({}): convert to JPEG or PNG",
                plural(total, "image"),
                folder.display(),
                each.join(", ")
            )
        })
    }
}

/// The entries of a folder in alphabetical order, without hidden ones.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(listed(folder)?.into_iter().map(|(path, _)| path).collect())
}

/// The sub-folders of a folder in alphabetical order, without hidden ones; links to folders count.
pub(super) fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(listed(folder)?.into_iter().filter(|(_, is_dir)| *is_dir).map(|(path, _)| path).collect())
}

/// As [`entries`], and whether each is a folder.
fn listed(folder: &Path) -> Result<Vec<(PathBuf, bool)>> {
    let list = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut paths = Vec::new();
    for entry in list {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type().map_err(|e| Error::io(&path, e))?;
        // Only links are followed for their type: a `stat` of each of a million files would be
        // slow.
        let is_dir = kind.is_dir() || (kind.is_symlink() && path.is_dir());
        paths.push((path, is_dir));
    }
    paths.sort();
    Ok(paths)
}

/// Whether a sub-folder is a link to its own parent or above.
pub(super) fn leads_back(folder: &Path, inner: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    real(folder).zip(real(inner)).is_none_or(|(here, there)| here.starts_with(there))
}

/// Calls `visit` with the files of a folder and its sub-folders until it returns `false`. Links are
/// followed except to parent folders, and each real folder is entered once, so cyclic links end.
fn visit(root: &Path, mut visit: impl FnMut(PathBuf) -> bool) -> Result<()> {
    let (mut waiting, mut entered) = (vec![root.to_path_buf()], HashSet::new());
    let real_root = std::fs::canonicalize(root).map_err(|e| Error::io(root, e))?;
    while let Some(folder) = waiting.pop() {
        let Ok(real) = std::fs::canonicalize(&folder) else { continue };
        let back = real_root != real && real_root.starts_with(&real);
        if back || !entered.insert(real) {
            continue;
        }
        let (folders, files): (Vec<_>, Vec<_>) =
            listed(&folder)?.into_iter().partition(|(_, is_dir)| *is_dir);
        for (file, _) in files {
            if !visit(file) {
                return Ok(());
            }
        }
        waiting.extend(folders.into_iter().rev().map(|(path, _)| path));
    }
    Ok(())
}

/// All images in a folder and the folders below it.
pub(super) fn images(folder: &Path) -> Result<Listing> {
    let mut found = Listing::default();
    visit(folder, |file| {
        found.add(file);
        true
    })?;
    Ok(found)
}

/// The images in a folder itself, without sub-folders.
pub(super) fn images_beside(folder: &Path) -> Result<Listing> {
    let mut found = Listing::default();
    listed(folder)?.into_iter().filter(|(_, is_dir)| !is_dir).for_each(|(file, _)| found.add(file));
    Ok(found)
}

/// Whether a folder has an image at any depth.
pub(super) fn has_images(folder: &Path) -> Result<bool> {
    let mut found = false;
    visit(folder, |file| {
        found = image_kind(&file) == ImageKind::Readable;
        !found
    })?;
    Ok(found)
}

/// The images in a folder and its sub-folders in alphabetical order, and a note about images in
/// unsupported formats. Links are followed, hidden files skipped.
///
/// # Errors
/// [`Error::Io`] if a folder cannot be read.
pub fn list_images(folder: &Path) -> Result<(Vec<PathBuf>, Option<String>)> {
    let found = images(folder)?;
    let note = found.note(folder);
    let mut images = found.images;
    images.sort();
    Ok((images, note))
}

/// The last component of a path.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether a folder itself, without sub-folders, has an image.
pub(super) fn has_images_beside(folder: &Path) -> Result<bool> {
    let readable = |(file, is_dir): &(PathBuf, bool)| !is_dir && image_kind(file) == ImageKind::Readable;
    Ok(listed(folder)?.iter().any(readable))
}
