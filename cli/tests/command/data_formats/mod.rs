//! CSV manifests, WebDataset and parquet files, and `incept data`.

mod damage;
mod left_out;
mod splits;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use incept::data::{Dataset, OpenOptions, WebDataset, open};
use serde_json::Value;

use crate::program::{self, fails, repository, run, text};

fn fixtures() -> PathBuf {
    repository().join("tests/fixtures/data")
}

/// Regression fixtures.
fn cases() -> PathBuf {
    repository().join("tests/fixtures/cases")
}

/// A single-color image.
fn png(value: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(4, 4, image::Rgb([value, 255 - value, 7]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .expect("memory can be written");
    bytes.into_inner()
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("has a folder")).expect("a folder");
    std::fs::write(path, bytes).expect("can be written");
}

fn write_tar(path: &Path, files: &[(String, Vec<u8>)]) {
    std::fs::create_dir_all(path.parent().expect("has a folder")).expect("a folder");
    let mut tar = tar::Builder::new(std::fs::File::create(path).expect("can be created"));
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice()).expect("can be added");
    }
    tar.finish().expect("can be finished");
}

/// A single-color image in CIFAR-10's binary format.
fn cifar_record(label: u8, color: &[u8; 3]) -> Vec<u8> {
    let planes = color.iter().flat_map(|value| [*value; 1024]);
    std::iter::once(label).chain(planes).collect()
}

/// An idx file as in MNIST: magic number, dimensions, bytes.
fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|d| bytes.extend(d.to_be_bytes()));
    bytes.extend(values);
    bytes
}

/// The standard error of a command that succeeds.
fn stderr(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The single line of a command's output, parsed as JSON.
fn json(arguments: &[&str]) -> Value {
    let [value] = program::json(arguments).try_into().expect("one object");
    value
}

/// The colors of `make.py`: the index of the non-zero channel is the class.
fn check_colors(set: &dyn Dataset, names: &[&str]) {
    assert_eq!(set.classes(), names);
    for index in 0..set.len() {
        let image = set.image(index).expect("can be decoded");
        assert_eq!((image.width, image.height, image.channels), (8, 8, 3));
        let brightest = (0..3).max_by_key(|c| image.pixels[*c]).expect("three channels");
        assert_eq!(brightest, set.label(index) as usize, "{}", set.name(index));
    }
}

#[test]
fn parquet_as_hugging_face_stores_it() {
    let folder = temporary();
    for part in ["train", "test"] {
        let name = format!("{part}-00000-of-00001.parquet");
        std::fs::copy(fixtures().join(&name), folder.path().join(&name)).expect("can be copied");
    }
    let data = open(text(folder.path()), &OpenOptions::default()).expect("can be opened");
    assert_eq!((data.train.len(), data.validation.len()), (9, 3));
    check_colors(data.train.as_ref(), &["red", "green", "blue"]);
    check_colors(data.validation.as_ref(), &["red", "green", "blue"]);
    let one = folder.path().join("train-00000-of-00001.parquet");
    let data = open(text(&one), &OpenOptions::default().val_split(0.34)).expect("can be opened");
    assert_eq!((data.train.len(), data.validation.len()), (6, 3));
    // Damage is an error that names the file.
    let bytes = std::fs::read(&one).expect("can be read");
    for cut in [0, 3, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&one, &bytes[..cut]).expect("can be written");
        let error = open(text(&one), &OpenOptions::default()).expect_err("is damaged").to_string();
        assert!(error.contains("train-00000"), "{error}");
    }
}

#[test]
fn webdataset_tars() {
    let folder = temporary();
    for name in ["train-000000.tar", "val-000000.tar"] {
        std::fs::copy(fixtures().join(name), folder.path().join(name)).expect("can be copied");
    }
    let data = open(text(folder.path()), &OpenOptions::default()).expect("can be opened");
    assert_eq!((data.train.len(), data.validation.len()), (9, 3));
    check_colors(data.train.as_ref(), &["0", "1", "2"]);
    std::fs::write(folder.path().join("classes.txt"), "rot\ngrün\nblau\n").expect("can be written");
    let data = open(text(folder.path()), &OpenOptions::default()).expect("can be opened");
    check_colors(data.train.as_ref(), &["rot", "grün", "blau"]);
    check_colors(data.validation.as_ref(), &["rot", "grün", "blau"]);
    std::fs::write(folder.path().join("classes.txt"), "rot\ngrün\n").expect("can be written");
    let error =
        open(text(folder.path()), &OpenOptions::default()).expect_err("a class has no name").to_string();
    assert!(error.contains("classes.txt"), "{error}");
}

