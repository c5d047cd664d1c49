//! Occlusion maps (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks",
//! 2014): a gray square is moved over the image, and the drop of the class's probability shows
//! which regions matter. Slower than Grad-CAM, but independent of gradients.

use std::ops::ControlFlow;

use crate::data::Batch;
use crate::error::{Error, Result};
use crate::infer::{Classifier, top};

/// Size and step of the occluding square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occlusion {
    /// Height and width of the square in pixels.
    pub window: usize,
    /// Maximum step between positions in pixels; positions are spread evenly.
    pub stride: usize,
}

/// The change of probability by position.
#[derive(Clone, Debug, PartialEq)]
pub struct OcclusionMap {
    /// The class of the map.
    pub class: usize,
    /// Its probability for the whole image.
    pub probability: f32,
    /// Positions along each side.
    pub side: usize,
    /// side x side drops of the probability; negative where occlusion raises it.
    pub drops: Vec<f32>,
}

impl Occlusion {
    /// A square of 1/8 of the input's side, moved by half its side.
    pub fn suited(input: usize) -> Self {
        let window = (input / 8).max(2);
        Self { window, stride: (window / 2).max(1) }
    }

    /// Positions along a side of `input` pixels.
    pub fn places(self, input: usize) -> usize {
        input.div_ceil(self.stride.max(1))
    }

    /// The image, 3 x input x input, with the square at one position set to zero, the mean color.
    fn cover(self, image: &[f32], input: usize, place: usize) -> Vec<f32> {
        let side = self.places(input);
        let range = |place: usize| {
            let middle = (2 * place + 1) * input / (2 * side);
            let from = middle.saturating_sub(self.window / 2);
            from..(middle + self.window.div_ceil(2)).min(input)
        };
        let mut covered = image.to_vec();
        for c in 0..3 {
            for y in range(place / side) {
                let row = (c * input + y) * input;
                range(place % side).for_each(|x| covered[row + x] = 0.0);
            }
        }
        covered
    }

    /// The map for a class of a preprocessed image of `input` pixels; by default for the most
    /// probable one. Positions are classified in batches; `observe` is called with the number done
    /// and may stop early.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for an empty square or an unknown class, [`Error::Interrupted`] if
    /// `observe` stopped it, [`Error::Tensor`] if the image has the wrong size, and errors of the
    /// device.
    pub async fn map(
        self,
        classifier: &mut Classifier,
        image: &[f32],
        input: usize,
        class: Option<usize>,
        mut observe: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<OcclusionMap> {
        if self.window == 0 || self.window > input {
            let allowed = format!("from 1 to {input} pixels");
            return Err(Error::out_of_range("Occlusion::window", allowed, self.window));
        }
        if self.stride == 0 {
            return Err(Error::out_of_range("Occlusion::stride", "above zero", 0));
        }
        let batch = classifier.batch();
        let whole = classifier.probabilities(&Batch::of(batch, &[image.to_vec()])).await?;
        let whole = whole.first().ok_or_else(|| Error::tensor("softmax", "returned no probabilities"))?;
        let class = class.unwrap_or_else(|| top(whole, 1).first().map_or(0, |p| p.class));
        let probability = *whole.get(class).ok_or_else(|| {
            Error::out_of_range(
                "OcclusionMap::class",
                format!("below {}, the network's classes", whole.len()),
                class,
            )
        })?;
        let side = self.places(input);
        let places: Vec<usize> = (0..side * side).collect();
        let mut drops = Vec::with_capacity(places.len());
        for chunk in places.chunks(batch) {
            let covered: Vec<Vec<f32>> = chunk.iter().map(|p| self.cover(image, input, *p)).collect();
            let rows = classifier.probabilities(&Batch::of(batch, &covered)).await?;
            drops.extend(rows.iter().map(|row| probability - row[class]));
            if observe(drops.len()).is_break() {
                return Err(Error::Interrupted);
            }
        }
        Ok(OcclusionMap { class, probability, side, drops })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_cover_the_whole_image() {
        let occlusion = Occlusion { window: 3, stride: 2 };
        assert_eq!(occlusion.places(5), 3);
        let image = vec![1.0; 3 * 25];
        let mut covered = [false; 25];
        for place in 0..9 {
            let one = occlusion.cover(&image, 5, place);
            let zeros = |c: usize| one[c * 25..(c + 1) * 25].iter().filter(|v| **v == 0.0).count();
            // A square is clipped at the image's border.
            assert!(zeros(0) >= 1 && zeros(0) == zeros(1) && zeros(1) == zeros(2), "{place}");
            covered.iter_mut().zip(&one).for_each(|(c, v)| *c |= *v == 0.0);
        }
        assert!(covered.iter().all(|c| *c));
        // No position is outside, for any ratio of stride and input.
        let sparse = Occlusion { window: 2, stride: 30 };
        let image = vec![1.0; 3 * 32 * 32];
        let zeros = |place| sparse.cover(&image, 32, place).iter().filter(|v| **v == 0.0).count();
        assert!((0..sparse.places(32).pow(2)).all(|place| zeros(place) == 3 * 4));
        assert_eq!(Occlusion::suited(224), Occlusion { window: 28, stride: 14 });
    }
}
