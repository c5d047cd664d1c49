//! A folder of pictures, one sub-folder a class.

use std::path::{Path, PathBuf};

use super::{Dataset, Picture, is_picture};
use crate::error::{Error, Result};

/// Pictures in sub-folders, decoded when they are asked for.
#[derive(Clone, Debug)]
pub struct Folder {
    classes: Vec<String>,
    files: Vec<(PathBuf, u32)>,
}

impl Folder {
    /// Pictures in these files, each with its class.
    #[cfg(feature = "formats")]
    pub(super) fn of(classes: Vec<String>, files: Vec<(PathBuf, u32)>) -> Self {
        Self { classes, files }
    }

    /// Lists the pictures. The classes are the sub-folders in alphabetical order; hidden ones and those without pictures are left out.
    ///
    /// # Errors
    /// [`Error::Io`] if a folder cannot be read, [`Error::Format`] if there are fewer than two classes.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut set = Self { classes: Vec::new(), files: Vec::new() };
        for class in entries(folder)?.into_iter().filter(|p| p.is_dir()) {
            let (files, others): (Vec<PathBuf>, Vec<PathBuf>) =
                entries(&class)?.into_iter().partition(|p| is_picture(p));
            warn_of_unreadable(&class, &others);
            if files.is_empty() {
                continue;
            }
            let number = u32::try_from(set.classes.len()).unwrap_or(u32::MAX);
            set.classes.push(file_name(&class));
            set.files.extend(files.into_iter().map(|file| (file, number)));
        }
        if set.classes.len() < 2 {
            let reason = "must have at least two sub-folders with pictures, one for each class";
            return Err(Error::format(folder, reason));
        }
        Ok(set)
    }

    /// Lists the pictures of classes that are known already.
    ///
    /// # Errors
    /// As [`Folder::open`], and [`Error::Format`] if a sub-folder is none of these classes.
    pub fn open_with(folder: &Path, classes: &[String]) -> Result<Self> {
        let found = Self::open(folder)?;
        let number = |name: &String| {
            let position = classes.iter().position(|c| c == name).and_then(|i| u32::try_from(i).ok());
            position.ok_or_else(|| Error::format(folder.join(name), "is no class of the training part"))
        };
        let numbers = found.classes.iter().map(number).collect::<Result<Vec<u32>>>()?;
        let files = found.files.into_iter().map(|(file, class)| (file, numbers[class as usize])).collect();
        Ok(Self { classes: classes.to_vec(), files })
    }
}

/// Formats of pictures that cannot be read, by the endings of their files: what cameras and phones make.
const UNREADABLE: [&str; 9] = ["heic", "heif", "avif", "jxl", "cr2", "cr3", "nef", "arw", "dng"];

/// Says how many pictures of a folder are passed over for their format.
fn warn_of_unreadable(folder: &Path, files: &[PathBuf]) {
    let ending = |path: &PathBuf| path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let endings: Vec<String> =
        files.iter().filter_map(ending).filter(|e| UNREADABLE.contains(&e.as_str())).collect();
    if let Some(first) = endings.first() {
        let (count, folder) = (endings.len(), folder.display());
        log::warn!(
            "{folder}: {count} pictures are passed over, as .{first} cannot be read: convert them to jpeg or png"
        );
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What a folder holds, in alphabetical order, without hidden files.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut paths = Vec::new();
    for entry in list {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if !file_name(&path).starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
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

    fn picture(&self, index: usize) -> Result<Picture> {
        Picture::read(&self.files[index].0)
    }

    fn name(&self, index: usize) -> String {
        self.files[index].0.display().to_string()
    }
}
