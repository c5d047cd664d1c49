//! The `incept` command as a person or a program runs it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use incept::checkpoint::Checkpoint;
use incept::data::Fit;
use incept::formats::read_tensors;
use incept::tensor::HostTensor;
use serde_json::Value;

use crate::program::{incept, json, repository, run, stdout, text};

/// The exit code and the errors of a command that must fail.
fn fails(arguments: &[&str]) -> (i32, String) {
    let output = run(arguments);
    assert!(!output.status.success(), "incept {arguments:?} should fail");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn fixtures() -> PathBuf {
    repository().join("tests/fixtures")
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A run that takes a second or two: 60 digits, a network 1/16 as wide.
fn quick<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base =
        ["train", "digits", "--width", "0.0625", "--image-size", "32", "--limit", "60", "--batch-size", "8"];
    // Runs are compared bit for bit: the kernels must be the same.
    let rest = ["--schedule", "constant", "--no-validation", "--tune", "off", "--output", out];
    base.into_iter().chain(rest).chain(more.iter().copied()).collect()
}

fn tensors(path: &Path) -> std::collections::BTreeMap<String, HostTensor> {
    read_tensors(path).expect("a checkpoint").0
}

#[test]
fn summary_counts_what_the_papers_count() {
    let paper = &json(&["summary", "--json", "--batch-size", "4"])[0];
    assert_eq!(paper["parameters_inference"], 6_998_552);
    assert_eq!(paper["parameters"], 13_378_280);
    let memory = &paper["memory_training"];
    assert!(memory["planned_bytes"].as_u64() < memory["naive_bytes"].as_u64(), "{memory}");
    let text = stdout(&["summary", "--batch-size", "4"]);
    assert!(text.contains("6,998,552") && text.contains("13,378,280"), "{text}");
    let less =
        &json(&["summary", "--json", "--batch-size", "4", "--grad-checkpointing", "--precision", "f16"])[0];
    let bytes = |summary: &Value| summary["memory_training"]["planned_bytes"].as_u64().expect("bytes");
    assert!(3 * bytes(less) < bytes(paper), "{} and {}", bytes(less), bytes(paper));
    // The whole network trains on a card of 2 GiB.
    let large =
        &json(&["summary", "--json", "--batch-size", "128", "--grad-checkpointing", "--precision", "f32"])[0];
    let memory = &large["memory_training"];
    let total: u64 = ["planned_bytes", "io_bytes", "persistent_bytes"]
        .iter()
        .filter_map(|part| memory[*part].as_u64())
        .sum();
    assert!(total > 1 << 30 && total < 2 << 30, "{memory}");
    let bare = &json(&["summary", "--json", "--aux-weight", "0"])[0];
    assert_eq!(bare["parameters"], 6_998_552);
}

#[test]
fn the_layers_of_the_paper() {
    // Memory depends on the kernels' scratch: it has tests of its own.
    let text = stdout(&["summary", "--batch-size", "1"]);
    let layers: Vec<&str> = text.lines().filter(|l| !l.starts_with("memory")).collect();
    insta::assert_snapshot!(layers.join("\n"));
}

#[test]
fn devices_are_listed() {
    let devices = &json(&["devices", "--json"])[0];
    let first = &devices[0];
    assert_eq!(first["index"], 0);
    assert!(first["max_binding_bytes"].as_u64() >= Some(128 << 20), "{first}");
    assert!(stdout(&["devices"]).contains(first["name"].as_str().expect("a name")));
    let (code, errors) = fails(&["verify", "nowhere", "--device", "no such adapter"]);
    assert!(code == 1 && errors.contains("no such adapter"), "{errors}");
}

/// Mesa asks libwayland for a compositor, which complains where a session has none.
#[test]
fn nothing_is_said_about_a_session_without_a_compositor() {
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
fn advice_is_about_the_backend_that_was_asked_for() {
    // None of the systems that this is built for has both.
    let other = if cfg!(target_os = "macos") { "dx12" } else { "metal" };
    for arguments in [&["devices", "--backend", other][..], &["verify", "tests/fixtures", "--backend", other]]
    {
        let (code, errors) = fails(arguments);
        assert!(code == 1 && errors.contains("does not exist on this system"), "{errors}");
        assert!(!errors.contains("install"), "{errors}");
    }
}

#[test]
fn wgpus_environment_variables_are_honoured_and_flags_win() {
    let names = |variables: &[(&str, &str)], arguments: &[&str]| -> (bool, String) {
        let output =
            incept().envs(variables.iter().copied()).args(arguments).output().expect("can be started");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let other = if cfg!(target_os = "macos") { "dx12" } else { "metal" };
    let (done, errors) = names(&[("WGPU_BACKEND", other)], &["devices"]);
    assert!(!done && errors.contains(other), "{errors}");
    let (done, errors) = names(&[("WGPU_BACKEND", other)], &["devices", "--backend", "vulkan,gl,dx12,metal"]);
    assert!(done, "{errors}");
    let (done, errors) = names(&[("WGPU_BACKEND", "")], &["devices"]);
    assert!(done, "{errors}");
    let (done, errors) = names(&[("WGPU_BACKEND", "glide")], &["devices"]);
    assert!(!done && errors.contains("glide") && errors.contains("vulkan"), "{errors}");
    let goldens = ["verify", "tests/fixtures/edge"];
    let (done, errors) = names(&[("WGPU_ADAPTER_NAME", "no such adapter")], &goldens);
    assert!(!done && errors.contains("no such adapter"), "{errors}");
    let (done, errors) =
        names(&[("WGPU_ADAPTER_NAME", "no such adapter")], &[&goldens[..], &["--device", "0"]].concat());
    assert!(done, "{errors}");
    let help = stdout(&["verify", "--help"]);
    assert!(help.contains("WGPU_BACKEND") && help.contains("WGPU_ADAPTER_NAME"), "{help}");
}

/// Names that clear a terminal, set its title, or turn the direction of text.
const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m\u{202e}cat";

fn harmless(output: &std::process::Output, what: &str) {
    for bytes in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(bytes);
        let hostile = text.chars().any(|c| c != '\n' && c != '\t' && incept::untrusted::is_hostile(c));
        assert!(!hostile, "{what}: {text:?}");
    }
}

#[cfg(unix)]
#[test]
fn names_from_files_are_not_obeyed_by_terminals() {
    let folder = temporary();
    let data = folder.path().join(format!("data{HOSTILE}"));
    for class in [HOSTILE, "dog\nerror: all is lost", "<b onload='x'>\"&"] {
        std::fs::create_dir_all(data.join(class)).expect("a folder");
        for i in 0..6 {
            let pixel = image::Rgb([40 * i, 7, class.len() as u8]);
            let file = data.join(class).join(format!("{i}{HOSTILE}.png"));
            image::RgbImage::from_pixel(8, 8, pixel).save(file).expect("can be written");
        }
        std::fs::write(data.join(class).join(format!("broken{HOSTILE}.png")), b"?").expect("can be written");
    }
    let out = folder.path().join("x.safetensors");
    let runs = folder.path().join("runs");
    let run = |arguments: &[&str]| {
        let output = incept()
            .env("INCEPT_RUNS_DIR", &runs)
            .current_dir(folder.path())
            .args(arguments)
            .output()
            .expect("the program can be started");
        harmless(&output, &arguments.join(" "));
        output
    };
    let data = text(&data);
    let train =
        ["train", data, "--width", "0.0625", "--image-size", "32", "--epochs", "1", "--batch-size", "4"];
    let more = ["--tune", "off", "--max-bad", "9", "--name", HOSTILE];
    for json in [&[][..], &["--json"]] {
        let trained = run(&[&train[..], &more, json].concat());
        assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    }
    let trained = run(&[&train[..], &more, &["--output", text(&out)]].concat());
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    let page = folder.path().join("page.html");
    let plot = folder.path().join("plot.svg");
    for json in [&[][..], &["--json"]] {
        run(&[&["data", "info", data][..], json].concat());
        run(&[&["inspect", text(&out)][..], json].concat());
        run(&[&["classify", text(&out), data][..], json].concat());
        run(&[&["eval", text(&out), "--max-bad", "9", "--confusion", text(&plot)][..], json].concat());
        run(&[&["runs"][..], json].concat());
        run(&[&["runs", "compare", "1", "2"][..], json].concat());
        run(&[&["report", text(&out), "--max-bad", "9", "--output", text(&page)][..], json].concat());
        run(&[&["import", text(&out), "--output", "y.safetensors"][..], json].concat());
        run(&[&["look", "filters", HOSTILE][..], json].concat());
    }
    let html = std::fs::read_to_string(&page).expect("a page");
    assert!(!html.contains(|c: char| c != '\n' && c != '\t' && incept::untrusted::is_hostile(c)));
    assert!(!html.contains("<b onload") && html.contains("&lt;b onload=&#39;x&#39;&gt;"), "escaped");
}

#[test]
fn tensors_and_logs_are_not_obeyed_by_terminals() {
    let folder = temporary();
    let file = folder.path().join("x.safetensors");
    let tensor =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4]).expect("a tensor");
    let metadata = std::collections::HashMap::from([("incept".to_string(), HOSTILE.to_string())]);
    let bytes = safetensors::serialize([(HOSTILE, tensor)], Some(metadata)).expect("can be written");
    std::fs::write(&file, bytes).expect("can be written");
    for arguments in [
        &["inspect", text(&file)][..],
        &["import", text(&file), "--output", "x"],
        &["classify", text(&file), "x"],
    ] {
        harmless(&run(arguments), &arguments.join(" "));
        harmless(&run(&[arguments, &["--json"]].concat()), &arguments.join(" "));
    }
    let config = folder.path().join("x.toml");
    std::fs::write(&config, format!("{} = 1\n", serde_json::to_string("\u{9b}31m").expect("text")))
        .expect("written");
    harmless(&run(&["train", "digits", "--config", text(&config)]), "--config");
    let runs = folder.path().join("runs/0001-x");
    std::fs::create_dir_all(&runs).expect("a folder");
    std::fs::write(runs.join("run.json"), format!("{{\"version\": {HOSTILE:?}")).expect("can be written");
    harmless(&run(&["runs", "--runs-dir", text(runs.parent().expect("a folder"))]), "runs");
}

