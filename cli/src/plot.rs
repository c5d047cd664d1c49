//! Shared parts of all plots: a color-blind safe palette, the embedded font, axes, lines, bands,
//! legends, and saving as PNG or SVG by the file's extension.

use std::ops::Range;
use std::path::Path;
use std::sync::{LazyLock, Once};

use ab_glyph::{Font, FontRef};
use image::RgbImage;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use incept::low_level::output::check_file;
use incept::low_level::output::write_atomically;
use incept::low_level::untrusted::printable_lines;
use incept::{Error, Result};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::register_font;

use super::raster::Placed;
use super::report::note;

const FONT: &[u8] = include_bytes!("../assets/fonts/DejaVuSans-subset.ttf");
pub(crate) const FAMILY: &str = "sans-serif";

pub(crate) const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
pub(crate) const SOFT: RGBColor = RGBColor(0x6b, 0x72, 0x7a);
pub(crate) const GRID: RGBColor = RGBColor(0xe4, 0xe7, 0xea);
/// Okabe and Ito's color-blind safe palette.
pub(crate) const BLUE: RGBColor = RGBColor(0x00, 0x72, 0xb2);
pub(crate) const VERMILION: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
pub(crate) const GREEN: RGBColor = RGBColor(0x00, 0x9e, 0x73);

/// The color of a head in all plots.
pub(crate) fn head_color(name: &str) -> RGBColor {
    match name {
        "aux1" => VERMILION,
        "aux2" => GREEN,
        _ => BLUE,
    }
}

/// Pixels of a PNG per pixel of the layout, for high-density screens.
const SCALE: i32 = 2;

pub(crate) type Drawn<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;
pub(crate) type Area<DB> = DrawingArea<DB, Shift>;
pub(crate) type Chart<'a, DB> = ChartContext<'a, DB, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Converts sizes of the layout to pixels of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit(i32);

impl Unit {
    pub(crate) fn px(self, size: i32) -> i32 {
        size * self.0
    }

    /// The style of a line.
    pub(crate) fn stroke(self, color: impl Color, width: i32) -> ShapeStyle {
        color.stroke_width(self.px(width).unsigned_abs())
    }

    /// The style of text.
    pub(crate) fn text(self, size: i32, color: &RGBColor) -> TextStyle<'static> {
        (FAMILY, self.px(size)).into_font().color(color)
    }
}

/// A plot that can be drawn on any backend.
pub(crate) trait Figure {
    /// Width and height of the layout.
    fn size(&self) -> (u32, u32);

    fn draw<DB: DrawingBackend>(&self, root: &Area<DB>, unit: Unit) -> Drawn
    where
        DB::ErrorType: 'static;

    /// Images to place on top of the drawing.
    fn images(&self) -> Vec<Placed<'_>> {
        Vec::new()
    }
}

/// Registers the embedded font.
pub(crate) fn use_font() -> Drawn {
    static REGISTERED: LazyLock<bool> =
        LazyLock::new(|| register_font(FAMILY, FontStyle::Normal, FONT).is_ok());
    if *REGISTERED { Ok(()) } else { Err("the embedded font is damaged".into()) }
}

/// Whether the embedded font has a glyph for this letter.
fn drawable(letter: char) -> bool {
    static EMBEDDED: LazyLock<Option<FontRef<'static>>> =
        LazyLock::new(|| FontRef::try_from_slice(FONT).ok());
    EMBEDDED.as_ref().is_some_and(|font| font.glyph_id(letter).0 != 0)
}

/// Width of a text in the embedded font of this size, in pixels of the layout.
pub(crate) fn text_width(text: &str, size: i32) -> u32 {
    let measured = use_font().ok().and_then(|()| (FAMILY, size).into_font().box_size(text).ok());
    // Without a font nothing is drawn; this is about the mean width of a letter.
    measured.map_or((0.55 * f64::from(size) * text.chars().count() as f64) as u32, |(width, _)| width)
}

/// The text with a box in place of each letter that the embedded font lacks.
pub(crate) fn legible(text: &str) -> String {
    text.chars().map(|letter| if drawable(letter) { letter } else { '□' }).collect()
}

/// The label of a class in plots: its name, or `class N` if the embedded font lacks a letter.
pub(crate) fn class_label(name: &str, class: usize) -> String {
    static NOTED: Once = Once::new();
    if name.chars().all(drawable) {
        return name.to_string();
    }
    NOTED.call_once(|| {
        note(&format!(
            "note: the font of plots lacks letters of `{name}`: such classes are labeled by number, this one as `class {class}`"
        ));
    });
    format!("class {class}")
}

/// Checks that [`save`] can write a file, before doing the work for its content.
pub(crate) fn check(path: &Path) -> Result<()> {
    kind(path).and_then(|_| check_file(path))
}

