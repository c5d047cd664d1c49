//! The page of `incept explain --story`: a plot and two sentences per section. The sentences are
//! chosen by what was measured.

use incept::explain::{GradientFlow, Spread};

use super::flow_plot::FlowFigure;
use super::story::Story;
use super::train_plot::{Charts, CurvesFigure};
use super::{of_norms, overview};
use crate::diagram;
use crate::html::{details, page, pairs, plot, preformatted, raw, section};
use crate::plot::Drawn;
use crate::report::plural;
use crate::sweep::{SweepFigure, Swept};

/// Accuracy from which on a head counts as having learned something.
const LEARNED: f64 = 0.5;

pub(super) fn html(story: &Story<'_>) -> Drawn<String> {
    let compared = story.compared;
    let seed = compared.comparison.with.first().map_or(0, |curve| curve.seed);
    let flow = |flow: &GradientFlow, when: &str| {
        let subtitle = format!("{}, seed {seed}, {when}", compared.subtitle);
        plot(&FlowFigure { flow, subtitle })
    };
    let curves = |charts| {
        let subtitle = format!("{}, {}", compared.subtitle, plural(compared.verdict.seeds, "seed"));
        plot(&CurvesFigure { comparison: &compared.comparison, subtitle, charts })
    };
    let epochs = plural(compared.recipe.epochs, "epoch");
    let full = diagram::svg(&compared.network, &story.topology);
    let network =
        format!("{}{}", raw(&overview::svg(&story.topology)), details("Every layer with its number", &full));
    let mut sections = vec![
        section("The network and its three heads", &about_network(story), &network),
        section(
            "Gradients before training",
            &about_gradients(&story.before, None),
            &flow(&story.before, "at initialization")?,
        ),
        section(
            "Gradients after training",
            &about_gradients(&story.after, Some(&story.before)),
            &flow(&story.after, &format!("after {epochs}"))?,
        ),
        section("Accuracy of the three heads", &about_heads(story), &curves(Charts::Heads)?),
        section(
            "With and without auxiliary heads",
            &compared.verdict.words().iter().map(|line| sentence(line)).collect::<Vec<_>>().join(" "),
            &curves(Charts::Auxiliary)?,
        ),
    ];
    if let Some(exit) = &story.exit {
        let figure = SweepFigure {
            points: &exit.points,
            main: exit.head_accuracies.first().copied().unwrap_or(0.0),
            recommended: exit.recommended.as_ref(),
            subtitle: format!(
                "{}, seed {seed}, {} of the validation set",
                compared.subtitle,
                plural(exit.images as u64, "image")
            ),
        };
        sections.push(section("Early exit", &about_exit(exit), &plot(&figure)?));
    }
    let about = "The command that wrote this page, and what it ran on.";
    let made = format!("{}{}", preformatted(&story.command_line), pairs(&story.setting));
    sections.push(section("How it was measured", about, &made));
    let subtitle = "GoogLeNet has three softmaxes: the main head's, and those of two auxiliary heads that read its lower layers. This page shows what they do.";
    Ok(page("Why three softmaxes?", subtitle, &facts(story), &sections))
}

/// The key figures at the top.
fn facts(story: &Story<'_>) -> Vec<(String, String)> {
    let verdict = &story.compared.verdict;
    let percent = |spread: &Spread| format!("{:.1}%", 100.0 * spread.mean);
    let pairs = verdict.pairs;
    let mut facts = vec![
        (percent(&verdict.with), "validation accuracy with auxiliary heads".to_string()),
        (percent(&verdict.without), "without them".to_string()),
        (
            format!("{} of {}", pairs.better, verdict.seeds),
            "pairs with the same seed in which they are better".to_string(),
        ),
        (format!("{:.3}", verdict.p_value), "p-value of the sign test".to_string()),
    ];
    if let Some(point) = story.exit.as_ref().and_then(|exit| exit.recommended.as_ref()) {
        facts.push((
            format!("{:.0}%", 100.0 * (1.0 - point.compute)),
            "of the multiply-adds saved by early exit".to_string(),
        ));
    }
    facts
}

