//! Multi-crop testing: several crops per image are classified and their probabilities averaged.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::preprocess::whole_image;
use super::resample::{letterboxed, part, resized, shorter_side};
use super::{Dataset, Fit, Image, Preprocessing};
use crate::error::Result;

/// Crops of an image that are classified and averaged. Sizes are given for an input of 224 and
/// scale with the network's input: 256 means 256 / 224 of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CropTest {
    /// The whole image by [`Preprocessing`], one view.
    #[default]
    Whole,
    /// One view: the center crop of the central square resized to 256.
    One,
    /// Ten views: four corners and center of the central square resized to 256, and their
    /// horizontal flips (Krizhevsky et al. 2012).
    Ten,
    /// The same ten crops of the whole image squashed to 256 x 256, as in Caffe's `classify.py`.
    CaffeTen,
    /// 144 views, section 7 of "Going Deeper with Convolutions": the shorter side resized to 256,
    /// 288, 320 and 352; at each scale the left, center and right square (top, center and bottom in
    /// portraits); of each square the four corners, the center and the whole square resized; and
    /// their horizontal flips.
    Paper,
}

/// Sizes of the shorter side for an input of 224.
const SCALES: [usize; 4] = [256, 288, 320, 352];
const FULL: usize = 224;

impl CropTest {
    /// Crops per image.
    pub fn views(self) -> usize {
        match self {
            Self::Whole | Self::One => 1,
            Self::Ten | Self::CaffeTen => 10,
            Self::Paper => 144,
        }
    }

    /// The data set with each image replaced by its crops at the network's input size: items
    /// `i * views` to `(i + 1) * views - 1` are the crops of image `i`.
    pub fn of(self, set: Arc<dyn Dataset>, preprocessing: &Preprocessing) -> Arc<dyn Dataset> {
        if self == Self::Whole { set } else { Arc::new(CropSet::new(set, self, preprocessing)) }
    }

    /// The squares from which crops are cut.
    fn squares(self, image: &Image, preprocessing: &Preprocessing) -> Vec<Image> {
        let side = |scale: usize| (preprocessing.input * scale + FULL / 2) / FULL;
        match (self, preprocessing.fit) {
            (Self::Whole, _) => vec![image.clone()],
            (Self::CaffeTen, _) | (Self::One | Self::Ten, Fit::Squash) => {
                vec![resized(image, side(SCALES[0]), side(SCALES[0]))]
            }
            (Self::One | Self::Ten, Fit::Pad) => {
                vec![letterboxed(image, side(SCALES[0]), preprocessing.mean_colour())]
            }
            (Self::One | Self::Ten, Fit::Crop) => along(image, side(SCALES[0]), &[1]),
            (Self::Paper, _) => SCALES.iter().flat_map(|s| along(image, side(*s), &[0, 1, 2])).collect(),
        }
    }

    /// Crops per square, without flips.
    fn windows(self) -> usize {
        match self {
            Self::Whole | Self::One => 1,
            Self::Ten | Self::CaffeTen => 5,
            Self::Paper => 6,
        }
    }

    /// Crop `number`, below `views`, from an image's squares.
    fn crop(self, squares: &[Image], input: usize, number: usize) -> Image {
        if self == Self::One {
            let middle = squares[0].width.saturating_sub(input) / 2;
            return cut(&squares[0], middle, middle, input);
        }
        let (mirror, place) = (number % 2 == 1, number / 2);
        let (square, window) = (&squares[place / self.windows() % squares.len()], place % self.windows());
        let free = square.width.saturating_sub(input);
        let (left, top) = match window {
            0 => (0, 0),
            1 => (free, 0),
            2 => (0, free),
            3 => (free, free),
            _ => (free / 2, free / 2),
        };
        let crop = if window == 5 { resized(square, input, input) } else { cut(square, left, top, input) };
        if mirror { mirrored(&crop) } else { crop }
    }
}

