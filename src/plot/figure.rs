use std::{ffi::OsStr, path::Path};

use plotters::{
    backend::{BitMapBackend, DrawingBackend, SVGBackend},
    coord::Shift,
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea},
    element::{Circle, PathElement, Polygon, Rectangle},
    style::{
        Color, FontTransform, IntoTextStyle, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{
    PlotError,
    text::{FONTS, PLOTTERS_SIZE, font_is_ready},
    theme::{Ink, Theme},
};
use crate::io::OutputFile;

/// How many whole pixels of plotters make one pixel of a figure. Finer pixels keep lines straight.
const SCALE: f64 = 2.0;

/// A point in pixels, from the upper left corner.
pub(super) type Point = (f64, f64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    Path {
        points: Vec<Point>,
        ink: Ink,
        width: f64,
        dashed: bool,
    },
    Area {
        from: Point,
        to: Point,
        ink: Ink,
    },
    Mark {
        at: Point,
        ink: Ink,
        form: Mark,
    },
    /// A line of text; `at` is at half its height.
    Text {
        at: Point,
        text: String,
        size: f64,
        ink: Ink,
        anchor: Anchor,
    },
    /// A line of text that runs upwards.
    Upright {
        at: Point,
        text: String,
        size: f64,
        ink: Ink,
    },
}

/// The mark of a point. Marks tell lines apart without colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Circle,
    Square,
    Triangle,
    Diamond,
}

impl Mark {
    /// The mark of the line with this number.
    pub fn of(series: usize) -> Self {
        [Self::Circle, Self::Square, Self::Triangle, Self::Diamond][series % 4]
    }
}

/// Half of the size of a mark, in pixels.
const MARK: f64 = 4.0;

/// A finished picture. It does not depend on the file format or on the colours.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub(super) title: String,
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) shapes: Vec<Shape>,
}

impl Figure {
    /// The title of the picture.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Width and height in CSS pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.width.ceil() as u32, self.height.ceil() as u32)
    }

    /// The picture as the text of an SVG file.
    ///
    /// # Errors
    /// If the drawing fails.
    pub fn to_svg(&self, theme: Theme) -> Result<String, PlotError> {
        let mut svg = String::new();
        self.draw(&SVGBackend::with_string(&mut svg, self.pixels()).into_drawing_area(), theme)?;
        // The outer size is that of the figure. The finer pixels are inside.
        let (width, height) = self.size();
        let (fine_width, fine_height) = self.pixels();
        let label = self.title.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
        // Cells whose edges fall between pixels would show seams.
        let svg = svg.replace("<rect ", "<rect shape-rendering=\"crispEdges\" ");
        Ok(svg.replacen(
            &format!("<svg width=\"{fine_width}\" height=\"{fine_height}\""),
            &format!("<svg role=\"img\" aria-label=\"{label}\" width=\"{width}\" height=\"{height}\""),
            1,
        ))
    }

    /// The picture as the bytes of a PNG file, with two pixels for each pixel of the figure.
    ///
    /// # Errors
    /// If the drawing fails.
    pub fn to_png(&self, theme: Theme) -> Result<Vec<u8>, PlotError> {
        let (width, height) = self.pixels();
        let mut pixels = vec![0; 3 * width as usize * height as usize];
        self.draw(&BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area(), theme)?;
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels));
        written.map_err(|error| self.failed(error))?;
        Ok(bytes)
    }

    /// Writes the picture to a file, whole or not at all. The ending, `.svg` or `.png`, chooses the format.
    ///
    /// # Errors
    /// If the file has another ending, or cannot be written.
    pub fn save(&self, path: impl AsRef<Path>, theme: Theme) -> Result<(), PlotError> {
        self.write(&OutputFile::new(path.as_ref())?, theme)
    }

    /// Writes the picture to a file that was checked before the work began.
    ///
    /// # Errors
    /// As [save](Self::save).
    pub fn write(&self, file: &OutputFile, theme: Theme) -> Result<(), PlotError> {
        let bytes = match file.path().extension().and_then(OsStr::to_str) {
            Some("svg") => self.to_svg(theme)?.into_bytes(),
            Some("png") => self.to_png(theme)?,
            _ => return Err(PlotError::Format { path: file.path().to_owned() }),
        };
        Ok(file.write(&bytes)?)
    }

    fn pixels(&self) -> (u32, u32) {
        let (width, height) = self.size();
        (width * SCALE as u32, height * SCALE as u32)
    }

    fn failed(&self, reason: impl ToString) -> PlotError {
        PlotError::Draw { title: self.title.clone(), reason: reason.to_string() }
    }

    fn draw<D: DrawingBackend>(&self, area: &DrawingArea<D, Shift>, theme: Theme) -> Result<(), PlotError> {
        if !font_is_ready() {
            return Err(self.failed("its font cannot be read"));
        }
        let drawn = area
            .fill(&theme.color(Ink::Background))
            .and_then(|()| self.shapes.iter().try_for_each(|shape| draw(area, shape, theme)))
            .and_then(|()| area.present());
        drawn.map_err(|error| self.failed(error))
    }
}

fn fine((x, y): Point) -> (i32, i32) {
    ((x * SCALE).round() as i32, (y * SCALE).round() as i32)
}

