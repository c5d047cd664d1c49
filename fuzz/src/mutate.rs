//! Mutates files like damage or an attacker would: flipped bits, numbers at their limits, pieces
//! deleted, repeated or exchanged. Mutants are deterministic given the seed.
//!
//! In half of the mutants checksums are recomputed, which would otherwise keep the mutation from
//! the parser.

use std::io::{Cursor, Read, Write};
use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The outcome of reading a file; errors are fine.
pub type Outcome = Result<(), String>;

/// Maximum growth of a mutant over its seed in bytes.
const GROWTH: usize = 64 << 10;

/// Replacements for numbers in text.
const NUMBERS: [&str; 14] = [
    "0",
    "-1",
    "1e300",
    "1e999",
    "-1e-320",
    "NaN",
    "null",
    "255",
    "65536",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "0.1",
];

/// Replacements for words in text.
const WORDS: [&str; 12] =
    ["", "null", "[]", "{}", "[[[[[[[[", "\"", "\u{1b}[2J", "\u{202e}", "../../x", "\n", ",", "\u{feff}"];

/// The root of the repository: this package's folder or one above it.
pub fn repository() -> &'static Path {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|folder| folder.join("tests/fixtures").is_dir());
    root.expect("the fixtures are a part of the repository")
}

/// Makes mutants.
#[derive(Debug)]
pub struct Mutator {
    random: ChaCha8Rng,
}

