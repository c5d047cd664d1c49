//! Formats beyond plain state dicts: PyTorch checkpoints with other objects, TorchScript, NVCaffe,
//! shards, and graphs that express one operation as several.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use incept::formats::{Content, FileTensor, Foreign, Format, Stored, read_tensors};
use incept::model::Variant;

use super::{all_logits, assert_close, fails, fixture, goldens, import, json, logits, pattern, save};
use crate::program::{run, stdout, text};

fn object_file(name: &str) -> PathBuf {
    fixture("objects").join(name)
}

fn tensors_of(file: &Foreign) -> &BTreeMap<String, FileTensor> {
    let Content::Tensors(tensors) = &file.content else { panic!("no tensors") };
    tensors
}

/// The objects that `torch_objects.py` saves with a model, for each pickle protocol and format of
/// PyTorch: none is constructed, all are reported.
#[test]
fn objects_other_than_tensors_are_skipped_and_reported() {
    const NAMED: [(&str, &str); 46] = [
        ("np_scalar", "numpy._core.multiarray.scalar"),
        ("np_int", "numpy._core.multiarray.scalar"),
        ("np_bool", "numpy._core.multiarray.scalar"),
        ("np_array", "numpy._core.multiarray._reconstruct"),
        ("np_text", "numpy._core.multiarray._reconstruct"),
        ("np_dtype", "numpy.dtype"),
        ("np_generator", "numpy.random"),
        ("np_random.1", "numpy._core.multiarray._reconstruct"),
        ("before", "set"),
        ("set", "set"),
        ("frozenset", "frozenset"),
        ("dtype", "torch.float16"),
        ("layout", "torch"),
        ("device", "torch.device"),
        ("size", "torch.Size"),
        ("generator", "torch"),
        ("path", "pathlib.PurePosixPath"),
        ("date", "datetime.date"),
        ("datetime", "datetime.datetime"),
        ("timedelta", "datetime.timedelta"),
        ("deque", "collections.deque"),
        ("bytearray", "byte"),
        ("enum", "__main__.Phase"),
        ("int_enum", "__main__.Level"),
        ("flag", "__main__.Flags"),
        ("complex", "complex"),
        ("slice", "slice"),
        ("range", "range"),
        ("ellipsis", "llipsis"),
        ("namespace", "argparse.Namespace"),
        ("simple_namespace", "types.SimpleNamespace"),
        ("dataclass", "__main__.Settings"),
        ("own", "__main__.Meter"),
        ("method", "getattr"),
        ("class", "__main__.Meter"),
        ("function", "__main__.objects"),
        ("partial", "functools.partial"),
        ("named_tuple", "__main__.Point"),
        ("decimal", "decimal.Decimal"),
        ("fraction", "fractions.Fraction"),
        ("uuid", "uuid.UUID"),
        ("address", "ipaddress.IPv4Address"),
        ("error", "ValueError"),
        ("by_number.1", "numpy._core.multiarray.scalar"),
        ("by_tuple.<an object>", "set"),
        ("history.0", "numpy._core.multiarray.scalar"),
    ];
    for format in ["zip", "legacy"] {
        for protocol in 1..=5 {
            let name = format!("{format}_{protocol}.pth");
            let file = Foreign::read(&object_file(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            let tensors = tensors_of(&file);
            assert_eq!(tensors["model.weight"].tensor.data, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "{name}");
            assert_eq!(tensors["model.weight"].tensor.dims, [2, 3]);
            assert_eq!(tensors["model.bias"].tensor.data, [0.5, -0.5]);
            assert_eq!(tensors.len(), 2, "{name}: {:?}", tensors.keys());
            for (object, class) in NAMED {
                let found = file.skipped.iter().find(|line| line.starts_with(&format!("{object} (")));
                let found = found.unwrap_or_else(|| panic!("{name}: {object} in {:?}", file.skipped));
                // From protocol 5 on NumPy pickles its data in another way.
                let class = if protocol == 5 {
                    class.replace("multiarray._reconstruct", "numeric._frombuffer")
                } else {
                    class.into()
                };
                assert!(found.contains(&class), "{name}: {found}, not {class}");
            }
            // Dictionaries are read, and numbers and strings are not reported.
            for silent in ["epoch (", "config (", "ordered (", "counter (", "big (", "text (", "numbers ("] {
                assert!(!file.skipped.iter().any(|line| line.starts_with(silent)), "{:?}", file.skipped);
            }
        }
    }
}

#[test]
fn tensors_with_attributes_are_read_and_unreadable_ones_reported() {
    let file = Foreign::read(&object_file("tensors.pth")).expect("can be read");
    let tensors = tensors_of(&file);
    assert_eq!(tensors["parameter"].tensor.data, [1.0, 1.0]);
    assert_eq!(tensors["tagged"].tensor.data, [2.0, 2.0]);
    assert_eq!(tensors["listed.0.bias"].tensor.data, [0.5, -0.5]);
    assert_eq!(tensors["listed.1.0"].tensor.data, [0.0]);
    assert_eq!(tensors["rng_state"].stored, Stored::U8);
    for name in ["complex", "quantized", "sparse", "float8"] {
        assert!(file.skipped.iter().any(|line| line.starts_with(&format!("{name} ("))), "{:?}", file.skipped);
    }
}

#[test]
fn whole_modules_and_torchscript_have_the_names_of_their_state_dict() {
    const NAMES: [&str; 8] = [
        "inner.fc.weight",
        "inner.fc.bias",
        "inner.norm.weight",
        "inner.norm.bias",
        "inner.norm.running_mean",
        "inner.norm.running_var",
        "inner.norm.num_batches_tracked",
        "layers.1.weight",
    ];
    for (name, format) in [("module.pth", Format::TorchZip), ("script.pt", Format::TorchScript)] {
        let file = Foreign::read(&object_file(name)).expect("can be read");
        assert_eq!(file.format, format);
        let tensors = tensors_of(&file);
        assert_eq!(tensors.len(), NAMES.len(), "{name}: {:?}", tensors.keys());
        for (i, tensor) in NAMES.iter().enumerate() {
            assert!(tensors[*tensor].tensor.data.iter().all(|v| *v == i as f32), "{name}: {tensor}");
        }
        assert!(file.skipped.is_empty(), "{name}: {:?}", file.skipped);
    }
}

#[test]
fn archives_without_named_weights_give_advice() {
    for (name, advice) in [
        ("frozen.pt", "torch.save(model.state_dict()"),
        ("exported.pt2", "torch.export.load(FILE).state_dict"),
        ("arrays.npz", "safetensors.numpy.save_file"),
    ] {
        let error = Foreign::read(&object_file(name)).expect_err("has no weights by name").to_string();
        assert!(error.contains(advice), "{name}: {error}");
    }
}

/// torchvision.pth as {"model": ..., "best": a numpy scalar, "done": a set}.
fn training_checkpoint(path: &Path) {
    let whole = std::fs::File::open(fixture("torchvision.pth")).expect("a fixture");
    let mut from = zip::ZipArchive::new(whole).expect("an archive");
    let mut to = zip::ZipWriter::new(std::fs::File::create(path).expect("can be made"));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for i in 0..from.len() {
        let mut entry = from.by_index(i).expect("an entry");
        let name = entry.name().expect("a name").to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("can be read");
        if name.ends_with("data.pkl") {
            let state = &content[2..content.len() - 1];
            let before = b"\x80\x02}(X\x05\x00\x00\x00model";
            let behind = b"X\x04\x00\x00\x00bestcnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\x00\x00\x00f8tR\
                X\x01\x00\x00\x00atRX\x04\x00\x00\x00donec__builtin__\nset\n(]tRu.";
            content = [&before[..], state, behind].concat();
        }
        to.start_file(name, stored).expect("can be begun");
        to.write_all(&content).expect("can be written");
    }
    to.finish().expect("can be finished");
}

#[test]
fn imported_training_checkpoints_report_skipped_objects() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, out) = (folder.path().join("training.pth"), folder.path().join("net.safetensors"));
    training_checkpoint(&file);
    let output = run(&["import", text(&file), "--image-size", "64", "--output", text(&out)]);
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{notes}");
    assert!(
        notes.contains("skipped (not tensors): best (numpy.core.multiarray.scalar), done (set)"),
        "{notes}"
    );
    let plain = import("torchvision.pth", &["--image-size", "64"]);
    assert_eq!(incept::checkpoint::Checkpoint::load(&out).expect("a checkpoint").state, plain.state);
    assert_eq!(json(&["inspect", text(&file)])["skipped"][1], "done (set)");
}

