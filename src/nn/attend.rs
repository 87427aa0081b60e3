//! What the layers have in common: the method, attention over the kept keys, dropout, and the optional quiet softmax.

use burn::{
    nn::{Dropout, Linear},
    tensor::{Tensor, backend::Backend},
};

use super::dropout::attention_with_dropout;
use crate::{
    attention::masked_attention,
    kernels::reference::{
        dropped::{Dropped, Pairs},
        kept::{finite_keys, weigh},
        scores::{cast, grouped_matmul, reciprocal},
    },
    mask::{Mask, MaskForm},
    masker::Masker,
    problem::{AttentionError, AttentionInputs, AttentionOutput, Phase, Requested, SoftmaxStatistics, Visibility},
    state::LayerState,
};

/// How a layer attends.
pub(super) struct Attend<'a, M> {
    pub maskers: &'a M,
    pub dropout: &'a Dropout,
    pub quiet_softmax: bool,
    pub fill_weights: bool,
    /// The score of a hidden key under burn's conventions. `None`: this library's conventions.
    pub burn_min_float: Option<f64>,
    pub layer: usize,
    pub phase: Phase,
    /// The seed of dropout, if each sequence is computed alone. `None`: dropout draws from the state.
    pub dropout_seed: Option<u64>,
}

/// The output of each head, `[batch, heads, queries, d_v]`, and the weights if they were requested.
pub(super) type Attended<B> = (Tensor<B, 4>, Option<Tensor<B, 4>>);

impl<M> Attend<'_, M> {
    /// # Shapes
    /// - query: `[batch, heads, queries, d_k]`
    /// - key, value: `[batch, kv_heads, keys, d_k]`
    ///
    /// # Errors
    /// If the shapes do not fit, or the method cannot work with them.
    pub fn forward<B: Backend>(
        &self,
        heads: [Tensor<B, 4>; 3],
        visibility: Visibility<B>,
        state: &mut LayerState,
    ) -> Result<Attended<B>, AttentionError>
    where
        M: Masker<B>,
    {
        let [query, key, value] = heads;
        self.over(AttentionInputs::new(query, key, value)?.with_visibility(visibility)?, state)
    }

    /// The same as [forward](Self::forward), from attention inputs.
    pub fn over<B: Backend>(
        &self,
        inputs: AttentionInputs<B>,
        state: &mut LayerState,
    ) -> Result<Attended<B>, AttentionError>
    where
        M: Masker<B>,
    {
        let inputs = inputs.with_layer(self.layer).with_phase(self.phase);
        // The choice of keys has no gradient, so autodiff must not track it.
        let mask = self.maskers.mask(&inputs.clone().detach(), state)?;
        if let Some(min_float) = self.burn_min_float {
            return Ok(self.as_burn(&inputs, &mask, min_float));
        }
        let drops = self.dropout.prob > 0.0 && B::ad_enabled(&inputs.device());
        let requested = Requested { weights: self.fill_weights, statistics: self.quiet_softmax };
        if !drops {
            let output = self.quieten(masked_attention(&inputs, &mask, requested)?);
            return Ok((output.output, output.weights));
        }
        let lists = matches!(mask.form(), MaskForm::Empty | MaskForm::Pattern(_) | MaskForm::Indices(_));
        if lists && !self.fill_weights {
            let randomness = match self.dropout_seed {
                Some(seed) => LayerState::new(seed).dropout_randomness(&inputs),
                None => state.dropout_randomness(&inputs),
            };
            let output = attention_with_dropout(&inputs, &mask, self.dropout.prob, randomness, requested)?;
            return Ok((self.quieten(output).output, None));
        }
        // The mask may keep every key, or the weights were requested. So all weights are computed, and dropout acts on
        // them.
        let output = self.quieten(masked_attention(&inputs, &mask, Requested { weights: true, ..requested })?);
        let weights = output.weights.map(|weights| self.dropout.forward(weights));
        let thinned = weights.clone().map(|weights| {
            let values = cast(inputs.values().clone(), weights.dtype());
            let pairs = pairs_of_all(&inputs, &mask);
            cast(weigh(weights, values, pairs.dropped.as_ref()), inputs.queries().dtype())
        });
        Ok((thinned.unwrap_or(output.output), weights.filter(|_| self.fill_weights)))
    }

    /// Applies the quiet softmax: its denominator has the additional term `exp(0)`, which belongs to no key.
    fn quieten<B: Backend>(&self, output: AttentionOutput<B>) -> AttentionOutput<B> {
        let Some(SoftmaxStatistics { maximum, denominator, .. }) = output.statistics.filter(|_| self.quiet_softmax)
        else {
            return AttentionOutput { statistics: None, ..output };
        };
        // A row that keeps no key has no maximum. Its output is 0 with any factor.
        let nothing = denominator.clone().equal_elem(0.0);
        let factor = denominator.clone() * reciprocal(denominator + maximum.mask_fill(nothing, 0.0).neg().exp());
        let scaled = |tensor: Tensor<B, 4>| {
            let dtype = tensor.dtype();
            cast(cast(tensor, factor.dtype()) * factor.clone(), dtype)
        };
        AttentionOutput { output: scaled(output.output), weights: output.weights.map(scaled), statistics: None }
    }

    /// Attention as burn 0.21 computes it, over all pairs of queries and keys. Dropout acts on the scores. A hidden key
    /// has a low score and can have a weight, so a row in which all keys are hidden attends to all keys equally. A
    /// hidden key whose weight is 0 does not change the output, even if its value is a NaN or an infinity.
    fn as_burn<B: Backend>(&self, inputs: &AttentionInputs<B>, mask: &Mask<B>, min_float: f64) -> Attended<B> {
        let Pairs { dropped, log_probability } = pairs_of_all(inputs, mask);
        let finite = dropped.as_ref().and_then(|_| finite_keys(inputs.keys(), inputs.mask_shape().heads));
        let (keys, marks) = finite.map_or((inputs.keys().clone(), None), |(keys, marks)| (keys, Some(marks)));
        let products = grouped_matmul(inputs.queries().clone(), keys.swap_dims(2, 3));
        let mut scores = self.dropout.forward(products.mul_scalar(inputs.scale()));
        if let Some(marks) = marks {
            scores = scores + marks;
        }
        if let Some(log_probability) = log_probability {
            scores = scores.clone() - cast(log_probability, scores.dtype());
        }
        if let Some(dropped) = &dropped {
            scores = dropped.fill(scores, min_float);
        }
        let weights = softmax(scores, self.quiet_softmax);
        let without_weight = dropped.map(|Dropped { pairs, whole }| {
            let pairs = pairs.expand(weights.dims()).bool_and(weights.clone().equal_elem(0.0));
            Dropped { pairs, whole }
        });
        let output = weigh(weights.clone(), inputs.values().clone(), without_weight.as_ref());
        (output, self.fill_weights.then_some(weights))
    }
}

