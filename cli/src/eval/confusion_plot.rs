//! The plot of a confusion matrix.

use incept::infer::Confusion;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::plot::{Area, BLUE, Drawn, Figure, GRID, INK, SOFT, Unit, class_label, heading};
use crate::tiles::fitted;

pub(crate) struct ConfusionFigure<'a> {
    pub confusion: &'a Confusion,
    pub classes: &'a [String],
    pub title: String,
    pub subtitle: String,
}

/// Maximum number of classes for which every row and column is labeled.
const NAMED: usize = 120;
/// Maximum number of classes for which cells show their counts.
const COUNTED: usize = 20;
/// Maximum length of a label in letters.
const NAME: usize = 22;
/// Height of the title.
const TITLE: i32 = 68;
/// Width of the color scale at the right.
const LEGEND: i32 = 96;
/// Minimum width, for title and subtitle.
const MIN_WIDTH: i32 = 620;

/// Sizes of the layout.
struct Sizes {
    cell: i32,
    text: i32,
    top: i32,
    /// Space for the labels of rows at the left and of columns below.
    names: i32,
    /// Left edge of everything, so that it is in the middle of the figure.
    start: i32,
    left: i32,
    side: i32,
}

impl ConfusionFigure<'_> {
    fn sizes(&self) -> Sizes {
        let count = self.classes.len().max(1) as i32;
        let cell = match count {
            0..=6 => (400 / count).clamp(64, 120),
            7..=COUNTED_I => 44,
            _ => (1000 / count).clamp(1, 30),
        };
        let text = (cell - 1).clamp(9, 13);
        let letters = self.classes.iter().map(|c| c.chars().count().min(NAME)).max().unwrap_or(1).max(3);
        let names = (f64::from(text) * 0.64 * letters as f64).ceil() as i32 + 12;
        let top = if self.title.is_empty() { 12 } else { 12 + TITLE };
        let (labels, side) = (28 + 18 + names, cell * count);
        let start = ((MIN_WIDTH - labels - side - LEGEND) / 2).max(0);
        Sizes { cell, text, top, names, start, left: start + labels, side }
    }

    /// The labeled classes: all, or every n-th.
    fn named(&self) -> impl Iterator<Item = (usize, String)> {
        let count = self.classes.len();
        let every = if count <= NAMED { 1 } else { count.div_ceil(20) };
        let name = |(i, class): (usize, &String)| (i, fitted(&class_label(class, i), 12 * NAME as u32, 22));
        self.classes.iter().enumerate().step_by(every).map(name)
    }
}

const COUNTED_I: i32 = COUNTED as i32;
/// Color of counts on light cells: differs from INK, which the report's dark mode replaces with a
/// light color.
const CELL_INK: RGBColor = RGBColor(INK.0, INK.1, INK.2 + 1);

/// The color of a fraction of a row; 0 is white. The square root makes rare mistakes visible.
fn shade(share: f64) -> RGBColor {
    let strength = if share > 0.0 { 0.08 + 0.92 * share.sqrt() } else { 0.0 };
    let channel = |to: u8| (255.0 + (f64::from(to) * 0.86 - 255.0) * strength).round() as u8;
    RGBColor(channel(BLUE.0), channel(BLUE.1), channel(BLUE.2))
}

impl Figure for ConfusionFigure<'_> {
    fn size(&self) -> (u32, u32) {
        let Sizes { top, names, left, side, .. } = self.sizes();
        let width = (left + side + LEGEND).max(MIN_WIDTH);
        (width.cast_unsigned(), (top + side + names + 34).cast_unsigned())
    }

    fn draw<DB: DrawingBackend>(&self, root: &Area<DB>, unit: Unit) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let room = self.size().0 - 56;
        if !self.title.is_empty() {
            heading(root, unit, &fitted(&self.title, room, 22), &fitted(&self.subtitle, room, 14))?;
        }
        let Sizes { cell, top, left, side, .. } = self.sizes();
        let at = |x: i32, y: i32| (unit.px(x), unit.px(y));
        let border = [at(left, top), at(left + side, top + side)];
        root.draw(&Rectangle::new(border, WHITE.filled()))?;
        let middle = Pos::new(HPos::Center, VPos::Center);
        for label in 0..self.classes.len() {
            let row = self.confusion.row(label);
            let total: u64 = row.iter().sum();
            for (prediction, count) in row.iter().enumerate().filter(|(_, count)| **count > 0) {
                let share = *count as f64 / total as f64;
                let (x, y) = (left + cell * prediction as i32, top + cell * label as i32);
                root.draw(&Rectangle::new([at(x, y), at(x + cell, y + cell)], shade(share).filled()))?;
                if self.classes.len() <= COUNTED {
                    let ink = if share > 0.3 { WHITE } else { CELL_INK };
                    let digits = count.to_string().len() as i32;
                    let style = unit.text((cell * 3 / 2 / digits.max(3)).min(15), &ink).pos(middle);
                    let place = at(x + cell / 2, y + cell / 2);
                    root.draw(&Text::new(count.to_string(), place, style))?;
                }
            }
        }
        if cell >= 8 {
            for i in 1..self.classes.len() as i32 {
                let stroke = unit.stroke(GRID, 1);
                root.draw(&PathElement::new(
                    [at(left + cell * i, top), at(left + cell * i, top + side)],
                    stroke,
                ))?;
                root.draw(&PathElement::new(
                    [at(left, top + cell * i), at(left + side, top + cell * i)],
                    stroke,
                ))?;
            }
        }
        root.draw(&Rectangle::new(border, unit.stroke(SOFT, 1)))?;
        self.names(root, unit)?;
        self.legend(root, unit)
    }
}

