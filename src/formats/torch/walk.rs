//! Search for tensors in a pickle: in dictionaries, lists and attributes of modules. Other objects
//! are skipped and reported.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet, VecDeque};

use super::view::{View, tensor};
use crate::formats::pickle::{Handle, Object, Pickle};
use crate::untrusted::printable;

/// Limits beyond any valid file, so a short file cannot describe endless names.
const MAX_DEPTH: usize = 32;
const MAX_NAME: usize = 1024;
/// Bytes of names allowed beyond the pickle's length: keys of outer dictionaries are repeated.
const MOST_NAMES: usize = 1 << 20;
/// Maximum skipped objects that are reported.
const MOST_SKIPPED: usize = 1000;

/// Attributes of a pickled module that contain tensors; they are not part of state dict names.
const MODULE_PARTS: [&str; 3] = ["_parameters", "_buffers", "_modules"];

/// The tensors of a pickle, and the names and classes of skipped objects.
#[derive(Debug)]
pub(super) struct Found {
    pub views: Vec<View>,
    pub skipped: Vec<String>,
}

/// Finds all tensors of a pickle at any depth.
///
/// # Errors
/// A malformed tensor description, or names that are too long in total.
pub(super) fn walk(pickle: &Pickle) -> Result<Found, String> {
    let mut walk = Walk {
        pickle,
        names: 0,
        seen: HashSet::new(),
        open: VecDeque::new(),
        views: BTreeMap::new(),
        skipped: BTreeMap::new(),
    };
    walk.visit(String::new(), pickle.root, 0)?;
    while let Some((name, handle, depth)) = walk.open.pop_front() {
        walk.look_into(&name, handle, depth)?;
    }
    // An object that contains tensors was not skipped.
    let Walk { views, mut skipped, .. } = walk;
    skipped.retain(|name, _| {
        let inside = format!("{name}.");
        !name.is_empty()
            && views.range(inside.clone()..).next().is_none_or(|(view, _)| !view.starts_with(&inside))
    });
    let skipped = skipped.iter().map(|(name, kind)| format!("{} ({kind})", printable(name))).collect();
    Ok(Found { views: views.into_values().collect(), skipped })
}

struct Walk<'a> {
    pickle: &'a Pickle,
    /// Total bytes of names so far.
    names: usize,
    seen: HashSet<Handle>,
    /// Containers to visit, with their names and depths.
    open: VecDeque<(String, Handle, usize)>,
    views: BTreeMap<String, View>,
    /// Classes of skipped objects by name.
    skipped: BTreeMap<String, String>,
}

