//! MNIST's idx files (LeCun et al.): big-endian magic number, dimensions, bytes. EMNIST (Cohen et
//! al. 2017) uses the same format with other names and transposed images.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::parts::Part;
use super::read::{MAX_UNPACKED_BYTES, failed, first_of, names_in, stream};
use super::walk::{entries, file_name};
use super::{Found, Uniform};
use crate::error::{Error, Result};
use crate::text::plural;
use crate::untrusted::{MAX_FILE_BYTES, read_text};

/// EMNIST's subsets.
const EMNIST: [&str; 6] = ["byclass", "bymerge", "balanced", "letters", "digits", "mnist"];

/// Subfolders to search, including those that torchvision creates.
const PLACES: [&str; 6] = ["", "raw", "MNIST/raw", "FashionMNIST/raw", "KMNIST/raw", "EMNIST/raw"];

/// A set of idx files: a folder and a prefix of file names.
struct Family {
    folder: PathBuf,
    /// `emnist-letters-`, or empty for MNIST.
    prefix: String,
}

/// Reads the idx files of a folder, or those that belong to one file of images.
pub(super) fn open(path: &Path) -> Result<Option<Found>> {
    let Some(family) = family(path)? else { return Ok(None) };
    let mut found = Found::of(path, "idx files");
    found.suits = super::Augmentation::shifts();
    for part in [Part::Train, Part::Test] {
        if let Some(set) = family.part(part)? {
            found.add(part, set);
        } else {
            found.notes.push(format!(
                "there are no idx files of the {} set in {}",
                part.name(),
                path.display()
            ));
        }
    }
    Ok(Some(found))
}

fn family(path: &Path) -> Result<Option<Family>> {
    if path.is_file() {
        let name = file_name(path);
        let part = ["train-images", "test-images", "t10k-images"].iter().find_map(|part| name.find(part));
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        return Ok(part.map(|at| Family { folder, prefix: name[..at].to_string() }));
    }
    for place in PLACES {
        let folder = path.join(place);
        if !folder.is_dir() {
            continue;
        }
        let plain = Family { folder: folder.clone(), prefix: String::new() };
        if plain.images(Part::Train).or_else(|| plain.images(Part::Test)).is_some() {
            return Ok(Some(plain));
        }
        let of = |set: &&str| Family { folder: folder.clone(), prefix: format!("emnist-{set}-") };
        let there = |set: &Family| set.images(Part::Train).or_else(|| set.images(Part::Test)).is_some();
        let mut sets: Vec<Family> = EMNIST.iter().map(of).filter(there).collect();
        if sets.len() > 1 {
            let names: Vec<String> =
                sets.iter().filter_map(|set| set.images(Part::Train)).map(|path| file_name(&path)).collect();
            let reason =
                format!("has several EMNIST subsets: name a file of one of them ({})", names.join(", "));
            return Err(Error::format(folder, reason));
        }
        if let Some(set) = sets.pop() {
            return Ok(Some(set));
        }
    }
    Ok(None)
}

