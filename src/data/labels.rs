//! Class labels by name and by number, as found in data files.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use crate::error::{Error, Result};
use crate::untrusted::printable;

/// The classes of these labels: 0 to the largest if all labels are numbers, else the names in
/// alphabetical order.
pub(super) fn known_classes<'a>(labels: impl Iterator<Item = &'a str>) -> Vec<String> {
    /// Larger numbers are treated as names.
    const MOST: usize = 100_000;
    let names: BTreeSet<&str> = labels.collect();
    // `07` is a name, not the class number 7.
    let number = |name: &str| name.parse().ok().filter(|n: &usize| n.to_string() == name);
    let numbers: Option<Vec<usize>> = names.iter().map(|name| number(name)).collect();
    match numbers.and_then(|n| n.into_iter().max()) {
        Some(largest) if largest < MOST => (0..=largest).map(|n| n.to_string()).collect(),
        _ => names.into_iter().map(String::from).collect(),
    }
}

/// A sample's label as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub text: String,
    /// Whether it is the index of a class rather than a name if classes have names: label 1 of the
    /// classes `1`, `10`, `2` means `10`.
    pub counts: bool,
}

/// Maps labels to class indices.
pub(super) struct Numbers<'a> {
    by_name: HashMap<&'a str, u32>,
    count: usize,
    named: bool,
}

impl<'a> Numbers<'a> {
    /// For `classes` named by the data set (`named`), or derived from the labels by
    /// [`known_classes`].
    pub fn new(classes: &'a [String], named: bool) -> Self {
        // Among equal names the first is used.
        let by_name = classes.iter().map(String::as_str).zip(0..).collect::<Vec<_>>();
        Self { by_name: by_name.into_iter().rev().collect(), count: classes.len(), named }
    }

    /// The class index of a label.
    pub fn class(&self, label: &Label) -> Option<u32> {
        let by_name = || self.by_name.get(label.text.as_str()).copied();
        let by_number = || label.text.parse().ok().filter(|n: &u32| (*n as usize) < self.count);
        if self.named && label.counts { by_number() } else { by_name().or_else(by_number) }
    }
}

/// Maps a set's own class indices to those of the training set.
pub(super) fn relabel<'a>(
    source: &Path,
    own: &[String],
    classes: &[String],
    labels: impl Iterator<Item = &'a mut u32>,
) -> Result<()> {
    let numbers = Numbers::new(classes, false);
    let positions: Vec<Option<u32>> =
        own.iter().map(|name| numbers.by_name.get(name.as_str()).copied()).collect();
    for label in labels {
        let class = *label as usize;
        let name = || own.get(class).map_or("?", String::as_str);
        let unknown = || {
            let reason = format!("the class `{}` is not in the training set", printable(name()));
            Error::format(source, reason)
        };
        *label = positions.get(class).copied().flatten().ok_or_else(unknown)?;
    }
    Ok(())
}
