//! Everything readable is read, and everything skipped is counted and reported.

use std::path::Path;

use incept::data::{Dataset, OpenOptions, WebDataset, open};

use super::{cases, cifar_record, idx, json, png, stderr, temporary, text, write, write_tar};

fn images_in(tar: &Path) -> usize {
    WebDataset::open(&[tar.to_path_buf()]).expect("can be opened").len()
}

#[test]
fn samples_with_dots_in_names_are_read() {
    let cases = cases();
    for (name, count) in [("40_cam.tar", 40), ("36_hardlink.tar", 8), ("26_tga.tar", 8)] {
        let set = WebDataset::open(&[cases.join(name)]).expect("can be opened");
        assert_eq!(set.len(), count, "{name}");
        for index in 0..set.len() {
            set.image(index).expect("can be decoded");
        }
        let folder = temporary();
        std::fs::copy(cases.join(name), folder.path().join(name)).expect("can be copied");
        let info = json(&["data", "info", text(folder.path()), "--json"]);
        let of = |part: &str| info[part]["decoded"].as_u64().expect("a number");
        assert_eq!(of("train") + of("validation"), count as u64, "{name}");
    }
}

#[test]
fn a_second_image_under_a_key_is_a_sample_or_an_error() {
    let folder = temporary();
    let tar = folder.path().join("a.tar");
    let files = |names: &[&str]| -> Vec<(String, Vec<u8>)> {
        let content = |i: usize, name: &str| if name.ends_with("png") { png(i as u8) } else { b"1".to_vec() };
        names.iter().enumerate().map(|(i, name)| (name.to_string(), content(i, name))).collect()
    };
    // Frames of one camera.
    write_tar(&tar, &files(&["cam.0001.png", "cam.0001.cls", "cam.0002.png", "cam.0002.cls"]));
    assert_eq!(images_in(&tar), 2);
    // One label for both.
    write_tar(&tar, &files(&["cam.left.png", "cam.right.png", "cam.cls"]));
    assert_eq!(images_in(&tar), 2);
    // The same key again after other keys.
    write_tar(&tar, &files(&["a.png", "a.cls", "b.png", "b.cls", "a.png", "a.cls"]));
    assert_eq!(images_in(&tar), 3);
    // Sorted by extension.
    write_tar(&tar, &files(&["a.png", "b.png", "c.png", "a.cls", "b.cls", "c.cls"]));
    assert_eq!(images_in(&tar), 3);
    for names in [["a.png", "a.png", "a.cls"], ["a.png", "a.jpg", "a.cls"]] {
        write_tar(&tar, &files(&names));
        let error = WebDataset::open(std::slice::from_ref(&tar)).expect_err("two images").to_string();
        assert!(error.contains("two images") && error.contains("a.tar"), "{error}");
    }
    // Other files of an image are reported.
    write_tar(&tar, &files(&["a.png", "a.seg.png", "a.cls", "b.png", "b.cls"]));
    let data = open(text(&tar), &OpenOptions::default().val_split(0.5)).expect("can be opened");
    assert_eq!(data.train.len() + data.validation.len(), 2);
    assert!(data.notes.iter().any(|note| note.contains("1 image in")), "{:?}", data.notes);
}