#[test]
fn verify_passes_on_the_goldens_and_fails_on_others() {
    let result = &json(&["verify", text(&fixtures()), "--json"])[0];
    assert_eq!(result["passed"], true);
    assert!(result["checks"].as_array().is_some_and(|c| c.len() > 500));

    let folder = temporary();
    let mut bytes = std::fs::read(fixtures().join("op_lrn.safetensors")).expect("a golden set");
    // The last byte is the exponent of the last golden value.
    *bytes.last_mut().expect("is not empty") ^= 1;
    std::fs::write(folder.path().join("op_lrn.safetensors"), bytes).expect("can be written");
    std::fs::write(folder.path().join("op_conv.safetensors"), b"no tensors").expect("can be written");
    std::fs::copy(fixtures().join("op_avgpool.safetensors"), folder.path().join("op_avgpool.safetensors"))
        .expect("can be copied");
    let output = run(&["verify", text(folder.path())]);
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    // All are told: what is outside, what cannot be read, and what is right.
    for what in ["outside: op_lrn", "not checked: op_conv", "op_avgpool", "1 sets not checked"] {
        assert!(table.contains(what), "no {what}: {table}");
    }
    let (code, errors) = fails(&["verify", text(temporary().path())]);
    assert!(code == 1 && errors.contains("golden"), "{errors}");
}

