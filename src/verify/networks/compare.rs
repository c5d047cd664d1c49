//! Error limits of network results.
//!
//! Errors are relative to the golden value. Values near zero lose leading digits to cancellation (a
//! loss whose probability is nearly one, a gradient whose addends have opposite signs); their
//! errors are relative to a floor derived from the operands.

use std::collections::BTreeMap;

use super::super::{Found, error_beyond, tensor};
use super::{Golden, Outcome, RATE};
use crate::error::Result;
use crate::optim::Optimizer;
use crate::tensor::HostTensor;

const LOGITS: f64 = 1e-5;
const LOSS: f64 = 2e-6;
const GRADIENT: f64 = 1e-4;
const AFTER: f64 = 5e-5;
/// The last layers are not affected by flipped decisions in ReLUs or max pools before them; a wrong
/// weight decay shows here first.
const AFTER_LAST: f64 = 3e-6;
const EVALUATION: f64 = 1e-4;

/// Logits are differences of log-probabilities, so 0.1 is small whatever the others are.
const SMALL_LOGIT: f64 = 0.1;
/// A tensor's gradient is near zero below this share of the RMS of its neighbors.
const SMALL_GRADIENT: f64 = 1e-2;
/// Largest floor per element in that case: activations before the heads are of the order of ten.
const LARGEST_FLOOR: f64 = 0.1;
/// Probabilities are near their labels below this distance, which f32 resolves to 1e-7, a relative
/// 1e-5.
const SMALL_DISTANCE: f64 = 1e-2;
/// A parameter below this share of its gradient is mostly the result of updates and has the
/// gradient's error.
const SMALL_PARAMETER: f64 = 0.02;

/// One comparison of a tensor.
pub(super) struct Item<'a> {
    pub quantity: &'static str,
    pub subject: String,
    /// Computed value; `None` if missing.
    pub got: Option<&'a [f32]>,
    pub want: &'a [f32],
    pub limit: f64,
    /// Lower bound of the norm used for the relative error.
    pub floor: f64,
}

impl Item<'_> {
    /// The error of a result, infinite if it is missing.
    pub(super) fn error(&self) -> f64 {
        self.got.map_or(f64::INFINITY, |got| error_beyond(got, self.want, self.floor))
    }

    /// Distance of two computed results, on the scale of [`Item::error`].
    pub(super) fn distance(&self, other: &Item<'_>) -> f64 {
        let (Some(a), Some(b)) = (self.got, other.got) else { return f64::INFINITY };
        error_beyond(a, b, self.floor.max(norm(self.want)))
    }
}

pub(super) fn compare(golden: &Golden, outcome: &Outcome) -> Result<Vec<Found>> {
    let found = |item: &Item<'_>| Found {
        quantity: item.quantity,
        subject: item.subject.clone(),
        error: item.error(),
        limit: item.limit,
        witness: None,
    };
    Ok(items(golden, outcome)?.iter().map(found).collect())
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// The part of the network that a tensor belongs to, by the losses that reach it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Aux1,
    Aux2,
    /// After both auxiliary heads.
    Main,
    /// Before an auxiliary head.
    Trunk,
}

impl Part {
    fn of(name: &str) -> Self {
        let begins = |layers: &[&str]| layers.iter().any(|layer| name.starts_with(layer));
        if begins(&["loss1/", "aux1."]) {
            Self::Aux1
        } else if begins(&["loss2/", "aux2."]) {
            Self::Aux2
        } else if begins(&["loss3/", "fc."]) || ["4e", "5a", "5b"].iter().any(|block| is_of(name, block)) {
            Self::Main
        } else {
            Self::Trunk
        }
    }
}

/// Whether a tensor belongs to an inception block, in Caffe's or torchvision's naming.
fn is_of(name: &str, block: &str) -> bool {
    let rest = name.strip_prefix("inception_").or_else(|| name.strip_prefix("inception"));
    rest.is_some_and(|rest| rest.starts_with(block))
}

/// Floors for values near zero.
struct Floors<'a> {
    golden: &'a Golden,
    /// RMS of gradient elements by part.
    sizes: BTreeMap<Part, f64>,
    /// RMS distance between probabilities and labels, by head.
    distances: BTreeMap<&'static str, f64>,
    /// Largest magnitude of a logit.
    logit: f64,
}

impl<'a> Floors<'a> {
    fn of(golden: &'a Golden) -> Self {
        let mut sums: BTreeMap<Part, (f64, usize)> = BTreeMap::new();
        for (name, gradient) in &golden.gradients {
            let (sum, count) = sums.entry(Part::of(name)).or_default();
            *sum += norm(&gradient.data).powi(2);
            *count += gradient.data.len();
        }
        let sizes = sums.into_iter().map(|(part, (sum, n))| (part, (sum / n.max(1) as f64).sqrt())).collect();
        let heads = ["main", "aux1", "aux2"];
        let logits = |head: &str| golden.io.get(&format!("logits.{head}"));
        let distance = |head| logits(head).map(|logits| (head, distance(logits, &golden.batch.labels)));
        let largest = |t: &HostTensor| t.data.iter().fold(0.0, |m: f64, v| m.max(f64::from(v.abs())));
        Self {
            golden,
            sizes,
            distances: heads.into_iter().filter_map(distance).collect(),
            logit: heads.into_iter().filter_map(logits).map(largest).fold(1.0, f64::max),
        }
    }

    /// A loss is a difference of two numbers as large as the logits: four ULPs of the largest logit
    /// are within [`LOSS`] of this floor.
    fn loss(&self) -> f64 {
        self.logit / 4.0
    }