fn draw<D: DrawingBackend>(
    area: &DrawingArea<D, Shift>,
    shape: &Shape,
    theme: Theme,
) -> Result<(), DrawingAreaErrorKind<D::ErrorType>> {
    match shape {
        Shape::Path { points, ink, width, dashed } => {
            let style = theme.color(*ink).stroke_width((width * SCALE).round().max(1.0) as u32);
            let pieces = if *dashed { dashes(points) } else { vec![points.clone()] };
            let pieces = pieces.into_iter().map(|piece| piece.into_iter().map(fine).collect::<Vec<_>>());
            pieces.into_iter().try_for_each(|piece| area.draw(&PathElement::new(piece, style)))
        }
        Shape::Area { from, to, ink } => {
            area.draw(&Rectangle::new([fine(*from), fine(*to)], theme.color(*ink).filled()))
        }
        Shape::Mark { at: (x, y), ink, form } => {
            let style = theme.color(*ink).filled();
            let corners = |corners: &[Point]| {
                corners.iter().map(|(dx, dy)| fine((x + MARK * dx, y + MARK * dy))).collect::<Vec<_>>()
            };
            match form {
                Mark::Circle => area.draw(&Circle::new(fine((*x, *y)), (MARK * SCALE) as i32, style)),
                Mark::Square => {
                    let corners = corners(&[(-0.9, -0.9), (0.9, 0.9)]);
                    area.draw(&Rectangle::new([corners[0], corners[1]], style))
                }
                Mark::Triangle => area.draw(&Polygon::new(corners(&[(-1.1, 0.9), (1.1, 0.9), (0.0, -1.2)]), style)),
                Mark::Diamond => {
                    area.draw(&Polygon::new(corners(&[(-1.2, 0.0), (0.0, 1.2), (1.2, 0.0), (0.0, -1.2)]), style))
                }
            }
        }
        Shape::Text { at, text, size, ink, anchor } => {
            let horizontal = match anchor {
                Anchor::Start => HPos::Left,
                Anchor::Middle => HPos::Center,
                Anchor::End => HPos::Right,
            };
            area.draw_text(text, &style(*size, *ink, theme).pos(Pos::new(horizontal, VPos::Center)), fine(*at))
        }
        Shape::Upright { at, text, size, ink } => {
            let style = style(*size, *ink, theme).transform(FontTransform::Rotate270);
            area.draw_text(text, &style.pos(Pos::new(HPos::Center, VPos::Center)), fine(*at))
        }
    }
}

fn style(size: f64, ink: Ink, theme: Theme) -> TextStyle<'static> {
    let style = (FONTS, size * SCALE * PLOTTERS_SIZE).into_text_style(&(1, 1));
    TextStyle { color: theme.color(ink).to_backend_color(), ..style }
}

/// A path as dashes of 7 pixels with gaps of 4 pixels.
fn dashes(points: &[Point]) -> Vec<Vec<Point>> {
    const PERIOD: f64 = 11.0;
    const DASH: f64 = 7.0;
    let (mut pieces, mut walked) = (Vec::new(), 0.0f64);
    for two in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (two[0], two[1]);
        let length = (x1 - x0).hypot(y1 - y0);
        let on = |at: f64| (x0 + (x1 - x0) * at / length, y0 + (y1 - y0) * at / length);
        let mut dash = (walked / PERIOD).floor() * PERIOD - walked;
        while dash < length && length > 0.0 {
            let (from, to) = (dash.max(0.0), (dash + DASH).min(length));
            if from < to {
                pieces.push(vec![on(from), on(to)]);
            }
            dash += PERIOD;
        }
        walked += length;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::LinePlot;

    #[test]
    fn both_formats_show_the_same_in_both_themes() {
        let plot = LinePlot::new("A < \"title\" & more").line("one", [(0.0, 0.0), (1.0, 1.0)]);
        let figure = plot.figure().unwrap();
        for theme in [Theme::Light, Theme::Dark] {
            let png = figure.to_png(theme).unwrap();
            let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut pixels).unwrap();
            let (width, height) = figure.size();
            assert_eq!((info.width, info.height), (2 * width, 2 * height));
            let svg = figure.to_svg(theme).unwrap();
            for ink in [Ink::Background, Ink::Series(0), Ink::Text] {
                let color = theme.color(ink);
                let has = pixels.chunks(3).any(|pixel| pixel == [color.0, color.1, color.2]);
                assert!(has, "{theme:?} {ink:?}");
                let code = format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2);
                assert!(svg.contains(&code), "{theme:?} {ink:?}: {code}");
            }
            assert!(
                svg.starts_with("<svg role=\"img\" aria-label=\"A &lt; &quot;title&quot; &amp; more\" width=\"640\"")
            );
            assert_eq!(svg.matches("<svg").count(), 1);
        }
    }

    #[test]
    fn dashes_go_on_around_corners() {
        let pieces = dashes(&[(0.0, 0.0), (10.0, 0.0), (10.0, 0.0), (10.0, 20.0)]);
        let wanted = [[(0.0, 0.0), (7.0, 0.0)], [(10.0, 1.0), (10.0, 8.0)], [(10.0, 12.0), (10.0, 19.0)]];
        assert_eq!(pieces, wanted.map(Vec::from));
    }
}
