//! Flags and values: rejected ones with their errors, help, completions, man pages.

use serde_json::Value;

use crate::program::{fails_with, json, repository, stdout, temporary, text};

#[test]
fn errors_name_the_mistake() {
    let (code, errors) = fails_with(&["train", "no such folder"]);
    assert!(code == 1 && errors.contains("no such folder"), "{errors}");
    let (code, errors) = fails_with(&["train", "digits", "--image-size", "16"]);
    assert!(code == 1 && errors.contains("--image-size must be from 32 to 4096"), "{errors}");
    let (code, errors) = fails_with(&["train", "digits", "--schedule", "sometimes"]);
    assert!(code == 2 && errors.contains("polynomial"), "{errors}");
    let (code, errors) = fails_with(&["classify", "missing.safetensors", "x.png"]);
    assert!(code == 1 && errors.contains("missing.safetensors"), "{errors}");
    let (code, errors) =
        fails_with(&["train", "digits", "--limit", "40", "--grad-accum", "9", "--epochs", "4"]);
    assert!(code == 1 && errors.contains("more than the 8 batches"), "{errors}");
    let (code, errors) = fails_with(&["explain", "--val-split", "5"]);
    assert!(code == 1 && errors.contains("--val-split must be between 0 and 1, not 5"), "{errors}");
    let (code, errors) = fails_with(&["demo", "--output", "sheet.jpg"]);
    assert!(code == 1 && errors.contains("must end in .png") && !errors.contains("device:"), "{errors}");
    let (code, _) = fails_with(&["demo", "--epochs", "0"]);
    assert_eq!(code, 2);
    let (code, _) = fails_with(&["trian"]);
    assert_eq!(code, 2);
    let (code, errors) = fails_with(&["train"]);
    assert!(code == 2 && errors.contains("Usage"), "{errors}");
}

/// Flags without an effect are errors, before a device is opened.
#[test]
fn flags_without_effect_are_rejected() {
    let folder = temporary();
    let onnx = folder.path().join("net.onnx");
    let sheet = folder.path().join("sheet.png");
    let (onnx, sheet) = (text(&onnx), text(&sheet));
    // It has a training and a validation set.
    let split = "tests/fixtures/cases/bn49";
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
        (&["train", split, "--val-split", "0.3"], &["--val-split", "validation set"]),
        (&["explain", split, "--val-split", "0.3"], &["--val-split", "validation set"]),
        (&["data", "info", split, "--val-split", "0.3"], &["--val-split", "validation set"]),
        (&["data", "info", split, "--seed", "1"], &["--seed", "validation set"]),
        (&["train", "digits", "--reset-head"], &["--reset-head", "--weights"]),
        (&["train", "digits", "--freeze-until", "heads"], &["--freeze-until", "--weights"]),
        (
            &["train", "digits", "--weights", "included", "--width", "0.5"],
            &["--width 0.25", "--variant torchvision"],
        ),
        (&["train", "digits", "--weights", "included", "--variant", "paper"], &["--variant torchvision"]),
        (
            &["train", split, "--weights", "included", "--reset-head", "false"],
            &["10 classes (airplane, ...)", "--reset-head"],
        ),
        (&["explain", "--init", "included"], &["--init included", "--weights"]),
        (&["classify", "--weights", "included", "included", "x.png"], &["two checkpoints"]),
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
        let (_, errors) = fails_with(arguments);
        assert!(words.iter().all(|word| errors.contains(word)), "{arguments:?}: {errors}");
        assert!(!errors.contains("device:"), "{arguments:?} opens a device first: {errors}");
    }
    // In a configuration file, which may be that of another run, the option is no mistake.
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, "[training]\nval-split = 0.3").expect("can be written");
    stdout(&["train", split, "--config", text(&file), "--preview-augment", sheet]);
    // The same flags are accepted where they have an effect.
    for shown in [
        &["summary", "--dropout", "0", "--aux-dropout", "0", "--batch-size", "1"][..],
        &["summary", "--aux-weight", "0", "--batch-size", "1"],
        &["graph", "--aux-weight", "0.5", "--dropout", "0"],
    ] {
        stdout(shown);
    }
}

/// Values in configuration files are checked like those of flags.
#[test]
fn values_in_files_are_checked() {
    let folder = temporary();
    let file = folder.path().join("mine.toml");
    let given = repository().join("tests/fixtures/cases/epochs0.toml");
    let (_, errors) = fails_with(&["train", "digits", "--config", text(&given)]);
    assert!(errors.contains("epochs") && !errors.contains("--grad-accum"), "{errors}");
    // Including old names of keys.
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
        let (_, errors) = fails_with(&["train", "digits", "--config", text(&file)]);
        assert!(errors.contains(word) && !errors.contains("device:"), "{content}: {errors}");
    }
}

#[test]
fn every_command_has_help() {
    fn explained(command: &[&str]) -> usize {
        let help = stdout(&[command, &["--help"]].concat());
        assert!(help.contains("Usage:") && help.lines().next().is_some_and(|l| l.len() > 30), "{help}");
        let list = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
        // Options are indented by two columns, their descriptions further.
        let names = list.unwrap_or_default().lines().filter(|line| !line.starts_with("   "));
        let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
        1 + names.map(|name| explained(&[command, &[name]].concat())).sum::<usize>()
    }
    // The program itself, twenty-one commands, and the subcommands of `data`, `look` and `runs`.
    assert_eq!(explained(&[]), 1 + 21 + 4 + 4 + 1);
}

#[test]
fn completions_include_commands_and_values() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = stdout(&["completions", shell]);
        for word in ["classify", "aux-weight", "nesterov"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
}

#[test]
fn every_command_has_a_man_page() {
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
