//! Parquet files of encoded images as Hugging Face's `datasets` stores them: a column `image` of
//! bytes and path, and a label column.

mod pages;

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::FOOTER_SIZE;
use parquet::file::metadata::{FooterTail, RowGroupMetaData};
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};

use super::labels::{Label, Numbers, known_classes, relabel};
use super::{Dataset, Image};
use crate::error::{Error, Result};
use crate::text::plural;
use crate::untrusted::{contained_in, open_regular, printable};

/// Accepted column names.
const IMAGES: [&str; 4] = ["image.bytes", "img.bytes", "image", "img"];
const LABELS: [&str; 5] = ["label", "labels", "fine_label", "class", "target"];

/// Label of images without a known class.
const UNKNOWN: i64 = -1;

/// Encoded images of parquet files, all in memory and decoded on access.
#[derive(Clone, Debug)]
pub struct Parquet {
    pub(super) classes: Vec<String>,
    files: Vec<PathBuf>,
    images: Vec<Encoded>,
    labels: Vec<u32>,
}

/// An encoded image and its source.
#[derive(Clone, Debug)]
struct Encoded {
    bytes: ByteArray,
    /// Index of its file.
    file: usize,
    /// Row in that file.
    row: usize,
}

/// Maximum bytes of a file's metadata.
const MAX_METADATA_BYTES: usize = 64 << 20;

/// A file may decompress to this many bytes, or to `MAX_RATIO` times its size if that is more.
const MAX_UNPACKED_BYTES: u64 = 512 << 20;
const MAX_RATIO: u64 = 32;

/// Maximum rows of a file.
const MAX_ROWS: i64 = 16 << 20;

/// Error for files without labels.
pub(super) fn unlabelled(source: PathBuf) -> Error {
    let wanted = LABELS.join("`, `");
    Error::format(
        source,
        format!("has no rows with an image and a label; expected a label column named `{wanted}`"),
    )
}

/// Rows read so far.
#[derive(Default)]
struct Found {
    images: Vec<Encoded>,
    labels: Vec<Label>,
    names: Option<Vec<String>>,
    /// Rows without an image or a label.
    empty: usize,
}

impl Parquet {
    /// Reads the files in order. Class names are those of the `datasets` features in the file, or
    /// else the numbers or strings of the label column. Rows without an image or a label are
    /// skipped, as are rows with the label -1, by which `datasets` marks an unlabelled test set.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Format`] if it is not parquet, lacks a
    /// column, or would decompress to much more than its size.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let mut notes = Vec::new();
        let set = Self::read(files, &mut notes)?;
        notes.iter().for_each(|note| log::warn!("{note}"));
        let source = files.first().cloned().unwrap_or_default();
        set.ok_or_else(|| unlabelled(source))
    }

    /// As [`Parquet::open`]; `None` if no row has a label.
    pub(super) fn read(files: &[PathBuf], notes: &mut Vec<String>) -> Result<Option<Self>> {
        let mut found = Found::default();
        for (number, path) in files.iter().enumerate() {
            let before = found.empty;
            contained_in(path, || found.add(number, path))?;
            let (empty, path) = (found.empty - before, path.display());
            if empty > 0 {
                let rows = plural(empty, "row");
                notes.push(format!("skipped {rows} of {path} without an image or a label"));
            }
        }
        let Found { images, labels, names, .. } = found;
        if images.is_empty() {
            return Ok(None);
        }
        let named = names.is_some();
        let classes = names.unwrap_or_else(|| known_classes(labels.iter().map(|l| l.text.as_str())));
        let numbers = Numbers::new(&classes, named);
        let number = |(label, image): (&Label, &Encoded)| {
            numbers.class(label).ok_or_else(|| {
                let reason = format!(
                    "the label `{}` is not among the class names in the file's features",
                    printable(&label.text)
                );
                Error::format(&files[image.file], reason)
            })
        };
        let labels = labels.iter().zip(&images).map(number).collect::<Result<_>>()?;
        Ok(Some(Self { classes, files: files.to_vec(), images, labels }))
    }

    /// The same images with labels numbered as in `classes`.
    pub(super) fn with_classes(mut self, classes: &[String]) -> Result<Self> {
        let source = self.files.first().cloned().unwrap_or_default();
        relabel(&source, &self.classes, classes, self.labels.iter_mut())?;
        self.classes = classes.to_vec();
        Ok(self)
    }
}

