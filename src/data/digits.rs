//! The embedded data set: UCI's handwritten digits (see `assets/digits/README.md`).

use super::{Dataset, Image, Uniform};
use crate::error::{Error, Result};

const PACKED: &[u8] = include_bytes!("../../assets/digits/digits.bin.gz");
/// Height and width in pixels.
const SIZE: usize = 8;
/// The highest grey level.
const LEVELS: u8 = 16;

/// 1,797 handwritten digits of 8 x 8 pixels.
#[derive(Clone, Debug)]
pub struct Digits(Uniform);

/// Unpacks the embedded digits: white on black, ten classes.
///
/// # Errors
/// [`Error::Format`] if the program's own copy is damaged.
pub fn digits() -> Result<Digits> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(PACKED), &mut bytes)
        .map_err(|e| Error::damaged("digits", format!("the embedded copy is damaged: {e}"), e))?;
    let rows = bytes.chunks_exact(SIZE * SIZE + 1);
    let mut set = Uniform {
        source: "digits".into(),
        classes: (0..10).map(|d| d.to_string()).collect(),
        width: SIZE,
        height: SIZE,
        channels: 1,
        pixels: Vec::new(),
        labels: Vec::new(),
    };
    for row in rows {
        set.labels.push(row[SIZE * SIZE]);
        // 0..=16 is scaled to 0..=255, so the result fits a byte.
        set.pixels.extend(row[..SIZE * SIZE].iter().map(|v| (u16::from(*v) * 255 / u16::from(LEVELS)) as u8));
    }
    Ok(Digits(set))
}

impl Dataset for Digits {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn classes(&self) -> &[String] {
        self.0.classes()
    }

    fn label(&self, index: usize) -> u32 {
        self.0.label(index)
    }

    fn image(&self, index: usize) -> Result<Image> {
        self.0.image(index)
    }

    fn name(&self, index: usize) -> String {
        self.0.name(index)
    }
}
