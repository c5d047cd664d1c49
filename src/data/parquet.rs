//! Parquet files with encoded pictures in them, as Hugging Face's `datasets` stores them: a column `image` of bytes and path, and a column of classes.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::column::reader::{ColumnReader, get_typed_column_reader};
use parquet::data_type::{ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};

use super::{Dataset, Picture, known_classes, relabel};
use crate::error::{Error, Result};

/// What the columns may be called.
const IMAGES: [&str; 4] = ["image.bytes", "img.bytes", "image", "img"];
const LABELS: [&str; 5] = ["label", "labels", "fine_label", "class", "target"];

/// Encoded pictures of parquet files, all in memory; they are decoded when they are asked for.
#[derive(Clone, Debug)]
pub struct Parquet {
    pub(super) classes: Vec<String>,
    source: PathBuf,
    pictures: Vec<parquet::data_type::ByteArray>,
    labels: Vec<u32>,
}

impl Parquet {
    /// Reads the files one after another. The names of classes come from the features that `datasets` keeps in the file, or are the
    /// numbers or texts of the class column.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Format`] if it is no parquet or lacks a column.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let (mut pictures, mut labels, mut names) = (Vec::new(), Vec::new(), None);
        for path in files {
            let file = File::open(path).map_err(|e| Error::io(path, e))?;
            let damaged = |e: ParquetError| Error::format(path, format!("cannot be read as parquet: {e}"));
            let reader = SerializedFileReader::new(file).map_err(damaged)?;
            let columns = Columns::of(path, &reader)?;
            names = names.or_else(|| feature_names(&reader, &columns.label_name));
            for group in 0..reader.num_row_groups() {
                let group = reader.get_row_group(group).map_err(damaged)?;
                let found = columns.pictures(group.as_ref()).map_err(damaged)?;
                let classes = columns.labels(path, group.as_ref())?;
                if found.len() != classes.len() {
                    let reason =
                        format!("has {} pictures and {} classes in a row group", found.len(), classes.len());
                    return Err(Error::format(path, reason));
                }
                pictures.extend(found);
                labels.extend(classes);
            }
        }
        let source = files.first().cloned().unwrap_or_default();
        if pictures.is_empty() {
            return Err(Error::format(source, "has no rows"));
        }
        let classes = names.unwrap_or_else(|| known_classes(labels.iter().map(String::as_str)));
        let number = |label: &String| {
            let by_number = || label.parse().ok().filter(|n: &usize| *n < classes.len());
            let class = classes.iter().position(|c| c == label).or_else(by_number);
            let class = class.and_then(|class| u32::try_from(class).ok());
            class.ok_or_else(|| {
                Error::format(&source, format!("the class `{label}` is not one of its features"))
            })
        };
        let labels = labels.iter().map(number).collect::<Result<_>>()?;
        Ok(Self { classes, source, pictures, labels })
    }

    /// The same pictures with the numbers of classes that are known already.
    pub(super) fn with_classes(mut self, classes: &[String]) -> Result<Self> {
        relabel(&self.source, &self.classes, classes, self.labels.iter_mut())?;
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

    fn pictures(
        &self,
        group: &dyn RowGroupReader,
    ) -> Result<Vec<parquet::data_type::ByteArray>, ParquetError> {
        values::<ByteArrayType>(group, self.picture)
    }

    fn labels(&self, path: &Path, group: &dyn RowGroupReader) -> Result<Vec<String>> {
        let damaged = |e: ParquetError| Error::format(path, format!("cannot be read as parquet: {e}"));
        let read =
            match group.get_column_reader(self.label).map_err(damaged)? {
                ColumnReader::Int32ColumnReader(_) => values::<Int32Type>(group, self.label)
                    .map(|v| v.iter().map(ToString::to_string).collect()),
                ColumnReader::Int64ColumnReader(_) => values::<Int64Type>(group, self.label)
                    .map(|v| v.iter().map(ToString::to_string).collect()),
                ColumnReader::ByteArrayColumnReader(_) => values::<ByteArrayType>(group, self.label)
                    .map(|v| v.iter().map(|b| String::from_utf8_lossy(b.data()).into_owned()).collect()),
                _ => {
                    let reason = format!("the column `{}` holds neither numbers nor texts", self.label_name);
                    return Err(Error::format(path, reason));
                }
            };
        read.map_err(damaged)
    }
}

/// All values of a column of a row group; rows without one are left out.
fn values<T: DataType>(group: &dyn RowGroupReader, column: usize) -> Result<Vec<T::T>, ParquetError> {
    let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
    let levels = group.metadata().column(column).column_descr().max_def_level() > 0;
    let repeated = group.metadata().column(column).column_descr().max_rep_level() > 0;
    if repeated {
        return Err(ParquetError::General("a row has a list of values where one is expected".into()));
    }
    let mut reader = get_typed_column_reader::<T>(group.get_column_reader(column)?);
    let (mut values, mut definitions) = (Vec::new(), Vec::new());
    let mut done = 0;
    while done < rows {
        let definitions = levels.then_some(&mut definitions);
        let (records, ..) = reader.read_records(rows - done, definitions, None, &mut values)?;
        if records == 0 {
            break;
        }
        done += records;
    }
    Ok(values)
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
        let decoded = Picture::decode(self.pictures[index].data());
        decoded.map_err(|reason| Error::format(self.name(index), reason))
    }

    fn name(&self, index: usize) -> String {
        format!("{} row {index}", self.source.display())
    }
}
