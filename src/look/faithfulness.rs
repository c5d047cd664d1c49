//! Faithfulness of heat maps: deletion and insertion curves (Petsiuk et al., "RISE: Randomized
//! Input Sampling for Explanation of Black-box Models", 2018). Pixels are replaced by the mean
//! color, or brought back, in the order of the map. If the map shows what the network uses, the
//! probability of the class falls early, or rises early.

use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::gradcam::{ActivationMap, GradCam};
use crate::error::{Error, Result};

/// Deletion and insertion curves of a heat map.
#[derive(Clone, Debug, PartialEq)]
pub struct Faithfulness {
    /// Probability of the class by the map's head, from the whole image (first) to the mean color
    /// only (last): the pixels with the largest values are deleted first.
    pub deletion: Vec<f32>,
    /// Probability of the class, from the mean color only (first) to the whole image (last): the
    /// pixels with the largest values are inserted first.
    pub insertion: Vec<f32>,
}

impl Faithfulness {
    /// Area under the deletion curve, in [0, 1]; smaller is more faithful.
    pub fn deletion_area(&self) -> f64 {
        area(&self.deletion)
    }

    /// Area under the insertion curve, in [0, 1]; larger is more faithful.
    pub fn insertion_area(&self) -> f64 {
        area(&self.insertion)
    }
}

/// The mean height of a curve with equidistant points, by the trapezoidal rule.
fn area(curve: &[f32]) -> f64 {
    let pairs = curve.windows(2).map(|pair| f64::from(pair[0] + pair[1]) / 2.0);
    pairs.sum::<f64>() / curve.len().saturating_sub(1).max(1) as f64
}

impl GradCam {
    /// The curves of a map of a preprocessed image in `steps` steps. Positions with equal values
    /// are in a random order that depends on `seed`: a map of zeros gives the curves of a random
    /// map of the same resolution, for comparison.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a map without positions or for no steps, otherwise as
    /// [`GradCam::probability`].
    pub async fn faithfulness(
        &mut self,
        image: &[f32],
        map: &ActivationMap,
        steps: usize,
        seed: u64,
    ) -> Result<Faithfulness> {
        if steps == 0 {
            return Err(Error::out_of_range("GradCam::faithfulness", "at least one step", steps));
        }
        let cells = map.width.saturating_mul(map.height);
        if cells == 0 || cells != map.values.len() {
            let allowed = format!("width x height, {cells}");
            return Err(Error::out_of_range("ActivationMap::values", allowed, map.values.len()));
        }
        let side = (image.len() / 3).isqrt();
        let order = order(map, side, seed);
        let (mut deletion, mut insertion) = (Vec::new(), Vec::new());
        for step in 0..=steps {
            let (first, rest) = order.split_at(order.len() * step / steps);
            deletion.push(self.probability(map.head, &without(image, first), map.class).await?);
            insertion.push(self.probability(map.head, &without(image, rest), map.class).await?);
        }
        Ok(Faithfulness { deletion, insertion })
    }
}

/// The image, three planes, with the mean color, which is 0, at these pixels.
fn without(image: &[f32], pixels: &[usize]) -> Vec<f32> {
    let mut image = image.to_vec();
    let plane = image.len() / 3;
    for plane in image.chunks_exact_mut(plane.max(1)) {
        pixels.iter().for_each(|pixel| plane[*pixel] = 0.0);
    }
    image
}

/// The pixels of a square of `side` pixels by descending value of the map, which is interpolated
/// bilinearly as in plots.
fn order(map: &ActivationMap, side: usize, seed: u64) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let ties: Vec<f32> = map.values.iter().map(|_| random.random()).collect();
    let scaled = |values: &[f32]| -> Vec<f32> {
        (0..side * side).map(|i| at(values, (map.width, map.height), side, i)).collect()
    };
    let (values, ties) = (scaled(&map.values), scaled(&ties));
    let mut order: Vec<usize> = (0..side * side).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(ties[*b].total_cmp(&ties[*a])));
    order
}

/// The value of a map at pixel `i` of a square of `side` pixels.
fn at(values: &[f32], (width, height): (usize, usize), side: usize, i: usize) -> f32 {
    let place = |pixel: usize, cells: usize| {
        let place = (pixel as f32 + 0.5) * cells as f32 / side as f32 - 0.5;
        let place = place.clamp(0.0, cells as f32 - 1.0);
        let first = place as usize;
        (first, (first + 1).min(cells - 1), place - first as f32)
    };
    let (left, right, x) = place(i % side, width);
    let (top, bottom, y) = place(i / side, height);
    let row = |row: usize| values[row * width + left] * (1.0 - x) + values[row * width + right] * x;
    row(top) * (1.0 - y) + row(bottom) * y
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(values: &[f32]) -> ActivationMap {
        ActivationMap {
            head: "main",
            class: 0,
            logit: 0.0,
            probability: 0.0,
            top: (0, 0.0),
            height: 2,
            width: 2,
            values: values.to_vec(),
            sum: 0.0,
        }
    }

    #[test]
    fn pixels_are_ordered_by_the_map_and_ties_by_the_seed() {
        let order_of = |values: &[f32], seed| order(&map(values), 4, seed);
        let first = order_of(&[0.0, 1.0, 0.0, 0.0], 1);
        // The corner of the largest value first, then its neighbors.
        assert_eq!(first[0], 3);
        assert!(first[1..4].iter().all(|pixel| [2, 6, 7].contains(pixel)), "{first:?}");
        let mut all = first.clone();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..16));
        // A map of zeros gives random maps of its resolution, not random pixels.
        let orders: Vec<_> = (0..4).map(|seed| order_of(&[0.0; 4], seed)).collect();
        assert!(orders.iter().all(|order| [0, 3, 12, 15].contains(&order[0])), "{orders:?}");
        assert!(orders.iter().any(|order| *order != orders[0]) && orders[1] == order_of(&[0.0; 4], 1));
    }

    #[test]
    fn areas_are_means_of_curves() {
        let curves = Faithfulness { deletion: vec![1.0, 0.0], insertion: vec![0.0, 1.0, 1.0] };
        assert_eq!((curves.deletion_area(), curves.insertion_area()), (0.5, 0.75));
        assert_eq!(without(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[1]), [1.0, 0.0, 3.0, 0.0, 5.0, 0.0]);
    }
}
