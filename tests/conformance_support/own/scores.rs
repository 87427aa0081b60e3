//! The scores by which selectors choose keys.

use serde_json::Value;
use statrs::function::erf::erf;

use super::{Problem, dot};
use crate::conformance_support::vectors::{Result, count, text};

/// The possible error of a product, in roundings of its operands. Each operand has an error that is uniform up to half
/// of the last digit. The root mean square error of two such operands is 0.6. The error of a sum of many products is
/// hardly ever more than four times its root mean square.
const PRODUCT: f64 = 4.0 * 0.6;

/// The largest slope of an activation: that of gelu at the square root of 2.
const SLOPE: f64 = 1.13;

/// The scores of a row.
pub struct Scores {
    pub values: Vec<f64>,
    /// The possible error of each score if the backend rounds operands of products. It is 0 if the backend does not,
    /// and for scores that are computed on the host.
    pub slack: Vec<f64>,
    /// Whether equal scores are equal in any precision. Then the lower key is chosen.
    pub ties_hold: bool,
}

impl Scores {
    /// Scores that are computed on the host.
    fn on_host(values: Vec<f64>, ties_hold: bool) -> Self {
        Self { slack: vec![0.0; values.len()], values, ties_hold }
    }
}

/// The scores of a row by the masker at an index of the chain.
pub fn of(problem: &Problem, place: usize, masker: &Value, row: usize) -> Result<Scores> {
    match text(masker, "type")? {
        "oracle_top_k" => Ok(logits(problem, row)),
        "hash_attention_top_k" => hash(problem, masker, row),
        "double_sparsity_top_k" => channels(problem, masker, row),
        "quest_top_k" => pages(problem, masker, row),
        "pq_cache" => products(problem, place, row),
        other => Err(format!("{other} has no scores").into()),
    }
}

/// The logits as scores.
pub fn logits(problem: &Problem, row: usize) -> Scores {
    let squares = |key: &[f64]| problem.query(row).iter().zip(key).map(|(q, k)| (q * k).powi(2)).sum::<f64>();
    let slack = |key: &[f64]| PRODUCT * problem.rounding * problem.scale.abs() * squares(key).sqrt();
    let slack = problem.keys_of(problem.kv_head(row)).map(slack).collect();
    Scores { values: problem.logits(row), slack, ties_hold: false }
}

/// The number of equal bits of the signatures minus the number of different bits.
fn hash(problem: &Problem, masker: &Value, row: usize) -> Result<Scores> {
    let (_, head, _) = problem.place(row);
    let query = signature(problem, masker, "query", head, problem.query(row))?;
    let score = |(key, bias): (&[f64], f64)| -> Result<(f64, f64)> {
        let key = signature(problem, masker, "key", head, key)?;
        let bits = query.iter().zip(&key);
        let unclear = bits.clone().filter(|(a, b)| !(a.clear && b.clear)).count();
        let score = bits.map(|(a, b)| if a.set == b.set { 1.0 } else { -1.0 }).sum::<f64>() + bias;
        Ok((score, 2.0 * unclear as f64))
    };
    let scores = problem.keys_of(problem.kv_head(row)).zip(problem.biases(row)).map(score);
    let (values, slack) = scores.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    Ok(Scores { values, slack, ties_hold: true })
}

/// A bit of a signature.
struct Bit {
    set: bool,
    /// Whether the number is so far from 0 that rounding the operands of products cannot change its sign.
    clear: bool,
}

/// The signs of the outputs of a head's perceptron for a vector.
fn signature(problem: &Problem, masker: &Value, part: &str, head: usize, vector: &[f64]) -> Result<Vec<Bit>> {
    let layer = problem.case.entry.number("layer_idx")?;
    let activation = activation(text(masker, "hat_mlp_activation")?)?;
    let mut x = vector.to_vec();
    // The possible error of each number. Errors of a sum add up as independent errors do.
    let mut slack = vec![0.0; x.len()];
    for index in 0..count(masker, "hat_mlp_layers")? {
        let matrix = problem.case.tensor(&format!("hat.{layer}.{part}_matrix.{index}"))?;
        let bias = problem.case.tensor(&format!("hat.{layer}.{part}_bias.{index}"))?;
        if index > 0 {
            x.iter_mut().for_each(|x| *x = activation(*x));
            slack.iter_mut().for_each(|slack| *slack *= SLOPE);
        }
        let mut squares = vec![0.0; bias.width()];
        let mut next = bias.values[head * bias.width()..][..bias.width()].to_vec();
        let rows = matrix.values.chunks(matrix.width()).skip(head * x.len());
        for ((x, slack), row) in x.iter().zip(&slack).zip(rows) {
            next.iter_mut().zip(row).for_each(|(next, weight)| *next += x * weight);
            let error = slack.powi(2) + (PRODUCT * problem.rounding * x).powi(2);
            squares.iter_mut().zip(row).for_each(|(sum, weight)| *sum += error * weight.powi(2));
        }
        x = next;
        slack = squares.into_iter().map(f64::sqrt).collect();
    }
    let bit = |(x, slack): (f64, f64)| Bit { set: x > 0.0, clear: slack == 0.0 || x.abs() > slack };
    Ok(x.into_iter().zip(slack).map(bit).collect())
}