#[test]
fn webdataset_labels_may_be_text_or_json() {
    let folder = temporary();
    let path = folder.path().join("shard.tar");
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(4, 4).write_to(&mut png, image::ImageFormat::Png).expect("can be encoded");
    let write = |labels: &[(&str, &str, &[u8])]| {
        let mut tar = tar::Builder::new(std::fs::File::create(&path).expect("can be created"));
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append_data(&mut header, name, bytes).expect("can be added");
        };
        for (key, extension, label) in labels {
            add(&format!("{key}.png"), png.get_ref());
            add(&format!("{key}.{extension}"), label);
        }
        tar.finish().expect("can be finished");
    };
    let labels: [(&str, &str, &[u8]); 4] = [
        ("a/v0", "txt", b"cat\n"),
        ("a/v1", "json", br#"{"label": "dog", "caption": "a dog"}"#),
        ("b", "txt", b"cat"),
        ("c", "json", br#"{"cls": "dog"}"#),
    ];
    write(&labels);
    let options = OpenOptions::default().val_split(0.5);
    let data = open(text(&path), &options).expect("can be opened");
    assert_eq!(data.train.classes(), ["cat", "dog"]);
    assert_eq!((data.train.len(), data.validation.len()), (2, 2));
    data.train.image(1).expect("can be decoded");
    // `.cls` is an index into the names; captions are no classes, and masks no images.
    std::fs::write(folder.path().join("classes.txt"), "1\n10\n2\n").expect("can be written");
    let samples: [(&str, &str, &[u8]); 6] = [
        ("a", "cls", b"0"),
        ("a.caption", "txt", b"a cat on a mat"),
        ("b", "cls", b"1"),
        ("b.mask", "cls", b"1"),
        ("c", "cls", b"2"),
        ("c.0", "txt", b"2"),
    ];
    write(&samples);
    let set = WebDataset::open(std::slice::from_ref(&path)).expect("can be opened");
    assert_eq!((0..set.len()).map(|i| set.label(i)).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(set.classes()[1], "10");
    std::fs::remove_file(folder.path().join("classes.txt")).expect("can be removed");
    write(&[labels[0], ("d", "caption", b"no class")]);
    let error = open(text(&path), &options).expect_err("d has no label").to_string();
    assert!(error.contains("`d` has no label"), "{error}");
}

#[test]
fn csv_manifests() {
    let folder = temporary();
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("can be written");
        path
    };
    for name in ["a.png", "b.png", "c, d.png", "e.png"] {
        image::RgbImage::new(4, 4).save(folder.path().join(name)).expect("can be written");
    }
    let split = write(
        "split.csv",
        "label,split,file\ncat,train,a.png\ndog,train,b.png\ncat,test,\"c, d.png\"\ndog,val,e.png\n",
    );
    let data = open(text(&split), &OpenOptions::default()).expect("can be opened");
    let test = data.test.expect("has a test set");
    assert_eq!((data.train.len(), data.validation.len(), test.len()), (2, 1, 1));
    assert_eq!(data.train.classes(), ["cat", "dog"]);
    assert_eq!((test.label(0), data.validation.label(0)), (0, 1));
    test.image(0).expect("a name with a comma");
    let bare = write("bare.tsv", "a.png\t0\nb.png\t2\nc, d.png\t0\ne.png\t2\n");
    let data = open(text(&bare), &OpenOptions::default().val_split(0.5)).expect("can be opened");
    assert_eq!((data.train.len(), data.train.classes().len()), (2, 3), "numbers are classes from 0");
    for (content, reason) in [
        ("", "is empty"),
        ("x,y\n1,2\n", "has no header"),
        ("file,label\na.png,\n", "line 2"),
        ("file,label,split\na.png,cat,sometimes\n", "sometimes"),
        ("file,label\na.png,cat\n", "two classes"),
    ] {
        let error =
            open(text(&write("bad.csv", content)), &OpenOptions::default()).expect_err(reason).to_string();
        assert!(error.contains(reason) && error.contains("bad.csv"), "{error}");
    }
}

/// `07` and `08` are valid names.
#[test]
fn csv_labels_may_have_leading_zeros() {
    let folder = temporary();
    for name in ["a.png", "b.png", "c.png"] {
        image::RgbImage::new(4, 4).save(folder.path().join(name)).expect("can be written");
    }
    let path = folder.path().join("padded.csv");
    let rows = "file,label,split\na.png,07,train\nb.png,08,train\nc.png,08,val\n";
    std::fs::write(&path, rows).expect("can be written");
    let data = open(text(&path), &OpenOptions::default()).expect("can be opened");
    assert_eq!(data.train.classes(), ["07", "08"]);
    assert_eq!((data.train.label(0), data.train.label(1), data.validation.label(0)), (0, 1, 1));
}

/// A parquet file with rows without image or class; the names of its classes are numbers.
fn write_parquet(path: &Path, labels: &[Option<i64>], names: &str) {
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::metadata::KeyValue;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    let schema = "message rows { optional binary image; optional int64 label; }";
    let schema = parquet::schema::parser::parse_message_type(schema).expect("a schema");
    let features = format!(r#"{{"info": {{"features": {{"label": {{"names": {names}}}}}}}}}"#);
    let features = KeyValue::new("huggingface".to_string(), features);
    let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![features])).build();
    let file = std::fs::File::create(path).expect("can be created");
    let mut writer =
        SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).expect("a writer");
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(4, 4).write_to(&mut png, image::ImageFormat::Png).expect("can be encoded");
    let mut group = writer.next_row_group().expect("a group");
    // The second row has no image.
    let there: Vec<i16> = (0..labels.len()).map(|row| i16::from(row != 1)).collect();
    let images = vec![ByteArray::from(png.into_inner()); labels.len() - 1];
    let mut column = group.next_column().expect("can go on").expect("a column");
    column.typed::<ByteArrayType>().write_batch(&images, Some(&there), None).expect("can be written");
    column.close().expect("can be closed");
    let there: Vec<i16> = labels.iter().map(|label| i16::from(label.is_some())).collect();
    let known: Vec<i64> = labels.iter().copied().flatten().collect();
    let mut column = group.next_column().expect("can go on").expect("a column");
    column.typed::<Int64Type>().write_batch(&known, Some(&there), None).expect("can be written");
    column.close().expect("can be closed");
    group.close().expect("can be closed");
    writer.close().expect("can be closed");
}