/// Image and label column of a file.
struct Columns {
    image: usize,
    label: usize,
    label_name: String,
}

impl Found {
    /// Adds the rows of a file.
    fn add(&mut self, number: usize, path: &Path) -> Result<()> {
        let damaged = |e: ParquetError| Error::format(path, format!("cannot be read as parquet: {e}"));
        let (mut file, length) = open_regular(path)?;
        check_metadata(&file, length).map_err(damaged)?;
        let reader =
            SerializedFileReader::new(file.try_clone().map_err(|e| Error::io(path, e))?).map_err(damaged)?;
        let Some(columns) = Columns::of(path, &reader)? else {
            let rows = reader.metadata().file_metadata().num_rows();
            self.empty += usize::try_from(rows).unwrap_or(0);
            return Ok(());
        };
        if self.names.is_none() {
            self.names = feature_names(&reader, &columns.label_name);
        }
        columns.check_sizes(&mut file, length, &reader).map_err(damaged)?;
        let mut row = 0;
        for group in 0..reader.num_row_groups() {
            let group = reader.get_row_group(group).map_err(damaged)?;
            let found = columns.images(group.as_ref()).map_err(damaged)?;
            let classes = columns.labels(path, group.as_ref())?;
            if found.len() != classes.len() {
                let (images, classes) = (plural(found.len(), "image"), plural(classes.len(), "class"));
                let reason = format!("has {images} and {classes} in a row group");
                return Err(Error::format(path, reason));
            }
            for (bytes, label) in found.into_iter().zip(classes) {
                match bytes.zip(label) {
                    Some((bytes, label)) => {
                        self.images.push(Encoded { bytes, file: number, row });
                        self.labels.push(label);
                    }
                    None => self.empty += 1,
                }
                row += 1;
            }
        }
        Ok(())
    }
}

/// Rejects implausibly large metadata before reading it.
fn check_metadata(file: &File, length: u64) -> Result<(), ParquetError> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let Some(at) = length.checked_sub(FOOTER_SIZE as u64) else { return Ok(()) };
    let mut footer = [0; FOOTER_SIZE];
    let mut file = file;
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut footer)?;
    let bytes = FooterTail::try_new(&footer)?.metadata_length();
    if bytes > MAX_METADATA_BYTES {
        let reason = format!("its metadata has {bytes} bytes, more than the limit of {MAX_METADATA_BYTES}");
        return Err(ParquetError::General(reason));
    }
    Ok(())
}

impl Columns {
    /// Finds the image and label column; `None` if there is only an image column.
    fn of(path: &Path, reader: &SerializedFileReader<File>) -> Result<Option<Self>> {
        let schema = reader.metadata().file_metadata().schema_descr();
        let names: Vec<String> = schema.columns().iter().map(|c| c.path().string()).collect();
        let find = |wanted: &[&str]| wanted.iter().find_map(|name| names.iter().position(|n| n == name));
        let lacks = |wanted: &[&str], what: &str| {
            let (wanted, has) = (wanted.join("`, `"), names.join("`, `"));
            let has = printable(&has);
            Error::format(path, format!("has no column of {what} (`{wanted}`); its columns are `{has}`"))
        };
        let image = find(&IMAGES).ok_or_else(|| lacks(&IMAGES, "encoded images"))?;
        let kind = schema.column(image).physical_type();
        if kind != Type::BYTE_ARRAY {
            let name = &names[image];
            let reason =
                format!("the column `{name}` has the type {kind}; encoded images must be BYTE_ARRAY");
            return Err(Error::format(path, reason));
        }
        Ok(find(&LABELS).map(|label| Self { image, label, label_name: names[label].clone() }))
    }