/// A protobuf field with bytes.
fn field(number: u64, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// new.caffemodel with blobs as NVCaffe writes them: `type_` is its element type, none for the f16
/// of its first versions.
fn nvcaffe(type_: Option<u64>, element: fn(f32) -> Vec<u8>) -> Vec<u8> {
    let Content::Layers(layers) = Foreign::read(&fixture("new.caffemodel")).expect("a fixture").content
    else {
        panic!("no layers")
    };
    let mut net = field(1, b"GoogleNet");
    for layer in layers {
        let mut message = field(1, layer.name.as_bytes());
        for FileTensor { tensor, .. } in layer.blobs {
            let dims: Vec<u8> = tensor.dims.iter().flat_map(|dim| varint(*dim as u64)).collect();
            let data: Vec<u8> = tensor.data.iter().flat_map(|value| element(*value)).collect();
            let mut blob = field(7, &field(1, &dims));
            match type_ {
                Some(number) => {
                    blob.extend([varint(10 << 3), varint(number)].concat());
                    blob.extend(field(12, &data));
                }
                None => blob.extend(field(10, &data)),
            }
            message.extend(field(7, &blob));
        }
        net.extend(field(100, &message));
    }
    net
}

fn half(value: f32) -> half::f16 {
    half::f16::from_f32(value)
}

#[test]
fn nvcaffe_blobs_give_the_same_weights() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("nv.caffemodel");
    let expected = Foreign::read(&fixture("new.caffemodel")).expect("a fixture");
    let halves = nvcaffe(None, |v| varint(half(v).to_bits().into()));
    let cases: [(&str, Vec<u8>, Stored); 4] = [
        ("f64", nvcaffe(Some(0), |v| f64::from(v).to_le_bytes().to_vec()), Stored::F64),
        ("f32", nvcaffe(Some(1), |v| v.to_le_bytes().to_vec()), Stored::F32),
        ("f16", nvcaffe(Some(2), |v| half(v).to_le_bytes().to_vec()), Stored::F16),
        ("halves of the first versions", halves, Stored::F16),
    ];
    for (what, bytes, stored) in cases {
        std::fs::write(&path, bytes).expect("can be written");
        let found = Foreign::read(&path).unwrap_or_else(|e| panic!("{what}: {e}"));
        for ((name, found), (other, expected)) in found.tensors().into_iter().zip(expected.tensors()) {
            assert_eq!(
                (name, &found.tensor.dims, found.stored),
                (other, &expected.tensor.dims, stored),
                "{what}"
            );
            let rounded = expected
                .tensor
                .data
                .iter()
                .map(|v| if stored == Stored::F16 { half(*v).to_f32() } else { *v });
            assert!(found.tensor.data.iter().copied().eq(rounded), "{what}");
        }
    }
    std::fs::write(&path, nvcaffe(Some(3), |_| vec![0; 4])).expect("can be written");
    let error = Foreign::read(&path).expect_err("whole numbers").to_string();
    assert!(error.contains("conv1/7x7_s2") && error.contains("type 3"), "{error}");
}

