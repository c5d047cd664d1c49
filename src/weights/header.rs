//! The header of a safetensors file: how much of it is believed, and the description that this crate puts into it.

use std::path::Path;

use super::Metadata;
use crate::error::{Error, Result};

/// Bytes that the header may have. A million classes by name fit.
pub(super) const MAX_HEADER: usize = 16 << 20;

/// Lists and objects in the header, three for each tensor: a short one takes a hundred times its length when it is parsed.
const MAX_NESTED: usize = 1 << 18;

/// Lists and objects in the description: blocks of the network, and what the run was configured with.
const MAX_DESCRIBED: usize = 1 << 14;

/// Checks that a header can be parsed in little memory. What is malformed is left to the parser.
///
/// # Errors
/// Why it is refused.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return Ok(()) };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER as u64 {
        return Err(format!("has a header of {length} bytes, and at most {MAX_HEADER} are read"));
    }
    let header = &rest[..rest.len().min(usize::try_from(length).unwrap_or(usize::MAX))];
    let nested = nested(header);
    if nested > MAX_NESTED {
        return Err(format!("lists more than {} tensors", MAX_NESTED / 3));
    }
    Ok(())
}

fn nested(json: &[u8]) -> usize {
    json.iter().filter(|byte| matches!(byte, b'{' | b'[')).count()
}

/// The description of a checkpoint from its JSON.
///
/// # Errors
/// [`Error::Format`] with the field at fault.
pub(super) fn describe(path: &Path, json: &str) -> Result<Metadata> {
    let text = |reason: &str| format!("its description cannot be read: {reason}");
    let fail = |reason: &str| Error::format(path, text(reason));
    let damaged = |reason: &str, e: serde_json::Error| Error::damaged(path, text(reason), e);
    if json.len() > MAX_HEADER || nested(json.as_bytes()) > MAX_DESCRIBED {
        return Err(fail("it is longer than any that incept writes"));
    }
    let mut parser = serde_json::Deserializer::from_str(json);
    let metadata: Metadata = serde_path_to_error::deserialize(&mut parser).map_err(|e| {
        let field = e.path().to_string();
        let source = e.into_inner();
        damaged(&if field == "." { source.to_string() } else { format!("`{field}`: {source}") }, source)
    })?;
    parser.end().map_err(|e| damaged(&e.to_string(), e))?;
    Ok(metadata)
}
