use burn::{
    config::Config,
    module::Initializer,
    nn::{DropoutConfig, LinearConfig},
    tensor::backend::Backend,
};

use super::{OptionalRecord, SparseMultiHeadAttention, forward_counter::ForwardCounter};
use crate::{config::ConfigError, method::MaskerChainConfig};

/// Configuration to create a [SparseMultiHeadAttention] layer using the [init function](Self::init).
///
/// It has the fields of burn's `MultiHeadAttentionConfig`, with the same defaults, and the fields of the method.
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Distribution, Tensor};
/// use burn_flex::Flex;
/// use sparse_attention_hub::{
///     method::MaskerChainConfig,
///     nn::{MhaInput, SparseMultiHeadAttentionConfig},
/// };
///
/// let device = Default::default();
/// let method = r#"[{"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 16}]"#;
/// let attention = SparseMultiHeadAttentionConfig::new(64, 8)
///     .with_maskers(MaskerChainConfig::from_json(method)?)
///     .init::<Flex>(&device);
/// let tokens = Tensor::random([2, 100, 64], Distribution::Default, &device);
/// let output = attention.forward(MhaInput::self_attn(tokens).causal());
/// assert_eq!(output.context.dims(), [2, 100, 64]);
/// # }
/// # Ok::<(), sparse_attention_hub::masker::ConfigError>(())
/// ```
#[derive(Config, Debug)]
pub struct SparseMultiHeadAttentionConfig {
    /// The size of each linear layer, a multiple of the number of heads.
    pub d_model: usize,
    /// The number of heads.
    pub n_heads: usize,
    /// The dropout rate, in [0, 1). Default: 0.1
    ///
    /// It acts on the attention weights, in training. If the method keeps every key, dropout needs memory for all
    /// weights, `[batch, heads, queries, keys]`. For other methods it needs memory for the kept keys only.
    #[config(default = 0.1)]
    pub dropout: f64,
    /// The score of a hidden key under [burn's conventions](Self::burn_conventions). Default: -1.0e4
    #[config(default = -1.0e4)]
    pub min_float: f64,
    /// Use the *quiet softmax*, `exp(x_i) / (1 + sum exp(x_j))`, with which a head can attend to nothing. Default:
    /// false
    #[config(default = false)]
    pub quiet_softmax: bool,
    /// How the parameters are initialised.
    #[config(default = "Initializer::KaimingUniform { gain: 1.0 / 3f64.sqrt(), fan_out_only: false }")]
    pub initializer: Initializer,
    /// The method. Default: none, dense attention.
    #[config(default = "MaskerChainConfig::default()")]
    pub maskers: MaskerChainConfig,
    /// The number of key-value heads (GQA), a divisor of the number of heads. Default: the number of heads, as in burn.
    pub n_heads_kv: Option<usize>,
    /// Return the attention weights in [MhaOutput::weights](super::MhaOutput::weights). This costs memory and time for
    /// a tensor of shape `[batch, heads, queries, keys]`. Default: false
    #[config(default = false)]
    pub fill_weights: bool,
    /// Follow burn 0.21 in two conventions. Dropout acts on the scores before the softmax. A hidden key has the score
    /// `min_float`, so a query that sees no key attends to all keys equally. By default, dropout acts on the weights, a
    /// hidden key has no weight, and the heads give 0 for a query that sees no key. Burn's conventions cost time and
    /// memory for all pairs of queries and keys, even if the method keeps few keys. Default: false
    #[config(default = false)]
    pub burn_conventions: bool,
    /// The seed of methods that draw, and of dropout over lists of kept keys. Default: 0
    #[config(default = 0)]
    pub seed: u64,
    /// The index of the layer in its model. Methods with weights use the weights of this layer. Default: 0
    #[config(default = 0)]
    pub layer: usize,
}

impl SparseMultiHeadAttentionConfig {
    /// The layer.
    ///
    /// # Panics
    /// If [try_init](Self::try_init) returns an error.
    #[track_caller]
    pub fn init<B: Backend>(&self, device: &B::Device) -> SparseMultiHeadAttention<B> {
        init_or_panic(self.try_init(device))
    }

