//! Data sets, splits, preprocessing, batches.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use incept::Error;
use incept::data::{
    Augmentation, Batch, Dataset, Fit, Folder, Image, Loader, LoaderOptions, Mix, OpenOptions, Preprocessing,
    Subset, at_most, digits, open, permutation, stratified,
};

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("has a folder")).expect("a folder");
    std::fs::write(path, bytes).expect("can be written");
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

/// MNIST idx files: magic number, dimensions, bytes.
fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|d| bytes.extend(d.to_be_bytes()));
    bytes.extend(values);
    bytes
}

#[test]
fn embedded_digits_are_complete() {
    let set = digits().expect("the embedded copy is whole");
    assert_eq!((set.len(), set.classes().len()), (1797, 10));
    let data = open("digits", &OpenOptions::default()).expect("can be opened");
    assert_eq!(data.train.len() + data.validation.len(), 1797);
    let image = data.train.image(0).expect("is in memory");
    assert_eq!((image.width, image.height, image.channels), (8, 8, 1));
    // Images differ, and grey levels reach white.
    let brightest = (0..100).filter_map(|i| data.train.image(i).ok()).flat_map(|p| p.pixels).max();
    assert_eq!(brightest, Some(255));
}

#[test]
fn splits_are_stratified_disjoint_and_repeatable() {
    let set = digits().expect("the embedded copy is whole");
    let (rest, part) = stratified(&set, 0.2, 3);
    assert_eq!((&rest, &part), (&stratified(&set, 0.2, 3).0, &stratified(&set, 0.2, 3).1));
    assert_ne!(part, stratified(&set, 0.2, 4).1);
    let all: BTreeSet<usize> = rest.iter().chain(&part).copied().collect();
    assert_eq!((all.len(), rest.len() + part.len()), (1797, 1797));
    for class in 0..10 {
        let count = |list: &[usize]| list.iter().filter(|i| set.label(**i) == class).count() as f64;
        let share = count(&part) / (count(&part) + count(&rest));
        assert!((share - 0.2).abs() < 0.01, "class {class}: {share}");
    }
}

/// A data set used only for its labels.
#[derive(Debug)]
struct Labels {
    classes: Vec<String>,
    labels: Vec<u32>,
}

impl Dataset for Labels {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    fn image(&self, _index: usize) -> incept::Result<Image> {
        Ok(Image { width: 1, height: 1, channels: 1, pixels: vec![0] })
    }

    fn name(&self, index: usize) -> String {
        index.to_string()
    }
}

#[test]
fn limits_are_exact_and_stratified() {
    // Rounding drops no class, whatever the order of the data set.
    let sorted: Arc<dyn Dataset> = Arc::new(Labels {
        classes: (0..100).map(|class| class.to_string()).collect(),
        labels: (0..100).flat_map(|class| vec![class; if class == 7 { 301 } else { 3 }]).collect(),
    });
    for limit in [100, 150, 299] {
        let some = at_most(Arc::clone(&sorted), limit, 1);
        let of = |class: u32| (0..some.len()).filter(|i| some.label(*i) == class).count();
        assert_eq!(some.len(), limit);
        assert!((0..100).all(|class| of(class) > 0), "{limit}");
        assert!((0..100).all(|class| of(class) <= of(7)), "{limit}");
    }
    assert_eq!(at_most(sorted, 50, 1).len(), 50);

    for limit in [10, 99, 1000] {
        let options = OpenOptions::default().limit(limit);
        let data = open("digits", &options).expect("can be opened");
        assert_eq!(data.train.len(), limit);
    }
}

#[test]
fn shuffling_depends_only_on_seed_and_epoch() {
    assert_eq!(permutation(100, 1, 2), permutation(100, 1, 2));
    assert_ne!(permutation(100, 1, 2), permutation(100, 1, 3));
    assert_ne!(permutation(100, 1, 2), permutation(100, 2, 2));
    let all: BTreeSet<usize> = permutation(100, 1, 2).into_iter().collect();
    assert_eq!(all.len(), 100);
}

