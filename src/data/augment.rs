//! Augmentation: what is done to a training picture is a pure function of seed, epoch and the picture's number.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::Picture;
use super::photometric::{Colours, Photometric};
use super::preprocess::Region;
use super::split::{Purpose, generator};

/// Crops of a random share of the picture's area with a random aspect ratio (the paper's section 6: 8% to 100%, 3/4 to 4/3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AreaCrop {
    /// Smallest share of the area.
    pub min_area: f64,
    /// Largest share of the area.
    pub max_area: f64,
    /// Largest aspect ratio; the smallest is one over it.
    pub max_aspect: f64,
}

/// What may be done to a training picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Augmentation {
    /// Shift by up to this share of the side in each direction; the border is repeated.
    pub shift: f64,
    /// Change of size by up to this share, either way.
    pub zoom: f64,
    /// Crops by area; shift and zoom do not apply then.
    pub area: Option<AreaCrop>,
    /// Whether half of the pictures are mirrored.
    pub mirror: bool,
    /// Whether half of the pictures are turned upside down.
    pub flip: bool,
    /// Changes of colours.
    pub photometric: Option<Photometric>,
    /// Whether pictures are resized by a method drawn for each (the paper's section 6): nearest, bilinear, Catmull-Rom's cubic or Lanczos.
    pub random_interpolation: bool,
}

/// What is done to one picture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Drawn {
    pub mirror: bool,
    pub flip: bool,
    pub colours: Option<Colours>,
    /// Which of the methods of interpolation, if it is drawn.
    pub interpolation: Option<u8>,
    /// Numbers from 0 to 1.
    place: [f64; 2],
    size: [f64; 2],
}

impl Augmentation {
    /// Small shifts and changes of size: for digits and other pictures that must not be mirrored.
    pub fn shifts() -> Self {
        Self { shift: 0.08, zoom: 0.08, ..Self::default() }
    }

    /// Shifts of an eighth and mirroring: what CIFAR is trained with.
    pub fn standard() -> Self {
        Self { shift: 0.125, mirror: true, ..Self::default() }
    }

    /// The paper's crops of 8% to 100% of the area, and mirroring: what torchvision trains with too.
    pub fn crops() -> Self {
        let area = AreaCrop { min_area: 0.08, max_area: 1.0, max_aspect: 4.0 / 3.0 };
        Self { area: Some(area), mirror: true, ..Self::default() }
    }

    /// All that the paper's section 6 names: its crops, mirroring, Howard's photometric distortions, random interpolation.
    pub fn paper() -> Self {
        Self { photometric: Some(Photometric::of(0.5)), random_interpolation: true, ..Self::crops() }
    }

    pub(super) fn draw(&self, seed: u64, epoch: u64, index: u64) -> Drawn {
        let mut random = generator(Purpose::Augment, seed, epoch, index);
        let coin: f64 = random.random();
        let (place, size) = ([random.random(), random.random()], [random.random(), random.random()]);
        let (upside_down, method): (f64, u8) = (random.random(), random.random());
        Drawn {
            mirror: self.mirror && coin < 0.5,
            flip: self.flip && upside_down < 0.5,
            colours: self.photometric.map(|photometric| photometric.draw(&mut random)),
            interpolation: self.random_interpolation.then_some(method % 4),
            place,
            size,
        }
    }
}

impl Drawn {
    /// The part of the picture that is looked at instead of `whole`.
    pub(super) fn region(&self, picture: &Picture, whole: Region, augmentation: &Augmentation) -> Region {
        if let Some(area) = augmentation.area {
            let (width, height) = (picture.width as f64, picture.height as f64);
            let share = area.min_area + self.size[0] * (area.max_area - area.min_area);
            // The logarithm of the aspect ratio is uniform, so that wide and tall are as likely.
            let aspect = ((2.0 * self.size[1] - 1.0) * area.max_aspect.ln()).exp();
            let w = (share * width * height * aspect).sqrt().clamp(1.0, width);
            let h = (share * width * height / aspect).sqrt().clamp(1.0, height);
            return (self.place[0] * (width - w), self.place[1] * (height - h), w, h);
        }
        let (left, top, width, height) = whole;
        let zoom = 1.0 + (2.0 * self.size[0] - 1.0) * augmentation.zoom;
        let (w, h) = (width * zoom, height * zoom);
        let shift = |place: f64, side: f64| (2.0 * place - 1.0) * augmentation.shift * side;
        (
            left + (width - w) / 2.0 + shift(self.place[0], width),
            top + (height - h) / 2.0 + shift(self.place[1], height),
            w,
            h,
        )
    }
}