/// The paper's network from PyTorch's exporters, where LRN is nine operators; the logits are from
/// onnxruntime.
#[test]
fn onnx_of_the_paper_network_gives_onnxruntime_logits() {
    let mut weights = goldens("paper_weights.safetensors");
    let expected = weights.remove("logits").expect("is there");
    let images = pattern(2, 64, 100.0);
    for name in ["script", "script_9", "dynamo", "dynamo_raw"] {
        let checkpoint = import(&format!("paper_{name}.onnx"), &[]);
        let network = &checkpoint.metadata.network;
        assert_eq!((network.variant, network.input, network.classes), (Variant::Paper, 64, 7), "{name}");
        assert_eq!(checkpoint.state.parameters, weights, "{name}");
        // PyTorch's networks take RGB; an import as BGR would have swapped the channels of the
        // first weight.
        if name == "script" {
            assert_close(&all_logits(&checkpoint, &images)[0], &expected.data);
            assert_close(&logits(&checkpoint, &images), &expected.data);
        }
    }
}

/// A changed constant of the normalization is another network.
#[test]
fn normalization_with_other_constants_is_rejected() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("changed.onnx");
    let whole = std::fs::read(fixture("paper_script_9.onnx")).expect("a fixture");
    for (number, changed) in [(1e-4f32, 2e-4f32), (0.75, 0.5)] {
        let (number, changed) = (number.to_le_bytes(), changed.to_le_bytes());
        let at = whole.windows(4).position(|bytes| bytes == number).expect("is in the file");
        let mut bytes = whole.clone();
        bytes[at..at + 4].copy_from_slice(&changed);
        std::fs::write(&path, bytes).expect("can be written");
        let errors =
            fails(&["import", text(&path), "--output", text(&folder.path().join("out.safetensors"))]);
        assert!(errors.contains("does not have GoogLeNet's parameters"), "{errors}");
    }
}

