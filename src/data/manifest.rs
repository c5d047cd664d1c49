//! A CSV or TSV file that lists images with their classes.

use std::path::{Path, PathBuf};

use super::folder::Folder;
use super::is_image;
use super::labels::{Label, Numbers, known_classes};
use super::parts::{Part, Parted};
use crate::error::{Error, Result};
use crate::text::plural;
use crate::untrusted::{printable, read_file};

/// Accepted column names.
const PATHS: [&str; 9] =
    ["path", "file", "filename", "file_name", "image", "picture", "filepath", "file_path", "image_path"];
const LABELS: [&str; 5] = ["label", "labels", "class", "category", "target"];
const SPLITS: [&str; 3] = ["split", "set", "part"];

/// Maximum bytes of a list.
const MAX_LIST_BYTES: u64 = 1 << 30;

/// One line of a list.
struct Row {
    path: PathBuf,
    label: String,
    part: Part,
}

/// Reads the training, validation and test set from lists; a part without rows is `None`. A row's
/// part is in its split column, or else that of its file.
///
/// A header line names the columns: a path (`path`, `file`, `file_name`, `image`) relative to the
/// list's folder, a class (`label`, `class`) and optionally a part (`split`). Without a header the
/// first two columns are path and class.
pub(super) fn open(files: &Parted<Vec<PathBuf>>, notes: &mut Vec<String>) -> Result<Parted<Option<Folder>>> {
    let mut listed = Vec::new();
    let parts =
        [(&files.train, Part::Train), (&files.validation, Part::Validation), (&files.test, Part::Test)];
    for (files, part) in parts {
        for file in files {
            rows(file, part, &mut listed, notes)?;
        }
    }
    let first = parts.iter().find_map(|(files, _)| files.first()).cloned().unwrap_or_default();
    let classes = known_classes(listed.iter().map(|row| row.label.as_str()));
    if classes.len() < 2 {
        return Err(Error::format(first, "must name at least two classes"));
    }
    let numbers = Numbers::new(&classes, false);
    let mut parted = Parted::<Vec<(PathBuf, u32)>>::default();
    for Row { path, label, part } in listed {
        let label = Label { text: label, counts: false };
        let unknown =
            || Error::format(&first, format!("the class `{}` has no number", printable(&label.text)));
        let class = numbers.class(&label).ok_or_else(unknown)?;
        parted.of(part).push((path, class));
    }
    let set = |files: Vec<(PathBuf, u32)>| (!files.is_empty()).then(|| Folder::of(classes.clone(), files));
    let Parted { train, validation, test } = parted;
    Ok(Parted { train: set(train), validation: set(validation), test: set(test) })
}

/// Whether a file is a list of images, with a label column if `labelled`.
pub(super) fn is_list(path: &Path, labelled: bool) -> bool {
    let columns = || Some(Columns::of(&records(path).ok()?.next()?.ok()?)?.label.is_some() || !labelled);
    columns().unwrap_or(false)
}

/// Column numbers.
struct Columns {
    path: usize,
    /// `None` in the list of a test set without labels.
    label: Option<usize>,
    split: Option<usize>,
    header: bool,
}

impl Columns {
    fn of(first: &csv::StringRecord) -> Option<Self> {
        let column =
            |names: &[&str]| first.iter().position(|cell| names.contains(&cell.to_lowercase().as_str()));
        let bare = || first.get(0).is_some_and(|cell| is_image(Path::new(cell)));
        match column(&PATHS) {
            Some(path) => Some(Self { path, label: column(&LABELS), split: column(&SPLITS), header: true }),
            None => bare().then_some(Self { path: 0, label: Some(1), split: None, header: false }),
        }
    }
}

/// Parses the lines of a list.
fn records(path: &Path) -> Result<csv::StringRecordsIntoIter<std::io::Cursor<Vec<u8>>>> {
    let tabs = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tsv"));
    let mut bytes = read_file(path, MAX_LIST_BYTES)?;
    if bytes.starts_with("\u{feff}".as_bytes()) {
        bytes.drain(..3);
    }
    Ok(csv::ReaderBuilder::new()
        .delimiter(if tabs { b'\t' } else { b',' })
        .has_headers(false)
        .trim(csv::Trim::All)
        .flexible(true)
        .from_reader(std::io::Cursor::new(bytes))
        .into_records())
}

fn rows(path: &Path, part: Part, rows: &mut Vec<Row>, notes: &mut Vec<String>) -> Result<()> {
    let records = records(path)?.collect::<Result<Vec<_>, _>>().map_err(|e| damaged(path, e))?;
    let Some(first) = records.first() else {
        return Err(Error::format(path, "is empty: expected lines of path,label"));
    };
    let columns = Columns::of(first).filter(|columns| columns.label.is_some() || part == Part::Test);
    let Some(columns) = columns else {
        let found = format!("{:?}", first.iter().collect::<Vec<_>>());
        let reason = format!(
            "has no header with a path and a label column, and no image paths in its first column; its first line is {}",
            printable(&found)
        );
        return Err(Error::format(path, reason));
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut unlabelled = 0;
    for (number, record) in records.iter().enumerate().skip(usize::from(columns.header)) {
        let cell = |column: usize| record.get(column).filter(|cell| !cell.is_empty());
        let part = match columns.split.and_then(cell) {
            None => part,
            Some(word) => Part::of(word).ok_or_else(|| {
                let (line, word) = (number + 1, printable(word));
                let reason = format!("line {line}: the split `{word}` is not train, val or test");
                Error::format(path, reason)
            })?,
        };
        match (cell(columns.path), columns.label.and_then(cell)) {
            (Some(file), Some(label)) => {
                rows.push(Row { path: folder.join(file), label: label.into(), part });
            }
            (Some(_), None) if part == Part::Test => unlabelled += 1,
            _ => return Err(Error::format(path, format!("line {} lacks a path or a label", number + 1))),
        }
    }
    if unlabelled > 0 {
        notes.push(format!(
            "skipped {} of {}: in the test set and without a label",
            plural(unlabelled, "row"),
            path.display()
        ));
    }
    Ok(())
}

fn damaged(path: &Path, error: csv::Error) -> Error {
    Error::damaged(path, format!("cannot be read as CSV: {error}"), error)
}
