use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::metrics::{Metric, MetricLog, Record};

/// The means of a log, by location, layer and head: what plots and tables show.
///
/// Records without a location are of one location without a name. Means are over steps, sequences, and queries where the
/// metric is one of queries; a value that is not finite makes its mean so.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    locations: Vec<Arc<str>>,
    metrics: Vec<Metric>,
    /// By metric and location.
    groups: BTreeMap<(usize, usize), BTreeMap<Cell, Mean>>,
}

/// Layer and head.
type Cell = (Option<usize>, Option<usize>);

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn value(self) -> f64 {
        self.sum / self.count as f64
    }
}

/// The mean of a head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadMean {
    /// The layer.
    pub layer: usize,
    /// The query head.
    pub head: usize,
    /// The mean.
    pub mean: f64,
}

impl Summary {
    /// The means of a log.
    pub fn of(log: &MetricLog) -> Self {
        let names = log.records.iter().map(location).collect::<BTreeSet<_>>();
        let locations = names.into_iter().collect::<Vec<_>>();
        let used = log.records.iter().map(|record| &*record.metric).collect::<BTreeSet<_>>();
        let metrics = log.metrics.iter().filter(|metric| used.contains(&*metric.name)).cloned().collect::<Vec<_>>();
        let mut groups = BTreeMap::<_, BTreeMap<Cell, Mean>>::new();
        for record in &log.records {
            let metric = metrics.iter().position(|metric| metric.name == *record.metric);
            let Some(metric) = metric else { continue };
            let at = locations.partition_point(|known| *known < location(record));
            let cell = (record.place.layer, record.place.head);
            groups.entry((metric, at)).or_default().entry(cell).or_default().add(record.value);
        }
        Self { locations, metrics, groups }
    }

    /// What logged, in alphabetical order.
    pub fn locations(&self) -> &[Arc<str>] {
        &self.locations
    }

    /// The metrics of which there are records, in the order of the log's header.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    fn cells(&self, metric: &str, location: usize) -> impl Iterator<Item = (Cell, Mean)> {
        let metric = self.metrics.iter().position(|known| known.name == metric);
        let cells = metric.and_then(|metric| self.groups.get(&(metric, location)));
        cells.into_iter().flatten().map(|(cell, mean)| (*cell, *mean))
    }

    /// The mean of a metric at a location, by number, over all records; `None` without records.
    pub fn mean(&self, metric: &str, location: usize) -> Option<f64> {
        let all = self
            .cells(metric, location)
            .fold(Mean::default(), |sum, (_, mean)| Mean { sum: sum.sum + mean.sum, count: sum.count + mean.count });
        (all.count > 0).then(|| all.value())
    }

    /// The means of a metric at a location by layer and head, the first layers first.
    pub fn heads(&self, metric: &str, location: usize) -> Vec<HeadMean> {
        let heads = self
            .cells(metric, location)
            .filter_map(|((layer, head), mean)| Some(HeadMean { layer: layer?, head: head?, mean: mean.value() }));
        heads.collect()
    }

    /// The means of a metric at a location by layer, one for each head that there are records of.
    pub fn layers(&self, metric: &str, location: usize) -> BTreeMap<usize, Vec<f64>> {
        let mut layers = BTreeMap::<_, Vec<f64>>::new();
        for ((layer, _), mean) in self.cells(metric, location) {
            if let Some(layer) = layer {
                layers.entry(layer).or_default().push(mean.value());
            }
        }
        layers
    }
}

/// Where a record comes from; empty if it does not say.
pub(super) fn location(record: &Record) -> Arc<str> {
    record.location.clone().unwrap_or_default()
}
