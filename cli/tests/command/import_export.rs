//! Pretrained weights: `incept import`, `incept export` and `incept inspect`. The fixtures were
//! made with the original libraries, by the programs in `tests/fixtures/scripts`.

mod exports;
mod formats;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use incept::checkpoint::{Checkpoint, ImportOptions, OnnxOptions, Pixels};
use incept::data::{Batch, Fit, Image, Preprocessing};
use incept::formats::{Content, Foreign, read_tensors};
use incept::graph::Role;
use incept::infer::{Classifier, EarlyExit};
use incept::kernel::Step;
use incept::model::{GoogLeNet, Output, Variant};
use incept::reference::{Array, Interpreter};
use incept::tensor::{Element, HostTensor};
use proptest::prelude::*;
use serde_json::Value;

use crate::program::cpu;
use crate::program::{python_with, repository, run, stdout, text};

/// Maximum difference of logits from those of the original library.
const CLOSE: f32 = 1e-4;

fn json(arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    serde_json::from_str(&stdout(&arguments)).expect("one object")
}

/// The errors of a command that must fail.
fn fails(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(1), "incept {arguments:?} should fail");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn fixture(name: &str) -> PathBuf {
    repository().join("tests/fixtures/weights").join(name)
}

/// Imports a fixture with the command; returns the checkpoint.
fn import(name: &str, more: &[&str]) -> Checkpoint {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("net.safetensors");
    let file = fixture(name);
    stdout(&[&["import", text(&file), "--output", text(&out)], more].concat());
    Checkpoint::load(&out).expect("import writes checkpoints")
}

fn goldens(name: &str) -> BTreeMap<String, HostTensor> {
    read_tensors(&fixture(name)).expect("a golden set").0
}

/// The main logits on the device.
fn logits(checkpoint: &Checkpoint, input: &HostTensor) -> Vec<f32> {
    let device = cpu();
    let (batch, network) = (input.dims[0], &checkpoint.metadata.network);
    let made = Classifier::new(&device, network, batch, Element::F32, &checkpoint.state);
    let mut classifier = device.block_on(made).expect("the weights fit");
    let images: Vec<Vec<f32>> = input.data.chunks(input.data.len() / batch).map(<[f32]>::to_vec).collect();
    device.block_on(classifier.probabilities(&Batch::of(batch, &images))).expect("classifies");
    device.block_on(classifier.logits()).expect("logits")
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < CLOSE, "{worst}: {found:?} is not {expected:?}");
}

#[test]
fn pytorch_files_give_pytorch_logits() {
    let golden = goldens("torchvision_io.safetensors");
    let first = import("torchvision.pth", &["--image-size", "64"]);
    assert_eq!(first.metadata.network.variant, Variant::Torchvision);
    assert!(first.metadata.network.has_aux() && first.metadata.network.classes == 7);
    assert_close(&logits(&first, &golden["input"]), &golden["logits"].data);
    for name in ["torchvision_legacy.pth", "torchvision.safetensors"] {
        let other = import(name, &["--image-size", "64"]);
        assert_eq!(other.state, first.state, "{name}");
    }
}

/// The published network at full size: `python tests/fixtures/scripts/torch_weights.py --full
/// FOLDER`, then `INCEPT_FULL=FOLDER cargo test --test command full_size -- --ignored --nocapture`.
#[test]
#[ignore = "its files of 27 MB each are made by tests/fixtures/scripts/torch_weights.py"]
fn full_size_weights_of_torch() {
    let folder = PathBuf::from(std::env::var("INCEPT_FULL").expect("INCEPT_FULL names the folder"));
    let golden = read_tensors(&folder.join("full_io.safetensors")).expect("a golden set").0;
    for file in ["full.pth", "full_script.onnx", "full_dynamo.onnx"] {
        let path = folder.join(file);
        let read = Foreign::read(&path).expect("can be read");
        let (checkpoint, _) =
            Checkpoint::import(&path, &read, &ImportOptions::default()).expect("a GoogLeNet");
        let found = logits(&checkpoint, &golden["input"]);
        let worst = found.iter().zip(&golden["logits"].data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{file}: logits differ by at most {worst:e}");
        assert_close(&found, &golden["logits"].data);
        let onnx = checkpoint.to_onnx(OnnxOptions::default()).expect("can be exported");
        std::fs::write(folder.join(format!("exported_{file}.onnx")), onnx).expect("can be written");
    }
}

/// A typical training checkpoint: a dictionary with more than weights, names with the prefix
/// `module.`, f16, no auxiliary heads.
#[test]
fn pytorch_training_checkpoint_is_imported() {
    let golden = goldens("torchvision_io.safetensors");
    let bare = import("wrapped.pth", &["--image-size", "64", "--classes", text(&classes_file().1)]);
    assert!(!bare.metadata.network.has_aux());
    assert_eq!(bare.metadata.classes[6], "seven");
    assert_close(&logits(&bare, &golden["input"]), &golden["half"].data);
}

/// A file with seven class names, and its folder.
fn classes_file() -> (&'static tempfile::TempDir, PathBuf) {
    static FOLDER: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let names = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n";
        std::fs::write(folder.path().join("names.txt"), names).expect("can be written");
        folder
    });
    (folder, folder.path().join("names.txt"))
}

