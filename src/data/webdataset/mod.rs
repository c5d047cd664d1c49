//! WebDataset tar files (github.com/webdataset): consecutive files with the same name up to the
//! first dot are a sample, an image and its label.

mod archive;
mod group;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use archive::{Archive, Place};
use group::{Groups, Name, Sample};

use super::decode::{HEAD, kind_of_name};
use super::labels::{Label, Numbers, known_classes, relabel};
use super::read::names_in;
use super::{Dataset, Image, ImageKind, sniff};
use crate::error::{Error, Result};
use crate::text::plural;
use crate::untrusted::{open_regular, printable, read_text};

/// Extensions of label files, the most reliable first.
const LABELS: [&str; 3] = ["cls", "json", "txt"];

/// Maximum bytes of a label file: a name, a number or JSON.
const LONGEST_LABEL: u64 = 64 << 10;

/// Maximum bytes of a list of classes.
const LONGEST_CLASSES: u64 = 16 << 20;

/// Images in tar files, read and decoded on access.
#[derive(Clone, Debug)]
pub struct WebDataset {
    pub(super) classes: Vec<String>,
    files: Vec<PathBuf>,
    samples: Vec<Indexed>,
}

/// Position and class of an image.
#[derive(Clone, Debug)]
struct Indexed {
    name: String,
    file: usize,
    place: Place,
    class: u32,
}

impl WebDataset {
    /// Lists the samples of tar files. The class is in a file `.cls` (a number) or `.txt` (a name),
    /// or under `label`, `cls` or `class` of a `.json`. Numbers keep their order; a file
    /// `classes.txt` in one of the tars or beside them names them, one per line.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Format`] if it is not a tar, a sample has
    /// no label or two images.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let mut notes = Vec::new();
        let set = Self::read(files, &mut notes)?;
        notes.iter().for_each(|note| log::warn!("{note}"));
        set.ok_or_else(|| unlabelled(files.first().cloned().unwrap_or_default()))
    }

    /// As [`WebDataset::open`]; `None` if there are samples but no labels.
    pub(super) fn read(files: &[PathBuf], notes: &mut Vec<String>) -> Result<Option<Self>> {
        let (mut samples, mut names, mut labelled) = (Vec::new(), None, false);
        let mut without = None;
        for (number, path) in files.iter().enumerate() {
            let found = shard(path, &mut names, notes)?;
            for Sample { name, place, label } in found {
                let sample = Indexed { name, file: number, place, class: 0 };
                match label {
                    Some(label) => {
                        labelled = true;
                        samples.push((sample, label));
                    }
                    None => without = without.or(Some(sample)),
                }
            }
        }
        match without {
            Some(Indexed { name, file, .. }) if labelled => {
                let key = Name::of(&name).map_or(name.as_str(), |name| name.key);
                let reason = format!(
                    "the sample `{}` has no label: expected {key}.cls, .txt or .json with `label`",
                    printable(key)
                );
                return Err(Error::format(&files[file], reason));
            }
            Some(_) => return Ok(None),
            None => {}
        }
        let names = match names {
            Some(names) => Some(names),
            None => beside(files)?,
        };
        let named = names.is_some();
        let classes =
            names.unwrap_or_else(|| known_classes(samples.iter().map(|(_, label)| label.text.as_str())));
        Self { classes, files: files.to_vec(), samples: Vec::new() }.with(samples, named).map(Some)
    }

    fn with(mut self, samples: Vec<(Indexed, Label)>, named: bool) -> Result<Self> {
        let numbers = Numbers::new(&self.classes, named);
        for (sample, label) in samples {
            let class = numbers.class(&label).ok_or_else(|| {
                let (class, name) = (printable(&label.text), printable(&sample.name));
                let reason = format!("the class `{class}` of `{name}` is not in classes.txt");
                Error::format(&self.files[sample.file], reason)
            })?;
            self.samples.push(Indexed { class, ..sample });
        }
        if self.samples.is_empty() {
            let file = self.files.first().cloned().unwrap_or_default();
            return Err(Error::format(file, "has no sample with an image"));
        }
        Ok(self)
    }

    /// The same samples with labels numbered as in `classes`.
    pub(super) fn with_classes(mut self, classes: &[String]) -> Result<Self> {
        let source = self.files.first().cloned().unwrap_or_default();
        relabel(&source, &self.classes, classes, self.samples.iter_mut().map(|s| &mut s.class))?;
        self.classes = classes.to_vec();
        Ok(self)
    }
}

/// Error for samples without labels.
pub(super) fn unlabelled(file: PathBuf) -> Error {
    Error::format(
        file,
        "has no sample with a label: expected .cls, .txt or .json with `label` for each image",
    )
}

