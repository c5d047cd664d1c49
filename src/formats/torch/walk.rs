//! Finding tensors in the objects of a pickle: by the keys of dictionaries, the places of lists and
//! the attributes of modules. What else is there is skipped and reported.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet, VecDeque};

use super::view::{View, tensor};
use crate::formats::pickle::{Handle, Object, Pickle};
use crate::untrusted::printable;

/// What no honest file exceeds, so that short ones cannot stand for endless names.
const MAX_DEPTH: usize = 32;
const MAX_NAME: usize = 1024;
/// Bytes of names beyond the pickle's own length: short keys of deep dictionaries are repeated.
const MOST_NAMES: usize = 1 << 20;
/// Skipped objects that are reported by name.
const MOST_SKIPPED: usize = 1000;

/// The parts of a pickled module that hold tensors; they are not in the names of a state dict.
const MODULE_PARTS: [&str; 3] = ["_parameters", "_buffers", "_modules"];

/// The tensors of a pickle, and what lies beside them, by name and class.
#[derive(Debug)]
pub(super) struct Found {
    pub views: Vec<View>,
    pub skipped: Vec<String>,
}

/// All tensors of a pickle, however deep.
///
/// # Errors
/// The tensor that is not described as torch does it; names without end.
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
    // An object in which a tensor was found was not skipped.
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
    /// Bytes of all names so far.
    names: usize,
    seen: HashSet<Handle>,
    /// Containers that were not looked into yet, with their names and depths.
    open: VecDeque<(String, Handle, usize)>,
    views: BTreeMap<String, View>,
    /// Classes by name.
    skipped: BTreeMap<String, String>,
}

impl Walk<'_> {
    /// Visits what a container holds.
    fn look_into(&mut self, prefix: &str, handle: Handle, depth: usize) -> Result<(), String> {
        // Each is looked at once, so that one that holds itself comes to an end.
        if !self.seen.insert(handle) {
            return Ok(());
        }
        if depth > MAX_DEPTH {
            self.skip(prefix, "nested too deep");
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
                        // Its name says enough, however many of them it holds.
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

    /// An object of any class: its attributes may hold tensors. Those of modules are named as their
    /// state dict would name them.
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
        // What TorchScript compiled has its parameters and modules as attributes, and calls for
        // lists of numbers.
        if !kind.starts_with("__torch__.") && !kind.starts_with("torch.jit._pickle.") {
            self.skip(&name, &kind);
        }
        if let Some(state) = state.filter(|_| !entries.is_empty()) {
            self.open.push_back((name, state, depth + 1));
        }
        Ok(())
    }

    /// Whether a value is a number, a text or nothing: the epoch, for example, which is not worth a
    /// word.
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

    /// The name of what `key` stands for in a container. Names are put together from keys: those of
    /// an honest file take less than it does.
    fn join(&mut self, prefix: &str, key: &str) -> Result<String, String> {
        self.names += prefix.len() + 1 + key.len();
        if prefix.len() + key.len() > MAX_NAME || self.names > self.pickle.length + MOST_NAMES {
            return Err("has names that are longer than the file".into());
        }
        Ok(if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") })
    }
}

/// Why a pickle without tensors is of no use, by what it holds instead.
pub(super) fn nothing_found(pickle: &Pickle) -> String {
    let advice = "save `model.state_dict()`";
    match pickle.get(pickle.root) {
        Object::Call { .. } | Object::Global { .. } => format!(
            "has no tensors by name but `{}`, which is neither imported nor called here: {advice}",
            pickle.kind(pickle.root)
        ),
        _ => format!("has no tensors by name: {advice}"),
    }
}
