//! Parquet files with encoded pictures in them, as Hugging Face's `datasets` stores them: a column `image` of bytes and path, and a column of classes.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::column::reader::{ColumnReader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};

use super::{Dataset, Label, Picture, known_classes, relabel};
use crate::error::{Error, Result};

/// What the columns may be called.
const IMAGES: [&str; 4] = ["image.bytes", "img.bytes", "image", "img"];
const LABELS: [&str; 5] = ["label", "labels", "fine_label", "class", "target"];

/// The class of pictures whose class is not told.
const UNKNOWN: i64 = -1;

/// Encoded pictures of parquet files, all in memory; they are decoded when they are asked for.
#[derive(Clone, Debug)]
pub struct Parquet {
    pub(super) classes: Vec<String>,
    files: Vec<PathBuf>,
    pictures: Vec<Encoded>,
    labels: Vec<u32>,
}

/// A picture and where it is from.
#[derive(Clone, Debug)]
struct Encoded {
    bytes: ByteArray,
    /// Number of its file.
    file: usize,
    /// Number of its row there.
    row: usize,
}

impl Parquet {
    /// Reads the files one after another. The names of classes come from the features that `datasets` keeps in the file, or are the
    /// numbers or texts of the class column. Rows without a picture or a class are left out, and so are those of class -1, which is how
    /// `datasets` marks a test part that nobody may know.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Format`] if it is no parquet or lacks a column.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let (mut pictures, mut labels, mut names) = (Vec::new(), Vec::new(), None);
        for (number, path) in files.iter().enumerate() {
            let file = File::open(path).map_err(|e| Error::io(path, e))?;
            let damaged = |e: ParquetError| Error::format(path, format!("cannot be read as parquet: {e}"));
            let reader = SerializedFileReader::new(file).map_err(damaged)?;
            let columns = Columns::of(path, &reader)?;
            names = names.or_else(|| feature_names(&reader, &columns.label_name));
            let (mut row, mut empty) = (0, 0);
            for group in 0..reader.num_row_groups() {
                let group = reader.get_row_group(group).map_err(damaged)?;
                let found = columns.pictures(group.as_ref()).map_err(damaged)?;
                let classes = columns.labels(path, group.as_ref())?;
                if found.len() != classes.len() {
                    let reason =
                        format!("has {} pictures and {} classes in a row group", found.len(), classes.len());
                    return Err(Error::format(path, reason));
                }
                for (bytes, label) in found.into_iter().zip(classes) {
                    match bytes.zip(label) {
                        Some((bytes, label)) => {
                            pictures.push(Encoded { bytes, file: number, row });
                            labels.push(label);
                        }
                        None => empty += 1,
                    }
                    row += 1;
                }
            }
            if empty > 0 {
                log::warn!("{}: {empty} rows without a picture or a class are left out", path.display());
            }
        }
        let source = files.first().cloned().unwrap_or_default();
        if pictures.is_empty() {
            return Err(Error::format(source, "has no rows with a picture and a class"));
        }
        let named = names.is_some();
        let classes = names.unwrap_or_else(|| known_classes(labels.iter().map(|l| l.text.as_str())));
        let number = |(label, picture): (&Label, &Encoded)| {
            label.class(&classes, named).ok_or_else(|| {
                let reason = format!("the class `{}` is not one of its features", label.text);
                Error::format(&files[picture.file], reason)
            })
        };
        let labels = labels.iter().zip(&pictures).map(number).collect::<Result<_>>()?;
        Ok(Self { classes, files: files.to_vec(), pictures, labels })
    }

    /// The same pictures with the numbers of classes that are known already.
    pub(super) fn with_classes(mut self, classes: &[String]) -> Result<Self> {
        let source = self.files.first().cloned().unwrap_or_default();
        relabel(&source, &self.classes, classes, self.labels.iter_mut())?;
        self.classes = classes.to_vec();
        Ok(self)
    }
}

/// The columns of one file.
struct Columns {
    picture: usize,
    label: usize,
    label_name: String,
}