    /// Checks the announced sizes of all pages of both columns before the first is read.
    fn check_sizes(
        &self,
        file: &mut File,
        length: u64,
        reader: &SerializedFileReader<File>,
    ) -> Result<(), ParquetError> {
        let (mut total, mut rows) = (0u64, 0i64);
        for group in reader.metadata().row_groups() {
            rows = rows.saturating_add(group.num_rows());
            if !(0..=pages::MAX_ROWS).contains(&group.num_rows()) || rows > MAX_ROWS {
                return Err(ParquetError::General(format!(
                    "a row group claims {} rows; the limit is {} per row group and {MAX_ROWS} per file",
                    group.num_rows(),
                    pages::MAX_ROWS
                )));
            }
            for column in [self.image, self.label] {
                let column = group
                    .columns()
                    .get(column)
                    .ok_or(ParquetError::General("a row group lacks a column".into()))?;
                total = total.saturating_add(pages::check(file, column)?);
            }
        }
        let most = MAX_UNPACKED_BYTES.max(length.saturating_mul(MAX_RATIO));
        if total > most {
            return Err(ParquetError::General(format!(
                "its {length} bytes would decompress to {total}, more than the limit"
            )));
        }
        Ok(())
    }

    fn images(&self, group: &dyn RowGroupReader) -> Result<Vec<Option<ByteArray>>, ParquetError> {
        values::<ByteArrayType>(group, self.image)
    }

    fn labels(&self, path: &Path, group: &dyn RowGroupReader) -> Result<Vec<Option<Label>>> {
        let damaged = |e: ParquetError| Error::format(path, format!("cannot be read as parquet: {e}"));
        let counted = |number: Option<i64>| {
            number.filter(|n| *n != UNKNOWN).map(|n| Label { text: n.to_string(), counts: true })
        };
        let read = match column(group, self.label).map_err(damaged)? {
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
                let kind = group.metadata().column(self.label).column_type();
                let reason = format!(
                    "the column `{}` has the type {kind}; expected integers or strings",
                    self.label_name
                );
                return Err(Error::format(path, reason));
            }
        };
        read.map_err(damaged)
    }
}

/// A column reader that checks its pages.
fn column(group: &dyn RowGroupReader, column: usize) -> Result<ColumnReader, ParquetError> {
    let metadata: &RowGroupMetaData = group.metadata();
    let pages = pages::Checked::new(group.get_column_page_reader(column)?, metadata);
    Ok(get_column_reader(metadata.column(column).column_descr_ptr(), Box::new(pages)))
}

/// The values of a column in a row group; `None` for null.
fn values<T: DataType>(group: &dyn RowGroupReader, number: usize) -> Result<Vec<Option<T::T>>, ParquetError> {
    let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
    let description = group.metadata().column(number).column_descr_ptr();
    // Number of nested nullable levels: an image may be null, and its bytes too.
    let depth = description.max_def_level();
    if description.max_rep_level() > 0 {
        return Err(ParquetError::General("a row has a list of values instead of one value".into()));
    }
    let mut reader = get_typed_column_reader::<T>(column(group, number)?);
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

/// The class names in the metadata of `datasets`: {"info": {"features": {"label": {"names":
/// [...]}}}}.
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

    fn image(&self, index: usize) -> Result<Image> {
        let decoded = Image::decode(self.images[index].bytes.data());
        decoded.map_err(|reason| Error::format(self.name(index), reason))
    }

    fn name(&self, index: usize) -> String {
        let Encoded { file, row, .. } = &self.images[index];
        format!("{} row {row}", self.files[*file].display())
    }

    fn stored_bytes(&self, index: usize) -> Option<u64> {
        Some(self.images[index].bytes.len() as u64)
    }

    fn stored(&self, index: usize, limit: u64) -> Option<Vec<u8>> {
        let bytes = self.images[index].bytes.data();
        Some(bytes[..bytes.len().min(usize::try_from(limit).unwrap_or(usize::MAX))].to_vec())
    }
}
