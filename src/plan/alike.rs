//! Default implementations of nodes that run at the same time: the same where that makes them one
//! dispatch.

use std::any::TypeId;
use std::collections::{BTreeMap, HashMap};

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

/// Gives nodes of one operation that can run at the same time, on planes of one size, implementations that make as few
/// dispatches as possible, the best for most of them.
pub(super) fn unify(graph: &Graph, offers: &mut [Offer], profile: &Profile) {
    let depths = depths(graph);
    let mut sets: BTreeMap<(usize, TypeId, Vec<usize>), Vec<usize>> = BTreeMap::new();
    for (i, offer) in offers.iter().enumerate().filter(|(_, offer)| !offer.measured) {
        let node = graph.node(offer.node);
        let op: &dyn std::any::Any = node.op.as_ref();
        let plane = node.outputs.first().and_then(|t| graph.tensor(*t).spec.dims().get(2..)).unwrap_or_default();
        sets.entry((depths[offer.node.index()], op.type_id(), plane.to_vec())).or_default().push(i);
    }
    for set in sets.into_values().filter(|set| set.len() > 1) {
        let best = candidates(&offers[set[0]], profile)
            .filter_map(|(name, _)| {
                let places: Option<Vec<(usize, usize)>> = set
                    .iter()
                    .map(|i| {
                        let position = candidates(&offers[*i], profile).position(|(other, _)| other == name)?;
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

/// The implementations that could be a node's default, the best first, with their places in its list.
fn candidates<'a>(
    offer: &'a Offer,
    profile: &'a Profile,
) -> impl Iterator<Item = (&'static str, usize)> + 'a {
    let list = offer.list.iter().enumerate();
    let suits = |i: &Implementation| i.fits(profile) && i.suits.contains(&profile.class);
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
