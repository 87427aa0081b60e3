//! Exact logits of some keys of a row.

use burn::tensor::backend::Backend;

use super::rows::host;
use crate::{
    kernels::{HostTensor, cpu::listed_logits, host_tensor, reference::scores::visible_logits},
    problem::{AttentionError, AttentionInputs},
};

/// Exact logits of the requested keys, row by row.
pub(crate) enum ExactLogits {
    /// The logits are computed on request, from queries and keys in host memory.
    Listed {
        queries: Box<dyn HostTensor>,
        keys: Box<dyn HostTensor>,
        /// Number of queries of each head.
        count: usize,
        scale: f64,
        softcap: Option<f64>,
    },
    /// All logits, computed in advance: the tensors are on a device, or the visibility is a tensor.
    All { logits: Vec<f32>, keys: usize },
}

impl ExactLogits {
    /// The logits of some inputs.
    ///
    /// # Errors
    /// If the device cannot hold them.
    pub fn of<B: Backend>(inputs: &AttentionInputs<B>) -> Result<Self, AttentionError> {
        let shape = inputs.mask_shape();
        if inputs.visibility().closed_form().is_some()
            && let (Some(queries), Some(keys)) = (host_tensor(inputs.queries()), host_tensor(inputs.keys()))
        {
            let (scale, softcap) = (inputs.scale(), inputs.softcap());
            return Ok(Self::Listed { queries, keys, count: shape.queries, scale, softcap });
        }
        Ok(Self::All { logits: host(visible_logits(inputs)?), keys: shape.keys })
    }

    /// The logits of some keys of a row. Rows are counted over batch, heads and queries. The row must see the keys.
    pub fn row(&self, row: usize, listed: &[u32]) -> Vec<f32> {
        match self {
            Self::Listed { queries, keys, count, scale, softcap } => {
                let mut logits = vec![0.0; listed.len()];
                let (head, query) = (row / count, row % count);
                listed_logits(queries.as_ref(), keys.as_ref(), head, query, *scale, *softcap, listed, &mut logits);
                logits
            }
            Self::All { logits, keys } => {
                let logits = &logits[row * keys..][..*keys];
                listed.iter().map(|&key| logits[key as usize]).collect()
            }
        }
    }
}
