//! Training, validation and test set, in folders, tars, parquet files and lists.

use std::path::Path;

use incept::data::{Dataset, OpenOptions, OpenedData, Part, open, open_part};

use super::{cases, fails, fixtures, json, png, temporary, text, write, write_tar};

fn opened(path: &Path) -> OpenedData {
    open(text(path), &OpenOptions::default()).expect("can be opened")
}

fn refused(path: &Path) -> String {
    open(text(path), &OpenOptions::default()).expect_err("is refused").to_string()
}

/// The number of images in training, validation and test set.
fn counts(path: &Path) -> (usize, usize, usize) {
    let data = opened(path);
    (data.train.len(), data.validation.len(), data.test.map_or(0, |test| test.len()))
}

/// Writes `count` different images to a folder.
fn images(folder: &Path, count: u8) {
    for i in 0..count {
        write(&folder.join(format!("{i}.png")), &png(i));
    }
}

#[test]
fn images_at_any_depth_belong_to_their_class() {
    let nested = cases().join("nested_classes");
    let set = incept::data::Folder::open(&nested).expect("three classes");
    assert_eq!((set.classes(), set.len()), (&["a", "b", "c"].map(String::from)[..], 20));
    let count = |class: u32| (0..set.len()).filter(|i| set.label(*i) == class).count();
    assert_eq!([count(0), count(1), count(2)], [5, 5, 10]);
    let info = json(&["data", "info", text(&nested), "--json"]);
    let of = |part: &str| info[part]["count"].as_u64().expect("a number");
    assert_eq!((info["classes"].as_array().map(Vec::len), of("train") + of("validation")), (Some(3), 20));
}

#[test]
fn tiny_imagenet_is_read_with_its_annotations() {
    let folder = temporary();
    let root = folder.path().join("tiny-imagenet-200");
    for wnid in ["n01443537", "n01629819"] {
        images(&root.join("train").join(wnid).join("images"), 4);
        write(&root.join("train").join(wnid).join(format!("{wnid}_boxes.txt")), b"0.png\t0\t0\t1\t1\n");
    }
    images(&root.join("val/images"), 3);
    let lines = "0.png\tn01629819\t0\t0\t1\t1\n1.png\tn01443537\t0\t0\t1\t1\n2.png\tn01629819\t0\t0\t1\t1\n";
    write(&root.join("val/val_annotations.txt"), lines.as_bytes());
    images(&root.join("test/images"), 5);
    let data = opened(folder.path());
    assert_eq!((data.train.len(), data.validation.len()), (8, 3));
    let labels: Vec<u32> = (0..3).map(|i| data.validation.label(i)).collect();
    assert_eq!(labels.iter().filter(|label| **label == 1).count(), 2, "{labels:?}");
    assert!(
        data.test.is_none() && data.notes.iter().any(|note| note.contains("5 images")),
        "{:?}",
        data.notes
    );
    let error = open_part(text(folder.path()), &OpenOptions::default(), Part::Test).expect_err("no labels");
    assert!(error.to_string().contains("no test set"), "{error}");
    write(&root.join("val/val_annotations.txt"), b"../../secret.png\tn01629819\n");
    assert!(refused(folder.path()).contains("not the name of a file"));
}

#[test]
fn folders_match_split_names_in_any_case() {
    for (train, validation, test) in [
        ("Train", "Valid", "Test"),
        ("training", "DEV", "testing"),
        ("seg_train/seg_train", "seg_val/seg_val", "seg_test/seg_test"),
        ("data/train", "data/validation", "data/evaluation"),
        ("flowers/train", "flowers/val", "flowers/eval"),
        ("train2017", "val2017", "test2017"),
    ] {
        let folder = temporary();
        for (part, count) in [(train, 4), (validation, 3), (test, 2)] {
            images(&folder.path().join(part).join("x"), count);
            images(&folder.path().join(part).join("y"), count);
        }
        assert_eq!(counts(folder.path()), (8, 6, 4), "{train}");
        let part =
            |part| open_part(text(folder.path()), &OpenOptions::default(), part).expect("is there").set.len();
        assert_eq!([Part::Train, Part::Validation, Part::Test].map(part), [8, 6, 4], "{train}");
    }
}

