//! Augmentation of training images, a pure function of seed, epoch and image index.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::Image;
use super::photometric::{Colours, Photometric};
use super::resample::Region;
use super::split::{Purpose, generator};

/// Crops of a random share of the image's area with a random aspect ratio (the paper's section 6:
/// 8% to 100%, 3/4 to 4/3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AreaCrop {
    /// Smallest share of the area.
    pub min_area: f64,
    /// Largest share of the area.
    pub max_area: f64,
    /// Largest aspect ratio; the smallest is one over it.
    pub max_aspect: f64,
}

/// Random transforms of training images: `Augmentation::shifts().hflip(true)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Augmentation {
    /// Maximum shift as a share of the side, in each direction; the border is repeated.
    pub shift: f64,
    /// Maximum change of scale: 0.1 draws from 0.9 to 1.1.
    pub zoom: f64,
    /// Random resized crops; `None` applies shift and zoom instead.
    pub area: Option<AreaCrop>,
    /// Random horizontal flip, p = 0.5.
    #[serde(alias = "mirror")]
    pub hflip: bool,
    /// Random vertical flip, p = 0.5.
    #[serde(alias = "flip")]
    pub vflip: bool,
    /// Photometric distortions (color jitter); `None` applies none.
    pub photometric: Option<Photometric>,
    /// Random interpolation per image (the paper's section 6): nearest, bilinear, Catmull-Rom cubic
    /// or Lanczos. `false`: bilinear.
    pub random_interpolation: bool,
}

/// The transforms drawn for one image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Drawn {
    pub hflip: bool,
    pub vflip: bool,
    pub colours: Option<Colours>,
    /// Interpolation method, 0 to 3; `None`: bilinear.
    pub interpolation: Option<u8>,
    /// Random numbers in [0, 1) for position and scale.
    pub place: [f64; 2],
    pub size: [f64; 2],
}

impl Augmentation {
    /// Small shifts and changes of scale, no flips: for digits and other images with an
    /// orientation.
    pub fn shifts() -> Self {
        Self { shift: 0.08, zoom: 0.08, ..Self::default() }
    }

    /// Shifts of up to an eighth and horizontal flips, usual for CIFAR.
    pub fn standard() -> Self {
        Self { shift: 0.125, hflip: true, ..Self::default() }
    }

    /// The paper's crops of 8% to 100% of the area and horizontal flips, torchvision's default too.
    pub fn crops() -> Self {
        let area = AreaCrop { min_area: 0.08, max_area: 1.0, max_aspect: 4.0 / 3.0 };
        Self { area: Some(area), hflip: true, ..Self::default() }
    }

    /// Everything in the paper's section 6: crops, horizontal flips, Howard's photometric
    /// distortions, random interpolation.
    pub fn paper() -> Self {
        Self { photometric: Some(Photometric::of(0.5)), random_interpolation: true, ..Self::crops() }
    }

    /// Maximum shift as a share of the side.
    #[must_use]
    pub fn shift(self, shift: f64) -> Self {
        Self { shift, ..self }
    }

    /// Maximum change of scale: 0.1 draws from 0.9 to 1.1.
    #[must_use]
    pub fn zoom(self, zoom: f64) -> Self {
        Self { zoom, ..self }
    }

    /// Random resized crops.
    #[must_use]
    pub fn area(self, area: impl Into<Option<AreaCrop>>) -> Self {
        Self { area: area.into(), ..self }
    }

    /// Random horizontal flip, p = 0.5.
    #[must_use]
    pub fn hflip(self, hflip: bool) -> Self {
        Self { hflip, ..self }
    }

    /// Random vertical flip, p = 0.5.
    #[must_use]
    pub fn vflip(self, vflip: bool) -> Self {
        Self { vflip, ..self }
    }

    /// Photometric distortions (color jitter).
    #[must_use]
    pub fn photometric(self, photometric: impl Into<Option<Photometric>>) -> Self {
        Self { photometric: photometric.into(), ..self }
    }

    /// Random interpolation per image.
    #[must_use]
    pub fn random_interpolation(self, random_interpolation: bool) -> Self {
        Self { random_interpolation, ..self }
    }

    pub(super) fn draw(&self, seed: u64, epoch: u64, index: u64) -> Drawn {
        let mut random = generator(Purpose::Augment, seed, epoch, index);
        let coin: f64 = random.random();
        let (place, size) = ([random.random(), random.random()], [random.random(), random.random()]);
        let (upside_down, method): (f64, u8) = (random.random(), random.random());
        Drawn {
            hflip: self.hflip && coin < 0.5,
            vflip: self.vflip && upside_down < 0.5,
            colours: self.photometric.map(|photometric| photometric.draw(&mut random)),
            interpolation: self.random_interpolation.then_some(method % 4),
            place,
            size,
        }
    }
}

