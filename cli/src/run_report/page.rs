//! The parts of the report that only it has.

use std::fmt::Write;

use incept::infer::Confusion;

use super::Sample;
use crate::html::escaped;
use crate::plot::Drawn;
use crate::raster::data_url;

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