#[test]
fn train_eval_and_classify_go_together() {
    let folder = temporary();
    let out = folder.path().join("digits.safetensors");
    let out = text(&out);
    let events = json(&[
        "train",
        "digits",
        "--width",
        "0.125",
        "--image-size",
        "32",
        "--limit",
        "200",
        "--epochs",
        "2",
        "--tune",
        "off",
        "--output",
        out,
        "--json",
    ]);
    let kinds: Vec<&str> = events.iter().filter_map(|e| e["event"].as_str()).collect();
    assert_eq!(kinds, ["start", "epoch", "saved", "epoch", "saved", "end"]);
    let end = &events[5];
    assert_eq!((&end["reason"], &end["epochs"], &end["last"]), (&"done".into(), &2.into(), &out.into()));
    let best = end["best_epoch"].as_u64().expect("one is the best") as usize;
    let of_best = &events[2 * best + 1];
    assert_eq!((&of_best["best"], &of_best["held_out_accuracy"]), (&true.into(), &end["best_accuracy"]));
    let heads = events[1]["heads"].as_array().expect("three heads");
    assert_eq!(heads.iter().filter_map(|h| h["name"].as_str()).collect::<Vec<_>>(), ["main", "aux1", "aux2"]);
    assert!(events[3]["held_out_accuracy"].as_f64().is_some());

    let result = &json(&["eval", out, "--json"])[0];
    assert_eq!(result["count"], 359);
    assert_eq!(result["accuracy"], events[3]["held_out_accuracy"]);
    assert!(result["classes"].as_array().is_some_and(|c| c.len() == 10));

    let picture = folder.path().join("pictures/seven.png");
    std::fs::create_dir_all(picture.parent().expect("has a folder")).expect("a folder");
    image::GrayImage::from_fn(20, 20, |x, y| image::Luma([if x + y > 20 { 255 } else { 0 }]))
        .save(&picture)
        .expect("can be written");
    let by_file = &json(&["classify", out, text(&picture), "--top", "3", "--json"])[0];
    let predictions = by_file["predictions"].as_array().expect("predictions");
    assert_eq!(predictions.len(), 3);
    let probability = |i: usize| predictions[i]["probability"].as_f64().expect("a number");
    assert!(probability(0) >= probability(1) && probability(1) >= probability(2));
    let by_folder = &json(&["classify", out, text(folder.path()), "--top", "3", "--json"])[0];
    assert_eq!(by_folder["predictions"], by_file["predictions"]);

    let mut piped = incept()
        .args(["classify", out, "-", "--top", "3", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program can be started");
    let bytes = std::fs::read(&picture).expect("the picture is there");
    piped.stdin.take().expect("is piped").write_all(&bytes).expect("it reads");
    let output = piped.wait_with_output().expect("it ends");
    let by_pipe: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(by_pipe["predictions"], by_file["predictions"]);
    assert!(stdout(&["classify", out, text(&picture)]).contains('%'));

    // One that cannot be read: the others are classified, and the exit code tells.
    std::fs::write(folder.path().join("pictures/broken.png"), b"?").expect("can be written");
    let output = run(&["classify", out, text(folder.path())]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("broken.png"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("seven.png"));
}

/// The first three test pictures of each class of CIFAR-10.
const PHOTOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/data/cifar10");

#[test]
fn photos_are_classified_without_a_checkpoint() {
    let folder = temporary();
    let lines = |arguments: &[&str]| -> Vec<Value> {
        // Nothing but the program: an empty folder, and no runs.
        let output = incept().current_dir(folder.path()).args(arguments).output().expect("can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let answers = lines(&["classify", PHOTOS, "--top", "1", "--json"]);
    assert_eq!(answers.len(), 30);
    let right = answers.iter().filter(|answer| {
        let file = Path::new(answer["file"].as_str().expect("a name"));
        let class = answer["predictions"][0]["class"].as_str().expect("a class");
        file.parent().is_some_and(|folder| folder.ends_with(class))
    });
    let right = right.count();
    assert!(right >= 20, "{right} of 30 are right");
    // The same weights by their name, and as a file.
    let named = lines(&["classify", "included", PHOTOS, "--top", "1", "--json"]);
    assert_eq!(named, answers);
    let exported = &lines(&["export", "included", "--half", "--output", "cifar.safetensors", "--json"])[0];
    assert!(exported["bytes"].as_u64().is_some_and(|bytes| bytes < 8 << 20));
    assert_eq!(lines(&["classify", "cifar.safetensors", PHOTOS, "--top", "1", "--json"]), answers);
    assert_eq!(lines(&["inspect", "included", "--json"])[0]["checkpoint"]["classes"][3], "cat");
    lines(&["report", "included", "--data", PHOTOS, "--json"]);
    assert!(folder.path().join("included.html").is_file());
    // Early exit stops at the auxiliary softmaxes that come with them.
    let early = lines(&["classify", "included", PHOTOS, "--early-exit", "0.5", "--json"]);
    assert!(early.iter().any(|line| line["head"] == "aux1"), "{early:?}");
    // A name that is mistyped is not answered by other weights.
    let (_, errors) = fails(&["classify", "runs/0001-animls", PHOTOS]);
    assert!(errors.contains("runs/0001-animls"), "{errors}");
    let (_, errors) = fails(&["classify", PHOTOS, "cifar.safetensors"]);
    assert!(errors.contains("before the pictures"), "{errors}");
    let (code, errors) = fails(&["classify", "included"]);
    assert!(code == 1 && errors.contains("pictures"), "{errors}");
    let (code, errors) = fails(&["export", "included", "--half", "--output", "cifar.onnx"]);
    assert!(code != 0 && errors.contains("--half"), "{errors}");
}

#[test]
fn other_classes_are_learned_from_the_included_weights() {
    let folder = temporary();
    let out = folder.path().join("digits.safetensors");
    let arguments =
        ["train", "digits", "--init", "included", "--limit", "20", "--epochs", "1", "--tune", "off"];
    let more = ["--freeze-until", "inception_4a", "--output", text(&out), "--json"];
    let (code, errors) = fails(&[&arguments[..], &["--width", "0.5"], &more].concat());
    assert!(code != 0 && errors.contains("--width"), "{errors}");
    json(&[&arguments[..], &["--reset-head"], &more].concat());
    let (own, included) = (Checkpoint::load(&out), Checkpoint::included());
    let [own, included] = [own, included].map(|c| c.expect("is a checkpoint").state.parameters);
    assert_eq!(own["conv1.conv.weight"], included["conv1.conv.weight"], "frozen");
    assert_ne!(
        own["inception5b.branch1.conv.weight"], included["inception5b.branch1.conv.weight"],
        "trained"
    );
}

#[test]
fn a_resumed_run_is_the_run_that_was_not_interrupted() {
    let folder = temporary();
    let (whole, half) = (folder.path().join("whole.safetensors"), folder.path().join("half.safetensors"));
    stdout(&quick(text(&whole), &["--epochs", "2"]));
    stdout(&quick(text(&half), &["--epochs", "1"]));
    assert_ne!(tensors(&whole), tensors(&half));
    stdout(&["train", "--resume", text(&half), "--epochs", "2"]);
    assert_eq!(tensors(&whole), tensors(&half));
    // There is nothing left to do, and saying so is no error.
    stdout(&["train", "--resume", text(&half)]);
    let (code, errors) = fails(&["train", "--resume", text(&half), "--width", "0.5"]);
    assert!(code == 2 && errors.contains("--width"), "{errors}");
}

/// Ctrl-C in the middle of an epoch: a checkpoint, exit code 130, and the run goes on as if nothing had happened.
#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_exits_130() {
    let folder = temporary();
    let (whole, cut) = (folder.path().join("whole.safetensors"), folder.path().join("cut.safetensors"));
    let epochs = ["--epochs", "40", "--save-every", "1000", "--json"];
    let mut child = incept()
        .args(quick(text(&cut), &epochs))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines().map_while(Result::ok);
    let second = lines.by_ref().filter(|l| l.contains("\"epoch\"")).nth(1);
    assert!(second.is_some(), "training ended before it was interrupted");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    let rest: Vec<Value> = lines.map(|line| serde_json::from_str(&line).expect("JSON")).collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let [.., saved, end] = rest.as_slice() else { panic!("{rest:?}") };
    assert_eq!((&saved["event"], &saved["interrupted"]), (&"saved".into(), &true.into()), "{rest:?}");
    assert_eq!((&end["event"], &end["reason"]), (&"end".into(), &"interrupted".into()), "{rest:?}");

    let of_whole = json(&quick(text(&whole), &["--epochs", "5", "--json"]));
    let of_rest = json(&["train", "--resume", text(&cut), "--epochs", "5", "--no-validation", "--json"]);
    assert_eq!(tensors(&whole), tensors(&cut));
    // The epoch that was left is told of as a whole.
    let first = of_rest.iter().find(|e| e["event"] == "epoch").expect("it has epochs to do");
    let same = of_whole.iter().find(|e| e["event"] == "epoch" && e["epoch"] == first["epoch"]);
    let same = same.expect("both do it");
    assert_eq!(first["count"], same["count"]);
    for place in ["/loss", "/heads/0/loss", "/heads/2/accuracy"] {
        let [rest, whole] =
            [first, same].map(|e| e.pointer(place).and_then(Value::as_f64).expect("a number"));
        assert!((rest - whole).abs() < 1e-9, "{place}: {rest} and {whole}");
    }
}

/// Whoever reads along may go away, and so may the terminal: training goes on to its end.
#[test]
fn training_goes_on_when_nobody_reads() {
    let folder = temporary();
    let (whole, unread) = (folder.path().join("whole.safetensors"), folder.path().join("unread.safetensors"));
    stdout(&quick(text(&whole), &["--epochs", "3"]));
    for more in [&["--epochs", "3", "--save-every", "1000"][..], &["--epochs", "3", "--json"]] {
        let mut child = incept()
            .args(quick(text(&unread), more))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
        assert_eq!(tensors(&whole), tensors(&unread));
        std::fs::remove_file(&unread).expect("it was written");
    }
}

/// Ctrl-C ends what has nothing to save, as a shell expects it.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_look_at_data_with_130() {
    let folder = temporary();
    let pictures = folder.path().join("pictures");
    for class in ["a", "b"] {
        std::fs::create_dir_all(pictures.join(class)).expect("can be made");
        for number in 0..40 {
            let picture = image::RgbImage::from_pixel(1500, 1500, image::Rgb([number; 3]));
            picture.save(pictures.join(class).join(format!("{number}.bmp"))).expect("can be written");
        }
    }
    let child = incept().args(["data", "info", text(&pictures)]).stderr(Stdio::piped()).spawn();
    let child = child.expect("the program can be started");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("stopping") && said.contains("interrupted") && !said.contains("error"), "{said}");
}

#[test]
fn what_tuning_finds_is_kept() {
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
        let rest = ["--epochs", "1", "--no-validation", "--json", "--verbose", "--output", text(&out)];
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
    assert!(errors.contains("shapes measured"), "{errors}");
    let [file] = &files()[..] else { panic!("{:?} is not one file", files()) };
    assert_eq!(event["cache"], text(file));

    let (event, errors) = start(&["--tune", "fast"]);
    assert_eq!((count(&event, "known"), count(&event, "measured")), (shapes, 0), "{event}");
    let kept = format!("kernels: {shapes} choices from {}", file.display());
    assert!(errors.contains(&kept) && errors.contains("known from an earlier start"), "{errors}");
    let (_, errors) = start(&["--tune", "off"]);
    assert!(!errors.contains("choices from"), "{errors}");

    std::fs::write(file, "{").expect("can be written");
    let (event, errors) = start(&["--tune", "fast"]);
    assert_eq!((count(&event, "known"), count(&event, "measured") + count(&event, "left")), (0, shapes));
    assert!(errors.contains("is ignored"), "{errors}");
    let (event, _) = start(&["--tune", "fast"]);
    assert_eq!(count(&event, "known"), shapes);
}

#[test]
fn mistakes_are_explained() {
    let (code, errors) = fails(&["train", "no such folder"]);
    assert!(code == 1 && errors.contains("no such folder"), "{errors}");
    let (code, errors) = fails(&["train", "digits", "--image-size", "16"]);
    assert!(code == 1 && errors.contains("--image-size must be at least 32"), "{errors}");
    let (code, errors) = fails(&["train", "digits", "--schedule", "sometimes"]);
    assert!(code == 2 && errors.contains("polynomial"), "{errors}");
    let (code, errors) = fails(&["classify", "missing.safetensors", "x.png"]);
    assert!(code == 1 && errors.contains("missing.safetensors"), "{errors}");
    let (code, errors) = fails(&["train", "digits", "--limit", "40", "--grad-accum", "9", "--epochs", "4"]);
    assert!(code == 1 && errors.contains("more than the 8 batches"), "{errors}");
    let (code, errors) = fails(&["explain", "--val-split", "5"]);
    assert!(code == 1 && errors.contains("--val-split must be between 0 and 1, not 5"), "{errors}");
    let (code, errors) = fails(&["demo", "--output", "sheet.jpg"]);
    assert!(code == 1 && errors.contains("must end in .png") && !errors.contains("device:"), "{errors}");
    let (code, _) = fails(&["demo", "--epochs", "0"]);
    assert_eq!(code, 2);
    let (code, _) = fails(&["trian"]);
    assert_eq!(code, 2);
    let (code, errors) = fails(&["train"]);
    assert!(code == 2 && errors.contains("Usage"), "{errors}");
}

/// Flags that would change nothing where they are given, and what is said: before a device is opened.
#[test]
fn flags_without_effect_are_refused() {
    let folder = temporary();
    let onnx = folder.path().join("net.onnx");
    let sheet = folder.path().join("sheet.png");
    let (onnx, sheet) = (text(&onnx), text(&sheet));
    let cases: &[(&[&str], &[&str])] = &[
        (&["train", "digits", "--trust-coefficient", "0.1"], &["--trust-coefficient", "lars"]),
        (
            &["train", "digits", "--optimizer", "nesterov", "--trust-coefficient", "0.1"],
            &["--trust-coefficient", "lars"],
        ),
        (&["train", "digits", "--optimizer", "adamw", "--momentum", "0.8"], &["--momentum", "sgd"]),
        (&["train", "digits", "--schedule", "onecycle", "--momentum", "0.8"], &["--momentum", "0.85"]),
        (
            &["train", "digits", "--schedule", "onecycle:0.4", "--warmup-epochs", "1"],
            &["--warmup-epochs", "onecycle"],
        ),
        (&["train", "digits", "--warmup-epochs", "3", "--epochs", "3"], &["--warmup-epochs 3", "--epochs 3"]),
        (&["train", "digits", "--warmup-epochs", "31"], &["--warmup-epochs 31", "--epochs 30"]),
        (&["train", "digits", "--mixup", "0.2", "--batch-size", "1"], &["--mixup", "--batch-size"]),
        (&["train", "digits", "--cutmix", "1", "--batch-size", "1"], &["--cutmix", "--batch-size"]),
        (
            &["train", "digits", "--aux-weight", "0", "--aux-dropout", "0.5"],
            &["--aux-dropout", "--aux-weight"],
        ),
        (&["train", "digits", "--patience", "3", "--no-validation"], &["--patience", "--no-validation"]),
        (&["train", "digits", "--reset-head"], &["--reset-head", "--init"]),
        (&["train", "digits", "--freeze-until", "heads"], &["--freeze-until", "--init"]),
        (&["train", "digits", "--grad-accum", "9", "--limit", "40", "--epochs", "4"], &["--grad-accum 9"]),
        (
            &["train", "digits", "--preview-augment", sheet, "--epochs", "3"],
            &["--preview-augment", "--epochs"],
        ),
        (&["train", "digits", "--preview-augment", sheet, "--momentum", "0.5"], &["--momentum"]),
        (&["eval", "included", "digits", "--worst", "3"], &["--worst", "--mistakes"]),
        (&["eval", "included", "--early-exit", "--worst", "3"], &["--worst", "--early-exit"]),
        (&["eval", "included", "--early-exit", "--crops", "10"], &["--crops", "--early-exit"]),
        (&["eval", "included", "--plot", "x.png"], &["--early-exit"]),
        (&["summary", "--init", "he"], &["--init", "training"]),
        (&["summary", "--label-smoothing", "0.1"], &["--label-smoothing", "training"]),
        (&["summary", "--bias-rate", "2"], &["--bias-rate", "training"]),
        (&["summary", "--dropout", "0.5"], &["--dropout"]),
        (&["summary", "--aux-dropout", "0.5"], &["--aux-dropout"]),
        (&["summary", "--aux-weight", "0.5"], &["--aux-weight"]),
        (&["summary", "--aux-weight", "0", "--aux-dropout", "0"], &["--aux-dropout", "--aux-weight 0"]),
        (&["graph", "--init", "he"], &["--init", "training"]),
        (&["graph", "--label-smoothing", "0.1"], &["--label-smoothing", "training"]),
        (&["graph", "--bias-rate", "2"], &["--bias-rate", "training"]),
        (&["graph", "--dropout", "0.5"], &["--dropout"]),
        (&["graph", "included", "--classes", "3"], &["--classes"]),
        (&["explain", "--epochs", "3"], &["--train"]),
        (&["explain", "--seeds", "3"], &["--train"]),
        (&["explain", "--checkpoint", "included", "--label-smoothing", "0.1"], &["--label-smoothing"]),
        (&["export", "included", "--half", "--output", onnx], &["--half", "safetensors"]),
        (&["export", "included", "--aux", "--output", "x.safetensors"], &["--aux", "ONNX"]),
        (&["profile", "--static", "--rounds", "3"], &["--rounds", "--static"]),
        (&["profile", "--infer", "--grad-checkpointing"], &["--grad-checkpointing", "--infer"]),
        (&["profile", "--class", "software"], &["--static"]),
    ];
    for (arguments, words) in cases {
        let (_, errors) = fails(arguments);
        assert!(words.iter().all(|word| errors.contains(word)), "{arguments:?}: {errors}");
        assert!(!errors.contains("device:"), "{arguments:?} opens a device first: {errors}");
    }
    // What does something beside them is taken.
    for shown in [
        &["summary", "--dropout", "0", "--aux-dropout", "0", "--batch-size", "1"][..],
        &["summary", "--aux-weight", "0", "--batch-size", "1"],
        &["graph", "--aux-weight", "0.5", "--dropout", "0"],
    ] {
        stdout(shown);
    }
}

/// What a file sets is checked as what flags set.
#[test]
fn values_in_files_are_checked() {
    let folder = temporary();
    let file = folder.path().join("mine.toml");
    let given = repository().join("tests/fixtures/cases/epochs0.toml");
    let (_, errors) = fails(&["train", "digits", "--config", text(&given)]);
    assert!(errors.contains("epochs") && !errors.contains("--grad-accum"), "{errors}");
    // Keys of earlier versions are read as well.
    for (content, word) in [
        ("[training]\nbatch-size = 0", "batch-size"),
        ("[training]\nval-split = 1.5", "val-split"),
        ("[run]\nsave-every = 0", "save-every"),
        ("[optimizer]\nlr = nan", "lr"),
        ("[optimizer]\nwarmup = -1.0", "warmup-epochs"),
        ("[optimizer]\nmomentum = 1.5", "momentum"),
        ("[optimizer]\naccumulate = 0", "grad-accum"),
        ("[network]\nwidth = inf", "width"),
        ("[network]\ndropout = nan", "dropout"),
        ("[augment]\nmixup = nan", "mixup"),
        ("[augment]\nphotometric = 2.0", "photometric"),
    ] {
        std::fs::write(&file, content).expect("can be written");
        let (_, errors) = fails(&["train", "digits", "--config", text(&file)]);
        assert!(errors.contains(word) && !errors.contains("device:"), "{content}: {errors}");
    }
}

#[test]
fn every_command_is_explained() {
    fn explained(command: &[&str]) -> usize {
        let help = stdout(&[command, &["--help"]].concat());
        assert!(help.contains("Usage:") && help.lines().next().is_some_and(|l| l.len() > 30), "{help}");
        let list = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
        // Names stand two columns in, what they do further right.
        let names = list.unwrap_or_default().lines().filter(|line| !line.starts_with("   "));
        let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
        1 + names.map(|name| explained(&[command, &[name]].concat())).sum::<usize>()
    }
    // The program itself, twenty commands, and the parts of `data`, `look` and `runs`.
    assert_eq!(explained(&[]), 1 + 20 + 4 + 4 + 1);
}

/// One epoch is enough to see that the sheet is drawn.
#[test]
fn the_demo_draws_its_sheet() {
    let folder = temporary();
    let (sheet, checkpoint) = (folder.path().join("sheet.png"), folder.path().join("demo.safetensors"));
    let arguments =
        ["demo", "--epochs", "1", "--output", text(&sheet), "--checkpoint", text(&checkpoint), "--json"];
    let events = json(&arguments);
    assert_eq!(events.last().expect("events")["event"], "demo");
    let picture = image::open(&sheet).expect("a PNG").to_rgb8();
    assert_eq!(picture.dimensions(), (2560, 1824));
    let colours: std::collections::BTreeSet<[u8; 3]> = picture.pixels().map(|p| p.0).collect();
    // The three heads' colours, and grey levels of digits and of text.
    for head in [[0x00, 0x72, 0xb2], [0xd5, 0x5e, 0x00], [0x00, 0x9e, 0x73]] {
        assert!(colours.contains(&head), "{head:?}");
    }
    assert!(colours.len() > 30, "{}", colours.len());
    assert!(checkpoint.is_file());
}

#[test]
fn completions_know_commands_and_values() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = stdout(&["completions", shell]);
        for word in ["classify", "aux-weight", "nesterov"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = temporary();
    let pages = &json(&["man", "--output", text(folder.path()), "--json"])[0]["pages"];
    let pages: Vec<&str> = pages.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    for page in ["incept", "incept-train", "incept-data", "incept-data-fetch", "incept-explain"] {
        assert!(pages.contains(&page), "{page} is not in {pages:?}");
    }
    for page in pages {
        let content = std::fs::read_to_string(folder.path().join(format!("{page}.1"))).expect("was written");
        assert!(content.contains(".SH NAME") && content.contains(".SH SYNOPSIS"), "{page}");
        assert!(page == "incept" || content.contains("json"), "{page} lacks the options that all have");
    }
}

/// A folder of two classes of landscapes, and in one of them files that claim huge images, have none, or panic their decoder.
fn hostile_folder() -> tempfile::TempDir {
    let folder = temporary();
    for class in ["a", "b"] {
        std::fs::create_dir(folder.path().join(class)).expect("a folder");
        for i in 0..6u32 {
            let value = if class == "a" { 30 + i } else { 200 + i } as u8;
            let image = image::RgbImage::from_pixel(48, 36, image::Rgb([value, 255 - value, 9]));
            image.save(folder.path().join(format!("{class}/{i}.png"))).expect("can be written");
        }
    }
    for name in
        ["cases/bomb_1M.png", "cases/huge.jpg", "cases/zero_width.pgm", "images/tiff_planar_tiles.tif"]
    {
        let to = Path::new(name).file_name().expect("a name");
        std::fs::copy(fixtures().join(name), folder.path().join("a").join(to)).expect("can be copied");
    }
    folder
}

#[test]
fn images_that_claim_too_much_are_skipped_by_every_command_that_reads_images() {
    let folder = hostile_folder();
    let data = text(folder.path());
    let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (code, errors) = fails(&["data", "info", data, "--json"]);
    assert!(code == 1 && !errors.contains("panicked"), "{errors}");
    let info = run(&["data", "info", data, "--json"]).stdout;
    let info: Value = serde_json::from_slice(&info).expect("JSON");
    let unreadable =
        ["train", "held_out"].map(|part| info[part]["unreadable"].as_array().map_or(0, Vec::len));
    assert_eq!(unreadable.iter().sum::<usize>(), 4, "{info}");
    let (_, errors) = fails(&["classify", "included", &file("a")]);
    for (name, reason) in
        [("bomb_1M.png", "1000000 x 1000000 pixels"), ("tiff_planar_tiles.tif", "decoder failed")]
    {
        assert!(errors.lines().any(|l| l.contains(name) && l.contains(reason)), "{errors}");
    }
    assert!(errors.contains("4 of 10"), "{errors}");
    let preview = file("sheet.png");
    stdout(&["data", "preview", data, "--output", &preview]);
    let split = file("split");
    stdout(&["data", "split", data, "--output", &split]);
    let cam = file("cam.png");
    let (code, errors) = fails(&["look", "gradcam", "included", &file("a"), "--output", &cam]);
    assert!(code == 1 && errors.contains("huge.jpg") && Path::new(&cam).exists(), "{errors}");
    // The limit can be lowered, and raised.
    let (_, errors) = fails(&["classify", "included", &file("b/0.png"), "--max-pixels", "100"]);
    assert!(errors.contains("48 x 36 pixels, more than the 100 that --max-pixels allows"), "{errors}");
    assert!(
        fails(&["classify", "included", &file("b/0.png"), "--max-pixels", "0"]).1.contains("--max-pixels")
    );
}

/// Headers are believed by decoders: without a check before, each of these takes gigabytes.
#[test]
#[cfg(target_os = "linux")]
fn huge_images_are_refused_in_little_memory() {
    let folder = hostile_folder();
    let run = format!(
        "ulimit -v 1500000; exec '{}' data info '{}'",
        env!("CARGO_BIN_EXE_incept"),
        text(folder.path())
    );
    let output =
        Command::new("sh").args(["-c", &run]).env("MALLOC_ARENA_MAX", "1").output().expect("a shell");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1000000 x 1000000 pixels"), "{errors}");
}

#[test]
fn train_says_that_images_are_cut_and_the_checkpoint_keeps_how_they_are_made_square() {
    let folder = hostile_folder();
    let data = text(folder.path());
    let out = folder.path().join("net.safetensors");
    let train = |more: &[&str]| {
        let base =
            ["train", data, "--width", "0.0625", "--image-size", "32", "--batch-size", "4", "--epochs", "1"];
        let rest = ["--tune", "off", "--output", text(&out)];
        let output = run(&[&base[..], &rest, more].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        errors
    };
    let said = train(&[]);
    let advice =
        "sampled images are not square: the central square is used; --fit squash|pad keeps everything";
    assert!(said.matches(advice).count() == 1, "{said}");
    let fit = || Checkpoint::load(&out).expect("a checkpoint").metadata.preprocessing.fit;
    assert_eq!(fit(), Fit::Crop);
    let said = train(&["--fit", "pad"]);
    assert!(said.contains("letterboxed") && !said.contains(advice), "{said}");
    assert_eq!(fit(), Fit::Pad);
    let image = folder.path().join("b/0.png");
    let output = run(&["classify", text(&out), text(&image)]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.contains("letterboxed to 32 x 32"), "{errors}");
    // Weights bring theirs, and a flag changes it.
    let more = folder.path().join("more.safetensors");
    let begin = ["train", data, "--init", text(&out), "--epochs", "1", "--batch-size", "4", "--tune", "off"];
    stdout(&[&begin[..], &["--output", text(&more)]].concat());
    assert_eq!(Checkpoint::load(&more).expect("a checkpoint").metadata.preprocessing.fit, Fit::Pad);
    stdout(&[&begin[..], &["--fit", "squash", "--output", text(&more)]].concat());
    assert_eq!(Checkpoint::load(&more).expect("a checkpoint").metadata.preprocessing.fit, Fit::Squash);
    assert!(run(&["train", "--help"]).stdout.windows(8).any(|w| w == b"bilinear"));
}
