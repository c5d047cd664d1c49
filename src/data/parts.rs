//! Assignment of files and folders to the training, validation or test set, by the rule of Hugging
//! Face's `datasets`.

use std::path::Path;

use crate::error::Error;

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Training set.
    Train,
    /// Validation set, for choosing hyperparameters.
    Validation,
    /// Test set, for the final measurement.
    Test,
}

/// Split words.
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
    /// The part in a name: its first split word, in any case, between delimiters (`-`, `.`, `_`, a
    /// space, digits) or the ends of the name: `cars_val_3.tar`, `Train`, `val2017`. `None` without
    /// one.
    pub fn of(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        let delimiter = |c: char| "-._ ".contains(c) || c.is_ascii_digit();
        let word = |token: &str| WORDS.iter().find(|(word, _)| *word == token).map(|(_, part)| *part);
        name.split(delimiter).find_map(word)
    }

    /// The part of a file by its path relative to the data set: by its own name if that is
    /// `PART-00000-of-00001`, else by the outermost folder that names a part, else by its own name.
    pub fn of_path(relative: &Path) -> Option<Self> {
        let names = || relative.iter().map(|name| name.to_string_lossy());
        let file = names().next_back()?;
        is_shard(&file)
            .then(|| Self::of(&file))
            .flatten()
            .or_else(|| names().find_map(|name| Self::of(&name)))
    }

    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "training",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// Whether a file is named `NAME-00000-of-00001` plus an extension.
fn is_shard(file: &str) -> bool {
    let stem = file.split('.').next().unwrap_or_default();
    let mut last = stem.rsplit('-');
    let digits =
        |text: Option<&str>| text.is_some_and(|t| t.len() == 5 && t.bytes().all(|b| b.is_ascii_digit()));
    digits(last.next()) && last.next() == Some("of") && digits(last.next()) && last.next().is_some()
}

/// A value per part.
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

/// Error for a part that the data set does not have.
pub(super) fn missing(source: &Path, part: Part) -> Error {
    let word = match part {
        Part::Train => "train",
        Part::Validation => "val",
        Part::Test => "test",
    };
    let reason = format!(
        "has no {} set: expected a file or folder with `{word}` in its name, or rows of that split",
        part.name()
    );
    Error::format(source, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_words_match_only_between_delimiters() {
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
        // A folder's name applies to its content; a numbered shard's own name takes precedence.
        assert_eq!(Part::of_path(Path::new("train/val_images.tar")), Some(Part::Train));
        assert_eq!(Part::of_path(Path::new("test_config/train-00000-of-00002.parquet")), Some(Part::Train));
        assert_eq!(Part::of_path(Path::new("data/x.parquet")), None);
    }
}
