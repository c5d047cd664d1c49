//! The network's tables against published counts, and checkpoints.

use std::collections::BTreeMap;
use std::path::Path;

use incept::Error;
use incept::checkpoint::{Checkpoint, INCLUDED, Metadata};
use incept::data::Preprocessing;
use incept::formats::read_tensors;
use incept::graph::Role;
use incept::low_level::output::write_atomically;
use incept::model::{GoogLeNet, Variant, summary};
use incept::optim::{Progress, TrainingState};
use incept::tensor::HostTensor;

#[test]
fn parameters_and_macs_match_published_counts() {
    // Caffe's bvlc_googlenet and torchvision's googlenet, 1000 classes, 224x224.
    for (network, inference, all, macs) in [
        (GoogLeNet::paper(), 6_998_552, 13_378_280, 1_582_671_872),
        (GoogLeNet::torchvision(), 6_624_904, 13_004_888, 1_498_411_008),
    ] {
        let counted = summary(&network.build(2).expect("the network can be built"));
        assert_eq!(counted.parameters_inference, inference, "{}", network.variant);
        assert_eq!(counted.parameters, all, "{}", network.variant);
        let difference = (counted.macs_inference as f64 / macs as f64 - 1.0).abs();
        assert!(difference < 2e-3, "{}: {} multiply-adds", network.variant, counted.macs_inference);
    }
}

#[test]
fn layer_names_match_caffe_and_torchvision() {
    let names = |network: GoogLeNet| {
        let net = network.build(1).expect("the network can be built");
        net.graph.parameters().map(|(_, t, _)| t.name.clone()).collect::<Vec<_>>()
    };
    let caffe = names(GoogLeNet::paper());
    for name in
        ["conv1/7x7_s2.weight", "inception_3a/5x5_reduce.bias", "loss1/fc.weight", "loss3/classifier.bias"]
    {
        assert!(caffe.iter().any(|n| n == name), "{name}");
    }
    let torch = names(GoogLeNet::torchvision());
    for name in ["conv1.conv.weight", "inception3a.branch2.0.bn.weight", "aux1.fc1.bias", "fc.weight"] {
        assert!(torch.iter().any(|n| n == name), "{name}");
    }
}

/// The graph can be built for any input size from 32, with the same parameter shapes.
#[test]
fn every_input_size_can_be_built() {
    for variant in [Variant::Paper, Variant::Torchvision] {
        let shapes = |input: usize| {
            let net = GoogLeNet::of(variant).width(0.125).input(input).build(1).expect("can be built");
            net.graph.parameters().map(|(_, t, _)| (t.name.clone(), t.spec.clone())).collect::<Vec<_>>()
        };
        let at224 = shapes(224);
        for input in (32..=256).step_by(7) {
            assert_eq!(shapes(input), at224, "{variant} at {input}");
        }
        let error = GoogLeNet::of(variant).input(31).build(1).expect_err("31 pixels are too few");
        assert!(error.to_string().contains("32"), "{error}");
    }
}

fn tensor(dims: &[usize], start: f32) -> HostTensor {
    let count: usize = dims.iter().product();
    HostTensor { dims: dims.to_vec(), data: (0..count).map(|i| start + (i % 100) as f32 * 0.1).collect() }
}

fn checkpoint() -> Checkpoint {
    let network = GoogLeNet::torchvision().width(0.03).classes(3).input(48);
    let graph = network.build(1).expect("the network can be built").graph;
    let all = |start: f32, wanted: fn(&Role) -> bool| -> BTreeMap<String, HostTensor> {
        let tensors = graph.tensors().filter(|(_, t)| wanted(&t.role));
        tensors.map(|(_, t)| (t.name.clone(), tensor(t.spec.dims(), start))).collect()
    };
    let named = |start: f32| all(start, |role| matches!(role, Role::Parameter(_)));
    let statistics = |start: f32| all(start, |role| matches!(role, Role::State(_)));
    let progress = Progress {
        step: 12,
        update: 6,
        epoch: 2,
        batch: 3,
        seed: u64::MAX - 1,
        waiting: 3,
        waiting_weight: 17.3,
    };
    let mut average = named(4.0);
    average.extend(statistics(0.75));
    let state = TrainingState {
        parameters: named(1.0),
        state: statistics(0.5),
        slots: vec![named(2.0), named(3.0)],
        average: Some(average),
        progress: progress.clone(),
    };
    let metadata = Metadata {
        version: "1.2.3".into(),
        classes: ["cat", "dog", "früh\"stück"].map(String::from).to_vec(),
        preprocessing: Preprocessing::new(48),
        network,
        progress,
        run: serde_json::json!({"epochs": 7}),
        command_line: vec!["incept".into(), "train".into()],
    };
    Checkpoint { state, metadata }
}

