//! The network's tables against published counts, and what checkpoints keep.

use std::collections::BTreeMap;
use std::path::Path;

use incept::Error;
use incept::data::Preprocessing;
use incept::nn::{GoogLeNet, Variant, summary};
use incept::weights::{
    Checkpoint, HostTensor, INCLUDED, Metadata, Progress, TrainingState, read_tensors, write_atomically,
};

#[test]
fn parameters_and_multiply_adds_are_the_published_ones() {
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
fn layers_have_the_names_of_caffe_and_torchvision() {
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

/// At any input size from 32 up the graph fits together, and the same weights fit.
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
    HostTensor { dims: dims.to_vec(), data: (0..count).map(|i| start + i as f32 * 0.1).collect() }
}

fn checkpoint() -> Checkpoint {
    let network = GoogLeNet::torchvision().width(0.125).classes(3).input(48);
    let named = |start: f32| {
        BTreeMap::from([
            ("conv1.conv.weight".to_string(), tensor(&[2, 3, 7, 7], start)),
            ("fc.bias".to_string(), tensor(&[3], start)),
        ])
    };
    let progress = Progress {
        step: 12,
        update: 6,
        epoch: 2,
        batch: 3,
        seed: u64::MAX - 1,
        waiting: 3,
        waiting_weight: 17.3,
    };
    let statistics = BTreeMap::from([("conv1.bn.running_mean".to_string(), tensor(&[2], 0.5))]);
    let mut average = named(4.0);
    average.insert("conv1.bn.running_mean".to_string(), tensor(&[2], 0.75));
    let state = TrainingState {
        parameters: named(1.0),
        state: statistics,
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
fn a_checkpoint_comes_back_as_it_was() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("new folder/a.safetensors");
    let saved = checkpoint();
    saved.save(&path).expect("can be saved");
    assert_eq!(Checkpoint::load(&path).expect("can be loaded"), saved);
    // Nothing else was left there.
    let files = std::fs::read_dir(path.parent().expect("has a folder")).expect("can be listed").count();
    assert_eq!(files, 1);
    // Others read it too: plain names, and torchvision's counters.
    let (tensors, metadata) = read_tensors(&path).expect("is safetensors");
    assert_eq!(tensors["conv1.bn.num_batches_tracked"].data, [12.0]);
    assert_eq!(tensors["fc.bias"].dims, [3]);
    assert_eq!(metadata["format"], "pt");
}

#[test]
fn half_the_size_keeps_parameters_to_f16_and_statistics_whole() {
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
    // What f16 cannot hold is refused, not made infinite.
    saved.state.parameters.insert("fc.weight".into(), HostTensor { dims: vec![1], data: vec![7e4] });
    let error = saved.to_half_bytes().expect_err("is too large").to_string();
    assert!(error.contains("fc.weight") && error.contains("f16"), "{error}");
}

#[test]
fn the_included_weights_know_cifars_classes() {
    assert!(INCLUDED.len() < 8 << 20, "{} bytes", INCLUDED.len());
    let Checkpoint { state, metadata } = Checkpoint::included().expect("is a checkpoint");
    let names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    assert_eq!(metadata.classes, names);
    assert!(metadata.network.has_aux());
    // All that the network needs is there, and nothing of the computer that it was trained on.
    let net = metadata.network.build(1).expect("the network can be built");
    let needed: BTreeMap<_, _> =
        net.graph.parameters().map(|(_, t, _)| (t.name.clone(), t.spec.dims().to_vec())).collect();
    let there: BTreeMap<_, _> =
        state.parameters.iter().chain(&state.state).map(|(n, t)| (n.clone(), t.dims.clone())).collect();
    assert!(needed.iter().all(|(name, dims)| there.get(name) == Some(dims)));
    assert!(metadata.run.is_null() && metadata.command_line.is_empty());
}

#[test]
fn the_averaged_state_classifies_with_the_averages() {
    let state = checkpoint().state;
    let averaged = state.clone().averaged();
    let names = |map: &BTreeMap<String, HostTensor>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        (names(&averaged.parameters), names(&averaged.state)),
        (names(&state.parameters), names(&state.state))
    );
    let average = state.average.clone().expect("has averages");
    assert!(averaged.parameters.iter().chain(&averaged.state).all(|(name, tensor)| average[name] == *tensor));
    // Earlier versions averaged the parameters alone: the statistics are the latest then.
    let mut alone = state;
    alone.average.as_mut().map(|average| average.remove("conv1.bn.running_mean"));
    assert_eq!(alone.clone().averaged().state, alone.state);
}

/// As the file that any program makes, in folders that are made with it.
#[cfg(unix)]
#[test]
fn files_have_the_permissions_of_others() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (ours, plain) = (folder.path().join("new/ours"), folder.path().join("plain"));
    write_atomically(&ours, b"one").expect("can be written");
    std::fs::write(&plain, b"two").expect("can be written");
    let mode = |path: &Path| std::fs::metadata(path).expect("is there").permissions().mode();
    assert_eq!(mode(&ours), mode(&plain));
}

#[test]
fn damaged_files_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("damaged.safetensors");
    let bytes = checkpoint().to_bytes().expect("can be written");
    for (what, content) in [
        ("cut off", bytes[..bytes.len() / 2].to_vec()),
        ("nothing", Vec::new()),
        ("something else", b"GIF89a and so on, which is no safetensors file".to_vec()),
    ] {
        std::fs::write(&path, content).expect("can be written");
        let error = Checkpoint::load(&path).expect_err(what);
        assert!(matches!(error, Error::Format { .. }), "{what}: {error}");
        assert!(error.to_string().contains("damaged.safetensors"), "{error}");
    }
    let error = Checkpoint::load(&folder.path().join("missing.safetensors")).expect_err("is not there");
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

/// Weights of others, without our metadata: the shapes tell the network.
#[test]
fn weights_without_metadata_tell_their_network() {
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
fn files_are_replaced_whole() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("file");
    write_atomically(&path, b"old").expect("can be written");
    write_atomically(&path, b"new and longer").expect("can be replaced");
    assert_eq!(std::fs::read(&path).expect("is there"), b"new and longer");
    // Where the new content cannot be put, the old one stays.
    let occupied = folder.path().join("folder");
    std::fs::create_dir_all(occupied.join("inside")).expect("a folder");
    write_atomically(&occupied, b"x").expect_err("a folder is no file");
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("can be listed").count(),
        2,
        "a temporary file was left"
    );
}
