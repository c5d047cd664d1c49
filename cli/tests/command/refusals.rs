//! Invalid checkpoints, and sizes that exceed any memory.

use incept::checkpoint::Checkpoint;
use serde_json::Value;

use crate::program::{fails, text};

/// A checkpoint whose network has no filters in its first convolution.
fn contradicting() -> Vec<u8> {
    let bytes = Checkpoint::included().and_then(|weights| weights.to_bytes()).expect("weights");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let text = header["__metadata__"]["incept"].as_str().expect("a description");
    let mut description: Value = serde_json::from_str(text).expect("JSON");
    description["network"]["channels"]["stem"][0] = 0.into();
    header["__metadata__"]["incept"] = description.to_string().into();
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + length..]].concat()
}

#[test]
fn every_command_rejects_inconsistent_checkpoints() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bad = folder.path().join("bad.safetensors");
    std::fs::write(&bad, contradicting()).expect("can be written");
    let bad = text(&bad);
    for arguments in [
        &["inspect", bad][..],
        &["classify", bad, "no.png"],
        &["graph", bad],
        &["export", bad, "--output", "no.onnx"],
        &["train", "--resume", bad],
        &["train", "digits", "--init", bad],
        &["look", "filters", bad],
    ] {
        let error = fails(arguments);
        assert!(error.contains("network.channels.stem[0]"), "{arguments:?}: {error}");
    }
}

/// Impossible sizes are rejected immediately, without allocating memory.
#[cfg(unix)]
#[test]
fn impossible_sizes_do_not_allocate_memory() {
    for (arguments, named) in [
        ("summary --classes 100000000", "100000000"),
        ("summary --classes 18446744073709551615", "18446744073709551615"),
        ("summary --classes 1000000", "1000000"),
        ("summary --width 1e9", "1000000000"),
        ("summary --width 63", "--width"),
        ("summary --width nan", "--width"),
        ("summary --width 0", "--width"),
        ("summary --width 1e-9", "--width"),
        ("summary --image-size 1000000", "1000000"),
        ("summary --image-size 4096 --batch-size 1048576", "--batch-size"),
        ("summary --batch-size 4294967295", "4294967295"),
        ("summary --batch-size 0", "--batch-size"),
        ("kernels --classes 100000000", "100000000"),
        ("kernels --batch-size 4294967295", "4294967295"),
        ("graph --classes 100000000", "100000000"),
        ("graph --width 1e300", "--width"),
        ("profile --static --classes 100000000", "100000000"),
        ("profile --static --batch-size 4294967295", "4294967295"),
        ("bench --batch-size 18446744073709551615", "18446744073709551615"),
        ("train digits --batch-size 4294967295", "4294967295"),
        ("train digits --epochs 9223372036854775807", "9223372036854775807"),
        ("train digits --image-size 1000000", "1000000"),
    ] {
        let words: Vec<&str> = arguments.split(' ').collect();
        let output = crate::program::limited(1 << 20, &words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments}: {:?} {error}", output.status);
        assert!(error.contains(named) && !error.contains("panicked"), "{arguments}: {error}");
    }
    // Large but possible sizes are summarized in the same memory.
    for arguments in [
        "summary --batch-size 1024",
        "summary --width 8 --batch-size 1",
        "summary --image-size 4096 --batch-size 1",
    ] {
        let output = crate::program::limited(1 << 20, &arguments.split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