#[test]
fn idx_files_are_read_plain_and_gzipped() {
    for packed in [false, true] {
        let folder = temporary();
        let put = |name: &str, bytes: Vec<u8>| {
            let (name, bytes) =
                if packed { (format!("{name}.gz"), gz(&bytes)) } else { (name.into(), bytes) };
            write(&folder.path().join(name), &bytes);
        };
        put("train-images-idx3-ubyte", idx(&[3, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]));
        put("train-labels-idx1-ubyte", idx(&[3], &[7, 0, 9]));
        put("t10k-images-idx3-ubyte", idx(&[1, 2, 2], &[200, 201, 202, 203]));
        put("t10k-labels-idx1-ubyte", idx(&[1], &[4]));
        let data = open(&folder.path().to_string_lossy(), &OpenOptions::default()).expect("can be opened");
        assert_eq!((data.train.len(), data.validation.len()), (3, 1));
        assert_eq!(data.train.label(2), 9);
        assert_eq!(data.train.image(1).expect("in memory").pixels, [4, 5, 6, 7]);
        assert_eq!(data.validation.image(0).expect("in memory").pixels, [200, 201, 202, 203]);
    }
}

#[test]
fn damaged_idx_files_are_named() {
    let folder = temporary();
    for name in ["train-images-idx3-ubyte", "t10k-images-idx3-ubyte"] {
        write(&folder.path().join(name), &idx(&[3, 2, 2], &[0; 5]));
    }
    for name in ["train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"] {
        write(&folder.path().join(name), &idx(&[3], &[1, 2, 3]));
    }
    let error =
        open(&folder.path().to_string_lossy(), &OpenOptions::default()).expect_err("7 bytes are missing");
    assert!(error.to_string().contains("train-images-idx3-ubyte"), "{error}");
}

#[test]
fn cifar_files_are_read() {
    let folder = temporary();
    let record = |label: u8, red: u8| {
        let mut bytes = vec![label];
        for value in [red, 20, 30] {
            bytes.extend([value; 1024]);
        }
        bytes
    };
    for i in 1..=5 {
        write(&folder.path().join(format!("data_batch_{i}.bin")), &record(i, 10 * i));
    }
    write(&folder.path().join("test_batch.bin"), &[record(9, 99), record(0, 1)].concat());
    let data = open(&folder.path().to_string_lossy(), &OpenOptions::default()).expect("can be opened");
    assert_eq!((data.train.len(), data.validation.len(), data.train.classes().len()), (5, 2, 10));
    let image = data.train.image(2).expect("in memory");
    assert_eq!((image.width, image.channels, &image.pixels[..6]), (32, 3, &[30, 20, 30, 30, 20, 30][..]));
    assert_eq!(data.validation.label(0), 9);
}

fn png(width: u32, height: u32, value: u8, grey: bool) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = if grey {
        image::DynamicImage::from(image::GrayImage::from_pixel(width, height, image::Luma([value])))
    } else {
        image::DynamicImage::from(image::RgbImage::from_pixel(width, height, image::Rgb([value, 0, 0])))
    };
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("memory can be written");
    bytes.into_inner()
}

/// Two classes of images of various sizes and formats, three of them damaged.
fn folder_of_images() -> tempfile::TempDir {
    let folder = temporary();
    for i in 0..8u32 {
        let class = if i % 2 == 0 { "apple" } else { "pear" };
        let bytes = png(10 + 3 * i, 40 - 2 * i, 30 * i as u8, i % 3 == 0);
        write(&folder.path().join(format!("{class}/{i}.png")), &bytes);
    }
    write(&folder.path().join("apple/broken.png"), b"no image at all");
    let whole = png(30, 30, 9, false);
    write(&folder.path().join("pear/truncated.png"), &whole[..whole.len() / 2]);
    write(&folder.path().join("pear/empty.jpg"), b"");
    write(&folder.path().join("pear/notes.txt"), b"not an image, and not called one");
    write(&folder.path().join(".hidden/x.png"), &whole);
    folder
}