impl Drawn {
    /// The augmented region: `whole` shifted and scaled, or an area crop of `from`.
    pub(super) fn region(
        &self,
        image: &Image,
        whole: Region,
        from: Region,
        augmentation: &Augmentation,
    ) -> Region {
        if let Some(area) = augmentation.area {
            let (left, top, width, height) = from;
            let share = area.min_area + self.size[0] * (area.max_area - area.min_area);
            // The logarithm of the aspect ratio is uniform, so wide and tall crops are equally
            // likely.
            let aspect = ((2.0 * self.size[1] - 1.0) * area.max_aspect.ln()).exp();
            let (w, h) = ((share * width * height * aspect).sqrt(), (share * width * height / aspect).sqrt());
            // A crop that does not fit is scaled down; its aspect ratio stays.
            let fit = (width / w).min(height / h).min(1.0);
            let (w, h) = ((w * fit).min(width), (h * fit).min(height));
            let place = |place: f64, start: f64, side: f64, crop: f64, extent: usize| {
                // The center of a crop stays inside the image, so no crop is all padding.
                let (first, last) =
                    (start.max(-crop / 2.0), (start + side - crop).min(extent as f64 - crop / 2.0));
                first + place * (last - first)
            };
            return (
                place(self.place[0], left, width, w, image.width),
                place(self.place[1], top, height, h, image.height),
                w,
                h,
            );
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Area crop number `index` of an image of this width and height.
    fn crop((width, height): (usize, usize), index: u64) -> Region {
        let image = Image { width, height, channels: 1, pixels: vec![0; width * height] };
        let whole = (0.0, 0.0, width as f64, height as f64);
        let crops = Augmentation::crops();
        crops.draw(1, 0, index).region(&image, whole, whole, &crops)
    }

    #[test]
    fn area_crops_match_the_papers_distribution() {
        for (width, height) in [(64usize, 64usize), (96, 48), (50, 200)] {
            let (w, h) = (width as f64, height as f64);
            let (mut areas, mut aspects) = (Vec::new(), Vec::new());
            for index in 0..2000 {
                let (left, top, wide, high) = crop((width, height), index);
                let inside = left >= 0.0 && top >= 0.0 && left + wide <= w + 1e-9 && top + high <= h + 1e-9;
                assert!(inside, "{left} {top} {wide} {high} of {width} x {height}");
                areas.push(wide * high / (w * h));
                aspects.push(wide / high);
            }
            let ends =
                |values: &[f64]| values.iter().fold((f64::MAX, 0.0f64), |(a, b), v| (a.min(*v), b.max(*v)));
            let ((least, most), (tall, wide)) = (ends(&areas), ends(&aspects));
            // A crop of 8% fits all of these; one of 100% fits only a square image.
            assert!((0.08 - 1e-9..0.09).contains(&least), "{least}");
            let whole = (4.0 / 3.0 * w.min(h) / w.max(h)).min(1.0);
            assert!((0.9 * whole..=whole + 1e-9).contains(&most), "{most} of {whole}");
            assert!(
                (0.75 - 1e-9..0.77).contains(&tall) && (1.3..4.0 / 3.0 + 1e-9).contains(&wide),
                "{tall} {wide}"
            );
            // Wide and tall are equally likely; in a square image so are all areas.
            let share = |count: usize| count as f64 / 2000.0;
            let tall = share(aspects.iter().filter(|a| **a < 1.0).count());
            assert!((tall - 0.5).abs() < 0.05, "{tall}");
            if width == height {
                let small = share(areas.iter().filter(|a| **a < 0.31).count());
                assert!((small - 0.25).abs() < 0.05, "{small}");
            }
        }
    }

    #[test]
    fn flips_and_interpolations_are_drawn_uniformly() {
        let paper = Augmentation { vflip: true, ..Augmentation::paper() };
        let drawn: Vec<Drawn> = (0..1000).map(|index| paper.draw(7, 3, index)).collect();
        for count in [drawn.iter().filter(|d| d.hflip).count(), drawn.iter().filter(|d| d.vflip).count()] {
            assert!((450..550).contains(&count), "{count}");
        }
        for method in 0..4 {
            assert!((200..300).contains(&drawn.iter().filter(|d| d.interpolation == Some(method)).count()));
        }
        assert!(drawn.iter().all(|d| d.colours.is_some()));
        assert_eq!(paper.draw(7, 3, 5), drawn[5]);
        assert_ne!(paper.draw(7, 4, 5), drawn[5]);
    }
}
