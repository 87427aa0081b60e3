use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Figure, HeatMap, LinePlot, Measured, PlotError, Scale, Summary, Theme,
    summary::{self, HeadMean},
};
use crate::{
    io::FileError,
    metrics::{Metric, MetricLog, MetricReader, built_in},
};

/// What the axes of a plot of a metric are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// A line over the tokens: over the queries if the metric has values by query, otherwise over the steps.
    PerToken,
    /// A heat map of layers and heads, one for each location.
    PerHead,
    /// A line over the layers, with bars for the range of the heads.
    PerLayer,
}

/// A plot that was made from a log.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// The name in file names: letters, digits, `_` and `-`.
    pub name: String,
    /// The content of the plot.
    pub content: PlotContent,
}

/// The content of a [Plot].
#[derive(Debug, Clone, PartialEq)]
pub enum PlotContent {
    /// Lines or points.
    Lines(LinePlot),
    /// Values as shades.
    HeatMap(HeatMap),
}

impl Plot {
    /// The title.
    pub fn title(&self) -> &str {
        match &self.content {
            PlotContent::Lines(plot) => plot.title(),
            PlotContent::HeatMap(map) => map.title(),
        }
    }

    /// The picture.
    ///
    /// # Errors
    /// If it cannot be drawn.
    pub fn figure(&self) -> Result<Figure, PlotError> {
        match &self.content {
            PlotContent::Lines(plot) => plot.figure(),
            PlotContent::HeatMap(map) => map.figure(),
        }
    }

    /// The plotted numbers as comma-separated values, with a header line.
    pub fn to_csv(&self) -> String {
        match &self.content {
            PlotContent::Lines(plot) => plot.to_csv(),
            PlotContent::HeatMap(map) => map.to_csv(),
        }
    }
}

/// Makes the plots of a log. The model that wrote the log is not needed.
///
/// Records are grouped by their [location](crate::metrics::Record::location), such as the methods of a comparison. Each
/// location has its own line or map, side by side.
///
/// # Example
/// ```
/// use sparse_attention_hub::{
///     metrics::{MetricLog, MetricLoggerConfig, MetricRegistry, Place, built_in::HEAD_DENSITY},
///     plot::{Granularity, PlotGenerator},
/// };
///
/// let logger = MetricLoggerConfig::default().init()?;
/// let places = (0..8).map(|at| (Place::of_layer(at / 4, 0).with_head(0, at % 4), at as f64 / 8.0));
/// logger.at("a method").log_many(HEAD_DENSITY, places)?;
/// let log = MetricLog::in_memory(MetricRegistry::new().metrics().to_vec(), logger.records());
/// let plots = PlotGenerator::new(log)?.plot(HEAD_DENSITY, Granularity::PerHead)?;
/// assert_eq!(plots.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PlotGenerator {
    log: MetricLog,
    summary: Summary,
}

const LAYERS: &str = "with a layer";
const HEADS: &str = "with a layer and a head";
const TOKENS: &str = "with a query or a step";

impl PlotGenerator {
    /// Creates a generator for a log.
    ///
    /// # Errors
    /// If the log has no records.
    pub fn new(log: MetricLog) -> Result<Self, PlotError> {
        let log = log.not_empty()?;
        let summary = Summary::of(&log);
        Ok(Self { log, summary })
    }