    fn gradient(&self, name: &str, want: &HostTensor) -> f64 {
        let part = Part::of(name);
        let head = |head: &str| self.distances.get(head).copied().unwrap_or(1.0);
        let distance = match part {
            Part::Aux1 => head("aux1"),
            Part::Aux2 => head("aux2"),
            Part::Main => head("main"),
            Part::Trunk => self.distances.values().copied().fold(0.0, f64::max),
        };
        let count = (want.data.len() as f64).sqrt();
        let size = SMALL_GRADIENT * self.sizes.get(&part).copied().unwrap_or(0.0) * count;
        let near = (SMALL_DISTANCE / distance.max(1e-30)).max(1.0);
        let base = norm(&want.data).max(size);
        // The golden value may be wrong too, so the floor is limited by the size of activations.
        let floor = base.max((base * near).min(LARGEST_FLOOR * count));
        // Closer to the label than f32 resolves, the golden gradient may have vanished.
        if distance < f64::from(f32::EPSILON) { floor.max(SMALL_GRADIENT * count) } else { floor }
    }

    /// Floor of a tensor after the updates: a parameter near zero is as exact as its gradient, a
    /// running mean as its standard deviation.
    fn after(&self, name: &str, limit: f64) -> f64 {
        if let Some(gradient) = self.golden.gradients.get(name) {
            let own = norm(&gradient.data);
            let excess = (self.gradient(name, gradient) - own).max(0.0);
            let momentum = f64::from(Optimizer::default().momentum);
            let updates: f64 =
                (1..=self.golden.steps).map(|t| (1.0 - momentum.powi(t as i32)) / (1.0 - momentum)).sum();
            return SMALL_PARAMETER * own + f64::from(RATE) * updates * GRADIENT / limit * excess;
        }
        let variance = name.strip_suffix("running_mean").map(|layer| format!("{layer}running_var"));
        let variance = variance.and_then(|name| self.golden.after.get(&name));
        variance
            .map_or(0.0, |variance| variance.data.iter().map(|v| f64::from(*v).max(0.0)).sum::<f64>().sqrt())
    }
}

/// RMS distance between probabilities and one-hot labels: from 0, all correct with probability 1,
/// to the root of 2.
fn distance(logits: &HostTensor, labels: &[u32]) -> f64 {
    let classes = logits.data.len() / labels.len().max(1);
    let rows = logits.data.chunks_exact(classes.max(1)).zip(labels);
    let squares = rows.map(|(row, label)| {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = row.iter().map(|z| f64::from(*z - largest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        let own = *label as usize;
        // One minus the label's probability, without cancellation.
        let others =
            || powers.iter().enumerate().filter(move |(class, _)| *class != own).map(move |(_, p)| p / sum);
        others().sum::<f64>().powi(2) + others().map(|p| p * p).sum::<f64>()
    });
    (squares.sum::<f64>() / labels.len().max(1) as f64).sqrt()
}

/// All comparisons of a golden set, in the same order for every outcome.
pub(super) fn items<'a>(golden: &'a Golden, outcome: &'a Outcome) -> Result<Vec<Item<'a>>> {
    let floors = Floors::of(golden);
    let mut items = Vec::new();
    let logit_floor = |want: &HostTensor| SMALL_LOGIT * (want.data.len() as f64).sqrt();
    for (name, got) in &outcome.logits {
        let want = tensor(&golden.io, name)?;
        let floor = logit_floor(want);
        items.push(item("logits", name.clone(), Some(got), &want.data, LOGITS, floor));
    }
    for (name, got) in &outcome.losses {
        let want = tensor(&golden.io, name)?;
        let got = Some(std::slice::from_ref(got));
        items.push(item("loss", name.clone(), got, &want.data, LOSS, floors.loss()));
    }
    let totals = tensor(&golden.io, "loss.total_per_step")?;
    for (i, want) in totals.data.chunks(1).enumerate() {
        let name = format!("loss.total of step {}", i + 1);
        items.push(item("loss", name, outcome.totals.get(i..=i), want, LOSS, floors.loss()));
    }
    for (name, want) in &golden.gradients {
        let got = outcome.gradients.get(name).map(Vec::as_slice);
        let floor = floors.gradient(name, want);
        items.push(item("gradient", name.clone(), got, &want.data, GRADIENT, floor));
    }
    for (name, want) in golden.after.iter().filter(|(name, _)| !name.ends_with("num_batches_tracked")) {
        let got = outcome.after.get(name).map(Vec::as_slice);
        items.push(item("after steps", name.clone(), got, &want.data, AFTER, floors.after(name, AFTER)));
        if is_last(name) {
            let (quantity, floor) = ("last layers after steps", floors.after(name, AFTER_LAST));
            items.push(item(quantity, name.clone(), got, &want.data, AFTER_LAST, floor));
        }
    }
    let evaluation = format!("logits.main_eval_after_step{}", golden.steps);
    let want = tensor(&golden.io, &evaluation)?;
    let got = Some(&outcome.evaluation[..]);
    items.push(item("evaluation logits", evaluation, got, &want.data, EVALUATION, logit_floor(want)));
    Ok(items)
}

fn item<'a>(
    quantity: &'static str,
    subject: String,
    got: Option<&'a [f32]>,
    want: &'a [f32],
    limit: f64,
    floor: f64,
) -> Item<'a> {
    Item { quantity, subject, got, want, limit, floor }
}

/// Whether a tensor is a parameter of the main head or of inception 5b.
fn is_last(name: &str) -> bool {
    let last = ["loss3/classifier.", "inception_5b/", "fc.", "inception5b."];
    last.iter().any(|layer| name.starts_with(layer)) && !name.contains("running_")
}
