//! Attention under `Autodiff`. The forward step runs on the inner backend. The backward step computes the weights
//! again, so they are never stored.

use burn::{
    backend::autodiff::{
        Autodiff,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{DType, Tensor, TensorPrimitive, backend::Backend, ops::FloatTensor},
};

use super::{
    HostTensor, SparseBackend,
    reference::{gradients_in_blocks, scores::cast},
};
use crate::{
    mask::{KeyIndices, Mask, MaskForm, Pattern},
    problem::{
        AttentionGradients, AttentionInputs, AttentionOutput, AttentionTrace, Requested, SoftmaxStatistics, Visibility,
    },
};

impl<B: SparseBackend, C: CheckpointStrategy> SparseBackend for Autodiff<B, C> {
    fn host_tensor(tensor: FloatTensor<Self>) -> Option<Box<dyn HostTensor>> {
        B::host_tensor(tensor.primitive)
    }

    fn band_attention(
        inputs: &AttentionInputs<Self>,
        pattern: Pattern,
        requested: Requested,
    ) -> Option<AttentionOutput<Self>> {
        attend(inputs, MaskForm::Pattern(pattern), requested)
    }

    fn gather_attention(
        inputs: &AttentionInputs<Self>,
        rows: &KeyIndices<Self>,
        requested: Requested,
    ) -> Option<AttentionOutput<Self>> {
        attend(inputs, MaskForm::Indices(rows.on_backend()), requested)
    }
}

/// State of the backward step. It takes the memory of the inputs, the output and the mask. The weights are not stored.
#[derive(Debug, Clone)]
struct Saved<B: SparseBackend> {
    inputs: AttentionInputs<B>,
    mask: Mask<B>,
    output: Tensor<B, 4>,
    log_sum_exp: Tensor<B, 4>,
}

impl<B: SparseBackend> Saved<B> {
    /// The gradients of the inputs. `gradient` is the gradient of the output. If the step also returned the
    /// log-sum-exp, its gradient is [one more column](with_statistics).
    fn gradients(self, gradient: Tensor<B, 4>) -> AttentionGradients<B> {
        let Self { inputs, mask, output, log_sum_exp } = self;
        let ([.., value_dim], [.., width]) = (output.dims(), gradient.dims());
        let (dtype, sums) = (output.dtype(), log_sum_exp.dtype());
        let output_gradient =
            if width > value_dim { gradient.clone().slice_dim(3, 0..value_dim) } else { gradient.clone() };
        let mean = (cast(output, sums) * cast(output_gradient.clone(), sums)).sum_dim(3);
        let mean = if width > value_dim { mean - gradient.slice_dim(3, value_dim..width) } else { mean };
        let trace = AttentionTrace { output_gradient: cast(output_gradient, dtype), log_sum_exp, mean };
        let native = match mask.form() {
            MaskForm::Pattern(pattern) => B::band_backward(&inputs, *pattern, &trace),
            MaskForm::Indices(rows) => B::gather_backward(&inputs, rows, &trace),
            MaskForm::Empty | MaskForm::Full | MaskForm::Dense(_) => None,
        };
        native.unwrap_or_else(|| gradients_in_blocks(&inputs, &mask, &trace))
    }
}

#[derive(Debug)]
struct SparseAttention;

impl<B: SparseBackend> Backward<B, 3> for SparseAttention {
    type State = Saved<B>;

    fn backward(self, step: Ops<Saved<B>, 3>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = tensor::<B>(gradients.consume::<B>(&step.node));
        let AttentionGradients { queries, keys, values } = step.state.gradients(gradient);
        for (parent, gradient) in step.parents.into_iter().zip([queries, keys, values]) {
            if let Some(parent) = parent {
                gradients.register::<B>(parent.id, gradient.into_primitive().tensor());
            }
        }
    }
}

fn tensor<B: Backend>(primitive: FloatTensor<B>) -> Tensor<B, 4> {
    Tensor::new(TensorPrimitive::Float(primitive))
}

/// Copies a tensor so that its heads lie one after the other. A layer's projection interleaves the heads, and each
/// kernel would copy such a tensor for itself. The forward and backward steps share this one copy.
fn gapless<B: SparseBackend>(primitive: FloatTensor<B>) -> Tensor<B, 4> {
    let tensor = tensor::<B>(primitive);
    let dims @ [batch, heads, length, width] = tensor.dims();
    tensor.reshape([batch * heads * length, width]).reshape(dims)
}

fn attend<B: SparseBackend, C: CheckpointStrategy>(
    inputs: &AttentionInputs<Autodiff<B, C>>,
    kept: MaskForm<B>,
    requested: Requested,
) -> Option<AttentionOutput<Autodiff<B, C>>> {
    let visibility = match inputs.visibility() {
        Visibility::Full => Visibility::Full,
        Visibility::Causal { offset } => Visibility::Causal { offset: *offset },
        Visibility::Masked(hidden) => Visibility::Masked(hidden.clone().inner()),
        // The caller turns a window into causal visibility and a mask, so kernels never see one.
        Visibility::Window { .. } => return None,
        // The bias may need a gradient, which this step does not compute.
        Visibility::Biased(_) => return None,
    };
    let primitive = |tensor: &Tensor<Autodiff<B, C>, 4>| match tensor.clone().into_primitive() {
        TensorPrimitive::Float(primitive) => Some(primitive),
        TensorPrimitive::QFloat(_) => None,
    };
    let [queries, keys, values] = [inputs.queries(), inputs.keys(), inputs.values()].map(primitive);
    let (queries, keys, values) = (queries?, keys?, values?);
    let nodes = [queries.node, keys.node, values.node];
    let tensors = [gapless(queries.primitive), gapless(keys.primitive), gapless(values.primitive)];
    let inner = inputs.over(tensors, visibility);
    let forward = |requested| match &kept {
        MaskForm::Pattern(pattern) => B::band_attention(&inner, *pattern, requested),
        MaskForm::Indices(rows) => B::gather_attention(&inner, rows, requested),
        MaskForm::Empty | MaskForm::Full | MaskForm::Dense(_) => None,
    };
    let step = Backward::<B, 3>::prepare::<C>(SparseAttention, nodes).compute_bound().stateful();
    match step {
        OpsKind::Tracked(step) => {
            let AttentionOutput { output, statistics, .. } = forward(Requested { statistics: true, ..requested })?;
            let SoftmaxStatistics { log_sum_exp, maximum, .. } = statistics?;
            // A step has one output, so the log-sum-exp becomes one more column of it.
            let result = match requested.statistics {
                true => Tensor::cat(vec![cast(output.clone(), log_sum_exp.dtype()), log_sum_exp.clone()], 3),
                false => output.clone(),
            };
            let dtype = output.dtype();
            let mask = Mask::with_form(inner.mask_shape(), kept, &inner.device());
            let saved = Saved { inputs: inner, mask, output, log_sum_exp };
            let result = tensor::<Autodiff<B, C>>(step.finish(saved, result.into_primitive().tensor()));
            Some(match requested.statistics {
                true => with_statistics(result, Tensor::from_inner(maximum), dtype),
                false => AttentionOutput { output: result, weights: None, statistics: None },
            })
        }
        OpsKind::UnTracked(step) => {
            let AttentionOutput { output, statistics, .. } = forward(requested)?;
            let output = tensor::<Autodiff<B, C>>(step.finish(output.into_primitive().tensor()));
            let statistics = statistics.map(|statistics| SoftmaxStatistics {
                maximum: Tensor::from_inner(statistics.maximum),
                numerator: Tensor::from_inner(statistics.numerator),
                denominator: Tensor::from_inner(statistics.denominator),
                log_sum_exp: Tensor::from_inner(statistics.log_sum_exp),
            });
            Some(AttentionOutput { output, weights: None, statistics })
        }
    }
}

/// Output and statistics from the result of a step, `[batch, heads, queries, value_dim + 1]`. The result holds the
/// output and, in its last column, the log-sum-exp. The other statistics are computed from these two and the maximum,
/// so their gradients are tracked as well.
fn with_statistics<B: Backend>(result: Tensor<B, 4>, maximum: Tensor<B, 4>, dtype: DType) -> AttentionOutput<B> {
    let value_dim = result.dims()[3] - 1;
    let output = result.clone().slice_dim(3, 0..value_dim);
    let log_sum_exp = result.slice_dim(3, value_dim..value_dim + 1);
    let denominator = (log_sum_exp.clone() - maximum.clone()).exp();
    let numerator = output.clone() * denominator.clone();
    let statistics = Some(SoftmaxStatistics { maximum, numerator, denominator, log_sum_exp });
    AttentionOutput { output: cast(output, dtype), weights: None, statistics }
}