#[test]
fn files_with_unsupported_extensions_are_counted() {
    let folder = temporary();
    for class in ["x", "y"] {
        for i in 0..4 {
            write(&folder.path().join(class).join(format!("{i}.png")), &png(i));
        }
    }
    for name in ["x/a.jp2", "x/more/b.JP2", "y/c.heic", "y/notes.txt"] {
        write(&folder.path().join(name), b"anything");
    }
    write(&folder.path().join("z/readme.md"), b"no image");
    write(&folder.path().join("beside.png"), &png(9));
    let data = open(text(folder.path()), &OpenOptions::default()).expect("can be opened");
    assert_eq!(data.train.classes(), ["x", "y"]);
    let said = data.notes.join("\n");
    for part in ["3 images", "2 jp2", "1 heic", "1 image in", "without images: z"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    // The command reports each once.
    let shown = stderr(&["data", "split", text(folder.path()), "--output", text(&folder.path().join("out"))]);
    assert_eq!(shown.matches("2 jp2").count(), 1, "{shown}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_cycles_end() {
    use std::os::unix::fs::symlink;
    let folder = temporary();
    let (root, elsewhere) = (folder.path().join("set"), folder.path().join("elsewhere"));
    for i in 0..5 {
        write(&root.join("x").join(format!("{i}.png")), &png(i));
        write(&elsewhere.join("deep").join(format!("{i}.png")), &png(10 + i));
    }
    symlink(&elsewhere, root.join("y")).expect("can be linked");
    for (target, link) in
        [(&root, "x/up"), (&root, "all"), (&root.join("x"), "x/self"), (&elsewhere, "y/deep/up")]
    {
        symlink(target, root.join(link)).expect("can be linked");
    }
    let data = open(text(&root), &OpenOptions::default()).expect("can be opened");
    assert_eq!(data.train.classes(), ["x", "y"]);
    assert_eq!(data.train.len() + data.validation.len(), 10);
    let (images, _) = incept::data::list_images(&root).expect("can be listed");
    assert_eq!(images.len(), 10, "{images:?}");
}

#[test]
fn skipped_images_of_a_tar_are_counted() {
    let folder = temporary();
    let tar = folder.path().join("set.tar");
    let mut files = Vec::new();
    for i in 0..4u8 {
        files.push((format!("{i}.png"), png(i)));
        files.push((format!("{i}.cls"), vec![b'0' + i % 2]));
    }
    files.extend([("5.heic".to_string(), vec![1; 40]), ("5.cls".to_string(), b"1".to_vec())]);
    files.push(("noending".to_string(), png(9)));
    write_tar(&tar, &files);
    let data = open(text(&tar), &OpenOptions::default()).expect("can be opened");
    assert_eq!(data.train.len() + data.validation.len(), 4);
    let said = data.notes.join("\n");
    assert!(said.contains("skipped 2 images") && said.contains("1 heic, 1 without an extension"), "{said}");
}

#[test]
fn folder_named_like_a_split_among_classes_is_reported_as_a_class() {
    let folder = temporary();
    for class in ["cat", "dog", "test"] {
        for i in 0..5 {
            write(&folder.path().join(class).join(format!("{i}.png")), &png(i));
        }
    }
    let data = open(text(folder.path()), &OpenOptions::default()).expect("can be opened");
    assert!(data.notes.iter().any(|note| note.starts_with("test in ")), "{:?}", data.notes);
}

#[test]
fn other_tables_are_not_read_as_lists() {
    let folder = temporary();
    for i in 0..10 {
        write(&folder.path().join(format!("{i}.png")), &png(i));
    }
    let rows: String = (0..10).map(|i| format!("{i}.png,{}\n", ["x", "y"][i % 2])).collect();
    write(&folder.path().join("train.csv"), format!("file,label\n{rows}").as_bytes());
    write(&folder.path().join("eval_results.csv"), b"epoch,accuracy\n1,0.5\n");
    let data = open(text(folder.path()), &OpenOptions::default()).expect("can be opened");
    assert_eq!((data.train.len() + data.validation.len(), data.test.is_none()), (10, true));
}

#[test]
fn cifar_10_class_names_are_built_in() {
    let folder = temporary();
    for i in 1..=5 {
        write(&folder.path().join(format!("data_batch_{i}.bin")), &cifar_record(1, &[i; 3]));
    }
    write(&folder.path().join("test_batch.bin"), &cifar_record(1, &[9; 3]));
    let data = open(text(folder.path()), &OpenOptions::default()).expect("can be opened");
    assert_eq!((data.train.len(), data.test.map(|test| test.len())), (5, Some(1)));
    assert_eq!(data.train.classes()[3], "cat");
    // The included weights can be evaluated on it, as the README describes.
    let result = json(&["eval", "included", text(folder.path()), "--json", "--tune", "off"]);
    assert_eq!(result["count"].as_u64(), Some(1), "{result}");
    write(&folder.path().join("batches.meta.txt"), "\u{feff}a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n".as_bytes());
    let data = open(text(folder.path()), &OpenOptions::default()).expect("can be opened");
    assert_eq!(data.train.classes()[0], "a", "a byte order mark is no part of a name");
}

/// A CIFAR-10 file of the Python version, as pickled by Python 2: a dictionary with labels and an
/// array of single-color images.
fn python_batch(labels: &[u8], values: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x80\x02}(U\x06labels](".to_vec();
    labels.iter().for_each(|label| bytes.extend([b'K', *label]));
    bytes
        .extend(b"eU\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01");
    bytes.extend([b'K', values.len() as u8]);
    bytes.extend(b"M\x00\x0c\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN");
    bytes.extend(b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T");
    bytes.extend((3072 * values.len() as u32).to_le_bytes());
    values.iter().for_each(|value| bytes.extend([*value; 3072]));
    bytes.extend(b"tbu.");
    bytes
}

#[test]
fn cifar_pickles_execute_nothing() {
    let folder = temporary();
    let place = folder.path().join("cifar-10-batches-py");
    for i in 1..=5 {
        write(&place.join(format!("data_batch_{i}")), &python_batch(&[3, 5], &[200 + i, i]));
    }
    write(&place.join("test_batch"), &python_batch(&[9], &[255]));
    write(
        &place.join("batches.meta"),
        b"\x80\x02}U\x0blabel_names](U\x01aU\x01bU\x01cU\x01dU\x01eU\x01fU\x01gU\x01hU\x01iU\x01jes.",
    );
    let data = open(text(folder.path()), &OpenOptions::default()).expect("can be opened");
    assert_eq!((data.train.len(), data.train.classes()[3].as_str()), (10, "d"));
    assert_eq!((data.train.label(0), data.train.label(1)), (3, 5));
    let image = data.train.image(0).expect("an image");
    assert_eq!((image.width, image.height, image.channels, image.pixels[0]), (32, 32, 3, 201));
    assert_eq!(data.test.map(|test| test.label(0)), Some(9));
    // Arrays shorter than their header, and pickles that would execute code, are errors.
    let cut = python_batch(&[3, 5], &[1]);
    write(&place.join("data_batch_2"), &cut);
    let error =
        open(text(folder.path()), &OpenOptions::default()).expect_err("labels without images").to_string();
    assert!(error.contains("data_batch_2") && error.contains("1 image and 2 labels"), "{error}");
    write(&place.join("data_batch_2"), b"\x80\x02cos\nsystem\n(U\x05falsetR.");
    let error = open(text(folder.path()), &OpenOptions::default()).expect_err("not a dictionary").to_string();
    assert!(error.contains("data_batch_2") && error.contains("not a dictionary"), "{error}");
}

#[test]
fn missing_cifar_and_mnist_files_are_reported() {
    let folder = temporary();
    for i in [1, 2, 4] {
        let records: Vec<u8> = (0..4).flat_map(|k| cifar_record(k % 2, &[10 * i + k; 3])).collect();
        write(&folder.path().join(format!("data_batch_{i}.bin")), &records);
    }
    let data = open(text(folder.path()), &OpenOptions::default()).expect("has a training set");
    assert_eq!((data.train.len() + data.validation.len(), data.test.is_none()), (12, true));
    let said = data.notes.join("\n");
    assert!(said.contains("data_batch_3.bin, data_batch_5.bin") && said.contains("test_batch.bin"), "{said}");

    let folder = temporary();
    write(&folder.path().join("train-images-idx3-ubyte"), &idx(&[10, 2, 2], &[7; 40]));
    write(&folder.path().join("train-labels-idx1-ubyte"), &idx(&[10], &[0, 1, 0, 1, 0, 1, 0, 1, 0, 1]));
    let data = open(text(folder.path()), &OpenOptions::default()).expect("has a training set");
    assert_eq!((data.train.len(), data.validation.len()), (8, 2));
    assert!(data.notes.join("\n").contains("test set"), "{:?}", data.notes);
}

#[test]
fn emnist_is_transposed_and_named_by_characters() {
    let folder = temporary();
    let put = |set: &str, labels: &[u8]| {
        for part in ["train", "test"] {
            let name = |what: &str| folder.path().join(format!("emnist-{set}-{part}-{what}"));
            let images: Vec<u8> = (0..labels.len()).flat_map(|_| [1, 2, 3, 4, 5, 6]).collect();
            write(&name("images-idx3-ubyte"), &idx(&[labels.len() as u32, 3, 2], &images));
            write(&name("labels-idx1-ubyte"), &idx(&[labels.len() as u32], labels));
        }
    };
    put("letters", &[1, 26, 3]);
    let data = open(text(folder.path()), &OpenOptions::default()).expect("can be opened");
    assert_eq!((data.train.len(), data.train.classes().len()), (3, 26));
    assert_eq!((data.train.label(1), data.train.classes()[25].as_str()), (25, "Z"));
    let image = data.train.image(0).expect("in memory");
    assert_eq!((image.width, image.height, image.pixels), (3, 2, vec![1, 3, 5, 2, 4, 6]));
    put("balanced", &[0, 36, 46]);
    write(&folder.path().join("emnist-balanced-mapping.txt"), mapping().as_bytes());
    let error = open(text(folder.path()), &OpenOptions::default()).expect_err("two sets").to_string();
    assert!(error.contains("emnist-balanced-train-images") && error.contains("emnist-letters"), "{error}");
    let one = folder.path().join("emnist-balanced-train-images-idx3-ubyte");
    let data = open(text(&one), &OpenOptions::default()).expect("one of them");
    assert_eq!((data.train.classes().len(), data.train.classes()[36].as_str()), (47, "a"));
}

/// The mapping of EMNIST's balanced set: labels and ASCII codes.
fn mapping() -> String {
    let characters = ('0'..='9').chain('A'..='Z').chain("abdefghnqrt".chars());
    characters.enumerate().map(|(i, c)| format!("{i} {}\n", c as u32)).collect()
}

#[test]
fn duplicates_between_sets_are_counted() {
    let folder = temporary();
    for (part, values) in [("train", [1, 2, 3, 4]), ("val", [3, 4, 5, 6])] {
        for (class, values) in [("x", &values[..2]), ("y", &values[2..])] {
            for value in values {
                write(&folder.path().join(part).join(class).join(format!("{value}.png")), &png(*value));
            }
        }
    }
    let data = open(text(folder.path()), &OpenOptions::default()).expect("can be opened");
    assert_eq!(data.duplicates(), Some(2));
    let info = json(&["data", "info", text(folder.path()), "--json"]);
    assert_eq!(info["duplicates"].as_u64(), Some(2), "{info}");
}
