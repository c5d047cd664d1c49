//! A data set relabelled with a network's classes.

use std::sync::Arc;

use super::{Dataset, Image};
use crate::error::{Error, Result};
use crate::text::plural;
use crate::untrusted::printable;

/// A data set with labels mapped to a network's classes.
#[derive(Clone, Debug)]
struct Reclassed {
    set: Arc<dyn Dataset>,
    classes: Vec<String>,
    /// The network's class index for each class of the set.
    numbers: Vec<u32>,
}

/// Relabels a data set with `classes`, matched by name; some of these may have no images. Classes
/// that are only numbers (`0` to `9`) are matched by index if there are equally many.
///
/// # Errors
/// [`Error::Config`] if a class that has images is not among `classes`.
pub fn with_classes(set: Arc<dyn Dataset>, classes: &[String]) -> Result<Arc<dyn Dataset>> {
    let own = set.classes();
    if own == classes {
        return Ok(set);
    }
    let counted = |names: &[String]| names.iter().enumerate().all(|(i, name)| *name == i.to_string());
    if own.len() == classes.len() && (counted(own) || counted(classes)) {
        let numbers = (0..).take(own.len()).collect();
        return Ok(Arc::new(Reclassed { set, classes: classes.to_vec(), numbers }));
    }
    let mut used = vec![false; own.len()];
    for index in 0..set.len() {
        if let Some(used) = used.get_mut(set.label(index) as usize) {
            *used = true;
        }
    }
    let known: std::collections::HashMap<&String, u32> = classes.iter().zip(0..).collect();
    let unknown: Vec<&str> = own
        .iter()
        .zip(&used)
        .filter(|(name, used)| **used && !known.contains_key(name))
        .map(|(name, _)| name.as_str())
        .collect();
    if !unknown.is_empty() {
        let list = |names: &mut dyn Iterator<Item = &str>| {
            printable(&names.take(12).collect::<Vec<_>>().join(", ")).into_owned()
        };
        let count = plural(unknown.len(), "class");
        let are = if unknown.len() == 1 { "is" } else { "are" };
        let (unknown, classes) =
            (list(&mut unknown.into_iter()), list(&mut classes.iter().map(String::as_str)));
        return Err(Error::Config(format!(
            "{count} of the data set {are} not in the checkpoint: {unknown}; it has {classes}"
        )));
    }
    // A class without images maps to any class.
    let numbers = own.iter().map(|name| known.get(name).copied().unwrap_or(0)).collect();
    Ok(Arc::new(Reclassed { set, classes: classes.to_vec(), numbers }))
}

impl Dataset for Reclassed {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> u32 {
        self.numbers[self.set.label(index) as usize]
    }

    fn image(&self, index: usize) -> Result<Image> {
        self.set.image(index)
    }

    fn name(&self, index: usize) -> String {
        self.set.name(index)
    }

    fn stored_bytes(&self, index: usize) -> Option<u64> {
        self.set.stored_bytes(index)
    }

    fn stored(&self, index: usize, limit: u64) -> Option<Vec<u8>> {
        self.set.stored(index, limit)
    }
}
