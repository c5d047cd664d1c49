//! Checks of page headers before any page is read or decompressed: announced sizes and numbers of
//! values.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use flate2::read::MultiGzDecoder;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};

use crate::text::plural;

/// A page may decompress to this many bytes whatever its compressed size.
const MAX_PAGE_BYTES: u64 = 256 << 20;

/// Maximum compression ratio of larger pages: images are compressed already.
const MAX_RATIO: u64 = 32;

/// Maximum rows of a row group.
pub(super) const MAX_ROWS: i64 = 4 << 20;

/// Maximum bytes of a page header, which may contain value statistics.
const MAX_HEADER_BYTES: u64 = 1 << 20;

fn wrong(reason: impl Into<String>) -> ParquetError {
    ParquetError::General(reason.into())
}

/// Sizes in a page header, in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Announced {
    /// The header itself.
    header: u64,
    compressed: u64,
    unpacked: u64,
    /// Uncompressed levels at the start of a version 2 data page.
    levels: u64,
}

/// Checks the announced sizes of all pages of a column. Returns their total decompressed bytes.
pub(super) fn check(file: &mut File, column: &ColumnChunkMetaData) -> Result<u64, ParquetError> {
    let length = file.metadata()?.len();
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let place =
        |value: i64| u64::try_from(value).map_err(|_| wrong("a column begins or ends before the file"));
    let (mut at, bytes) = (place(start)?, place(column.compressed_size())?);
    let end = at
        .checked_add(bytes)
        .filter(|end| *end <= length)
        .ok_or_else(|| wrong("a column ends after the file"))?;
    let mut total = 0u64;
    while at < end {
        let page = announced(file, at, end)?;
        let next = at + page.header + page.compressed;
        if next > end {
            return Err(wrong("a page ends after its column"));
        }
        if page.unpacked > MAX_PAGE_BYTES.max(page.compressed.saturating_mul(MAX_RATIO)) {
            let Announced { compressed, unpacked, .. } = page;
            return Err(wrong(format!(
                "a page of {compressed} bytes would decompress to {unpacked}, more than the limit"
            )));
        }
        if matches!(column.compression(), Compression::GZIP(_)) {
            // The only codec that writes beyond the announced size.
            check_gzip(file, at + page.header, &page)?;
        }
        total = total.saturating_add(page.unpacked);
        at = next;
    }
    Ok(total)
}

/// Checks that a gzip page decompresses to no more than announced, without storing it.
fn check_gzip(file: &mut File, at: u64, page: &Announced) -> Result<(), ParquetError> {
    file.seek(SeekFrom::Start(at.saturating_add(page.levels)))?;
    let packed = file.take(page.compressed.saturating_sub(page.levels));
    let most = page.unpacked.saturating_sub(page.levels);
    let mut unpacked = MultiGzDecoder::new(packed).take(most.saturating_add(1));
    // Failures, for example on an uncompressed page, are left to the reader.
    match std::io::copy(&mut unpacked, &mut std::io::sink()) {
        Ok(found) if found > most => Err(wrong("a page decompresses to more than it announces")),
        _ => Ok(()),
    }
}

/// Reads the header of the page at an offset.
fn announced(file: &mut File, at: u64, end: u64) -> Result<Announced, ParquetError> {
    // Most headers are short; the second, larger read is for those with statistics.
    for size in [1 << 12, MAX_HEADER_BYTES] {
        let size = size.min(end - at);
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        file.take(size).read_to_end(&mut bytes)?;
        if let Some(page) = (Compact { bytes: &bytes, at: 0 }).page() {
            return Ok(page);
        }
    }
    Err(wrong("the header of a page is damaged"))
}

/// The part of Thrift's compact protocol that page headers use; `None` on wrong or truncated bytes.
struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Maximum nesting of structures.
const MAX_DEPTH: usize = 16;

