//! Functions that read untrusted files, by kind, and seed files: for `tests/mutations.rs` and the
//! fuzz targets.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use incept::checkpoint::{Checkpoint, ImportOptions};
use incept::data::{Image, OpenOptions, Preprocessing, open};
use incept::formats::{Foreign, read_tensors};
use incept::model::GoogLeNet;
use incept::optim::{Averaging, Schedule};
use incept::runs::{LogWriter, RunFolder};
use serde_json::json;

use super::mutate::{Outcome, repository};

/// A kind of files.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its name in reports, and the name of the fuzz target.
    pub name: &'static str,
    /// Reads a file with this content. The folder is for files that must exist, and is empty.
    pub read: fn(&Path, &[u8]) -> Outcome,
    /// Valid seed files.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All kinds that the library reads. Those of the command are in `cli/src/mutations.rs`.
pub const KINDS: [Kind; 12] = [
    Kind { name: "images", read: image, seeds: images },
    Kind { name: "idx", read: idx, seeds: idx_files },
    Kind { name: "cifar", read: cifar, seeds: cifar_files },
    Kind { name: "csv", read: csv, seeds: csv_files },
    Kind {
        name: "tar",
        read: |folder, bytes| data_set(folder, "x.tar", bytes),
        seeds: || fixtures(&["tar"]),
    },
    Kind {
        name: "parquet",
        read: |folder, bytes| data_set(folder, "x.parquet", bytes),
        seeds: || fixtures(&["parquet"]),
    },
    Kind { name: "pickle", read: weights, seeds: || fixtures(&["pth", "pt"]) },
    Kind { name: "caffemodel", read: weights, seeds: || fixtures(&["caffemodel"]) },
    Kind { name: "onnx", read: weights, seeds: || fixtures(&["onnx"]) },
    Kind { name: "safetensors", read: checkpoint, seeds: checkpoints },
    Kind { name: "logs", read: log, seeds: logs },
    Kind { name: "toml", read: |_, bytes| toml(bytes), seeds: configurations },
];

/// Maximum size of a seed: mutants of larger files are slow and reach no more code.
const LARGEST: u64 = 256 << 10;

/// The repository's files with these endings, in order of their paths.
pub fn fixtures(endings: &[&str]) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    collect(&repository().join("tests/fixtures"), endings, &mut files);
    files.sort();
    files.iter().filter_map(|file| std::fs::read(file).ok()).collect()
}

fn collect(folder: &Path, endings: &[&str], files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let small = entry.metadata().is_ok_and(|m| m.is_file() && m.len() <= LARGEST);
        if path.is_dir() {
            collect(&path, endings, files);
        } else if small && path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending)) {
            files.push(path);
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "`map_err` gives it away")]
fn text(error: incept::Error) -> String {
    error.to_string()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, String> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).map_err(|e| e.to_string())?;
    Ok(path)
}

/// Decodes and preprocesses an image.
fn image(_: &Path, bytes: &[u8]) -> Outcome {
    // TGA has no signature: the name decides.
    let image = Image::decode_as(bytes, Some(Path::new("x.tga")))?;
    let values = Preprocessing::new(32).apply(&image);
    if values.len() == 3 * 32 * 32 { Ok(()) } else { Err(format!("{} values", values.len())) }
}

fn images() -> Vec<Vec<u8>> {
    let mut seeds =
        fixtures(&["png", "jpg", "jpeg", "gif", "bmp", "tif", "tiff", "webp", "ppm", "pgm", "tga"]);
    // One seed per kind is sufficient.
    let mut small = 0;
    seeds.retain(|seed| {
        let one_of_many = seed.starts_with(b"\x89PNG") && seed.len() > 1500;
        small += usize::from(one_of_many);
        !one_of_many || small <= 2
    });
    let colour =
        |x: u32, y: u32| image::Rgba([(x * y) as u8, (7 * x) as u8, (40 + y) as u8, (255 - x) as u8]);
    let image = image::DynamicImage::from(image::RgbaImage::from_fn(23, 17, colour));
    use image::ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, Tga, Tiff, WebP};
    for format in [Png, Jpeg, Gif, Bmp, Tiff, WebP, Pnm, Tga] {
        let opaque = image::DynamicImage::from(image.to_rgb8());
        for image in [&image, &opaque, &image::DynamicImage::from(image.to_luma8()), &image.to_rgb16().into()]
        {
            let mut file = Cursor::new(Vec::new());
            // Not every format supports every pixel type.
            if image.write_to(&mut file, format).is_ok() {
                seeds.push(file.into_inner());
            }
        }
    }
    seeds
}