#[test]
fn unreadable_images_are_skipped_and_reported() {
    let folder = folder_of_images();
    let set = Arc::new(Folder::open(folder.path()).expect("has two classes"));
    assert_eq!((set.len(), set.classes()), (11, &["apple".to_string(), "pear".to_string()][..]));
    let options = LoaderOptions::new(4, Preprocessing::new(32)).workers(2);
    let loader = Loader::new(Arc::clone(&set) as Arc<dyn Dataset>, options.clone()).expect("has images");
    let batches: Vec<Batch> =
        loader.epoch(0, 0).collect::<incept::Result<_>>().expect("three bad ones are allowed");
    assert_eq!(batches.len(), 3);
    assert_eq!(batches.iter().map(|b| b.count).sum::<usize>(), 8);
    let labels = batches.iter().flat_map(|b| &b.labels).filter(|l| **l == Batch::MISSING).count();
    assert_eq!(labels, 12 - 8, "bad images and the end of the epoch have no label");
    let bad = loader.bad();
    let named = |name: &str| bad.iter().any(|(file, _)| file.contains(name));
    assert!(bad.len() == 3 && named("broken.png") && named("truncated.png") && named("empty.jpg"), "{bad:?}");

    let options = options.max_bad(2);
    let loader = Loader::new(set, options).expect("has images");
    let error = loader.epoch(0, 0).find_map(Result::err).expect("three bad ones are too many");
    assert!(matches!(error, Error::TooManyBad { bad: 3, max: 2, .. }), "{error}");
}

/// Two classes of readable images, plus decompression bombs, empty images and one that panics the
/// decoder; returns the number of these.
fn folder_of_hostile_images() -> (tempfile::TempDir, usize) {
    let folder = folder_of_images();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let cases = ["bomb_1M.png", "bomb_1M.pgm", "bomb_1M.tif", "huge_canvas.gif", "huge_raw.bmp", "huge.jpg"];
    let more = ["huge_rle.bmp", "zero_width.pgm", "oddsample.jpg"];
    let hostile: Vec<_> = cases.iter().chain(&more).map(|name| fixtures.join("cases").join(name)).collect();
    let panics = fixtures.join("images/tiff_planar_tiles.tif");
    let hostile = [&hostile[..], &[panics]].concat();
    for file in &hostile {
        let name = file.file_name().expect("a name");
        std::fs::copy(file, folder.path().join("apple").join(name)).expect("can be copied");
    }
    (folder, hostile.len())
}

#[test]
fn hostile_images_are_skipped_and_reported() {
    let (folder, hostile) = folder_of_hostile_images();
    let set = Arc::new(Folder::open(folder.path()).expect("has two classes"));
    assert_eq!(set.len(), 11 + hostile);
    let measured = Preprocessing::new(32).measure(set.as_ref(), 100);
    assert!(measured.std.iter().all(|s| s.is_finite() && *s > 0.0), "{measured:?}");
    let options = LoaderOptions::new(4, measured).workers(2).max_bad(3 + hostile);
    let loader = Loader::new(set, options.training(1, Some(Augmentation::paper()))).expect("has images");
    let batches: Vec<Batch> = loader.epoch(0, 0).collect::<incept::Result<_>>().expect("all are allowed");
    assert_eq!(batches.iter().map(|b| b.count).sum::<usize>(), 8);
    assert_eq!(loader.bad().len(), 3 + hostile);
    for (name, reason) in [
        ("bomb_1M.png", "1000000 x 1000000"),
        ("zero_width.pgm", "no pixels"),
        ("tiff_planar_tiles.tif", "decoder failed"),
    ] {
        assert!(loader.bad().iter().any(|(file, why)| file.contains(name) && why.contains(reason)), "{name}");
    }
}

/// An external data set whose images are empty, have the wrong number of pixels, or panic.
#[derive(Debug)]
struct Hostile(Vec<String>);

impl Dataset for Hostile {
    fn len(&self) -> usize {
        5
    }

    fn classes(&self) -> &[String] {
        &self.0
    }

    fn label(&self, _: usize) -> u32 {
        0
    }

    fn image(&self, index: usize) -> incept::Result<Image> {
        let (width, height) = if index == 0 { (0, 5) } else { (5, 4) };
        assert!(index != 1, "a decoder gives up");
        let channels = if index == 2 { 0 } else { 1 };
        let count = if index == 3 { 19 } else { width * height * channels };
        Ok(Image { width, height, channels, pixels: vec![7; count] })
    }

    fn name(&self, index: usize) -> String {
        format!("image {index}")
    }
}

