use burn::tensor::{DType, Element, Tensor, TensorData, backend::Backend};

use super::{
    super::{
        SparseBackend,
        cpu::{
            Heads::{BF16, F16, F32, F64},
            backward::{Trace, band, gather},
            simd_float::StoredFloat,
        },
    },
    tensor_io::{Work, host, problem},
};
use crate::{
    mask::{KeyIndices, Pattern},
    problem::{AttentionGradients, AttentionInputs, AttentionTrace},
};

/// [SparseBackend::band_backward] on the host.
pub(crate) fn band_backward<B: SparseBackend>(
    inputs: &AttentionInputs<B>,
    pattern: Pattern,
    trace: &AttentionTrace<B>,
) -> Option<AttentionGradients<B>> {
    backward(inputs, trace, Work::Band(pattern))
}

/// [SparseBackend::gather_backward] on the host.
pub(crate) fn gather_backward<B: SparseBackend>(
    inputs: &AttentionInputs<B>,
    rows: &KeyIndices<B>,
    trace: &AttentionTrace<B>,
) -> Option<AttentionGradients<B>> {
    backward(inputs, trace, Work::of_rows(rows))
}

fn backward<B: SparseBackend>(
    inputs: &AttentionInputs<B>,
    trace: &AttentionTrace<B>,
    work: Work,
) -> Option<AttentionGradients<B>> {
    let [queries, keys, values] = [inputs.queries(), inputs.keys(), inputs.values()].map(host);
    let [gradients, log_sum_exp, means] = [&trace.output_gradient, &trace.log_sum_exp, &trace.mean].map(host);
    let (queries, keys, values) = (queries?, keys?, values?);
    let (gradients, log_sum_exp, means) = (gradients?, log_sum_exp?, means?);
    let tensors = (queries.heads(), keys.heads(), values.heads());
    match (tensors, gradients.heads(), log_sum_exp.heads(), means.heads()) {
        ((F32(q), F32(k), F32(v)), F32(gradients), F32(log_sum_exp), F32(means)) => {
            run(inputs, work, DType::F32, [q, k, v], Trace { gradients, log_sum_exp, means })
        }
        ((F64(q), F64(k), F64(v)), F64(gradients), F64(log_sum_exp), F64(means)) => {
            run(inputs, work, DType::F64, [q, k, v], Trace { gradients, log_sum_exp, means })
        }
        ((F16(q), F16(k), F16(v)), F16(gradients), F32(log_sum_exp), F32(means)) => {
            run(inputs, work, DType::F32, [q, k, v], Trace { gradients, log_sum_exp, means })
        }
        ((BF16(q), BF16(k), BF16(v)), BF16(gradients), F32(log_sum_exp), F32(means)) => {
            run(inputs, work, DType::F32, [q, k, v], Trace { gradients, log_sum_exp, means })
        }
        _ => None,
    }
}

fn run<B: Backend, T: StoredFloat<Float: Element>>(
    inputs: &AttentionInputs<B>,
    work: Work,
    sums: DType,
    [queries, keys, values]: [Vec<&[T]>; 3],
    trace: Trace<T>,
) -> Option<AttentionGradients<B>> {
    let problem = problem(inputs, queries, keys, values)?;
    let gradients = match work {
        Work::Band(pattern) => band::band(&problem, &trace, pattern),
        Work::Gather(lists) => gather::gather(&problem, &trace, &lists),
    };
    let device = inputs.device();
    let like = |tensor: &Tensor<B, 4>, numbers: Vec<T::Float>| {
        let gradient = Tensor::<B, 4>::from_data(TensorData::new(numbers, tensor.dims()), (&device, sums));
        if tensor.dtype() == sums { gradient } else { gradient.cast(tensor.dtype()) }
    };
    Some(AttentionGradients {
        queries: like(inputs.queries(), gradients.queries),
        keys: like(inputs.keys(), gradients.keys),
        values: like(inputs.values(), gradients.values),
    })
}