/// Checks that a file is writable and has the extension .png, before doing the work for its
/// content.
pub(crate) fn check_png(path: &Path) -> Result<()> {
    match kind(path) {
        Ok(Kind::Png) => check_file(path),
        _ => Err(Error::format(path, "the sheet's file must end in .png")),
    }
}

enum Kind {
    Png,
    Svg,
}

fn kind(path: &Path) -> Result<Kind> {
    match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("png") => Ok(Kind::Png),
        Some("svg") => Ok(Kind::Svg),
        _ => Err(Error::format(path, "a plot's file must end in .png or .svg")),
    }
}

/// Draws a figure and writes it as PNG or SVG, by the file's extension.
pub(crate) fn save(figure: &impl Figure, path: &Path) -> Result<()> {
    let bytes = match kind(path)? {
        Kind::Png => png(figure),
        Kind::Svg => svg(figure).map(String::into_bytes),
    };
    write_atomically(path, &bytes.map_err(|e| Error::format(path, format!("cannot be drawn: {e}")))?)
}

fn png(figure: &impl Figure) -> Drawn<Vec<u8>> {
    use_font()?;
    let (width, height) = figure.size();
    let (width, height) = (width * SCALE.unsigned_abs(), height * SCALE.unsigned_abs());
    let mut pixels = vec![0; 3 * (width * height) as usize];
    {
        let root = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        root.fill(&WHITE)?;
        figure.draw(&root, Unit(SCALE))?;
        root.present()?;
    }
    let mut image = RgbImage::from_raw(width, height, pixels).ok_or("the image has the wrong size")?;
    figure.images().iter().for_each(|placed| placed.overlay(&mut image, SCALE.unsigned_abs()));
    let mut png = Vec::new();
    // Flat colors compress best without a filter.
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Best, FilterType::NoFilter);
    image.write_with_encoder(encoder)?;
    Ok(png)
}

/// Draws a figure as SVG.
pub(crate) fn svg(figure: &impl Figure) -> Drawn<String> {
    use_font()?;
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, figure.size()).into_drawing_area();
        root.fill(&WHITE)?;
        figure.draw(&root, Unit(1))?;
        root.present()?;
    }
    let images = figure.images();
    if !images.is_empty() {
        let end = text.rfind("</svg>").ok_or("the drawing has no end")?;
        let elements: Vec<String> = images.iter().map(Placed::element).collect::<Drawn<_>>()?;
        text.insert_str(end, &elements.join("\n"));
    }
    // Control characters are invalid in XML and unsafe in terminals.
    Ok(printable_lines(&text).into_owned())
}

/// Draws the title and subtitle of a figure.
pub(crate) fn heading<DB: DrawingBackend>(root: &Area<DB>, unit: Unit, title: &str, subtitle: &str) -> Drawn
where
    DB::ErrorType: 'static,
{
    let at = |y: i32| (unit.px(28), unit.px(y));
    root.draw(&Text::new(title.to_string(), at(18), unit.text(22, &INK)))?;
    root.draw(&Text::new(subtitle.to_string(), at(48), unit.text(14, &SOFT)))?;
    Ok(())
}

/// Formats a value on an axis.
pub(crate) type Label<'a> = &'a dyn Fn(&f64) -> String;

/// A pair of linear axes with a grid.
pub(crate) struct Axes<'a> {
    pub title: &'a str,
    pub x: Range<f64>,
    pub y: Range<f64>,
    pub x_name: &'a str,
    pub y_name: &'a str,
    /// Approximate number of labels on the x and y axis.
    pub ticks: (usize, usize),
    pub x_label: Label<'a>,
    pub y_label: Label<'a>,
}

/// Formats a fraction as percent.
pub(crate) fn percent(value: &f64) -> String {
    format!("{:.0}%", 100.0 * value)
}

/// Formats a number given its decimal logarithm; empty unless it is a power of ten.
pub(crate) fn power_of_ten(value: &f64) -> String {
    if (value - value.round()).abs() > 1e-6 {
        return String::new();
    }
    match value.round() as i64 {
        -3 => "0.001".into(),
        -2 => "0.01".into(),
        -1 => "0.1".into(),
        0 => "1".into(),
        1 => "10".into(),
        2 => "100".into(),
        // The embedded font has no superscript digits.
        exponent => format!("1e{exponent}"),
    }
}