#[test]
fn panics_and_empty_images_do_not_end_workers() {
    let set: Arc<dyn Dataset> = Arc::new(Hostile(vec!["a".into()]));
    for workers in [0, 2] {
        let options = LoaderOptions::new(2, Preprocessing::new(32)).workers(workers);
        let loader = Loader::new(Arc::clone(&set), options).expect("has images");
        let batches: Vec<Batch> = loader.epoch(0, 0).collect::<incept::Result<_>>().expect("four may be bad");
        assert_eq!(batches.iter().map(|b| b.count).sum::<usize>(), 1);
        let bad = loader.bad();
        assert!(bad.len() == 4 && bad[0].1.contains("no pixels") && bad[1].1.contains("gives up"), "{bad:?}");
        assert!(bad.iter().enumerate().all(|(i, (name, _))| *name == format!("image {i}")), "{bad:?}");
    }
}

#[test]
fn train_and_val_folders_are_separate() {
    let folder = temporary();
    for (part, class, count) in [("train", "a", 3), ("train", "b", 2), ("val", "a", 1), ("val", "b", 1)] {
        for i in 0..count {
            write(&folder.path().join(format!("{part}/{class}/{i}.png")), &png(8, 8, 9, true));
        }
    }
    let data = open(&folder.path().to_string_lossy(), &OpenOptions::default()).expect("can be opened");
    assert_eq!((data.train.len(), data.validation.len()), (5, 2));
    write(&folder.path().join("val/c/0.png"), &png(8, 8, 9, true));
    let error = open(&folder.path().to_string_lossy(), &OpenOptions::default()).expect_err("c is new");
    assert!(error.to_string().contains('c'), "{error}");
    for nothing in ["no such folder", &temporary().path().to_string_lossy()] {
        open(nothing, &OpenOptions::default()).expect_err("there is no data set");
    }
}

/// Batches do not depend on the number of workers, and an epoch can start in the middle.
#[test]
fn batches_do_not_depend_on_workers() {
    let set: Arc<dyn Dataset> = Arc::new(digits().expect("the embedded copy is whole"));
    let batches = |workers: usize, epoch: u64, first: usize| {
        let options = LoaderOptions::new(100, Preprocessing::new(32)).workers(workers);
        let options = options.training(5, Some(Augmentation::paper()));
        let loader = Loader::new(Arc::clone(&set), options).expect("has images");
        loader.epoch(epoch, first).collect::<incept::Result<Vec<Batch>>>().expect("all can be read")
    };
    let whole = batches(0, 1, 0);
    assert_eq!(whole.len(), 18);
    assert_eq!(whole, batches(3, 1, 0));
    assert_eq!(whole[11..], batches(2, 1, 11)[..]);
    assert_ne!(whole[0], batches(2, 2, 0)[0]);
    let seen: BTreeSet<usize> = whole.iter().flat_map(|b| b.indices.iter().copied()).collect();
    assert_eq!(seen.len(), 1797, "an epoch has every image once");
    assert_eq!(whole[17].count, 97);
    assert_eq!(whole[17].labels[97..], [Batch::MISSING; 3]);
    // Batch norm uses all rows: those without a label are other images of the epoch, augmented as
    // there.
    let row = 3 * 32 * 32;
    assert_eq!(whole[17].images[97 * row..], whole[0].images[..3 * row]);
}

