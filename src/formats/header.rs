//! The header of a safetensors file: how much of it is believed.

/// Bytes that the header may have. A million classes by name fit.
pub(crate) const MAX_HEADER: usize = 16 << 20;

/// Lists and objects in the header, three for each tensor: a short one takes a hundred times its
/// length when it is parsed.
const MAX_NESTED: usize = 1 << 18;

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

/// Lists and objects in JSON.
pub(crate) fn nested(json: &[u8]) -> usize {
    json.iter().filter(|byte| matches!(byte, b'{' | b'[')).count()
}
