//! Classes by name and by number, as files of other programs have them.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use crate::error::{Error, Result};
use crate::untrusted::printable;

/// The classes that labels name: in order of their numbers where all are numbers, from 0 to the
/// largest, else in alphabetical order.
pub(super) fn known_classes<'a>(labels: impl Iterator<Item = &'a str>) -> Vec<String> {
    /// Numbers beyond are names.
    const MOST: usize = 100_000;
    let names: BTreeSet<&str> = labels.collect();
    // `07` is a name: there is no class `7` beside it.
    let number = |name: &str| name.parse().ok().filter(|n: &usize| n.to_string() == name);
    let numbers: Option<Vec<usize>> = names.iter().map(|name| number(name)).collect();
    match numbers.and_then(|n| n.into_iter().max()) {
        Some(largest) if largest < MOST => (0..=largest).map(|n| n.to_string()).collect(),
        _ => names.into_iter().map(String::from).collect(),
    }
}

/// A class as a sample has it.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub text: String,
    /// Whether it counts the classes where these have names, and is not the name of one: class 1 of
    /// `1`, `10`, `2` is `10`.
    pub counts: bool,
}

/// Finds the numbers of labels.
pub(super) struct Numbers<'a> {
    by_name: HashMap<&'a str, u32>,
    count: usize,
    named: bool,
}

impl<'a> Numbers<'a> {
    /// For classes whose names the data set brought along (`named`), or which were found as
    /// [`known_classes`] of the labels.
    pub fn new(classes: &'a [String], named: bool) -> Self {
        // The first of equal names counts.
        let by_name = classes.iter().map(String::as_str).zip(0..).collect::<Vec<_>>();
        Self { by_name: by_name.into_iter().rev().collect(), count: classes.len(), named }
    }

    /// The number of a label's class.
    pub fn class(&self, label: &Label) -> Option<u32> {
        let by_name = || self.by_name.get(label.text.as_str()).copied();
        let by_number = || label.text.parse().ok().filter(|n: &u32| (*n as usize) < self.count);
        if self.named && label.counts { by_number() } else { by_name().or_else(by_number) }
    }
}

/// Turns the numbers of a set's own classes into those of a training set's.
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