/// The dropped pairs and the sampling probabilities of all queries and keys.
fn pairs_of_all<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Pairs<B> {
    let shape = inputs.mask_shape();
    Pairs::of(inputs, mask, &(0..shape.queries), &[shape.all_keys()])
}

/// burn's softmax over the keys, quiet or not. It uses [reciprocal], whose gradient is exact on all backends.
fn softmax<B: Backend>(scores: Tensor<B, 4>, quiet: bool) -> Tensor<B, 4> {
    let maximum = scores.clone().detach().max_dim(3);
    let exponentials = (scores - maximum.clone()).exp();
    let sum = exponentials.clone().sum_dim(3);
    exponentials * reciprocal(if quiet { sum + maximum.neg().exp() } else { sum })
}

/// Splits a sequence into heads.
///
/// # Shapes
/// - x: `[batch, length, heads * width]`
/// - output: `[batch, heads, length, width]`
pub(super) fn split_heads<B: Backend>(x: Tensor<B, 3>, heads: usize) -> Tensor<B, 4> {
    let [batch, length, width] = x.dims();
    x.reshape([batch, length, heads, width / heads]).swap_dims(1, 2)
}

/// Joins the heads again. It is the inverse of [split_heads].
pub(super) fn join_heads<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 3> {
    let [batch, heads, length, width] = x.dims();
    x.swap_dims(1, 2).reshape([batch, length, heads * width])
}

/// Checks that an input has the width and the float type of a layer's weights. Without this check, burn panics.
///
/// # Shapes
/// - input: `[batch, length, width]`
///
/// # Errors
/// If its width or its float type differs, or it is empty.
pub(super) fn check_input<B: Backend>(
    tensor: &'static str,
    input: &Tensor<B, 3>,
    linear: &Linear<B>,
) -> Result<(), AttentionError> {
    let ([width, _], found) = (linear.weight.dims(), input.dims());
    if found[2] != width || found.contains(&0) {
        let expected = format!("[batch, length, {width}], with at least 1 in every dimension");
        return Err(AttentionError::Shape { tensor, found: found.to_vec(), expected });
    }
    let (found, expected) = (input.dtype(), linear.weight.dtype());
    // Quantised weights accept inputs of any float type.
    match found == expected || !expected.is_float() {
        true => Ok(()),
        false => Err(AttentionError::FloatType { tensor, found, expected, others: "the layer's weights" }),
    }
}

/// Burn's interface does not return a `Result`, so an error must be a panic.
#[track_caller]
pub(super) fn or_panic<T>(result: Result<T, AttentionError>) -> T {
    match result {
        Ok(output) => output,
        Err(error) => panic!("{error}"),
    }
}
