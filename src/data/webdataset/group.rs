//! Grouping of an archive's files into samples, as in WebDataset: consecutive files with the same
//! name up to the first dot.

use std::collections::HashMap;

use super::super::labels::Label;
use super::archive::Place;

/// Parts of a path: `key` up to the first dot of the file name, `stem` up to the last dot, and the
/// extension after it in lowercase.
pub(super) struct Name<'a> {
    pub key: &'a str,
    pub stem: &'a str,
    pub ending: String,
}

impl<'a> Name<'a> {
    pub fn of(name: &'a str) -> Option<Self> {
        let start = name.rfind('/').map_or(0, |i| i + 1);
        let first = start + name[start..].find('.').filter(|dot| *dot > 0)?;
        let last = name.rfind('.')?;
        Some(Self { key: &name[..first], stem: &name[..last], ending: name[last + 1..].to_lowercase() })
    }
}

/// The images and labels that share a key.
#[derive(Debug, Default)]
pub(super) struct Group {
    key: String,
    /// Names of images and positions of their content.
    images: Vec<(String, Place)>,
    /// Labels: stem, rank by reliability (0 is the most reliable) and value.
    labels: Vec<(String, usize, Label)>,
}

/// An image with its label, if it has one.
pub(super) struct Sample {
    pub name: String,
    pub place: Place,
    pub label: Option<Label>,
}

/// Groups of an archive's files, in order.
#[derive(Debug, Default)]
pub(super) struct Groups(Vec<Group>);

impl Groups {
    /// The group of a file: the last one if it has the same key.
    fn at(&mut self, key: &str) -> &mut Group {
        if self.0.last().is_none_or(|group| group.key != key) {
            self.0.push(Group { key: key.to_string(), ..Group::default() });
        }
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    pub fn image(&mut self, name: &Name<'_>, full: &str, place: Place) {
        self.at(name.key).images.push((full.to_string(), place));
    }

    pub fn label(&mut self, name: &Name<'_>, rank: usize, label: Label) {
        self.at(name.key).labels.push((name.stem.to_string(), rank, label));
    }

    /// A file that is neither image nor label; it continues a group or starts a new one.
    pub fn other(&mut self, name: &Name<'_>) {
        self.at(name.key);
    }

    /// The samples, and the number of images that only annotate another one: `1.seg.png` for
    /// `1.jpg`.
    ///
    /// # Errors
    /// Two images for one sample.
    pub fn samples(self) -> Result<(Vec<Sample>, usize), String> {
        let (mut samples, mut beside) = (Vec::new(), 0);
        for group in joined(self.0) {
            beside += group.samples(&mut samples)?;
        }
        Ok((samples, beside))
    }
}

/// Joins labels to images of the same key that are not consecutive, as in archives sorted by
/// extension.
fn joined(groups: Vec<Group>) -> Vec<Group> {
    let mut labels: HashMap<String, Vec<Group>> = HashMap::new();
    let mut images = Vec::new();
    for group in groups {
        if group.images.is_empty() {
            labels.entry(group.key.clone()).or_default().push(group);
        } else {
            images.push(group);
        }
    }
    for group in images.iter_mut().filter(|group| group.labels.is_empty()) {
        if let Some(found) = labels.remove(&group.key) {
            group.labels = found.into_iter().flat_map(|group| group.labels).collect();
        }
    }
    images
}

impl Group {
    /// Adds the group's samples; returns the number of images that are not samples.
    fn samples(self, samples: &mut Vec<Sample>) -> Result<usize, String> {
        let dots = |name: &str| name.rsplit('/').next().map_or(0, |file| file.matches('.').count());
        let least = self.images.iter().map(|(name, _)| dots(name)).min().unwrap_or(0);
        // An image with more dots than others annotates one of them; with equally many it is
        // another sample: `cam.0001.png`, `cam.0002.png`.
        let (own, beside): (Vec<_>, Vec<_>) = self.images.iter().partition(|(name, _)| dots(name) == least);
        let mut stems: HashMap<&str, &str> = HashMap::new();
        for (name, place) in &own {
            let stem = Name::of(name).map_or("", |name| name.stem);
            if let Some(other) = stems.insert(stem, name) {
                return Err(format!("the sample `{stem}` has two images, `{other}` and `{name}`"));
            }
            let label = self.label(stem, own.len() == 1);
            samples.push(Sample { name: name.clone(), place: *place, label });
        }
        Ok(beside.len())
    }

    /// The best label for an image: with its stem, else with the key, else any if the image is the
    /// only one; then by rank; then the last, which is the newest in a tar.
    fn label(&self, stem: &str, only: bool) -> Option<Label> {
        let distance = |label: &str| match label {
            same if same == stem => Some(0),
            key if key == self.key => Some(1),
            _ => only.then_some(2),
        };
        let found = self.labels.iter().rev();
        let found = found.filter_map(|(name, rank, label)| Some(((distance(name)?, *rank), label)));
        found.min_by_key(|(order, _)| *order).map(|(_, label)| label.clone())
    }
}
