//! The HTML of the report.

use std::fmt::Write;

use incept::infer::Confusion;
use incept::low_level::untrusted::printable_lines;

use super::Sample;
use crate::plot::{Drawn, Figure, svg};
use crate::raster::data_url;

const STYLE: &str = include_str!("page.css");

/// Escapes text for HTML.
pub(super) fn escaped(text: &str) -> String {
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
pub(super) fn page(title: &str, subtitle: &str, facts: &[(String, String)], sections: &[String]) -> String {
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
pub(super) fn section(title: &str, about: &str, content: &str) -> String {
    let about = if about.is_empty() { String::new() } else { format!("<p>{}</p>\n", escaped(about)) };
    format!("<section>\n<h2>{}</h2>\n{about}{content}\n</section>", escaped(title))
}

/// An embedded plot.
pub(super) fn plot(figure: &impl Figure) -> Drawn<String> {
    Ok(format!("<div class=\"card\">{}</div>", svg(figure)?))
}

/// Embedded plots in a grid.
pub(super) fn plots(figures: &[impl Figure]) -> Drawn<String> {
    let cards: Vec<String> = figures.iter().map(plot).collect::<Drawn<_>>()?;
    Ok(format!("<div class=\"charts\">{}</div>", cards.concat()))
}

/// Preformatted text.
pub(super) fn preformatted(text: &str) -> String {
    format!("<div class=\"card\"><pre>{}</pre></div>", escaped(text))
}

/// A table of names and values.
pub(super) fn pairs(rows: &[(String, String)]) -> String {
    let row = |(name, value): &(String, String)| {
        format!("<tr><td>{}</td><td>{}</td></tr>", escaped(name), escaped(value))
    };
    format!("<div class=\"card\"><table>{}</table></div>", rows.iter().map(row).collect::<String>())
}

/// Images with predictions, and true classes of mistakes.
pub(super) fn images(samples: &[Sample], classes: &[String]) -> Drawn<String> {
    let name = |class: usize| escaped(classes.get(class).map_or("?", String::as_str));
    let mut html = String::from("<div class=\"card images\">");
    for sample in samples {
        let wrong = sample.label != sample.prediction;
        let class = if wrong { " class=\"wrong\"" } else { "" };
        let large = if sample.image.width() > 64 { " class=\"large\"" } else { "" };
        let truth =
            if wrong { format!("<small>true: {}</small>", name(sample.label)) } else { String::new() };
        write!(
            html,
            "<figure{class}><img{large} alt=\"{}\" src=\"{}\">{} {:.0}%{truth}</figure>",
            name(sample.label),
            data_url(&sample.image)?,
            name(sample.prediction),
            100.0 * sample.probability
        )?;
    }
    html.push_str("</div>");
    Ok(html)
}

/// A table of precision, recall and F1 per class.
pub(super) fn by_class(confusion: &Confusion, classes: &[String]) -> String {
    let percent = |share: Option<f64>| share.map_or("-".to_string(), |s| format!("{:.1}%", 100.0 * s));
    let mut html = String::from(
        "<div class=\"card\"><table><tr><th>class</th><th>precision</th><th>recall</th><th>F1</th><th>images</th></tr>",
    );
    for (class, m) in classes.iter().zip(confusion.metrics()) {
        let (precision, recall, f1) = (percent(m.precision), percent(m.recall), percent(m.f1));
        html.push_str(&format!(
            "<tr><td>{}</td><td>{precision}</td><td>{recall}</td><td>{f1}</td><td>{}</td></tr>",
            escaped(class),
            m.support
        ));
    }
    html.push_str("</table></div>");
    html
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
