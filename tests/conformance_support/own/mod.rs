//! This library's documented semantics, computed a second time: naively, in f64, row by row.

mod kept;
mod magic_pig;
mod scores;

use std::collections::BTreeMap;

pub use kept::{Kept, MASKERS};
pub use magic_pig::check_original;

use burn::tensor::backend::Backend;

use super::vectors::{Case, Check, Result, all, close};
use crate::common::{attention_rounding, product_rounding, weights_rounding};

/// A choice that is closer to its boundary than this cannot be decided in f32.
const BOUNDARY: f64 = 1e-5;

/// An attention problem in f64.
pub struct Problem<'a> {
    /// The case, which holds the weights, channels and projections.
    case: &'a Case<'a>,
    /// The quantised keys `[batch, kv_heads, keys, head_dim]`, by the index in the chain of the masker that quantises
    /// them.
    quantized: BTreeMap<usize, Vec<f64>>,
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    pub keys: usize,
    head_dim: usize,
    value_dim: usize,
    scale: f64,
    query: Vec<f64>,
    key: Vec<f64>,
    value: Vec<f64>,
    /// The largest relative rounding error of each operand of a product on the backend.
    rounding: f64,
    /// The bias that is added to each logit, minus infinity where the key is hidden, and its numbers of batches, heads
    /// and columns.
    bias: Option<(Vec<f64>, [usize; 3])>,
}

/// The results of attention. In a row that keeps nothing they are 0, and minus infinity for logarithms.
pub struct Attention {
    /// `[batch, queries, heads, value_dim]`
    pub output: Vec<f64>,
    /// `[batch, heads, queries, keys]`
    pub weights: Vec<f64>,
    /// The sum of exponentials times values relative to `maximum`, `[batch, heads, queries, value_dim]`
    pub numerator: Vec<f64>,
    /// The sum of exponentials relative to `maximum`, `[batch, heads, queries, 1]`
    pub denominator: Vec<f64>,
    /// The largest logit of a visible key, `[batch, heads, queries, 1]`
    pub maximum: Vec<f64>,
    /// The logarithm of the sum of exponentials, `[batch, heads, queries, 1]`
    pub log_sum_exp: Vec<f64>,
}

impl<'a> Problem<'a> {
    /// The problem of a case. If the case has no values, the keys are used as values.
    pub fn of<B: Backend>(case: &'a Case<'a>) -> Result<Self> {
        let (query, key) = (case.tensor("q")?, case.tensor("k")?);
        let value = case.find("v").unwrap_or(key);
        let (&[batch, heads, queries, head_dim], &[_, kv_heads, keys, _]) = (&query.dims[..], &key.dims[..]) else {
            return Err("queries and keys must have four dimensions".into());
        };
        let bias = case.find("attention_mask").map(|bias| {
            let hidden = f64::from(f32::MIN) / 2.0;
            let values = bias.values.iter().map(|&bias| if bias <= hidden { f64::NEG_INFINITY } else { bias });
            (values.collect(), [bias.dims[0], bias.dims[1], bias.width()])
        });
        Ok(Self {
            case,
            quantized: BTreeMap::new(),
            batch,
            heads,
            kv_heads,
            queries,
            keys,
            head_dim,
            value_dim: value.width(),
            scale: case.entry.number("scaling")?,
            query: query.values.clone(),
            key: key.values.clone(),
            value: value.values.clone(),
            rounding: product_rounding::<B>(),
            bias,
        })
    }

    /// The same problem, with the quantised keys of the maskers at some indices of a chain.
    pub fn with_quantized_keys(mut self, quantized: BTreeMap<usize, Vec<f64>>) -> Self {
        self.quantized = quantized;
        self
    }

    /// Whether the backend rounds operands of products. Scores from such products decide fewer choices.
    pub fn is_rounded(&self) -> bool {
        self.rounding > 0.0
    }

    /// Number of rows, `batch * heads * queries`.
    pub fn rows(&self) -> usize {
        self.batch * self.heads * self.queries
    }

    /// Number of query-key pairs.
    pub fn pairs(&self) -> usize {
        self.rows() * self.keys
    }

    /// The batch, head and query of a row.
    fn place(&self, row: usize) -> (usize, usize, usize) {
        (row / self.queries / self.heads, row / self.queries % self.heads, row % self.queries)
    }

    /// The key-value head of a row, counted over the whole batch.
    fn kv_head(&self, row: usize) -> usize {
        let (batch, head, _) = self.place(row);
        batch * self.kv_heads + head / (self.heads / self.kv_heads)
    }