/// Opens a data set of one file and reads its first images.
fn data_set(folder: &Path, name: &str, bytes: &[u8]) -> Outcome {
    let path = write(folder, name, bytes)?;
    opened(&path)
}

fn opened(path: &Path) -> Outcome {
    let what = path.to_str().ok_or("a path that is not text")?;
    let data = open(what, &OpenOptions::default()).map_err(text)?;
    let preprocessing = Preprocessing::new(32).measure(data.train.as_ref(), 4);
    let mut failure = Ok(());
    for set in [&data.train, &data.validation] {
        for index in 0..set.len().min(4) {
            assert!((set.label(index) as usize) < set.classes().len(), "a label beyond the classes");
            match set.image(index) {
                Ok(image) => drop(preprocessing.apply(&image)),
                Err(error) => failure = Err(format!("{}: {error}", set.name(index))),
            }
        }
    }
    failure
}

fn idx_of(dims: &[u32], bytes: &[u8]) -> Vec<u8> {
    let header = std::iter::once(0x0800 + dims.len() as u32).chain(dims.iter().copied());
    header.flat_map(u32::to_be_bytes).chain(bytes.iter().copied()).collect()
}

/// One of the four files is mutated; the others are valid.
fn idx(folder: &Path, bytes: &[u8]) -> Outcome {
    let pixels: Vec<u8> = (0..4 * 5 * 6).map(|i| (i * 3) as u8).collect();
    let (images, labels) = (idx_of(&[4, 5, 6], &pixels), idx_of(&[4], &[0, 1, 2, 9]));
    let packed = bytes.starts_with(&[0x1f, 0x8b]);
    let is_labels = bytes.get(3) == Some(&1);
    let names = [("train-images-idx3-ubyte", &images), ("train-labels-idx1-ubyte", &labels)];
    for (i, (name, whole)) in names.into_iter().enumerate() {
        for suffix in ["", ".gz"] {
            // Files of the previous mutant must not be found first.
            let _ = std::fs::remove_file(folder.join(format!("{name}{suffix}")));
        }
        let chosen = if packed { i == 0 } else { (i == 1) == is_labels };
        let suffix = if chosen && packed { ".gz" } else { "" };
        write(folder, &format!("{name}{suffix}"), if chosen { bytes } else { whole })?;
    }
    write(folder, "t10k-images-idx3-ubyte", &images)?;
    write(folder, "t10k-labels-idx1-ubyte", &labels)?;
    opened(folder)
}

fn idx_files() -> Vec<Vec<u8>> {
    let images = idx_of(&[4, 5, 6], &[9; 4 * 5 * 6]);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let packed = packed.write_all(&images).and_then(|()| packed.finish());
    let mut seeds = vec![images, idx_of(&[4], &[3, 1, 4, 1])];
    seeds.extend(packed);
    seeds
}

/// A batch of the binary or Python version, or the class names.
fn cifar(folder: &Path, bytes: &[u8]) -> Outcome {
    const NAMES: [&str; 8] = [
        "data_batch_1.bin",
        "test_batch.bin",
        "train.bin",
        "test.bin",
        "batches.meta.txt",
        "data_batch_1",
        "test_batch",
        "fine_label_names.txt",
    ];
    for name in NAMES {
        let _ = std::fs::remove_file(folder.join(name));
    }
    let whole = cifar_batch(1);
    if bytes.starts_with(&[0x80]) {
        write(folder, "data_batch_1", bytes)?;
        write(folder, "test_batch", bytes)?;
    } else if bytes.len() < 2000 {
        write(folder, "data_batch_1.bin", &whole)?;
        write(folder, "test_batch.bin", &whole)?;
        write(folder, "batches.meta.txt", bytes)?;
    } else if bytes.len() > 10_000 {
        write(folder, "train.bin", bytes)?;
        write(folder, "test.bin", &cifar_batch(2))?;
    } else {
        write(folder, "data_batch_1.bin", bytes)?;
        write(folder, "test_batch.bin", &whole)?;
    }
    opened(folder)
}

