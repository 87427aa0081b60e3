//! The metrics of the library, by name.
//!
//! Metrics whose names begin with `head` have one value for each head. Those that begin with `query` have one value for
//! each head and query. A log with metrics of queries is longer by a factor of the number of queries; leave them out by
//! [name](super::Enabled) if that is too much.
//!
//! Output errors, log-sum-exp errors and the kept mass are measured against dense attention: each step that logs them
//! costs a dense pass. The other metrics cost no extra attention.

use std::borrow::Cow;

use super::{Metric, MetricKind};

/// Kept pairs divided by all pairs of a layer, visible or not. This is how the Python project counts.
pub const RESEARCH_ATTENTION_DENSITY: &str = "research_attention_density";
/// Norm of the difference from the dense output, divided by the norm of the dense output, over a whole layer. This is
/// how the Python project counts.
pub const RESEARCH_ATTENTION_OUTPUT_ERROR: &str = "research_attention_output_error";
/// Kept visible pairs divided by visible pairs.
pub const HEAD_DENSITY: &str = "head_density";
/// Kept visible keys divided by visible keys.
pub const QUERY_DENSITY: &str = "query_density";
/// Norm of the difference from the dense output, divided by the norm of the dense output.
pub const HEAD_OUTPUT_ERROR: &str = "head_output_error";
/// Norm of the difference from the dense output, divided by the norm of the dense output.
pub const QUERY_OUTPUT_ERROR: &str = "query_output_error";
/// Absolute difference between the log-sum-exp and the dense log-sum-exp, averaged over the queries.
pub const HEAD_LOG_SUM_EXP_ERROR: &str = "head_log_sum_exp_error";
/// The log-sum-exp minus the dense log-sum-exp.
pub const QUERY_LOG_SUM_EXP_ERROR: &str = "query_log_sum_exp_error";
/// Sum of the dense weights of the kept keys, averaged over the queries.
pub const HEAD_MASS_KEPT: &str = "head_mass_kept";
/// Sum of the dense weights of the kept keys.
pub const QUERY_MASS_KEPT: &str = "query_mass_kept";
/// Number of keys that are kept with a probability below 1, over all queries.
pub const HEAD_SAMPLER_BUDGET: &str = "head_sampler_budget";
/// Number of keys that are kept with a probability below 1.
pub const QUERY_SAMPLER_BUDGET: &str = "query_sampler_budget";
/// The relative standard error that the sampler estimates: the largest over the queries.
pub const HEAD_STANDARD_ERROR: &str = "head_standard_error";
/// The relative standard error that the sampler estimates.
pub const QUERY_STANDARD_ERROR: &str = "query_standard_error";
/// The relative error that the sampler guarantees with its probability: the largest over the queries.
pub const HEAD_BOUND: &str = "head_bound";
/// The relative error that the sampler guarantees with its probability.
pub const QUERY_BOUND: &str = "query_bound";
/// Bytes of the kept visible rows of K and V, over all queries.
pub const HEAD_KV_BYTES: &str = "head_kv_bytes";
/// Bytes of the kept visible rows of K and V.
pub const QUERY_KV_BYTES: &str = "query_kv_bytes";
/// Milliseconds until the kept keys are known: scores, memory of the keys, and selection.
pub const MILLISECONDS_SELECT: &str = "milliseconds_select";
/// Milliseconds of attention over the kept keys.
pub const MILLISECONDS_ATTEND: &str = "milliseconds_attend";

/// All built-in metrics, with their kinds, units and descriptions.
pub static METRICS: [Metric; 20] = [
    real(RESEARCH_ATTENTION_DENSITY, "", "Pairs kept over all pairs of a layer, visible or not."),
    real(RESEARCH_ATTENTION_OUTPUT_ERROR, "", "Relative error of the output of a layer."),
    real(HEAD_DENSITY, "", "Pairs kept over visible pairs, by head."),
    real(QUERY_DENSITY, "", "Keys kept over visible keys, by query."),
    real(HEAD_OUTPUT_ERROR, "", "Relative error of the output, by head."),
    real(QUERY_OUTPUT_ERROR, "", "Relative error of the output, by query."),
    real(HEAD_LOG_SUM_EXP_ERROR, "", "Mean absolute error of the log-sum-exp, by head."),
    real(QUERY_LOG_SUM_EXP_ERROR, "", "Error of the log-sum-exp, with its sign, by query."),
    real(HEAD_MASS_KEPT, "", "Dense attention weights on kept keys, mean by head."),
    real(QUERY_MASS_KEPT, "", "Dense attention weights on kept keys, by query."),
    count(HEAD_SAMPLER_BUDGET, "keys", "Keys kept with a probability below 1, by head."),
    count(QUERY_SAMPLER_BUDGET, "keys", "Keys kept with a probability below 1, by query."),
    real(HEAD_STANDARD_ERROR, "", "The sampler's relative standard error, largest by head."),
    real(QUERY_STANDARD_ERROR, "", "The sampler's relative standard error, by query."),
    real(HEAD_BOUND, "", "The relative error the sampler keeps to with its probability, largest by head."),
    real(QUERY_BOUND, "", "The relative error the sampler keeps to with its probability, by query."),
    count(HEAD_KV_BYTES, "bytes", "Kept rows of K and V, by head; a row counts for each query that reads it."),
    count(QUERY_KV_BYTES, "bytes", "Kept rows of K and V, by query."),
    real(MILLISECONDS_SELECT, "ms", "Time until the kept keys are known: scores, memory and selection."),
    real(MILLISECONDS_ATTEND, "ms", "Time of attention over the kept keys."),
];

/// The metrics that need a dense reference.
pub const AGAINST_DENSE: [&str; 7] = [
    RESEARCH_ATTENTION_OUTPUT_ERROR,
    HEAD_OUTPUT_ERROR,
    QUERY_OUTPUT_ERROR,
    HEAD_LOG_SUM_EXP_ERROR,
    QUERY_LOG_SUM_EXP_ERROR,
    HEAD_MASS_KEPT,
    QUERY_MASS_KEPT,
];

const fn real(name: &'static str, unit: &'static str, about: &'static str) -> Metric {
    Metric { name: Cow::Borrowed(name), kind: MetricKind::Real, unit: Cow::Borrowed(unit), about: Cow::Borrowed(about) }
}

const fn count(name: &'static str, unit: &'static str, about: &'static str) -> Metric {
    Metric {
        name: Cow::Borrowed(name),
        kind: MetricKind::Count,
        unit: Cow::Borrowed(unit),
        about: Cow::Borrowed(about),
    }
}