#[test]
fn checkpoints_round_trip() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("new folder/a.safetensors");
    let saved = checkpoint();
    saved.save(&path).expect("can be saved");
    assert_eq!(Checkpoint::load(&path).expect("can be loaded"), saved);
    // No temporary files remain.
    let files = std::fs::read_dir(path.parent().expect("has a folder")).expect("can be listed").count();
    assert_eq!(files, 1);
    // Readable by other programs: plain names, and torchvision's counters.
    let (tensors, metadata) = read_tensors(&path).expect("is safetensors");
    assert_eq!(tensors["conv1.bn.num_batches_tracked"].data, [12.0]);
    assert_eq!(tensors["fc.bias"].dims, [3]);
    assert_eq!(metadata["format"], "pt");
}

#[test]
fn half_checkpoints_have_f16_parameters_and_f32_statistics() {
    let mut saved = checkpoint();
    let [whole, half] = [saved.to_bytes(), saved.to_half_bytes()].map(|b| b.expect("can be written"));
    assert!(half.len() < whole.len());
    let back = Checkpoint::from_bytes(Path::new("half"), &half).expect("can be read");
    assert_eq!((&back.metadata, &back.state.state), (&saved.metadata, &saved.state.state));
    let parameters = &saved.state.parameters;
    assert_eq!(back.state.parameters.keys().collect::<Vec<_>>(), parameters.keys().collect::<Vec<_>>());
    for (name, tensor) in &back.state.parameters {
        let want = &parameters[name];
        assert_eq!(tensor.dims, want.dims);
        for (got, want) in tensor.data.iter().zip(&want.data) {
            assert!((got - want).abs() <= want.abs() / 2048.0, "{name}: {got} for {want}");
        }
    }
    // Values too large for f16 are rejected, not made infinite.
    saved.state.parameters.insert("fc.weight".into(), HostTensor { dims: vec![1], data: vec![7e4] });
    let error = saved.to_half_bytes().expect_err("is too large").to_string();
    assert!(error.contains("fc.weight") && error.contains("f16"), "{error}");
}

#[test]
fn included_weights_have_cifar_classes() {
    assert!(INCLUDED.len() < 8 << 20, "{} bytes", INCLUDED.len());
    let Checkpoint { state, metadata } = Checkpoint::included().expect("is a checkpoint");
    let names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    assert_eq!(metadata.classes, names);
    assert!(metadata.network.has_aux());
    // Complete for the network, without data about the training machine.
    let net = metadata.network.build(1).expect("the network can be built");
    let needed: BTreeMap<_, _> =
        net.graph.parameters().map(|(_, t, _)| (t.name.clone(), t.spec.dims().to_vec())).collect();
    let there: BTreeMap<_, _> =
        state.parameters.iter().chain(&state.state).map(|(n, t)| (n.clone(), t.dims.clone())).collect();
    assert!(needed.iter().all(|(name, dims)| there.get(name) == Some(dims)));
    assert!(metadata.run.is_null() && metadata.command_line.is_empty());
}

#[test]
fn averaged_state_uses_the_averages() {
    let state = checkpoint().state;
    let averaged = state.clone().averaged();
    let names = |map: &BTreeMap<String, HostTensor>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        (names(&averaged.parameters), names(&averaged.state)),
        (names(&state.parameters), names(&state.state))
    );
    let average = state.average.clone().expect("has averages");
    assert!(averaged.parameters.iter().chain(&averaged.state).all(|(name, tensor)| average[name] == *tensor));
    // Earlier versions averaged only parameters; then the latest statistics are used.
    let mut alone = state;
    alone.average.as_mut().expect("has averages").retain(|name, _| !alone.state.contains_key(name));
    assert_eq!(alone.clone().averaged().state, alone.state);
}

/// Files and their new folders have default permissions.
#[cfg(unix)]
#[test]
fn files_have_default_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (ours, plain) = (folder.path().join("new/ours"), folder.path().join("plain"));
    write_atomically(&ours, b"one").expect("can be written");
    std::fs::write(&plain, b"two").expect("can be written");
    let mode = |path: &Path| std::fs::metadata(path).expect("is there").permissions().mode();
    assert_eq!(mode(&ours), mode(&plain));
}

#[test]
fn damaged_checkpoints_are_rejected_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("damaged.safetensors");
    let bytes = checkpoint().to_bytes().expect("can be written");
    for (what, content) in [
        ("truncated", bytes[..bytes.len() / 2].to_vec()),
        ("nothing", Vec::new()),
        ("something else", b"GIF89a and so on, which is not a safetensors file".to_vec()),
    ] {
        std::fs::write(&path, content).expect("can be written");
        let error = Checkpoint::load(&path).expect_err(what);
        assert!(matches!(error, Error::Format { .. }), "{what}: {error}");
        assert!(error.to_string().contains("damaged.safetensors"), "{error}");
    }
    let error = Checkpoint::load(&folder.path().join("missing.safetensors")).expect_err("is not there");
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