    /// The position of a row's query among the keys. The queries have the last positions.
    fn position(&self, row: usize) -> i64 {
        self.keys as i64 - self.queries as i64 + self.place(row).2 as i64
    }

    /// The query of a row.
    fn query(&self, row: usize) -> &[f64] {
        &self.query[row * self.head_dim..][..self.head_dim]
    }

    /// The keys of a key-value head.
    fn keys_of(&self, kv_head: usize) -> impl Iterator<Item = &[f64]> {
        let size = self.keys * self.head_dim;
        self.key[kv_head * size..][..size].chunks(self.head_dim)
    }

    /// The bias of each logit of a row.
    fn biases(&self, row: usize) -> Vec<f64> {
        let (batch, head, query) = self.place(row);
        let Some((bias, [batches, heads, columns])) = &self.bias else { return vec![0.0; self.keys] };
        let plane = (batch % batches) * heads + head % heads;
        bias[(plane * self.queries + query) * columns..][..self.keys].to_vec()
    }

    /// Whether weights keep keys that are hidden from their queries.
    pub fn keeps_hidden(&self, weights: &[f64]) -> bool {
        let biases = (0..self.rows()).flat_map(|row| self.biases(row));
        biases.zip(weights).any(|(bias, weight)| bias == f64::NEG_INFINITY && *weight > 0.0)
    }

    /// The logits of a row, minus infinity where hidden.
    pub fn logits(&self, row: usize) -> Vec<f64> {
        let products = self.keys_of(self.kv_head(row)).map(|key| dot(self.query(row), key));
        products.zip(self.biases(row)).map(|(product, bias)| product * self.scale + bias).collect()
    }

    /// Attention in which a key with weight `w` counts `1 / w` times. A key with weight 0 does not count.
    pub fn attend(&self, weights: &[f64]) -> Attention {
        let mut attention = Attention {
            output: vec![0.0; self.rows() * self.value_dim],
            weights: vec![0.0; self.pairs()],
            numerator: vec![0.0; self.rows() * self.value_dim],
            denominator: vec![0.0; self.rows()],
            maximum: (0..self.rows()).map(|row| self.maximum(row)).collect(),
            log_sum_exp: vec![f64::NEG_INFINITY; self.rows()],
        };
        for row in 0..self.rows() {
            let kept = &weights[row * self.keys..][..self.keys];
            let exponentials = self.exponentials(row).into_iter().zip(kept);
            let exponentials = exponentials
                .map(|(exponential, &weight)| if weight > 0.0 { exponential / weight } else { 0.0 })
                .collect::<Vec<_>>();
            let sum = exponentials.iter().sum::<f64>();
            if sum == 0.0 {
                continue;
            }
            let numerator = &mut attention.numerator[row * self.value_dim..][..self.value_dim];
            for (key, exponential) in exponentials.into_iter().enumerate() {
                attention.weights[row * self.keys + key] = exponential / sum;
                let value = &self.value[(self.kv_head(row) * self.keys + key) * self.value_dim..][..self.value_dim];
                numerator.iter_mut().zip(value).for_each(|(sum, value)| *sum += exponential * value);
            }
            attention.denominator[row] = sum;
            attention.log_sum_exp[row] = sum.ln() + attention.maximum[row];
            let (batch, head, query) = self.place(row);
            let place = ((batch * self.queries + query) * self.heads + head) * self.value_dim;
            let output = attention.output[place..][..self.value_dim].iter_mut();
            output.zip(numerator).for_each(|(output, numerator)| *output = *numerator / sum);
        }
        attention
    }

    /// The largest logit of a row, minus infinity if nothing is visible.
    pub fn maximum(&self, row: usize) -> f64 {
        self.logits(row).into_iter().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The exponentials of a row's logits, relative to the largest visible one; 0 where hidden.
    pub fn exponentials(&self, row: usize) -> Vec<f64> {
        let maximum = self.maximum(row);
        if maximum == f64::NEG_INFINITY {
            return vec![0.0; self.keys];
        }
        self.logits(row).into_iter().map(|logit| (logit - maximum).exp()).collect()
    }
}

/// Checks that attention through a mask equals the attention computed here from the weights of the mask.
pub fn check_attention<B: Backend>(case: &Case, output: &[f64], weights: Option<&[f64]>, own: &Attention) -> Check {
    let exact = case.entry.attention_tolerance();
    let (of_output, of_weights) = (exact.widened(attention_rounding::<B>()), exact.widened(weights_rounding::<B>()));
    all([
        close("the output", output, &own.output, of_output),
        weights.map_or(Ok(()), |weights| close("the attention weights", weights, &own.weights, of_weights)),
    ])
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
