//! The pairs of keys and queries that collide in MagicPIG's hash tables, by the rules of this library and of the Python
//! project.

use serde_json::Value;

use super::{BOUNDARY, Problem, dot};
use crate::conformance_support::vectors::{Case, Check, Result, Tolerance, close, count};

/// How keys and queries become vectors of length 1.
pub struct Rules {
    /// The ratio of the length to which keys are completed and the length of the longest key.
    headroom: f64,
    /// Whether each sequence and key-value head has its own such length. Otherwise all share one.
    by_head: bool,
    /// Whether old keys are hashed again when that length grows.
    hashes_anew: bool,
    /// Whether the mean of the keys is subtracted from the queries too.
    centres_queries: bool,
}

/// The rules of this library.
pub const HERE: Rules = Rules { headroom: 1.5, by_head: true, hashes_anew: true, centres_queries: false };

/// The rules of the Python project.
const ORIGINAL: Rules = Rules { headroom: 1.0, by_head: false, hashes_anew: false, centres_queries: true };

/// The tolerance of the Python project's masks against a computation in f64.
const MASKS: Tolerance = Tolerance { atol: 3e-5, rtol: 1e-5 };

/// The bits of a hash. A bit is `None` if rounding decides it.
type Signature = Vec<Option<bool>>;

/// The keys of a key-value head.
struct Head {
    mean: Vec<f64>,
    keys: Vec<HashedKey>,
}

struct HashedKey {
    /// The key with its additional coordinate. Its length is 1.
    vector: Vec<f64>,
    signature: Signature,
}

/// For each pair the probability of a collision in a table, or 0 if the two do not collide. It is `None` if rounding
/// decides whether they collide.
pub fn meetings(problem: &Problem, masker: &Value, rules: &Rules) -> Result<Vec<Option<f64>>> {
    let (tables, bits) = (count(masker, "lsh_l")?, count(masker, "lsh_k")?);
    let projection = problem.case.tensor("projection")?;
    let sign = |vector: &[f64]| {
        let directions = 0..projection.width();
        let product = |direction: usize| {
            let column = projection.values.iter().skip(direction).step_by(projection.width());
            vector.iter().zip(column).map(|(a, b)| a * b).sum::<f64>()
        };
        let bit = |product: f64| (product.abs() > BOUNDARY).then_some(product > 0.0);
        directions.map(product).map(bit).collect::<Signature>()
    };
    let heads = hash_keys(problem, masker, rules, sign);
    let mut meetings = Vec::with_capacity(problem.pairs());
    for row in 0..problem.rows() {
        let head = &heads[problem.kv_head(row)];
        let mean = if rules.centres_queries { head.mean.clone() } else { vec![0.0; problem.head_dim] };
        let query = difference(problem.query(row), &mean);
        let length = dot(&query, &query).sqrt();
        let query = query.iter().map(|x| x / length).chain([0.0]).collect::<Vec<_>>();
        let signature = sign(&query);
        meetings.extend(head.keys.iter().map(|key| {
            let hashes = signature.chunks(bits).zip(key.signature.chunks(bits));
            let same = hashes.map(|(a, b)| is_same(a, b)).collect::<Vec<_>>();
            match same.contains(&Some(true)) {
                true => Some(probability(dot(&query, &key.vector), tables, bits)),
                false if same.contains(&None) => None,
                false => Some(0.0),
            }
        }));
    }
    Ok(meetings)
}

