//! This library's documented semantics a second time: in f64, row by row, and in the plainest way.

use serde_json::Value;

use super::vectors::{Case, Check, Result, Tolerance, all, close, close_mask, equal, field, holds, number, text};

/// The maskers of which the semantics stand here.
pub const MASKERS: [&str; 5] = ["sink", "local", "causal", "oracle_top_k", "oracle_top_p"];

/// A choice nearer to its boundary than this is not decided in f32.
const BOUNDARY: f64 = 1e-5;

/// An attention problem in f64.
pub struct Problem {
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
    /// What is added to each logit, minus infinity where the key is hidden; its number of batches, heads and columns.
    bias: Option<(Vec<f64>, [usize; 3])>,
}

/// What attention is made of. A row that keeps nothing is 0, and minus infinity as a logarithm.
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

impl Problem {
    /// The problem of a case; without values the keys stand for them.
    pub fn of(case: &Case) -> Result<Self> {
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
            bias,
        })
    }

    /// Number of rows, `batch * heads * queries`.
    pub fn rows(&self) -> usize {
        self.batch * self.heads * self.queries
    }

    /// Number of query-key pairs.
    pub fn pairs(&self) -> usize {
        self.rows() * self.keys
    }

    /// Batch, head and query of a row.
    fn place(&self, row: usize) -> (usize, usize, usize) {
        (row / self.queries / self.heads, row / self.queries % self.heads, row % self.queries)
    }

    /// Where a row's key-value head starts, in keys.
    fn first_key(&self, row: usize) -> usize {
        let (batch, head, _) = self.place(row);
        (batch * self.kv_heads + head / (self.heads / self.kv_heads)) * self.keys
    }

    /// The position of a row's query among the keys; the queries are the last.
    fn position(&self, row: usize) -> i64 {
        self.keys as i64 - self.queries as i64 + self.place(row).2 as i64
    }

    /// The logits of a row, minus infinity where hidden.
    pub fn logits(&self, row: usize) -> Vec<f64> {
        let (batch, head, query) = self.place(row);
        let vector = &self.query[row * self.head_dim..][..self.head_dim];
        let logit = |key: usize| {
            let other = &self.key[(self.first_key(row) + key) * self.head_dim..][..self.head_dim];
            let product = vector.iter().zip(other).map(|(a, b)| a * b).sum::<f64>() * self.scale;
            let bias = self.bias.as_ref().map_or(0.0, |(bias, [batches, heads, columns])| {
                let plane = (batch % batches) * heads + head % heads;
                bias[(plane * self.queries + query) * columns + key]
            });
            product + bias
        };
        (0..self.keys).map(logit).collect()
    }

    /// Attention in which each key counts `1 / weight` times, and not at all where its weight is 0.
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
                let value = &self.value[(self.first_key(row) + key) * self.value_dim..][..self.value_dim];
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

/// What a chain keeps.
pub struct Kept {
    /// The weight of each pair.
    pub weights: Vec<f64>,
    /// Whether the choice in each row was clear, and not a matter of rounding.
    decided: Vec<bool>,
    full: bool,
}

impl Kept {
    /// Nothing is kept.
    pub fn nothing(problem: &Problem) -> Self {
        Self::from(problem, vec![0.0; problem.pairs()])
    }

    /// What these weights keep.
    pub fn from(problem: &Problem, weights: Vec<f64>) -> Self {
        Self { weights, decided: vec![true; problem.rows()], full: false }
    }

    /// Whether a mask of the library keeps the same, in every row in which the choice was clear.
    pub fn check(&self, weights: &[f64], is_full: bool) -> Check {
        let keys = self.weights.len() / self.decided.len();
        let clear = self.decided.iter().flat_map(|&decided| vec![f64::from(u8::from(decided)); keys]);
        let unclear = self.decided.iter().filter(|&&decided| !decided).count();
        all([
            equal("is_full", is_full, self.full),
            close_mask("the mask", weights, &self.weights, Some(&clear.collect::<Vec<_>>()), Tolerance::EXACT),
            holds(unclear <= 1 + self.decided.len() / 20, || {
                format!("{unclear} rows hang on rounding: too many to tell")
            }),
        ])
    }

    /// What a chain of maskers makes of it.
    pub fn chain(mut self, problem: &Problem, maskers: &[Value]) -> Result<Self> {
        for masker in maskers {
            if self.full {
                break;
            }
            self.add(problem, masker)?;
        }
        Ok(self)
    }

