use std::{fmt::Write, ops::Range, path::Path};

use burn::tensor::{Tensor, backend::Backend};

use super::{
    Figure, PlotError, Scale, Theme,
    figure::{Anchor, Shape},
    frame::{Around, Axis, TICK, WIDTH, frame, text_at},
    text,
    theme::Ink,
    ticks::ticks,
};
use crate::mask::{Mask, MaskShape};

/// The largest number of cells in each direction. A cell is then a few pixels wide at the usual width of a plot.
const MOST: usize = 128;

/// The number of shades. Neighbouring cells of a row with the same shade are drawn as one rectangle.
const LEVELS: f64 = 64.0;

/// The smallest and the largest height of all cells together, in CSS pixels. The labels at the sides need the smallest.
const LOWEST: f64 = 160.0;
const HIGHEST: f64 = 460.0;

/// The width of the colour bar and its labels, in CSS pixels.
const BAR: f64 = 96.0;

/// Values over two whole numbers, drawn as shades: layers and heads, or queries and keys.
///
/// If there are more than 128 rows or columns, several of them share a cell. The cell shows the largest of their
/// values, and the caption says so.
///
/// # Example
/// ```
/// use sparse_attention_hub::plot::{HeatMap, Theme};
///
/// let errors = vec![0.01, 0.02, 0.3, 0.04, 0.05, 0.02];
/// let map = HeatMap::new("Error by head", 2, 3, errors)?.x("head").y("layer").value("relative error");
/// assert!(map.figure()?.to_svg(Theme::Light)?.contains("Error by head"));
/// # Ok::<(), sparse_attention_hub::plot::PlotError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct HeatMap {
    title: String,
    x: String,
    y: String,
    value: String,
    rows: Axle,
    columns: Axle,
    /// The cells row by row; NaN where there is no value.
    cells: Vec<f64>,
    range: Option<Range<f64>>,
}

/// One direction of a map.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Axle {
    /// The number of rows or columns of the data.
    count: usize,
    /// The number of rows or columns that share a cell.
    share: usize,
}

impl Axle {
    fn new(count: usize) -> Self {
        Self { count, share: count.div_ceil(MOST).max(1) }
    }

    fn cells(self) -> usize {
        self.count.div_ceil(self.share)
    }

    /// The part of the axis that a cell covers. Each row or column is 1 wide and centred on its number.
    fn extent(self, cell: usize) -> Range<f64> {
        (cell * self.share) as f64 - 0.5..(cell + 1).saturating_mul(self.share).min(self.count) as f64 - 0.5
    }

    fn axis(self, downward: bool) -> Axis {
        let range = -0.5..self.count as f64 - 0.5;
        Axis { scale: Scale::Linear, range, whole: true, downward, grid: false }
    }
}

impl HeatMap {
    /// A map of values in row-major order, with the first row at the top. NaN marks a missing value.
    ///
    /// # Errors
    /// If there are no values, or their number is not rows times columns.
    pub fn new(title: impl Into<String>, rows: usize, columns: usize, values: Vec<f64>) -> Result<Self, PlotError> {
        let title = title.into();
        if rows.checked_mul(columns) != Some(values.len()) {
            return Err(PlotError::Values { title, rows, columns, values: values.len() });
        }
        let all = values.into_iter().enumerate().map(|(at, value)| (at / columns, at % columns, value));
        Self::of(title, rows, columns, all)
    }

    /// A map of values with their rows and columns, in any order. Other places have no value.
    pub(super) fn of(
        title: String,
        rows: usize,
        columns: usize,
        values: impl Iterator<Item = (usize, usize, f64)>,
    ) -> Result<Self, PlotError> {
        if rows == 0 || columns == 0 {
            return Err(PlotError::NoSeries { title });
        }
        let (rows, columns) = (Axle::new(rows), Axle::new(columns));
        let mut cells = vec![f64::NAN; rows.cells() * columns.cells()];
        for (row, column, value) in values {
            let cell = &mut cells[row / rows.share * columns.cells() + column / columns.share];
            // `max` ignores NaN if the other value is a number.
            *cell = cell.max(value);
        }
        let labels = || String::new();
        Ok(Self { title, x: labels(), y: labels(), value: labels(), rows, columns, cells, range: None })
    }

