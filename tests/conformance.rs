//! The conformance vectors: results of the Python project, which this library computes again.
//!
//! Reads `manifest.json` and the tensors beside it from `tests/conformance`, or from the folder that the variable
//! `CONFORMANCE_DIR` names. Every case runs on every enabled backend. A case has one of these outcomes:
//! - It *passes* if the results are the expected values.
//! - It *differs on purpose* if the results are not the expected values, and two conditions hold. The case names a
//!   quirk of the Python project that [DIFFERENCES] lists for its kind, or it has a masker of [UNNAMED]. The results
//!   are the documented ones, which are computed a second time in f64.
//! - It is *not covered yet*.
//!
//! Every other result is a failure. All cases are run before the failures are reported.
//!
//! `cargo test --release --features ndarray --test conformance -- --nocapture` prints the table.

mod common;
pub(crate) mod conformance_support;

use burn::tensor::backend::Backend;
use common::{backends::name, on_each_backend};
use conformance_support::{kinds, report::Report, vectors::Vectors};

/// Where this library differs from the Python project on purpose.
pub(crate) struct Difference {
    /// The kinds of cases in which the difference shows.
    pub kinds: &'static [&'static str],
    /// The name of the quirk, which a case lists if its expected values depend on it.
    pub quirk: &'static str,
    /// What this library does instead.
    pub reason: &'static str,
}