impl Columns {
    fn of(path: &Path, reader: &SerializedFileReader<File>) -> Result<Self> {
        let schema = reader.metadata().file_metadata().schema_descr();
        let names: Vec<String> = schema.columns().iter().map(|c| c.path().string()).collect();
        let find = |wanted: &[&str], what: &str| {
            let found = wanted.iter().find_map(|name| names.iter().position(|n| n == name));
            found.ok_or_else(|| {
                let (wanted, has) = (wanted.join("`, `"), names.join("`, `"));
                Error::format(path, format!("has no column of {what} (`{wanted}`); its columns are `{has}`"))
            })
        };
        let (picture, label) = (find(&IMAGES, "encoded pictures")?, find(&LABELS, "classes")?);
        Ok(Self { picture, label, label_name: names[label].clone() })
    }

    fn pictures(&self, group: &dyn RowGroupReader) -> Result<Vec<Option<ByteArray>>, ParquetError> {
        values::<ByteArrayType>(group, self.picture)
    }

    fn labels(&self, path: &Path, group: &dyn RowGroupReader) -> Result<Vec<Option<Label>>> {
        let damaged = |e: ParquetError| Error::format(path, format!("cannot be read as parquet: {e}"));
        let counted = |number: Option<i64>| {
            number.filter(|n| *n != UNKNOWN).map(|n| Label { text: n.to_string(), counts: true })
        };
        let read = match group.get_column_reader(self.label).map_err(damaged)? {
            ColumnReader::Int32ColumnReader(_) => values::<Int32Type>(group, self.label)
                .map(|v| v.into_iter().map(|n| counted(n.map(i64::from))).collect()),
            ColumnReader::Int64ColumnReader(_) => {
                values::<Int64Type>(group, self.label).map(|v| v.into_iter().map(counted).collect())
            }
            ColumnReader::ByteArrayColumnReader(_) => values::<ByteArrayType>(group, self.label).map(|v| {
                let name = |b: ByteArray| Label {
                    text: String::from_utf8_lossy(b.data()).into_owned(),
                    counts: false,
                };
                v.into_iter().map(|text| text.map(name)).collect()
            }),
            _ => {
                let reason = format!("the column `{}` holds neither numbers nor texts", self.label_name);
                return Err(Error::format(path, reason));
            }
        };
        read.map_err(damaged)
    }
}

/// The values of a column of a row group, none in rows that have none.
fn values<T: DataType>(group: &dyn RowGroupReader, column: usize) -> Result<Vec<Option<T::T>>, ParquetError> {
    let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
    let description = group.metadata().column(column).column_descr_ptr();
    // How deep a value lies in what may be missing: a picture may be, and its bytes too.
    let depth = description.max_def_level();
    if description.max_rep_level() > 0 {
        return Err(ParquetError::General("a row has a list of values where one is expected".into()));
    }
    let mut reader = get_typed_column_reader::<T>(group.get_column_reader(column)?);
    let (mut values, mut definitions) = (Vec::new(), Vec::new());
    let mut done = 0;
    while done < rows {
        let definitions = (depth > 0).then_some(&mut definitions);
        let (records, ..) = reader.read_records(rows - done, definitions, None, &mut values)?;
        if records == 0 {
            break;
        }
        done += records;
    }
    if depth == 0 {
        return Ok(values.into_iter().map(Some).collect());
    }
    let mut values = values.into_iter();
    Ok(definitions.iter().map(|level| if *level == depth { values.next() } else { None }).collect())
}

/// The names of a class column, as `datasets` keeps them: {"info": {"features": {"label": {"names": [...]}}}}.
fn feature_names(reader: &SerializedFileReader<File>, column: &str) -> Option<Vec<String>> {
    let pairs = reader.metadata().file_metadata().key_value_metadata()?;
    let text = pairs.iter().find(|pair| pair.key == "huggingface")?.value.as_ref()?;
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let names = json.get("info")?.get("features")?.get(column)?.get("names")?.as_array()?;
    names.iter().map(|name| name.as_str().map(String::from)).collect()
}

impl Dataset for Parquet {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    fn picture(&self, index: usize) -> Result<Picture> {
        let decoded = Picture::decode(self.pictures[index].bytes.data());
        decoded.map_err(|reason| Error::format(self.name(index), reason))
    }

    fn name(&self, index: usize) -> String {
        let Encoded { file, row, .. } = &self.pictures[index];
        format!("{} row {row}", self.files[*file].display())
    }
}
