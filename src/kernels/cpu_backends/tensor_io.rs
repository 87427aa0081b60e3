//! Conversion from tensors to slices and back.

use burn::tensor::{DType, Tensor, TensorData, TensorPrimitive, backend::Backend};

use super::super::{
    SparseBackend,
    cpu::{
        Heads, HostTensor,
        attend::{Problem, band},
        gather::{Lists, gather},
        simd_float::{SimdFloat, StoredFloat},
        softmax::Softmax,
    },
};
use crate::{
    mask::{KeyIndices, Pattern},
    problem::{AttentionInputs, AttentionOutput, Requested, SoftmaxStatistics, Visibility},
};

/// [SparseBackend::band_attention] on the host.
pub(crate) fn band_attention<B: SparseBackend>(
    inputs: &AttentionInputs<B>,
    pattern: Pattern,
    requested: Requested,
) -> Option<AttentionOutput<B>> {
    attend(inputs, requested, Work::Band(pattern))
}

/// [SparseBackend::gather_attention] on the host.
pub(crate) fn gather_attention<B: SparseBackend>(
    inputs: &AttentionInputs<B>,
    rows: &KeyIndices<B>,
    requested: Requested,
) -> Option<AttentionOutput<B>> {
    attend(inputs, requested, Work::of_rows(rows))
}

pub(super) enum Work<'a> {
    Band(Pattern),
    Gather(Lists<'a>),
}

impl<'a> Work<'a> {
    /// The lists of a mask, borrowed from it.
    pub fn of_rows<B: Backend>(rows: &'a KeyIndices<B>) -> Self {
        let lists = rows.lists();
        Self::Gather(Lists { indices: &lists.indices, probability: lists.probability.as_deref(), width: rows.width() })
    }
}

fn attend<B: SparseBackend>(
    inputs: &AttentionInputs<B>,
    requested: Requested,
    work: Work,
) -> Option<AttentionOutput<B>> {
    let [queries, keys, values] = [inputs.queries(), inputs.keys(), inputs.values()].map(host);
    let (queries, keys, values) = (queries?, keys?, values?);
    match (queries.heads(), keys.heads(), values.heads()) {
        (Heads::F32(q), Heads::F32(k), Heads::F32(v)) => run(inputs, requested, work, DType::F32, q, k, v),
        (Heads::F64(q), Heads::F64(k), Heads::F64(v)) => run(inputs, requested, work, DType::F64, q, k, v),
        (Heads::F16(q), Heads::F16(k), Heads::F16(v)) => run(inputs, requested, work, DType::F32, q, k, v),
        (Heads::BF16(q), Heads::BF16(k), Heads::BF16(v)) => run(inputs, requested, work, DType::F32, q, k, v),
        _ => None,
    }
}

pub(super) fn host<B: SparseBackend>(tensor: &Tensor<B, 4>) -> Option<Box<dyn HostTensor>> {
    match tensor.clone().into_primitive() {
        TensorPrimitive::Float(tensor) => B::host_tensor(tensor),
        TensorPrimitive::QFloat(_) => None,
    }
}

fn run<B: SparseBackend, T: StoredFloat>(
    inputs: &AttentionInputs<B>,
    requested: Requested,
    work: Work,
    sums: DType,
    queries: Vec<&[T]>,
    keys: Vec<&[T]>,
    values: Vec<&[T]>,
) -> Option<AttentionOutput<B>>
where
    T::Float: burn::tensor::Element,
{
    let problem = problem(inputs, queries, keys, values)?;
    let rows = match work {
        Work::Band(pattern) => band(&problem, pattern),
        Work::Gather(lists) => gather(&problem, &lists),
    };
    Some(output(inputs, requested, sums, rows))
}

/// The attention problem of some inputs. `None` if the kernels do not support the visibility.
pub(super) fn problem<'a, B: Backend, T>(
    inputs: &AttentionInputs<B>,
    queries: Vec<&'a [T]>,
    keys: Vec<&'a [T]>,
    values: Vec<&'a [T]>,
) -> Option<Problem<'a, T>> {
    let shape = inputs.mask_shape();
    let causal = match inputs.visibility() {
        Visibility::Full => None,
        Visibility::Causal { offset } => Some(*offset),
        Visibility::Window { .. } | Visibility::Masked(_) | Visibility::Biased(_) => return None,
    };
    Some(Problem {
        queries,
        keys,
        values,
        query_count: shape.queries,
        key_count: shape.keys,
        head_dim: inputs.keys().dims()[3],
        value_dim: inputs.values().dims()[3],
        scale: inputs.scale(),
        softcap: inputs.softcap(),
        causal,
    })
}

fn output<B: Backend, R: SimdFloat + burn::tensor::Element>(
    inputs: &AttentionInputs<B>,
    requested: Requested,
    sums: DType,
    rows: Softmax<R>,
) -> AttentionOutput<B> {
    let shape = inputs.mask_shape();
    let device = inputs.device();
    let value_dim = inputs.values().dims()[3];
    let tensor = |numbers: Vec<R>, width: usize| {
        let data = TensorData::new(numbers, [shape.batch, shape.heads, shape.queries, width]);
        Tensor::<B, 4>::from_data(data, (&device, sums))
    };
    let mut outputs = rows.numerator.clone();
    for (output, &denominator) in outputs.chunks_exact_mut(value_dim).zip(&rows.denominator) {
        if denominator != R::ZERO {
            output.iter_mut().for_each(|sum| *sum = sum.div(denominator));
        }
    }
    let statistics = requested.statistics.then(|| {
        let lines = rows.maximum.iter().zip(&rows.denominator);
        let log_sum_exp = lines.map(|(&maximum, &denominator)| match denominator == R::ZERO {
            true => R::LEAST,
            false => maximum.add(denominator.ln()),
        });
        let log_sum_exp = tensor(log_sum_exp.collect(), 1);
        // The maximum over no keys is minus infinity here, and the lowest number of the type in generic operations.
        // Neither number is useful, so the result is 0.
        let maximum = rows.maximum.iter().map(|&maximum| if maximum == R::LEAST { R::ZERO } else { maximum });
        SoftmaxStatistics {
            log_sum_exp,
            maximum: tensor(maximum.collect(), 1),
            numerator: tensor(rows.numerator, value_dim),
            denominator: tensor(rows.denominator, 1),
        }
    });
    let dtype = inputs.queries().dtype();
    let output = tensor(outputs, value_dim);
    AttentionOutput { output: if dtype == sums { output } else { output.cast(dtype) }, weights: None, statistics }
}
