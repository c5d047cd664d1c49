//! Control characters in text from files do not reach terminals.

use crate::program::{incept, run, temporary, text};

/// Names that clear a terminal, set its title, or reverse the direction of text.
const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m\u{202e}cat";

fn harmless(output: &std::process::Output, what: &str) {
    for bytes in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(bytes);
        let hostile =
            text.chars().any(|c| c != '\n' && c != '\t' && incept::low_level::untrusted::is_hostile(c));
        assert!(!hostile, "{what}: {text:?}");
    }
}

#[cfg(unix)]
#[test]
fn control_characters_in_names_are_replaced() {
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
    assert!(!html.contains(|c: char| c != '\n' && c != '\t' && incept::low_level::untrusted::is_hostile(c)));
    assert!(!html.contains("<b onload") && html.contains("&lt;b onload=&#39;x&#39;&gt;"), "escaped");
}

#[test]
fn control_characters_in_tensors_and_logs_are_replaced() {
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