/// Class names from a `classes.txt` next to the tars, or next to the part's folder that has them.
fn beside(files: &[PathBuf]) -> Result<Option<Vec<String>>> {
    let folder = files.first().and_then(|file| file.parent());
    let folders = [folder, folder.and_then(Path::parent)];
    for folder in folders.into_iter().flatten() {
        let path = folder.join("classes.txt");
        if path.is_file() {
            return Ok(Some(names_in(&read_text(&path)?)));
        }
    }
    Ok(None)
}

/// The samples of a tar; sets `names` if it has a `classes.txt`.
fn shard(path: &Path, names: &mut Option<Vec<String>>, notes: &mut Vec<String>) -> Result<Vec<Sample>> {
    let Archive { files, broken_links } = Archive::list(path)?;
    let (mut file, _) = open_regular(path)?;
    let text = |file: &mut File, name: &str, place: Place| {
        let content = archive::read_from(file, path, place)?;
        let reason = || format!("`{}` is not UTF-8 text", printable(name));
        let text = String::from_utf8(content).map_err(|_| Error::format(path, reason()))?;
        Ok::<String, Error>(text.strip_prefix('\u{feff}').map(String::from).unwrap_or(text))
    };
    let (mut groups, mut unread) = (Groups::default(), BTreeMap::<String, usize>::new());
    for (full, place) in &files {
        let base = full.rsplit('/').next().unwrap_or(full);
        if base == "classes.txt" && place.bytes <= LONGEST_CLASSES {
            *names = Some(names_in(&text(&mut file, full, *place)?));
            continue;
        }
        // macOS metadata files, which only look like images.
        if base.starts_with("._") {
            continue;
        }
        let kind = kind_of_name(Path::new(full));
        if let Some(ImageKind::Unreadable(format)) = &kind {
            *unread.entry(format.clone()).or_default() += 1;
        }
        let Some(name) = Name::of(full) else {
            // Without an extension there is no key; images among these are counted.
            let head = Place { bytes: place.bytes.min(HEAD), ..*place };
            if sniff(&archive::read_from(&mut file, path, head)?) != ImageKind::Other {
                *unread.entry("without an extension".into()).or_default() += 1;
            }
            continue;
        };
        if kind == Some(ImageKind::Readable) {
            groups.image(&name, full, *place);
        } else if let Some(rank) = LABELS.iter().position(|l| *l == name.ending)
            && place.bytes <= LONGEST_LABEL
            && let Some(label) = label(&name.ending, &text(&mut file, full, *place)?)
        {
            groups.label(&name, rank, label);
        } else {
            groups.other(&name);
        }
    }
    let (samples, beside) = groups.samples().map_err(|reason| Error::format(path, printable(&reason)))?;
    let path = path.display();
    if !unread.is_empty() {
        let each: Vec<String> = unread.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let images = plural(unread.values().sum::<usize>(), "image");
        let each = each.join(", ");
        notes.push(format!("skipped {images} in {path} in unsupported formats ({each}): store JPEG or PNG"));
    }
    if beside > 0 {
        let (images, annotate) =
            (plural(beside, "image"), if beside == 1 { "annotates" } else { "annotate" });
        notes.push(format!("skipped {images} in {path} that {annotate} others, as 1.seg.png does 1.jpg"));
    }
    if broken_links > 0 {
        let links = plural(broken_links, "link");
        notes.push(format!("skipped {links} in {path} to files that are not in it"));
    }
    Ok(samples)
}

fn label(extension: &str, content: &str) -> Option<Label> {
    if extension != "json" {
        let text = content.trim().to_string();
        // A numeric `.cls` is a class index.
        let counts = extension == "cls" && text.parse::<usize>().is_ok();
        return Some(Label { text, counts }).filter(|label| !label.text.is_empty());
    }
    let json: serde_json::Value = serde_json::from_str(content).ok()?;
    let value = ["label", "cls", "class"].iter().find_map(|key| json.get(key))?;
    let name = value.as_str().map(|text| Label { text: text.into(), counts: false });
    name.or_else(|| value.as_u64().map(|n| Label { text: n.to_string(), counts: true }))
}

impl Dataset for WebDataset {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> u32 {
        self.samples[index].class
    }

    fn image(&self, index: usize) -> Result<Image> {
        let Indexed { name, file, place, .. } = &self.samples[index];
        // Opened per read, because several workers read at the same time.
        let content = archive::read(&self.files[*file], *place)?;
        let decoded = Image::decode_as(&content, Some(Path::new(name)));
        decoded.map_err(|reason| Error::format(self.name(index), reason))
    }

    fn name(&self, index: usize) -> String {
        let Indexed { name, file, .. } = &self.samples[index];
        format!("{}:{}", self.files[*file].display(), printable(name))
    }

    fn stored_bytes(&self, index: usize) -> Option<u64> {
        Some(self.samples[index].place.bytes)
    }

    fn stored(&self, index: usize, limit: u64) -> Option<Vec<u8>> {
        let Indexed { file, place, .. } = &self.samples[index];
        archive::read(&self.files[*file], Place { bytes: place.bytes.min(limit), ..*place }).ok()
    }
}
