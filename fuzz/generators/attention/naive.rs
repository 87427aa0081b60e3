//! Attention in f64, one query at a time.

use burn::tensor::DType;

use crate::generators::{
    Checked,
    fault::hold,
    numbers::rounding,
    problem::{Problem, Sizes},
};

/// The result of attention for one query.
#[derive(Debug, Clone)]
pub struct Row {
    pub output: Vec<f64>,
    /// The attention weight of each key.
    pub shares: Vec<f64>,
    pub log_sum_exp: f64,
    /// The tolerance, relative to each share and to 1 plus the absolute log-sum-exp.
    tolerance: f64,
    /// The largest absolute value among the used elements of V.
    magnitude: f64,
    /// Whether a logit is NaN.
    not_a_number: bool,
    /// Whether a logit is infinite, so that the result is undefined.
    infinite: bool,
}

/// The rows of attention over the weights of a mask.
pub fn rows(problem: &Problem, weights: &[f64]) -> Vec<Row> {
    let Sizes { batch, heads, queries, keys, .. } = problem.sizes;
    let numbers = 0..batch * heads * queries;
    let row = |row: usize| {
        let (batch, head, query) = (row / queries / heads, row / queries % heads, row % queries);
        attend(problem, [batch, head, query], &weights[row * keys..][..keys])
    };
    numbers.map(row).collect()
}

fn attend(problem: &Problem, [batch, head, query]: [usize; 3], weights: &[f64]) -> Row {
    let Sizes { keys, head_dim, value_dim, .. } = problem.sizes;
    // Half-precision types are summed in f32.
    let unit = rounding(if problem.dtype == DType::F64 { DType::F64 } else { DType::F32 });
    let vector = problem.query(batch, head, query);
    let mut logits = Vec::with_capacity(keys);
    let (mut largest, mut tolerance) = (f64::NEG_INFINITY, 0.0_f64);
    for (key, &weight) in weights.iter().enumerate() {
        let bias = problem.bias([batch, head, query, key]).filter(|_| weight > 0.0);
        let Some(bias) = bias else { continue };
        let products = vector.iter().zip(problem.key(batch, head, key)).map(|(a, b)| a * b);
        let (sum, size) = products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
        let scaled = sum * problem.scale;
        let logit = problem.softcap.map_or(scaled, |cap| cap * (scaled / cap).tanh()) + bias - weight.ln();
        let cap = problem.softcap.unwrap_or(0.0);
        let errors = (head_dim as f64 + 4.0) * size * problem.scale.abs() + 4.0 * (logit.abs() + bias.abs() + cap);
        // Probabilities are f32 for every type.
        let of_weight = if weight < 1.0 { rounding(DType::F32) * (1.0 - weight.ln()) } else { 0.0 };
        tolerance = tolerance.max(unit * errors + of_weight);
        largest = largest.max(logit);
        logits.push((key, logit));
    }
    let not_a_number = logits.iter().any(|(_, logit)| logit.is_nan());
    let mut shares = vec![0.0; keys];
    logits.iter().for_each(|(key, logit)| shares[*key] = (logit - largest).exp());
    let sink = problem.sink_logits.as_ref().map(|sink_logits| sink_logits[head]);
    let of_sink = sink.map_or(0.0, |sink| (sink - largest).exp());
    let sum = shares.iter().sum::<f64>() + of_sink;
    let log_sum_exp = match sink {
        Some(sink) if logits.is_empty() => sink,
        _ => sum.ln() + largest,
    };
    // Without kept keys there are no shares. A sink far above all logits makes all shares 0.
    let divisor = if logits.is_empty() { 1.0 } else { sum };
    shares.iter_mut().for_each(|share| *share /= divisor);
    let (mut output, mut magnitude) = (vec![0.0; value_dim], 0.0_f64);
    for (key, _) in &logits {
        for (sum, value) in output.iter_mut().zip(problem.value(batch, head, *key)) {
            *sum += shares[*key] * value;
            magnitude = magnitude.max(value.abs());
        }
    }
    Row {
        output,
        shares,
        log_sum_exp,
        tolerance: 2.0 * tolerance + unit * (keys as f64 + 16.0),
        magnitude,
        not_a_number,
        infinite: !not_a_number && largest == f64::INFINITY,
    }
}

impl Row {
    /// Compares the output of a query.
    ///
    /// # Errors
    /// If it differs.
    pub fn check_output(&self, dtype: DType, found: &[f64], property: &'static str) -> Checked {
        if self.not_a_number {
            hold!(found.iter().any(|x| x.is_nan()), "what is seen and not a number shows", "output {found:?}");
            return Ok(());
        }
        if self.infinite {
            return Ok(());
        }
        let least = if dtype == DType::F16 { 6e-8 } else { 0.0 };
        for (at, (found, wanted)) in found.iter().zip(&self.output).enumerate() {
            if wanted.is_nan() {
                hold!(found.is_nan(), "what is seen and not a number shows", "output {at} is {found}");
                continue;
            }
            if wanted.is_infinite() {
                continue;
            }
            let tolerance = self.tolerance * self.magnitude + rounding(dtype) * wanted.abs() + least;
            hold!(
                (found - wanted).abs() <= tolerance,
                property,
                "output {at} is {found:e} and not {wanted:e}, off by {:e} where {tolerance:e} is allowed",
                (found - wanted).abs()
            );
        }
        Ok(())
    }

    /// Compares the attention weights and the log-sum-exp of a query.
    ///
    /// # Errors
    /// If they differ.
    pub fn check_softmax(&self, shares: &[f64], log_sum_exp: f64) -> Checked {
        if self.not_a_number || self.infinite {
            return Ok(());
        }
        for (key, (found, wanted)) in shares.iter().zip(&self.shares).enumerate() {
            let tolerance = self.tolerance * wanted + f64::from(f32::MIN_POSITIVE);
            let close = (found - wanted).abs() <= tolerance;
            hold!(close, "attention weights", "key {key} has {found:e} and not {wanted:e}");
        }
        let wanted = self.log_sum_exp;
        let close = (log_sum_exp - wanted).abs() <= self.tolerance * (1.0 + wanted.abs());
        hold!(close || log_sum_exp == wanted, "log-sum-exp", "{log_sum_exp:e} and not {wanted:e}");
        Ok(())
    }
}