/// ImageNet networks are evaluated on 224 pixels of 256; a small network with other classes uses
/// the whole square.
#[test]
fn imported_weights_use_their_evaluation_crop() {
    let torch = import("torchvision.pth", &[]).metadata.preprocessing;
    assert_eq!((torch.input, torch.fit, torch.crop_pct), (224, Fit::Crop, 0.875));
    assert!(torch.described().contains("shorter side resized to 256"), "{}", torch.described());
    let small = import("torchvision.pth", &["--image-size", "64"]).metadata.preprocessing;
    assert_eq!((small.fit, small.crop_pct), (Fit::Crop, 1.0));
    // Caffe squashes images to 256 x 256 before cropping.
    let caffe = import("new.caffemodel", &["--image-size", "224"]).metadata.preprocessing;
    assert_eq!((caffe.fit, caffe.crop_pct), (Fit::Squash, 0.875));
    // The same rule applies to safetensors without metadata.
    let path = fixture("torchvision.safetensors");
    let taken = Checkpoint::load(&path).expect("a GoogLeNet").metadata.preprocessing;
    assert_eq!(taken.crop_pct, if taken.input >= 224 { 0.875 } else { 1.0 });
}

/// torchvision's ImageNet weights need transform_input. An ONNX graph contains it, a state dict
/// does not; in both cases it becomes preprocessing.
#[test]
fn transform_input_becomes_preprocessing() {
    let golden = goldens("torchvision_io.safetensors");
    let from_graph = import("script.onnx", &[]);
    let from_state = import("torchvision.pth", &["--image-size", "64"]);
    let halves = |p: &Preprocessing| p.mean.iter().chain(&p.std).all(|v| (v - 0.5).abs() < 1e-5);
    for checkpoint in [&from_graph, &from_state] {
        let preprocessing = &checkpoint.metadata.preprocessing;
        assert!(halves(preprocessing), "{preprocessing:?}");
        // PyTorch's input was normalized with ImageNet's mean and std; ours is made from the same
        // image.
        let normal = Pixels::IMAGENET;
        let mut input = golden["input"].clone();
        let plane = input.dims[2] * input.dims[3];
        for (i, value) in input.data.iter_mut().enumerate() {
            let c = i / plane % 3;
            let pixel = *value * normal.std[c] + normal.mean[c];
            *value = (pixel - preprocessing.mean[c]) / preprocessing.std[c];
        }
        assert_close(&logits(checkpoint, &input), &golden["transformed"].data);
    }
    let without = import("torchvision.pth", &["--pixels", "imagenet"]);
    assert_eq!(without.metadata.preprocessing.mean, Pixels::IMAGENET.mean);
    let given = import("torchvision.pth", &["--mean", "0.1,0.2,0.3", "--std", "1,1,0.5"]);
    assert_eq!(given.metadata.preprocessing.std, [1.0, 1.0, 0.5]);
}

/// PyTorch's exporters: batch norm folded or not, names kept or not, with and without auxiliary
/// heads.
#[test]
fn onnx_from_pytorch_gives_pytorch_logits() {
    let golden = goldens("torchvision_io.safetensors");
    let state = import("torchvision.pth", &["--image-size", "64"]).state;
    let kept = import("script_bn.onnx", &[]);
    assert_eq!(kept.metadata.network.input, 64);
    assert_eq!(kept.state.parameters, state.parameters);
    assert_eq!(kept.state.state, state.state);
    let dynamo = import("dynamo.onnx", &[]);
    assert_close(&logits(&dynamo, &golden["input"]), &golden["logits"].data);
}

/// Imported networks can be built at the given input size: at small sizes the auxiliary heads' 5x5
/// pooling no longer fits, and at smaller ones nothing does.
#[test]
fn small_inputs_drop_auxiliary_heads_that_do_not_fit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, out) = (fixture("new.caffemodel"), folder.path().join("net.safetensors"));
    let errors = fails(&["import", text(&file), "--image-size", "32", "--output", text(&out)]);
    assert!(errors.contains("pool4/3x3_s2") && !out.exists(), "{errors}");
    for input in ["48", "63"] {
        let network = import("new.caffemodel", &["--image-size", input]).metadata.network;
        assert!(network.has_aux() && network.conv1_stride() == 2);
        network.build(2).unwrap_or_else(|e| panic!("{input}: {e}"));
    }
}

