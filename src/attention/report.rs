use burn::tensor::{Tensor, backend::Backend};

use super::{AttentionError, AttentionInputs, Requested, masked_attention};
use crate::mask::{Density, Mask, MaskShape};

/// How far attention through a mask is from dense attention, in one head.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct HeadReport {
    /// The sequence.
    pub batch: usize,
    /// The query head.
    pub head: usize,
    /// Which share of the query-key pairs was kept.
    pub density: Density,
    /// Norm of the difference of the outputs over the norm of the dense output, over all queries of the head. 0 if both
    /// are 0.
    pub output_error: f64,
    /// Mean over the queries of the absolute difference in the log-sum-exp; infinite if a query sees keys and keeps
    /// none.
    pub log_sum_exp_error: f64,
    /// Mean over the queries of the share of the dense attention weights that lies on the kept keys. Sampled keys count
    /// with their own weight only, and [sinks](AttentionInputs::with_sinks) not at all.
    pub mass_kept: f64,
}

/// How far attention through a mask is from dense attention, head by head.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionReport {
    /// One report a head, the heads of the first sequence first.
    pub heads: Vec<HeadReport>,
}

impl AttentionReport {
    /// Compares attention through a mask with dense attention.
    ///
    /// # Errors
    /// If the mask does not have the shape of the inputs, or a tensor that this takes is larger than the device can hold.
    pub fn of<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Result<Self, AttentionError> {
        let requested = Requested { statistics: true, weights: false };
        let full = Mask::full(inputs.mask_shape(), &inputs.device());
        let dense = masked_attention(inputs, &full, requested)?;
        let sparse = masked_attention(inputs, mask, requested)?;
        let without_sinks = inputs.without_sinks();
        let support = masked_attention(&without_sinks, &mask.support(), requested)?;
        let of_keys = inputs.sinks().map(|_| masked_attention(&without_sinks, &full, requested)).transpose()?;
        let MaskShape { heads, queries, .. } = inputs.mask_shape();
        let width = dense.output.dims()[3] * queries;
        let (dense_output, sparse_output) = (host(&dense.output), host(&sparse.output));
        let log_sum_exp = |output: &super::AttentionOutput<B>| {
            output.statistics.as_ref().map_or(Vec::new(), |all| host(&all.log_sum_exp))
        };
        let of_keys = log_sum_exp(of_keys.as_ref().unwrap_or(&dense));
        let (dense, sparse, support) = (log_sum_exp(&dense), log_sum_exp(&sparse), log_sum_exp(&support));
        let densities = mask.density_per_head(inputs.visibility());
        let heads = densities.into_iter().enumerate().map(|(index, density)| {
            let outputs = index * width..(index + 1) * width;
            let rows = index * queries..(index + 1) * queries;
            let (mut shift, mut mass, mut seeing) = (0.0, 0.0, 0);
            for row in rows.filter(|&row| of_keys[row] > f64::NEG_INFINITY) {
                seeing += 1;
                shift += (sparse[row] - dense[row]).abs();
                mass += (support[row] - of_keys[row]).exp();
            }
            let per_query = f64::from(seeing.max(1));
            HeadReport {
                batch: index / heads,
                head: index % heads,
                density,
                output_error: relative_error(&sparse_output[outputs.clone()], &dense_output[outputs]),
                log_sum_exp_error: shift / per_query,
                mass_kept: if seeing == 0 { 1.0 } else { mass / per_query },
            }
        });
        Ok(Self { heads: heads.collect() })
    }

    /// Mean density over visible keys.
    pub fn density(&self) -> f64 {
        mean(self.heads.iter().map(|head| head.density.visible))
    }

    /// The median of the heads' output errors.
    pub fn output_error_median(&self) -> f64 {
        let mut errors = self.heads.iter().map(|head| head.output_error).collect::<Vec<_>>();
        errors.sort_by(f64::total_cmp);
        let middle = errors.len() / 2;
        match (errors.get(middle), errors.len() % 2) {
            (Some(upper), 0) => (errors[middle - 1] + upper) / 2.0,
            (Some(middle), _) => *middle,
            (None, _) => 0.0,
        }
    }

    /// The largest of the heads' output errors.
    pub fn output_error_worst(&self) -> f64 {
        self.heads.iter().map(|head| head.output_error).fold(0.0, f64::max)
    }

    /// Mean share of the dense attention weights on the kept keys.
    pub fn mass_kept(&self) -> f64 {
        mean(self.heads.iter().map(|head| head.mass_kept))
    }
}

fn host<B: Backend>(tensor: &Tensor<B, 4>) -> Vec<f64> {
    tensor.to_data().convert::<f64>().iter::<f64>().collect()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

fn relative_error(found: &[f64], wanted: &[f64]) -> f64 {
    let difference = found.iter().zip(wanted).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let norm = wanted.iter().map(|b| b.powi(2)).sum::<f64>().sqrt();
    if difference == 0.0 { 0.0 } else { difference / norm }
}