/// The only list of differences. The tests check the behaviour that replaces a quirk.
pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        kinds: &["mask_apply", "mask_apply_flag", "attention_masked_flag", "chain", "adaptive_sampling"],
        quirk: "Q01",
        reason: "a mask that keeps nothing gives zeros and is not the absence of one; a chain without maskers is full",
    },
    Difference { kinds: &["chain"], quirk: "Q02", reason: "a row that keeps nothing has the output 0, not NaN" },
    Difference {
        kinds: &["mask_apply", "attention_masked", "random_sampling", "adaptive_sampling"],
        quirk: "Q03",
        reason: "a sampled key counts 1 / p times, not 1 / (p + 1e-6)",
    },
    Difference {
        kinds: &["mask_merge"],
        quirk: "Q04",
        reason: "two sampled weights merge to a + b - ab and others to the larger, not to a + b cut at 1",
    },
    Difference {
        kinds: &["mask_convert", "mask_merge_duplicates", "sampling_mask_budget"],
        quirk: "Q05",
        reason: "a row that names a key twice is an error; how often a key was drawn goes into its weight",
    },
    Difference {
        kinds: &["attention_masked"],
        quirk: "Q10",
        reason: "numerator and denominator are relative to the largest kept logit minus ln p, not to that of all keys",
    },
    Difference {
        kinds: &["masker", "chain", "random_sampling", "adaptive_sampling"],
        quirk: "Q20",
        reason: "a window is full only from all keys on, not from keys - queries on: a prefill stays sparse",
    },
    Difference {
        kinds: &["masker", "chain", "random_sampling", "adaptive_sampling"],
        quirk: "Q21",
        reason: "a window takes away nothing that an earlier masker kept, also not after the query",
    },
    Difference {
        kinds: &[
            "masker",
            "chain",
            "random_sampling",
            "adaptive_sampling",
            "effective_size_table",
            "config_validation",
        ],
        quirk: "Q22",
        reason: "a fraction of the keys is at least one key; a fraction above 1 is refused",
    },
    Difference {
        kinds: &["masker", "chain", "random_sampling", "adaptive_sampling"],
        quirk: "Q23",
        reason: "only visible keys that are not kept yet compete in a top-k, by the scaled scores with the bias",
    },
    Difference {
        kinds: &["masker", "chain", "random_sampling", "adaptive_sampling", "hf_sparse_decode"],
        quirk: "Q24",
        reason: "top-p is a share of the whole visible mass, towards which what is kept already counts",
    },
    Difference {
        kinds: &["masker", "chain", "random_sampling", "adaptive_sampling", "decode_state", "hf_sparse_decode"],
        quirk: "Q26",
        reason: "double sparsity is full only from all keys on, not from keys - queries on; each layer has its channels",
    },
    Difference {
        kinds: &["masker", "chain", "random_sampling", "adaptive_sampling", "decode_state", "hf_sparse_decode"],
        quirk: "Q27",
        reason: "pages that are kept do not compete again; quantised bounds of a page are rounded outwards",
    },
    Difference {
        kinds: &["masker", "chain", "random_sampling", "adaptive_sampling", "decode_state"],
        quirk: "Q28",
        reason: "the causal masker and PQCache keep keys; they are stubs in the Python project",
    },
    Difference {
        kinds: &["random_sampling", "adaptive_sampling", "sampling_mask_budget"],
        quirk: "Q30",
        reason: "drawn without replacement; replayed here, a key drawn m times in n counts m * population / n times",
    },
    Difference {
        kinds: &["random_sampling"],
        quirk: "Q31",
        reason: "ceil(rate * n) keys with the weight of the share drawn, not floor(rate * n) with that of the rate",
    },
    Difference {
        kinds: &["random_sampling"],
        quirk: "Q32",
        reason: "drawn from the visible keys that are not kept yet, not from all",
    },
    Difference {
        kinds: &["adaptive_sampling"],
        quirk: "Q33",
        reason: "the pilot sample is extended to the budget, not thrown away",
    },
    Difference {
        kinds: &["adaptive_sampling"],
        quirk: "Q34",
        reason: "pilot and population are the keys not kept yet; what is kept is not estimated a second time",
    },
    Difference {
        kinds: &["adaptive_sampling"],
        quirk: "Q35",
        reason: "the denominator of an empty mask is 0, not that of dense attention",
    },
    Difference {
        kinds: &["adaptive_sampling", "adaptive_budget_table"],
        quirk: "Q36",
        reason: "a delta above one half asks for the pilot sample, its negative quantile is not squared",
    },
    Difference {
        kinds: &["adaptive_sampling", "adaptive_base_count_table", "adaptive_budget_table"],
        quirk: "Q37",
        reason: "budgets are rounded up, and a pilot is at most the population",
    },
    Difference {
        kinds: &["masker", "chain", "magic_pig", "magic_pig_mask", "decode_state"],
        quirk: "Q50",
        reason: "hashed keys are completed to 1.5 times the longest, and are all hashed anew when one is longer than that",
    },
    Difference {
        kinds: &["masker", "chain", "magic_pig", "magic_pig_mask", "decode_state"],
        quirk: "Q51",
        reason: "that length belongs to a sequence and key-value head, not to all together",
    },
    Difference {
        kinds: &["masker", "chain", "magic_pig", "magic_pig_mask", "decode_state"],
        quirk: "Q53",
        reason: "the mean of the keys is not subtracted from the query, whose direction it would change",
    },
    Difference {
        kinds: &["masker", "chain", "magic_pig", "magic_pig_mask", "decode_state"],
        quirk: "Q57",
        reason: "hidden keys are not looked up in the hash tables, so that they are not in the mask",
    },
];

/// Maskers and quirks that their cases may depend on without naming them.
pub(crate) const UNNAMED: &[(&str, &[&str])] =
    &[("causal", &["Q28"]), ("pq_cache", &["Q28"]), ("magic_pig", &["Q50", "Q51", "Q53", "Q57"])];

on_each_backend!(conformance);

/// Runs all cases on a backend, prints the table, and fails with all failures.
fn conformance<B: Backend>() {
    let (backend, vectors) = (name::<B>(), Vectors::open());
    let mut report = Report::default();
    for entry in vectors.entries() {
        report.add(entry, kinds::run::<B>(&vectors, entry));
    }
    println!("{}", report.table(backend));
    assert!(report.passed() > 0, "no case of {} was passed", vectors.directory().display());
    assert!(report.failures().is_empty(), "{backend}: {}", report.failures_text());
}
