//! Limits on the header of a safetensors file.

/// Maximum bytes of the header; enough for a million class names.
pub(crate) const MAX_HEADER: usize = 16 << 20;

/// Maximum lists and objects in the header, three per tensor: a parsed one can take a hundred times
/// its length in memory.
const MAX_NESTED: usize = 1 << 18;

/// Checks that a header can be parsed in bounded memory. Malformed headers are left to the parser.
///
/// # Errors
/// The exceeded limit.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return Ok(()) };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER as u64 {
        return Err(format!("has a header of {length} bytes, more than the limit of {MAX_HEADER}"));
    }
    let header = &rest[..rest.len().min(usize::try_from(length).unwrap_or(usize::MAX))];
    let nested = nested(header);
    if nested > MAX_NESTED {
        return Err(format!("lists more than {} tensors", MAX_NESTED / 3));
    }
    Ok(())
}

/// Number of lists and objects in JSON.
pub(crate) fn nested(json: &[u8]) -> usize {
    json.iter().filter(|byte| matches!(byte, b'{' | b'[')).count()
}
