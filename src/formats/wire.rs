//! Memory estimate of a protocol buffer from its wire format, before decoding. A message of two
//! bytes may become a struct of hundreds of bytes, so a file of megabytes could need gigabytes.

/// Bytes allowed for any file, enough for a graph of ten thousand nodes.
const FREE: usize = 256 << 20;

/// Additional bytes allowed per byte of the file: a varint of one byte becomes an i64.
const GROWTH: usize = 8;

/// Maximum nesting of messages. The supported formats need six levels.
const MAX_DEPTH: usize = 32;

/// A type of message: its decoded size and the fields that are decoded.
#[derive(Debug)]
pub(super) struct Shape {
    /// Bytes of the struct and of what it is converted to.
    pub bytes: usize,
    pub fields: &'static [(u32, Field)],
}

/// A decoded field; all others are skipped and take no memory.
#[derive(Debug)]
pub(super) enum Field {
    /// A message.
    Message(&'static Shape),
    /// Text or bytes.
    Text,
    /// Numbers with this decoded size in bytes, single or packed.
    Numbers(usize),
}

/// Checks that a message of this shape can be decoded in memory proportional to its length.
/// Malformed messages are left to the decoder.
///
/// # Errors
/// The exceeded limit.
pub(super) fn check(bytes: &[u8], shape: &Shape) -> Result<(), String> {
    let limit = bytes.len().saturating_mul(GROWTH).saturating_add(FREE);
    let mut scan = Scan { left: limit, length: bytes.len() };
    scan.message(bytes, shape, 0)
}

struct Scan {
    /// Remaining bytes.
    left: usize,
    length: usize,
}

impl Scan {
    fn take(&mut self, bytes: usize) -> Result<(), String> {
        let length = self.length;
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            format!("would need far more memory than its {length} bytes justify: it is damaged")
        })?;
        Ok(())
    }

    fn message(&mut self, mut rest: &[u8], shape: &Shape, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("has messages nested in more than {MAX_DEPTH} levels"));
        }
        self.take(shape.bytes)?;
        while let Some(key) = varint(&mut rest) {
            let number = u32::try_from(key >> 3).unwrap_or(0);
            let field = shape.fields.iter().find(|(known, _)| *known == number).map(|(_, field)| field);
            let content = match key & 7 {
                0 => varint(&mut rest).map(|_| None),
                1 => skip(&mut rest, 8).map(|_| None),
                2 => {
                    let length = varint(&mut rest).and_then(|length| usize::try_from(length).ok());
                    length.and_then(|length| skip(&mut rest, length)).map(Some)
                }
                5 => skip(&mut rest, 4).map(|_| None),
                _ => return Err("has groups, which its format does not use".into()),
            };
            // Truncated: the decoder reports it.
            let Some(content) = content else { return Ok(()) };
            match (field, content) {
                (Some(Field::Message(inner)), Some(content)) => self.message(content, inner, depth + 1)?,
                (Some(Field::Text), Some(content)) => self.take(size_of::<String>() + content.len())?,
                (Some(Field::Numbers(each)), Some(content)) => self.take(each * numbers(content, *each))?,
                (Some(Field::Numbers(each)), None) => self.take(*each)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Upper bound on the numbers in a packed field: fixed-size ones take at least four bytes each, and
/// varints end with a byte below 128.
fn numbers(packed: &[u8], each: usize) -> usize {
    packed.iter().filter(|byte| **byte < 0x80).count().max(packed.len() / each.max(1))
}

/// The next `count` bytes; `None` if there are fewer.
fn skip<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

/// The next varint.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (i, byte) in rest.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *rest = &rest[i + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    static INNER: Shape = Shape { bytes: 1000, fields: &[(1, Field::Text), (2, Field::Numbers(8))] };
    static OUTER: Shape =
        Shape { bytes: 0, fields: &[(1, Field::Message(&INNER)), (2, Field::Message(&OUTER))] };

    #[test]
    fn many_empty_messages_are_rejected_before_decoding() {
        assert_eq!(check(&[0x0a, 0].repeat(1000), &OUTER), Ok(()));
        let error = check(&[0x0a, 0].repeat(1_000_000), &OUTER).expect_err("a gigabyte");
        assert!(error.contains("2000000 bytes"), "{error}");
        // Skipped fields take no memory.
        assert_eq!(check(&[0x7a, 0].repeat(1_000_000), &OUTER), Ok(()));
    }

    #[test]
    fn long_tensors_are_accepted() {
        let mut bytes = vec![0x0a, 0x85, 0x80, 0x80, 0x40, 0x0a, 0x80, 0x80, 0x80, 0x40];
        bytes.resize(bytes.len() + (128 << 20), 7);
        assert_eq!(check(&bytes, &OUTER), Ok(()));
    }

    #[test]
    fn deep_nesting_and_groups_are_rejected() {
        let mut nested = Vec::new();
        for _ in 0..40 {
            nested = [&[0x12, nested.len() as u8][..], &nested].concat();
        }
        assert!(check(&nested, &OUTER).is_err_and(|e| e.contains("32 levels")));
        assert!(check(&[0x0b, 0x0c], &OUTER).is_err_and(|e| e.contains("groups")));
    }

    #[test]
    fn truncated_messages_are_left_to_the_decoder() {
        for bytes in [&[0x0a][..], &[0x0a, 5, 1], &[0x80; 12], &[0x0d, 1, 2]] {
            assert_eq!(check(bytes, &OUTER), Ok(()));
        }
    }
}
