//! Text from outside on its way to a terminal or a page.

use std::borrow::Cow;

/// A name or value from a file as it may be shown: what [`is_hostile`] is replaced.
pub fn printable(text: &str) -> Cow<'_, str> {
    replaced(text, is_hostile)
}

/// Whether a terminal would obey a character instead of showing it, or show other text than there
/// is: control characters, separators of lines, and marks that change the direction of text.
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

/// As [`printable`], for text that has lines and columns: line feeds and tabs stay.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| is_hostile(c) && c != '\n' && c != '\t')
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
}
