//! The README, the tutorial and the other pages, as a user follows them: the tutorial's commands
//! run in order, and every flag that a page uses exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::program::{repository, stdout, temporary};

/// A fenced block of a page: its language and its lines.
struct Block {
    language: String,
    lines: Vec<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let path = repository().join(page);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => open = Some(Block { language: language.into(), lines: Vec::new() }),
            (None, Some(block)) => block.lines.push(line.into()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{page}: a block has no end");
    blocks
}

/// The words of each `incept` command of a block, without comments.
fn commands(block: &Block) -> Vec<Vec<&str>> {
    let lines = block.lines.iter().filter(|_| block.language == "sh");
    let words = lines.filter_map(|line| line.split(" #").next()?.strip_prefix("incept "));
    words.map(|line| line.split_whitespace().collect()).collect()
}

/// A line of output without what differs between machines, runs and data: numbers, bars and
/// spacing.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    let mut in_number = false;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        let before_digit = rest.as_str().starts_with(|next: char| next.is_ascii_digit());
        let of_number =
            c.is_ascii_digit() || c == '·' || (in_number && matches!(c, '.' | ',') && before_digit);
        let is_bar = ('\u{2580}'..='\u{259f}').contains(&c);
        if of_number && !in_number {
            shape.push('#');
        } else if !of_number && !is_bar {
            shape.push(c);
        }
        in_number = of_number;
    }
    shape.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn shapes_are_without_numbers_and_bars() {
    assert_eq!(shape("  frog    58.1%  ██████▌"), "frog #%");
    assert_eq!(shape(" frog     39     9     ·"), "frog # # #");
    assert_eq!(shape("epoch  1/24  loss main 1,219.5"), "epoch #/# loss main #");
    assert_eq!(shape("frog-011.png"), "frog-#.png");
    assert_ne!(shape("validation 3%"), shape("accuracy 3%"));
}

/// Three classes of 24 images each: the fixtures of CIFAR-10 with other sizes and brightnesses and
/// mirrored, so that no two are alike, and tinted by class, so that a short training tells them
/// apart. One is damaged, one is HEIC, one is gray.
fn photos(folder: &Path) {
    for (channel, class) in ["frog", "horse", "ship"].into_iter().enumerate() {
        let into = folder.join("photos").join(class);
        std::fs::create_dir_all(&into).expect("a folder");
        for index in 0..24 {
            let source =
                repository().join(format!("tests/fixtures/data/cifar10/{class}/{}.png", index % 3 + 1));
            let image = image::open(&source).expect("an image").brighten(4 * index - 48);
            let side = 32 + index.unsigned_abs() % 5 * 9;
            let mut image =
                image.resize_exact(side, side + 3, image::imageops::FilterType::Triangle).to_rgb8();
            for pixel in image.pixels_mut() {
                pixel[channel] = pixel[channel].saturating_add(90);
            }
            if index % 2 == 1 {
                image::imageops::flip_horizontal_in_place(&mut image);
            }
            let file = into.join(format!("{class}-{index:03}.jpg"));
            if (channel, index) == (0, 12) {
                image::DynamicImage::from(image).to_luma8().save(&file).expect("a file");
            } else {
                image.save(&file).expect("a file");
            }
            if (channel, index) == (0, 13) {
                let whole = std::fs::read(&file).expect("a file");
                std::fs::write(&file, &whole[..whole.len() / 2]).expect("can be written");
            }
        }
    }
    std::fs::write(folder.join("photos/horse/horse-024.heic"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
        .expect("can be written");
}

/// Runs every command of a page, in order, as printed except for what `shorten` replaces; every
/// line of output that it shows has the form of one that was printed. The number of commands.
fn follow(page: &str, folder: &Path, shorten: impl Fn(&str) -> Vec<String>) -> usize {
    let mut printed = BTreeSet::new();
    let mut ran = 0;
    for block in blocks(page) {
        for words in commands(&block) {
            let arguments: Vec<String> = words.iter().flat_map(|word| shorten(word)).collect();
            let mut command = Command::new(env!("CARGO_BIN_EXE_incept"));
            command.current_dir(folder).args(&arguments).env_remove("RUST_LOG").env_remove("INCEPT_RUNS_DIR");
            command.env("INCEPT_CACHE_DIR", folder.join("cache"));
            let output = command.output().expect("the program can be started");
            let errors = String::from_utf8_lossy(&output.stderr);
            // `data` fails where a file is unreadable, after having said all.
            let ended = output.status.success() || words[0] == "data" && output.status.code() == Some(1);
            assert!(ended, "incept {}: {errors}", arguments.join(" "));
            let text = String::from_utf8_lossy(&output.stdout);
            printed.extend(text.lines().chain(errors.lines()).map(shape));
            ran += 1;
        }
        let is_output = block.language == "text" && ran > 0;
        for line in block.lines.iter().filter(|line| is_output && line.trim() != "...") {
            let all = printed.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
            assert!(printed.contains(&shape(line)), "{page} shows `{line}`, but these were printed:\n{all}");
        }
    }
    ran
}

#[test]
fn the_tutorial_runs_as_printed() {
    let folder = temporary();
    photos(folder.path());
    let ran = follow("docs/GUIDE.md", folder.path(), |word| vec![word.into()]);
    assert!(ran >= 8, "{ran} commands");
}

/// With the included weights in place of those that are downloaded.
#[test]
fn the_readme_runs_as_printed() {
    let folder = temporary();
    photos(folder.path());
    let fixture = "tests/fixtures/data/cifar10/frog/1.png";
    let photo = folder.path().join("photos/horse/horse-000.jpg");
    for (from, to) in
        [(repository().join(fixture), fixture), (photo.clone(), "cat.jpg"), (photo.clone(), "holiday/1.jpg")]
    {
        let to = folder.path().join(to);
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        std::fs::copy(from, to).expect("can be copied");
    }
    let offline = |word: &str| match word {
        "imagenet" => vec!["included".into()],
        "finetune" => ["finetune", "--weights", "included"].map(String::from).to_vec(),
        word => vec![word.into()],
    };
    let ran = follow("README.md", folder.path(), offline);
    assert!(ran >= 6, "{ran} commands");
}

/// Each `--flag` of a command on a page is in that command's help.
#[test]
fn pages_use_flags_that_exist() {
    let mut help = BTreeMap::new();
    let mut checked = 0;
    for page in [
        "README.md",
        "docs/GUIDE.md",
        "docs/recipes.md",
        "docs/devices.md",
        "docs/three-softmaxes.md",
        "docs/heat-maps.md",
    ] {
        for block in blocks(page) {
            for words in commands(&block) {
                let nested = matches!(words[0], "data" | "look" | "runs")
                    && words.len() > 1
                    && !words[1].starts_with('-');
                let name = &words[..if nested { 2 } else { 1 }];
                let text =
                    help.entry(name.join(" ")).or_insert_with(|| stdout(&[name, &["--help"]].concat()));
                for flag in words.iter().filter(|word| word.starts_with("--")) {
                    let known = text
                        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
                        .any(|word| word == *flag);
                    assert!(known, "{page}: `incept {}`: {} has no {flag}", words.join(" "), name.join(" "));
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 40, "{checked} flags");
}
