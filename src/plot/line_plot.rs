use std::{ops::Range, path::Path};

use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    coord::{
        Shift,
        ranged1d::{AsRangedCoord, ValueFormatter},
    },
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea},
    element::{Circle, PathElement},
    prelude::{IntoLogRange, SVGBackend},
    series::LineSeries,
    style::{BLACK, Color, RGBColor, ShapeStyle, WHITE},
};

use super::PlotError;
use crate::io::OutputFile;

/// Width and height of a plot, in pixels.
const SIZE: (u32, u32) = (900, 560);

/// Up to so many points, each is marked.
const MARKED: usize = 40;

/// Places between two points at which it is looked where a line runs.
const STEPS: u32 = 16;

/// Colours which stay apart for most who do not see all colours (Okabe and Ito).
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// How an axis runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Equal steps for equal differences.
    #[default]
    Linear,
    /// Equal steps for equal ratios; everything on it is above 0.
    Log,
}

/// Lines over a common x, drawn as SVG.
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
    x: Axis,
    y: Axis,
    lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Axis {
    label: String,
    scale: Scale,
}

impl Axis {
    /// How far along the axis a number stands, from 0 to 1.
    fn share(&self, range: &Range<f64>, at: f64) -> f64 {
        match self.scale {
            Scale::Linear => (at - range.start) / (range.end - range.start),
            Scale::Log => (at / range.start).ln() / (range.end / range.start).ln(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

impl LinePlot {
    /// A plot without lines, on linear axes without labels.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), x: Axis::default(), y: Axis::default(), lines: Vec::new() }
    }

    /// What the horizontal axis shows, and how it runs.
    pub fn x(self, label: impl Into<String>, scale: Scale) -> Self {
        Self { x: Axis { label: label.into(), scale }, ..self }
    }

    /// What the vertical axis shows, and how it runs.
    pub fn y(self, label: impl Into<String>, scale: Scale) -> Self {
        Self { y: Axis { label: label.into(), scale }, ..self }
    }

    /// Adds a line through points in their order.
    pub fn line(mut self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.lines.push(Line { name: name.into(), points: points.into_iter().collect() });
        self
    }

    /// Writes the plot to a file, whole or not at all.
    ///
    /// # Errors
    /// If the plot cannot be [drawn](Self::to_svg), or the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), PlotError> {
        let file = OutputFile::new(path.as_ref())?;
        self.write(&file)
    }

    /// Writes the plot to a file that was checked before the work.
    ///
    /// # Errors
    /// As [save](Self::save).
    pub fn write(&self, file: &OutputFile) -> Result<(), PlotError> {
        Ok(file.write(self.to_svg()?.as_bytes())?)
    }

    /// The plot as the text of an SVG file.
    ///
    /// # Errors
    /// If there is no line, a line has no points, or a point is not finite or not above 0 on a logarithmic axis.
    pub fn to_svg(&self) -> Result<String, PlotError> {
        self.validate()?;
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            let (x, y) = (self.range(&self.x, |point| point.0), self.range(&self.y, |point| point.1));
            let drawn = match (self.x.scale, self.y.scale) {
                (Scale::Linear, Scale::Linear) => self.draw(&area, x, y),
                (Scale::Log, Scale::Linear) => self.draw(&area, x.log_scale(), y),
                (Scale::Linear, Scale::Log) => self.draw(&area, x, y.log_scale()),
                (Scale::Log, Scale::Log) => self.draw(&area, x.log_scale(), y.log_scale()),
            };
            drawn.map_err(|error| PlotError::Draw { title: self.title.clone(), reason: error.to_string() })?;
        }
        Ok(svg)
    }

    fn validate(&self) -> Result<(), PlotError> {
        if self.lines.is_empty() {
            return Err(PlotError::NoSeries { title: self.title.clone() });
        }
        let fits = |axis: &Axis, at: f64| at.is_finite() && (axis.scale == Scale::Linear || at > 0.0);
        for line in &self.lines {
            if line.points.is_empty() {
                return Err(PlotError::EmptySeries { title: self.title.clone(), series: line.name.clone() });
            }
            if let Some(&(x, y)) = line.points.iter().find(|(x, y)| !(fits(&self.x, *x) && fits(&self.y, *y))) {
                return Err(PlotError::Point { series: line.name.clone(), x, y });
            }
        }
        Ok(())
    }

    /// What an axis spans: all points, and a little more.
    fn range(&self, axis: &Axis, of: impl Fn(&(f64, f64)) -> f64) -> Range<f64> {
        let all = || self.lines.iter().flat_map(|line| &line.points).map(&of);
        let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
        match axis.scale {
            Scale::Linear => {
                // A line that is level or upright still gets an area to stand in.
                let margin = if high > low { 0.03 * (high - low) } else { 0.1 * low.abs().max(1.0) };
                low - margin..high + margin
            }
            Scale::Log => {
                let margin = if high > low { (high / low).powf(0.03) } else { 2.0 };
                low / margin..high * margin
            }
        }
    }

    /// Where the names of the lines cover least of them.
    fn emptiest_corner(&self) -> SeriesLabelPosition {
        let (x, y) = (self.range(&self.x, |point| point.0), self.range(&self.y, |point| point.1));
        let place = |point: &(f64, f64)| (self.x.share(&x, point.0), self.y.share(&y, point.1));
        // Right and upper quarter, and how much of the lines lies there.
        let mut covered = [[0; 2]; 2];
        for line in &self.lines {
            let places = line.points.iter().map(place).collect::<Vec<_>>();
            let ends = places.iter().zip(places.iter().skip(1).chain(places.last()));
            for (from, to) in ends {
                for step in (0..STEPS).map(|step| f64::from(step) / f64::from(STEPS)) {
                    let (x, y) = (from.0 + step * (to.0 - from.0), from.1 + step * (to.1 - from.1));
                    let outer = |at: f64| !(0.33..0.67).contains(&at);
                    covered[usize::from(x > 0.5)][usize::from(y > 0.5)] += usize::from(outer(x) && outer(y));
                }
            }
        }
        let corners = [
            (covered[1][1], SeriesLabelPosition::UpperRight),
            (covered[0][1], SeriesLabelPosition::UpperLeft),
            (covered[1][0], SeriesLabelPosition::LowerRight),
            (covered[0][0], SeriesLabelPosition::LowerLeft),
        ];
        corners.into_iter().min_by_key(|(covered, _)| *covered).map_or(SeriesLabelPosition::UpperRight, |(_, at)| at)
    }

    fn draw<'a, X, Y>(
        &self,
        area: &DrawingArea<SVGBackend<'a>, Shift>,
        x: X,
        y: Y,
    ) -> Result<(), DrawingAreaErrorKind<std::io::Error>>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 22))
            .margin(14)
            .x_label_area_size(48)
            .y_label_area_size(72)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .axis_desc_style(("sans-serif", 16))
            .label_style(("sans-serif", 13))
            .x_label_formatter(&|at| number(*at))
            .y_label_formatter(&|at| number(*at))
            .light_line_style(BLACK.mix(0.04))
            .bold_line_style(BLACK.mix(0.15))
            .draw()?;
        for (line, color) in self.lines.iter().zip(COLORS.iter().cycle()) {
            let style = ShapeStyle::from(color).stroke_width(2);
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            if line.points.len() <= MARKED {
                chart.draw_series(line.points.iter().map(|&point| Circle::new(point, 3, color.filled())))?;
            }
        }
        chart
            .configure_series_labels()
            .position(self.emptiest_corner())
            .label_font(("sans-serif", 14))
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()
    }
}

/// As short as it can be read.
fn number(at: f64) -> String {
    match at.abs() {
        0.0 => "0".to_owned(),
        1e-3..1e6 => {
            let text = format!("{at:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{at:e}"),
    }
}