impl ConfusionFigure<'_> {
    fn names<DB: DrawingBackend>(&self, root: &Area<DB>, unit: Unit) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let Sizes { cell, text, top, names, start, left, side } = self.sizes();
        let at = |x: i32, y: i32| (unit.px(x), unit.px(y));
        let right = Pos::new(HPos::Right, VPos::Center);
        // All labels of columns are rotated if one is too long for its column.
        let fits = |name: &String| name.chars().count() as i32 * text * 2 / 3 <= cell;
        let flat = self.named().all(|(_, name)| fits(&name));
        for (i, name) in self.named() {
            let middle = cell * i as i32 + cell / 2;
            let style = unit.text(text, &INK).pos(right);
            root.draw(&Text::new(name.clone(), at(left - 6, top + middle), style))?;
            let upright = unit.text(text, &INK);
            if flat {
                let style = upright.pos(Pos::new(HPos::Center, VPos::Top));
                root.draw(&Text::new(name, at(left + middle, top + side + 6), style))?;
            } else {
                let style = upright.transform(FontTransform::Rotate270).pos(right);
                root.draw(&Text::new(name, at(left + middle, top + side + 6), style))?;
            }
        }
        let style = unit.text(13, &SOFT).pos(Pos::new(HPos::Center, VPos::Top));
        let below = at(left + side / 2, top + side + names + 6);
        root.draw(&Text::new("predicted class", below, style.clone()))?;
        let style = style.transform(FontTransform::Rotate270);
        root.draw(&Text::new("true class", at(start + 24, top + side / 2), style))?;
        Ok(())
    }

    fn legend<DB: DrawingBackend>(&self, root: &Area<DB>, unit: Unit) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let Sizes { top, left, side, .. } = self.sizes();
        let (x, height) = (left + side + 22, side.clamp(100, 260));
        for i in 0..height {
            let share = 1.0 - f64::from(i) / f64::from(height - 1);
            let strip = [(unit.px(x), unit.px(top + i)), (unit.px(x + 14), unit.px(top + i + 1))];
            // Inverts the square root, for a linear color scale.
            root.draw(&Rectangle::new(strip, shade(share * share).filled()))?;
        }
        let frame = [(unit.px(x), unit.px(top)), (unit.px(x + 14), unit.px(top + height))];
        root.draw(&Rectangle::new(frame, unit.stroke(SOFT, 1)))?;
        for share in [0.0, 0.01, 0.1, 0.25, 0.5, 1.0f64] {
            let y = top + (f64::from(height) * (1.0 - share.sqrt())).round() as i32;
            let style = unit.text(12, &SOFT).pos(Pos::new(HPos::Left, VPos::Center));
            let words = format!("{:.0}%", 100.0 * share);
            root.draw(&Text::new(words, (unit.px(x + 20), unit.px(y)), style))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_is_in_the_middle_and_its_size_follows_the_classes() {
        let sides = [2, 3, 6, 7, 20, 100].map(|count| {
            let classes: Vec<String> = (0..count).map(|i| format!("class {i}")).collect();
            let figure = ConfusionFigure {
                confusion: &Confusion::new(count),
                classes: &classes,
                title: "t".into(),
                subtitle: "s".into(),
            };
            let (width, Sizes { start, left, side, .. }) = (figure.size().0.cast_signed(), figure.sizes());
            let right = width - (left + side + LEGEND);
            assert!((start - right).abs() <= 1, "{count}: {start} and {right}");
            side
        });
        assert_eq!(sides[..3], [240, 360, 396]);
        assert!(sides.iter().all(|side| (240..=1000).contains(side)), "{sides:?}");
    }
}
