use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::metrics::{Metric, MetricLog, Record};

/// The means of a log's records by location, layer and head. Plots and tables show them.
///
/// Records without a location belong to one location with an empty name. Means are over steps, sequences and, for
/// metrics by query, queries. If a value is not finite, its mean is not finite either.
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

    /// The locations of the records, in alphabetical order.
    pub fn locations(&self) -> &[Arc<str>] {
        &self.locations
    }

    /// The metrics that have records, in the order of the log's header.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    fn cells(&self, metric: &str, location: usize) -> impl Iterator<Item = (Cell, Mean)> {
        let metric = self.metrics.iter().position(|known| known.name == metric);
        let cells = metric.and_then(|metric| self.groups.get(&(metric, location)));
        cells.into_iter().flatten().map(|(cell, mean)| (*cell, *mean))
    }

    /// The mean of a metric over all records of a location, which is given by its number. `None` if there are no
    /// records.
    pub fn mean(&self, metric: &str, location: usize) -> Option<f64> {
        let all = self
            .cells(metric, location)
            .fold(Mean::default(), |sum, (_, mean)| Mean { sum: sum.sum + mean.sum, count: sum.count + mean.count });
        (all.count > 0).then(|| all.value())
    }

    /// The means of a metric at a location by layer and head, in the order of the layers.
    pub fn heads(&self, metric: &str, location: usize) -> Vec<HeadMean> {
        let heads = self
            .cells(metric, location)
            .filter_map(|((layer, head), mean)| Some(HeadMean { layer: layer?, head: head?, mean: mean.value() }));
        heads.collect()
    }

    /// The means of a metric at a location by layer, with one mean for each head that has records.
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

/// The location of a record. Empty if it has none.
pub(super) fn location(record: &Record) -> Arc<str> {
    record.location.clone().unwrap_or_default()
}