/// With only --mean or --std, the other one comes from the file, not from the usual normalization
/// of its format.
#[test]
fn single_pixel_option_keeps_the_rest_of_the_file() {
    let own = import("exported_paper.onnx", &[]);
    let changed = import("exported_paper.onnx", &["--std", "0.5,0.5,0.5"]);
    let pixels = &changed.metadata.preprocessing;
    assert_eq!((pixels.mean, pixels.std), (own.metadata.preprocessing.mean, [0.5; 3]));
    assert_eq!(changed.state.parameters, own.state.parameters, "no channels were exchanged");
}

/// Caffe's input is BGR minus means; the checkpoint takes RGB.
#[test]
fn caffe_files_give_caffe_logits() {
    let golden = goldens("caffe_io.safetensors");
    let pixels = &golden["pixels"];
    let plane = pixels.dims[2] * pixels.dims[3];
    let graphs = ["bvlc.onnx", "bvlc_7.onnx", "bvlc_12.onnx", "bvlc_21.onnx", "bvlc_computed.onnx"];
    for name in ["new.caffemodel", "old.caffemodel"].iter().chain(&graphs).copied() {
        let checkpoint = import(name, &["--image-size", "64"]);
        let network = &checkpoint.metadata.network;
        assert_eq!((network.variant, network.has_aux()), (Variant::Paper, name == "new.caffemodel"));
        assert!((network.dropout - 0.4).abs() < 1e-6, "{name}: {}", network.dropout);
        let mut data = Vec::new();
        for planes in pixels.data.chunks(3 * plane) {
            let bytes = (0..3 * plane).map(|i| planes[i % 3 * plane + i / 3] as u8);
            let image = Image { width: 64, height: 64, channels: 3, pixels: bytes.collect() };
            data.extend(checkpoint.metadata.preprocessing.apply(&image));
        }
        let input = HostTensor { dims: pixels.dims.clone(), data };
        assert_close(&logits(&checkpoint, &input), &golden["logits"].data);
    }
}

fn save(tensors: &BTreeMap<String, HostTensor>, path: &Path) {
    let views = tensors.iter().map(|(name, tensor)| {
        let bytes = tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        (name.clone(), (tensor.dims.clone(), bytes))
    });
    let views: Vec<_> = views.collect();
    let views = views.iter().map(|(name, (dims, bytes))| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, dims.clone(), bytes);
        (name, view.expect("fits"))
    });
    std::fs::write(path, safetensors::serialize(views, None).expect("can be written"))
        .expect("can be written");
}

#[test]
fn all_mismatched_tensors_are_listed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("broken.safetensors");
    let mut tensors = goldens("torchvision.safetensors");
    tensors.remove("inception4c.branch2.1.conv.weight");
    tensors.remove("conv1.conv.weight");
    tensors.remove("aux1.fc2.bias");
    tensors.insert("head.weight".into(), HostTensor { dims: vec![2], data: vec![0.0; 2] });
    let weight = tensors.get_mut("aux2.fc1.weight").expect("is there");
    weight.dims.reverse();
    save(&tensors, &path);
    let out = folder.path().join("out.safetensors");
    let errors = fails(&["import", text(&path), "--output", text(&out)]);
    for part in [
        "broken.safetensors",
        "3 missing",
        "inception4c.branch2.1.conv.weight",
        "conv1.conv.weight",
        "aux1.fc2.bias",
        "1 extra: head.weight",
        "of the wrong shape: aux2.fc1.weight is 80x42, expected 42x80",
    ] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    assert!(errors.contains("1 of the wrong shape") && !out.exists(), "{errors}");
    // A file without a GoogLeNet is not compared tensor by tensor.
    let other = repository().join("tests/fixtures/op_lrn.safetensors");
    let errors = fails(&["import", text(&other), "--output", text(&out)]);
    assert!(errors.contains("no GoogLeNet") && !errors.contains("inception"), "{errors}");
    // Neither is a file in an unknown format.
    std::fs::write(&path, "name,label\n").expect("can be written");
    let errors = fails(&["import", text(&path), "--output", text(&out)]);
    assert!(errors.contains("not a supported weight file"), "{errors}");
    let errors = fails(&[
        "import",
        text(&fixture("torchvision.pth")),
        "--output",
        text(&out),
        "--classes",
        text(&path),
    ]);
    assert!(errors.contains("7 classes, but the list has 1"), "{errors}");
}

