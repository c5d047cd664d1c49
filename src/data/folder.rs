//! Folders of images, one sub-folder per class.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::walk::{self, Listing, file_name};
use super::{Dataset, Image};
use crate::error::{Error, Result};
use crate::text::plural;
use crate::untrusted::{open_regular, read_up_to};

/// Images in sub-folders, decoded on access.
#[derive(Clone, Debug)]
pub struct Folder {
    classes: Vec<String>,
    files: Vec<(PathBuf, u32)>,
}

/// Image files per class, sorted by class name.
pub(super) type ClassFiles = Vec<(String, Vec<PathBuf>)>;

impl Folder {
    /// Images in these files, each with its class.
    #[cfg(feature = "formats")]
    pub(super) fn of(classes: Vec<String>, files: Vec<(PathBuf, u32)>) -> Self {
        Self { classes, files }
    }

    /// Lists the images. Classes are the sub-folders in alphabetical order with all images in them
    /// at any depth, as in torchvision's `ImageFolder`; hidden and empty folders are skipped.
    ///
    /// # Errors
    /// [`Error::Io`] if a folder cannot be read, [`Error::Format`] if there are fewer than two
    /// classes.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut notes = Vec::new();
        let set = Self::from_classes(class_files(folder, &mut notes)?);
        notes.iter().for_each(|note| log::warn!("{note}"));
        set.checked(folder)
    }

    /// Lists the images of given classes; some of these may have none.
    ///
    /// # Errors
    /// As [`Folder::open`], and [`Error::Format`] if a sub-folder with images is not one of these
    /// classes.
    pub fn open_with(folder: &Path, classes: &[String]) -> Result<Self> {
        let mut notes = Vec::new();
        let found = class_files(folder, &mut notes)?;
        notes.iter().for_each(|note| log::warn!("{note}"));
        Self::with_classes(folder, found, classes)
    }

    /// A data set of these classes, numbered in their order.
    pub(super) fn from_classes(found: ClassFiles) -> Self {
        let mut set = Self { classes: Vec::new(), files: Vec::new() };
        for (number, (class, files)) in (0..).zip(found) {
            set.classes.push(class);
            set.files.extend(files.into_iter().map(|file| (file, number)));
        }
        set
    }

    /// A data set of files whose classes are looked up by name in `classes`.
    pub(super) fn with_classes(folder: &Path, found: ClassFiles, classes: &[String]) -> Result<Self> {
        let numbers: HashMap<&String, u32> = classes.iter().zip(0..).collect();
        let mut set = Self { classes: classes.to_vec(), files: Vec::new() };
        for (class, files) in found {
            let unknown = || Error::format(folder.join(&class), "is not a class of the training set");
            let number = *numbers.get(&class).ok_or_else(unknown)?;
            set.files.extend(files.into_iter().map(|file| (file, number)));
        }
        if set.files.is_empty() {
            return Err(Error::format(folder, "has no images in class folders"));
        }
        Ok(set)
    }

    /// Checks that there are at least two classes.
    pub(super) fn checked(self, folder: &Path) -> Result<Self> {
        if self.classes.len() < 2 {
            let reason = "must have at least two sub-folders with images, one per class";
            return Err(Error::format(folder, reason));
        }
        Ok(self)
    }
}

/// The images of each sub-folder, with notes of what was skipped.
pub(super) fn class_files(folder: &Path, notes: &mut Vec<String>) -> Result<ClassFiles> {
    let (mut found, mut skipped, mut empty) = (Vec::new(), Listing::default(), Vec::new());
    for class in walk::folders(folder)? {
        if walk::leads_back(folder, &class) {
            notes.push(format!("skipped {}: it is a link to one of its parent folders", class.display()));
            continue;
        }
        let listing = walk::images(&class)?;
        skipped.count(&listing);
        if listing.images.is_empty() {
            empty.push(file_name(&class));
        } else {
            found.push((file_name(&class), listing.images));
        }
    }
    let beside = walk::images_beside(folder)?;
    skipped.count(&beside);
    notes.extend(skipped.note(folder));
    if !beside.images.is_empty() && !found.is_empty() {
        let (images, name) = (plural(beside.images.len(), "image"), folder.display());
        notes.push(format!("skipped {images} in {name} outside of class folders"));
    }
    if !empty.is_empty() && !found.is_empty() {
        let names: Vec<&str> = empty.iter().take(5).map(String::as_str).collect();
        let more = if empty.len() > 5 { ", ..." } else { "" };
        let (folders, folder) = (plural(empty.len(), "folder"), folder.display());
        notes.push(format!("skipped {folders} in {folder} without images: {}{more}", names.join(", ")));
    }
    Ok(found)
}

impl Dataset for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> u32 {
        self.files[index].1
    }

    fn image(&self, index: usize) -> Result<Image> {
        Image::read(&self.files[index].0)
    }

    fn name(&self, index: usize) -> String {
        self.files[index].0.display().to_string()
    }

    fn stored_bytes(&self, index: usize) -> Option<u64> {
        std::fs::metadata(&self.files[index].0).ok().filter(std::fs::Metadata::is_file).map(|m| m.len())
    }

    fn stored(&self, index: usize, limit: u64) -> Option<Vec<u8>> {
        use std::io::Read as _;
        let (file, _) = open_regular(&self.files[index].0).ok()?;
        read_up_to(file.take(limit), limit).ok()?.ok()
    }
}