/// Two records, or with two bytes of labels four.
fn cifar_batch(labels: usize) -> Vec<u8> {
    let record = |i: usize| {
        let pixels = (0..3072).map(move |p| (p * (i + 1)) as u8);
        std::iter::repeat_n(i as u8, labels).chain(pixels)
    };
    (0..2 * labels).flat_map(record).collect()
}

fn cifar_files() -> Vec<Vec<u8>> {
    vec![cifar_batch(1), cifar_batch(2), b"a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n".to_vec()]
}

fn csv(folder: &Path, bytes: &[u8]) -> Outcome {
    let red = image::RgbImage::from_pixel(4, 4, image::Rgb([200, 10, 10]));
    let mut file = Cursor::new(Vec::new());
    red.write_to(&mut file, image::ImageFormat::Png).map_err(|e| e.to_string())?;
    write(folder, "1.png", file.get_ref())?;
    let tabs = bytes.iter().take(200).any(|b| *b == b'\t');
    data_set(folder, if tabs { "x.tsv" } else { "x.csv" }, bytes)
}

fn csv_files() -> Vec<Vec<u8>> {
    let rows = "path,label,split\n1.png,red,train\n1.png,blue,train\n1.png,red,val\n\"1.png\",\"blue\",val\n";
    let bare = "1.png,0\n1.png,1\n1.png,2\n1.png,0\n1.png,1\n1.png,2\n";
    vec![
        rows.into(),
        rows.replace(',', "\t").into_bytes(),
        bare.into(),
        format!("\u{feff}{rows}").into_bytes(),
    ]
}

/// Reads pretrained weights and recognizes the network.
fn weights(folder: &Path, bytes: &[u8]) -> Outcome {
    write(folder, "weights.bin", &[1; 64])?;
    let path = folder.join("x");
    let file = Foreign::from_bytes(&path, bytes).map_err(text)?;
    for (name, tensor) in file.tensors() {
        let volume = tensor.tensor.dims.iter().product::<usize>();
        assert_eq!(volume, tensor.tensor.data.len(), "extents and elements of `{name}`");
    }
    let (checkpoint, _) = Checkpoint::import(&path, &file, &ImportOptions::default()).map_err(text)?;
    used(&checkpoint)
}

/// Reads a checkpoint like a command before it opens a device.
fn used(checkpoint: &Checkpoint) -> Outcome {
    let metadata = &checkpoint.metadata;
    metadata.network.build(1).map_err(text)?;
    let grey = Image { width: 2, height: 3, channels: 1, pixels: vec![9; 6] };
    let input = metadata.network.input;
    let values = metadata.preprocessing.apply(&grey);
    assert_eq!(values.len(), 3 * input * input, "the preprocessing and the network's input");
    assert!(values.iter().all(|v| v.is_finite()), "the preprocessing makes numbers that are not finite");
    assert_eq!(metadata.classes.len(), metadata.network.classes, "names of the classes");
    Ok(())
}

fn checkpoint(folder: &Path, bytes: &[u8]) -> Outcome {
    let path = folder.join("x.safetensors");
    let own = Checkpoint::from_bytes(&path, bytes).map_err(text).and_then(|own| used(&own));
    let file = write(folder, "x.safetensors", bytes)?;
    read_tensors(&file).map_err(text)?;
    own.or_else(|_| weights(folder, bytes))
}

fn checkpoints() -> Vec<Vec<u8>> {
    let mut seeds = fixtures(&["safetensors"]);
    // A checkpoint of incept: the smallest of the imported fixtures.
    let path = Path::new("x.pth");
    for file in fixtures(&["pth", "caffemodel"]) {
        let read = Foreign::from_bytes(path, &file);
        let imported = read.and_then(|file| Checkpoint::import(path, &file, &ImportOptions::default()));
        seeds.extend(imported.and_then(|(checkpoint, _)| checkpoint.to_bytes()));
    }
    seeds
}