/// Pretrained weights without incept's metadata: the network follows from shapes.
#[test]
fn network_is_inferred_from_tensor_shapes() {
    for variant in [Variant::Paper, Variant::Torchvision] {
        let network = GoogLeNet::of(variant).width(0.5).classes(7);
        let net = network.build(1).expect("the network can be built");
        let shapes = |keep_aux: bool| {
            net.graph
                .parameters()
                .map(|(_, t, _)| (t.name.clone(), t.spec.dims().to_vec()))
                .filter(|(name, _)| {
                    keep_aux
                        || !(name.starts_with("loss1")
                            || name.starts_with("loss2")
                            || name.starts_with("aux"))
                })
                .collect::<BTreeMap<_, _>>()
        };
        let found = GoogLeNet::from_tensors(&shapes(true)).expect("is a GoogLeNet");
        assert_eq!((found.variant, &found.channels, found.classes), (variant, &network.channels, 7));
        assert!(found.has_aux());
        assert!(!GoogLeNet::from_tensors(&shapes(false)).expect("is a GoogLeNet").has_aux());
        let mut broken = shapes(true);
        broken.retain(|name, _| !name.contains("4c"));
        let error = GoogLeNet::from_tensors(&broken).expect_err("4c is missing").to_string();
        assert!(error.contains("4c"), "{error}");
    }
}

#[test]
fn files_are_replaced_atomically() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("file");
    write_atomically(&path, b"old").expect("can be written");
    write_atomically(&path, b"new and longer").expect("can be replaced");
    assert_eq!(std::fs::read(&path).expect("is there"), b"new and longer");
    // If writing fails, the old content stays.
    let occupied = folder.path().join("folder");
    std::fs::create_dir_all(occupied.join("inside")).expect("a folder");
    write_atomically(&occupied, b"x").expect_err("a folder is not a file");
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("can be listed").count(),
        2,
        "a temporary file was left"
    );
}

/// A safetensors file with this header and content.
fn safetensors(header: &str, content: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), content].concat()
}

/// A checkpoint file with a changed description.
fn described(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let bytes = checkpoint().to_bytes().expect("can be written");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let text = header["__metadata__"]["incept"].as_str().expect("a description");
    let mut description = serde_json::from_str(text).expect("JSON");
    change(&mut description);
    header["__metadata__"]["incept"] = description.to_string().into();
    safetensors(&header.to_string(), &bytes[8 + length..])
}

/// Asserts that a checkpoint is rejected with this name in the error.
#[track_caller]
fn refused(bytes: &[u8], named: &str) {
    let error = Checkpoint::from_bytes(Path::new("bad.safetensors"), bytes).expect_err(named);
    assert!(matches!(error, Error::Format { .. }), "{named}: {error:?}");
    let text = error.to_string();
    assert!(text.starts_with("bad.safetensors: ") && text.contains(named), "{named}: {text}");
}

#[test]
fn inconsistent_descriptions_are_rejected_by_field() {
    use serde_json::{Value, json};
    let huge = json!(u64::MAX);
    for (pointer, value, named) in [
        ("/network/channels/stem/0", json!(0), "network.channels.stem[0]"),
        ("/network/channels/stem/1", json!(7), "network.channels.stem[1]"),
        ("/network/channels/stem/2", json!(-1), "network.channels.stem[2]"),
        ("/network/channels/blocks/7/conv3", huge.clone(), "network.channels.blocks[7].conv3"),
        ("/network/channels/blocks/0/reduce5", json!(1.5), "network.channels.blocks[0].reduce5"),
        ("/network/channels/blocks", json!([]), "network.channels.blocks"),
        ("/network/channels/aux/1", json!(1), "network.channels.aux[1]"),
        ("/network/classes", json!(4), "network.classes"),
        ("/network/classes", huge.clone(), "network.classes"),
        ("/network/input", json!(0), "network.input"),
        ("/network/input", huge.clone(), "network.input"),
        ("/network/variant", json!("paper"), "network.variant"),
        ("/network/dropout", json!(1.0), "network.dropout"),
        ("/network/aux_dropout", Value::Null, "network.aux_dropout"),
        ("/network/aux_weight", json!(-0.3), "network.aux_weight"),
        ("/network/aux_weight", json!(1e39), "network.aux_weight"),
        ("/network/bias_rate", json!("2"), "network.bias_rate"),
        ("/network/smoothing", json!(-1), "network.smoothing"),
        ("/network/class_weights", json!([1.0]), "network.class_weights"),
        ("/network/freeze_until", json!("nothing"), "network.freeze_until"),
        ("/classes", json!(["cat", "dog"]), "classes"),
        ("/classes/1", json!(1), "classes[1]"),
        ("/preprocessing/input", json!(32), "preprocessing.input"),
        ("/preprocessing/mean", json!([0.5, 0.5]), "preprocessing.mean"),
        ("/preprocessing/mean/1", json!(1e39), "preprocessing.mean"),
        ("/preprocessing/std/0", json!(0.0), "preprocessing.std"),
        ("/preprocessing/std/2", json!(1e-45), "preprocessing.std"),
        ("/preprocessing/fit", json!("stretch"), "preprocessing.fit"),
        ("/progress/step", json!(1), "progress.update"),
        ("/progress/epoch", huge.clone(), "progress.epoch"),
        ("/progress/batch", json!(-3), "progress.batch"),
        ("/progress", Value::Null, "progress"),
    ] {
        let bytes = described(|description| {
            *description.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
        });
        refused(&bytes, named);
    }
    for field in ["network", "classes", "preprocessing", "progress"] {
        refused(&described(|d| drop(d.as_object_mut().map(|d| d.remove(field)))), field);
    }
    refused(&described(|description| *description = json!("nothing")), "description");
}