/// Rows without an image are filled with other images of the epoch and not with copies as long as
/// there are others: copies have too small a variance.
#[test]
fn missing_rows_are_filled_with_other_images() {
    let folder = folder_of_images();
    let set: Arc<dyn Dataset> = Arc::new(Folder::open(folder.path()).expect("has two classes"));
    let mix = Mix::default().mixup(0.4);
    let batches = |batch: usize, workers: usize, first: usize, mix: Option<Mix>| {
        let options = LoaderOptions::new(batch, Preprocessing::new(32)).workers(workers);
        let options = options.training(2, Some(Augmentation::standard())).mix(mix);
        let loader = Loader::new(Arc::clone(&set), options).expect("has images");
        let list = loader.epoch(3, first).collect::<incept::Result<Vec<Batch>>>();
        (list.expect("three bad ones are allowed"), loader.bad().len())
    };
    let bits = |batch: &Batch, row: usize| -> Vec<u32> {
        let size = batch.images.len() / batch.labels.len();
        batch.images[row * size..(row + 1) * size].iter().map(|v| v.to_bits()).collect()
    };
    for (size, count) in [(4, 3), (6, 2), (8, 2)] {
        let (list, bad) = batches(size, 0, 0, None);
        assert_eq!((list.len(), bad), (count, 3), "fillers do not count as unreadable");
        let own: BTreeSet<Vec<u32>> = list
            .iter()
            .flat_map(|b| (0..size).filter(|i| b.labels[*i] != Batch::MISSING).map(|i| bits(b, i)))
            .collect();
        assert_eq!(own.len(), 8);
        for batch in &list {
            let rows: BTreeSet<Vec<u32>> = (0..size).map(|i| bits(batch, i)).collect();
            assert!(rows.len() == size && rows.is_subset(&own), "{size}: {} different rows", rows.len());
        }
        // Independent of workers and of the first batch.
        assert_eq!(list, batches(size, 3, 0, None).0);
        assert_eq!(list[count - 1..], batches(size, 0, count - 1, None).0[..]);

        // Fillers are mixed only with each other, so they do not reach the loss.
        let (mixed, _) = batches(size, 0, 0, Some(mix));
        for (batch, plain) in mixed.iter().zip(&list) {
            let labels = batch.mixed.as_ref().expect("second labels");
            for i in 0..size {
                assert_eq!(labels.second[i] == Batch::MISSING, plain.labels[i] == Batch::MISSING);
            }
            let same = |i: usize| {
                batch.images[i * 3072..(i + 1) * 3072]
                    .iter()
                    .zip(&plain.images[i * 3072..])
                    .all(|(a, b)| (a - b).abs() < 1e-5)
            };
            assert!(batch.count != 1 || (0..size).all(|i| plain.labels[i] == Batch::MISSING || same(i)));
        }
    }
    // Without other images, all are repeated evenly.
    let (list, _) = batches(17, 0, 0, None);
    let rows = (0..17).map(|i| bits(&list[0], i));
    let mut copies = std::collections::BTreeMap::<Vec<u32>, usize>::new();
    rows.for_each(|row| *copies.entry(row).or_default() += 1);
    assert!(copies.len() == 8 && copies.values().all(|n| (2..=3).contains(n)), "{:?}", copies.values());
}

#[test]
fn data_set_without_readable_images_is_an_error() {
    let folder = temporary();
    for i in 0..5 {
        write(&folder.path().join(format!("{}/{i}.png", i % 2)), b"no image at all");
    }
    let set: Arc<dyn Dataset> = Arc::new(Folder::open(folder.path()).expect("has two classes"));
    let plain = LoaderOptions::new(2, Preprocessing::new(32));
    for options in [plain.clone(), plain.training(1, None)] {
        let loader = Loader::new(Arc::clone(&set), options).expect("five files");
        let error = loader.epoch(0, 0).find_map(Result::err).expect("nothing to train on or to measure");
        assert!(matches!(error, Error::NothingReadable { count: 5, .. }), "{error}");
    }
    let nothing = LoaderOptions::new(0, Preprocessing::new(32));
    let error = Loader::new(Arc::clone(&set), nothing).expect_err("no rows").to_string();
    assert!(error.contains("LoaderOptions::batch"), "{error}");
    let empty: Arc<dyn Dataset> = Arc::new(Subset::new(set, Vec::new()));
    let options = LoaderOptions::new(2, Preprocessing::new(32));
    let error = Loader::new(empty, options).expect_err("no images").to_string();
    assert!(error.contains("no images") && !error.contains("batch"), "{error}");
}