/// torchvision.safetensors in two shards with an index.
fn shards(folder: &Path) -> (PathBuf, Vec<PathBuf>) {
    let tensors = goldens("torchvision.safetensors");
    let files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut parts = [BTreeMap::new(), BTreeMap::new()];
    let mut map = BTreeMap::new();
    for (i, (name, tensor)) in tensors.into_iter().enumerate() {
        map.insert(name.clone(), files[i % 2]);
        parts[i % 2].insert(name, tensor);
    }
    let paths: Vec<PathBuf> = files.iter().map(|file| folder.join(file)).collect();
    for (part, path) in parts.iter().zip(&paths) {
        save(part, path);
    }
    let index = folder.join("model.safetensors.index.json");
    let json = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    std::fs::write(&index, serde_json::to_string_pretty(&json).expect("is JSON")).expect("can be written");
    (index, paths)
}

#[test]
fn shards_are_read_only_with_their_index() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (index, parts) = shards(folder.path());
    let out = folder.path().join("out").join("net.safetensors");
    stdout(&["import", text(&index), "--image-size", "64", "--output", text(&out)]);
    let plain = import("torchvision.safetensors", &["--image-size", "64"]);
    assert_eq!(incept::checkpoint::Checkpoint::load(&out).expect("a checkpoint").state, plain.state);
    let errors = fails(&["import", text(&parts[0]), "--output", text(&out)]);
    assert!(
        errors.contains("shard 1 of 2")
            && errors.contains("`model.safetensors.index.json`, which is in the same folder"),
        "{errors}"
    );
    // A tensor that the index has in another shard, and a missing shard.
    let mut second = read_tensors(&parts[1]).expect("a part").0;
    let missing = second.pop_first().expect("has tensors").0;
    save(&second, &parts[1]);
    let errors = fails(&["import", text(&index), "--output", text(&out)]);
    assert!(errors.contains(&missing) && errors.contains("model-00002-of-00002"), "{errors}");
    std::fs::remove_file(&parts[1]).expect("can be removed");
    let errors = fails(&["import", text(&index), "--output", text(&out)]);
    assert!(errors.contains("`model-00002-of-00002.safetensors` is missing"), "{errors}");
}

/// A classifier that is a 1x1 convolution has as many classes as filters, not one.
#[test]
fn one_by_one_convolution_classifier_has_as_many_classes_as_filters() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, out) = (folder.path().join("conv.safetensors"), folder.path().join("net.safetensors"));
    let names = folder.path().join("names.txt");
    let mut tensors = goldens("torchvision.safetensors");
    for layer in ["fc", "aux1.fc2", "aux2.fc2"] {
        let weight = tensors.get_mut(&format!("{layer}.weight")).expect("is there");
        weight.dims.extend([1, 1]);
    }
    save(&tensors, &path);
    std::fs::write(&names, "a\nb\nc\n").expect("can be written");
    let errors = fails(&["import", text(&path), "--classes", text(&names), "--output", text(&out)]);
    assert!(errors.contains("has 7 classes, but the list has 3"), "{errors}");
    std::fs::write(&names, "a\nb\nc\nd\ne\nf\ng\n").expect("can be written");
    stdout(&["import", text(&path), "--image-size", "64", "--classes", text(&names), "--output", text(&out)]);
    let found = incept::checkpoint::Checkpoint::load(&out).expect("a checkpoint");
    assert_eq!(found.state, import("torchvision.safetensors", &["--image-size", "64"]).state);
    assert_eq!(found.metadata.classes[6], "g");
}
