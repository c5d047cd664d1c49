//! A figure with a grid of images and captions.

use image::RgbImage;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::plot::{Area, Drawn, Figure, INK, SOFT, Unit, heading, legible, text_width};
use super::raster::{Heat, Placed};

/// An image with its caption.
#[derive(Debug)]
pub(crate) struct Tile {
    pub image: RgbImage,
    /// Lines of text with their colors.
    pub caption: Vec<(String, RGBColor)>,
}

/// The contents of the figure.
#[derive(Debug)]
pub(crate) struct Tiles {
    pub title: String,
    pub subtitle: String,
    pub columns: usize,
    /// Headings of the columns; may be empty.
    pub heads: Vec<(String, RGBColor)>,
    /// The labels of the ends of the color scale of heat maps, at the top right; may be absent.
    pub scale: Option<(String, String)>,
    /// Width and height of a tile in the layout.
    pub tile: u32,
    pub tiles: Vec<Tile>,
}

const MARGIN: u32 = 28;
const GAP: u32 = 14;
const TEXT: i32 = 12;
const SMALL: i32 = 10;
const LINE: u32 = 16;
const HEADING: u32 = 78;
/// Width and height of the color scale.
const SCALE: (u32, u32) = (132, 10);
/// Minimum width, for title and subtitle.
const MIN_WIDTH: u32 = 560;

/// The text in letters of the embedded font, shortened to `width` pixels of the layout. The
/// ellipsis is in the middle: names often have the same prefix, and end with a number.
pub(crate) fn fitted(text: &str, width: u32, size: i32) -> String {
    let text = legible(text);
    let fits = |text: &String| text_width(text, size) <= width;
    let most = (2..=text.chars().count()).rev();
    most.map(|most| shortened(&text, most)).find(fits).unwrap_or_else(|| shortened(&text, 2))
}

/// Shortens a text to up to `most` letters from its beginning and end.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_string();
    }
    let last = most.saturating_sub(1) / 2;
    let first = most.saturating_sub(1) - last;
    text.chars().take(first).chain(['…']).chain(text.chars().skip(count - last)).collect()
}

impl Tiles {
    fn columns(&self) -> usize {
        self.columns.clamp(1, self.tiles.len().max(1))
    }

    fn row_height(&self) -> u32 {
        let lines = self.tiles.iter().map(|t| t.caption.len()).max().unwrap_or(0) as u32;
        self.tile + lines * LINE + if lines > 0 { GAP + 4 } else { GAP }
    }

    fn top(&self) -> u32 {
        HEADING + if self.heads.is_empty() { 0 } else { LINE + 4 }
    }

    /// The left and top of a tile in the layout.
    fn place(&self, index: usize) -> (u32, u32) {
        let (column, row) = ((index % self.columns()) as u32, (index / self.columns()) as u32);
        (MARGIN + column * (self.tile + GAP), self.top() + row * self.row_height())
    }

    /// The width and height of an image in its tile, with its aspect ratio.
    fn fit(&self, image: &RgbImage) -> (u32, u32) {
        let longer = image.width().max(image.height()).max(1);
        ((image.width() * self.tile / longer).max(1), (image.height() * self.tile / longer).max(1))
    }
}

impl Tiles {
    /// Draws the color scale, if there is one.
    fn draw_scale<DB: DrawingBackend>(&self, root: &Area<DB>, unit: Unit) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let Some((low, high)) = &self.scale else { return Ok(()) };
        let (heat, (width, height)) = (Heat::new(), SCALE);
        let px = |layout: u32| unit.px(layout.cast_signed());
        let (left, top) = (self.size().0 - MARGIN - width, 26);
        for i in 0..width {
            let [red, green, blue] = heat.color(i as f32 / (width - 1) as f32);
            let strip = [(px(left + i), px(top)), (px(left + i + 1), px(top + height))];
            root.draw(&Rectangle::new(strip, RGBColor(red, green, blue).filled()))?;
        }
        let ends = [(low, left, HPos::Left), (high, left + width, HPos::Right)];
        for (words, x, side) in ends {
            let style = unit.text(TEXT, &SOFT).pos(Pos::new(side, VPos::Top));
            root.draw(&Text::new(words.clone(), (px(x), px(top + height + 5)), style))?;
        }
        Ok(())
    }
}

