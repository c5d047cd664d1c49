//! What must be known of a JPEG before it is decoded: the decoder fills what is missing with grey, and draws some samplings wrong.

/// Why a JPEG is not decoded, if it is not.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    if !is_whole(bytes) {
        return Err("is cut off: the end of the JPEG is missing".into());
    }
    Ok(())
}

/// Whether a JPEG has an end behind its scans. Decoders fill what is missing with grey. What follows the end is of no interest: phones put films there.
fn is_whole(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // Within a scan 0xff is followed by a zero or a restart marker; between segments it may be repeated.
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
    use crate::data::Picture;

    /// A JPEG of some texture.
    fn jpeg() -> Vec<u8> {
        let picture =
            image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([(x * y) as u8, (7 * x) as u8, y as u8]));
        let mut bytes = Vec::new();
        picture
            .write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut bytes))
            .expect("can be encoded");
        bytes
    }

    #[test]
    fn jpegs_are_whole_whatever_follows_their_end() {
        let whole = jpeg();
        assert!(is_whole(&whole));
        // A film behind it, as phones append, may hold any marker.
        let film = [&whole[..], &[0, 0, 0, 24, 0xff, 0xda, 0xff, 0xd8, 1, 2, 3]].concat();
        assert!(is_whole(&film));
        assert_eq!(Picture::decode(&film).expect("a picture"), Picture::decode(&whole).expect("a picture"));
        // A preview inside a segment ends, and the picture does not.
        let preview = [&[0xff, 0xd8, 0xff, 0xe1, 0, 8, 0xff, 0xd9, 0xff, 0xda, 0, 0], &whole[2..]].concat();
        assert!(is_whole(&preview) && !is_whole(&preview[..preview.len() / 2]));
        for end in [0, 1, 2, 3, 20, whole.len() / 2, whole.len() - 2, whole.len() - 1] {
            assert!(!is_whole(&whole[..end]), "{end} of {}", whole.len());
        }
    }
}