impl Mutator {
    /// A mutator whose mutants depend only on this seed.
    pub fn new(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed) }
    }

    fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { self.random.random_range(0..end) }
    }

    /// A mutated copy of `seed`; it may contain pieces of `other`.
    pub fn mutant(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let repaired = self.below(2) == 0;
        if repaired && let Some(mutant) = self.inside(seed) {
            return mutant;
        }
        let mut bytes = seed.to_vec();
        self.change(&mut bytes, other);
        if repaired {
            repair(&mut bytes);
        }
        bytes
    }

    /// Mutates compressed content: that of gz, or an entry of a zip archive.
    fn inside(&mut self, seed: &[u8]) -> Option<Vec<u8>> {
        if seed.starts_with(&[0x1f, 0x8b]) {
            let mut content = Vec::new();
            flate2::read::GzDecoder::new(seed).take(16 << 20).read_to_end(&mut content).ok()?;
            self.change(&mut content, &[]);
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(&content).ok()?;
            return packed.finish().ok();
        }
        if seed.starts_with(b"PK\x03\x04") {
            return self.entry(seed);
        }
        None
    }

    fn entry(&mut self, seed: &[u8]) -> Option<Vec<u8>> {
        let mut archive = zip::ZipArchive::new(Cursor::new(seed)).ok()?;
        let mut packed = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        let chosen = self.below(archive.len());
        for i in 0..archive.len() {
            let mut entry = archive.by_index(i).ok()?;
            let name = entry.name().ok()?.into_owned();
            let mut content = Vec::new();
            entry.by_ref().take(16 << 20).read_to_end(&mut content).ok()?;
            drop(entry);
            // Prefer the metadata over one of the many storages.
            if i == chosen || name.ends_with(".pkl") && self.below(4) > 0 {
                self.change(&mut content, &[]);
            }
            packed.start_file(name, options).ok()?;
            packed.write_all(&content).ok()?;
        }
        packed.finish().ok().map(Cursor::into_inner)
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let most = bytes.len() + GROWTH;
        let count = if self.below(8) == 0 { 16 } else { 1 + self.below(4) };
        let text = is_text(bytes);
        for _ in 0..count {
            match self.below(if text { 16 } else { 10 }) {
                1..=3 | 8 => self.number(bytes),
                4 => self.cut(bytes),
                5 => self.repeat(bytes),
                6 => self.exchange(bytes, other),
                7 => self.noise(bytes),
                9 if self.below(4) == 0 => bytes.truncate(self.below(bytes.len() + 1)),
                0 | 9 => self.flip(bytes),
                10..=13 => self.text_number(bytes),
                _ => self.word(bytes),
            }
            bytes.truncate(most);
        }
    }

    /// A position in a file of `length` bytes: mostly in its header, often at its end, where
    /// archives have their directory.
    fn place(&mut self, length: usize) -> usize {
        let share: f64 = self.random.random();
        let at = match self.below(8) {
            0..=3 => share.powi(4) * length as f64,
            4 => (1.0 - share.powi(4)) * length as f64,
            5 => share * length.min(64) as f64,
            _ => share * length as f64,
        };
        (at as usize).min(length.saturating_sub(1))
    }

    fn flip(&mut self, bytes: &mut [u8]) {
        let at = self.place(bytes.len());
        let bit = self.below(8);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }

    /// An integer of 1 to 8 bytes at one of its limits, in either byte order.
    fn number(&mut self, bytes: &mut [u8]) {
        let width = [1, 1, 2, 4, 4, 8][self.below(6)];
        let bits = 8 * width as u32;
        let all = u64::MAX >> (64 - bits);
        let near = self.below(40) as u64;
        let value = match self.below(8) {
            0 => 0,
            1 => 1,
            2 => all,
            3 => all >> 1,
            4 => (all >> 1) + 1,
            5 => all - near,
            6 => near,
            _ => 1 << self.below(bits as usize),
        };
        let encoded =
            if self.below(2) == 0 { value.to_le_bytes() } else { (value << (64 - bits)).to_be_bytes() };
        let at = self.place(bytes.len());
        for (byte, new) in bytes.iter_mut().skip(at).zip(&encoded[..width]) {
            *byte = *new;
        }
    }

    /// A range, mostly short.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.place(length);
        let longest = if self.below(4) == 0 { length } else { 32 };
        let end = (start + 1 + self.below(longest)).min(length);
        start..end
    }

    fn cut(&mut self, bytes: &mut Vec<u8>) {
        let range = self.range(bytes.len());
        bytes.drain(range);
    }

    fn repeat(&mut self, bytes: &mut Vec<u8>) {
        let range = self.range(bytes.len());
        let at = range.end;
        let times = if self.below(8) == 0 { self.below(200) } else { 1 };
        let piece = bytes[range].repeat(times);
        bytes.splice(at..at, piece.into_iter().take(GROWTH));
    }

    fn exchange(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let range = self.range(bytes.len());
        let piece = self.range(other.len());
        bytes.splice(range, other[piece].iter().copied());
    }

    fn noise(&mut self, bytes: &mut Vec<u8>) {
        let at = self.place(bytes.len());
        let count = 1 + self.below(16);
        let noise: Vec<u8> = (0..count).map(|_| self.random.random::<u8>()).collect();
        bytes.splice(at..at, noise);
    }

    /// Replaces a decimal number.
    fn text_number(&mut self, bytes: &mut Vec<u8>) {
        let at = self.place(bytes.len());
        let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) else { return };
        let length = bytes[start..].iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
        let new = NUMBERS[self.below(NUMBERS.len())];
        bytes.splice(start..start + length, new.bytes());
    }

    /// Replaces a word.
    fn word(&mut self, bytes: &mut Vec<u8>) {
        let at = self.place(bytes.len());
        let Some(start) = bytes[at..].iter().position(u8::is_ascii_alphanumeric).map(|i| at + i) else {
            return;
        };
        let length = bytes[start..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        let new = WORDS[self.below(WORDS.len())];
        bytes.splice(start..start + length, new.bytes());
    }
}

/// Whether most of what a file begins with is text; the header of safetensors counts.
fn is_text(bytes: &[u8]) -> bool {
    let start = bytes.get(8..).filter(|rest| rest.first() == Some(&b'{')).unwrap_or(bytes);
    let start = &start[..start.len().min(200)];
    let printed = start.iter().filter(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()).count();
    !start.is_empty() && printed * 10 > start.len() * 9
}

/// Recomputes the checksums of PNG chunks and tar headers.
fn repair(bytes: &mut [u8]) {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        repair_png(bytes);
    } else if bytes.get(257..262) == Some(b"ustar".as_slice()) {
        repair_tar(bytes);
    }
}

fn repair_png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()) {
        let end = (at + 8).saturating_add(u32::from_be_bytes(length) as usize);
        let Some(content) = bytes.get(at + 4..end) else { return };
        let mut sum = flate2::Crc::new();
        sum.update(content);
        let Some(stored) = bytes.get_mut(end..end + 4) else { return };
        stored.copy_from_slice(&sum.sum().to_be_bytes());
        at = end + 4;
    }
}

fn repair_tar(bytes: &mut [u8]) {
    for header in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