impl Figure for Tiles {
    fn size(&self) -> (u32, u32) {
        let rows = self.tiles.len().div_ceil(self.columns()) as u32;
        let width = 2 * MARGIN + self.columns() as u32 * (self.tile + GAP) - GAP;
        (width.max(MIN_WIDTH), self.top() + rows * self.row_height() + 4)
    }

    fn draw<DB: DrawingBackend>(&self, root: &Area<DB>, unit: Unit) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let scale = if self.scale.is_some() { SCALE.0 + 2 * GAP } else { 0 };
        let room = self.size().0 - 2 * MARGIN - scale;
        heading(root, unit, &fitted(&self.title, room, 22), &fitted(&self.subtitle, room, 14))?;
        self.draw_scale(root, unit)?;
        let px = |layout: u32| unit.px(layout.cast_signed());
        let text = |text: &str, color: &RGBColor, left: u32, top: u32| {
            // Long text is first set smaller, then shortened.
            let room = self.tile + GAP;
            let size = if fitted(text, room, TEXT) == text { TEXT } else { SMALL };
            let style = unit.text(size, color).pos(Pos::new(HPos::Center, VPos::Top));
            let text = fitted(text, room, size);
            root.draw(&Text::new(text, (px(left + self.tile / 2), px(top)), style))
        };
        for (column, (head, color)) in self.heads.iter().take(self.columns()).enumerate() {
            text(head, color, self.place(column).0, HEADING - 2)?;
        }
        for (i, tile) in self.tiles.iter().enumerate() {
            let (left, top) = self.place(i);
            for (line, (words, color)) in tile.caption.iter().enumerate() {
                text(words, color, left, top + self.tile + 5 + line as u32 * LINE)?;
            }
            // A thin frame, so that white images have an edge.
            let (width, height) = self.fit(&tile.image);
            let (x, y) = (left + (self.tile - width) / 2, top + (self.tile - height) / 2);
            let line = unit.px(1);
            let edge = [(px(x) - line, px(y) - line), (px(x + width) + line, px(y + height) + line)];
            root.draw(&Rectangle::new(edge, INK.mix(0.35).filled()))?;
        }
        Ok(())
    }

    fn images(&self) -> Vec<Placed<'_>> {
        let placed = self.tiles.iter().enumerate().map(|(i, tile)| {
            let ((left, top), (width, height)) = (self.place(i), self.fit(&tile.image));
            let (left, top) = (left + (self.tile - width) / 2, top + (self.tile - height) / 2);
            Placed { image: &tile.image, left, top, width, height }
        });
        placed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_shortened_in_the_middle() {
        assert_eq!(fitted("cat", 100, 12), "cat");
        let short = fitted("standard schnauzer 77%", 72, 12);
        assert!(short.starts_with("stan") && short.ends_with(" 77%") && short.contains('…'), "{short}");
        assert_eq!((shortened("abcdef", 6), shortened("abcdef", 4)), ("abcdef".into(), "ab…f".into()));
    }

    #[test]
    fn images_keep_their_aspect_ratio_and_fit_the_figure() {
        let tile = |w, h| Tile { image: RgbImage::new(w, h), caption: vec![("x".into(), INK)] };
        let tiles = Tiles {
            title: "t".into(),
            subtitle: String::new(),
            columns: 2,
            heads: Vec::new(),
            scale: None,
            tile: 100,
            tiles: vec![tile(10, 5), tile(8, 8), tile(2, 4)],
        };
        let placed = tiles.images();
        assert_eq!((placed[0].width, placed[0].height, placed[2].width), (100, 50, 50));
        let (width, height) = tiles.size();
        assert!(placed.iter().all(|p| p.left + p.width <= width && p.top + p.height <= height));
    }
}