/// The keys of every key-value head, hashed call by call.
fn hash_keys(problem: &Problem, masker: &Value, rules: &Rules, sign: impl Fn(&[f64]) -> Signature) -> Vec<Head> {
    let calls = &problem.case.calls;
    let centres = masker.get("center").and_then(Value::as_bool).unwrap_or(true);
    let heads = 0..problem.batch * problem.kv_heads;
    let means = heads.clone().map(|head| match centres {
        true => mean(problem.keys_of(head).take(calls[0])),
        false => vec![0.0; problem.head_dim],
    });
    let means = means.collect::<Vec<_>>();
    let centred = |head: usize| problem.keys_of(head).map(|key| difference(key, &means[head])).collect::<Vec<_>>();
    let keys = heads.map(centred).collect::<Vec<_>>();
    let longest = |head: &Vec<Vec<f64>>, from: usize, to: usize| {
        head[from..to].iter().map(|key| dot(key, key).sqrt()).fold(0.0, f64::max)
    };
    // For each call, the length to which the keys of each head are completed.
    let mut scales = Vec::<Vec<f64>>::new();
    for (call, &to) in calls.iter().enumerate() {
        let from = if call == 0 { 0 } else { calls[call - 1] };
        let by_head = keys.iter().map(|head| longest(head, from, to)).collect::<Vec<_>>();
        let of_all = by_head.iter().copied().fold(0.0, f64::max);
        let scale = |(head, longest): (usize, f64)| {
            let longest = if rules.by_head { longest } else { of_all };
            let before = scales.last().map_or(0.0, |scales| scales[head]);
            if longest > before { longest * rules.headroom } else { before }
        };
        let next = by_head.into_iter().enumerate().map(scale).collect();
        scales.push(next);
    }
    let last = calls.len() - 1;
    let hashed = |head: usize, at: usize, key: &[f64]| {
        let arrival = calls.iter().position(|&keys| at < keys).unwrap_or(last);
        let hashed_at = if rules.hashes_anew { last } else { arrival };
        let signature = sign(&completed(key, scales[hashed_at][head]));
        HashedKey { vector: completed(key, scales[last][head]), signature }
    };
    let heads = means.iter().zip(&keys).enumerate().map(|(head, (mean, keys))| Head {
        mean: mean.clone(),
        keys: keys.iter().enumerate().map(|(at, key)| hashed(head, at, key)).collect(),
    });
    heads.collect()
}

/// A key divided by a length, with the coordinate that completes it to length 1. If all keys are 0, the length is 0
/// too.
fn completed(key: &[f64], scale: f64) -> Vec<f64> {
    let key = key.iter().map(|x| x / scale.max(f64::MIN_POSITIVE)).collect::<Vec<_>>();
    let last = (1.0 - dot(&key, &key)).max(0.0).sqrt();
    key.into_iter().chain([last]).collect()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn mean<'a>(vectors: impl Iterator<Item = &'a [f64]>) -> Vec<f64> {
    let vectors = vectors.collect::<Vec<_>>();
    let width = vectors.first().map_or(0, |vector| vector.len());
    (0..width).map(|at| vectors.iter().map(|vector| vector[at]).sum::<f64>() / vectors.len() as f64).collect()
}

/// Whether all bits of two hashes are equal. It is `None` if the answer depends on a bit that rounding decides.
fn is_same(a: &[Option<bool>], b: &[Option<bool>]) -> Option<bool> {
    let mut pairs = a.iter().zip(b);
    if pairs.clone().any(|(a, b)| a.is_some() && b.is_some() && a != b) {
        return Some(false);
    }
    pairs.all(|(a, b)| a.is_some() && b.is_some()).then_some(true)
}

/// The probability that two vectors at an angle collide in at least one table.
fn probability(cosine: f64, tables: usize, bits: usize) -> f64 {
    let bit = 1.0 - cosine.clamp(-1.0, 1.0).acos() / std::f64::consts::PI;
    -(tables as f64 * (-bit.powi(bits as i32)).ln_1p()).exp_m1()
}

/// Checks that a case expects the result of the Python project's rules, in the pairs that no masker before the sampler
/// keeps.
pub fn check_original(case: &Case, problem: &Problem, masker: &Value, before: &[f64]) -> Check {
    let meetings = meetings(problem, masker, &ORIGINAL)?;
    let wanted = case.tensor("mask")?;
    let compared = |at: &usize| {
        before[*at] == 0.0
            && meetings[*at].is_some()
            && case.find("compare").is_none_or(|compare| compare.values[*at] == 1.0)
    };
    let compared = (0..wanted.values.len()).filter(compared);
    let (found, wanted): (Vec<_>, Vec<_>) = compared.filter_map(|at| Some((meetings[at]?, wanted.values[at]))).unzip();
    close("the mask by the original's rules", &found, &wanted, MASKS)
}