#[test]
fn test_set_is_the_validation_set_only_without_one() {
    let folder = temporary();
    for part in ["train", "test"] {
        images(&folder.path().join(part).join("x"), 3);
        images(&folder.path().join(part).join("y"), 3);
    }
    assert_eq!(counts(folder.path()), (6, 6, 6));
    images(&folder.path().join("val/x"), 2);
    // A validation set without images of a class is no error.
    let data = opened(folder.path());
    assert_eq!((data.validation.len(), data.validation.classes().len()), (2, 2));
}

#[test]
fn classes_may_have_names_of_splits() {
    let folder = temporary();
    for class in ["plane", "train", "test tube"] {
        images(&folder.path().join(class), 5);
    }
    assert_eq!(opened(folder.path()).train.classes(), ["plane", "test tube", "train"]);
    // A training folder of images without class folders is no class.
    let flat = temporary();
    images(&flat.path().join("train"), 3);
    images(&flat.path().join("val/x"), 3);
    assert!(refused(flat.path()).contains("two sub-folders"));
}

#[test]
fn unlabeled_test_set_is_skipped_and_reported() {
    let folder = temporary();
    images(&folder.path().join("train/x"), 5);
    images(&folder.path().join("train/y"), 5);
    images(&folder.path().join("test"), 7);
    let data = opened(folder.path());
    assert_eq!(data.train.len() + data.validation.len(), 10);
    assert!(
        data.notes.iter().any(|note| note.contains("7 images") && note.contains("no labels")),
        "{:?}",
        data.notes
    );
    // A validation set without labels is an error.
    images(&folder.path().join("val"), 4);
    assert!(refused(folder.path()).contains("4 images"));
}

fn shard(path: &Path, ending: &str, number: u8) {
    if ending == "tar" {
        let names: Vec<String> = (0..4).map(|i| format!("{number}-{i}")).collect();
        let files = names.iter().zip(0..).flat_map(|(name, i)| {
            [(format!("{name}.png"), png(number * 16 + i)), (format!("{name}.cls"), vec![b'0' + i % 2])]
        });
        write_tar(path, &files.collect::<Vec<_>>());
    } else {
        std::fs::create_dir_all(path.parent().expect("has a folder")).expect("a folder");
        std::fs::copy(fixtures().join("test-00000-of-00001.parquet"), path).expect("can be copied");
    }
}

#[test]
fn shards_match_split_names_anywhere_in_their_names() {
    for ending in ["tar", "parquet"] {
        let each = if ending == "tar" { 4 } else { 3 };
        for (train, validation, test) in [
            ("birds-train-00000-of-00001", "birds-validation-00000-of-00001", "birds-test-00000-of-00001"),
            ("a_train", "a_val_1", "a_eval"),
            ("train", "dev", "testing"),
            ("other", "valid", "evaluation"),
            ("data/train-00000-of-00001", "data/val-00000-of-00001", "data/test-00000-of-00001"),
            ("train/0000", "Validation/0000", "test/0000"),
            ("data/train/0", "data/dev/0", "data/test/0"),
            ("default/train/0000", "default/validation/0000", "default/test/0000"),
        ] {
            let folder = temporary();
            for (name, number) in [(train, 1), (validation, 2), (test, 3)] {
                shard(&folder.path().join(format!("{name}.{ending}")), ending, number);
            }
            assert_eq!(counts(folder.path()), (each, each, each), "{train}.{ending}");
        }
        // With files marked as training set, unmarked files do not belong to it.
        let folder = temporary();
        for (name, number) in [("train_0", 1), ("train_1", 2), ("train_2", 3), ("extra", 4)] {
            shard(&folder.path().join(format!("{name}.{ending}")), ending, number);
        }
        let data = opened(folder.path());
        assert_eq!(data.train.len() + data.validation.len(), 3 * each);
        assert!(data.notes.iter().any(|note| note.contains("extra")), "{:?}", data.notes);
    }
}

