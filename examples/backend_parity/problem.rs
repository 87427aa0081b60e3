//! The inputs of the methods: a recorded layer, and a long decode step made from it.

use std::error::Error;

use burn::tensor::{Tensor, backend::Backend};
use sparse_attention_hub::{eval::Recording, prelude::*};

use crate::{
    Arguments,
    common::{find, fits_in_memory},
};

/// Tensors on a device, in the requested precision.
pub struct Problem<B: Backend> {
    /// The recorded queries over the recorded keys.
    pub recorded: AttentionInputs<B>,
    /// One query over the requested number of keys, which are the recorded keys repeated.
    pub step: Option<AttentionInputs<B>>,
    pub device: B::Device,
}

impl<B: Backend> Problem<B> {
    pub fn open(arguments: &Arguments, device: &B::Device) -> Result<Self, Box<dyn Error>> {
        let file = find(&format!("examples/data/layer{}.safetensors", arguments.layer))?;
        let inputs = Recording::<B>::open(file, device)?.inputs;
        let [queries, keys, values] =
            [inputs.queries(), inputs.keys(), inputs.values()].map(|tensor| tensor.clone().cast(arguments.precision));
        let like = |queries: Tensor<B, 4>, keys: Tensor<B, 4>, values: Tensor<B, 4>| {
            let made = AttentionInputs::new(queries, keys, values)?.causal()?;
            // As `compare` takes the recorded queries.
            made.with_scale(inputs.scale()).map(|made| made.with_layer(inputs.layer()).with_phase(Phase::Decode))
        };
        let MaskShape { queries: count, keys: length, .. } = inputs.mask_shape();
        let step = match arguments.keys {
            0 => None,
            wanted => {
                let batch = arguments.batch;
                let [_, heads, _, width] = keys.dims();
                // Keys, values, and a copy of one of them while it is assembled.
                fits_in_memory("the decode step", &[4, batch, heads, wanted, width, size_of::<f32>()])?;
                let long = |tensor: &Tensor<B, 4>| {
                    let copies = vec![tensor.clone(); wanted.div_ceil(length)];
                    let long = Tensor::cat(copies, 2).slice_dim(2, 0..wanted);
                    Tensor::cat(vec![long; batch], 0)
                };
                let query = Tensor::cat(vec![queries.clone().slice_dim(2, count - 1..count); batch], 0);
                Some(like(query, long(&keys), long(&values))?)
            }
        };
        Ok(Self { recorded: like(queries, keys, values)?, step, device: device.clone() })
    }
}