    /// The layer.
    ///
    /// # Errors
    /// If a size is 0, `n_heads` does not divide `d_model`, `n_heads_kv` does not divide `n_heads`, the dropout rate is
    /// not in [0, 1), or the method cannot be built.
    pub fn try_init<B: Backend>(&self, device: &B::Device) -> Result<SparseMultiHeadAttention<B>, ConfigError> {
        self.try_init_with(self.maskers.init_for_layer(self.layer, device)?, device)
    }

    /// The layer with the given method instead of the configured one.
    ///
    /// # Errors
    /// If a size is 0, `n_heads` does not divide `d_model`, `n_heads_kv` does not divide `n_heads`, or the dropout rate
    /// is not in [0, 1).
    pub fn try_init_with<B: Backend, M>(
        &self,
        maskers: M,
        device: &B::Device,
    ) -> Result<SparseMultiHeadAttention<B, M>, ConfigError> {
        let n_heads_kv = self.n_heads_kv.unwrap_or(self.n_heads);
        validate_size("d_model", self.d_model)?;
        validate_size("n_heads", self.n_heads)?;
        if !self.d_model.is_multiple_of(self.n_heads) {
            return Err(ConfigError::value("d_model", self.d_model, "a multiple of n_heads"));
        }
        validate_matrix("d_model", self.d_model, self.d_model)?;
        validate_heads_kv(self.n_heads, n_heads_kv)?;
        validate_dropout(self.dropout)?;
        let d_k = self.d_model / self.n_heads;
        let linear = |out| LinearConfig::new(self.d_model, out).with_initializer(self.initializer.clone()).init(device);
        Ok(SparseMultiHeadAttention {
            query: linear(self.d_model),
            key: linear(n_heads_kv * d_k),
            value: linear(n_heads_kv * d_k),
            output: linear(self.d_model),
            dropout: DropoutConfig::new(self.dropout).init(),
            d_model: self.d_model,
            n_heads: self.n_heads,
            n_heads_kv,
            d_k,
            min_float: self.min_float,
            quiet_softmax: self.quiet_softmax,
            fill_weights: self.fill_weights,
            burn_conventions: self.burn_conventions,
            seed: self.seed,
            layer: self.layer,
            maskers: OptionalRecord(maskers),
            forward_counter: ForwardCounter::default(),
        })
    }
}

pub(super) fn validate_size(field: &'static str, size: usize) -> Result<(), ConfigError> {
    match size {
        0 => Err(ConfigError::value(field, size, "at least 1")),
        _ => Ok(()),
    }
}

/// Checks that the size of a linear layer's weights, in bytes, does not overflow.
pub(super) fn validate_matrix(field: &'static str, from: usize, to: usize) -> Result<(), ConfigError> {
    let bytes = from.checked_mul(to).and_then(|numbers| numbers.checked_mul(size_of::<f64>()));
    match bytes.filter(|&bytes| isize::try_from(bytes).is_ok()) {
        Some(_) => Ok(()),
        None => Err(ConfigError::value(field, to, "of a size whose weights the memory can hold")),
    }
}

pub(super) fn validate_heads_kv(n_heads: usize, n_heads_kv: usize) -> Result<(), ConfigError> {
    match n_heads_kv > 0 && n_heads.is_multiple_of(n_heads_kv) {
        true => Ok(()),
        false => Err(ConfigError::value("n_heads_kv", n_heads_kv, "at least 1 and a divisor of n_heads")),
    }
}

pub(super) fn validate_dropout(dropout: f64) -> Result<(), ConfigError> {
    match (0.0..1.0).contains(&dropout) {
        true => Ok(()),
        false => Err(ConfigError::value("dropout", dropout, "in [0, 1)")),
    }
}

/// Burn's `init` does not return a `Result`, so an error must be a panic.
#[track_caller]
pub(super) fn init_or_panic<T>(result: Result<T, ConfigError>) -> T {
    match result {
        Ok(layer) => layer,
        Err(error) => panic!("{error}"),
    }
}