/// A data set with each image replaced by its crops.
#[derive(Debug)]
pub struct CropSet {
    set: Arc<dyn Dataset>,
    test: CropTest,
    preprocessing: Preprocessing,
    /// Cache of squares: all crops of an image are requested at about the same time.
    recent: Mutex<VecDeque<(usize, Arc<Vec<Image>>)>>,
}

/// Capacity of the cache: the images that a loader's threads work on.
const RECENT: usize = 12;

impl CropSet {
    /// The crops of `set` for a network with this preprocessing.
    pub fn new(set: Arc<dyn Dataset>, test: CropTest, preprocessing: &Preprocessing) -> Self {
        Self { set, test, preprocessing: preprocessing.clone(), recent: Mutex::default() }
    }

    fn squares(&self, index: usize) -> Result<Arc<Vec<Image>>> {
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, squares)) = recent().iter().find(|(i, _)| *i == index) {
            return Ok(Arc::clone(squares));
        }
        let squares =
            Arc::new(self.test.squares(&whole_image(self.set.as_ref(), index)?, &self.preprocessing));
        let mut recent = recent();
        recent.push_back((index, Arc::clone(&squares)));
        if recent.len() > RECENT {
            recent.pop_front();
        }
        Ok(squares)
    }
}

impl Dataset for CropSet {
    fn len(&self) -> usize {
        self.set.len() * self.test.views()
    }

    fn classes(&self) -> &[String] {
        self.set.classes()
    }

    fn label(&self, index: usize) -> u32 {
        self.set.label(index / self.test.views())
    }

    fn image(&self, index: usize) -> Result<Image> {
        let views = self.test.views();
        let squares = self.squares(index / views)?;
        Ok(self.test.crop(&squares, self.preprocessing.input, index % views))
    }

    fn name(&self, index: usize) -> String {
        self.set.name(index / self.test.views())
    }
}

/// Squares of an image with its shorter side resized to `side`; 0, 1 and 2 are the start, center
/// and end of the long side.
fn along(image: &Image, side: usize, places: &[usize]) -> Vec<Image> {
    let whole = shorter_side(image, side, |extent, shorter| (extent * side + shorter / 2) / shorter);
    let (wide, high) = (whole.width - side, whole.height - side);
    places.iter().map(|place| cut(&whole, wide * place / 2, high * place / 2, side)).collect()
}

/// The square of `size` pixels at (left, top), which must be inside the image.
fn cut(image: &Image, left: usize, top: usize, size: usize) -> Image {
    part(image, (left, top), (size, size))
}

