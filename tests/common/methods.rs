//! The list of methods that all tests use, with at least one row for every masker.
//!
//! A new method adds a row to [METHODS].

use serde_json::{Value, json};

use super::{Sizes, channels, hash};

/// A row of [METHODS].
pub struct Method {
    /// A configuration that keeps some of about a dozen keys, but not all.
    pub config: fn(&Sizes) -> Value,
    /// A configuration that keeps all keys, if the masker has one. Attention over its mask must equal dense attention.
    pub full: fn(&Sizes) -> Option<Value>,
    /// Whether the masker selects keys by their content. It must then not select hidden keys.
    pub selects: bool,
    /// Whether the masker samples keys.
    pub samples: bool,
}

type Config = fn(&Sizes) -> Value;
type Full = fn(&Sizes) -> Option<Value>;

/// A row for a masker that keeps keys by position.
const fn position(config: Config, full: Full) -> Method {
    Method { config, full, selects: false, samples: false }
}

/// A row for a masker that selects keys by score.
const fn selector(config: Config, full: Full) -> Method {
    Method { config, full, selects: true, samples: false }
}

/// A row for a masker that samples keys.
const fn sampler(config: Config, full: Full) -> Method {
    Method { config, full, selects: true, samples: true }
}

/// At least one row for each masker and each scorer.
pub const METHODS: &[Method] = &[
    position(|_| json!({"type": "sink", "sink_size": 2}), |_| Some(json!({"type": "sink", "sink_size": 1.0}))),
    position(|_| json!({"type": "local", "window_size": 3}), |_| Some(json!({"type": "local", "window_size": 1000}))),
    position(|_| json!({"type": "causal"}), |_| Some(json!({"type": "causal"}))),
    selector(
        |_| json!({"type": "oracle_top_k", "heavy_size": 4}),
        |_| Some(json!({"type": "oracle_top_k", "heavy_size": 1.0})),
    ),
    selector(|_| top_k(json!(0.2), json!({"type": "oracle"})), |_| Some(top_k(json!(112), json!({"type": "oracle"})))),
    selector(|_| top_k(json!(4), json!({"type": "oracle", "label_bits": 3})), |_| None),
    selector(|sizes| top_k(json!(4), hash(sizes)), |sizes| Some(top_k(json!(1.0), hash(sizes)))),
    selector(|sizes| top_k(json!(4), channels(sizes)), |sizes| Some(top_k(json!(1.0), channels(sizes)))),
    selector(|_| top_k(json!(4), json!({"type": "pages", "page_size": 3, "label_bits": 4})), |_| None),
    selector(|_| top_k(json!(4), json!({"type": "pq", "pq_sub_dim": 5, "pq_bits": 3, "fit": 7})), |_| None),
    selector(|_| top_k(json!(4), json!({"type": "socket", "tables": 9, "bits": 5, "temperature": 0.4})), |_| None),
    selector(
        |_| sharing(top_k(json!(4), json!({"type": "oracle"})), json!("max")),
        |_| Some(sharing(top_k(json!(1.0), json!({"type": "oracle"})), json!("max"))),
    ),
    selector(
        |sizes| sharing(preset("double_sparsity_top_k", json!(3), channels(sizes)), json!(true)),
        |sizes| Some(sharing(preset("double_sparsity_top_k", json!(112), channels(sizes)), json!(true))),
    ),
    selector(
        |_| sharing(json!({"type": "quest_top_k", "heavy_size": 6, "page_size": 2, "label_bits": 5}), json!("mean")),
        |_| None,
    ),
    selector(
        |sizes| preset("hash_attention_top_k", json!(0.1), hash(sizes)),
        |sizes| Some(preset("hash_attention_top_k", json!(111), hash(sizes))),
    ),
    selector(
        |sizes| preset("double_sparsity_top_k", json!(5), channels(sizes)),
        |sizes| Some(preset("double_sparsity_top_k", json!(1.0), channels(sizes))),
    ),
    selector(
        |_| json!({"type": "quest_top_k", "heavy_size": 6, "page_size": 3, "label_bits": 16, "minimum_pages": 1}),
        |_| Some(json!({"type": "quest_top_k", "heavy_size": 1.0, "page_size": 3, "label_bits": 16})),
    ),
    selector(
        |_| json!({"type": "pq_cache", "heavy_size": 0.1, "pq_sub_dim": 4, "pq_bits": 2, "fit": 5}),
        |_| Some(json!({"type": "pq_cache", "heavy_size": 1.0, "pq_sub_dim": 4, "pq_bits": 2})),
    ),
    selector(
        |_| json!({"type": "oracle_top_p", "top_p": 0.6}),
        |_| Some(json!({"type": "oracle_top_p", "top_p": 1.0})),
    ),
    selector(
        |_| json!({"type": "top_p", "top_p": 0.3, "scorer": {"type": "oracle"}}),
        |_| Some(json!({"type": "top_p", "top_p": 1.0, "scorer": {"type": "oracle"}})),
    ),
    selector(
        |_| twilight(0.7, json!({"heavy_size": 8, "scorer": {"type": "pages", "page_size": 4}})),
        |_| Some(twilight(1.0, json!({"heavy_size": 1.0, "scorer": {"type": "pages", "page_size": 4}}))),
    ),
    selector(
        |_| json!({"type": "threshold", "threshold": 0.05, "scorer": {"type": "oracle"}}),
        |_| Some(json!({"type": "threshold", "threshold": 0.0, "scorer": {"type": "oracle"}})),
    ),
    sampler(
        |_| json!({"type": "random_sampling", "sampling_rate": 0.3}),
        |_| Some(json!({"type": "random_sampling", "sampling_rate": 1.0})),
    ),
    sampler(|_| adaptive(0.2, 0.5, 1), |_| Some(adaptive(0.99, 0.000001, 0))),
    sampler(|_| verified("output", 2), |_| Some(verified("numerator", 112))),
    sampler(|_| json!({"type": "priority_sampling", "k": 4}), |_| Some(json!({"type": "priority_sampling", "k": 1.0}))),
    sampler(
        |_| json!({"type": "pps_sampling", "sampling_size": 0.3}),
        |_| Some(json!({"type": "pps_sampling", "sampling_size": 112, "uniform_share": 0.0})),
    ),
    // MagicPIG draws its hash functions once for all steps. No number of tables guarantees that all keys are kept.
    selector(|_| json!({"type": "magic_pig", "lsh_l": 12, "lsh_k": 2, "minimum_hits": 2, "fit": 6}), |_| None),
];