#[test]
fn parquet_skips_incomplete_rows() {
    let folder = temporary();
    let labels = [Some(0), Some(1), Some(1), None, Some(2), Some(-1), Some(1)];
    for part in ["train-00000", "train-00001"] {
        write_parquet(&folder.path().join(format!("{part}.parquet")), &labels, r#"["1", "10", "2"]"#);
    }
    let one = folder.path().join("train-00000.parquet");
    let parquet = incept::data::Parquet::open(&[one, folder.path().join("train-00001.parquet")]);
    let set = parquet.expect("can be opened");
    assert_eq!(set.classes(), ["1", "10", "2"]);
    let classes: Vec<u32> = (0..set.len()).map(|i| set.label(i)).collect();
    assert_eq!(classes, [0, 1, 2, 1, 0, 1, 2, 1], "numbers count the names, and stay beside their images");
    assert!(set.name(7).contains("train-00001") && set.name(7).ends_with("row 6"), "{}", set.name(7));
}

/// The command reads every format of the library, and shows its sets.
#[test]
fn info_reads_every_format() {
    let folder = temporary();
    let place = |names: &[&str], sub: &str| {
        let target = folder.path().join(sub);
        std::fs::create_dir(&target).expect("a folder");
        for name in names {
            std::fs::copy(fixtures().join(name), target.join(name)).expect("can be copied");
        }
        target
    };
    let parquet = place(&["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"], "parquet");
    let tars = place(&["train-000000.tar", "val-000000.tar"], "tars");
    for path in [parquet, tars] {
        let info = json(&["data", "info", text(&path), "--json"]);
        let count = |part: &str| info[part]["decoded"].as_u64().expect("a number");
        assert!(count("train") > count("validation") && count("validation") > 0, "{info}");
        assert_eq!(info["classes"].as_array().map(Vec::len), Some(3), "{info}");
    }
}

#[test]
fn info_reports_statistics_and_damage() {
    let info = json(&["data", "info", "digits", "--json"]);
    assert_eq!(
        (info["train"]["count"].as_u64(), info["validation"]["count"].as_u64()),
        (Some(1438), Some(359))
    );
    assert_eq!(info["classes"].as_array().map(Vec::len), Some(10));
    assert_eq!(info["train"]["grey"], info["train"]["decoded"]);
    assert_eq!(info["train"]["width"], serde_json::json!([8, 8, 8]));
    let folder = temporary();
    for class in ["x", "y"] {
        std::fs::create_dir(folder.path().join(class)).expect("a folder");
        for i in 0..3 {
            image::RgbImage::from_pixel(10 + i, 6, image::Rgb([255, 0, 0]))
                .save(folder.path().join(class).join(format!("{i}.png")))
                .expect("can be written");
        }
    }
    let info = json(&["data", "info", text(folder.path()), "--val-split", "0.34", "--json"]);
    assert_eq!(info["train"]["mean"], serde_json::json!([1.0, 0.0, 0.0]));
    std::fs::write(folder.path().join("x/1.png"), b"no image").expect("can be written");
    let output = run(&["data", "info", text(folder.path())]);
    assert_eq!(output.status.code(), Some(1), "damage is a failure");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1.png"));
}

#[test]
fn split_writes_a_folder_that_can_be_opened() {
    let folder = temporary();
    let out = folder.path().join("split");
    let result = json(&["data", "split", "digits", "--output", text(&out), "--val-split", "0.1", "--json"]);
    let data = open(text(&out), &OpenOptions::default()).expect("can be opened");
    assert_eq!(result["train"].as_u64(), Some(data.train.len() as u64));
    assert_eq!(data.train.len() + data.validation.len(), 1797);
    // The same images, bit for bit.
    let options = OpenOptions::default().val_split(0.1);
    let source = open("digits", &options).expect("is embedded");
    let all = |set: &Arc<dyn Dataset>| {
        let images = (0..set.len()).map(|i| (set.label(i), set.image(i).expect("can be decoded").pixels));
        let mut images: Vec<_> = images.collect();
        images.sort();
        images
    };
    assert_eq!(all(&data.validation), all(&source.validation));
    assert!(fails(&["data", "split", "digits", "--output", text(&out)]).contains("already exists"));
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("can be listed").collect();
    assert_eq!(left.len(), 1, "nothing half-done is left");
}

#[test]
fn preview_draws_every_class() {
    let folder = temporary();
    let sheet = folder.path().join("sheet.png");
    let result = json(&["data", "preview", "digits", "--output", text(&sheet), "--columns", "5", "--json"]);
    assert_eq!((result["classes"].as_u64(), result["images"].as_u64()), (Some(10), Some(50)));
    let image = image::open(&sheet).expect("an image").to_rgb8();
    assert_eq!((image.width(), image.height()), (2 * (56 + 170 + 5 * 78), 2 * (84 + 10 * 78 + 28)));
    let dark = image.pixels().filter(|p| p.0.iter().all(|v| *v < 64)).count();
    assert!(dark > 10_000, "{dark} dark pixels");
    assert!(fails(&["data", "preview", "digits", "--output", "sheet.svg"]).contains(".png"));
}

/// A server of one file that aborts each response after `most` bytes, and counts its responses.
fn serve(content: Vec<u8>, most: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let answers = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&answers);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut start = None;
            for line in BufReader::new(&mut stream).lines().map_while(Result::ok) {
                if line.is_empty() {
                    break;
                }
                if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
                    start = range.trim_end_matches('-').parse().ok();
                }
            }
            counter.fetch_add(1, Ordering::SeqCst);
            let from: usize = start.unwrap_or(0);
            let rest = &content[from.min(content.len())..];
            let status = if start.is_some() { "206 Partial Content" } else { "200 OK" };
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len());
            let _ = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(&rest[..rest.len().min(most)]));
        }
    });
    (address, answers)
}