fn mirrored(image: &Image) -> Image {
    let row = |row: &[u8]| row.chunks(image.channels).rev().flatten().copied().collect::<Vec<u8>>();
    let pixels = image.pixels.chunks(image.width * image.channels).flat_map(row).collect();
    Image { pixels, ..image.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Uniform;

    /// An image with red = column / 2 and green = row / 2.
    fn image(width: usize, height: usize) -> Image {
        let pixels =
            (0..width * height).flat_map(|i| [(i % width / 2) as u8, (i / width / 2) as u8, 0]).collect();
        Image { width, height, channels: 3, pixels }
    }

    fn crops(test: CropTest, of: &Image) -> Vec<Image> {
        let preprocessing = Preprocessing::new(224);
        let squares = test.squares(of, &preprocessing);
        (0..test.views()).map(|i| test.crop(&squares, 224, i)).collect()
    }

    fn corner(image: &Image) -> (u8, u8) {
        (image.pixels[0], image.pixels[1])
    }

    #[test]
    fn ten_crops_are_corners_center_and_flips() {
        // The central square of 256 begins at column 64.
        let crops = crops(CropTest::Ten, &image(384, 256));
        assert_eq!(crops.len(), 10);
        let corners: Vec<(u8, u8)> = crops.iter().step_by(2).map(corner).collect();
        assert_eq!(corners, [(32, 0), (48, 0), (32, 16), (48, 16), (40, 8)]);
        for pair in crops.chunks(2) {
            assert_eq!(mirrored(&pair[0]), pair[1]);
            assert_ne!(pair[0], pair[1]);
        }
    }

    #[test]
    fn one_crop_is_the_center_of_the_central_square() {
        let one = crops(CropTest::One, &image(384, 256));
        assert_eq!((one.len(), corner(&one[0]), one[0].width), (1, (40, 8), 224));
        assert_eq!(one[0], crops(CropTest::Ten, &image(384, 256))[8]);
    }

    #[test]
    fn crops_with_padding_are_cut_from_the_letterboxed_image() {
        let preprocessing = Preprocessing { fit: Fit::Pad, mean: [0.5; 3], ..Preprocessing::new(224) };
        for test in [CropTest::One, CropTest::Ten] {
            let squares = test.squares(&image(512, 256), &preprocessing);
            assert_eq!((squares.len(), squares[0].width, squares[0].height), (1, 256, 256));
            let at = |x: usize, y: usize| &squares[0].pixels[3 * (y * 256 + x)..][..3];
            // Bars of the mean color above and below, with all columns between them.
            assert_eq!((at(0, 0), at(255, 63), at(100, 192)), (&[128; 3][..], &[128; 3][..], &[128; 3][..]));
            assert!(at(0, 128)[0] < 2 && at(255, 128)[0] > 250, "{:?}", at(255, 128));
        }
    }

    #[test]
    fn caffe_ten_squashes_the_whole_image() {
        let crops = crops(CropTest::CaffeTen, &image(512, 256));
        // The left and right crops cover the whole width, so their outer columns match the image's.
        let right = &crops[2].pixels[3 * 223];
        assert!(crops[0].pixels[0] < 2 && *right > 250, "{right}");
    }

    #[test]
    fn paper_crops_are_144_views() {
        let landscape = crops(CropTest::Paper, &image(400, 256));
        assert_eq!(landscape.len(), 144);
        assert!(landscape.iter().all(|c| (c.width, c.height, c.pixels.len()) == (224, 224, 224 * 224 * 3)));
        // At the first scale nothing is resized: squares start at columns 0, 72 and 144, and crops
        // at offsets 0 or 32 in them.
        let first: Vec<(u8, u8)> = landscape.iter().step_by(2).take(18).map(corner).collect();
        for (square, left) in [0, 72, 144].into_iter().enumerate() {
            let at = |dx: u8, dy: u8| ((left + dx) / 2, dy / 2);
            assert_eq!(
                first[6 * square..6 * square + 5],
                [at(0, 0), at(32, 0), at(0, 32), at(32, 32), at(16, 16)]
            );
        }
        // The last crop of a square is the whole square.
        let whole = &landscape[10];
        assert!(whole.pixels[0] < 2 && whole.pixels[3 * 223] > 125, "{:?}", &whole.pixels[3 * 220..3 * 224]);
        let distinct: std::collections::BTreeSet<&Vec<u8>> = landscape.iter().map(|c| &c.pixels).collect();
        // In this smooth image a few whole squares are equal at several scales.
        assert!(distinct.len() > 130, "{} crops differ", distinct.len());
        // In portraits the squares are stacked vertically.
        let portrait = crops(CropTest::Paper, &image(256, 400));
        assert_eq!((corner(&portrait[12]), corner(&portrait[24])), ((0, 36), (0, 72)));
    }

    #[test]
    fn crop_set_keeps_labels_and_names() {
        let pixels = image(40, 40).pixels.repeat(2);
        let classes = vec!["a".to_string(), "b".to_string()];
        let set = Uniform {
            source: "set".into(),
            classes,
            width: 40,
            height: 40,
            channels: 3,
            pixels,
            labels: vec![1, 0],
        };
        let crops = CropTest::Ten.of(Arc::new(set), &Preprocessing::new(32));
        assert_eq!((crops.len(), crops.label(9), crops.label(10)), (20, 1, 0));
        assert_eq!(crops.name(19), "set #1");
        let crop = crops.image(13).expect("a crop");
        assert_eq!((crop.width, crop.height), (32, 32));
        assert_eq!(crops.image(3).expect("a crop"), crop);
    }
}
