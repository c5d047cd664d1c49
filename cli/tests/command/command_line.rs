//! Training, evaluation and classification with the command.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use incept::checkpoint::Checkpoint;
use serde_json::Value;

use crate::program::{
    as_printed, fails_with, fixtures, incept, json, quick, run, stdout, temporary, tensors, text,
};

#[test]
fn summary_matches_published_counts() {
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
    // The whole network can be trained on a GPU with 2 GiB.
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
    // Memory and dispatches depend on the kernels: other tests check them.
    let text = stdout(&["summary", "--batch-size", "1"]);
    let layers: Vec<&str> =
        text.lines().filter(|l| !l.starts_with("memory") && !l.starts_with("on a large")).collect();
    insta::assert_snapshot!(layers.join("\n"));
}

#[test]
fn verify_passes_on_golden_sets_and_fails_on_damaged_ones() {
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
    // All sets are reported: out of limit, unreadable, and passed.
    for what in ["outside: op_lrn", "not checked: op_conv", "op_avgpool", "1 set not checked"] {
        assert!(table.contains(what), "no {what}: {table}");
    }
    let (code, errors) = fails_with(&["verify", text(temporary().path())]);
    assert!(code == 1 && errors.contains("golden"), "{errors}");
}

#[test]
fn trained_checkpoints_are_evaluated_and_classify() {
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
    assert_eq!((&of_best["best"], &of_best["validation_accuracy"]), (&true.into(), &end["best_accuracy"]));
    let heads = events[1]["heads"].as_array().expect("three heads");
    assert_eq!(heads.iter().filter_map(|h| h["name"].as_str()).collect::<Vec<_>>(), ["main", "aux1", "aux2"]);
    assert!(events[3]["validation_accuracy"].as_f64().is_some());

    let result = &json(&["eval", out, "--json"])[0];
    assert_eq!(result["count"], 359);
    assert_eq!(result["accuracy"], events[3]["validation_accuracy"]);
    assert!(result["classes"].as_array().is_some_and(|c| c.len() == 10));

    let image = folder.path().join("images/seven.png");
    std::fs::create_dir_all(image.parent().expect("has a folder")).expect("a folder");
    image::GrayImage::from_fn(20, 20, |x, y| image::Luma([if x + y > 20 { 255 } else { 0 }]))
        .save(&image)
        .expect("can be written");
    let by_file = &json(&["classify", out, text(&image), "--top", "3", "--json"])[0];
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
    let bytes = std::fs::read(&image).expect("the image is there");
    piped.stdin.take().expect("is piped").write_all(&bytes).expect("it reads");
    let output = piped.wait_with_output().expect("it ends");
    let by_pipe: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(by_pipe["predictions"], by_file["predictions"]);
    assert!(stdout(&["classify", out, text(&image)]).contains('%'));

    // With an unreadable image the others are classified, and the exit code is 1.
    std::fs::write(folder.path().join("images/broken.png"), b"?").expect("can be written");
    let output = run(&["classify", out, text(folder.path())]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("broken.png"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("seven.png"));
}

/// The first three test images of each class of CIFAR-10.
const PHOTOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/data/cifar10");

#[test]
fn included_weights_classify_photos() {
    let folder = temporary();
    let lines = |arguments: &[&str]| -> Vec<Value> {
        // An empty folder, without runs.
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
    assert!(right >= 20, "{right} of 30 are correct");
    // The same weights by name, and from a file.
    let named = lines(&["classify", "included", PHOTOS, "--top", "1", "--json"]);
    assert_eq!(named, answers);
    let exported = &lines(&["export", "included", "--half", "--output", "cifar.safetensors", "--json"])[0];
    assert!(exported["bytes"].as_u64().is_some_and(|bytes| bytes < 8 << 20));
    assert_eq!(lines(&["classify", "cifar.safetensors", PHOTOS, "--top", "1", "--json"]), answers);
    assert_eq!(lines(&["inspect", "included", "--json"])[0]["checkpoint"]["classes"][3], "cat");
    lines(&["report", "included", "--data", PHOTOS, "--json"]);
    assert!(folder.path().join("included.html").is_file());
    // The included weights have auxiliary heads for early exit.
    let early = lines(&["classify", "included", PHOTOS, "--early-exit", "0.5", "--json"]);
    assert!(early.iter().any(|line| line["head"] == "aux1"), "{early:?}");
    // A mistyped path is an error, and not classified with the included weights.
    let (_, errors) = fails_with(&["classify", "runs/0001-animls", PHOTOS]);
    assert!(errors.contains("runs/0001-animls"), "{errors}");
    let (_, errors) = fails_with(&["classify", PHOTOS, "cifar.safetensors"]);
    assert!(errors.contains("before the images"), "{errors}");
    let (code, errors) = fails_with(&["classify", "included"]);
    assert!(code == 1 && errors.contains("images"), "{errors}");
    let (code, errors) = fails_with(&["export", "included", "--half", "--output", "cifar.onnx"]);
    assert!(code != 0 && errors.contains("--half"), "{errors}");
}

#[test]
fn included_weights_are_fine_tuned_for_other_classes() {
    let folder = temporary();
    let out = folder.path().join("digits.safetensors");
    let arguments =
        ["train", "digits", "--weights", "included", "--limit", "20", "--epochs", "1", "--tune", "off"];
    let more = ["--freeze-until", "inception_4a", "--output", text(&out), "--json"];
    let (code, errors) = fails_with(&[&arguments[..], &["--width", "0.5"], &more].concat());
    assert!(code != 0 && errors.contains("--width"), "{errors}");
    // The recipe needs no download with other weights, and a width that is theirs is no mistake.
    json(&[&arguments[..], &["--recipe", "finetune", "--width", "0.25"], &more].concat());
    let (own, included) = (Checkpoint::load(&out), Checkpoint::included());
    let run = &own.as_ref().expect("is a checkpoint").metadata.run;
    // The digits are other classes than CIFAR-10's, also ten.
    assert_eq!(run["config"]["training"]["reset-head"], true, "{run}");
    assert_eq!((&run["config"]["training"]["weights"], &run["epochs"]), (&"included".into(), &1.into()));
    let [own, included] = [own, included].map(|c| c.expect("is a checkpoint").state.parameters);
    assert_eq!(own["conv1.conv.weight"], included["conv1.conv.weight"], "frozen");
    assert_ne!(
        own["inception5b.branch1.conv.weight"], included["inception5b.branch1.conv.weight"],
        "trained"
    );
}

/// Without a connection, the error says which file to place where, also beside a folder of images
/// with the name of the weights. A file that is there but damaged is not used.
#[test]
fn imagenet_weights_without_a_connection_name_the_file_to_copy() {
    let folder = temporary();
    std::fs::create_dir(folder.path().join("imagenet")).expect("a folder");
    let cache = folder.path().join("cache");
    let file = cache.join("weights/googlenet-1378be20.pth");
    let fails = |arguments: &[&str]| {
        let mut command = incept();
        command.current_dir(folder.path()).env("INCEPT_CACHE_DIR", &cache);
        // A port that nothing listens on.
        command.env("INCEPT_WEIGHTS_URL", "http://127.0.0.1:9/mirror");
        let output = command.args(arguments).output().expect("can be started");
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for arguments in [
        &["classify", "--weights", "imagenet", PHOTOS][..],
        &["train", PHOTOS, "--recipe", "finetune"],
        &["train", PHOTOS, "--weights", "imagenet"],
        &["eval", "imagenet", PHOTOS],
        &["explain", PHOTOS, "--weights", "imagenet"],
        &["inspect", "imagenet"],
        &["export", "imagenet", "--output", "net.onnx"],
    ] {
        let errors = fails(arguments);
        let named = ["http://127.0.0.1:9/mirror/googlenet-1378be20.pth", text(&file), "INCEPT_WEIGHTS_URL"];
        assert!(named.iter().all(|word| errors.contains(word)), "{arguments:?}: {errors}");
        assert!(!errors.contains("device:"), "{arguments:?} opens a device first: {errors}");
    }
    std::fs::write(&file, "damaged").expect("can be written");
    let errors = fails(&["classify", "--weights", "imagenet", PHOTOS]);
    assert!(errors.contains("is damaged") && errors.contains(text(&file)), "{errors}");
}

#[test]
fn resumed_run_is_identical_to_uninterrupted_run() {
    let folder = temporary();
    let (whole, half) = (folder.path().join("whole.safetensors"), folder.path().join("half.safetensors"));
    stdout(&quick(text(&whole), &["--epochs", "2"]));
    stdout(&quick(text(&half), &["--epochs", "1"]));
    assert_ne!(tensors(&whole), tensors(&half));
    stdout(&["train", "--resume", text(&half), "--epochs", "2"]);
    assert_eq!(tensors(&whole), tensors(&half));
    // Nothing is left to train, which is not an error.
    stdout(&["train", "--resume", text(&half)]);
    let (code, errors) = fails_with(&["train", "--resume", text(&half), "--width", "0.5"]);
    assert!(code == 2 && errors.contains("--width"), "{errors}");
}

/// Ctrl-C in the middle of an epoch saves a checkpoint and exits with 130; the resumed run is
/// identical to an uninterrupted one.
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
    // The command that it ends with resumes it.
    let resume = end["next"][0].as_str().expect("a command");
    let of_rest = as_printed(resume, &["--epochs", "5", "--no-validation", "--json"]);
    let of_rest: Vec<Value> = of_rest.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(tensors(&whole), tensors(&cut));
    // The interrupted epoch is reported as a whole.
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

/// A data set whose images are files, and one in memory, of which samples are written.
#[test]
fn commands_after_a_training_work_as_printed() {
    for (data, images) in [(PHOTOS, 1), ("digits", 6)] {
        let folder = temporary();
        let arguments = ["train", data, "--width", "0.0625", "--image-size", "32", "--limit", "60"];
        let run = ["--epochs", "1", "--name", "a name", "--runs-dir", text(folder.path()), "--device", "cpu"];
        let events = json(&[&arguments[..], &run, &["--json"]].concat());
        let next = events.last().expect("events")["next"].as_array().expect("commands");
        let next: Vec<&str> = next.iter().map(|command| command.as_str().expect("a command")).collect();
        let first_words = next.iter().map(|command| command.split(' ').nth(1).expect("a command"));
        assert_eq!(first_words.collect::<Vec<_>>(), ["eval", "classify", "report"]);
        for command in &next {
            let output = as_printed(command, &["--device", "cpu", "--json"]);
            let lines: Vec<Value> =
                output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            if command.contains("classify") {
                assert_eq!(lines.len(), images, "{command}: {lines:?}");
                assert!(lines.iter().all(|line| line["predictions"].is_array()), "{lines:?}");
            } else {
                assert!(!lines.is_empty(), "{command}");
            }
        }
        let report = std::fs::read_dir(folder.path()).expect("runs").map(|run| run.expect("a run").path());
        assert!(report.into_iter().any(|run| run.join("report.html").is_file()));
    }
}

/// Every object names its event, and the file that it is about, in the same way.
#[test]
fn json_has_the_same_names_in_all_commands() {
    let folder = temporary();
    let file = |name: &str| folder.path().join(name);
    let image = format!("{PHOTOS}/cat/1.png");
    let [png, svg, onnx, list] = ["a.png", "a.svg", "a.onnx", "man"].map(file);
    let device = ["--device", "cpu"];
    let commands: [(&str, Vec<&str>); 10] = [
        ("summary", vec!["summary", "--width", "0.0625"]),
        ("graph", vec!["graph", "--output", text(&svg)]),
        ("inspect", vec!["inspect", "included"]),
        ("export", vec!["export", "included", "--output", text(&onnx)]),
        ("data_info", vec!["data", "info", "digits"]),
        ("data_preview", vec!["data", "preview", "digits", "--output", text(&png)]),
        ("man", vec!["man", "--output", text(&list)]),
        ("look_filters", vec!["look", "filters", "included", "--output", text(&png)]),
        ("look_gradcam", vec!["look", "gradcam", "included", &image, "--output", text(&png)]),
        ("classify", vec!["classify", "included", &image]),
    ];
    for (event, arguments) in commands {
        let runs = matches!(event, "look_gradcam" | "classify");
        let more = if runs { &device[..] } else { &[] };
        let results = json(&[&arguments[..], more, &["--json"]].concat());
        for result in &results {
            assert_eq!(result["event"], event, "{result}");
            for earlier in ["out", "plot", "sheet", "kept", "folder"] {
                assert!(result.get(earlier).is_none(), "{event} has `{earlier}`: {result}");
            }
        }
        if let Some(at) = arguments.iter().position(|word| *word == "--output") {
            assert_eq!(results[0]["output"], arguments[at + 1], "{event}");
        }
        if runs {
            assert_eq!(results[0]["file"], image.as_str(), "{event}");
        }
    }
}

/// Training continues when the reader of its output or the terminal is gone.
#[test]
fn training_survives_closed_output() {
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

/// Ctrl-C also stops commands that have nothing to save, with the exit code that shells expect.
#[cfg(unix)]
#[test]
fn ctrl_c_stops_data_info_with_130() {
    let folder = temporary();
    let images = folder.path().join("images");
    for class in ["a", "b"] {
        std::fs::create_dir_all(images.join(class)).expect("can be made");
        for number in 0..40 {
            let image = image::RgbImage::from_pixel(1500, 1500, image::Rgb([number; 3]));
            image.save(images.join(class).join(format!("{number}.bmp"))).expect("can be written");
        }
    }
    let child = incept().args(["data", "info", text(&images)]).stderr(Stdio::piped()).spawn();
    let child = child.expect("the program can be started");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    let errors = String::from_utf8_lossy(&output.stderr);
    let stopped = errors.contains("saving a checkpoint and stopping") && errors.contains("interrupted");
    assert!(stopped && !errors.contains("error"), "{errors}");
}

/// One epoch is enough to check the sheet.
#[test]
fn demo_draws_its_sheet() {
    let folder = temporary();
    let (sheet, checkpoint) = (folder.path().join("sheet.png"), folder.path().join("demo.safetensors"));
    let arguments =
        ["demo", "--epochs", "1", "--output", text(&sheet), "--checkpoint", text(&checkpoint), "--json"];
    let events = json(&arguments);
    // Where there is only a software adapter, it and the CPU do the same steps first.
    if let Some(check) = events.iter().find(|event| event["event"] == "cross_check") {
        let apart = |field: &str| check[field].as_f64().expect("a number");
        assert!(apart("loss_difference") < 1e-4 && apart("weight_difference") < 1e-4, "{check}");
        assert!(apart("shader_step_ms") > 0.0 && apart("cpu_step_ms") > 0.0, "{check}");
    }
    assert_eq!(events.last().expect("events")["event"], "demo");
    let image = image::open(&sheet).expect("a PNG").to_rgb8();
    assert_eq!(image.dimensions(), (2560, 1824));
    let colors: std::collections::BTreeSet<[u8; 3]> = image.pixels().map(|p| p.0).collect();
    // The three heads' colors, and gray levels of digits and text.
    for head in [[0x00, 0x72, 0xb2], [0xd5, 0x5e, 0x00], [0x00, 0x9e, 0x73]] {
        assert!(colors.contains(&head), "{head:?}");
    }
    assert!(colors.len() > 30, "{}", colors.len());
    assert!(checkpoint.is_file());
    // The command that the demo ends with runs as printed.
    let samples = folder.path().join("sheet-digits");
    assert_eq!(events.last().expect("events")["samples"], text(&samples));
    let next = events.last().expect("events")["next"][0].as_str().expect("a command");
    assert_eq!(next, format!("incept classify {} {}", text(&checkpoint), text(&samples)));
    assert_eq!(as_printed(next, &["--json"]).lines().count(), 6);
}