impl Axes<'_> {
    /// Draws the axes.
    pub(crate) fn on<'a, DB: DrawingBackend>(&self, area: &'a Area<DB>, unit: Unit) -> Drawn<Chart<'a, DB>>
    where
        DB::ErrorType: 'static,
    {
        let mut builder = ChartBuilder::on(area);
        builder
            .x_label_area_size(unit.px(if self.x_name.is_empty() { 26 } else { 42 }))
            .y_label_area_size(unit.px(if self.y_name.is_empty() { 46 } else { 68 }))
            .margin_right(unit.px(14));
        if !self.title.is_empty() {
            builder.caption(self.title, unit.text(16, &INK));
        }
        let mut chart = builder.build_cartesian_2d(self.x.clone(), self.y.clone())?;
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(WHITE.mix(0.0))
            .set_all_tick_mark_size(unit.px(4))
            .bold_line_style(unit.stroke(GRID, 1))
            .axis_style(SOFT)
            .x_labels(self.ticks.0)
            .y_labels(self.ticks.1)
            .x_label_formatter(self.x_label)
            .y_label_formatter(self.y_label)
            .label_style(unit.text(13, &SOFT));
        if !self.x_name.is_empty() {
            mesh.x_desc(self.x_name);
        }
        if !self.y_name.is_empty() {
            mesh.y_desc(self.y_name);
        }
        mesh.draw()?;
        Ok(chart)
    }
}

/// Draws a line with dots; a non-empty name is added to the legend.
pub(crate) fn line<DB: DrawingBackend>(
    chart: &mut Chart<'_, DB>,
    unit: Unit,
    points: &[(f64, f64)],
    color: RGBColor,
    name: &str,
) -> Drawn
where
    DB::ErrorType: 'static,
{
    let dots = points.iter().map(|point| Circle::new(*point, unit.px(3), color.filled()));
    chart.draw_series(dots)?;
    let drawn = chart.draw_series(LineSeries::new(points.iter().copied(), unit.stroke(color, 2)))?;
    if !name.is_empty() {
        drawn.label(name).legend(move |(x, y)| {
            let (left, right) = ((x, y - unit.px(2)), (x + unit.px(18), y + unit.px(2)));
            Rectangle::new([left, right], color.filled())
        });
    }
    Ok(())
}

/// Fills the band between two lines; points are (x, minimum, maximum).
pub(crate) fn band<DB: DrawingBackend>(
    chart: &mut Chart<'_, DB>,
    points: &[(f64, f64, f64)],
    color: RGBColor,
) -> Drawn
where
    DB::ErrorType: 'static,
{
    let there = points.iter().map(|(x, least, _)| (*x, *least));
    let back = points.iter().rev().map(|(x, _, most)| (*x, *most));
    let outline: Vec<(f64, f64)> = there.chain(back).collect();
    if outline.len() > 2 {
        chart.draw_series([Polygon::new(outline, color.mix(0.18).filled())])?;
    }
    Ok(())
}

/// Draws a vertical dashed line with a label at its upper end.
pub(crate) fn marker<DB: DrawingBackend>(
    chart: &mut Chart<'_, DB>,
    unit: Unit,
    x: f64,
    y: &Range<f64>,
    word: &str,
    color: RGBColor,
) -> Drawn
where
    DB::ErrorType: 'static,
{
    let (on, off) = (unit.px(5), unit.px(4));
    let dashes = DashedLineSeries::new([(x, y.start), (x, y.end)], on, off, unit.stroke(color.mix(0.8), 1));
    chart.draw_series(dashes)?;
    if !word.is_empty() {
        let text = Text::new(word.to_string(), (unit.px(5), unit.px(3)), unit.text(12, &color));
        chart.draw_series([EmptyElement::at((x, y.end)) + text])?;
    }
    Ok(())
}

/// Draws the legend.
pub(crate) fn legend<'a, DB: DrawingBackend + 'a>(
    chart: &mut Chart<'a, DB>,
    unit: Unit,
    position: SeriesLabelPosition,
) -> Drawn
where
    DB::ErrorType: 'static,
{
    chart
        .configure_series_labels()
        .position(position)
        .margin(unit.px(10))
        .legend_area_size(unit.px(26))
        .background_style(WHITE.mix(0.88))
        .label_font(unit.text(13, &INK))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithmic_labels_are_powers_of_ten() {
        let labels = [-12.0, -5.0, -1.0, 0.0, 3.0, 0.5].map(|v| power_of_ten(&v));
        assert_eq!(labels, ["1e-12", "1e-5", "0.1", "1", "1e3", ""]);
    }

    #[test]
    fn unknown_extensions_are_errors() {
        assert!(check(Path::new("a.PNG")).is_ok() && check(Path::new("b/a.svg")).is_ok());
        assert!(check(Path::new("a.jpg")).is_err() && check(Path::new("a")).is_err());
        assert!(check_png(Path::new("a.PNG")).is_ok() && check_png(Path::new("a.svg")).is_err());
    }

    #[test]
    fn names_outside_the_font_become_numbers() {
        for name in ["frog", "Żółw", "ağaç", "γάτα", "кошка", "Chó mèo", "’n “a” – b…"]
        {
            assert_eq!(class_label(name, 1), name);
        }
        assert_eq!((class_label("猫", 3).as_str(), legible("猫.png").as_str()), ("class 3", "□.png"));
    }
}
