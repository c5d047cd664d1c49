//! `incept kernels`: listing the pipelines of a plan, and writing them in other languages.

use std::path::Path;

use naga::valid::{Capabilities, ValidationFlags, Validator};
use serde_json::Value;

use crate::program::{fails_with, incept, json, run, stdout, temporary, text};

const NETWORK: [&str; 8] =
    ["--width", "0.0625", "--image-size", "32", "--classes", "10", "--batch-size", "4"];

fn listed(more: &[&str]) -> Value {
    json(&[&["kernels", "--json"], &NETWORK[..], more].concat()).remove(0)
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

/// The pipelines of a result.
fn pipelines(result: &Value) -> &Vec<Value> {
    result["pipelines"].as_array().expect("a list")
}

#[test]
fn kernels_are_counted_per_class_without_a_device() {
    let of = |class: &str| listed(&["--class", class]);
    let (discrete, software) = (of("discrete"), of("software"));
    for result in [&discrete, &software] {
        let sum = |field: &str| pipelines(result).iter().map(|p| count(&p[field])).sum::<u64>();
        assert_eq!(count(&result["dispatches"]), sum("dispatches"));
        assert_eq!(count(&result["wgsl_bytes"]), sum("wgsl_bytes"));
        assert!(pipelines(result).len() > 10, "{result}");
        let mut names: Vec<String> =
            pipelines(result).iter().map(|p| format!("{}-{}", p["entry"], p["hash"])).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), pipelines(result).len(), "two pipelines have the same name");
        // WebGPU's default limits.
        for p in pipelines(result) {
            let invocations: u64 = p["workgroup"].as_array().expect("three").iter().map(count).product();
            assert!(invocations <= 256 && count(&p["workgroup_memory_bytes"]) <= 16 << 10, "{p}");
        }
    }
    // Software adapters run each kernel by itself.
    assert!(count(&software["dispatches"]) > count(&discrete["dispatches"]));
    let entry_points =
        |result: &Value| pipelines(result).iter().filter(|p| p["entry_point"] == "grouped").count();
    assert!(entry_points(&software) == 0 && entry_points(&discrete) > 10, "{discrete}");
    // Kernels for software adapters have no barriers, and share nothing.
    assert!(pipelines(&discrete).iter().any(|p| count(&p["workgroup_memory_bytes"]) > 0));
    let infer = listed(&["--infer"]);
    assert!(count(&infer["dispatches"]) < count(&discrete["dispatches"]) && infer["pass"] == "inference");

    let arguments = [&["kernels"], &NETWORK[..]].concat();
    let hidden =
        incept().args(&arguments).env("VK_DRIVER_FILES", "/nonexistent").output().expect("it starts");
    assert!(hidden.status.success() && hidden.stderr.is_empty(), "{hidden:?}");
    let said = String::from_utf8(hidden.stdout).expect("text");
    let total = format!("{} distinct pipelines", pipelines(&discrete).len());
    assert!(said.contains(&total) && said.contains("conv1"), "{said}");
}

/// The files of a folder as name and content.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    entries.map(|path| (name(&path), std::fs::read(&path).expect("can be read"))).collect()
}

fn validate(name: &str, module: &naga::Module) {
    Validator::new(ValidationFlags::all(), Capabilities::default())
        .validate(module)
        .unwrap_or_else(|e| panic!("{name}: {e:?}"));
}

#[test]
fn kernels_are_written_in_every_language() {
    for (language, extension) in
        [("wgsl", "wgsl"), ("spirv", "spv"), ("msl", "metal"), ("hlsl", "hlsl"), ("glsl", "comp")]
    {
        let folder = temporary();
        let path = folder.path().join("new/shaders");
        let options = ["--class", "software", "--write", text(&path), "--language", language];
        let result = listed(&options);
        assert_eq!((&result["language"], count(&result["skipped"])), (&language.into(), 0));
        let written = files(&path);
        assert_eq!(written.len(), pipelines(&result).len(), "{language}");
        for (name, content) in &written {
            assert!(name.ends_with(&format!(".{extension}")), "{name}");
            let listed = pipelines(&result).iter().find(|p| p["file"] == name.as_str());
            let entry = listed.unwrap_or_else(|| panic!("{name} is not listed"))["entry_point"].as_str();
            let entry = entry.expect("a name");
            if language == "spirv" {
                let module = naga::front::spv::parse_u8_slice(content, &Default::default());
                let module = module.unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(module.entry_points[0].name, entry, "{name}");
                validate(name, &module);
                continue;
            }
            let content = std::str::from_utf8(content).expect("text");
            match language {
                "wgsl" => {
                    let module = naga::front::wgsl::parse_str(content);
                    let module = module.unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(content)));
                    assert_eq!(module.entry_points[0].name, entry, "{name}");
                    validate(name, &module);
                }
                // Without a slot, naga writes a placeholder that Metal's compiler rejects.
                "msl" => {
                    assert!(content.contains("kernel void") && content.contains("[[buffer("), "{name}");
                    assert!(!content.contains("fake"), "{name}: {content}");
                }
                "hlsl" => assert!(content.contains("[numthreads(") && content.contains(entry), "{name}"),
                _ => {
                    assert!(content.starts_with("#version 310 es"), "{name}");
                    assert!(content.contains("void main()") && content.contains("binding = 0"), "{name}");
                }
            }
        }
    }
}

#[test]
fn kernels_that_a_language_lacks_are_skipped_and_reported() {
    let folder = temporary();
    for (options, reason) in [
        (&["--precision", "f16", "--language", "glsl"][..], "no GLSL: OpenGL ES has no f16 in buffers"),
        (
            &["--matrices", "--width", "0.25", "--language", "hlsl"],
            "no HLSL: shader model 6.2 has no cooperative matrices",
        ),
    ] {
        let base = ["kernels", "--json", "--classes", "10", "--batch-size", "32", "--write"];
        let path = folder.path().join(options[0]);
        let output = run(&[&base[..], &[text(&path), "--image-size", "32"], options].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(reason) && errors.contains("cannot be written in"), "{errors}");
        let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let skipped = pipelines(&result).iter().filter(|p| p["skipped"] == reason_of(p)).count() as u64;
        assert!(skipped > 0 && skipped == count(&result["skipped"]), "{result}");
        // The others are written.
        assert_eq!(files(&path).len() as u64, pipelines(&result).len() as u64 - skipped);
    }
}

/// The reason of a pipeline that has no file, which must be text; null for one that has a file.
fn reason_of(pipeline: &Value) -> Value {
    match (&pipeline["file"], &pipeline["skipped"]) {
        (Value::Null, Value::String(reason)) => reason.clone().into(),
        (Value::String(_), Value::Null) => Value::Bool(false),
        _ => panic!("{pipeline} has neither a file nor a reason, or both"),
    }
}

#[test]
fn kernels_reject_flags_without_effect() {
    let (code, errors) = fails_with(&["kernels", "--language", "msl"]);
    assert!(code == 2 && errors.contains("--write"), "{errors}");
    let (code, errors) = fails_with(&["kernels", "--infer", "--grad-checkpointing"]);
    assert!(code == 2 && errors.contains("--grad-checkpointing"), "{errors}");
    let folder = temporary();
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("can be written");
    let (code, errors) = fails_with(&["kernels", "--write", text(&file)]);
    assert!(code == 1 && errors.contains(text(&file)), "{errors}");
    assert!(stdout(&["kernels", "--help"]).contains("--language"));
}
