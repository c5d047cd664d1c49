//! Detection of image files by extension, or by their first bytes where the extension says nothing.

use std::io::Read;
use std::path::Path;

use image::ImageFormat;

use crate::untrusted::open_regular;

/// Classification of a file by image format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// A supported image format.
    Readable,
    /// An image in an unsupported format, with the format's name, such as `heic`.
    Unreadable(String),
    /// Not an image.
    Other,
}

/// Extensions of supported formats.
const READABLE: [(&str, ImageFormat); 23] = [
    ("jpg", ImageFormat::Jpeg),
    ("jpeg", ImageFormat::Jpeg),
    ("jpe", ImageFormat::Jpeg),
    ("jfif", ImageFormat::Jpeg),
    ("jif", ImageFormat::Jpeg),
    ("png", ImageFormat::Png),
    ("apng", ImageFormat::Png),
    ("gif", ImageFormat::Gif),
    ("webp", ImageFormat::WebP),
    ("tif", ImageFormat::Tiff),
    ("tiff", ImageFormat::Tiff),
    ("bmp", ImageFormat::Bmp),
    ("dib", ImageFormat::Bmp),
    ("tga", ImageFormat::Tga),
    ("targa", ImageFormat::Tga),
    ("icb", ImageFormat::Tga),
    ("vda", ImageFormat::Tga),
    ("vst", ImageFormat::Tga),
    ("pbm", ImageFormat::Pnm),
    ("pgm", ImageFormat::Pnm),
    ("ppm", ImageFormat::Pnm),
    ("pnm", ImageFormat::Pnm),
    ("pam", ImageFormat::Pnm),
];

/// Extensions of unsupported formats that cameras, phones, scanners and graphics programs write.
const UNREADABLE: [&str; 59] = [
    "heic", "heif", "hif", "avif", "jxl", "jp2", "j2k", "jpf", "jpx", "jpm", "j2c", "jpc", "jxr", "wdp",
    "hdp", "jls", "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "dng", "orf", "raf", "rw2", "pef",
    "srw", "x3f", "3fr", "kdc", "dcr", "mrw", "ico", "cur", "icns", "psd", "psb", "xcf", "kra", "svg",
    "svgz", "pcx", "dds", "exr", "hdr", "qoi", "ff", "pfm", "sgi", "ras", "xbm", "xpm", "wbmp", "bpg", "dcm",
    "dicom",
];

/// The supported format of a file's extension.
pub(super) fn format_of_ending(path: &Path) -> Option<ImageFormat> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    READABLE.iter().find(|(known, _)| *known == ending).map(|(_, format)| *format)
}

/// Whether a file has the extension of a supported image format, in any case: `cat.JPEG`,
/// `cat.jpe`.
pub fn is_image(path: &Path) -> bool {
    format_of_ending(path).is_some()
}

/// Classifies a file by its extension; `None` without an extension or with a numeric one, as in
/// `n01440764_10026` and `photo.jpg.1`.
pub(in crate::data) fn kind_of_name(path: &Path) -> Option<ImageKind> {
    if is_image(path) {
        return Some(ImageKind::Readable);
    }
    let ending = path.extension()?.to_string_lossy().to_ascii_lowercase();
    if UNREADABLE.contains(&ending.as_str()) {
        return Some(ImageKind::Unreadable(ending));
    }
    (!ending.bytes().all(|b| b.is_ascii_digit())).then_some(ImageKind::Other)
}

/// Classifies a file by its extension, or by its first bytes without a meaningful extension. A file
/// that then cannot be opened is [`ImageKind::Other`].
pub fn image_kind(path: &Path) -> ImageKind {
    kind_of_name(path).unwrap_or_else(|| {
        let mut head = Vec::new();
        let read = open_regular(path).map(|(file, _)| file.take(HEAD).read_to_end(&mut head));
        if matches!(read, Ok(Ok(_))) { sniff(&head) } else { ImageKind::Other }
    })
}

/// Bytes that [`sniff`] inspects.
pub(in crate::data) const HEAD: u64 = 32;