    /// One head of a mask: the probability with which each query keeps each key, and 0 for keys that are not kept.
    ///
    /// # Errors
    /// If the batch or the head does not exist.
    pub fn of_mask<B: Backend>(
        title: impl Into<String>,
        mask: &Mask<B>,
        batch: usize,
        head: usize,
    ) -> Result<Self, PlotError> {
        let (title, shape) = (title.into(), mask.shape());
        exists(&title, shape, batch, head)?;
        let lists = mask.head(batch, head).to_host_rows();
        let kept = lists.iter().enumerate().flat_map(|(query, row)| {
            row.iter().map(move |kept| (query, kept.key as usize, f64::from(kept.probability)))
        });
        let mut map = Self::of(title, shape.queries, shape.keys, kept)?;
        map.cells.iter_mut().filter(|cell| cell.is_nan()).for_each(|cell| *cell = 0.0);
        Ok(map.x("key").y("query").value("probability of being kept").range(0.0, 1.0))
    }

    /// One head of attention weights.
    ///
    /// # Shapes
    /// - weights: `[batch, heads, queries, keys]`.
    ///
    /// # Errors
    /// If the batch or the head does not exist.
    pub fn of_weights<B: Backend>(
        title: impl Into<String>,
        weights: &Tensor<B, 4>,
        batch: usize,
        head: usize,
    ) -> Result<Self, PlotError> {
        let (title, shape) = (title.into(), MaskShape::new(weights.dims()));
        exists(&title, shape, batch, head)?;
        let of_head = weights.clone().slice([batch..batch + 1, head..head + 1]);
        let values = of_head.into_data().convert::<f64>().iter::<f64>().collect();
        Ok(Self::new(title, shape.queries, shape.keys, values)?.x("key").y("query").value("attention weight"))
    }

    /// Sets the label of the columns.
    pub fn x(self, label: impl Into<String>) -> Self {
        Self { x: label.into(), ..self }
    }

    /// Sets the label of the rows.
    pub fn y(self, label: impl Into<String>) -> Self {
        Self { y: label.into(), ..self }
    }

    /// Sets the label of the values, with their unit.
    pub fn value(self, label: impl Into<String>) -> Self {
        Self { value: label.into(), ..self }
    }

    /// Sets the values of the first and the last shade, so that several maps can be compared. Default: the smallest and
    /// the largest value.
    pub fn range(self, low: f64, high: f64) -> Self {
        Self { range: Some(low..high), ..self }
    }

    /// The title of the map.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The smallest and the largest finite value. `None` if no value is finite.
    pub fn extremes(&self) -> Option<(f64, f64)> {
        let finite = self.cells.iter().copied().filter(|cell| cell.is_finite());
        finite.fold(None, |found, cell| {
            let (low, high) = found.unwrap_or((cell, cell));
            Some((cell.min(low), cell.max(high)))
        })
    }

    /// The cells as comma-separated values, with the header line `row,column,value`. Row and column are the first that
    /// the cell covers. Cells without a value are left out.
    pub fn to_csv(&self) -> String {
        let mut csv = "row,column,value\n".to_owned();
        for (at, value) in self.cells.iter().enumerate().filter(|(_, value)| !value.is_nan()) {
            let (row, column) = (at / self.columns.cells(), at % self.columns.cells());
            // Writing to a string does not fail.
            let _ = writeln!(csv, "{},{},{value}", row * self.rows.share, column * self.columns.share);
        }
        csv
    }