/// The values of a configuration that are parsed from text. Its structure is tested in
/// `cli/src/mutations.rs`.
fn toml(bytes: &[u8]) -> Outcome {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
    let mut values: Vec<toml::Value> = table.into_iter().map(|(_, value)| value).collect();
    let mut outcome = Ok(());
    while let Some(value) = values.pop() {
        match value {
            toml::Value::Table(table) => values.extend(table.into_iter().map(|(_, value)| value)),
            toml::Value::Array(array) => values.extend(array),
            toml::Value::String(text) => {
                let schedule: Result<Schedule, _> = text.parse();
                let average: Result<Averaging, _> = text.parse();
                if schedule.is_err() && average.is_err() {
                    outcome = Err(format!("`{text}` is no value"));
                }
            }
            _ => {}
        }
    }
    outcome
}

fn configurations() -> Vec<Vec<u8>> {
    let own = "[optimizer]\nschedule = \"step:8:0.96\"\n[training]\nepochs = 30\n";
    let others = ["cosine", "onecycle:0.3", "polynomial:0.5", "constant", "0.99", "polyak"];
    let values = others.map(|value| format!("schedule = \"{value}\"\n").into_bytes());
    std::iter::once(own.into()).chain(values).collect()
}

/// A run's folder with this log or manifest.
fn log(folder: &Path, bytes: &[u8]) -> Outcome {
    write(folder, "run.json", manifest().as_bytes())?;
    write(folder, "log.jsonl", bytes)?;
    let run = RunFolder::open(folder).map_err(text)?;
    let read = run.log().map(drop);
    // A resumed run appends to the log.
    let resumed = LogWriter::open(&folder.join("log.jsonl"), 3).map(drop);
    write(folder, "run.json", bytes)?;
    let described = run.manifest().map(drop);
    read.and(resumed).or(described).map_err(text)
}

/// The manifest of a run.
pub fn manifest() -> String {
    let network = GoogLeNet::paper().width(0.0625).classes(2).input(32);
    let manifest = json!({
        "version": "0.1.0", "name": "cats", "started": 1_700_000_000, "recipe": null, "data": "photos",
        "data_description": "images in photos", "classes": ["cat", "dog"], "train": 9, "validation": 3,
        "network": network, "parameters": 1234, "precision": "f32",
        "machine": { "adapter": "a", "backend": "vulkan", "driver": "d", "system": "linux", "threads": 2 },
        "memory_bytes": 1 << 20, "checkpoint": null, "from": null, "command_line": ["incept", "train", "photos"],
    });
    manifest.to_string()
}

/// A log of two epochs, and the manifest of a run.
pub fn logs() -> Vec<Vec<u8>> {
    let heads = json!([{ "name": "main", "loss": 1.5, "accuracy": 0.25 }, { "name": "aux1", "loss": 2.5, "accuracy": 0.5 }]);
    let validation = json!({ "count": 3, "accuracy": 0.5, "accuracy5": 1.0, "loss": 1.25 });
    let mut lines = Vec::new();
    for epoch in 0..2 {
        lines.push(json!({ "kind": "step", "step": 2 * epoch, "epoch": epoch, "rate": 0.01, "loss": 1.5, "heads": heads,
            "gradient_norm": 3.5, "loss_scale": null, "images_per_s": 120.5, "seconds": 0.5 }));
        lines.push(
            json!({ "kind": "epoch", "epoch": epoch, "step": 2 * epoch + 2, "rate": 0.01, "loss": 1.5,
            "heads": heads, "validation": validation, "validation_aux": heads, "best": true, "images_per_s": 120.5,
            "seconds": 1.5, "device_busy": 0.75, "memory_bytes": 1 << 20, "time": 1_700_000_000 }),
        );
    }
    lines.push(json!({ "kind": "part", "epoch": 2, "step": 5, "count": 8, "loss": 1.5, "heads": heads, "seconds": 0.5 }));
    lines.push(json!({ "kind": "end", "reason": "interrupted", "epochs": 2, "seconds": 3.5 }));
    let log: String = lines.iter().map(|line| format!("{line}\n")).collect();
    // Mutants of a single line are more often read completely.
    let line = format!("{}\n", lines[1]);
    vec![log.into_bytes(), line.into_bytes(), manifest().into_bytes()]
}
