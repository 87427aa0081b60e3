//! Sparse attention for [burn](https://burn.dev) models, written once over burn's
//! [Backend](burn::tensor::backend::Backend) trait.
//!
//! [Maskers](masker) decide which keys each query keeps, and with what probability. A chain of maskers is a sparse
//! attention [method]. The resulting [mask] is stored in the cheapest form that can express it. [Attention](attention)
//! runs over the kept keys and reports its distance from dense attention.
//!
//! # Where to start
//! | you want to | start with |
//! |---|---|
//! | swap a layer of a burn model | [SparseMultiHeadAttention](nn::SparseMultiHeadAttention), [SparseTransformerEncoder](nn::SparseTransformerEncoder) and the other layers in [nn]; [sparse_attention](nn::sparse_attention) if the model computes attention in its own code |
//! | study a method, or write one | [ResearchAttention](method::ResearchAttention) and its [report](attention::AttentionReport); the traits [Masker](masker::Masker) and [Scorer](scorer::Scorer); [eval], [metrics] and [tune] |
//! | train with sparse attention | the same layers on burn's `Autodiff` backend (feature `train`): gradients flow through the kept keys |
//! | run a checkpoint of a language model | the modules `models` and [adapters] (feature `hf`) |
//!
//! A method is a list in a JSON file, or an object with lists for the prefill and for decoding, see
//! [MaskerChainConfig](method::MaskerChainConfig).
//!
//! # Swap a layer
//! ```
//! # #[cfg(feature = "flex")] {
//! use burn::{
//!     nn::attention::MultiHeadAttentionConfig,
//!     tensor::{Distribution, Tensor},
//! };
//! use burn_flex::Flex;
//! use sparse_attention_hub::prelude::*;
//!
//! let device = Default::default();
//! let dense = MultiHeadAttentionConfig::new(64, 8).init::<Flex>(&device);
//! let method = r#"[{"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 16}]"#;
//! let method = MaskerChainConfig::from_json(method)?.init::<Flex>(&device)?;
//! let sparse = SparseMultiHeadAttention::from(dense).with_maskers(method);
//! let tokens = Tensor::<Flex, 3>::random([1, 100, 64], Distribution::Default, &device);
//! assert_eq!(sparse.forward(MhaInput::self_attn(tokens).causal()).context.dims(), [1, 100, 64]);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Study a method
//! ```
//! # #[cfg(feature = "flex")] {
//! use burn::tensor::{Distribution, Tensor};
//! use burn_flex::Flex;
//! use sparse_attention_hub::prelude::*;
//!
//! let device = Default::default();
//! let random = |dims| Tensor::<Flex, 4>::random(dims, Distribution::Default, &device);
//! let inputs = AttentionInputs::new(random([1, 6, 4, 64]), random([1, 2, 512, 64]), random([1, 2, 512, 64]))?.causal()?;
//! let method = r#"[{"type": "sink", "sink_size": 4}, {"type": "oracle_top_k", "heavy_size": 0.1}]"#;
//! let attention = MaskerRegistry::new().research_attention(method, &device)?;
//! let report = attention.report(&inputs, &mut LayerState::new(42))?;
//! assert!(report.density() < 0.12);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//! | feature | what it adds |
//! |---|---|
//! | `flex` (default) | burn's fast CPU backend |
//! | `ndarray` | the portable CPU backend |
//! | `wgpu` | GPUs through Vulkan, Metal, DirectX and WebGPU |
//! | `cuda` | NVIDIA GPUs |
//! | `tch` | libtorch |
//! | `train` | burn's `Autodiff` and training loop |
//! | `hf` | language models from HuggingFace folders, and PyTorch files |
//! | `hub` | language models by their name on the HuggingFace hub |
//! | `plot` | plots as SVG and PNG, reports as HTML |
//!
//! A program that brings its own backend needs none of the backend features. The features `flex` and `ndarray` also
//! enable the native kernels of these backends, which make attention faster.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

pub mod adapters;
pub mod attention;
#[cfg(any(feature = "cuda", feature = "tch", feature = "wgpu", feature = "flex", feature = "ndarray"))]
pub mod backend;
mod config;
mod device;
pub mod eval;
pub mod io;
pub mod kernels;
pub mod mask;
pub mod masker;
pub mod method;
pub mod metrics;
#[cfg(feature = "hf")]
pub mod models;
pub mod nn;
#[cfg(feature = "plot")]
pub mod plot;
mod problem;
#[cfg(feature = "plot")]
pub mod report;
pub mod scorer;
mod state;
#[cfg(feature = "train")]
pub mod train;
pub mod tune;

pub use io::FileError;

/// The items that most programs need.
pub mod prelude {
    pub use crate::{
        attention::{
            AttentionError, AttentionInputs, AttentionOutput, AttentionReport, Phase, Requested, Visibility,
            dense_attention, masked_attention,
        },
        mask::{Mask, MaskError, MaskShape, Pattern},
        masker::{ConfigError, Context, LayerState, Masker, MaskerConfig, Size},
        method::{MaskerChain, MaskerChainConfig, MaskerRegistry, ResearchAttention},
        nn::{
            GroupedQueryAttention, GroupedQueryAttentionConfig, KvCache, MhaCache, MhaInput, SparseMultiHeadAttention,
            SparseMultiHeadAttentionConfig, SparseTransformerEncoder, SparseTransformerEncoderConfig, sparse_attention,
        },
        scorer::{Scorer, ScorerConfig},
    };
}