/// With a capital letter and a full stop.
fn sentence(line: &str) -> String {
    let mut letters = line.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

fn about_network(story: &Story<'_>) -> String {
    let depth = |part: &str| story.before.part(part).map_or(0, |p| p.depth);
    let layer = |part: &str| overview::softmax(&story.topology, part).unwrap_or(0);
    let weight = story.compared.network.aux_weight;
    format!(
        "The main head's softmax is layer {}, after {} layers with weights; those of aux1 and aux2 are layers {} and {}, on the outputs of blocks 4a and 4d, which have {} and {} layers with weights below them. Training minimizes the main loss plus {weight} times each auxiliary loss; afterwards the main head alone makes the prediction, unless early exit uses the others.",
        layer("classifier"),
        depth("classifier"),
        layer("aux1"),
        layer("aux2"),
        depth("4a"),
        depth("4d"),
    )
}

/// The main loss's share of the gradient norms at the first part.
fn main_share(flow: &GradientFlow) -> Option<(&'static str, f64)> {
    let first = flow.parts.first()?;
    let main = flow.losses.iter().position(|loss| loss.name == "main")?;
    Some((first.part, 100.0 * of_norms(first, first.losses.get(main).copied())))
}

fn about_gradients(flow: &GradientFlow, before: Option<&GradientFlow>) -> String {
    let what = "The upper chart has the norm of each loss's weighted gradient per block, the lower one its share of the summed gradient, from the images at the left to the classifier at the right";
    let Some((part, share)) = main_share(flow) else { return format!("{what}.") };
    let now = format!("At {part}, {share:.0}% of the gradient norms are the main loss's");
    match before.and_then(main_share) {
        None => format!(
            "{what}. {now}, so {} what the lower layers learn at first.",
            if share < 50.0 {
                "the auxiliary losses determine most of"
            } else {
                "the main loss determines most of"
            }
        ),
        Some((_, earlier)) => {
            let change = if share > earlier { "more" } else { "not more" };
            format!(
                "The same charts for the same images after training. {now}, {change} than the {earlier:.0}% before training."
            )
        }
    }
}

fn about_heads(story: &Story<'_>) -> String {
    let heads = ["aux1", "aux2", "main"];
    let reached = heads.map(|head| {
        let spread = story.compared.comparison.spread(true, head);
        (head, spread.iter().position(|s| s.mean >= LEARNED))
    });
    let words = reached.map(|(head, epoch)| match epoch {
        Some(epoch) => format!("{head} after {}", plural(epoch as u64, "epoch")),
        None => format!("{head} not within {}", plural(story.compared.recipe.epochs, "epoch")),
    });
    let epoch = |at: usize| reached[at].1.unwrap_or(usize::MAX);
    let order = if epoch(0) < epoch(2) && epoch(1) <= epoch(2) {
        "The heads that are closer to the images learn first."
    } else {
        "Here the auxiliary heads do not learn before the main head."
    };
    format!(
        "Lines are means over the seeds, areas their ranges; the mean reaches {:.0}% in {}, {} and {}. {order}",
        100.0 * LEARNED,
        words[0],
        words[1],
        words[2]
    )
}

fn about_exit(exit: &Swept) -> String {
    let what = "An image leaves the network at the first head whose calibrated confidence reaches the threshold, and the layers after it are not computed.";
    match &exit.recommended {
        Some(point) => format!(
            "{what} Threshold {} saves {:.0}% of the multiply-adds, with an accuracy of {:.1}% instead of the main head's {:.1}%.",
            point.threshold,
            100.0 * (1.0 - point.compute),
            100.0 * point.accuracy,
            100.0 * exit.head_accuracies.first().copied().unwrap_or(0.0)
        ),
        None => format!(
            "{what} On {}, no threshold saves compute for up to half a percentage point of accuracy plus the standard error.",
            plural(exit.calibration_images as u64, "calibration image")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_sentences() {
        assert_eq!(sentence("after 5 epochs: 1%"), "After 5 epochs: 1%.");
    }
}