/// The same configuration with sizes as counts instead of fractions.
pub fn with_counts(mut config: Value) -> Value {
    let sizes = ["heavy_size", "sink_size", "window_size", "base_rate_sampling", "pilot_size", "k", "sampling_size"];
    if let Some(candidates) = config.get_mut("candidates") {
        *candidates = with_counts(candidates.take());
    }
    for size in sizes {
        if config.get(size).is_some_and(Value::is_f64) {
            config[size] = json!(5);
        }
    }
    config
}

/// The name of a masker in lists: its type, with the types of its scorer and of the scorer of its candidates.
pub fn label(masker: &Value) -> String {
    let types = [&masker["type"], &masker["scorer"]["type"], &masker["candidates"]["scorer"]["type"]];
    types.into_iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

fn top_k(heavy_size: Value, scorer: Value) -> Value {
    json!({"type": "top_k", "heavy_size": heavy_size, "scorer": scorer})
}

/// A preset: the fields of a scorer and a budget, under the name of the preset.
fn preset(name: &str, heavy_size: Value, mut scorer: Value) -> Value {
    scorer["type"] = json!(name);
    scorer["heavy_size"] = heavy_size;
    scorer
}

/// The same configuration, with one choice for all heads of a GQA group.
fn sharing(mut config: Value, how: Value) -> Value {
    config["share_group"] = how;
    config
}

fn twilight(share: f64, candidates: Value) -> Value {
    json!({"type": "top_p", "top_p": share, "scorer": {"type": "pages", "page_size": 2}, "candidates": candidates})
}

fn verified(target: &str, pilot: usize) -> Value {
    json!({"type": "verified_sampling", "target": target, "epsilon": 0.9, "delta": 0.2, "pilot_size": pilot})
}

pub fn adaptive(base: f64, epsilon: f64, offset: usize) -> Value {
    json!({"type": "adaptive_sampling", "base_rate_sampling": base, "epsilon": epsilon, "delta": 0.2,
           "init_offset": offset, "local_offset": offset})
}