    /// Reads a log from a file and creates a generator for it.
    ///
    /// # Errors
    /// If the file cannot be read, or has no records.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PlotError> {
        Self::new(MetricReader::open(path)?.read_all()?)
    }

    /// The log.
    pub fn log(&self) -> &MetricLog {
        &self.log
    }

    /// The means of the log's records.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The plots of a metric. [PerHead](Granularity::PerHead) gives one plot for each location. Other granularities give
    /// a single plot.
    ///
    /// # Errors
    /// If no records of the metric have the fields that the plot needs.
    pub fn plot(&self, metric: &str, granularity: Granularity) -> Result<Vec<Plot>, PlotError> {
        match granularity {
            Granularity::PerToken => self.tokens(self.metric(metric, TOKENS)?).map(|plot| vec![plot]),
            Granularity::PerHead => self.maps(self.metric(metric, HEADS)?),
            Granularity::PerLayer => self.layers(self.metric(metric, LAYERS)?).map(|plot| vec![plot]),
        }
    }

    /// Plots one metric over another, such as an error over the density. Each location is a point at the means over its
    /// heads. Bars reach from the 5th to the 95th percentile of the heads.
    ///
    /// # Errors
    /// If no location has records of both metrics by head.
    pub fn over(&self, y: &str, x: &str) -> Result<Plot, PlotError> {
        let (of_y, of_x) = (self.metric(y, HEADS)?, self.metric(x, HEADS)?);
        let scale = |values: &[f64]| match values.iter().copied().fold((f64::INFINITY, 0.0), range_of) {
            (low, high) if low > 0.0 && high / low > 20.0 => Scale::Log,
            _ => Scale::Linear,
        };
        let mut points = Vec::new();
        for (at, location) in self.summary.locations().iter().enumerate() {
            let values = |metric| {
                let heads = self.summary.heads(metric, at).into_iter();
                heads.map(|head| head.mean).filter(|mean| mean.is_finite()).collect::<Vec<_>>()
            };
            if let (Some(y), Some(x)) = (spread(&values(y)), mean(&values(x))) {
                points.push((location, Measured { x, ..y }));
            }
        }
        if points.is_empty() {
            return Err(self.lacks(&of_y.name, HEADS));
        }
        let of_points = scale(&points.iter().map(|(_, point)| point.x).collect::<Vec<_>>());
        let plot = LinePlot::new(format!("{} over {}", named(of_y), lower(&named(of_x))))
            .x(labelled(of_x), of_points)
            .y(labelled(of_y), Scale::Linear)
            .caption("Means over the heads, and the 5th to the 95th percentile of the heads.");
        let plot =
            points.into_iter().fold(plot, |plot, (location, point)| plot.points_with_ranges(shown(location), [point]));
        Ok(Plot { name: format!("{y}-over-{x}"), content: PlotContent::Lines(plot) })
    }

    /// All plots for which the log has enough records: errors over density and bytes, then each metric by layer and
    /// head, by layer, and by token. Plots with a single point and plots that repeat another are left out.
    pub fn all(&self) -> Vec<Plot> {
        let pairs = [
            (built_in::HEAD_OUTPUT_ERROR, built_in::HEAD_DENSITY),
            (built_in::HEAD_OUTPUT_ERROR, built_in::HEAD_KV_BYTES),
            (built_in::HEAD_MASS_KEPT, built_in::HEAD_DENSITY),
        ];
        let mut plots = pairs.iter().filter_map(|(y, x)| self.over(y, x).ok()).collect::<Vec<_>>();
        for metric in self.summary.metrics() {
            let of_queries = self.records(metric).any(|record| record.place.query.is_some());
            if !of_queries {
                plots.extend(self.maps(metric).unwrap_or_default());
                if self.counts(metric, |place| place.layer.map(|layer| layer as u64)) > 1 {
                    plots.extend(self.layers(metric));
                }
            }
            if self.tokens_of(metric).values().any(|tokens| tokens.len() > 1) {
                plots.extend(self.tokens(metric));
            }
        }
        distinct(plots)
    }

    /// Writes [all](Self::all) plots into a folder and returns the paths of the files. The folder is created if it is
    /// missing.
    ///
    /// # Errors
    /// If the folder cannot be created, or a plot cannot be drawn or written.
    pub fn save_all(&self, folder: impl AsRef<Path>, theme: Theme) -> Result<Vec<PathBuf>, PlotError> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|source| FileError::Write { path: folder.to_owned(), source })?;
        let save = |plot: &Plot| {
            let path = folder.join(format!("{}.svg", plot.name));
            plot.figure()?.save(&path, theme)?;
            Ok(path)
        };
        self.all().iter().map(save).collect()
    }

    fn metric(&self, name: &str, wanted: &'static str) -> Result<&Metric, PlotError> {
        let found = self.summary.metrics().iter().find(|metric| metric.name == name);
        found.ok_or_else(|| self.lacks(name, wanted))
    }

    fn lacks(&self, metric: &str, wanted: &'static str) -> PlotError {
        let found = self.summary.metrics().iter().map(|metric| metric.name.as_ref()).collect::<Vec<_>>().join(", ");
        PlotError::NoRecords { origin: self.log.origin(), metric: metric.to_owned(), wanted, found }
    }

    fn records<'a>(&'a self, metric: &'a Metric) -> impl Iterator<Item = &'a crate::metrics::Record> {
        self.log.records.iter().filter(|record| *record.metric == metric.name)
    }

    fn counts(&self, metric: &Metric, of: fn(&crate::metrics::Place) -> Option<u64>) -> usize {
        self.records(metric).filter_map(|record| of(&record.place)).collect::<BTreeSet<_>>().len()
    }

    fn maps(&self, metric: &Metric) -> Result<Vec<Plot>, PlotError> {
        let maps = self.summary.locations().iter().enumerate();
        let maps = maps.map(|(at, location)| (location, self.summary.heads(&metric.name, at)));
        let maps = maps.filter(|(_, heads)| !heads.is_empty()).collect::<Vec<_>>();
        // All maps use the same shades, so that they can be compared.
        let finite = maps.iter().flat_map(|(_, heads)| heads).map(|head| head.mean).filter(|mean| mean.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), range_of);
        if maps.is_empty() {
            return Err(self.lacks(&metric.name, HEADS));
        }
        let map = |(location, heads): &(&Arc<str>, Vec<HeadMean>)| {
            let largest = |of: fn(&HeadMean) -> usize| heads.iter().map(of).max().unwrap_or(0).saturating_add(1);
            let (rows, columns) = (largest(|head| head.layer), largest(|head| head.head));
            let title = with_location(&named(metric), location);
            let values = heads.iter().map(|head| (head.layer, head.head, head.mean));
            let map = HeatMap::of(title, rows, columns, values)?.x("head").y("layer").value(labelled(metric));
            let map = if low < high { map.range(low, high) } else { map };
            Ok(Plot { name: file_name(&[&metric.name, "heads", location]), content: PlotContent::HeatMap(map) })
        };
        maps.iter().map(map).collect()
    }

    fn layers(&self, metric: &Metric) -> Result<Plot, PlotError> {
        let mut plot = LinePlot::new(format!("{}, by layer", named(metric)))
            .whole_x("layer")
            .y(labelled(metric), Scale::Linear)
            .caption("Means over the heads, and the 5th to the 95th percentile of the heads.");
        let mut lines = 0;
        for (at, location) in self.summary.locations().iter().enumerate() {
            let layers = self.summary.layers(&metric.name, at);
            let points = layers.iter().filter_map(|(layer, heads)| {
                let finite = heads.iter().copied().filter(|value| value.is_finite()).collect::<Vec<_>>();
                Some(Measured { x: *layer as f64, ..spread(&finite)? })
            });
            let points = points.collect::<Vec<_>>();
            if !points.is_empty() {
                lines += 1;
                plot = plot.line_with_ranges(shown(location), points);
            }
        }
        match lines {
            0 => Err(self.lacks(&metric.name, LAYERS)),
            _ => Ok(Plot { name: file_name(&[&metric.name, "layers"]), content: PlotContent::Lines(plot) }),
        }
    }

    /// The values by token, for each location.
    fn tokens_of(&self, metric: &Metric) -> BTreeMap<Arc<str>, BTreeMap<u64, Vec<f64>>> {
        // The number of queries of each step. It gives the number of queries before a step.
        let mut queries = BTreeMap::<Arc<str>, BTreeMap<u64, u64>>::new();
        for record in self.records(metric) {
            if let Some(query) = record.place.query {
                let steps = queries.entry(summary::location(record)).or_default();
                let count = steps.entry(record.place.step.unwrap_or(0)).or_default();
                *count = (*count).max((query as u64).saturating_add(1));
            }
        }
        for steps in queries.values_mut() {
            let mut before = 0_u64;
            for count in steps.values_mut() {
                (*count, before) = (before, before.saturating_add(*count));
            }
        }
        let mut tokens = BTreeMap::<Arc<str>, BTreeMap<u64, Vec<f64>>>::new();
        for record in self.records(metric).filter(|record| record.value.is_finite()) {
            let location = summary::location(record);
            let (query, step) = (record.place.query, record.place.step);
            let first = || queries.get(&location).and_then(|steps| steps.get(&step.unwrap_or(0))).copied().unwrap_or(0);
            let token = query.map(|query| first().saturating_add(query as u64)).or(step);
            if let Some(token) = token {
                tokens.entry(location).or_default().entry(token).or_default().push(record.value);
            }
        }
        tokens
    }

    fn tokens(&self, metric: &Metric) -> Result<Plot, PlotError> {
        let tokens = self.tokens_of(metric);
        if tokens.is_empty() {
            return Err(self.lacks(&metric.name, TOKENS));
        }
        let of_queries = self.records(metric).any(|record| record.place.query.is_some());
        let (x, by) = if of_queries { ("token", "by token") } else { ("step", "by step") };
        let plot = LinePlot::new(format!("{}, {by}", named(metric)))
            .whole_x(x)
            .y(labelled(metric), Scale::Linear)
            .caption("Means over the layers and heads.");
        let plot = tokens.iter().fold(plot, |plot, (location, tokens)| {
            let points = tokens.iter().filter_map(|(token, values)| Some((*token as f64, mean(values)?)));
            plot.line(shown(location), points)
        });
        Ok(Plot { name: file_name(&[&metric.name, "tokens"]), content: PlotContent::Lines(plot) })
    }
}

