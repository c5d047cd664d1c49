//! A CSV or TSV file that lists pictures with their classes.

use std::path::{Path, PathBuf};

use super::folder::Folder;
use super::{Label, is_picture, known_classes};
use crate::error::{Error, Result};

/// What a column may be called.
const PATHS: [&str; 6] = ["path", "file", "filename", "file_name", "image", "picture"];
const LABELS: [&str; 4] = ["label", "class", "category", "target"];
const SPLITS: [&str; 3] = ["split", "set", "part"];

/// One line.
struct Row {
    path: PathBuf,
    label: String,
    held_out: bool,
}

/// The training part, and the rows of the split column's `val`, `valid`, `validation` or `test`, if there are any.
///
/// A header line names the columns: a path (`path`, `file`, `file_name`, `image`), relative to the manifest's folder, a class (`label`, `class`) and maybe a
/// part (`split`). Without a header the first two columns are path and class.
pub(super) fn open(path: &Path) -> Result<(Folder, Option<Folder>)> {
    let rows = rows(path)?;
    let classes = known_classes(rows.iter().map(|row| row.label.as_str()));
    if classes.len() < 2 {
        return Err(Error::format(path, "must name at least two classes"));
    }
    let part = |held_out: bool| {
        let rows = rows.iter().filter(|row| row.held_out == held_out);
        let files = rows.map(|row| {
            let label = Label { text: row.label.clone(), counts: false };
            let unknown = || Error::format(path, format!("the class `{}` has no number", row.label));
            Ok((row.path.clone(), label.class(&classes, false).ok_or_else(unknown)?))
        });
        Ok(Folder::of(classes.clone(), files.collect::<Result<_>>()?))
    };
    let held_out = rows.iter().any(|row| row.held_out).then(|| part(true)).transpose()?;
    Ok((part(false)?, held_out))
}

fn rows(path: &Path) -> Result<Vec<Row>> {
    let tabs = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tsv"));
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(if tabs { b'\t' } else { b',' })
        .has_headers(false)
        .trim(csv::Trim::All)
        .flexible(true)
        .from_path(path)
        .map_err(|e| damaged(path, &e))?;
    let records = reader.records().collect::<Result<Vec<_>, _>>().map_err(|e| damaged(path, &e))?;
    let Some(first) = records.first() else {
        return Err(Error::format(path, "is empty: expected lines of path,label"));
    };
    let column = |names: &[&str]| first.iter().position(|cell| names.contains(&cell.to_lowercase().as_str()));
    let (columns, skip) = match (column(&PATHS), column(&LABELS)) {
        (Some(file), Some(label)) => ((file, label, column(&SPLITS)), 1),
        _ if first.get(0).is_some_and(|cell| is_picture(Path::new(cell))) => ((0, 1, None), 0),
        _ => {
            let found: Vec<&str> = first.iter().collect();
            let reason = format!(
                "has neither a header with a path and a label column nor pictures in its first column; its first line is {found:?}"
            );
            return Err(Error::format(path, reason));
        }
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let row = |(number, record): (usize, &csv::StringRecord)| {
        let cell = |column: usize| record.get(column).filter(|cell| !cell.is_empty());
        let (Some(file), Some(label)) = (cell(columns.0), cell(columns.1)) else {
            return Err(Error::format(path, format!("line {} lacks a path or a label", number + 1)));
        };
        let split = columns.2.and_then(cell).unwrap_or("train").to_lowercase();
        let held_out = match split.as_str() {
            "train" | "training" => false,
            "val" | "valid" | "validation" | "test" => true,
            other => {
                let reason =
                    format!("line {}: the part `{other}` is neither train nor val nor test", number + 1);
                return Err(Error::format(path, reason));
            }
        };
        Ok(Row { path: folder.join(file), label: label.into(), held_out })
    };
    records.iter().enumerate().skip(skip).map(row).collect()
}

fn damaged(path: &Path, error: &csv::Error) -> Error {
    Error::format(path, format!("cannot be read as CSV: {error}"))
}
