//! The JSON description in the header of this crate's safetensors files.

use std::path::Path;

use super::ModelMetadata;
use crate::error::{Error, Result};
use crate::formats::{MAX_HEADER, nested};
use crate::model::Model;

/// Maximum number of lists and objects in the description: blocks of the network and the run's
/// configuration.
const MAX_DESCRIBED: usize = 1 << 14;

/// The description of a checkpoint from its JSON.
///
/// # Errors
/// [`Error::Format`] naming the invalid field.
pub(super) fn describe<M: Model>(path: &Path, json: &str) -> Result<ModelMetadata<M>> {
    let text = |reason: &str| format!("its description cannot be read: {reason}");
    let fail = |reason: &str| Error::format(path, text(reason));
    let damaged = |reason: &str, e: serde_json::Error| Error::damaged(path, text(reason), e);
    if json.len() > MAX_HEADER || nested(json.as_bytes()) > MAX_DESCRIBED {
        return Err(fail("it is longer than any description that incept writes"));
    }
    let mut parser = serde_json::Deserializer::from_str(json);
    let metadata: ModelMetadata<M> = serde_path_to_error::deserialize(&mut parser).map_err(|e| {
        let field = e.path().to_string();
        let source = e.into_inner();
        damaged(&if field == "." { source.to_string() } else { format!("`{field}`: {source}") }, source)
    })?;
    parser.end().map_err(|e| damaged(&e.to_string(), e))?;
    Ok(metadata)
}