fn activation(name: &str) -> Result<fn(f64) -> f64> {
    match name {
        "relu" => Ok(|x| x.max(0.0)),
        "silu" => Ok(|x| x / (1.0 + (-x).exp())),
        "gelu" => Ok(|x| x * (1.0 + erf(x / std::f64::consts::SQRT_2)) / 2.0),
        "tanh" => Ok(f64::tanh),
        other => Err(format!("the activation {other} is unknown").into()),
    }
}

/// The logits over the first channels of the head. Query and key are quantised.
fn channels(problem: &Problem, masker: &Value, row: usize) -> Result<Scores> {
    let (_, head, _) = problem.place(row);
    let sorted = problem.case.tensor("sorted_channels")?;
    let used = problem.head_dim / count(masker, "group_factor")?;
    let chosen = &sorted.values[head * sorted.width()..][..used];
    let bits = count(masker, "label_bits")?;
    let label = |vector: &[f64]| {
        let label = chosen.iter().map(|&channel| vector[channel as usize]).collect::<Vec<_>>();
        quantized(&label, bits, f64::round_ties_even)
    };
    let query = label(problem.query(row));
    let products = problem.keys_of(problem.kv_head(row)).map(|key| dot(&query, &label(key)) * problem.scale);
    let values = products.zip(problem.biases(row)).map(|(product, bias)| product + bias).collect();
    Ok(Scores::on_host(values, false))
}

/// A vector quantised to `bits` bits between its smallest and its largest value. From 16 bits on, it is unchanged.
fn quantized(vector: &[f64], bits: usize, round: impl Fn(f64) -> f64) -> Vec<f64> {
    let least = vector.iter().copied().fold(f64::INFINITY, f64::min);
    let range = vector.iter().copied().fold(f64::NEG_INFINITY, f64::max) - least;
    if bits >= 16 || range == 0.0 {
        return vector.to_vec();
    }
    let steps = f64::from((1u32 << bits) - 1);
    vector.iter().map(|x| round((x - least) * steps / range) * range / steps + least).collect()
}

/// The score of every key is the bound of its page. In each channel the bound is the larger product of the query with
/// the page's smallest and largest values. Quantised values are rounded outwards.
fn pages(problem: &Problem, masker: &Value, row: usize) -> Result<Scores> {
    let (page_size, bits) = (count(masker, "page_size")?, count(masker, "label_bits")?);
    let keys = problem.keys_of(problem.kv_head(row)).collect::<Vec<_>>();
    let extreme = |page: &[&[f64]], better: fn(f64, f64) -> f64| {
        let of_channel = |channel: usize| page.iter().map(|key| key[channel]).reduce(better);
        (0..problem.head_dim).filter_map(of_channel).collect::<Vec<_>>()
    };
    // A value that differs from a step only by rounding stays at the step.
    let outwards = |bound: Vec<f64>, round: fn(f64) -> f64, inner: f64, better: fn(f64, f64) -> f64| {
        let rounded = quantized(&bound, bits, |step| round(step + inner * 1e-4));
        rounded.into_iter().zip(bound).map(|(rounded, value)| better(rounded, value)).collect::<Vec<_>>()
    };
    let bound = |page: &[&[f64]]| {
        let least = outwards(extreme(page, f64::min), f64::floor, 1.0, f64::min);
        let greatest = outwards(extreme(page, f64::max), f64::ceil, -1.0, f64::max);
        let query = problem.query(row).iter();
        query.zip(least).zip(greatest).map(|((q, least), greatest)| (q * least).max(q * greatest)).sum::<f64>()
    };
    let bounds = keys.chunks(page_size).flat_map(|page| vec![bound(page) * problem.scale; page.len()]);
    let values = bounds.zip(problem.biases(row)).map(|(bound, bias)| bound + bias).collect();
    Ok(Scores::on_host(values, false))
}

/// The logits of the quantised keys.
fn products(problem: &Problem, place: usize, row: usize) -> Result<Scores> {
    let keys = problem.quantized.get(&place).ok_or("the quantised keys were not recorded")?;
    let (first, width) = (problem.kv_head(row) * problem.keys, problem.head_dim);
    let keys = keys.chunks(width).skip(first).take(problem.keys);
    let products = keys.map(|key| dot(problem.query(row), key) * problem.scale);
    let values = products.zip(problem.biases(row)).map(|(product, bias)| product + bias).collect();
    // Keys with the same codes have the same score.
    Ok(Scores::on_host(values, true))
}
