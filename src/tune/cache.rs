//! Cache file of tuning results.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::gpu::{AdapterSummary, Gpu};
use crate::kernel::Profile;
use crate::output::{cache_folder, write_atomically};
use crate::plan::Choices;
use crate::untrusted::{MAX_TEXT_BYTES, read_file};

/// Cache of an adapter, driver and set of limits, for this version of the engine. A file with other
/// content is ignored, and overwritten on saving.
#[derive(Clone, Debug)]
pub struct TuneCache {
    path: PathBuf,
    identity: Identity,
}

/// What times depend on besides shapes and kernels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    engine: String,
    adapter: String,
    backend: String,
    driver: String,
    opened: String,
}

/// Limits and features of an opened device: with default limits or without matrices, other kernels
/// are fastest.
fn opened(profile: &Profile) -> String {
    let matrices = profile.cooperative.map_or_else(String::new, |m| {
        let (half, single) = (if m.f16 { ".f16" } else { "" }, if m.f32 { ".f32" } else { "" });
        format!(" matrices {}{half}{single}", m.size)
    });
    format!("{} wide {} bytes{matrices}", profile.invocations, profile.workgroup_memory)
}

#[derive(Serialize, Deserialize)]
struct Content {
    #[serde(flatten)]
    identity: Identity,
    choices: Choices,
}

impl TuneCache {
    /// The cache of a device, in `INCEPT_CACHE_DIR` or the system's cache folder.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no such folder.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        Ok(Self::in_folder(&cache_folder()?, gpu.summary(), gpu.profile()))
    }

    /// The cache of an adapter and profile in this folder.
    pub fn in_folder(folder: &Path, adapter: &AdapterSummary, profile: &Profile) -> Self {
        let identity = Identity {
            engine: env!("CARGO_PKG_VERSION").into(),
            adapter: adapter.name.clone(),
            backend: adapter.backend.clone(),
            driver: adapter.driver.clone(),
            opened: opened(profile),
        };
        let Identity { engine, adapter, backend, driver, opened } = &identity;
        // Names may contain any characters and be of any length.
        let parts = [(adapter, 48), (backend, 12), (driver, 64), (opened, 48), (engine, 16)];
        let parts = parts.map(|(text, length)| file_name(text, length));
        let path = folder.join(format!("tune-{}.json", parts.join("-")));
        Self { path, identity }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Loads the choices; empty without a file. A damaged file, or one of another adapter, driver
    /// or version, is logged and ignored.
    pub fn load(&self) -> Choices {
        let ignored = |reason: String| {
            log::warn!("{}: {reason}; it is ignored, and overwritten after tuning", self.path.display());
            Choices::default()
        };
        let bytes = match read_file(&self.path, MAX_TEXT_BYTES) {
            Ok(bytes) => bytes,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Choices::default();
            }
            Err(error) => return ignored(error.to_string()),
        };
        match serde_json::from_slice::<Content>(&bytes) {
            Ok(content) if content.identity == self.identity => content.choices,
            Ok(content) => ignored(format!("is for {:?}", content.identity)),
            Err(error) => ignored(format!("is not a tuning cache: {error}")),
        }
    }

    /// Adds choices to the file; they replace older ones with the same key.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written; the old file is then unchanged.
    pub fn save(&self, choices: &Choices) -> Result<()> {
        let mut all = self.load();
        all.extend(choices.clone());
        let content = Content { identity: self.identity.clone(), choices: all };
        let bytes = serde_json::to_vec_pretty(&content).map_err(Error::unwritable)?;
        write_atomically(&self.path, &bytes)
    }
}

/// A text as part of a file name: letters, digits and dots; everything else becomes dashes.
fn file_name(text: &str, length: usize) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').filter(|word| !word.is_empty());
    let name: String = words.collect::<Vec<_>>().join("-").to_lowercase().chars().take(length).collect();
    name.trim_matches(['-', '.']).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_file_names_are_sanitized() {
        assert_eq!(file_name("llvmpipe (LLVM 19.1.7, 256 bits)", 48), "llvmpipe-llvm-19.1.7-256-bits");
        assert_eq!(file_name("../../etc", 48), "etc");
        assert_eq!(file_name("Größe/7", 48), "gr-e-7");
        assert_eq!(file_name("abcdef", 3), "abc");
    }
}
