//! Random methods that are valid for given sizes.

use serde_json::{Value, json};

use super::{Source, problem::Sizes, rows, weights};

/// A method and its promised properties.
#[derive(Debug, Clone)]
pub struct Method {
    /// The list of maskers.
    pub json: Value,
    /// Whether one of the maskers selects by queries and keys, and keeps at least one key that a query sees.
    pub chooses: bool,
}

impl Method {
    /// The text of the method file.
    pub fn text(&self) -> String {
        self.json.to_string()
    }
}

/// The kind of method that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Any valid method.
    Any,
    /// A method whose sizes are counts of keys.
    Counts,
    /// A method that keeps every key.
    Everything,
}

/// Maskers that select by score and keep at least one visible key.
const CHOOSERS: [&str; 9] = [
    "oracle_top_k",
    "top_k",
    "oracle_top_p",
    "top_p",
    "hash_attention_top_k",
    "double_sparsity_top_k",
    "quest_top_k",
    "pq_cache",
    "priority_sampling",
];

/// Maskers that keep keys by position.
const POSITIONS: [&str; 3] = ["sink", "local", "causal"];

/// Samplers. A chain has at most one.
const SAMPLERS: [&str; 5] = ["random_sampling", "adaptive_sampling", "verified_sampling", "magic_pig", "pps_sampling"];

/// A masker that keeps keys by the limit of a weight. It may keep no key.
const THRESHOLD: &str = "threshold";

/// Whether this file draws the fields of a masker. All other maskers have the fields of their row in the tests' table.
pub fn draws_fields(name: &str) -> bool {
    name == THRESHOLD || [&CHOOSERS[..], &POSITIONS, &SAMPLERS].iter().any(|list| list.contains(&name))
}

/// A method of up to three maskers that is valid for some sizes.
pub fn method(source: &mut Source, sizes: &Sizes, wanted: Wanted) -> Method {
    // The sizes in the tests' table are not always counts, and they do not always keep everything.
    let with_rows = |list: &[&'static str], of_row: fn(&rows::Row) -> bool| {
        let rows = rows::maskers().iter().filter(|row| wanted == Wanted::Any && of_row(row));
        list.iter().copied().chain(rows.map(|row| row.name.as_str())).collect::<Vec<_>>()
    };
    let positions = with_rows(&POSITIONS, |row| !row.selects());
    let choosers = with_rows(&CHOOSERS, |row| row.selects() && !row.samples());
    let samplers = with_rows(&SAMPLERS, rows::Row::samples);
    let mut names = Vec::new();
    for _ in 0..source.below(3) {
        names.push(*source.pick(&positions));
    }
    let last = source.below(10);
    match last {
        0..6 => names.push(*source.pick(&choosers)),
        6 => names.push(THRESHOLD),
        7..9 if wanted != Wanted::Everything => names.push(*source.pick(&samplers)),
        7..9 => names.push(*source.pick(&["random_sampling", "pps_sampling"])),
        _ if names.is_empty() => names.push(*source.pick(&positions)),
        _ => {}
    }
    // `causal` has no size that makes it keep every key, so a masker that can is added.
    if wanted == Wanted::Everything && names.last() == Some(&"causal") {
        names.push("sink");
    }
    let full = names.len() - 1;
    let configs = names.iter().enumerate().map(|(place, name)| {
        let wanted = match wanted {
            // One masker that keeps every key is enough.
            Wanted::Everything if place != full => Wanted::Any,
            wanted => wanted,
        };
        masker(source, sizes, wanted, name)
    });
    Method { json: Value::Array(configs.collect()), chooses: names.iter().any(|name| CHOOSERS.contains(name)) }
}

/// A masker of a type.
pub fn masker(source: &mut Source, sizes: &Sizes, wanted: Wanted, name: &str) -> Value {
    if let Some(row) = rows::maskers().iter().find(|row| row.name == name) {
        return row.config(sizes);
    }
    let mut fields = match name {
        "sink" => json!({"sink_size": size(source, sizes, wanted)}),
        "local" => json!({"window_size": size(source, sizes, wanted)}),
        "oracle_top_k" => json!({"heavy_size": size(source, sizes, wanted)}),
        "top_k" => json!({"heavy_size": size(source, sizes, wanted), "scorer": scorer(source, sizes)}),
        "oracle_top_p" => json!({"top_p": share(source, wanted, 1.0)}),
        "top_p" => top_p(source, sizes, wanted),
        "threshold" => json!({"threshold": share(source, wanted, 0.0), "scorer": scorer(source, sizes)}),
        "hash_attention_top_k" => with(weights::hash(sizes), "heavy_size", size(source, sizes, wanted)),
        "double_sparsity_top_k" => with(channel_fields(source, sizes), "heavy_size", size(source, sizes, wanted)),
        "quest_top_k" => json!({"heavy_size": size(source, sizes, wanted), "page_size": source.between(1, 6),
                                "label_bits": source.between(1, 16), "minimum_pages": source.below(4)}),
        "pq_cache" => with(pq_fields(source), "heavy_size", size(source, sizes, wanted)),
        "random_sampling" => json!({"sampling_rate": share(source, wanted, 1.0).max(0.01),
                                    "replacement": wanted != Wanted::Everything && source.once_in(3)}),
        "adaptive_sampling" => json!({"base_rate_sampling": *source.pick(&[0.1, 0.5, 0.9]),
                                      "epsilon": fraction(source), "delta": fraction(source),
                                      "init_offset": source.below(4), "local_offset": source.below(4),
                                      "replacement": source.once_in(3)}),
        "verified_sampling" => json!({"target": source.pick(&["denominator", "numerator", "output"]),
                                      "epsilon": fraction(source), "delta": 0.2 * fraction(source),
                                      "pilot_size": size(source, sizes, wanted)}),
        "magic_pig" => json!({"lsh_l": source.between(2, 12), "lsh_k": source.between(1, 6),
                              "minimum_hits": source.between(1, 2), "center": source.once_in(2),
                              "seed": source.below(3)}),
        "priority_sampling" => json!({"k": size(source, sizes, wanted), "scorer": scorer(source, sizes)}),
        "pps_sampling" => json!({"sampling_size": size(source, sizes, wanted), "scorer": scorer(source, sizes),
                                 "uniform_share": if wanted == Wanted::Everything { 0.0 } else { fraction(source) }}),
        _ => json!({}),
    };
    if fields.get("heavy_size").is_some() && source.once_in(4) {
        fields["share_group"] = source.pick(&[json!(true), json!(false), json!("mean"), json!("max")]).clone();
    }
    with(fields, "type", json!(name))
}