impl Walk<'_> {
    /// Visits the items of a container.
    fn look_into(&mut self, prefix: &str, handle: Handle, depth: usize) -> Result<(), String> {
        // Each container is visited once, so a cycle ends.
        if !self.seen.insert(handle) {
            return Ok(());
        }
        if depth > MAX_DEPTH {
            self.skip(prefix, "nested too deeply");
            return Ok(());
        }
        let pickle = self.pickle;
        match pickle.get(handle) {
            Object::Dict(entries) => {
                for (key, value) in entries {
                    if self.is_plain(*value) {
                        continue;
                    }
                    let name = match pickle.get(*key) {
                        Object::Text(text) => self.join(prefix, text)?,
                        Object::Int(number) => self.join(prefix, &number.to_string())?,
                        _ => self.join(prefix, &format!("<{}>", pickle.kind(*key)))?,
                    };
                    self.visit(name, *value, depth)?;
                }
            }
            Object::List(items) | Object::Tuple(items) => {
                for (i, item) in items.iter().enumerate() {
                    match pickle.get(*item) {
                        _ if self.is_plain(*item) => {}
                        // One report per container is enough.
                        Object::Global { .. } | Object::Set | Object::Bytes(_) | Object::Persistent(_) => {
                            self.skip(prefix, &format!("with {}", pickle.kind(*item)));
                        }
                        _ => {
                            let name = self.join(prefix, &i.to_string())?;
                            self.visit(name, *item, depth)?;
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn visit(&mut self, name: String, handle: Handle, depth: usize) -> Result<(), String> {
        match self.pickle.get(handle) {
            Object::Dict(_) | Object::List(_) | Object::Tuple(_) => {
                self.open.push_back((name, handle, depth + 1));
            }
            Object::Call { state, .. } => match tensor(self.pickle, &name, handle)? {
                Some(Ok(view)) => self.take(name, view),
                Some(Err(kind)) => self.skip(&name, &kind),
                None => self.attributes(name, handle, *state, depth)?,
            },
            Object::Global { .. } | Object::Set | Object::Bytes(_) | Object::Persistent(_) => {
                self.skip(&name, &self.pickle.kind(handle));
            }
            _ => {}
        }
        Ok(())
    }

    /// Keeps a tensor under its name.
    fn take(&mut self, name: String, view: View) {
        match self.views.entry(name) {
            Entry::Occupied(entry) => {
                let name = entry.key().clone();
                self.skip(&name, "a second tensor of this name");
            }
            Entry::Vacant(entry) if !entry.key().is_empty() => {
                entry.insert(view);
            }
            Entry::Vacant(_) => {}
        }
    }

    /// Visits the attributes of an object of any class. Tensors of modules are named as in their
    /// state dict.
    fn attributes(
        &mut self,
        name: String,
        handle: Handle,
        state: Option<Handle>,
        depth: usize,
    ) -> Result<(), String> {
        let pickle = self.pickle;
        let entries = match state.map(|state| pickle.get(state)) {
            Some(Object::Dict(entries)) => entries.as_slice(),
            _ => &[],
        };
        let part = |wanted: &str| entries.iter().find(|(key, _)| pickle.text(*key) == Some(wanted));
        if MODULE_PARTS.iter().all(|name| part(name).is_some()) {
            let parts = MODULE_PARTS.iter().filter_map(|name| part(name));
            self.open.extend(parts.map(|(_, value)| (name.clone(), *value, depth + 1)));
            return Ok(());
        }
        let kind = pickle.kind(handle);
        // TorchScript objects have parameters and modules as attributes, and calls for lists of
        // numbers.
        if !kind.starts_with("__torch__.") && !kind.starts_with("torch.jit._pickle.") {
            self.skip(&name, &kind);
        }
        if let Some(state) = state.filter(|_| !entries.is_empty()) {
            self.open.push_back((name, state, depth + 1));
        }
        Ok(())
    }

    /// Whether a value is a number, string or `None`, such as the epoch, which is not reported.
    fn is_plain(&self, handle: Handle) -> bool {
        matches!(
            self.pickle.get(handle),
            Object::None | Object::Bool(_) | Object::Int(_) | Object::Float(_) | Object::Text(_)
        )
    }

    fn skip(&mut self, name: &str, kind: &str) {
        if self.skipped.len() < MOST_SKIPPED && !self.skipped.contains_key(name) {
            self.skipped.insert(name.to_string(), kind.to_string());
        }
    }

    /// Joins a container's name and a key. The total length of names is limited: in a valid file
    /// they are shorter than the file.
    fn join(&mut self, prefix: &str, key: &str) -> Result<String, String> {
        self.names += prefix.len() + 1 + key.len();
        if prefix.len() + key.len() > MAX_NAME || self.names > self.pickle.length + MOST_NAMES {
            return Err("has names that are longer than the file in total".into());
        }
        Ok(if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") })
    }
}

/// Error for a pickle without tensors, naming what it contains instead.
pub(super) fn nothing_found(pickle: &Pickle) -> String {
    let advice = "save `model.state_dict()`";
    match pickle.get(pickle.root) {
        Object::Call { .. } | Object::Global { .. } => format!(
            "has no named tensors but `{}`, which is not executed: {advice}",
            pickle.kind(pickle.root)
        ),
        _ => format!("has no named tensors: {advice}"),
    }
}
