use std::{fmt::Write, ops::Range, path::Path};

use super::{
    Figure, PlotError, Scale, Theme,
    figure::{Mark, Shape},
    frame::{Around, Axis, Entry, Style, frame},
    theme::{COLORS, Ink},
};
use crate::io::OutputFile;

/// The height of the data area, in CSS pixels.
const HEIGHT: f64 = 300.0;

/// Lines with at most this number of points have a mark at each point.
const MARKED: usize = 40;

/// A point with a range around it, such as the range of repeated measurements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The position on the horizontal axis.
    pub x: f64,
    /// The measured value.
    pub y: f64,
    /// The lower end of the range, at most `y`.
    pub low: f64,
    /// The upper end of the range, at least `y`.
    pub high: f64,
}

impl From<(f64, f64)> for Measured {
    /// A point whose range is the point itself.
    fn from((x, y): (f64, f64)) -> Self {
        Self { x, y, low: y, high: y }
    }
}

/// Lines and points over a common horizontal axis.
///
/// # Example
/// ```
/// use sparse_attention_hub::plot::{LinePlot, Scale};
///
/// let svg = LinePlot::new("Time of a decode step")
///     .x("keys", Scale::Log)
///     .y("milliseconds", Scale::Log)
///     .line("dense", [(4096.0, 6.0), (16384.0, 24.0)])
///     .line("top-k", [(4096.0, 2.0), (16384.0, 5.5)])
///     .to_svg()?;
/// assert!(svg.contains("top-k"));
/// # Ok::<(), sparse_attention_hub::plot::PlotError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LinePlot {
    title: String,
    caption: String,
    x: Label,
    y: Label,
    lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Label {
    text: String,
    scale: Scale,
    whole: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Line {
    name: String,
    points: Vec<Measured>,
    joined: bool,
}

impl LinePlot {
    /// A plot without lines. Its axes are linear and have no labels.
    pub fn new(title: impl Into<String>) -> Self {
        let (x, y) = (Label::default(), Label::default());
        Self { title: title.into(), caption: String::new(), x, y, lines: Vec::new() }
    }

    /// Sets the label, with its unit, and the scale of the horizontal axis.
    pub fn x(self, label: impl Into<String>, scale: Scale) -> Self {
        Self { x: Label { text: label.into(), scale, whole: false }, ..self }
    }

    /// Sets the label of a horizontal axis that counts things, such as layers. Its ticks are whole numbers.
    pub fn whole_x(self, label: impl Into<String>) -> Self {
        Self { x: Label { text: label.into(), scale: Scale::Linear, whole: true }, ..self }
    }

    /// Sets the label, with its unit, and the scale of the vertical axis.
    pub fn y(self, label: impl Into<String>, scale: Scale) -> Self {
        Self { y: Label { text: label.into(), scale, whole: false }, ..self }
    }

    /// Sets the text below the plot.
    pub fn caption(self, caption: impl Into<String>) -> Self {
        Self { caption: caption.into(), ..self }
    }

    /// Adds a line that joins the points in their order.
    pub fn line(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.line_with_ranges(name, points.into_iter().map(Measured::from))
    }

    /// Adds a line that joins the points, with their ranges as bars.
    pub fn line_with_ranges(self, name: impl Into<String>, points: impl IntoIterator<Item = Measured>) -> Self {
        self.with(name.into(), points.into_iter().collect(), true)
    }

    /// Adds points that are not joined, with their ranges as bars.
    pub fn points_with_ranges(self, name: impl Into<String>, points: impl IntoIterator<Item = Measured>) -> Self {
        self.with(name.into(), points.into_iter().collect(), false)
    }

    fn with(mut self, name: String, points: Vec<Measured>, joined: bool) -> Self {
        self.lines.push(Line { name, points, joined });
        self
    }

    /// The title of the plot.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Writes the plot to an SVG or PNG file in the light theme, whole or not at all.
    ///
    /// # Errors
    /// If the plot cannot be [drawn](Self::figure), or the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), PlotError> {
        self.figure()?.save(path, Theme::Light)
    }

    /// Writes the plot to a file that was checked before the work began.
    ///
    /// # Errors
    /// As [save](Self::save).
    pub fn write(&self, file: &OutputFile) -> Result<(), PlotError> {
        self.figure()?.write(file, Theme::Light)
    }

    /// The plot as the text of an SVG file in the light theme.
    ///
    /// # Errors
    /// As [figure](Self::figure).
    pub fn to_svg(&self) -> Result<String, PlotError> {
        self.figure()?.to_svg(Theme::Light)
    }

    /// The points as comma-separated values, with the header line `series,x,y,low,high`.
    pub fn to_csv(&self) -> String {
        let mut csv = "series,x,y,low,high\n".to_owned();
        for Line { name, points, .. } in &self.lines {
            for Measured { x, y, low, high } in points {
                // Writing to a string does not fail.
                let _ = writeln!(csv, "{},{x},{y},{low},{high}", super::quoted(name));
            }
        }
        csv
    }

    /// The picture.
    ///
    /// # Errors
    /// If the plot has no line or a line has no points. If a point or its range is not finite, or not above 0 on a
    /// logarithmic axis. If a point is outside its range.
    pub fn figure(&self) -> Result<Figure, PlotError> {
        self.validate()?;
        let axis =
            |label: &Label, range| Axis { scale: label.scale, range, whole: label.whole, downward: false, grid: true };
        let x = axis(&self.x, range(self.x.scale, self.points().map(|point| point.x)));
        let y = axis(&self.y, range(self.y.scale, self.points().flat_map(|point| [point.low, point.high])));
        let legend = self.lines.iter().enumerate();
        let legend = legend.map(|(at, line)| Entry { name: line.name.clone(), style: line.style(at) }).collect();
        let around = Around {
            title: &self.title,
            x: &self.x.text,
            y: &self.y.text,
            caption: &self.caption,
            legend,
            right: 0.0,
            height: HEIGHT,
        };
        let (mut figure, area) = frame(around, x, y);
        for (at, line) in self.lines.iter().enumerate() {
            let Style { ink, dashed, mark, joined } = line.style(at);
            for Measured { x, low, high, .. } in line.points.iter().filter(|point| point.low < point.high) {
                let (x, low, high) = (area.x(*x), area.y(*low), area.y(*high));
                for (from, to) in
                    [((x, low), (x, high)), ((x - 4.0, low), (x + 4.0, low)), ((x - 4.0, high), (x + 4.0, high))]
                {
                    figure.shapes.push(Shape::Path { points: vec![from, to], ink, width: 1.25, dashed: false });
                }
            }
            let points = line.points.iter().map(|point| area.point(point.x, point.y)).collect::<Vec<_>>();
            if let Some(form) = mark {
                figure.shapes.extend(points.iter().map(|&at| Shape::Mark { at, ink, form }));
            }
            if joined && points.len() > 1 {
                figure.shapes.push(Shape::Path { points, ink, width: 2.0, dashed });
            }
        }
        Ok(figure)
    }

    fn points(&self) -> impl Iterator<Item = &Measured> {
        self.lines.iter().flat_map(|line| &line.points)
    }

    fn validate(&self) -> Result<(), PlotError> {
        if self.lines.is_empty() {
            return Err(PlotError::NoSeries { title: self.title.clone() });
        }
        let fits = |label: &Label, at: f64| at.is_finite() && (label.scale == Scale::Linear || at > 0.0);
        for line in &self.lines {
            if line.points.is_empty() {
                return Err(PlotError::EmptySeries { title: self.title.clone(), series: line.name.clone() });
            }
            for &Measured { x, y, low, high } in &line.points {
                let series = || line.name.clone();
                if !(fits(&self.x, x) && fits(&self.y, y)) {
                    return Err(PlotError::Point { series: series(), x, y });
                }
                if !(fits(&self.y, low) && fits(&self.y, high) && low <= y && y <= high) {
                    return Err(PlotError::Range { series: series(), y, low, high });
                }
            }
        }
        Ok(())
    }
}

impl Line {
    fn style(&self, at: usize) -> Style {
        let mark = (!self.joined || self.points.len() <= MARKED).then(|| Mark::of(at));
        Style { ink: Ink::Series(at), dashed: at >= COLORS, mark, joined: self.joined }
    }
}

/// The range of an axis: all numbers, with a margin.
fn range(scale: Scale, all: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| (low.min(at), high.max(at)));
    match scale {
        Scale::Linear => {
            // A horizontal or vertical line also needs an area with a width and a height.
            let margin = if high > low { 0.04 * (high - low) } else { 0.1 * low.abs().max(1.0) };
            low - margin..high + margin
        }
        Scale::Log => {
            let margin = if high > low { (high / low).powf(0.04) } else { 2.0 };
            low / margin..high * margin
        }
    }
}
