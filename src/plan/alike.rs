//! Default implementations of nodes that run at the same time: the same where that makes them one
//! dispatch.

use std::any::TypeId;
use std::collections::{BTreeMap, HashMap};

use super::ENOUGH_INTENSITY;
use crate::graph::{Graph, NodeId, TensorId};
use crate::kernel::{Implementation, Kernel, Profile, alike};

/// A node and the implementations to choose from.
pub(super) struct Offer {
    pub node: NodeId,
    pub list: Vec<Implementation>,
    /// Position in the list of the implementation to use.
    pub choice: usize,
    /// Whether the choice was measured.
    pub measured: bool,
}

/// FLOP of a kernel that takes longer than a dispatch with its barrier.
const LONG: u64 = 1 << 29;

/// Part of [`ENOUGH_INTENSITY`] that suffices for a dispatch less: smaller tiles are read more
/// often, but from caches.
pub const ENOUGH_OF_A_GROUP: f64 = 0.75;

/// FLOP of an implementation's main kernel, and FLOP per byte of storage; none if it does not say.
fn intensity(implementation: &Implementation) -> Option<(u64, f64)> {
    let told = implementation.kernels.iter().filter_map(|kernel| kernel.traffic);
    let main = told.max_by_key(|traffic| traffic.flops)?;
    Some((main.flops, main.flops as f64 / main.storage().max(1) as f64))
}

/// Whether `other` can replace a node's default: it has the same need of matrices, and is not
/// limited by memory where a long default is not.
fn replaces(other: &Implementation, default: &Implementation) -> bool {
    let as_fast = intensity(other).zip(intensity(default)).is_none_or(|((_, other), (flops, default))| {
        flops < LONG || other >= ENOUGH_OF_A_GROUP * default.min(ENOUGH_INTENSITY)
    });
    other.matrices == default.matrices && as_fast
}

/// Gives nodes of one operation that can run at the same time, on planes of one size,
/// implementations that make as few dispatches as possible, the best for most of them.
pub(super) fn unify(graph: &Graph, offers: &mut [Offer], profile: &Profile) {
    let depths = depths(graph);
    let mut sets: BTreeMap<(usize, TypeId, Vec<usize>), Vec<usize>> = BTreeMap::new();
    for (i, offer) in offers.iter().enumerate().filter(|(_, offer)| !offer.measured) {
        let node = graph.node(offer.node);
        let op: &dyn std::any::Any = node.op.as_ref();
        let plane =
            node.outputs.first().and_then(|t| graph.tensor(*t).spec.dims().get(2..)).unwrap_or_default();
        sets.entry((depths[offer.node.index()], op.type_id(), plane.to_vec())).or_default().push(i);
    }
    for set in sets.into_values().filter(|set| set.len() > 1) {
        let best = candidates(&offers[set[0]], profile)
            .filter_map(|(name, _)| {
                let places: Option<Vec<(usize, usize)>> = set
                    .iter()
                    .map(|i| {
                        let position =
                            candidates(&offers[*i], profile).position(|(other, _)| other == name)?;
                        let (_, place) = candidates(&offers[*i], profile).nth(position)?;
                        Some((position, place))
                    })
                    .collect();
                let places = places?;
                let kernels = set.iter().zip(&places).map(|(i, (_, place))| &offers[*i].list[*place].kernels);
                let rank: usize = places.iter().map(|(position, _)| position).sum();
                Some(((dispatches(kernels), rank), places))
            })
            .min_by_key(|(cost, _)| *cost);
        let Some((_, places)) = best else { continue };
        for (i, (_, place)) in set.into_iter().zip(places) {
            offers[i].choice = place;
        }
    }
}

/// The implementations that could be a node's default, the best first, with their places in its
/// list.
fn candidates<'a>(
    offer: &'a Offer,
    profile: &'a Profile,
) -> impl Iterator<Item = (&'static str, usize)> + 'a {
    let list = offer.list.iter().enumerate();
    let default = &offer.list[offer.choice];
    let suits =
        move |i: &Implementation| i.fits(profile) && i.suits.contains(&profile.class) && replaces(i, default);
    list.filter(move |(_, implementation)| suits(implementation)).map(|(place, i)| (i.name, place))
}

/// Dispatches of nodes with these kernels, which run at the same time.
fn dispatches<'a>(nodes: impl Iterator<Item = &'a Vec<Kernel>>) -> usize {
    let mut distinct: Vec<(usize, &Kernel)> = Vec::new();
    for kernels in nodes {
        // The last kernels of longer implementations run later.
        for (place, kernel) in kernels.iter().enumerate() {
            if !distinct.iter().any(|(other, k)| *other == place && alike(k, kernel)) {
                distinct.push((place, kernel));
            }
        }
    }
    distinct.len()
}

/// For each node, the nodes on the longest path to it.
fn depths(graph: &Graph) -> Vec<usize> {
    let mut of_tensor: HashMap<TensorId, usize> = HashMap::new();
    let mut depths = Vec::new();
    for (_, node) in graph.nodes() {
        let depth = 1 + node.inputs.iter().filter_map(|t| of_tensor.get(t)).max().copied().unwrap_or(0);
        of_tensor.extend(node.outputs.iter().map(|t| (*t, depth)));
        depths.push(depth);
    }
    depths
}
