//! Sharded weights with an index of the file of each tensor, as Hugging Face saves large models.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;

use super::{Content, FileTensor, Foreign};
use crate::error::{Error, Result};
use crate::untrusted::{MAX_FILE_BYTES, printable, read_file};

/// `model.safetensors.index.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Parses an index; `None` if the file is not one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        json.then(|| serde_json::from_slice(bytes).ok()).flatten()
    }

    /// Reads the tensors of all shards in the folder of the index at `path`, and the names of
    /// skipped objects.
    ///
    /// # Errors
    /// [`Error::Format`] naming the shard or the tensor that is missing.
    pub fn read(&self, path: &Path) -> Result<(BTreeMap<String, FileTensor>, Vec<String>)> {
        let fail = |reason: String| Error::format(path, reason);
        let files: BTreeSet<&String> = self.weight_map.values().collect();
        let (mut tensors, mut skipped) = (BTreeMap::new(), Vec::new());
        for file in files {
            let name = printable(file);
            let mut parts = Path::new(file).components();
            let beside = matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
            if !beside {
                return Err(fail(format!("names the shard `{name}`, which is not in the same folder")));
            }
            let shard = path.parent().unwrap_or(Path::new("")).join(file);
            if !shard.exists() {
                return Err(fail(format!(
                    "the shard `{name}` is missing: all shards must be in the folder of the index"
                )));
            }
            let other = || fail(format!("the shard `{name}` is neither safetensors nor a torch file"));
            let bytes = read_file(&shard, MAX_FILE_BYTES)?;
            // A shard that is an index could name itself and be read endlessly.
            if Self::parse(&bytes).is_some() {
                return Err(other());
            }
            let read = Foreign::from_bytes(&shard, &bytes)?;
            let Content::Tensors(found) = read.content else { return Err(other()) };
            skipped.extend(read.skipped);
            for (tensor, content) in found {
                if self.weight_map.get(&tensor) == Some(file) {
                    tensors.insert(tensor, content);
                } else {
                    skipped.push(format!("{} (in `{name}`, but not in the index)", printable(&tensor)));
                }
            }
        }
        match self.weight_map.iter().find(|(tensor, _)| !tensors.contains_key(*tensor)) {
            Some((tensor, file)) => Err(fail(format!(
                "`{}` is not in `{}`, contrary to the index",
                printable(tensor),
                printable(file)
            ))),
            None => Ok((tensors, skipped)),
        }
    }
}

/// Error text for a file that is a single shard by its name, `model-00001-of-00002.safetensors`;
/// `None` for other names.
pub(crate) fn part_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (before, count) = name.rsplit_once("-of-")?;
    let (stem, part) = before.rsplit_once('-')?;
    let (count, ending) = count.split_once('.')?;
    let number = |digits: &str| digits.parse::<u32>().ok();
    let (part, count) = (number(part)?, number(count).filter(|count| *count > 1)?);
    let index = format!("{stem}.{ending}.index.json");
    let place = match path.with_file_name(&index).exists() {
        true => "which is in the same folder",
        false => "which must be in the folder of all shards",
    };
    Some(format!("is shard {part} of {count} of a network: import `{}`, {place}", printable(&index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_recognized_by_name() {
        let part = part_of(Path::new("none/model-00002-of-00003.safetensors")).expect("is a shard");
        assert!(part.contains("shard 2 of 3") && part.contains("`model.safetensors.index.json`"), "{part}");
        for whole in ["model.safetensors", "model-00001-of-00001.safetensors", "x-of-y.pth", "one-of-2.bin"] {
            assert_eq!(part_of(Path::new(whole)), None, "{whole}");
        }
    }

    #[test]
    fn index_as_its_own_shard_is_rejected() {
        let folder = tempfile::tempdir().expect("a folder");
        for (file, part) in [("self.json", "self.json"), ("a.json", "b.json"), ("b.json", "a.json")] {
            let index = format!(r#"{{"weight_map": {{"x": "{part}"}}}}"#);
            std::fs::write(folder.path().join(file), index).expect("can be written");
        }
        for file in ["self.json", "a.json"] {
            let error = Foreign::read(&folder.path().join(file)).expect_err("no weights").to_string();
            assert!(error.contains(file) && error.contains("neither safetensors"), "{error}");
        }
    }

    #[test]
    fn shards_outside_the_folder_are_rejected() {
        for elsewhere in ["../a.safetensors", "/etc/passwd", "x/y.safetensors", "", ".."] {
            let index = Index::parse(format!(r#"{{"weight_map": {{"w": "{elsewhere}"}}}}"#).as_bytes());
            let error = index.expect("is an index").read(Path::new("i.json")).expect_err("is elsewhere");
            assert!(error.to_string().contains("not in the same folder"), "{error}");
        }
    }
}