    fn add(&mut self, problem: &Problem, masker: &Value) -> Check {
        let keys = problem.keys;
        let window = |row: usize, key: usize, size: i64| {
            let behind = problem.position(row) - key as i64;
            (0..size).contains(&behind)
        };
        match text(masker, "type")? {
            "sink" => {
                let size = size(masker, "sink_size", keys)?;
                self.fill(keys, size >= keys, |_, key| key < size);
            }
            "local" => {
                let size = size(masker, "window_size", keys)?;
                self.fill(keys, size >= keys, |row, key| window(row, key, size as i64));
            }
            "causal" => self.fill(keys, false, |row, key| window(row, key, i64::MAX)),
            "oracle_top_k" => {
                let size = size(masker, "heavy_size", keys)?;
                match size >= keys {
                    true => self.fill(keys, true, |_, _| true),
                    false => (0..problem.rows()).for_each(|row| self.add_top_k(problem, row, size)),
                }
            }
            "oracle_top_p" => {
                let share = number(masker, "top_p")?;
                match share >= 1.0 {
                    true => self.fill(keys, true, |_, _| true),
                    false => (0..problem.rows()).for_each(|row| self.add_top_p(problem, row, share)),
                }
            }
            other => return Err(format!("the semantics of {other} do not stand here").into()),
        }
        Ok(())
    }

    /// Keeps the pairs of a rule for certain, or all pairs.
    fn fill(&mut self, keys: usize, full: bool, keeps: impl Fn(usize, usize) -> bool) {
        self.full = full;
        for (at, weight) in self.weights.iter_mut().enumerate() {
            if full || keeps(at / keys, at % keys) {
                *weight = 1.0;
            }
        }
    }

    /// The visible keys of a row that are not kept, by falling logit, with their logits.
    fn candidates(&self, problem: &Problem, row: usize) -> Vec<(usize, f64)> {
        let kept = &self.weights[row * problem.keys..];
        let logits = problem.logits(row).into_iter().enumerate();
        let mut candidates =
            logits.filter(|&(key, logit)| logit > f64::NEG_INFINITY && kept[key] == 0.0).collect::<Vec<_>>();
        candidates.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        candidates
    }

    /// Keeps the first of some candidates.
    fn keep_first(&mut self, problem: &Problem, row: usize, candidates: &[(usize, f64)], count: usize) {
        for (key, _) in candidates.iter().take(count) {
            self.weights[row * problem.keys + key] = 1.0;
        }
        if let (Some(at), Some((_, next))) = (count.checked_sub(1), candidates.get(count)) {
            self.decided[row] &= candidates[at].1 - next > BOUNDARY * (1.0 + next.abs());
        }
    }

    fn add_top_k(&mut self, problem: &Problem, row: usize, size: usize) {
        let candidates = self.candidates(problem, row);
        self.keep_first(problem, row, &candidates, size.min(candidates.len()));
    }

    fn add_top_p(&mut self, problem: &Problem, row: usize, share: f64) {
        let exponentials = problem.exponentials(row);
        let kept = &self.weights[row * problem.keys..][..problem.keys];
        let sampled = exponentials.iter().zip(kept).filter(|(mass, weight)| **mass > 0.0 && **weight > 0.0);
        let wanted = share * exponentials.iter().sum::<f64>();
        let keeps_nothing = sampled.clone().count() == 0;
        let mut reached = sampled.map(|(mass, weight)| mass / weight).sum::<f64>();
        let candidates = self.candidates(problem, row);
        let mut count = 0;
        while count < candidates.len() && (reached < wanted || (count == 0 && keeps_nothing)) {
            // A share of 0 is decided by the first key alone.
            self.decided[row] &= share == 0.0 || (wanted - reached).abs() > BOUNDARY * wanted;
            reached += exponentials[candidates[count].0];
            count += 1;
        }
        self.decided[row] &= count == candidates.len() || (reached - wanted).abs() > BOUNDARY * wanted;
        self.keep_first(problem, row, &candidates, count);
    }
}

/// How many keys a size is: a fraction is rounded down, but at least one key.
fn size(masker: &Value, name: &str, keys: usize) -> Result<usize> {
    let size = field(masker, name)?;
    match (size.as_u64(), size.as_f64()) {
        (Some(count), _) => Ok(count as usize),
        (None, Some(fraction)) => Ok(((fraction * keys as f64) as usize).max(1)),
        (None, None) => Err(format!("{name} of {masker} is no size").into()),
    }
}

/// Whether attention through a mask is as it is computed here from the weights of the mask.
pub fn check_attention(case: &Case, output: &[f64], weights: Option<&[f64]>, own: &Attention) -> Check {
    let tolerance = case.entry.attention_tolerance();
    all([
        close("the output", output, &own.output, tolerance),
        weights.map_or(Ok(()), |weights| close("the attention weights", weights, &own.weights, tolerance)),
    ])
}
