use std::ops::Range;

use super::{
    figure::{Anchor, Figure, Mark, Point, Shape},
    text,
    theme::Ink,
    ticks::{Scale, Tick, ticks},
};

/// The width of every plot in CSS pixels. When a plot is shown 400 pixels wide, its smallest text is 9 pixels high.
pub(super) const WIDTH: f64 = 640.0;

const MARGIN: f64 = 14.0;
const TITLE: f64 = 19.0;
const LABEL: f64 = 16.0;
pub(super) const TICK: f64 = 15.0;
const CAPTION: f64 = 14.0;

/// The height of a line of text divided by its font size.
const LEADING: f64 = 1.35;

/// The entry of a line in the legend.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub name: String,
    pub style: Style,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Style {
    pub ink: Ink,
    pub dashed: bool,
    pub mark: Option<Mark>,
    /// Whether the points are joined by a line.
    pub joined: bool,
}

/// The parts around the data.
#[derive(Debug, Clone, Default)]
pub(super) struct Around<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    pub caption: &'a str,
    pub legend: Vec<Entry>,
    /// The space to the right of the data.
    pub right: f64,
    /// The height of the data area.
    pub height: f64,
}

/// An axis and the range that it spans.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    pub scale: Scale,
    pub range: Range<f64>,
    /// Whether the labels are whole numbers only.
    pub whole: bool,
    /// Whether a vertical axis runs downwards.
    pub downward: bool,
    pub grid: bool,
}

impl Axis {
    fn ticks(&self, length: f64, extent: impl Fn(&str) -> f64) -> Vec<Tick> {
        let mut ticks = ticks(self.scale, &self.range, length, extent);
        if self.whole {
            ticks.retain(|tick| tick.at.fract() == 0.0);
        }
        ticks
    }
}

/// The data area: it maps numbers to places in the picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Area {
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
    x: Axis,
    y: Axis,
}

impl Area {
    pub fn x(&self, at: f64) -> f64 {
        self.left + self.x.scale.share(&self.x.range, at) * (self.right - self.left)
    }

    pub fn y(&self, at: f64) -> f64 {
        let share = self.y.scale.share(&self.y.range, at);
        match self.y.downward {
            true => self.top + share * (self.bottom - self.top),
            false => self.bottom - share * (self.bottom - self.top),
        }
    }

    pub fn point(&self, x: f64, y: f64) -> Point {
        (self.x(x), self.y(y))
    }
}

