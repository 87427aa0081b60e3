use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use super::TuneError;
use crate::state::mix;

/// A space of methods: a method file in which some values are ranges or choices.
///
/// An object with `low` and `high` is a range. If both are whole numbers, the range holds whole numbers; otherwise both
/// are written with a decimal point, and the range holds such numbers. This matches [sizes](crate::masker::Size). With
/// `"scale": "log"`, equal ratios are equally likely. An object with `choices` stands for one of them. Choices may
/// contain ranges, and a choice may be a whole method.
///
/// # Example
/// ```
/// use sparse_attention_hub::tune::MethodSpace;
///
/// let space = MethodSpace::from_json(
///     r#"[
///         {"type": "sink", "sink_size": {"choices": [1, 4, 16]}},
///         {"type": "local", "window_size": {"low": 16, "high": 256, "scale": "log"}},
///         {"type": "oracle_top_k", "heavy_size": {"low": 0.01, "high": 0.1, "scale": "log"}}
///     ]"#,
/// )?;
/// let method = space.sample(42, 0);
/// assert_eq!(method, space.sample(42, 0));
/// assert!(method[1]["window_size"].as_u64().is_some_and(|size| (16..=256).contains(&size)));
/// # Ok::<(), sparse_attention_hub::tune::TuneError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MethodSpace(Value);

/// The two ends of a range.
enum Range {
    Whole(u64, u64),
    Real(f64, f64),
}

const LOW: &str = "low";
const HIGH: &str = "high";
const SCALE: &str = "scale";
const CHOICES: &str = "choices";

impl MethodSpace {
    /// Creates a space from a JSON value.
    ///
    /// # Errors
    /// If a range is empty, is not of numbers, or is not above 0 on a logarithmic scale. If there are no choices.
    pub fn new(value: Value) -> Result<Self, TuneError> {
        validate(&value, "")?;
        Ok(Self(value))
    }

    /// Creates a space from a text.
    ///
    /// # Errors
    /// If the text is not JSON, and as [new](Self::new).
    pub fn from_json(json: &str) -> Result<Self, TuneError> {
        Self::parse(json, "the text")
    }

    /// Reads a space from a file.
    ///
    /// # Errors
    /// If the file cannot be read, and as [from_json](Self::from_json).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TuneError> {
        let path = path.as_ref();
        let json = std::fs::read_to_string(path).map_err(|source| TuneError::Open { path: path.to_owned(), source })?;
        Self::parse(&json, &path.display().to_string())
    }

    fn parse(json: &str, origin: &str) -> Result<Self, TuneError> {
        let value = serde_json::from_str(json)
            .map_err(|error| TuneError::NotASpace { origin: origin.to_owned(), reason: error.to_string() })?;
        Self::new(value)
    }

    /// A space that is known to be valid.
    pub(super) fn unchecked(value: Value) -> Self {
        Self(value)
    }

    /// The space as JSON.
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// A method of the space. It depends only on the seed and the number of the trial. Trials can therefore run in any
    /// order and on several machines.
    pub fn sample(&self, seed: u64, trial: u64) -> Value {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(mix(seed, trial));
        sample(&self.0, &mut rng)
    }
}

fn validate(value: &Value, path: &str) -> Result<(), TuneError> {
    let inner = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Array(values) => {
            values.iter().enumerate().try_for_each(|(at, value)| validate(value, &inner(&at.to_string())))
        }
        Value::Object(fields) if fields.contains_key(LOW) || fields.contains_key(HIGH) => {
            range(fields, path).map(|_| ())
        }
        Value::Object(fields) => {
            if let Some(choices) = fields.get(CHOICES) {
                only(fields, &[CHOICES], path)?;
                if choices.as_array().is_none_or(Vec::is_empty) {
                    return Err(wrong(inner(CHOICES), choices, "a list that is not empty"));
                }
            }
            fields.iter().try_for_each(|(name, value)| validate(value, &inner(name)))
        }
        _ => Ok(()),
    }
}

/// Checks a range and returns it, and whether it is logarithmic.
fn range(fields: &Map<String, Value>, path: &str) -> Result<(Range, bool), TuneError> {
    only(fields, &[LOW, HIGH, SCALE], path)?;
    let log = match fields.get(SCALE).map(Value::as_str) {
        None | Some(Some("linear")) => false,
        Some(Some("log")) => true,
        Some(_) => return Err(wrong(format!("{path}.{SCALE}"), &fields[SCALE], "`linear` or `log`")),
    };
    let value = || Value::Object(fields.clone());
    let ends = [LOW, HIGH].map(|end| fields.get(end).unwrap_or(&Value::Null));
    let range = match ends.map(Value::as_u64) {
        [Some(low), Some(high)] => Range::Whole(low, high),
        _ => match ends.map(|end| end.as_f64().filter(|_| end.is_f64())) {
            [Some(low), Some(high)] => Range::Real(low, high),
            _ => {
                let allowed =
                    "a range with `low` and `high`, both whole numbers of at least 0 or both numbers with a point";
                return Err(wrong(path.to_owned(), &value(), allowed));
            }
        },
    };
    let (upward, positive) = match range {
        Range::Whole(low, high) => (low <= high, low > 0),
        Range::Real(low, high) => (low <= high, low > 0.0),
    };
    match (upward, positive || !log) {
        (true, true) => Ok((range, log)),
        (false, _) => Err(wrong(path.to_owned(), &value(), "a range in which `low` is at most `high`")),
        (_, false) => Err(wrong(path.to_owned(), &value(), "a range above 0, since its scale is logarithmic")),
    }
}