/// A pickle that runs a command when Python loads it, in both formats of PyTorch.
#[test]
fn pickles_execute_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let marker = folder.path().join("was-here");
    let mut pickle = vec![0x80];
    let command = format!("touch {}", text(&marker));
    pickle.extend(b"\x02cposix\nsystem\nX");
    pickle.extend(u32::try_from(command.len()).expect("is short").to_le_bytes());
    pickle.extend(command.as_bytes());
    pickle.extend(b"\x85R.");
    let zipped = folder.path().join("evil.pth");
    let mut archive = zip::ZipWriter::new(std::fs::File::create(&zipped).expect("can be made"));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("archive/data.pkl", stored).expect("can be begun");
    archive.write_all(&pickle).expect("can be written");
    archive.finish().expect("can be finished");
    let legacy = folder.path().join("evil_legacy.pth");
    let start = std::fs::read(fixture("torchvision_legacy.pth")).expect("a fixture");
    // Any content can follow the 16 bytes of the magic number.
    std::fs::write(&legacy, [&start[..15], &pickle[..]].concat()).expect("can be written");
    for file in [&zipped, &legacy] {
        let errors = fails(&["inspect", text(file)]);
        assert!(errors.contains("`posix.system`"), "{errors}");
    }
    assert!(!marker.exists());
}

#[test]
fn thousand_classes_get_imagenet_names() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("thousand.safetensors");
    let net = GoogLeNet::paper().width(0.04).classes(1000).build(1).expect("can be built");
    let zeros = net.graph.parameters().map(|(_, tensor, _)| {
        let data = vec![0.0; tensor.spec.shape.volume()];
        (tensor.name.clone(), HostTensor { dims: tensor.spec.dims().to_vec(), data })
    });
    save(&zeros.collect(), &path);
    let out = folder.path().join("out.safetensors");
    let result = json(&["import", text(&path), "--output", text(&out)]);
    assert_eq!(result["network"]["classes"], 1000);
    let classes = Checkpoint::load(&out).expect("a checkpoint").metadata.classes;
    assert_eq!((classes[0].as_str(), classes[281].as_str()), ("tench", "tabby"));
}

/// An imported network classifies images.
#[test]
fn imported_networks_classify() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (net, image) = (folder.path().join("net.safetensors"), folder.path().join("grey.png"));
    let file = fixture("torchvision.pth");
    let names = classes_file().1;
    stdout(&["import", text(&file), "--output", text(&net), "--image-size", "64", "--classes", text(&names)]);
    image::GrayImage::from_fn(80, 70, |x, y| image::Luma([(x * 3 + y) as u8]))
        .save(&image)
        .expect("an image");
    let shown = stdout(&["classify", text(&net), text(&image), "--top", "7"]);
    assert!(shown.contains("seven") && shown.contains("one"), "{shown}");
}

/// A checkpoint of the torchvision or Caffe fixture at another input size, as for the exported
/// fixtures.
fn checkpoint_of(name: &str, input: usize) -> Checkpoint {
    let path = fixture(name);
    let file = Foreign::read(&path).expect("a fixture");
    let options = ImportOptions::default().input(input);
    Checkpoint::import(&path, &file, &options).expect("is a GoogLeNet").0
}

/// (file, its source, input size, whether with auxiliary heads, whether with fused batch norms) of
/// the models that onnxruntime was run on.
const EXPORTED: [(&str, &str, usize, bool, bool); 3] = [
    ("exported_torchvision.onnx", "torchvision.pth", 96, true, false),
    ("exported_folded.onnx", "torchvision.pth", 64, false, true),
    ("exported_paper.onnx", "new.caffemodel", 224, true, false),
];

/// The input of onnxruntime in `tests/fixtures/scripts/run_onnx.py`: integers, which are exact
/// everywhere.
fn pattern(batch: usize, size: usize, scale: f32) -> HostTensor {
    let value = |i: usize| ((i * 7919 + i / 64 * 31) % 256) as f32 / 128.0 - 1.0;
    let data = (0..batch * 3 * size * size).map(|i| scale * value(i)).collect();
    HostTensor { dims: vec![batch, 3, size, size], data }
}

/// The logits of every head, from the CPU reference.
fn all_logits(checkpoint: &Checkpoint, input: &HostTensor) -> Vec<Vec<f32>> {
    let net = checkpoint.metadata.network.build(input.dims[0]).expect("can be built");
    let heads: Vec<_> = net.heads.iter().map(|head| Output::Logits(head.name)).collect();
    let evaluation = net.graph.evaluation().expect("can be evaluated");
    let pruned = evaluation.prune(&heads).expect("can be pruned");
    let mut interpreter = Interpreter::<f64>::new(&pruned);
    for (id, tensor) in pruned.tensors() {
        let state = &checkpoint.state;
        let values = match tensor.role {
            Role::Input => input,
            Role::Parameter(_) => &state.parameters[&tensor.name],
            Role::State(_) => &state.state[&tensor.name],
            _ => continue,
        };
        interpreter.set(id, Array::<f32>::new(&values.dims, values.data.clone()).cast());
    }
    interpreter.run(&Step::default()).expect("runs");
    let logits = heads.iter().map(|head| interpreter.get(pruned.output(head).expect("was kept")));
    logits.map(|value| value.expect("was computed").data.iter().map(|v| *v as f32).collect()).collect()
}

