//! TensorBoard event files: protobuf messages, each framed by length and checksums (TensorFlow's
//! `record_writer.h` and `event.proto`; only the fields for scalars).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::error::{Error, Result};

/// `tensorflow.Event`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5")]
    what: Option<What>,
}

/// `tensorflow.Event.what`.
#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// Writer of an event file.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Creates an event file in `folder`, a log directory for TensorBoard. `wall_time` is in
    /// seconds since 1970; files of the same second are numbered.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn create(folder: &Path, wall_time: f64) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let mut number = 0;
        loop {
            let name = format!(
                "events.out.tfevents.{:010}.incept.{}.{number}",
                wall_time as u64,
                std::process::id()
            );
            let path = folder.join(name);
            match File::create_new(&path) {
                Ok(file) => {
                    let mut writer = Self { path, file };
                    let what = Some(What::FileVersion("brain.Event:2".into()));
                    writer.write(&Event { wall_time, step: 0, what })?;
                    return Ok(writer);
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(Error::io(path, e)),
            }
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the scalars of a step.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn scalars(&mut self, wall_time: f64, step: u64, values: &[(String, f64)]) -> Result<()> {
        let value =
            |(tag, value): &(String, f64)| Value { tag: tag.clone(), simple_value: Some(*value as f32) };
        let what = Some(What::Summary(Summary { value: values.iter().map(value).collect() }));
        self.write(&Event { wall_time, step: i64::try_from(step).unwrap_or(i64::MAX), what })
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        self.file.write_all(&frame(&event.encode_to_vec())).map_err(|e| Error::io(&self.path, e))
    }
}

/// A record: length, its checksum, the data, its checksum.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// Masked CRC-32C: rotated and offset, so that checksums of data with embedded checksums are
/// robust.
fn masked(data: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c(data);
    (crc.rotate_right(15).wrapping_add(0xa282_ead8)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same bytes as TensorFlow's writer for two events.
    #[test]
    fn event_files_match_tensorflow() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut writer = EventWriter::create(folder.path(), 1.5).expect("can be written");
        writer.scalars(2.5, 7, &[("loss/main".into(), 0.25)]).expect("can be written");
        let bytes = std::fs::read(writer.path()).expect("is there");
        let golden = include_bytes!("../../tests/fixtures/tensorboard.events");
        assert_eq!(bytes, golden);
    }
}