#[test]
fn lists_have_splits_by_column_and_by_file() {
    let folder = temporary();
    images(folder.path(), 9);
    let list = folder.path().join("all.csv");
    let words = ["train", "Training", "valid", "dev", "VAL", "test", "eval", "testing", "evaluation"];
    let row = |(i, word): (usize, &&str)| format!("{i}.png,{},{word}\n", ["x", "y"][i % 2]);
    let rows: String = words.iter().enumerate().map(row).collect();
    write(&list, format!("\u{feff}file,label,split\n{rows}").as_bytes());
    assert_eq!(counts(&list), (2, 3, 4));
    let test = open_part(text(&list), &OpenOptions::default(), Part::Test).expect("has one");
    assert_eq!(test.set.len(), 4);
    std::fs::remove_file(&list).expect("is there");
    for (name, rows) in [
        ("train.csv", "path,label\n0.png,x\n1.png,y\n2.png,x\n"),
        ("val.csv", "path,label\n3.png,y\n"),
        ("test.csv", "path\n4.png\n5.png\n"),
        ("sample_submission.csv", "id,answer\n0,1\n"),
    ] {
        write(&folder.path().join(name), rows.as_bytes());
    }
    let data = opened(folder.path());
    assert_eq!((data.train.len(), data.validation.len(), data.test.is_none()), (3, 1, true));
    assert!(data.notes.iter().any(|note| note.contains("2 rows")), "{:?}", data.notes);
}

#[test]
fn data_set_without_training_set_is_evaluated_completely() {
    let folder = temporary();
    images(&folder.path().join("val/x"), 6);
    images(&folder.path().join("val/y"), 6);
    let part = open_part(text(folder.path()), &OpenOptions::default(), Part::Validation).expect("has one");
    assert_eq!(part.set.len(), 12);
    let data = opened(folder.path());
    assert_eq!(data.train.len() + data.validation.len(), 12);
    assert!(data.notes.iter().any(|note| note.contains("no training set")), "{:?}", data.notes);
}

#[test]
fn eval_uses_the_classes_of_the_checkpoint_for_each_split() {
    let folder = temporary();
    let put = |part: &str, class: &str| {
        let images = fixtures().join("cifar10").join(class);
        for name in ["1.png", "2.png", "3.png"] {
            let bytes = std::fs::read(images.join(name)).expect("is there");
            write(&folder.path().join(part).join(class).join(name), &bytes);
        }
    };
    for (part, class) in [
        ("train", "cat"),
        ("train", "dog"),
        ("train", "ship"),
        ("val", "dog"),
        ("test", "cat"),
        ("test", "ship"),
    ] {
        put(part, class);
    }
    let eval = |part: &str| {
        json(&[
            "eval",
            "included",
            text(folder.path()),
            "--part",
            part,
            "--batch-size",
            "9",
            "--tune",
            "off",
            "--json",
        ])
    };
    for (part, count) in [("train", 9), ("validation", 3), ("test", 6)] {
        let result = eval(part);
        assert_eq!(result["count"].as_u64(), Some(count), "{part}: {result}");
        assert_eq!(result["classes"].as_array().map(Vec::len), Some(10), "{part}");
        assert!(result["correct"].as_u64() > Some(0), "{part}: labels are those of the checkpoint");
    }
    write(&folder.path().join("val/unicorn/1.png"), &png(1));
    write(&folder.path().join("train/unicorn/1.png"), &png(2));
    let error = fails(&["eval", "included", text(folder.path()), "--tune", "off"]);
    assert!(error.contains("unicorn") && error.contains("not in the checkpoint"), "{error}");
}
