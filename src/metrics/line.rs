//! The lines of a log: a header, then one record per line.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Metric, Place, Record, Timestamp};

/// The name of the format in the header.
pub(super) const FORMAT: &str = "sparse-attention-hub metrics";

/// The version of the format. It increases with every change that a reader of the previous version cannot read.
pub(super) const VERSION: u64 = 1;

/// The header, which is the first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header<'a> {
    pub format: Cow<'a, str>,
    pub version: u64,
    pub metrics: Cow<'a, [Metric]>,
}

impl<'a> Header<'a> {
    pub fn of(metrics: &'a [Metric]) -> Self {
        Self { format: FORMAT.into(), version: VERSION, metrics: Cow::Borrowed(metrics) }
    }
}

/// A record, which is every other line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line<'a> {
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    pub metric: Cow<'a, str>,
    #[serde(serialize_with = "write_number", deserialize_with = "read_number")]
    pub value: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    query: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    location: Option<Cow<'a, str>>,
}

impl<'a> Line<'a> {
    pub fn new(timestamp: &'a str, metric: &'a str, value: f64, place: Place, location: Option<&'a str>) -> Self {
        let Place { layer, batch, head, query, step } = place;
        let location = location.map(Cow::Borrowed);
        Self { timestamp: timestamp.into(), metric: metric.into(), value, layer, batch, head, query, step, location }
    }

    /// Converts the line into a record. The error says in words what is wrong with the timestamp.
    pub fn record(self, mut shared: impl FnMut(&str) -> Arc<str>) -> Result<Record, &'static str> {
        let Self { layer, batch, head, query, step, .. } = self;
        Ok(Record {
            timestamp: self.timestamp.parse::<Timestamp>()?,
            metric: shared(&self.metric),
            value: self.value,
            place: Place { layer, batch, head, query, step },
            location: self.location.as_deref().map(&mut shared),
        })
    }
}

/// JSON has no infinities and no NaN, so these are written as text.
fn write_number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match value.is_finite() {
        true if value.fract() == 0.0 && value.abs() < 1e15 => serializer.serialize_i64(*value as i64),
        true => serializer.serialize_f64(*value),
        false if value.is_nan() => serializer.serialize_str("NaN"),
        false => serializer.serialize_str(if *value > 0.0 { "Infinity" } else { "-Infinity" }),
    }
}

fn read_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = f64;

        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("a number, \"Infinity\", \"-Infinity\" or \"NaN\"")
        }

        fn visit_f64<E: de::Error>(self, value: f64) -> Result<f64, E> {
            Ok(value)
        }

        fn visit_u64<E: de::Error>(self, value: u64) -> Result<f64, E> {
            Ok(value as f64)
        }

        fn visit_i64<E: de::Error>(self, value: i64) -> Result<f64, E> {
            Ok(value as f64)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<f64, E> {
            match text {
                "Infinity" => Ok(f64::INFINITY),
                "-Infinity" => Ok(f64::NEG_INFINITY),
                "NaN" => Ok(f64::NAN),
                _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
            }
        }
    }
    deserializer.deserialize_any(Visitor)
}

/// A value as one line of JSON, without the line break.
pub(super) fn json(line: &impl Serialize) -> Vec<u8> {
    // Writing to memory does not fail. These types only have maps with text keys, and their serializers return no
    // errors.
    serde_json::to_vec(line).expect("a header or a record is JSON")
}