/// A picture without its data, and the area where the data goes. Title and legend are above the area, so that they
/// cover no data.
pub(super) fn frame(around: Around, x: Axis, y: Axis) -> (Figure, Area) {
    let mut shapes = Vec::new();
    let inner = WIDTH - 2.0 * MARGIN;
    let mut top = MARGIN;
    for line in text::wrap(around.title, TITLE, inner) {
        shapes.push(text_at((MARGIN, top + TITLE * LEADING / 2.0), line, TITLE, Ink::Text, Anchor::Start));
        top += TITLE * LEADING;
    }
    top = legend(&mut shapes, &around.legend, top + 4.0, inner) + 10.0;
    let bottom = top + around.height;
    let y_ticks = y.ticks(around.height, |_| TICK);
    let y_width = y_ticks.iter().map(|tick| text::width(&tick.label, TICK)).fold(0.0, f64::max);
    let left = MARGIN + if around.y.is_empty() { 0.0 } else { LABEL * LEADING } + y_width + 8.0;
    let area = Area { left, right: WIDTH - MARGIN - around.right, top, bottom, x, y };
    for tick in &y_ticks {
        let at = area.y(tick.at);
        if area.y.grid {
            shapes.push(line((area.left, at), (area.right, at), Ink::Grid));
        }
        shapes.push(text_at((area.left - 7.0, at), tick.label.clone(), TICK, Ink::Faint, Anchor::End));
    }
    for tick in area.x.ticks(area.right - area.left, |label| text::width(label, TICK)) {
        let at = area.x(tick.at);
        if area.x.grid {
            shapes.push(line((at, area.top), (at, area.bottom), Ink::Grid));
        }
        // A label at an end of the axis must stay inside the picture.
        let half = text::width(&tick.label, TICK) / 2.0;
        let at = at.min(WIDTH - half - 2.0);
        shapes.push(text_at((at, bottom + 6.0 + TICK / 2.0), tick.label, TICK, Ink::Faint, Anchor::Middle));
    }
    shapes.push(line((area.left, bottom), (area.right, bottom), Ink::Faint));
    shapes.push(line((area.left, top), (area.left, bottom), Ink::Faint));
    let mut below = bottom + 6.0 + TICK * LEADING;
    if !around.y.is_empty() {
        let label = text::shorten(around.y, LABEL, around.height);
        let at = (MARGIN + LABEL / 2.0, (top + bottom) / 2.0);
        shapes.push(Shape::Upright { at, text: label, size: LABEL, ink: Ink::Text });
    }
    if !around.x.is_empty() {
        let label = text::shorten(around.x, LABEL, inner);
        let middle = (area.left + area.right) / 2.0;
        let half = text::width(&label, LABEL) / 2.0;
        let middle = middle.clamp(MARGIN + half.min(inner / 2.0), (WIDTH - MARGIN - half).max(WIDTH / 2.0));
        shapes.push(text_at((middle, below + LABEL * LEADING / 2.0), label, LABEL, Ink::Text, Anchor::Middle));
        below += LABEL * LEADING;
    }
    if !around.caption.is_empty() {
        below += 4.0;
    }
    for line in text::wrap(around.caption, CAPTION, inner) {
        shapes.push(text_at((MARGIN, below + CAPTION * LEADING / 2.0), line, CAPTION, Ink::Faint, Anchor::Start));
        below += CAPTION * LEADING;
    }
    let figure = Figure { title: around.title.to_owned(), width: WIDTH, height: (below + MARGIN).ceil(), shapes };
    (figure, area)
}

/// Draws the names of the lines in rows. Returns where the last row ends.
fn legend(shapes: &mut Vec<Shape>, entries: &[Entry], top: f64, inner: f64) -> f64 {
    const SAMPLE: f64 = 30.0;
    let height = TICK * 1.5;
    let (mut left, mut middle) = (MARGIN, top + height / 2.0);
    for Entry { name, style } in entries {
        let name = text::shorten(name, TICK, inner - SAMPLE);
        let width = SAMPLE + text::width(&name, TICK);
        if left > MARGIN && left + width > MARGIN + inner {
            (left, middle) = (MARGIN, middle + height);
        }
        if style.joined {
            let points = vec![(left, middle), (left + 24.0, middle)];
            shapes.push(Shape::Path { points, ink: style.ink, width: 2.0, dashed: style.dashed });
        }
        if let Some(form) = style.mark {
            shapes.push(Shape::Mark { at: (left + 12.0, middle), ink: style.ink, form });
        }
        shapes.push(text_at((left + SAMPLE, middle), name, TICK, Ink::Text, Anchor::Start));
        left += width + 18.0;
    }
    if entries.is_empty() { top } else { middle + height / 2.0 }
}

pub(super) fn text_at(at: Point, text: String, size: f64, ink: Ink, anchor: Anchor) -> Shape {
    Shape::Text { at, text, size, ink, anchor }
}