#[test]
fn mismatched_tensors_are_rejected_by_name() {
    let with = |change: fn(&mut Checkpoint)| {
        let mut bad = checkpoint();
        change(&mut bad);
        bad.to_bytes().expect("can be written")
    };
    refused(&with(|c| drop(c.state.parameters.remove("fc.bias"))), "`fc.bias` is missing");
    refused(
        &with(|c| drop(c.state.parameters.insert("fc.bias".into(), tensor(&[4], 0.0)))),
        "`fc.bias` is 4, expected 3",
    );
    refused(&with(|c| drop(c.state.parameters.insert("more".into(), tensor(&[4], 0.0)))), "`more`");
    refused(&with(|c| drop(c.state.state.remove("conv1.bn.running_var"))), "`conv1.bn.running_var`");
    refused(&with(|c| drop(c.state.slots[1].remove("fc.bias"))), "`optimizer.1.fc.bias` is missing");
    refused(
        &with(|c| drop(c.state.slots[0].insert("fc.bias".into(), tensor(&[1, 3], 0.0)))),
        "`optimizer.0.fc.bias` is 1x3",
    );
    refused(
        &with(|c| drop(c.state.average.as_mut().map(|a| a.insert("fc.bias".into(), tensor(&[2], 0.0))))),
        "`average.fc.bias` is 2",
    );
    refused(
        &with(|c| drop(c.state.state.insert("loss_scale/scale".into(), tensor(&[2], 0.0)))),
        "`loss_scale/scale`",
    );
    // Averages of earlier versions do not contain statistics.
    let mut earlier = checkpoint();
    let statistics = earlier.state.state.clone();
    earlier.state.average.as_mut().expect("averages").retain(|name, _| !statistics.contains_key(name));
    let bytes = earlier.to_bytes().expect("can be written");
    assert_eq!(Checkpoint::from_bytes(Path::new("earlier"), &bytes).expect("is whole"), earlier);
}

/// A header can announce more than the file contains, and need far more memory to parse than its
/// length.
#[test]
fn hostile_safetensors_headers_are_rejected() {
    let tensor = |shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for (what, bytes) in [
        ("longer than the file", safetensors(&tensor("[1000000]", "[0,4000000]"), &[0; 4])),
        ("huge dimensions", safetensors(&tensor("[4294967296,4294967296]", "[0,4]"), &[0; 4])),
        ("a huge header", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        ("a header of 90 megabytes", safetensors(&" ".repeat(90 << 20), &[])),
        ("a million tensors", {
            let one = |i: usize| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
            let all: Vec<String> = (0..200_000).map(one).collect();
            safetensors(&format!("{{{}}}", all.join(",")), &[])
        }),
        ("lists in its description", {
            let lists = "[[[0],[0]],".repeat(100_000).replace('"', "");
            safetensors(&format!(r#"{{"__metadata__":{{"incept":"{lists}"}}}}"#), &[])
        }),
    ] {
        let error = Checkpoint::from_bytes(Path::new("bad.safetensors"), &bytes).expect_err(what);
        assert!(matches!(error, Error::Format { .. }), "{what}: {error}");
    }
    // No elements, although a partial product of the dimensions overflows.
    let empty = safetensors(&tensor("[0,4294967296,4294967296]", "[0,0]"), &[]);
    refused(&empty, "is missing");
}
