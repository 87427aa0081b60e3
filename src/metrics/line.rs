//! The lines of a log: a header, and a record each.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Metric, Place, Record, Timestamp};

/// What the header says the file is.
pub(super) const FORMAT: &str = "sparse-attention-hub metrics";

/// The version of the format. It changes with every field that a reader of the version before would not understand.
pub(super) const VERSION: u64 = 1;

/// The first line.
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

/// Every other line.
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

    /// The record; an error of the timestamp in words.
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

/// JSON has no infinities and no NaN: they are text.
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

/// One line, without its end.
pub(super) fn json(line: &impl Serialize) -> Vec<u8> {
    // Writing to memory does not fail, and these types have neither maps with keys other than text nor errors of their own.
    serde_json::to_vec(line).expect("a header or a record is JSON")
}