/// Scorers whose fields this file draws. All other scorers have the fields of their row in the tests' table. `oracle` is
/// drawn most often.
pub const SCORERS: [&str; 8] = ["oracle", "oracle", "oracle", "hash", "channels", "pages", "pq", "socket"];

/// A random scorer.
fn scorer(source: &mut Source, sizes: &Sizes) -> Value {
    let rows = rows::scorers();
    let names = SCORERS.into_iter().chain(rows.iter().map(|row| row.name.as_str())).collect::<Vec<_>>();
    let name = *source.pick(&names);
    if let Some(row) = rows.iter().find(|row| row.name == name) {
        return row.config(sizes)["scorer"].take();
    }
    let fields = match name {
        "oracle" if source.once_in(3) => json!({"label_bits": source.between(1, 16)}),
        "hash" => weights::hash(sizes),
        "channels" => channel_fields(source, sizes),
        "pages" => json!({"page_size": source.between(1, 6), "label_bits": source.between(1, 16)}),
        "pq" => pq_fields(source),
        "socket" => json!({"tables": source.between(1, 5), "bits": source.between(1, 4),
                           "temperature": 0.1 + source.unit()}),
        _ => json!({}),
    };
    with(fields, "type", json!(name))
}

fn top_p(source: &mut Source, sizes: &Sizes, wanted: Wanted) -> Value {
    let fields = json!({"top_p": share(source, wanted, 1.0), "scorer": scorer(source, sizes)});
    match source.once_in(3) {
        true => {
            let candidates = json!({"heavy_size": size(source, sizes, wanted), "scorer": scorer(source, sizes)});
            with(fields, "candidates", candidates)
        }
        false => fields,
    }
}

fn channel_fields(source: &mut Source, sizes: &Sizes) -> Value {
    let fields = with(weights::channels(sizes), "group_factor", json!(source.between(1, sizes.head_dim.min(4))));
    with(fields, "label_bits", json!(source.between(1, 16)))
}

fn pq_fields(source: &mut Source) -> Value {
    json!({"pq_sub_dim": source.between(1, 5), "pq_bits": source.between(1, 4)})
}

/// A number of keys.
fn size(source: &mut Source, sizes: &Sizes, wanted: Wanted) -> Value {
    match wanted {
        Wanted::Everything if source.once_in(2) => json!(1.0),
        Wanted::Everything => json!(sizes.keys + source.below(3)),
        Wanted::Any if source.once_in(3) => json!(fraction(source)),
        _ => json!(source.between(1, sizes.keys.min(9) + 1)),
    }
}

/// A share in [0, 1]. `all` is the share that keeps everything.
fn share(source: &mut Source, wanted: Wanted, all: f64) -> f64 {
    match (wanted, source.below(8)) {
        (Wanted::Everything, _) => all,
        (_, 0) => 0.0,
        (_, 1) => 1.0,
        _ => fraction(source),
    }
}

/// A number in (0, 1).
fn fraction(source: &mut Source) -> f64 {
    (source.unit() * 999.0).ceil().max(1.0) / 1000.0
}

/// The object with one more field.
fn with(mut fields: Value, name: &str, value: Value) -> Value {
    fields[name] = value;
    fields
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sparse_attention_hub::{method::BuiltInMasker, scorer::BuiltInScorer};

    use super::*;
    use crate::generators::B;

    #[test]
    fn every_masker_and_scorer_is_drawn() {
        let sizes = Sizes { batch: 1, heads: 2, kv_heads: 1, queries: 3, keys: 9, head_dim: 4, value_dim: 4 };
        let (mut maskers, mut scorers) = (BTreeSet::new(), BTreeSet::new());
        for case in 0..2_000 {
            let method = method(&mut Source::seeded(1, case), &sizes, Wanted::Any);
            for masker in method.json.as_array().into_iter().flatten() {
                maskers.extend(masker["type"].as_str().map(str::to_owned));
                scorers.extend(masker["scorer"]["type"].as_str().map(str::to_owned));
            }
        }
        assert!(maskers.iter().map(String::as_str).eq(BuiltInMasker::<B>::names().iter().copied()), "{maskers:?}");
        assert!(scorers.iter().map(String::as_str).eq(BuiltInScorer::<B>::names().iter().copied()), "{scorers:?}");
    }
}
