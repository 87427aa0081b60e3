//! Shared parts of the benchmarks: random tensors, methods by name, and the bytes that a step must move.
#![allow(dead_code)] // Each bench uses its part.

use burn::tensor::{Distribution, Tensor};
use sparse_attention_hub::{backend::Selected, prelude::*};

pub type B = Selected;

pub const HEAD_DIM: usize = 128;

/// The bytes of a key and a value.
pub const PAIR_BYTES: usize = 2 * HEAD_DIM * size_of::<f32>();

/// Causal inputs with the queries at the last positions of the keys.
pub fn inputs(heads: usize, kv_heads: usize, queries: usize, keys: usize) -> AttentionInputs<B> {
    let random = |heads, length| {
        let dims = [1, heads, length, HEAD_DIM];
        Tensor::<B, 4>::random(dims, Distribution::Normal(0.0, 1.0), &Default::default())
    };
    AttentionInputs::new(random(heads, queries), random(kv_heads, keys), random(kv_heads, keys))
        .and_then(AttentionInputs::causal)
        .expect("the shapes fit each other, and the queries are not more than the keys")
}

/// A method from the text of its configuration.
pub fn method(json: &str) -> ResearchAttention<B> {
    MaskerRegistry::new()
        .research_attention(json, &Default::default())
        .expect("the benches name built-in maskers and values that are allowed")
}

/// A step of a method, with a state that has read the earlier keys.
pub fn step(method: &ResearchAttention<B>, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Tensor<B, 4> {
    method
        .forward(inputs, state, Requested::default())
        .expect("the methods work with every input of the benches")
        .attention
        .output
}
