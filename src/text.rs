//! Making untrusted text safe for terminals and HTML pages.

use std::borrow::Cow;
use std::fmt::Display;

/// A text with [`is_hostile`] characters replaced by U+FFFD.
pub fn printable(text: &str) -> Cow<'_, str> {
    replaced(text, is_hostile)
}

/// Whether a character could control a terminal or disguise text: control characters, line
/// separators and bidirectional marks.
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn replaced(text: &str, hostile: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.contains(&hostile) {
        Cow::Owned(text.chars().map(|c| if hostile(c) { '\u{fffd}' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// As [`printable`], but keeps line feeds and tabs.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| is_hostile(c) && c != '\n' && c != '\t')
}

/// A count and its noun: 1 epoch, 2 epochs, 1 class, 2 classes.
pub fn plural<N: Copy + Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    format!("{count} {}", noun_after(count == N::from(1), noun))
}

/// A noun after a count: unchanged after 1, else its regular plural.
pub fn noun_after(is_one: bool, noun: &str) -> Cow<'_, str> {
    if is_one {
        return Cow::Borrowed(noun);
    }
    // The ch of epoch is a k.
    let ending = if !noun.ends_with("epoch") && ["s", "x", "ch", "sh"].iter().any(|end| noun.ends_with(end)) {
        "es"
    } else {
        "s"
    };
    Cow::Owned(format!("{noun}{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_are_replaced() {
        assert_eq!(printable("cat"), "cat");
        assert_eq!(
            printable("\u{1b}[2Jcat\r\n\u{202e}x\u{9b}y"),
            "\u{fffd}[2Jcat\u{fffd}\u{fffd}\u{fffd}x\u{fffd}y"
        );
        assert_eq!(printable_lines("a\n\tb\r\u{1b}"), "a\n\tb\u{fffd}\u{fffd}");
    }

    #[test]
    fn nouns_agree_with_their_count() {
        assert_eq!([0, 1, 2].map(|n| plural(n, "epoch")), ["0 epochs", "1 epoch", "2 epochs"]);
        assert_eq!([1usize, 2].map(|n| plural(n, "class")), ["1 class", "2 classes"]);
        assert_eq!([1u64, 2].map(|n| plural(n, "batch")), ["1 batch", "2 batches"]);
    }
}