#[test]
fn fetch_resumes_and_rejects_wrong_checksums() {
    let folder = temporary();
    let out = folder.path().join("cifar");
    let (address, answers) = serve(vec![7; 300_000], 100_000);
    let fetch = ["data", "fetch", "cifar10", "--output", text(&out), "--from", &address];
    let part = out.join("cifar-10-binary.tar.gz.part");
    for loaded in [100_000, 200_000] {
        let error = fails(&fetch);
        assert!(error.contains("run the command again") && error.contains(&address), "{error}");
        assert_eq!(std::fs::metadata(&part).expect("what came is kept").len(), loaded);
    }
    // The last piece arrives, and the checksum is wrong.
    let error = fails(&fetch);
    assert!(error.contains("MD5"), "{error}");
    assert!(!part.exists() && !out.join("cifar-10-binary.tar.gz").exists());
    assert_eq!(answers.load(Ordering::SeqCst), 3);
    for set in ["fashion-mnist", "mnist"] {
        let error = fails(&["data", "fetch", set, "--output", text(&out), "--from", "http://127.0.0.1:9"]);
        assert!(error.contains("check the connection") && error.contains("train-images"), "{error}");
    }
    let mut nothing = String::new();
    std::fs::File::open(out.join("train-images-idx3-ubyte.gz.part"))
        .and_then(|mut file| file.read_to_string(&mut nothing))
        .expect("an empty start");
    assert!(nothing.is_empty());
}