pub(super) fn line(from: Point, to: Point, ink: Ink) -> Shape {
    Shape::Path { points: vec![from, to], ink, width: 1.0, dashed: false }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{HeatMap, LinePlot, Measured},
        *,
    };

    /// The bounding boxes of the texts and marks of a picture.
    fn boxes(figure: &Figure) -> Vec<(String, [f64; 4])> {
        let of_shape = |shape: &Shape| match shape {
            Shape::Text { at: (x, y), text, size, anchor, .. } => {
                let width = text::width(text, *size);
                let left = match anchor {
                    Anchor::Start => *x,
                    Anchor::Middle => x - width / 2.0,
                    Anchor::End => x - width,
                };
                // The height of the letters, without the space between lines.
                Some((text.clone(), [left, y - 0.45 * size, left + width, y + 0.45 * size]))
            }
            Shape::Upright { at: (x, y), text, size, .. } => {
                let half = text::width(text, *size) / 2.0;
                Some((text.clone(), [x - 0.45 * size, y - half, x + 0.45 * size, y + half]))
            }
            Shape::Mark { at: (x, y), form, .. } => Some((format!("{form:?}"), [x - 4.0, y - 4.0, x + 4.0, y + 4.0])),
            _ => None,
        };
        figure.shapes.iter().filter_map(of_shape).collect()
    }

    fn check(figure: &Figure) {
        let boxes = boxes(figure);
        for (at, (name, [left, top, right, bottom])) in boxes.iter().enumerate() {
            let inside = *left >= 0.0 && *top >= 0.0 && *right <= figure.width && *bottom <= figure.height;
            assert!(inside, "{}: `{name}` leaves the picture: {:?}", figure.title, boxes[at]);
            for (other, [left_, top_, right_, bottom_]) in &boxes[at + 1..] {
                let marks = ["Circle", "Square", "Triangle", "Diamond"];
                let apart = right <= left_ || right_ <= left || bottom <= top_ || bottom_ <= top;
                let both_marks = marks.contains(&name.as_str()) && marks.contains(&other.as_str());
                assert!(apart || both_marks, "{}: `{name}` touches `{other}`", figure.title);
            }
        }
    }

    #[test]
    fn nothing_covers_anything() {
        let long =
            "verified_sampling with a target of the output, epsilon 0.1, delta 0.1, after a top-k of one in twenty";
        for lines in [1, 2, 7, 15] {
            for (scale, x) in [(Scale::Linear, 1.0), (Scale::Log, 1.0), (Scale::Log, 1e6)] {
                let plot = LinePlot::new(format!("{lines} lines, {scale:?}: {long}"))
                    .x("keys and values that are read (bytes)", scale)
                    .y("relative error of the output, mean over the heads", scale)
                    .caption(long);
                let plot = (0..lines).fold(plot, |plot, at| {
                    let name = if at % 5 == 3 { long.to_owned() } else { format!("method {at}") };
                    let points = (1..=9).map(|step| {
                        let y = f64::from(step * (at + 1));
                        Measured { x: x * f64::from(step), y, low: 0.5 * y, high: 2.0 * y }
                    });
                    plot.line_with_ranges(name, points)
                });
                check(&plot.figure().unwrap());
            }
        }
        for (rows, columns) in [(1, 1), (1, 32), (8, 4), (32, 32), (3, 300), (300, 3), (4096, 4096)] {
            let values = (0..rows * columns).map(|at| (at % 97) as f64 * 1e-4).collect();
            let map = HeatMap::new(format!("{rows} x {columns}: {long}"), rows, columns, values).unwrap();
            check(&map.x("head").y("layer").value("head output error").figure().unwrap());
        }
    }

    #[test]
    fn the_legend_stands_above_the_data() {
        let plot = LinePlot::new("A title").line("one", [(0.0, 0.0), (1.0, 1.0)]).line("two", [(0.0, 1.0), (1.0, 0.0)]);
        let figure = plot.figure().unwrap();
        let places = |wanted: &str| {
            let boxes = boxes(&figure).into_iter().filter(move |(name, _)| name == wanted);
            boxes.map(|(_, [_, top, _, bottom])| (top, bottom)).collect::<Vec<_>>()
        };
        let legend = places("one").into_iter().chain(places("two")).map(|(_, bottom)| bottom).fold(0.0, f64::max);
        // The first mark of each line is the one in the legend.
        let data = places("Circle").into_iter().skip(1).chain(places("Square").into_iter().skip(1));
        let data = data.map(|(top, _)| top).fold(f64::INFINITY, f64::min);
        assert!(legend < data, "{legend} is not above {data}");
    }
}