impl Family {
    fn file(&self, part: Part, what: &str) -> Option<PathBuf> {
        let starts: &[&str] = if part == Part::Train { &["train"] } else { &["t10k", "test"] };
        let names = starts.iter().flat_map(|start| {
            ["-", "."]
                .map(|dot| format!("{}{start}-{what}", self.prefix).replace("s-idx", &format!("s{dot}idx")))
        });
        let names: Vec<String> = names.collect();
        first_of(&self.folder, &names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn images(&self, part: Part) -> Option<PathBuf> {
        self.file(part, "images-idx3-ubyte")
    }

    fn part(&self, part: Part) -> Result<Option<Uniform>> {
        let Some(images) = self.images(part) else { return Ok(None) };
        let labels = self.file(part, "labels-idx1-ubyte");
        let labels = labels.ok_or_else(|| Error::format(&images, "has no labels file in the same folder"))?;
        let mut set = read(&images, &labels)?;
        if let Some(emnist) = self.prefix.strip_prefix("emnist-") {
            upright(&mut set);
            self.name_classes(&mut set, emnist.trim_end_matches('-'), &labels)?;
        }
        Ok(Some(set))
    }

    /// Names EMNIST's classes by their characters.
    fn name_classes(&self, set: &mut Uniform, emnist: &str, labels: &Path) -> Result<()> {
        // Labels of `letters` start at 1.
        let first = usize::from(emnist == "letters");
        let mapping = self.folder.join(format!("{}mapping.txt", self.prefix));
        let names = if mapping.is_file() { mapped(&mapping)? } else { characters(emnist) };
        for label in &mut set.labels {
            let class = usize::from(*label).checked_sub(first).filter(|class| *class < names.len());
            let class = class.and_then(|class| u8::try_from(class).ok());
            let unknown = || {
                Error::format(labels, format!("has the label {label}, which EMNIST {emnist} does not have"))
            };
            *label = class.ok_or_else(unknown)?;
        }
        set.classes = names;
        Ok(())
    }
}

/// The characters of a mapping file: a label and one or two ASCII codes per line.
fn mapped(path: &Path) -> Result<Vec<String>> {
    let character = |line: &String| {
        let code = line.split_whitespace().nth(1)?.parse::<u8>().ok()?;
        code.is_ascii_graphic().then(|| char::from(code).to_string())
    };
    let names: Option<Vec<String>> = names_in(&read_text(path)?).iter().map(character).collect();
    names.ok_or_else(|| Error::format(path, "has a line that is not a label and an ASCII code"))
}

/// The characters of an EMNIST subset in label order.
fn characters(emnist: &str) -> Vec<String> {
    let (digits, upper, lower) = (('0'..='9'), ('A'..='Z'), ('a'..='z'));
    let all: Vec<char> = match emnist {
        "byclass" => digits.chain(upper).chain(lower).collect(),
        // Lowercase letters that look like uppercase ones are merged with these.
        "bymerge" | "balanced" => digits.chain(upper).chain("abdefghnqrt".chars()).collect(),
        "letters" => upper.collect(),
        _ => digits.collect(),
    };
    all.into_iter().map(String::from).collect()
}

/// Transposes images that are stored by columns.
fn upright(set: &mut Uniform) {
    let (width, height) = (set.width, set.height);
    let mut turned = Vec::with_capacity(set.pixels.len());
    for image in set.pixels.chunks_exact((width * height).max(1)) {
        turned.extend((0..width).flat_map(|x| (0..height).map(move |y| image[y * width + x])));
    }
    set.pixels = turned;
    (set.width, set.height) = (height, width);
}

fn read(images: &Path, labels: &Path) -> Result<Uniform> {
    let (extents, pixels) = elements::<3>(images)?;
    let (counts, classes) = elements::<1>(labels)?;
    let [count, height, width] = extents;
    if counts != [count] {
        let (labelled, count) = (plural(counts[0], "label"), plural(count, "image"));
        let reason = format!("has {labelled} for {count} of {}", images.display());
        return Err(Error::format(labels, reason));
    }
    let most = classes.iter().copied().max().unwrap_or(0);
    Ok(Uniform {
        source: images.display().to_string(),
        classes: (0..=most.max(9)).map(|c| c.to_string()).collect(),
        width,
        height,
        channels: 1,
        pixels,
        labels: classes,
    })
}

/// The shape and bytes of an idx file of `N` dimensions.
fn elements<const N: usize>(path: &Path) -> Result<([usize; N], Vec<u8>)> {
    let (mut bytes, most) = stream(path)?;
    let mut word = || {
        let mut four = [0; 4];
        bytes.read_exact(&mut four).map(|()| u32::from_be_bytes(four) as usize).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::format(path, "is shorter than its header"),
            _ => failed(path, e),
        })
    };
    // Magic number: 0x08 for bytes, then the number of dimensions.
    if word()? != 0x0800 + N {
        return Err(Error::format(path, format!("is not an idx file of {N}-dimensional bytes")));
    }
    let mut extents = [0; N];
    for extent in &mut extents {
        *extent = word()?;
    }
    if extents.contains(&0) {
        let reason = format!("has no data: its dimensions are {extents:?}, and each must be above zero");
        return Err(Error::format(path, reason));
    }
    // All images are kept in memory, so the announced size is checked before unpacking.
    let most = most.min(MAX_FILE_BYTES);
    let expected = extents.iter().try_fold(1u64, |product, extent| product.checked_mul(*extent as u64));
    let Some(expected) = expected.filter(|expected| *expected <= most) else {
        let reason = format!(
            "announces {extents:?} bytes of data, more than the file can hold or the limit ({MAX_UNPACKED_BYTES} for a gz): the download may be incomplete"
        );
        return Err(Error::format(path, reason));
    };
    let mut body = Vec::new();
    // Reads one byte more than announced, to find excess data and to verify the checksum at the end
    // of a gzip file.
    bytes.take(expected + 1).read_to_end(&mut body).map_err(|e| failed(path, e))?;
    if body.len() as u64 != expected {
        let found =
            if body.len() as u64 > expected { "more bytes".into() } else { plural(body.len(), "byte") };
        let reason = format!(
            "has {found} of data instead of the announced {extents:?}: the download may be incomplete"
        );
        return Err(Error::format(path, reason));
    }
    Ok((extents, body))
}

/// Whether a folder has files named like idx files, for error messages.
pub(super) fn looks_like(folder: &Path) -> bool {
    entries(folder).is_ok_and(|files| files.iter().any(|file| file_name(file).contains("-ubyte")))
}
