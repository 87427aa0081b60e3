use serde_json::{Value, json};

use super::{MethodSpace, TuneError};

/// A share of the keys, which is how most methods give a size.
fn share() -> Value {
    json!({"low": 0.005, "high": 0.2, "scale": "log"})
}

/// The search spaces of the maskers that have values to search, by name.
fn spaces() -> [(&'static str, Value); 15] {
    let bits = json!({"choices": [2, 4, 8]});
    [
        ("sink", json!({"sink_size": {"low": 1, "high": 128, "scale": "log"}})),
        ("local", json!({"window_size": {"low": 16, "high": 1024, "scale": "log"}})),
        ("oracle_top_k", json!({"heavy_size": share()})),
        ("oracle_top_p", json!({"top_p": {"low": 0.5, "high": 0.99}})),
        (
            "top_k",
            json!({
                "heavy_size": share(),
                "scorer": {"choices": [
                    {"type": "oracle", "label_bits": bits},
                    {"type": "pages", "page_size": {"choices": [8, 16, 32]}},
                    {"type": "pq", "pq_sub_dim": {"choices": [16, 32]}, "pq_bits": {"low": 4, "high": 8}},
                    {
                        "type": "socket",
                        "tables": {"low": 10, "high": 120, "scale": "log"},
                        "bits": {"low": 4, "high": 10},
                        "temperature": {"low": 0.1, "high": 1.0, "scale": "log"},
                    },
                ]},
            }),
        ),
        (
            "top_p",
            json!({
                "top_p": {"low": 0.5, "high": 0.99},
                "scorer": {"type": "oracle", "label_bits": bits},
                "candidates": {
                    "heavy_size": {"low": 0.05, "high": 0.5, "scale": "log"},
                    "scorer": {"type": "pages", "page_size": {"choices": [8, 16, 32]}},
                },
            }),
        ),
        (
            "threshold",
            json!({"threshold": {"low": 0.0001, "high": 0.01, "scale": "log"}, "scorer": {"type": "oracle"}}),
        ),
        (
            "quest_top_k",
            json!({
                "heavy_size": share(),
                "page_size": {"choices": [8, 16, 32]},
                "label_bits": {"choices": [4, 8, 16]},
            }),
        ),
        (
            "pq_cache",
            json!({"heavy_size": share(), "pq_sub_dim": {"choices": [16, 32]}, "pq_bits": {"low": 4, "high": 8}}),
        ),
        ("random_sampling", json!({"sampling_rate": {"low": 0.01, "high": 0.3, "scale": "log"}})),
        (
            "adaptive_sampling",
            json!({
                "base_rate_sampling": {"low": 0.005, "high": 0.1, "scale": "log"},
                "epsilon": {"low": 0.02, "high": 0.5, "scale": "log"},
                "delta": {"low": 0.02, "high": 0.4, "scale": "log"},
                "init_offset": 0,
                "local_offset": 0,
            }),
        ),
        (
            "verified_sampling",
            json!({
                "target": {"choices": ["denominator", "numerator", "output"]},
                "epsilon": {"low": 0.02, "high": 0.5, "scale": "log"},
                "delta": {"low": 0.02, "high": 0.2, "scale": "log"},
                "pilot_size": {"low": 0.005, "high": 0.1, "scale": "log"},
            }),
        ),
        (
            "magic_pig",
            json!({
                "lsh_l": {"low": 20, "high": 200, "scale": "log"},
                "lsh_k": {"low": 6, "high": 12},
                "minimum_hits": {"choices": [1, 2]},
            }),
        ),
        ("priority_sampling", json!({"k": {"low": 16, "high": 512, "scale": "log"}})),
        ("pps_sampling", json!({"sampling_size": share(), "uniform_share": {"low": 0.1, "high": 0.9}})),
    ]
}

/// The search space of a masker: its configuration with ranges in place of values. Some maskers have no space: `causal`
/// has nothing to search, and `hash_attention_top_k` and `double_sparsity_top_k` need files of a model.
///
/// # Errors
/// If the masker has no space.
pub fn masker_space(name: &str) -> Result<Value, TuneError> {
    let spaces = spaces();
    match spaces.iter().find(|(known, _)| *known == name) {
        Some((name, space)) => {
            let mut space = space.clone();
            space["type"] = json!(name);
            Ok(space)
        }
        None => {
            let known = spaces.map(|(known, _)| known).join(", ");
            Err(TuneError::NoSpace { name: name.to_owned(), known })
        }
    }
}

impl MethodSpace {
    /// Methods that chain these maskers in this order, each with its [space](masker_space).
    ///
    /// # Errors
    /// If a masker has no space.
    pub fn of_maskers(names: &[&str]) -> Result<Self, TuneError> {
        Self::new(names.iter().map(|name| masker_space(name)).collect::<Result<Vec<_>, _>>()?.into())
    }

    /// Methods that keep a sink and a window, and select the other keys with one of several maskers. Most published
    /// methods have this form.
    pub fn published() -> Self {
        let last = [
            &["oracle_top_k"][..],
            &["oracle_top_p"],
            &["top_k"],
            &["top_p"],
            &["quest_top_k"],
            &["pq_cache"],
            &["oracle_top_k", "verified_sampling"],
            &["oracle_top_k", "adaptive_sampling"],
            &["priority_sampling"],
            &["pps_sampling"],
        ];
        let chain = |last: &[&str]| {
            let names = ["sink", "local"].into_iter().chain(last.iter().copied());
            names.filter_map(|name| masker_space(name).ok()).collect::<Value>()
        };
        Self::unchecked(json!({"choices": last.map(chain)}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::MaskerChainConfig;

    #[test]
    #[cfg(feature = "flex")]
    fn every_method_of_the_spaces_can_be_built() {
        type B = burn_flex::Flex;
        for (name, _) in spaces() {
            let space = MethodSpace::of_maskers(&[name]).unwrap();
            for trial in 0..20 {
                let method = space.sample(1, trial).to_string();
                let config = MaskerChainConfig::from_json(&method).unwrap();
                config.init::<B>(&Default::default()).unwrap_or_else(|error| panic!("{method}: {error}"));
            }
        }
        let published = MethodSpace::new(MethodSpace::published().value().clone()).unwrap();
        for trial in 0..100 {
            let method = published.sample(2, trial).to_string();
            MaskerChainConfig::from_json(&method).unwrap().init::<B>(&Default::default()).unwrap();
        }
    }

    #[test]
    fn maskers_without_a_space_are_named() {
        let error = MethodSpace::of_maskers(&["sink", "causal"]).unwrap_err().to_string();
        assert!(error.contains("`causal`") && error.contains("oracle_top_k"), "{error}");
    }
}
