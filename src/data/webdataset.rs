//! WebDataset's tar files (github.com/webdataset): files that share a name up to its first dot are one sample, a picture and its class.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{Dataset, Label, Picture, is_picture, known_classes, relabel};
use crate::error::{Error, Result};

/// Files that say the class, the surest first.
const LABELS: [&str; 3] = ["cls", "json", "txt"];

/// Longest file of a class that is read: a name or a number, or a line of JSON.
const LONGEST_LABEL: u64 = 64 << 10;

/// Pictures in tar files, read and decoded when they are asked for.
#[derive(Clone, Debug)]
pub struct WebDataset {
    pub(super) classes: Vec<String>,
    files: Vec<PathBuf>,
    samples: Vec<Sample>,
}

/// Where a picture lies.
#[derive(Clone, Debug)]
struct Sample {
    key: String,
    file: usize,
    offset: u64,
    bytes: u64,
    class: u32,
}

/// What was found of a sample so far.
#[derive(Default)]
struct Partial {
    /// Of several pictures the one with the fewest endings: `1.jpg` is the picture and `1.seg.png` what somebody marked in it.
    picture: Option<(usize, Place)>,
    /// Of several files the one that is surest to be the class: a `.txt` may be a caption.
    label: Option<(usize, Label)>,
}

/// File, offset and bytes.
type Place = (usize, u64, u64);

/// Keeps what has the lower rank; of equals the later one, which tar counts as the newer.
fn prefer<T>(kept: &mut Option<(usize, T)>, rank: usize, found: T) {
    if kept.as_ref().is_none_or(|(other, _)| rank <= *other) {
        *kept = Some((rank, found));
    }
}

impl WebDataset {
    /// Lists the samples of tar files. The class is in a file `.cls` (a number) or `.txt` (a name), or under `label`, `cls` or `class` of a
    /// `.json`. Numbers keep their order; a file `classes.txt` in one of the tars or beside them names them, a line each.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Format`] if it is no tar or a sample has no class.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let mut found: Vec<(String, Partial)> = Vec::new();
        let mut names = None;
        for (number, path) in files.iter().enumerate() {
            // A key counts within one file: shards may repeat them.
            let mut keys: BTreeMap<String, usize> = BTreeMap::new();
            let file = File::open(path).map_err(|e| Error::io(path, e))?;
            let mut archive = tar::Archive::new(file);
            let damaged = |e| Error::format(path, format!("cannot be read as tar: {e}"));
            for entry in archive.entries_with_seek().map_err(damaged)? {
                let mut entry = entry.map_err(damaged)?;
                if !entry.header().entry_type().is_file() {
                    continue;
                }
                let name = entry.path().map_err(damaged)?.to_string_lossy().into_owned();
                if Path::new(&name).file_name().is_some_and(|n| n == "classes.txt") {
                    names = Some(text(path, &name, &mut entry)?);
                    continue;
                }
                let Some((key, extension)) = divided(&name) else { continue };
                let index = *keys.entry(key.clone()).or_insert_with(|| {
                    found.push((key, Partial::default()));
                    found.len() - 1
                });
                let partial = &mut found[index].1;
                if is_picture(Path::new(&name)) {
                    let endings = name.rsplit('/').next().map_or(0, |file| file.matches('.').count());
                    let place = (number, entry.raw_file_position(), entry.size());
                    prefer(&mut partial.picture, endings, place);
                } else if let Some(rank) = LABELS.iter().position(|l| *l == extension)
                    && entry.size() <= LONGEST_LABEL
                {
                    let content = text(path, &name, &mut entry)?;
                    if let Some(label) = label(&extension, &content) {
                        prefer(&mut partial.label, rank, label);
                    }
                }
            }
        }
        let mut samples = Vec::new();
        for (key, partial) in found {
            let Some((_, (file, offset, bytes))) = partial.picture else { continue };
            let Some((_, label)) = partial.label else {
                let reason = format!(
                    "the sample `{key}` has no class: expected {key}.cls, .txt or .json with `label`"
                );
                return Err(Error::format(&files[file], reason));
            };
            samples.push((Sample { key, file, offset, bytes, class: 0 }, label));
        }
        let beside = || {
            let folder = files.first()?.parent()?;
            std::fs::read_to_string(folder.join("classes.txt")).ok()
        };
        let names = names.or_else(beside);
        let named = names.is_some();
        let classes = match names {
            Some(text) => text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect(),
            None => known_classes(samples.iter().map(|(_, label)| label.text.as_str())),
        };
        Self { classes, files: files.to_vec(), samples: Vec::new() }.with(samples, named)
    }

    fn with(mut self, samples: Vec<(Sample, Label)>, named: bool) -> Result<Self> {
        for (sample, label) in samples {
            let class = label.class(&self.classes, named).ok_or_else(|| {
                let (class, key) = (&label.text, &sample.key);
                let reason = format!("the class `{class}` of `{key}` is not in classes.txt");
                Error::format(&self.files[sample.file], reason)
            })?;
            self.samples.push(Sample { class, ..sample });
        }
        if self.samples.is_empty() {
            let file = self.files.first().cloned().unwrap_or_default();
            return Err(Error::format(file, "has no sample with a picture"));
        }
        Ok(self)
    }

    /// The same samples with the numbers of classes that are known already.
    pub(super) fn with_classes(mut self, classes: &[String]) -> Result<Self> {
        let source = self.files.first().cloned().unwrap_or_default();
        relabel(&source, &self.classes, classes, self.samples.iter_mut().map(|s| &mut s.class))?;
        self.classes = classes.to_vec();
        Ok(self)
    }
}

/// The name up to the first dot of its last part, and what follows the last dot, in small letters.
fn divided(name: &str) -> Option<(String, String)> {
    let start = name.rfind('/').map_or(0, |i| i + 1);
    let dot = start + name[start..].find('.').filter(|dot| *dot > 0)?;
    let extension = name.rsplit('.').next()?;
    Some((name[..dot].into(), extension.to_lowercase()))
}

fn text(path: &Path, name: &str, entry: &mut impl Read) -> Result<String> {
    let mut text = String::new();
    let read = entry.take(LONGEST_LABEL).read_to_string(&mut text);
    read.map_err(|e| Error::format(path, format!("`{name}` cannot be read: {e}")))?;
    Ok(text)
}

fn label(extension: &str, content: &str) -> Option<Label> {
    if extension != "json" {
        let text = content.trim().to_string();
        // A `.cls` counts if it can.
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

    fn picture(&self, index: usize) -> Result<Picture> {
        let Sample { file, offset, bytes, .. } = &self.samples[index];
        let path = &self.files[*file];
        // A file of its own for each read: workers read at the same time.
        let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
        file.seek(SeekFrom::Start(*offset)).map_err(|e| Error::io(path, e))?;
        let mut content = Vec::new();
        file.take(*bytes).read_to_end(&mut content).map_err(|e| Error::io(path, e))?;
        Picture::decode(&content).map_err(|reason| Error::format(self.name(index), reason))
    }

    fn name(&self, index: usize) -> String {
        let Sample { key, file, .. } = &self.samples[index];
        format!("{}:{key}", self.files[*file].display())
    }
}