/// The logits of every head on the device, the main one first.
fn staged(checkpoint: &Checkpoint, input: &HostTensor) -> Vec<Vec<f32>> {
    let device = cpu();
    let (count, network) = (input.dims[0], &checkpoint.metadata.network);
    let made = EarlyExit::new(&device, network, count, Element::F32, &checkpoint.state);
    let mut staged = device.block_on(made).expect("the weights fit");
    let images: Vec<Vec<f32>> = input.data.chunks(input.data.len() / count).map(<[f32]>::to_vec).collect();
    let heads = device.block_on(staged.all_heads(&Batch::of(count, &images))).expect("runs").logits;
    heads.into_iter().map(|rows| rows.concat()).collect()
}

/// This version exports the models that onnxruntime was run on, and has its logits.
#[test]
fn exported_models_have_onnxruntime_logits() {
    let golden = goldens("exported_io.safetensors");
    for (file, source, input, aux, fold) in EXPORTED {
        let options = OnnxOptions::default().aux(aux).fold_batch_norm(fold);
        let checkpoint = checkpoint_of(source, input);
        let bytes = checkpoint.to_onnx(options).expect("can be exported");
        let now = Foreign::from_bytes(Path::new(file), &bytes).expect("is ONNX");
        let then = Foreign::read(&fixture(file)).expect("is ONNX");
        let (Content::Graph(now), Content::Graph(then)) = (now.content, then.content) else {
            panic!("no graphs")
        };
        assert_eq!(
            (&now.nodes, &now.inputs, &now.outputs, now.opset),
            (&then.nodes, &then.inputs, &then.outputs, then.opset)
        );
        assert_eq!(now.initializers.keys().collect::<Vec<_>>(), then.initializers.keys().collect::<Vec<_>>());
        // Folding rounds; everything else is bit-identical.
        for (name, tensor) in &now.initializers {
            assert_eq!(tensor, &then.initializers[name], "{file}: {name}");
        }
        let scale = if source.ends_with("caffemodel") { 100.0 } else { 1.0 };
        let images = pattern(2, input, scale);
        let names = checkpoint.onnx_outputs(options).expect("names");
        assert_close(&logits(&checkpoint, &images), &golden[&format!("{file}/logits")].data);
        // At 224 pixels the CPU reference takes too long; there only the device is compared.
        let all = if input < 224 { all_logits(&checkpoint, &images) } else { staged(&checkpoint, &images) };
        assert_eq!(names.len(), if options.aux { all.len() } else { 1 });
        for (name, values) in names.iter().zip(all) {
            assert_close(&values, &golden[&format!("{file}/{name}")].data);
        }
    }
}

/// If Python has onnxruntime, it runs the models that are exported now.
#[test]
fn installed_onnxruntime_agrees() {
    let Some(python) = python_with("onnxruntime, safetensors.numpy") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (file, source, input, aux, fold) in EXPORTED {
        let options = OnnxOptions::default().aux(aux).fold_batch_norm(fold);
        let bytes = checkpoint_of(source, input).to_onnx(options).expect("can be exported");
        std::fs::write(folder.path().join(file), bytes).expect("can be written");
    }
    let script = fixture("../scripts/run_onnx.py");
    let output = Command::new(&python).arg(&script).arg(folder.path()).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results = read_tensors(&folder.path().join("exported_io.safetensors")).expect("were written").0;
    for (file, source, input, ..) in EXPORTED {
        let checkpoint = checkpoint_of(source, input);
        let scale = if source.ends_with("caffemodel") { 100.0 } else { 1.0 };
        let ours = logits(&checkpoint, &pattern(2, input, scale));
        assert_close(&ours, &results[&format!("{file}/logits")].data);
    }
}

#[test]
fn exports_can_be_imported() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let (net, onnx, folded, back) =
        (at("net.safetensors"), at("net.onnx"), at("folded.onnx"), at("back.safetensors"));
    let (file, names) = (fixture("torchvision.pth"), classes_file().1);
    stdout(&["import", text(&file), "--output", text(&net), "--image-size", "64", "--classes", text(&names)]);
    let first = Checkpoint::load(&net).expect("a checkpoint");
    let result = json(&["export", text(&net), "--output", text(&onnx), "--aux"]);
    assert_eq!(result["outputs"], serde_json::json!(["logits", "aux1_logits", "aux2_logits"]));
    stdout(&["import", text(&onnx), "--output", text(&back)]);
    let second = Checkpoint::load(&back).expect("a checkpoint");
    assert_eq!(first.state, second.state);
    let (a, b) = (&first.metadata, &second.metadata);
    assert_eq!((&a.network, &a.classes, &a.preprocessing), (&b.network, &b.classes, &b.preprocessing));
    // Exports are deterministic.
    stdout(&["export", text(&net), "--output", text(&folded), "--aux"]);
    assert_eq!(std::fs::read(&onnx).expect("is there"), std::fs::read(&folded).expect("is there"));
    // Folding changes the weights, but not the network.
    stdout(&["export", text(&net), "--output", text(&folded), "--fold"]);
    stdout(&["import", text(&folded), "--output", text(&back)]);
    let third = Checkpoint::load(&back).expect("a checkpoint");
    assert!(!third.metadata.network.has_aux());
    let input = &goldens("torchvision_io.safetensors")["input"];
    assert_close(&logits(&first, input), &logits(&third, input));
    let errors = fails(&["import", text(&back), "--output", text(&net)]);
    assert!(errors.contains("a checkpoint of incept already"), "{errors}");
    let errors = fails(&["export", text(&back), "--output", text(&onnx), "--aux"]);
    assert!(errors.contains("no auxiliary"), "{errors}");
    let errors = fails(&["export", text(&back), "--output", text(&at("net.pth"))]);
    assert!(errors.contains(".onnx or .safetensors"), "{errors}");
}

