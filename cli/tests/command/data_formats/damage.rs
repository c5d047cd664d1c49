//! Damaged and hostile files are rejected by name, with little memory and time.

use std::io::Write;
use std::path::Path;

use incept::data::{OpenOptions, WebDataset, open};

use super::{cases, fixtures, idx, png, run, temporary, text, write, write_tar};

fn refused(path: &Path) -> String {
    open(text(path), &OpenOptions::default()).expect_err("is refused").to_string()
}

#[test]
fn idx_files_without_images_are_rejected() {
    for case in ["zero_dim_idx", "idx_zero"] {
        let error = refused(&cases().join(case));
        assert!(error.contains("train-images-idx3-ubyte") && error.contains("above zero"), "{error}");
    }
    let folder = temporary();
    for part in ["train", "t10k"] {
        write(&folder.path().join(format!("{part}-images-idx3-ubyte")), &idx(&[0, 28, 28], &[]));
        write(&folder.path().join(format!("{part}-labels-idx1-ubyte")), &idx(&[0], &[]));
    }
    let output = run(&["train", text(folder.path()), "--epochs", "1"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("train-images-idx3-ubyte") && !error.contains("--batch-size"), "{error}");
}

/// A megabyte of gzip that unpacks to a gigabyte of zeros behind a header.
fn bomb(header: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(header).expect("memory can be written");
    let zeros = vec![0; 1 << 20];
    for _ in 0..1100 {
        encoder.write_all(&zeros).expect("memory can be written");
    }
    encoder.finish().expect("memory can be written")
}

#[test]
fn packed_files_are_limited_to_their_announced_size() {
    let folder = temporary();
    write(&folder.path().join("train-labels-idx1-ubyte"), &idx(&[1], &[0]));
    // Small dimensions: nothing beyond them is unpacked.
    let images = folder.path().join("train-images-idx3-ubyte.gz");
    write(&images, &bomb(&idx(&[1, 2, 2], &[])));
    let error = refused(folder.path());
    assert!(error.contains("more bytes"), "{error}");
    // Dimensions as large as the content, which is too large.
    write(&images, &bomb(&idx(&[1100, 1024, 1024], &[])));
    let error = refused(folder.path());
    assert!(error.contains("announces"), "{error}");
    // CIFAR's files have no header.
    let folder = temporary();
    write(&folder.path().join("data_batch_1.bin.gz"), &bomb(&[]));
    assert!(refused(folder.path()).contains("671088640"));
}

#[test]
fn packed_files_may_have_several_members() {
    let member = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory can be written");
        encoder.finish().expect("memory can be written")
    };
    let folder = temporary();
    let images = idx(&[4, 2, 2], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    let (first, second) = images.split_at(21);
    // Padding after the last member is ignored, as gzip does.
    let packed = [member(first), member(second), vec![0; 7]].concat();
    write(&folder.path().join("train-images-idx3-ubyte.gz"), &packed);
    write(&folder.path().join("train-labels-idx1-ubyte.gz"), &member(&idx(&[4], &[0, 1, 0, 1])));
    let options = OpenOptions::default().val_split(0.5);
    let data = open(text(folder.path()), &options).expect("can be opened");
    assert_eq!(data.train.len() + data.validation.len(), 4);
    // Damage in the second member is found.
    let mut damaged = packed;
    let at = damaged.len() - 7 - 8;
    damaged[at] ^= 0xff;
    write(&folder.path().join("train-images-idx3-ubyte.gz"), &damaged);
    assert!(refused(folder.path()).contains("cannot be decompressed"));
}

#[test]
fn columns_of_the_wrong_type_are_rejected() {
    for (case, kind) in
        [("22_fixed_size_binary.parquet", "FIXED_LEN_BYTE_ARRAY"), ("30_image_int64.parquet", "INT64")]
    {
        let error = refused(&cases().join(case));
        assert!(error.contains("`image") && error.contains(kind) && error.contains(case), "{error}");
    }
}

#[test]
fn flipped_bytes_of_parquet_are_errors() {
    for case in ["flipped_1.parquet", "flipped_2.parquet"] {
        let error = refused(&cases().join(case));
        assert!(error.contains(case), "{error}");
        let output = run(&["data", "info", text(&cases().join(case))]);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // Every byte of the metadata of a good file, and some of its pages.
    let folder = temporary();
    let whole = std::fs::read(fixtures().join("test-00000-of-00001.parquet")).expect("can be read");
    let path = folder.path().join("flipped.parquet");
    for at in (0..whole.len()).rev().take(1500).chain((0..whole.len()).step_by(7)) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        write(&path, &bytes);
        match open(text(&path), &OpenOptions::default().val_split(0.34)) {
            Ok(data) => assert!(data.train.len() < 10, "byte {at}"),
            Err(error) => assert!(error.to_string().contains("flipped.parquet"), "byte {at}: {error}"),
        }
    }
}

#[test]
fn truncated_and_inconsistent_tars_are_rejected() {
    let folder = temporary();
    let path = folder.path().join("a.tar");
    let files: Vec<(String, Vec<u8>)> = (0..4u8)
        .flat_map(|i| [(format!("{i}.png"), png(i)), (format!("{i}.cls"), vec![b'0' + i % 2])])
        .collect();
    write_tar(&path, &files);
    let whole = std::fs::read(&path).expect("can be read");
    // Truncated within the last image.
    let at = whole.len() - 1024 - 1024 - 100;
    write(&path, &whole[..at]);
    assert!(refused(&path).contains("a.tar"));
    // The header announces a name of gigabytes; the file is sparse and that long.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(3 << 30);
    header.set_path("././@LongLink").expect("fits");
    header.set_cksum();
    write(&path, header.as_bytes());
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("is there");
    file.set_len((3 << 30) + 2048).expect("a sparse file");
    assert!(refused(&path).contains("a name"));
    // Damage anywhere is an error or harmless.
    for at in (0..whole.len()).step_by(11) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        write(&path, &bytes);
        if let Err(error) = WebDataset::open(std::slice::from_ref(&path)) {
            assert!(error.to_string().contains("a.tar"), "byte {at}: {error}");
        }
    }
}

#[cfg(unix)]
#[test]
fn pipes_are_rejected_without_blocking() {
    let folder = temporary();
    let pipe = |path: &Path| {
        std::fs::create_dir_all(path.parent().expect("has a folder")).expect("a folder");
        let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo is there");
        assert!(made.success());
    };
    write(&folder.path().join("idx/train-labels-idx1-ubyte"), &idx(&[4], &[0, 1, 0, 1]));
    for name in ["idx/train-images-idx3-ubyte", "cifar/data_batch_1.bin"] {
        let path = folder.path().join(name);
        pipe(&path);
        let error = refused(path.parent().expect("has a folder"));
        assert!(error.contains("not a regular file"), "{error}");
    }
    for name in ["a.csv", "a.tar", "a.parquet"] {
        let path = folder.path().join(name);
        pipe(&path);
        assert!(refused(&path).contains(name));
    }
    // As an image it is skipped as unreadable.
    pipe(&folder.path().join("set/x/0.png"));
    for i in 1..4 {
        write(&folder.path().join(format!("set/x/{i}.png")), &png(i));
        write(&folder.path().join(format!("set/y/{i}.png")), &png(i));
    }
    let output = run(&["data", "info", text(&folder.path().join("set"))]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("0.png") && shown.contains("not a regular file"), "{shown}");
}
