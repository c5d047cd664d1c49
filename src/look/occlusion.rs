//! Occlusion maps (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks",
//! 2014): a grey square is moved over the image, and where the class becomes less probable under it
//! is what the network looks at. Slower than Grad-CAM, and takes no gradient on trust.

use std::ops::ControlFlow;

use crate::data::Batch;
use crate::error::{Error, Result};
use crate::infer::{Classifier, top};

/// How an image is covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occlusion {
    /// Height and width of the square in pixels.
    pub window: usize,
    /// Pixels from one place to the next, at most: places are spread evenly.
    pub stride: usize,
}

/// What covering each place changes.
#[derive(Clone, Debug, PartialEq)]
pub struct OcclusionMap {
    /// The class that the map is about.
    pub class: usize,
    /// Its probability in the whole image.
    pub probability: f32,
    /// Places along each side.
    pub side: usize,
    /// side x side: how much of the probability is lost; below zero where covering helps.
    pub drops: Vec<f32>,
}

impl Occlusion {
    /// A square of an eighth of the input, moved by half of itself.
    pub fn suited(input: usize) -> Self {
        let window = (input / 8).max(2);
        Self { window, stride: (window / 2).max(1) }
    }

    /// Places along a side of `input` pixels.
    pub fn places(self, input: usize) -> usize {
        input.div_ceil(self.stride.max(1))
    }

    /// The image, 3 x input x input, with the square around one place set to zero, which is the
    /// mean colour.
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
    /// probable one. Places are classified in batches; `observe` is told how many are done and may
    /// end it.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a square without extent or a class that there is not,
    /// [`Error::Interrupted`] if `observe` ended it, [`Error::Tensor`] if the image has the wrong
    /// size, and what the device reports.
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
        let whole = whole.first().ok_or_else(|| Error::tensor("softmax", "gave nothing"))?;
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
    fn squares_cover_the_image() {
        let occlusion = Occlusion { window: 3, stride: 2 };
        assert_eq!(occlusion.places(5), 3);
        let image = vec![1.0; 3 * 25];
        let mut covered = [false; 25];
        for place in 0..9 {
            let one = occlusion.cover(&image, 5, place);
            let zeros = |c: usize| one[c * 25..(c + 1) * 25].iter().filter(|v| **v == 0.0).count();
            // At the image's end a square is cut.
            assert!(zeros(0) >= 1 && zeros(0) == zeros(1) && zeros(1) == zeros(2), "{place}");
            covered.iter_mut().zip(&one).for_each(|(c, v)| *c |= *v == 0.0);
        }
        assert!(covered.iter().all(|c| *c));
        // No place lies outside, however the stride divides the input.
        let sparse = Occlusion { window: 2, stride: 30 };
        let image = vec![1.0; 3 * 32 * 32];
        let zeros = |place| sparse.cover(&image, 32, place).iter().filter(|v| **v == 0.0).count();
        assert!((0..sparse.places(32).pow(2)).all(|place| zeros(place) == 3 * 4));
        assert_eq!(Occlusion::suited(224), Occlusion { window: 28, stride: 14 });
    }
}
