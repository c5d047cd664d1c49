//! Listing, selecting and tuning devices.

use std::path::PathBuf;

use serde_json::Value;

use crate::gpu::missing;
use crate::program::{fails_with, incept, json, stdout, temporary, text};

#[test]
fn devices_are_listed() {
    let devices = &json(&["devices", "--json"])[0];
    let first = &devices[0];
    assert_eq!(first["index"], 0);
    assert!(first["max_binding_bytes"].as_u64() >= Some(128 << 20), "{first}");
    assert!(stdout(&["devices"]).contains(first["name"].as_str().expect("a name")));
    let (code, errors) = fails_with(&["verify", "nowhere", "--device", "no such adapter"]);
    assert!(code == 1 && errors.contains("no such adapter"), "{errors}");
}

/// Mesa connects to a Wayland compositor, and libwayland prints errors where there is none.
#[test]
fn missing_wayland_session_prints_no_errors() {
    for folder in [None, Some("not/absolute")] {
        let mut command = incept();
        command.env_remove("XDG_RUNTIME_DIR").env_remove("WAYLAND_DISPLAY").arg("devices");
        folder.map(|folder| command.env("XDG_RUNTIME_DIR", folder));
        let output = command.output().expect("the program can be started");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !errors.contains("XDG_RUNTIME_DIR"), "{errors}");
    }
}

#[test]
fn advice_names_the_requested_backend() {
    // No system has both.
    let other = if cfg!(target_os = "macos") { "dx12" } else { "metal" };
    for arguments in [&["devices", "--backend", other][..], &["verify", "tests/fixtures", "--backend", other]]
    {
        let (code, errors) = fails_with(arguments);
        assert!(code == 1 && errors.contains("does not exist on this system"), "{errors}");
        assert!(!errors.contains("install"), "{errors}");
    }
}

#[test]
fn flags_override_wgpu_environment_variables() {
    let names = |variables: &[(&str, &str)], arguments: &[&str]| -> (bool, String) {
        let output =
            incept().envs(variables.iter().copied()).args(arguments).output().expect("can be started");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let other = if cfg!(target_os = "macos") { "dx12" } else { "metal" };
    let (done, errors) = names(&[("WGPU_BACKEND", other)], &["devices"]);
    assert!(!done && errors.contains(other), "{errors}");
    if !missing() {
        let all = ["devices", "--backend", "vulkan,gl,dx12,metal"];
        let (done, errors) = names(&[("WGPU_BACKEND", other)], &all);
        assert!(done, "{errors}");
    }
    let (done, errors) = names(&[("WGPU_BACKEND", "")], &["devices"]);
    assert!(done, "{errors}");
    let (done, errors) = names(&[("WGPU_BACKEND", "glide")], &["devices"]);
    assert!(!done && errors.contains("glide") && errors.contains("vulkan"), "{errors}");
    let goldens = ["verify", "tests/fixtures/edge"];
    let (done, errors) = names(&[("WGPU_ADAPTER_NAME", "no such adapter")], &goldens);
    assert!(!done && errors.contains("no such adapter"), "{errors}");
    let (done, errors) =
        names(&[("WGPU_ADAPTER_NAME", "no such adapter")], &[&goldens[..], &["--device", "cpu"]].concat());
    assert!(done, "{errors}");
    let help = stdout(&["verify", "--help"]);
    assert!(help.contains("WGPU_BACKEND") && help.contains("WGPU_ADAPTER_NAME"), "{help}");
}

#[test]
fn tuning_results_are_cached() {
    if missing() {
        return;
    }
    let folder = temporary();
    let (out, cache) = (folder.path().join("out.safetensors"), folder.path().join("cache"));
    let start = |effort: &[&str]| {
        let base = [
            "train",
            "digits",
            "--width",
            "0.0625",
            "--image-size",
            "32",
            "--limit",
            "16",
            "--batch-size",
            "4",
        ];
        let rest = [
            "--epochs",
            "1",
            "--no-validation",
            "--json",
            "--verbose",
            "--device",
            "0",
            "--output",
            text(&out),
        ];
        let arguments = base.iter().chain(&rest).chain(effort);
        let output = incept().args(arguments).env("INCEPT_CACHE_DIR", &cache).output().expect("it starts");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        let first = String::from_utf8_lossy(&output.stdout).lines().next().expect("an event").to_string();
        (serde_json::from_str::<Value>(&first).expect("JSON"), errors)
    };
    let files = || -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&cache).into_iter().flatten();
        entries.map(|e| e.expect("can be listed").path()).collect()
    };
    let (event, errors) = start(&["--tune", "off"]);
    assert!(event["event"] == "start" && files().is_empty(), "{errors}");

    let (event, errors) = start(&["--tune", "fast"]);
    let count = |event: &Value, field: &str| event[field].as_u64().expect("a count");
    let shapes = count(&event, "measured") + count(&event, "left");
    assert_eq!((&event["event"], &event["known"]), (&"tune".into(), &0.into()), "{event}");
    assert!(shapes > 50 && event["rejected"].as_array().is_some_and(Vec::is_empty), "{event}");
    assert!(errors.contains("tuning: measured"), "{errors}");
    let [file] = &files()[..] else { panic!("{:?} is not one file", files()) };
    assert_eq!(event["cache"], text(file));

    let (event, errors) = start(&["--tune", "fast"]);
    assert_eq!((count(&event, "known"), count(&event, "measured")), (shapes, 0), "{event}");
    let loaded = format!("kernels: {shapes} choices from {}", file.display());
    assert!(errors.contains(&loaded) && errors.contains("shapes are in the cache"), "{errors}");
    let (_, errors) = start(&["--tune", "off"]);
    assert!(!errors.contains("choices from"), "{errors}");

    std::fs::write(file, "{").expect("can be written");
    let (event, errors) = start(&["--tune", "fast"]);
    assert_eq!((count(&event, "known"), count(&event, "measured") + count(&event, "left")), (0, shapes));
    assert!(errors.contains("is ignored"), "{errors}");
    let (event, _) = start(&["--tune", "fast"]);
    assert_eq!(count(&event, "known"), shapes);
}

/// Without a driver the CPU is listed and used, and the reason is said.
#[test]
fn without_drivers_the_cpu_is_used() {
    let hidden = [
        ("VK_DRIVER_FILES", "/nonexistent"),
        ("VK_ICD_FILENAMES", "/nonexistent"),
        ("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent"),
    ];
    let output = |arguments: &[&str]| {
        let output = incept().envs(hidden).args(arguments).output().expect("can be started");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (done, listed, errors) = output(&["devices"]);
    assert!(done && listed.contains("cpu: ") && errors.contains("no adapter"), "{listed} {errors}");
    let network = ["bench", "--width", "0.0625", "--image-size", "32", "--rounds", "1", "--steps", "1"];
    let (done, _, errors) = output(&network);
    assert!(done && errors.contains("no GPU was found"), "{errors}");
    let (done, _, errors) = output(&[&network[..], &["--threads", "1"]].concat());
    assert!(done && errors.contains("1 thread)"), "{errors}");
    let (done, _, errors) = output(&[&network[..], &["--device", "gpu"]].concat());
    assert!(!done && errors.contains("no GPU was found"), "{errors}");
}
