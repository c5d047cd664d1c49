//! Parts of the pages that `incept report` and `incept explain --story` write: self-contained HTML,
//! readable in light and dark.

use incept::low_level::untrusted::printable_lines;

use super::plot::{Drawn, Figure, svg};

const STYLE: &str = include_str!("page.css");

/// Escapes text for HTML.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in printable_lines(text).chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(letter),
        }
    }
    safe
}

/// The whole page, without external resources.
pub(crate) fn page(title: &str, subtitle: &str, facts: &[(String, String)], sections: &[String]) -> String {
    let fact = |(value, name): &(String, String)| {
        format!("<div class=\"fact\"><b>{}</b><span>{}</span></div>", escaped(value), escaped(name))
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n<p>{subtitle}</p>\n\
         <div class=\"facts\">{}</div>\n{}\n</main>\n</body>\n</html>\n",
        facts.iter().map(fact).collect::<String>(),
        sections.join("\n"),
        title = escaped(title),
        subtitle = escaped(subtitle),
    )
}

/// A section with its heading.
pub(crate) fn section(title: &str, about: &str, content: &str) -> String {
    let about = if about.is_empty() { String::new() } else { format!("<p>{}</p>\n", escaped(about)) };
    format!("<section>\n<h2>{}</h2>\n{about}{content}\n</section>", escaped(title))
}

/// An embedded plot.
pub(crate) fn plot(figure: &impl Figure) -> Drawn<String> {
    Ok(format!("<div class=\"card\">{}</div>", svg(figure)?))
}

/// Embedded plots in a grid.
pub(crate) fn plots(figures: &[impl Figure]) -> Drawn<String> {
    let cards: Vec<String> = figures.iter().map(plot).collect::<Drawn<_>>()?;
    Ok(format!("<div class=\"charts\">{}</div>", cards.concat()))
}

/// Preformatted text.
pub(crate) fn preformatted(text: &str) -> String {
    format!("<div class=\"card\"><pre>{}</pre></div>", escaped(text))
}

/// A table of names and values.
pub(crate) fn pairs(rows: &[(String, String)]) -> String {
    let row = |(name, value): &(String, String)| {
        format!("<tr><td>{}</td><td>{}</td></tr>", escaped(name), escaped(value))
    };
    format!("<div class=\"card\"><table>{}</table></div>", rows.iter().map(row).collect::<String>())
}

/// A drawing as it is.
pub(crate) fn raw(svg: &str) -> String {
    format!("<div class=\"card\">{svg}</div>")
}

/// A drawing with colors of its own, hidden until it is opened; it is inverted in dark mode.
pub(crate) fn details(title: &str, svg: &str) -> String {
    format!("<details><summary>{}</summary><div class=\"card diagram\">{svg}</div></details>", escaped(title))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        assert_eq!(escaped("<b>&\"'x"), "&lt;b&gt;&amp;&quot;&#39;x");
        assert_eq!(escaped("\u{1b}]0;x\u{7}\u{202e}y\n"), "\u{fffd}]0;x\u{fffd}\u{fffd}y\n");
        let html = page("<t>", "", &[("1".into(), "<f>".into())], &[section("a", "", "")]);
        assert!(!html.contains("<t>") && !html.contains("<f>") && html.contains("&lt;t&gt;"));
    }
}