/// Classifies a file by its first 32 bytes, or all if it is shorter. TGA has no signature and is
/// recognized only by its extension.
pub fn sniff(head: &[u8]) -> ImageKind {
    let unreadable = |name: &str| ImageKind::Unreadable(name.into());
    match head {
        [b'\x89', b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..]
        | [0xff, 0xd8, 0xff, ..]
        | [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..]
        | [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..]
        | [b'I', b'I', 42 | 43, 0, ..]
        | [b'M', b'M', 0, 42 | 43, ..]
        // Two letters do not distinguish text from an image, so the bytes after them are checked
        // too.
        | [b'P', b'1'..=b'7', b' ' | b'\t' | b'\r' | b'\n' | b'#', ..]
        | [b'B', b'M', _, _, _, _, _, _, _, _, _, _, _, _, 12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0, ..] => {
            ImageKind::Readable
        }
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand.get(..4) {
            Some(b"avif" | b"avis") => unreadable("avif"),
            Some(b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1") => {
                unreadable("heic")
            }
            Some(b"crx ") => unreadable("cr3"),
            _ => ImageKind::Other,
        },
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => unreadable("jxl"),
        [0xff, 0x4f, 0xff, 0x51, ..] | [0, 0, 0, 12, b'j', b'P', ..] => unreadable("jp2"),
        [b'I', b'I', 0xbc, ..] => unreadable("jxr"),
        [b'8', b'B', b'P', b'S', ..] => unreadable("psd"),
        [b'g', b'i', b'm', b'p', b' ', b'x', b'c', b'f', ..] => unreadable("xcf"),
        [b'q', b'o', b'i', b'f', ..] => unreadable("qoi"),
        [0x76, 0x2f, 0x31, 0x01, ..] => unreadable("exr"),
        [b'D', b'D', b'S', b' ', ..] => unreadable("dds"),
        [b'B', b'P', b'G', 0xfb, ..] => unreadable("bpg"),
        [0, 0, 1, 0, count, 0, ..] if *count > 0 => unreadable("ico"),
        [b'#', b'?', b'R', b'A', b'D', b'I', b'A', b'N', b'C', b'E', ..] => unreadable("hdr"),
        _ => ImageKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_classify_supported_unsupported_and_other_files() {
        for name in ["a.jpg", "a.JPEG", "a.jpe", "a.jfif", "a.apng", "a.Tif", "a.tiff", "a.dib", "a.b.pgm"] {
            assert!(is_image(Path::new(name)), "{name}");
            assert_eq!(image_kind(Path::new(name)), ImageKind::Readable, "{name}");
        }
        for name in ["a.jp2", "a.HEIC", "a.avif", "a.cr3", "a.psd", "a.jpg.svg"] {
            assert!(!is_image(Path::new(name)), "{name}");
            assert!(matches!(image_kind(Path::new(name)), ImageKind::Unreadable(_)), "{name}");
        }
        for name in ["a.txt", "a.json", "a.xml", "a.tfrecord", "no such file"] {
            assert_eq!(image_kind(Path::new(name)), ImageKind::Other, "{name}");
        }
    }

    #[test]
    fn files_without_extension_are_classified_by_signature() {
        let folder = tempfile::tempdir().expect("a folder");
        let kind = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("can be written");
            image_kind(&path)
        };
        let unreadable = |name: &str| ImageKind::Unreadable(name.into());
        assert_eq!(kind("n0144_1", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), ImageKind::Readable);
        assert_eq!(kind("photo.jpg.1", b"\xff\xd8\xff\xe0\0\x10JFIF"), ImageKind::Readable);
        assert_eq!(kind("pgm", b"P5\n1 1 255\n\0"), ImageKind::Readable);
        assert_eq!(kind("heic", b"\0\0\0\x18ftypheic\0\0\0\0"), unreadable("heic"));
        assert_eq!(kind("jp2", b"\0\0\0\x0cjP  \r\n\x87\n"), unreadable("jp2"));
        // Text that starts like a bitmap, videos, and empty files.
        for (name, text) in
            [("README", &b"BMP files are images of this size"[..]), ("P5", b"P5is"), ("x", b"")]
        {
            assert_eq!(kind(name, text), ImageKind::Other, "{name}");
        }
        assert_eq!(kind("film", b"\0\0\0\x18ftypisom\0\0\0\0"), ImageKind::Other);
        // An extension takes precedence.
        assert_eq!(kind("list.txt", b"\xff\xd8\xff\xe0"), ImageKind::Other);
    }
}