    /// Writes the map to an SVG or PNG file in the light theme, whole or not at all.
    ///
    /// # Errors
    /// If the map cannot be [drawn](Self::figure), or the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), PlotError> {
        self.figure()?.save(path, Theme::Light)
    }

    /// The picture.
    ///
    /// # Errors
    /// If the range of the shades is empty or not finite.
    pub fn figure(&self) -> Result<Figure, PlotError> {
        let range = self.shades()?;
        let (rows, columns) = (self.rows.cells() as f64, self.columns.cells() as f64);
        // Cells are about square, as long as the picture is neither too flat nor too tall.
        let height = ((WIDTH - BAR - 80.0) * rows / columns).clamp(LOWEST, HIGHEST);
        let caption = self.caption();
        let around = Around {
            title: &self.title,
            x: &self.x,
            y: &self.y,
            caption: &caption,
            legend: Vec::new(),
            right: BAR,
            height,
        };
        let (mut figure, area) = frame(around, self.columns.axis(false), self.rows.axis(true));
        for (row, cells) in self.cells.chunks(self.columns.cells()).enumerate() {
            let of_row = self.rows.extent(row);
            let mut start = 0;
            for run in cells.chunk_by(|a, b| ink(*a, &range) == ink(*b, &range)) {
                let from = area.point(self.columns.extent(start).start, of_row.start);
                start += run.len();
                let to = area.point(self.columns.extent(start - 1).end, of_row.end);
                figure.shapes.push(Shape::Area { from, to, ink: ink(run[0], &range) });
            }
        }
        self.bar(&mut figure.shapes, area.right + 14.0, area.top..area.bottom, &range);
        Ok(figure)
    }

    /// Draws the colour bar.
    fn bar(&self, shapes: &mut Vec<Shape>, left: f64, vertical: Range<f64>, range: &Range<f64>) {
        const THICK: f64 = 14.0;
        let height = vertical.end - vertical.start;
        for level in 0..LEVELS as usize {
            let at = |level: usize| vertical.end - height * level as f64 / LEVELS;
            let (from, to) = ((left, at(level + 1)), (left + THICK, at(level)));
            shapes.push(Shape::Area { from, to, ink: Ink::Shade((level as f64 + 0.5) / LEVELS) });
        }
        let named = ticks(Scale::Linear, range, height, |_| TICK);
        let label = left + THICK + 6.0;
        for tick in named {
            let at = vertical.end - height * Scale::Linear.share(range, tick.at);
            shapes.push(text_at((label, at), tick.label, TICK, Ink::Faint, Anchor::Start));
        }
        if !self.value.is_empty() {
            let text = text::shorten(&self.value, TICK, height);
            let at = (WIDTH - TICK / 2.0 - 4.0, (vertical.start + vertical.end) / 2.0);
            shapes.push(Shape::Upright { at, text, size: TICK, ink: Ink::Text });
        }
    }

    fn shades(&self) -> Result<Range<f64>, PlotError> {
        let range = match &self.range {
            Some(range) => range.clone(),
            None => match self.extremes() {
                Some((low, high)) if low < high => low..high,
                // All values are equal: they get the shade in the middle.
                Some((low, _)) => low - 0.5 * low.abs().max(1.0)..low + 0.5 * low.abs().max(1.0),
                None => 0.0..1.0,
            },
        };
        match range.start.is_finite() && range.end.is_finite() && range.start < range.end {
            true => Ok(range),
            false => Err(PlotError::Shades { title: self.title.clone(), low: range.start, high: range.end }),
        }
    }

    /// The notes that a reader needs to read the map correctly.
    fn caption(&self) -> String {
        let (rows, columns) = (self.rows, self.columns);
        let mut sentences = Vec::new();
        if rows.share * columns.share > 1 {
            sentences.push(format!(
                "Each cell shows the largest of up to {} x {} values; there are {} x {}.",
                rows.share, columns.share, rows.count, columns.count
            ));
        }
        let count = |of: fn(&f64) -> bool| self.cells.iter().filter(|cell| of(cell)).count();
        let infinite = count(|cell| cell.is_infinite());
        if infinite > 0 {
            sentences.push(format!("Infinite, and drawn as the ends of the shades: {infinite} cells."));
        }
        let absent = count(|cell| cell.is_nan());
        if absent > 0 {
            sentences.push(format!("Grey, without a value: {absent} cells."));
        }
        sentences.join(" ")
    }
}

fn ink(value: f64, range: &Range<f64>) -> Ink {
    if value.is_nan() {
        return Ink::Absent;
    }
    let share = Scale::Linear.share(range, value).clamp(0.0, 1.0);
    Ink::Shade((share * (LEVELS - 1.0)).round() / (LEVELS - 1.0))
}

fn exists(title: &str, shape: MaskShape, batch: usize, head: usize) -> Result<(), PlotError> {
    match batch < shape.batch && head < shape.heads {
        true => Ok(()),
        false => {
            Err(PlotError::Head { title: title.to_owned(), batch, head, batches: shape.batch, heads: shape.heads })
        }
    }
}
