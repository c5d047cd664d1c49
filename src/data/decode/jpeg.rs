//! Checks of a JPEG before it is decoded: the decoder fills missing data with grey and decodes some
//! chroma samplings wrongly.

/// Checks that a JPEG can be decoded correctly; the error is the reason why not.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    if !is_whole(bytes) {
        return Err("is cut off: the end of the JPEG is missing".into());
    }
    match frame(bytes) {
        Some(frame) => frame.check(bytes.len()),
        // The decoder reports what is wrong with a file without a frame header.
        None => Ok(()),
    }
}

/// A frame header (SOF).
struct Frame {
    width: u64,
    height: u64,
    /// Horizontal and vertical sampling factors per component.
    sampling: Vec<(u8, u8)>,
}

/// Maximum pixels per byte: a block of 8 x 8 takes at least one bit, for its DC coefficient.
const PIXELS_PER_BYTE: u64 = 8 * 64;

impl Frame {
    fn check(&self, bytes: usize) -> Result<(), String> {
        let Self { width, height, sampling } = self;
        // The decoder allocates coefficients by the header and fills blocks without data with grey.
        if width * height > PIXELS_PER_BYTE.saturating_mul(bytes as u64) {
            return Err(format!(
                "is {width} x {height} pixels by its header, more than its {bytes} bytes can hold"
            ));
        }
        let most = sampling.iter().fold((0, 0), |(h, v), s| (h.max(s.0), v.max(s.1)));
        // The decoder upsamples chroma to luma and assumes that luma has the full resolution.
        if sampling.len() > 1 && sampling.first() != Some(&most) {
            let factors: Vec<String> = sampling.iter().map(|(h, v)| format!("{h}x{v}")).collect();
            let factors = factors.join(",");
            return Err(format!(
                "stores luma at a lower resolution than chroma (sampling {factors}), which is not supported: convert it"
            ));
        }
        Ok(())
    }
}

/// Finds the frame header of a JPEG.
fn frame(bytes: &[u8]) -> Option<Frame> {
    let mut at = 2;
    loop {
        at += bytes.get(at..)?.iter().position(|b| *b == 0xff)?;
        at += bytes.get(at..)?.iter().position(|b| *b != 0xff)?;
        let marker = *bytes.get(at)?;
        match marker {
            // DHT, DAC and a reserved marker are in the range of SOF markers.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                let &[_, _, _, h1, h0, w1, w0, count] = bytes.get(at + 1..)?.first_chunk()?;
                let components = bytes.get(at + 9..)?.chunks_exact(3).take(usize::from(count));
                return Some(Frame {
                    width: u64::from(u16::from_be_bytes([w1, w0])),
                    height: u64::from(u16::from_be_bytes([h1, h0])),
                    sampling: components.map(|c| (c[1] >> 4, c[1] & 15)).collect(),
                });
            }
            // A scan or the end of the file precedes any frame header.
            0xda | 0xd9 => return None,
            0x00 | 0x01 | 0xd0..=0xd8 => at += 1,
            _ => at += 1 + usize::from(u16::from_be_bytes(*bytes.get(at + 1..)?.first_chunk()?)),
        }
    }
}

/// Whether a JPEG has an end-of-image marker after its scans. Data after that marker is ignored:
/// phones append videos there.
fn is_whole(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // Within a scan 0xff is followed by zero or a restart marker; between segments it may be
        // repeated as padding.
        let marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xd0..=0xd7 | 0xff);
        let Some(next) = bytes.get(at..).and_then(|rest| rest.windows(2).position(marker)) else {
            return false;
        };
        at += next;
        if bytes[at + 1] == 0xd9 {
            return true;
        }
        // The length of a segment counts itself; a scan's data follow its segment.
        let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { return false };
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Image;

    /// A JPEG of a texture.
    fn jpeg() -> Vec<u8> {
        let image =
            image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([(x * y) as u8, (7 * x) as u8, y as u8]));
        let mut bytes = Vec::new();
        image.write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut bytes)).expect("can be encoded");
        bytes
    }

    #[test]
    fn truncated_jpegs_are_detected_and_trailing_data_is_ignored() {
        let whole = jpeg();
        assert!(is_whole(&whole));
        // An appended video, as from phones, may contain any marker.
        let film = [&whole[..], &[0, 0, 0, 24, 0xff, 0xda, 0xff, 0xd8, 1, 2, 3]].concat();
        assert!(is_whole(&film));
        assert_eq!(Image::decode(&film).expect("an image"), Image::decode(&whole).expect("an image"));
        // An end marker of a preview inside a segment is not the image's.
        let preview = [&[0xff, 0xd8, 0xff, 0xe1, 0, 8, 0xff, 0xd9, 0xff, 0xda, 0, 0], &whole[2..]].concat();
        assert!(is_whole(&preview) && !is_whole(&preview[..preview.len() / 2]));
        for end in [0, 1, 2, 3, 20, whole.len() / 2, whole.len() - 2, whole.len() - 1] {
            assert!(!is_whole(&whole[..end]), "{end} of {}", whole.len());
        }
    }

    #[test]
    fn oversized_jpeg_header_is_rejected_before_allocation() {
        let mut claims = jpeg();
        let at = claims.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame") + 5;
        claims[at..at + 4].copy_from_slice(&[0x20, 0, 0x20, 0]);
        let error = Image::decode(&claims).expect_err("8192 x 8192");
        assert!(error.contains("8192 x 8192 pixels by its header"), "{error}");
    }

    #[test]
    fn damaged_frame_headers_are_left_to_the_decoder() {
        let whole = jpeg();
        for end in 0..whole.len().min(700) {
            frame(&whole[..end]);
        }
        let found = frame(&whole).expect("a frame");
        assert_eq!((found.width, found.height, found.sampling.len()), (64, 48, 3));
    }
}
