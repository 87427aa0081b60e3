//! Configurations of a top-k together with its scorer, under the names that the Python project uses.

use std::path::PathBuf;

use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use crate::{
    config::{ConfigError, Size},
    masker::{MaskerConfig, TopK},
    scorer::{
        Activation, ChannelSelection, ChannelsConfig, Context, Fit, HashConfig, HeldScorer, PqConfig, ScorerConfig,
        ShareGroup,
    },
};

/// Configuration of [TopK] over [hash scores](crate::scorer::Hash): HashAttention. The fields are `heavy_size`,
/// `share_group` and the fields of [HashConfig].
///
/// ```json
/// {"type": "hash_attention_top_k", "heavy_size": 0.05, "hat_bits": 32, "hat_mlp_layers": 3,
///  "hat_mlp_hidden_size": 128, "hat_mlp_activation": "silu", "hat_weights": "hash_weights.safetensors"}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashAttentionTopKConfig {
    /// How many keys to add for each query.
    pub heavy_size: Size,
    /// Length of a signature, in bits.
    pub hat_bits: usize,
    /// Number of matrices of each perceptron.
    pub hat_mlp_layers: usize,
    /// Width between the matrices.
    pub hat_mlp_hidden_size: usize,
    /// The activation between the matrices.
    pub hat_mlp_activation: Activation,
    /// The file with the weights.
    #[serde(default)]
    pub hat_weights: Option<PathBuf>,
    /// Whether the query heads of a GQA group choose their keys together. Default: each head chooses for itself.
    #[serde(default)]
    pub share_group: ShareGroup,
}

/// Configuration of [TopK] over [outlier channels](crate::scorer::Channels): Double Sparsity. The fields are
/// `heavy_size`, `share_group` and the fields of [ChannelsConfig].
///
/// ```json
/// {"type": "double_sparsity_top_k", "heavy_size": 0.05, "sorted_channel_file": "channels.json", "group_factor": 4,
///  "label_bits": 4, "channel_selection": "qk_proj"}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoubleSparsityTopKConfig {
    /// How many keys to add for each query.
    pub heavy_size: Size,
    /// The JSON file with the channels of each layer and head.
    pub sorted_channel_file: PathBuf,
    /// One in `group_factor` channels is used.
    pub group_factor: usize,
    /// The number of bits to which the chosen channels are quantised, in 1..=16. 16 switches quantisation off.
    pub label_bits: u32,
    /// The criterion by which the channels were sorted.
    pub channel_selection: ChannelSelection,
    /// Whether the query heads of a GQA group choose their keys together. Default: each head chooses for itself.
    #[serde(default)]
    pub share_group: ShareGroup,
}

/// Configuration of [TopK] over [quantised products](crate::scorer::Pq): PQCache. The fields are `heavy_size`,
/// `share_group` and the fields of [PqConfig].
///
/// ```json
/// {"type": "pq_cache", "heavy_size": 0.1, "pq_sub_dim": 32, "pq_bits": 6}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PqCacheConfig {
    /// How many keys to add for each query.
    pub heavy_size: Size,
    /// Number of channels in each part of a key.
    pub pq_sub_dim: usize,
    /// Number of bits of each code.
    pub pq_bits: u32,
    /// The keys to which the centroids are fitted. Default: the first 256 keys of the sequence. The fit is repeated
    /// each time the number of keys has doubled.
    #[serde(default)]
    pub fit: Fit,
    /// Whether the query heads of a GQA group choose their keys together. Default: each head chooses for itself.
    #[serde(default)]
    pub share_group: ShareGroup,
}

impl HashAttentionTopKConfig {
    /// The configuration of the scorer alone.
    pub fn scorer(&self) -> HashConfig {
        HashConfig {
            hat_bits: self.hat_bits,
            hat_mlp_layers: self.hat_mlp_layers,
            hat_mlp_hidden_size: self.hat_mlp_hidden_size,
            hat_mlp_activation: self.hat_mlp_activation,
            hat_weights: self.hat_weights.clone(),
        }
    }
}

impl DoubleSparsityTopKConfig {
    /// The configuration of the scorer alone.
    pub fn scorer(&self) -> ChannelsConfig {
        ChannelsConfig {
            sorted_channel_file: self.sorted_channel_file.clone(),
            group_factor: self.group_factor,
            label_bits: self.label_bits,
            channel_selection: self.channel_selection,
        }
    }
}

impl PqCacheConfig {
    /// The configuration of the scorer alone.
    pub fn scorer(&self) -> PqConfig {
        PqConfig { pq_sub_dim: self.pq_sub_dim, pq_bits: self.pq_bits, fit: self.fit }
    }
}

macro_rules! top_k_over_scorer {
    ($($config:ty),*) => {
        $(impl $config {
            /// The selector, with a scorer that `E` holds.
            pub(super) fn over<B: Backend, E: HeldScorer<B>>(
                &self,
                context: &Context<B>,
            ) -> Result<TopK<B, E>, ConfigError> {
                let scorer = E::holding(ScorerConfig::<B>::init(&self.scorer(), context)?);
                Ok(TopK::new(self.heavy_size, scorer)?.with_share_group(self.share_group))
            }
        }

        impl<B: Backend> MaskerConfig<B> for $config {
            type Masker = TopK<B>;

            fn init(&self, context: &Context<B>) -> Result<TopK<B>, ConfigError> {
                self.over(context)
            }
        })*
    };
}

top_k_over_scorer!(HashAttentionTopKConfig, DoubleSparsityTopKConfig, PqCacheConfig);
