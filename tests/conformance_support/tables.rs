//! Cases that are tables of arguments and results.

use burn::tensor::backend::Backend;
use serde_json::{Value, json};
use sparse_attention_hub::{
    masker::{AdaptiveBudget, AdaptiveSamplingConfig},
    prelude::Size,
};

use super::{
    fixtures::{config_of, registered, research_attention},
    report::{Outcome, Rows},
    sampling::budget_quirk,
    vectors::{Case, Result, all, close, count, equal, field, holds, integer, number},
};

/// The outcome of one row.
enum Row {
    Passed,
    Differs(&'static str),
    NotCovered,
}

/// Runs all rows. Returns the messages of all rows that fail.
fn each_row(case: &Case, run: impl Fn(&Value) -> Result<Row>) -> Result<Outcome> {
    let mut rows = Rows::default();
    let mut failures = Vec::new();
    for row in case.entry.rows()? {
        match run(row) {
            Ok(Row::Passed) => rows.passed += 1,
            Ok(Row::Differs(quirk)) => rows.differs(quirk),
            Ok(Row::NotCovered) => rows.not_covered += 1,
            Err(error) => failures.push(format!("row {row}: {error}")),
        }
    }
    holds(failures.is_empty(), || failures.join("; "))?;
    Ok(Outcome::Rows(rows))
}

/// An adaptive sampler for which only the given fields matter.
fn sampler_with(fields: &[(&str, &Value)]) -> Value {
    let mut config = json!({
        "type": "adaptive_sampling", "base_rate_sampling": 0.1, "epsilon": 0.1, "delta": 0.1, "init_offset": 0,
        "local_offset": 0,
    });
    for (name, value) in fields {
        config[*name] = (*value).clone();
    }
    config
}

/// Kind `adaptive_sampling_range_table`.
pub fn sampling_range(case: &Case) -> Result<Outcome> {
    each_row(case, |row| {
        let offsets = [("init_offset", field(row, "init_offset")?), ("local_offset", field(row, "local_offset")?)];
        let range = config_of::<AdaptiveSamplingConfig>(&sampler_with(&offsets))?.range(count(row, "seq_len_keys")?);
        let returns_full = field(row, "returns_full")?.as_bool().ok_or("returns_full is neither true nor false")?;
        let (start, end) = (integer(row, "start_idx")?, integer(row, "end_idx")?);
        all([
            equal("whether the mask is full", range.len() < 2, returns_full),
            equal("the length of the range", range.len() as i64, integer(row, "sampling_range")?.max(0)),
            // The position of an empty range does not matter.
            holds(end <= start || (range.start as i64, range.end as i64) == (start, end), || {
                format!("the range is {range:?}")
            }),
        ])?;
        Ok(Row::Passed)
    })
}

/// Kind `adaptive_base_count_table`.
pub fn base_count(case: &Case) -> Result<Outcome> {
    each_row(case, |row| {
        let config = config_of::<AdaptiveSamplingConfig>(&sampler_with(&[(
            "base_rate_sampling",
            field(row, "base_rate_sampling")?,
        )]))?;
        let (keys, wanted) = (count(row, "sampling_range")?, count(row, "num_base_samples")?);
        equal("the size of the pilot", config.base_count(keys), wanted.min(keys))?;
        Ok(if wanted <= keys { Row::Passed } else { Row::Differs("Q37") })
    })
}

/// Kind `effective_size_table`.
pub fn effective_size<B: Backend>(case: &Case) -> Result<Outcome> {
    each_row(case, |row| {
        let value = field(row, "size")?;
        let sink = json!({"type": "sink", "sink_size": value});
        let is_refused = research_attention::<B>(case, &[sink]).is_err();
        if value.is_f64() && number(row, "size")? > 1.0 {
            holds(is_refused, || "a fraction above 1 is not refused".into())?;
            return Ok(Row::Differs("Q22"));
        }
        holds(!is_refused, || "the size is refused".into())?;
        let found = serde_json::from_value::<Size>(value.clone())?.of(count(row, "seq_len_keys")?);
        match count(row, "effective")? {
            0 => equal("the size", found, 1).map(|()| Row::Differs("Q22")),
            wanted => equal("the size", found, wanted).map(|()| Row::Passed),
        }
    })
}

/// Kind `adaptive_budget_table`: without a pilot.
pub fn budget(case: &Case) -> Result<Outcome> {
    each_row(case, |row| {
        let delta = number(row, "delta")?;
        let rule = AdaptiveBudget::new(number(row, "epsilon")?, delta);
        let (deviation, denominator) = (number(row, "std")?, number(row, "estimated_denominator")?);
        let found = rule.keys(deviation, denominator, count(row, "sampling_range")?, 1);
        let quirk = budget_quirk(found, count(row, "budget")?, delta, 1)?;
        Ok(quirk.map_or(Row::Passed, Row::Differs))
    })
}

/// Kind `norm_ppf_table`. It is tested through the quantile of the budget, which is that of `1 - delta` and at least 0.
pub fn normal_quantile(case: &Case) -> Result<Outcome> {
    each_row(case, |row| {
        let p = number(row, "p")?;
        let upper = |delta: f64| AdaptiveBudget::new(0.1, delta).quantile();
        // For p below one half, the quantile of p is minus that of 1 - p.
        let found = if p < 0.5 { -upper(p) } else { upper(1.0 - p) };
        close("the quantile", &[found], &[number(row, "ppf")?], case.entry.tolerance())?;
        Ok(Row::Passed)
    })
}

/// Whether a configuration has a fractional size above 1.
fn has_excessive_fraction(config: &Value) -> bool {
    let excessive = |value: &Value| value.is_f64() && value.as_f64().is_some_and(|fraction| fraction > 1.0);
    let is_size = |name: &str| name.ends_with("_size");
    config.as_object().is_some_and(|fields| fields.iter().any(|(name, value)| is_size(name) && excessive(value)))
}

fn verdict(row: &Value) -> Result<bool> {
    Ok(field(row, "valid")?.as_bool().ok_or("valid is neither true nor false")?)
}

/// Kind `config_validation`.
pub fn config_validation<B: Backend>(case: &Case) -> Result<Outcome> {
    each_row(case, |row| {
        let maskers = [field(row, "config")?.clone()];
        if !registered::<B>(&maskers) {
            return Ok(Row::NotCovered);
        }
        let found = research_attention::<B>(case, &maskers).map(|_| ());
        let is_accident = row.get("quirk").and_then(Value::as_bool).unwrap_or(false);
        match (found, verdict(row)?) {
            (Ok(()), true) | (Err(_), false) => Ok(Row::Passed),
            _ if is_accident => Ok(Row::Passed),
            (Err(_), true) if has_excessive_fraction(&maskers[0]) => Ok(Row::Differs("Q22")),
            (Err(error), true) => Err(format!("refused: {error}").into()),
            (Ok(()), false) => Err("not refused".into()),
        }
    })
}

/// Kind `chain_validation`.
pub fn chain_validation<B: Backend>(case: &Case) -> Result<Outcome> {
    each_row(case, |row| {
        let maskers = field(row, "maskers")?.as_array().ok_or("maskers is not a list")?;
        if !registered::<B>(maskers) {
            return Ok(Row::NotCovered);
        }
        let found = research_attention::<B>(case, maskers).map(|_| ());
        holds(found.is_ok() == verdict(row)?, || format!("building the chain gives {found:?}"))?;
        Ok(Row::Passed)
    })
}
