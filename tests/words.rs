//! One word for one thing: words that the glossary replaced must not return to code, texts or
//! documents, and comment lines keep to 100 columns.
//!
//! A phrase matches in any spelling of its words: `held out`, `held-out`, `held_out`, `HeldOut`,
//! and across the lines of a comment.

#![allow(missing_docs, reason = "a test program has no public API")]

use std::path::{Path, PathBuf};

/// Replaced phrases, and what to write instead.
const REPLACED: &[(&str, &str)] = &[
    ("anew", "reinitialized, again"),
    ("auxiliary softmax", "auxiliary head"),
    ("aux softmax", "auxiliary head"),
    ("canaries", "guard regions"),
    ("canary", "guard region"),
    ("close ranks", "compacted into the next stage's batch"),
    ("dealt out", "sub-pixel phases"),
    ("double tiles", "double-buffered tiles"),
    ("drawn anew", "reinitialized"),
    ("each softmax", "each head"),
    ("every softmax", "every head"),
    ("goes back behind", "rewinds"),
    ("goes on", "resumes, continues"),
    ("held out", "validation set, validation accuracy"),
    ("images a second", "images/s"),
    ("is no number", "is NaN, is not finite"),
    ("made again", "recomputed"),
    ("main softmax", "main head"),
    ("no numbers", "NaN, non-finite"),
    ("one a line", "one per line"),
    ("one a second", "one per second"),
    ("one softmax", "one head"),
    ("other people s weights", "pretrained weights"),
    ("passed over", "skipped"),
    ("picture", "image"),
    ("pictures", "images"),
    ("so many", "the number, up to this many"),
    ("softmaxes", "heads"),
    ("speak for", "evidence for"),
    ("speaks for", "evidence for"),
    ("sure enough", "confident"),
    ("surest", "highest confidence"),
    ("taken along", "fused"),
    ("taken for what", "confusion matrix"),
    ("term a turn", "K step"),
    ("terms a turn", "unrolled by 4"),
    ("that is enough", "early stopping"),
    ("twin", "CPU reference"),
    ("twins", "CPU reference"),
    ("what is taken", "mean to subtract"),
    ("went on", "resumed, continued"),
];

/// Where a replaced phrase has to stay: path, phrase, and a part of the line; and why.
const ALLOWED: &[(&str, &str, &str, &str)] = &[
    ("", "softmaxes", "hree-softmaxes", "the name of a document"),
    ("", "softmaxes", "hree softmaxes", "the question that people search for"),
    ("", "held out", "alias = \"held", "the earlier name of a flag or key"),
    ("", "picture", "alias = \"picture", "the earlier name of a key"),
    ("", "pictures", "alias = \"pictures", "the earlier name of a key"),
    ("", "twins", "alias = \"twins", "the earlier name of a flag"),
    ("cli/src/lib.rs", "held out", "--held-out", "the test of earlier names of flags"),
    ("cli/src/old_keys.rs", "held out", "", "the earlier names of keys"),
    ("cli/src/old_keys.rs", "passed over", "", "the earlier names of keys"),
    ("cli/src/old_keys.rs", "picture", "", "the earlier names of keys"),
    ("cli/src/old_keys.rs", "pictures", "", "the earlier names of keys"),
    ("src/data/manifest.rs", "picture", "\"picture\",", "the name of a column in tables of others"),
];

/// What is checked. CHANGELOG.md is not: it names what was renamed.
const FOLDERS: &[&str] =
    &["src", "shaders", "cli/src", "cli/tests", "python", "tests", "examples", "benches", "fuzz/src"];
const PAGES: &[&str] = &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs"];

/// Columns of a comment line.
const COLUMNS: usize = 100;

/// A word in lower case, where it begins in the text, and its line from 1.
struct Word {
    text: String,
    begin: usize,
    end: usize,
    line: usize,
}

/// The words of a text; identifiers are split at underscores and capitals.
fn words(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let (mut line, mut before) = (1, ' ');
    for (at, c) in text.char_indices() {
        if c.is_alphabetic() {
            let continues = before.is_alphabetic() && !(before.is_lowercase() && c.is_uppercase());
            if !continues {
                words.push(Word { text: String::new(), begin: at, end: at, line });
            }
            if let Some(word) = words.last_mut() {
                word.text.extend(c.to_lowercase());
                word.end = at + c.len_utf8();
            }
        }
        line += usize::from(c == '\n');
        before = c;
    }
    words
}

