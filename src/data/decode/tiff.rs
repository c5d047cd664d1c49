//! TIFF tags that the decoder ignores: the fill order, and premultiplied alpha.

use std::borrow::Cow;
use std::io::Cursor;

use tiff::decoder::Decoder;
use tiff::tags::Tag;

use super::Alpha;

/// ExtraSamples 1: premultiplied alpha.
const ASSOCIATED: u16 = 1;
/// FillOrder 2: the first pixel of a byte is in its lowest bit.
const LOW_FIRST: u16 = 2;
/// JPEG compression, which has its own bit order whatever the tag says.
const JPEG: u16 = 7;

/// The file with its pixels in the fill order that the decoder expects, and its kind of alpha.
pub(super) fn prepared(bytes: Cow<'_, [u8]>) -> Result<(Cow<'_, [u8]>, Alpha), String> {
    let mut decoder = Decoder::new(Cursor::new(bytes.as_ref())).map_err(|e| e.to_string())?;
    let mut numbers = |tag: Tag| -> Result<Vec<u64>, String> {
        Ok(decoder.find_tag_unsigned_vec(tag).map_err(|e| e.to_string())?.unwrap_or_default())
    };
    let is = |values: Vec<u64>, wanted: u16| values.first() == Some(&u64::from(wanted));
    let extra = numbers(Tag::ExtraSamples)?;
    let alpha = if is(extra, ASSOCIATED) { Alpha::Associated } else { Alpha::Straight };
    if !is(numbers(Tag::FillOrder)?, LOW_FIRST) || is(numbers(Tag::Compression)?, JPEG) {
        return Ok((bytes, alpha));
    }
    let mut chunks = Vec::new();
    for (offsets, lengths) in
        [(Tag::StripOffsets, Tag::StripByteCounts), (Tag::TileOffsets, Tag::TileByteCounts)]
    {
        chunks.extend(numbers(offsets)?.into_iter().zip(numbers(lengths)?));
    }
    Ok((Cow::Owned(reversed(bytes.into_owned(), chunks)), alpha))
}

/// Reverses the bits of each byte in these ranges (offset, length); a byte in several ranges is
/// reversed once.
fn reversed(mut bytes: Vec<u8>, mut chunks: Vec<(u64, u64)>) -> Vec<u8> {
    chunks.sort_unstable();
    let end = bytes.len();
    let mut done = 0;
    for (offset, length) in chunks {
        let within = |at: u64| usize::try_from(at).map_or(end, |at| at.min(end));
        let (from, to) = (within(offset).max(done), within(offset.saturating_add(length)));
        if from < to {
            bytes[from..to].iter_mut().for_each(|b| *b = b.reverse_bits());
            done = to;
        }
    }
    bytes
}
