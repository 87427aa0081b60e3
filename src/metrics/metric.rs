use std::{borrow::Cow, collections::HashMap};

use serde::{Deserialize, Serialize};

use super::{MetricError, built_in};

/// The kind of a metric's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    /// Any number. Infinities and NaN are written as text.
    Real,
    /// A whole number from 0 to 2^53.
    Count,
}

/// The largest number up to which `f64` holds every whole number.
const LARGEST_COUNT: f64 = 9_007_199_254_740_992.0;

impl MetricKind {
    /// The allowed values, in words.
    pub fn allowed(self) -> &'static str {
        match self {
            Self::Real => "a number",
            Self::Count => "a whole number of at least 0",
        }
    }

    fn admits(self, value: f64) -> bool {
        match self {
            Self::Real => true,
            Self::Count => (0.0..=LARGEST_COUNT).contains(&value) && value.fract() == 0.0,
        }
    }
}

/// A metric: its name and the kind and unit of its values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// The name that it is logged under.
    pub name: Cow<'static, str>,
    /// The kind of its values.
    pub kind: MetricKind,
    /// The unit of its values; empty if they have none.
    pub unit: Cow<'static, str>,
    /// A description in one sentence.
    pub about: Cow<'static, str>,
}

impl Metric {
    /// Defines a metric.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        kind: MetricKind,
        unit: impl Into<Cow<'static, str>>,
        about: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { name: name.into(), kind, unit: unit.into(), about: about.into() }
    }

    /// Checks that a value fits the metric's kind.
    ///
    /// # Errors
    /// If it does not.
    pub fn check(&self, value: f64) -> Result<(), MetricError> {
        match self.kind.admits(value) {
            true => Ok(()),
            false => Err(MetricError::Value { metric: self.name.to_string(), value, allowed: self.kind.allowed() }),
        }
    }
}

/// The metrics that a logger can log.
///
/// # Example
/// ```
/// use sparse_attention_hub::metrics::{Metric, MetricKind, MetricRegistry};
///
/// let mut registry = MetricRegistry::new();
/// registry.register(Metric::new("cache_hits", MetricKind::Count, "", "Keys that were in the cache."))?;
/// assert!(registry.get("cache_hits").is_some());
/// # Ok::<(), sparse_attention_hub::metrics::MetricError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct MetricRegistry {
    metrics: Vec<Metric>,
    places: HashMap<String, usize>,
}

impl MetricRegistry {
    /// The [built-in](built_in) metrics.
    pub fn new() -> Self {
        Self::of(built_in::METRICS.iter().cloned())
    }

    /// Only these metrics. If several have the same name, the first is taken.
    pub(super) fn of(metrics: impl IntoIterator<Item = Metric>) -> Self {
        let mut registry = Self { metrics: Vec::new(), places: HashMap::new() };
        for metric in metrics {
            if registry.get(&metric.name).is_none() {
                registry.insert(metric);
            }
        }
        registry
    }

    fn insert(&mut self, metric: Metric) {
        self.places.insert(metric.name.to_string(), self.metrics.len());
        self.metrics.push(metric);
    }

    /// Adds a metric. Adding an identical metric again changes nothing.
    ///
    /// # Errors
    /// If a different metric has the same name.
    pub fn register(&mut self, metric: Metric) -> Result<(), MetricError> {
        match self.get(&metric.name) {
            Some(known) if *known == metric => Ok(()),
            Some(_) => Err(MetricError::Registered { name: metric.name.into_owned() }),
            None => {
                self.insert(metric);
                Ok(())
            }
        }
    }

    /// The metrics in the order in which they were registered.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// The metric with a name.
    pub fn get(&self, name: &str) -> Option<&Metric> {
        self.place(name).map(|place| &self.metrics[place])
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    pub(super) fn unknown(&self, name: &str) -> MetricError {
        let known = self.metrics.iter().map(|metric| metric.name.as_ref()).collect::<Vec<_>>().join(", ");
        MetricError::Unknown { name: name.to_owned(), known }
    }
}

impl Default for MetricRegistry {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_whole_and_reals_are_anything() {
        let metric = |kind| Metric::new("m", kind, "", "");
        for value in [0.0, 1.0, 9_007_199_254_740_992.0] {
            metric(MetricKind::Count).check(value).unwrap();
        }
        for value in [-1.0, 0.5, f64::NAN, f64::INFINITY, 1e17] {
            let error = metric(MetricKind::Count).check(value).unwrap_err().to_string();
            assert!(error.contains("`m`") && error.contains("whole"), "{error}");
            metric(MetricKind::Real).check(value).unwrap();
        }
    }

    #[test]
    fn a_name_has_one_definition() {
        let mut registry = MetricRegistry::new();
        let hits = Metric::new("hits", MetricKind::Count, "", "Hits.");
        registry.register(hits.clone()).unwrap();
        registry.register(hits.clone()).unwrap();
        let error = registry.register(Metric { kind: MetricKind::Real, ..hits }).unwrap_err().to_string();
        assert!(error.contains("`hits`"), "{error}");
        assert_eq!(registry.metrics().len(), built_in::METRICS.len() + 1);
    }
}