#[test]
fn dropping_an_epoch_ends_its_workers() {
    let set: Arc<dyn Dataset> = Arc::new(digits().expect("the embedded copy is whole"));
    let options = LoaderOptions::new(8, Preprocessing::new(32)).workers(2);
    let loader = Loader::new(Arc::clone(&set), options).expect("has images");
    drop(loader.epoch(0, 0).next());
    drop(loader);
    // Workers hold the data set; when they end, this is the last reference.
    for _ in 0..200 {
        if Arc::strong_count(&set) == 1 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("workers are still running");
}

#[test]
fn images_are_cropped_scaled_and_normalized() {
    // Red on the left half, black on the right, aspect ratio 2:1.
    let mut pixels = Vec::new();
    for _ in 0..40 {
        for x in 0..80 {
            pixels.extend([if x < 40 { 255 } else { 0 }, 0, 0]);
        }
    }
    let image = Image { width: 80, height: 40, channels: 3, pixels };
    let plain = Preprocessing::new(40).mean([0.25, 0.5, 0.0]).std([0.5, 0.25, 1.0]);
    for fit in [Fit::Crop, Fit::Squash] {
        let values = plain.clone().fit(fit).apply(&image);
        let at = |c: usize, y: usize, x: usize| values[(c * 40 + y) * 40 + x];
        // Both have the edge in the center: the crop covers columns 20 to 60, squashing all.
        assert!((at(0, 20, 10) - 1.5).abs() < 1e-5 && (at(0, 20, 30) + 0.5).abs() < 1e-5, "{fit:?}");
        assert!((at(1, 0, 0) + 2.0).abs() < 1e-5 && at(2, 5, 5).abs() < 1e-6, "{fit:?}");
    }
    let mirrored =
        Preprocessing::new(32).apply(&Image { width: 1, height: 1, channels: 1, pixels: vec![255] });
    assert_eq!(mirrored.len(), 3 * 32 * 32);
    assert!(mirrored.iter().all(|v| (v - 2.0).abs() < 1e-5), "grey fills all three channels");
}

#[test]
fn mean_and_std_are_measured() {
    let set = digits().expect("the embedded copy is whole");
    let measured = Preprocessing::new(32).measure(&set, 1797);
    let values: Vec<f32> =
        (0..1797).flat_map(|i| measured.apply(&set.image(i).expect("in memory"))).collect();
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
    assert!(mean.abs() < 0.02, "{mean}");
    // Value for the original 8 x 8 pixels.
    assert!((measured.std[0] - 0.376).abs() < 0.002, "{:?}", measured.std);
}

/// An encoded image with a red gradient to the right.
fn row(format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_fn(32, 8, |x, _| image::Rgb([8 * x as u8, 0, 0]))
        .write_to(&mut bytes, format)
        .expect("memory can be written");
    bytes.into_inner()
}

/// Phones store images in sensor orientation with an EXIF orientation.
#[test]
fn exif_orientation_is_applied() {
    let plain = row(image::ImageFormat::Jpeg);
    let lying = Image::decode(&plain).expect("a jpeg");
    assert_eq!((lying.width, lying.height), (32, 8));
    // An APP1 segment with the EXIF orientation tag 0x0112 = 6: rotate clockwise.
    let exif: [u8; 32] = *b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut turned = plain[..2].to_vec();
    turned.extend([0xff, 0xe1, 0, 34]);
    turned.extend(exif);
    turned.extend(&plain[2..]);
    let standing = Image::decode(&turned).expect("a jpeg");
    assert_eq!((standing.width, standing.height), (8, 32));
    // The left side is at the top.
    assert!(standing.pixels[0] < 40 && standing.pixels[3 * 8 * 31] > 200, "{:?}", &standing.pixels[..6]);
}

#[test]
fn truncated_images_are_rejected() {
    for format in [image::ImageFormat::Jpeg, image::ImageFormat::Png] {
        let whole = row(format);
        assert!(Image::decode(&whole).is_ok(), "{format:?}");
        assert!(Image::decode(&whole[..whole.len() - 20]).is_err(), "{format:?}");
    }
}

/// TGA has no signature and is recognized by its extension.
#[test]
fn tga_is_recognized_by_extension() {
    let folder = temporary();
    for class in ["a", "b"] {
        write(&folder.path().join(class).join("image.tga"), &row(image::ImageFormat::Tga));
    }
    let set = Folder::open(folder.path()).expect("a folder of images");
    assert_eq!(set.image(1).map(|p| (p.width, p.height)).ok(), Some((32, 8)));
    assert!(Image::decode(&row(image::ImageFormat::Tga)).is_err());
}

#[test]
fn transparency_is_blended_with_white() {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbaImage::from_pixel(2, 2, image::Rgba([10, 20, 30, 0]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .expect("memory can be written");
    assert_eq!(Image::decode(&bytes.into_inner()).expect("a png").pixels, [255; 12]);
}