fn range_of((low, high): (f64, f64), value: f64) -> (f64, f64) {
    (low.min(value), high.max(value))
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The mean, and the range from the 5th to the 95th percentile. The range is widened to contain the mean.
fn spread(values: &[f64]) -> Option<Measured> {
    let y = mean(values)?;
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let percentile = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    Some(Measured { x: 0.0, y, low: percentile(0.05).min(y), high: percentile(0.95).max(y) })
}

/// The name of a metric in words.
fn named(metric: &Metric) -> String {
    let words = metric.name.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn lower(words: &str) -> String {
    words.to_lowercase()
}

/// The name of a metric in words, with its unit.
fn labelled(metric: &Metric) -> String {
    let name = lower(&named(metric));
    match metric.unit.is_empty() || name.ends_with(&*metric.unit) {
        true => name,
        false => format!("{name} ({})", metric.unit),
    }
}

fn shown(location: &str) -> &str {
    if location.is_empty() { "all" } else { location }
}

fn with_location(title: &str, location: &str) -> String {
    match location.is_empty() {
        true => title.to_owned(),
        false => format!("{title}: {location}"),
    }
}

/// Gives each plot a distinct name. Two locations can differ only in characters that are not allowed in file names.
fn distinct(mut plots: Vec<Plot>) -> Vec<Plot> {
    let mut seen = BTreeSet::new();
    for plot in &mut plots {
        let name = plot.name.clone();
        let mut next = 2;
        while !seen.insert(plot.name.clone()) {
            plot.name = format!("{name}-{next}");
            next += 1;
        }
    }
    plots
}

/// Joins words into a file name that is safe in file systems and links.
fn file_name(words: &[&str]) -> String {
    let safe = |word: &str| {
        let safe = |letter: char| if letter.is_ascii_alphanumeric() || letter == '_' { letter } else { '-' };
        word.chars().map(safe).collect::<String>()
    };
    words.iter().filter(|word| !word.is_empty()).map(|word| safe(word)).collect::<Vec<_>>().join("-")
}