/// Whether two words are one after the other in a sentence or identifier: nothing is between them
/// but spaces, a hyphen, an underscore, an apostrophe, or a line break of a comment.
fn adjacent(between: &str) -> bool {
    let mut lines = between.lines();
    let first = lines.next().unwrap_or_default();
    let ended = first.trim().trim_matches(['-', '_', '\'', '\u{2019}']);
    let continued = |line: &str| line.trim().trim_start_matches(['/', '!', '#', '*', '>']).trim().is_empty();
    ended.is_empty() && between.len() < 40 && lines.all(continued)
}

/// Replaced phrases in a text: line, phrase and what to write instead.
fn replaced(path: &str, text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let words = words(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (phrase, instead) in REPLACED {
        let parts: Vec<&str> = phrase.split(' ').collect();
        for window in words.windows(parts.len()) {
            let same = window.iter().zip(&parts).all(|(word, part)| word.text == *part);
            let joined = || window.windows(2).all(|pair| adjacent(&text[pair[0].end..pair[1].begin]));
            if !same || !joined() {
                continue;
            }
            let line = window[0].line;
            let written = lines.get(line - 1).copied().unwrap_or_default();
            let allowed = ALLOWED.iter().any(|(file, allowed, part, _)| {
                path.starts_with(file) && allowed == phrase && written.contains(part)
            });
            if !allowed {
                found.push((line, *phrase, *instead));
            }
        }
    }
    found
}

/// Lines of comments that are too long.
fn long_comments(text: &str) -> Vec<usize> {
    let is_long = |line: &str| line.trim_start().starts_with("//") && line.chars().count() > COLUMNS;
    text.lines().zip(1..).filter(|(line, _)| is_long(line)).map(|(_, number)| number).collect()
}

/// Everything that is wrong with a file, as `path:line: reason`.
fn violations(path: &str, text: &str) -> Vec<String> {
    let mut found: Vec<String> = replaced(path, text)
        .iter()
        .map(|(line, phrase, instead)| format!("{path}:{line}: `{phrase}`; say: {instead}"))
        .collect();
    if !path.ends_with(".md") {
        let long = long_comments(text);
        found.extend(long.iter().map(|line| format!("{path}:{line}: a comment beyond {COLUMNS} columns")));
    }
    found
}

fn files(path: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    if path.is_file() {
        found.push(path.to_path_buf());
        return;
    }
    for entry in std::fs::read_dir(path).expect("a folder") {
        let path = entry.expect("an entry").path();
        let is_text = path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending));
        if path.is_dir() && !path.ends_with("target") || is_text {
            files(&path, endings, found);
        }
    }
}

#[test]
fn replaced_words_do_not_return() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut list = Vec::new();
    for folder in FOLDERS {
        files(&root.join(folder), &["py", "rs", "snap", "toml", "wgsl"], &mut list);
    }
    for page in PAGES {
        files(&root.join(page), &["md"], &mut list);
    }
    assert!(list.len() > 250, "only {} files were found", list.len());
    let mut wrong = Vec::new();
    for file in &list {
        let path = file.strip_prefix(root).expect("in the root").to_string_lossy().replace('\\', "/");
        if path == "tests/words.rs" {
            continue;
        }
        wrong.extend(violations(&path, &std::fs::read_to_string(file).expect("UTF-8")));
    }
    assert!(wrong.is_empty(), "{} lines:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn phrases_are_found_in_every_spelling() {
    let lines = |text: &str| replaced("src/x.rs", text).iter().map(|found| found.0).collect::<Vec<_>>();
    assert_eq!(lines("let a = 1;\nlet held_out = 2; // a held-out set\nstruct HeldOut;"), [2, 2, 3]);
    assert_eq!(lines("    /// Images that are held\n    /// out.\n"), [1]);
    assert_eq!(lines("//! Other people's weights"), [1]);
    assert!(lines("held(out), withheld outside, twinkle, softmax, the softmaxed").is_empty());
    // Allowed in one place only.
    assert!(replaced("README.md", "## Why three softmaxes?").is_empty());
    assert_eq!(lines("the softmaxes"), [1]);
    assert!(replaced("cli/src/old_keys.rs", "(\"images\", \"pictures\"),").is_empty());
    assert_eq!(lines("(\"images\", \"pictures\"),"), [1]);
}

#[test]
fn long_comment_lines_are_found() {
    let long = format!("fn f() {{}}\n    // {}\n", "x".repeat(100));
    assert_eq!(violations("src/x.rs", &long), ["src/x.rs:2: a comment beyond 100 columns"]);
    assert!(violations("src/x.rs", &format!("// {}", "x".repeat(97))).is_empty());
}