impl Compact<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A zigzag integer; `None` if negative.
    fn size(&mut self) -> Option<u64> {
        let value = self.varint()?;
        (value & 1 == 0).then_some(value >> 1)
    }

    fn page(&mut self) -> Option<Announced> {
        let (mut page, mut compressed, mut unpacked) = (Announced::default(), None, None);
        self.fields(0, |reader, field, kind| {
            match (field, kind) {
                (2, 5) => unpacked = Some(reader.size()?),
                (3, 5) => compressed = Some(reader.size()?),
                (8, 12) => reader.fields(1, |reader, field, kind| {
                    match (field, kind) {
                        (5 | 6, 5) => page.levels = page.levels.checked_add(reader.size()?)?,
                        _ => reader.skip(kind, 1)?,
                    }
                    Some(())
                })?,
                _ => reader.skip(kind, 0)?,
            }
            Some(())
        })?;
        Some(Announced { header: self.at as u64, compressed: compressed?, unpacked: unpacked?, ..page })
    }

    /// Calls `each` with the reader, field number and type of every field of a structure.
    fn fields(&mut self, depth: usize, mut each: impl FnMut(&mut Self, u64, u8) -> Option<()>) -> Option<()> {
        let mut field = 0u64;
        if depth > MAX_DEPTH {
            return None;
        }
        loop {
            let head = self.byte()?;
            let (delta, kind) = (head >> 4, head & 0x0f);
            if kind == 0 {
                return Some(());
            }
            field = if delta == 0 { self.size()? } else { field.checked_add(delta.into())? };
            each(self, field, kind)?;
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            1 | 2 => {}
            3 => drop(self.byte()?),
            4..=6 => drop(self.varint()?),
            7 => self.at = self.at.checked_add(8)?,
            8 => self.at = usize::try_from(self.varint()?).ok().and_then(|n| self.at.checked_add(n))?,
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                for _ in 0..count {
                    self.element(head & 0x0f, depth)?;
                }
            }
            11 => {
                let count = self.varint()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                for _ in 0..count {
                    self.element(kinds >> 4, depth)?;
                    self.element(kinds & 0x0f, depth)?;
                }
            }
            12 => self.fields(depth + 1, |reader, _, kind| reader.skip(kind, depth + 1))?,
            _ => return None,
        }
        // A position past the end fails at the next read.
        (self.at <= self.bytes.len()).then_some(())
    }

    /// An element of a list or map: unlike in a field, a boolean takes a byte.
    fn element(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        if matches!(kind, 1 | 2) { self.byte().map(drop) } else { self.skip(kind, depth + 1) }
    }
}

/// Pages of a column with checked numbers of values, because decoders allocate for as many as a
/// page claims.
pub(super) struct Checked {
    pages: Box<dyn PageReader>,
    rows: u64,
}

impl Checked {
    pub fn new(pages: Box<dyn PageReader>, group: &RowGroupMetaData) -> Self {
        Self { pages, rows: u64::try_from(group.num_rows()).unwrap_or(0) }
    }

    fn checked(&self, page: Page) -> Result<Page, ParquetError> {
        let (values, most) = match &page {
            // In a dictionary, a value takes at least one byte.
            Page::DictionaryPage { buf, num_values, .. } => (*num_values, buf.len() as u64),
            Page::DataPage { num_values, .. } | Page::DataPageV2 { num_values, .. } => {
                (*num_values, self.rows)
            }
        };
        if u64::from(values) > most {
            let values = plural(values, "value");
            return Err(wrong(format!("a page claims {values}, but the column has up to {most}")));
        }
        match page.encoding() {
            // The decoders of these encodings allocate for an unchecked number of lengths.
            encoding @ (Encoding::DELTA_BYTE_ARRAY | Encoding::DELTA_LENGTH_BYTE_ARRAY) => {
                Err(wrong(format!(
                    "the encoding {encoding} is not supported: write the column as PLAIN or with a dictionary"
                )))
            }
            _ => Ok(page),
        }
    }
}

impl Iterator for Checked {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Checked {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let page = self.pages.get_next_page()?;
        page.map(|page| self.checked(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.pages.skip_next_page()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_headers_parse_and_truncated_ones_fail() {
        // Type 0, 100 bytes unpacked, 60 in the file, a data page of 4 values, PLAIN, RLE, RLE.
        let header =
            [0x15, 0, 0x15, 0xc8, 1, 0x15, 0x78, 0x2c, 0x15, 8, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0, 0xff];
        let page = Compact { bytes: &header, at: 0 }.page().expect("a header");
        assert_eq!(page, Announced { header: 18, compressed: 60, unpacked: 100, levels: 0 });
        for end in 0..18 {
            assert_eq!(Compact { bytes: &header[..end], at: 0 }.page(), None, "{end} bytes");
        }
        // Endlessly nested structures.
        assert_eq!(Compact { bytes: &[0x1c; 1000], at: 0 }.page(), None);
    }
}