/// The safetensors export has exactly PyTorch's tensors.
#[test]
fn safetensors_export_has_pytorch_tensors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (net, out) = (folder.path().join("net.safetensors"), folder.path().join("out.safetensors"));
    // A training checkpoint has averaged parameters, which are exported, and optimizer vectors,
    // which are not.
    let mut checkpoint = checkpoint_of("torchvision.pth", 64);
    let average = checkpoint.state.parameters.clone();
    checkpoint.state.slots = vec![average.clone()];
    checkpoint.state.parameters.values_mut().for_each(|tensor| tensor.data.fill(0.5));
    checkpoint.state.average = Some(average);
    checkpoint.save(&net).expect("can be saved");
    stdout(&["export", text(&net), "--output", text(&out)]);
    let (mut found, metadata) = read_tensors(&out).expect("is safetensors");
    let mut expected = goldens("torchvision.safetensors");
    assert_eq!(metadata["format"], "pt");
    for tensors in [&mut found, &mut expected] {
        assert_eq!(tensors.keys().filter(|name| name.ends_with("num_batches_tracked")).count(), 59);
        tensors.retain(|name, _| !name.ends_with("num_batches_tracked"));
    }
    assert_eq!(found, expected);
}

#[test]
fn inspect_identifies_files() {
    for (file, format, variant, aux, some) in [
        ("torchvision.pth", "torch-zip", "torchvision", true, "inception4c.branch2.1.bn.running_var"),
        ("torchvision_legacy.pth", "torch-legacy", "torchvision", true, "aux2.fc1.weight"),
        ("torchvision.safetensors", "safetensors", "torchvision", true, "fc.bias"),
        ("wrapped.pth", "torch-zip", "torchvision", false, "model.module.fc.bias"),
        ("old.caffemodel", "caffe", "paper", false, "inception_3a/5x5_reduce[0]"),
        ("new.caffemodel", "caffe", "paper", true, "loss1/fc[1]"),
        ("bvlc.onnx", "onnx", "paper", false, "conv1/7x7_s2_w_0"),
        ("dynamo.onnx", "onnx", "torchvision", false, "fc.weight"),
    ] {
        let result = json(&["inspect", text(&fixture(file))]);
        assert_eq!(result["format"], format, "{file}");
        let network = &result["network"];
        assert_eq!(network["variant"], variant, "{file}: {}", result["problem"]);
        assert_eq!(network["aux_weight"].as_f64().is_some_and(|w| w > 0.0), aux, "{file}");
        let tensors = result["tensors"].as_array().expect("a list");
        let tensor = tensors.iter().find(|t| t["name"] == some).unwrap_or_else(|| panic!("{file}: {some}"));
        assert!(
            tensor["mean"].is_f64() && tensor["shape"].is_array() && tensor["type"].is_string(),
            "{tensor}"
        );
    }
    let shown = stdout(&["inspect", text(&fixture("wrapped.pth"))]);
    assert!(
        shown.contains("f16") && shown.contains("main head only") && shown.contains("7 classes"),
        "{shown}"
    );
    let shown = stdout(&["inspect", text(&fixture("script.onnx"))]);
    assert!(shown.contains("pytorch") && shown.contains("outputs logits"), "{shown}");
    // Files without a GoogLeNet are listed too, and a checkpoint shows its command line.
    let other = repository().join("tests/fixtures/op_sgd.safetensors");
    let result = json(&["inspect", text(&other)]);
    assert!(
        result["network"].is_null() && result["problem"].as_str().is_some_and(|p| p.contains("no GoogLeNet"))
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let net = folder.path().join("net.safetensors");
    stdout(&["import", text(&fixture("torchvision.pth")), "--output", text(&net)]);
    let shown = stdout(&["inspect", text(&net)]);
    assert!(shown.contains("incept import") && shown.contains("classes: 0, 1, 2"), "{shown}");
    let result = json(&["inspect", text(&net)]);
    assert_eq!(result["checkpoint"]["preprocessing"]["mean"][0], 0.5);
}

const FILES: [&str; 8] = [
    "torchvision.pth",
    "torchvision_legacy.pth",
    "torchvision.safetensors",
    "new.caffemodel",
    "old.caffemodel",
    "bvlc.onnx",
    "script.onnx",
    "script_bn.onnx",
];

/// Reads a damaged file completely; it may still be valid, but must not panic.
fn read_damaged(file: &str, bytes: &[u8]) -> incept::Result<()> {
    let path = Path::new(file);
    let read = Foreign::from_bytes(path, bytes)?;
    Checkpoint::import(path, &read, &ImportOptions::default()).map(|_| ())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_are_errors(which in 0..FILES.len(), cut in 0.0..1.0f64, flips in prop::collection::vec((0.0..1.0f64, 0..8u32), 1..24)) {
        let whole = std::fs::read(fixture(FILES[which])).expect("a fixture");
        let length = (whole.len() as f64 * cut) as usize;
        prop_assert!(read_damaged(FILES[which], &whole[..length]).is_err());
        let mut flipped = whole;
        for (place, bit) in flips {
            // Most flips are in the first bytes, which have the structure, and some in the last
            // ones, which have an archive's directory.
            let place = if bit == 7 { 1.0 - place.powi(4) } else { place.powi(4) };
            let at = ((flipped.len() - 1) as f64 * place) as usize;
            flipped[at] ^= 1 << bit;
        }
        drop(read_damaged(FILES[which], &flipped));
    }
}

/// Files with sizes in their headers that they do not have.
#[test]
fn files_with_huge_sizes_in_headers_are_errors() {
    let whole = std::fs::read(fixture("torchvision_legacy.pth")).expect("a fixture");
    // Each small number in the header is replaced by a large one in turn.
    for at in 0..whole.len().min(6000) {
        if whole[at] == b'K' {
            let mut changed = whole[..at].to_vec();
            changed.extend(b"J\xff\xff\xff\x7f");
            changed.extend(&whole[at + 2..]);
            drop(read_damaged("torchvision_legacy.pth", &changed));
        }
    }
}

/// A protocol buffer field with bytes.
fn field(number: u64, content: &[u8]) -> Vec<u8> {
    let varint = |mut value: u64| {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    };
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

/// An ONNX model with these fields in its graph.
fn onnx(graph: &[u8]) -> Vec<u8> {
    [&[0x08, 7][..], &field(7, graph)].concat()
}

/// The error of a command on a file, with this limit on the address space in MiB.
#[cfg(unix)]
fn refused_within(mib: u64, arguments: &[&str]) -> String {
    let output = crate::program::limited(mib << 10, arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {:?} {error}", output.status);
    assert!(error.len() < 20_000 && !error.contains("panicked"), "{error}");
    error
}

/// Two bytes of a file may expand to hundreds in memory, and errors to thousands.
#[cfg(unix)]
#[test]
fn small_files_do_not_allocate_large_memory() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let value = |name: &str| [field(1, name.as_bytes())].concat();
    let node = |operator: &str, inputs: &[String], outputs: &[String]| {
        let inputs = inputs.iter().flat_map(|name| field(1, name.as_bytes()));
        let outputs = outputs.iter().flat_map(|name| field(2, name.as_bytes()));
        let content: Vec<u8> = inputs.chain(outputs).chain(field(4, operator.as_bytes())).collect();
        field(1, &content)
    };
    let name = |i: usize| format!("v{i}");
    let input = field(11, &value("x"));
    let empty = |number: u64, count: usize| field(number, &[]).repeat(count);
    let many: Vec<String> = (0..20_000).map(name).collect();
    let long = "n".repeat(200_000);
    let chain: Vec<u8> = (0..15_000)
        .flat_map(|i| node("Bad", &[if i == 0 { "x".into() } else { name(i - 1) }], &[name(i)]))
        .collect();
    let caffe = |number: u64, inside: &[u8]| field(number, inside);
    for (what, ending, bytes, mib) in [
        ("empty nodes", "onnx", onnx(&empty(1, 10_000_000)), 700),
        ("empty tensors", "onnx", onnx(&empty(5, 10_000_000)), 700),
        ("empty attributes", "onnx", onnx(&field(1, &empty(5, 10_000_000))), 700),
        ("empty properties", "onnx", [&[8, 7][..], &empty(14, 10_000_000)].concat(), 700),
        (
            "an error for each output",
            "onnx",
            onnx(&[node(&long, &["x".into()], &many), input.clone()].concat()),
            300,
        ),
        ("an error for each node", "onnx", onnx(&[chain, input.clone()].concat()), 300),
        (
            "an input named often",
            "onnx",
            onnx(
                &[
                    node("Relu", &["x".into()], &["r".into()]),
                    node("Concat", &vec!["r".to_string(); 1_000_000], &["c".into()]),
                    node("Conv", &["c".into(), "w".into()], &["y".into()]),
                    input,
                ]
                .concat(),
            ),
            400,
        ),
        ("empty layers", "caffemodel", caffe(100, &[]).repeat(7_000_000), 700),
        ("empty blobs", "caffemodel", caffe(2, &field(6, &[]).repeat(10_000_000)), 700),
    ] {
        let path = folder.path().join(format!("bomb.{ending}"));
        std::fs::write(&path, &bytes).expect("can be written");
        let error = refused_within(mib, &["import", text(&path), "--output", "no.safetensors"]);
        assert!(error.contains(ending), "{what}: {error}");
    }
}

/// An ONNX model with a tensor of eight floats in an external file.
fn model_with_data(location: &str, offset: &str) -> Vec<u8> {
    let entry =
        |key: &str, text: &str| field(13, &[field(1, key.as_bytes()), field(2, text.as_bytes())].concat());
    let tensor = [
        &[0x08, 8, 0x10, 1][..],
        &field(8, b"w"),
        &entry("location", location),
        &entry("offset", offset),
        &[0x70, 1],
    ];
    onnx(&[field(5, &tensor.concat()), field(11, &field(1, b"x"))].concat())
}

#[cfg(unix)]
#[test]
fn external_data_is_restricted_to_regular_files_in_the_model_folder() {
    use std::os::unix::fs::symlink;
    let (folder, elsewhere) =
        (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let here = |name: &str| folder.path().join(name);
    let data: Vec<u8> = (0..10).flat_map(|i| (i as f32).to_le_bytes()).collect();
    std::fs::write(here("data"), &data).expect("can be written");
    std::fs::write(elsewhere.path().join("secret"), &data).expect("can be written");
    symlink(elsewhere.path().join("secret"), here("link")).expect("a link");
    symlink(elsewhere.path(), here("way")).expect("a link");
    symlink("/dev/zero", here("zero")).expect("a link");
    symlink("data", here("inside")).expect("a link");
    std::fs::create_dir(here("folder")).expect("a folder");
    let made = Command::new("mkfifo").arg(here("pipe")).status().expect("mkfifo is there");
    assert!(made.success());
    // A sparse file of any size: only the tensor's range is read.
    let sparse = std::fs::File::create(here("sparse")).expect("can be written");
    sparse.set_len(1 << 40).expect("can be long");
    let read = |location: &str, offset: &str| {
        let path = here("model.onnx");
        std::fs::write(&path, model_with_data(location, offset)).expect("can be written");
        Foreign::read(&path).map(|file| file.tensors()[0].1.tensor.data.clone())
    };
    let eight = |from: usize| (from..from + 8).map(|i| i as f32).collect::<Vec<_>>();
    assert_eq!(read("data", "0").expect("is there"), eight(0));
    assert_eq!(read("./data", "8").expect("is there"), eight(2));
    assert_eq!(read("inside", "4").expect("leads to it"), eight(1));
    assert_eq!(read("sparse", "1000000").expect("is there"), [0.0; 8]);
    for (location, offset, reason) in [
        ("data", "12", "extends past the end"),
        ("data", "18446744073709551615", "extends past the end"),
        ("data", "-4", "bad offset"),
        ("link", "0", "not in the model's folder"),
        ("way/secret", "0", "not in the model's folder"),
        ("zero", "0", "not in the model's folder"),
        ("../data", "0", "not in the model's folder"),
        ("/dev/zero", "0", "not in the model's folder"),
        ("pipe", "0", "not a regular file"),
        ("folder", "0", "not a regular file"),
        ("", "0", "not a regular file"),
        ("none", "0", "No such file"),
    ] {
        let error = read(location, offset).expect_err(location).to_string();
        assert!(error.contains(reason) && error.contains("`w`"), "{location}: {error}");
    }
    // A model behind a symbolic link, as in download caches: its data is next to the link's target.
    let hub = elsewhere.path().join("model.onnx");
    symlink(here("model.onnx"), &hub).expect("a link");
    std::fs::write(here("model.onnx"), model_with_data("data", "0")).expect("can be written");
    symlink(here("data"), elsewhere.path().join("data")).expect("a link");
    assert_eq!(Foreign::read(&hub).expect("beside the real model").tensors()[0].1.tensor.data, eight(0));
}

/// Only regular files are read: reading a pipe could block forever.
#[cfg(unix)]
#[test]
fn commands_reject_pipes_devices_and_folders() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe.safetensors");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there").success());
    let net = fixture("torchvision.pth");
    for other in [text(&pipe), "/dev/zero"] {
        for arguments in [
            &["inspect", other][..],
            &["import", other, "--output", "no.safetensors"],
            &["import", text(&net), "--classes", other, "--output", "no.safetensors"],
            &["graph", other],
            &["train", "--config", other],
        ] {
            let error = fails(arguments);
            assert!(error.contains("not a regular file"), "{arguments:?}: {error}");
        }
    }
}
