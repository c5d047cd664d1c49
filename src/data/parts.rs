//! The rule by which files and folders are training, validation or test set: that of Hugging Face's
//! `datasets`.

use std::path::Path;

use crate::error::Error;

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// What to train on.
    Train,
    /// What to choose by.
    Validation,
    /// What to measure once.
    Test,
}

/// The words that stand for a part.
const WORDS: [(&str, Part); 10] = [
    ("train", Part::Train),
    ("training", Part::Train),
    ("validation", Part::Validation),
    ("valid", Part::Validation),
    ("val", Part::Validation),
    ("dev", Part::Validation),
    ("test", Part::Test),
    ("testing", Part::Test),
    ("eval", Part::Test),
    ("evaluation", Part::Test),
];

impl Part {
    /// The part that a name stands for: the first split word in it, in any case, that stands alone
    /// between delimiters (`-`, `.`, `_`, a space, digits) or the name's ends: `cars_val_3.tar`,
    /// `Train`, `val2017`.
    pub fn of(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        let delimiter = |c: char| "-._ ".contains(c) || c.is_ascii_digit();
        let word = |token: &str| WORDS.iter().find(|(word, _)| *word == token).map(|(_, part)| *part);
        name.split(delimiter).find_map(word)
    }

    /// The part of a file by its path within a data set: by its own name if that is
    /// `PART-00000-of-00001`, else by the outermost folder that names one, else by its own name.
    pub fn of_path(relative: &Path) -> Option<Self> {
        let names = || relative.iter().map(|name| name.to_string_lossy());
        let file = names().next_back()?;
        is_shard(&file)
            .then(|| Self::of(&file))
            .flatten()
            .or_else(|| names().find_map(|name| Self::of(&name)))
    }

    /// What messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "training",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// Whether a file is called `NAME-00000-of-00001` and an ending.
fn is_shard(file: &str) -> bool {
    let stem = file.split('.').next().unwrap_or_default();
    let mut last = stem.rsplit('-');
    let digits =
        |text: Option<&str>| text.is_some_and(|t| t.len() == 5 && t.bytes().all(|b| b.is_ascii_digit()));
    digits(last.next()) && last.next() == Some("of") && digits(last.next()) && last.next().is_some()
}

/// Something for each part.
#[derive(Clone, Debug, Default)]
pub(super) struct Parted<T> {
    pub train: T,
    pub validation: T,
    pub test: T,
}

impl<T> Parted<T> {
    pub fn of(&mut self, part: Part) -> &mut T {
        match part {
            Part::Train => &mut self.train,
            Part::Validation => &mut self.validation,
            Part::Test => &mut self.test,
        }
    }
}

/// Why a part that was asked for is not there.
pub(super) fn missing(source: &Path, part: Part) -> Error {
    let word = match part {
        Part::Train => "train",
        Part::Validation => "val",
        Part::Test => "test",
    };
    let reason = format!(
        "has no {} set: a file or folder whose name says `{word}`, or rows of that part, would be it",
        part.name()
    );
    Error::format(source, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_words_count_between_delimiters_only() {
        for (name, part) in [
            ("train", Some(Part::Train)),
            ("Train", Some(Part::Train)),
            ("seg_train", Some(Part::Train)),
            ("cifar10-validation-00000-of-00001.parquet", Some(Part::Validation)),
            ("birds_val_000.tar", Some(Part::Validation)),
            ("dev.parquet", Some(Part::Validation)),
            ("val2017", Some(Part::Validation)),
            ("my eval.csv", Some(Part::Test)),
            ("TESTING", Some(Part::Test)),
            ("evaluation.01", Some(Part::Test)),
            ("contest.tar", None),
            ("valley", None),
            ("trainer-001.tar", None),
            ("device", None),
        ] {
            assert_eq!(Part::of(name), part, "{name}");
        }
        // A folder says it for what is in it; the name of a numbered shard says it best.
        assert_eq!(Part::of_path(Path::new("train/val_images.tar")), Some(Part::Train));
        assert_eq!(Part::of_path(Path::new("test_config/train-00000-of-00002.parquet")), Some(Part::Train));
        assert_eq!(Part::of_path(Path::new("data/x.parquet")), None);
    }
}