fn only(fields: &Map<String, Value>, known: &[&'static str], path: &str) -> Result<(), TuneError> {
    match fields.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        Some((name, value)) => {
            let field = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            Err(wrong(field, value, "left out: a range has `low`, `high` and `scale`, and choices have `choices`"))
        }
        None => Ok(()),
    }
}

fn wrong(field: String, value: &Value, allowed: &'static str) -> TuneError {
    TuneError::Value { field, value: value.to_string(), allowed }
}

fn sample(value: &Value, rng: &mut Xoshiro256PlusPlus) -> Value {
    match value {
        Value::Array(values) => values.iter().map(|value| sample(value, rng)).collect(),
        Value::Object(fields) => match (range(fields, ""), fields.get(CHOICES)) {
            (Ok((range, log)), _) => draw(range, log, rng),
            (Err(_), Some(Value::Array(choices))) if !choices.is_empty() => {
                sample(&choices[rng.random_range(0..choices.len())], rng)
            }
            _ => fields.iter().map(|(name, value)| (name.clone(), sample(value, rng))).collect::<Map<_, _>>().into(),
        },
        other => other.clone(),
    }
}

fn draw(range: Range, log: bool, rng: &mut Xoshiro256PlusPlus) -> Value {
    let mut between = |low: f64, high: f64| {
        let share = rng.random::<f64>();
        if log { low * (high / low).powf(share) } else { low + share * (high - low) }
    };
    match range {
        // Half a step more at both ends, so that the ends are as likely as the other numbers.
        Range::Whole(low, high) => {
            let drawn = match log {
                true => between(low as f64, high as f64 + 1.0).floor() as u64,
                false => between(low as f64 - 0.5, high as f64 + 0.5).round() as u64,
            };
            drawn.clamp(low, high).into()
        }
        Range::Real(low, high) => {
            // Four digits are finer than any measurement of a method, and are easy to read.
            let drawn = between(low, high);
            let short = format!("{drawn:.3e}").parse::<f64>().unwrap_or(drawn).clamp(low, high);
            Number::from_f64(short).map_or(Value::Null, Value::Number)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn samples_are_in_their_ranges_and_reach_the_ends() {
        let space = json!([{
            "type": "x",
            "whole": {"low": 1, "high": 4},
            "log": {"low": 1, "high": 8, "scale": "log"},
            "real": {"low": 0.5, "high": 2.0, "scale": "log"},
            "choice": {"choices": ["a", {"b": {"low": 0, "high": 0}}]},
        }]);
        let space = MethodSpace::new(space).unwrap();
        let samples = (0..2000).map(|trial| space.sample(7, trial)[0].clone()).collect::<Vec<_>>();
        let counts = |field: &str, value: Value| samples.iter().filter(|sample| sample[field] == value).count();
        for value in 1..=4 {
            // The expected count is a quarter of 2,000, with a standard deviation of 19.
            assert!((400..600).contains(&counts("whole", json!(value))), "{value}");
        }
        // The probabilities are log2(9 / 8) / log2(9) and log2(2) / log2(9).
        assert!((60..160).contains(&counts("log", json!(8))) && (550..710).contains(&counts("log", json!(1))));
        let below_one = samples.iter().filter(|sample| sample["real"].as_f64().unwrap() < 1.0).count();
        assert!((900..1100).contains(&below_one), "{below_one}");
        assert!(samples.iter().all(|sample| (0.5..=2.0).contains(&sample["real"].as_f64().unwrap())));
        assert_eq!(counts("choice", json!("a")) + counts("choice", json!({"b": 0})), 2000);
        assert_ne!(space.sample(7, 0), space.sample(8, 0));
    }

    #[test]
    fn spaces_that_make_no_sense_name_the_field() {
        let cases = [
            (json!([{"k": {"low": 4, "high": 1}}]), "`0.k`", "at most"),
            (json!([{"k": {"low": 0, "high": 1, "scale": "log"}}]), "`0.k`", "above 0"),
            (json!([{"k": {"low": 0.0, "high": 1, "scale": "linear"}}]), "`0.k`", "both"),
            (json!([{"k": {"low": "a", "high": 1}}]), "`0.k`", "both"),
            (json!([{"k": {"high": 1}}]), "`0.k`", "both"),
            (json!([{"k": {"low": 1, "high": 2, "scale": "square"}}]), "`0.k.scale`", "`log`"),
            (json!([{"k": {"low": 1, "high": 2, "step": 1}}]), "`0.k.step`", "left out"),
            (json!([{"s": {"type": "t", "k": {"choices": []}}}]), "`0.s.k.choices`", "not empty"),
        ];
        for (space, field, allowed) in cases {
            let error = MethodSpace::new(space).unwrap_err().to_string();
            assert!(error.contains(field) && error.contains(allowed), "{error}");
        }
        assert!(MethodSpace::from_json("[").unwrap_err().to_string().contains("the text"));
        assert!(MethodSpace::from_file("/no/space.json").unwrap_err().to_string().contains("/no/space.json"));
    }
}
