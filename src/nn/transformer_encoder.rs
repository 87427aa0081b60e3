use burn::{
    config::Config,
    module::{Content, DisplaySettings, Initializer, Module, ModuleDisplay},
    nn::{activation::ActivationConfig, transformer::TransformerEncoder},
    tensor::{Bool, Tensor, backend::Backend},
};

use super::{
    MhaCache, SparseMultiHeadAttentionConfig, SparseTransformerEncoderLayer,
    attend::or_panic,
    growable_tensor::GrowableTensor,
    mha_config::{init_or_panic, validate_matrix, validate_size},
    mha_input::InputMasks,
};
use crate::{
    config::ConfigError,
    masker::Masker,
    method::{MaskerChain, MaskerChainConfig, RecordError},
    problem::{AttentionError, Phase},
};

/// Configuration to create a [SparseTransformerEncoder] using the [init function](Self::init).
///
/// It has the fields of burn's `TransformerEncoderConfig`, with the same defaults, and the fields of the method.
#[derive(Config, Debug)]
pub struct SparseTransformerEncoderConfig {
    /// The size of the model, a multiple of the number of heads.
    pub d_model: usize,
    /// The size of the feed-forward network.
    pub d_ff: usize,
    /// The number of heads.
    pub n_heads: usize,
    /// The number of layers.
    pub n_layers: usize,
    /// The dropout rate, in [0, 1). Default: 0.1
    #[config(default = 0.1)]
    pub dropout: f64,
    /// Normalise before attention and the feed-forward network, instead of after. Default: false
    #[config(default = false)]
    pub norm_first: bool,
    /// Use the *quiet softmax*, with which a head can attend to nothing. Default: false
    #[config(default = false)]
    pub quiet_softmax: bool,
    /// How the parameters are initialised.
    #[config(default = "Initializer::KaimingUniform { gain: 1.0 / 3f64.sqrt(), fan_out_only: false }")]
    pub initializer: Initializer,
    /// The activation of the feed-forward network. Default: Gelu
    #[config(default = "ActivationConfig::Gelu")]
    pub activation: ActivationConfig,
    /// The epsilon of the normalisation. Default: 1e-5
    #[config(default = 1e-5)]
    pub layer_norm_eps: f64,
    /// The method of every layer. Default: none, dense attention.
    #[config(default = "MaskerChainConfig::default()")]
    pub maskers: MaskerChainConfig,
    /// The number of key-value heads (GQA). Default: the number of heads, as in burn.
    pub n_heads_kv: Option<usize>,
    /// [Burn's conventions](SparseMultiHeadAttentionConfig::burn_conventions) for dropout and hidden keys. Default:
    /// false
    #[config(default = false)]
    pub burn_conventions: bool,
    /// The seed of methods that draw. Default: 0
    #[config(default = 0)]
    pub seed: u64,
}

impl SparseTransformerEncoderConfig {
    /// The encoder.
    ///
    /// # Panics
    /// If [try_init](Self::try_init) returns an error.
    #[track_caller]
    pub fn init<B: Backend>(&self, device: &B::Device) -> SparseTransformerEncoder<B> {
        init_or_panic(self.try_init(device))
    }

    /// The encoder.
    ///
    /// # Errors
    /// If a size or the number of layers is 0, `n_heads` does not divide `d_model`, `n_heads_kv` does not divide
    /// `n_heads`, the dropout rate is not in [0, 1), or the method cannot be built.
    pub fn try_init<B: Backend>(&self, device: &B::Device) -> Result<SparseTransformerEncoder<B>, ConfigError> {
        self.validate()?;
        let layers = (0..self.n_layers).map(|layer| SparseTransformerEncoderLayer::try_new(self, layer, device));
        Ok(SparseTransformerEncoder {
            layers: layers.collect::<Result<_, _>>()?,
            d_model: self.d_model,
            d_ff: self.d_ff,
            n_heads: self.n_heads,
            n_layers: self.n_layers,
            dropout: self.dropout,
            norm_first: self.norm_first,
            quiet_softmax: self.quiet_softmax,
        })
    }

    /// Checks the fields that the attention of a layer does not check.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let sizes =
            [("d_model", self.d_model), ("d_ff", self.d_ff), ("n_heads", self.n_heads), ("n_layers", self.n_layers)];
        for (field, size) in sizes {
            validate_size(field, size)?;
        }
        validate_matrix("d_ff", self.d_model, self.d_ff)?;
        match self.layer_norm_eps > 0.0 && self.layer_norm_eps.is_finite() {
            true => Ok(()),
            false => Err(ConfigError::value("layer_norm_eps", self.layer_norm_eps, "a finite number above 0")),
        }
    }

    /// The attention of one layer.
    pub(super) fn attention(&self, layer: usize) -> SparseMultiHeadAttentionConfig {
        SparseMultiHeadAttentionConfig::new(self.d_model, self.n_heads)
            .with_initializer(self.initializer.clone())
            .with_dropout(self.dropout)
            .with_quiet_softmax(self.quiet_softmax)
            .with_maskers(self.maskers.clone())
            .with_n_heads_kv(self.n_heads_kv)
            .with_burn_conventions(self.burn_conventions)
            .with_seed(self.seed)
            .with_layer(layer)
    }
}

/// A transformer encoder with sparse attention. It replaces burn's `TransformerEncoder` and has the same parameters
/// with the same names, so named records and safetensors of either encoder load into the other.
///
/// # Params
/// - layers: transformer encoder layers with `d_model` input and output features.
///
/// Should be created with [SparseTransformerEncoderConfig], or from burn's encoder.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct SparseTransformerEncoder<B: Backend, M = MaskerChain<B>> {
    /// The layers.
    pub layers: Vec<SparseTransformerEncoderLayer<B, M>>,
    /// The size of the model.
    pub d_model: usize,
    /// The size of the feed-forward network.
    pub d_ff: usize,
    /// The number of heads.
    pub n_heads: usize,
    /// The number of layers.
    pub n_layers: usize,
    /// The dropout rate.
    pub dropout: f64,
    /// Whether to normalise first.
    pub norm_first: bool,
    /// Whether the softmax is quiet.
    pub quiet_softmax: bool,
}

impl<B: Backend, M: Module<B> + ModuleDisplay> ModuleDisplay for SparseTransformerEncoder<B, M> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let content = content
            .add("d_model", &self.d_model)
            .add("d_ff", &self.d_ff)
            .add("n_heads", &self.n_heads)
            .add("n_layers", &self.n_layers)
            .add("dropout", &self.dropout)
            .add("norm_first", &self.norm_first)
            .add("quiet_softmax", &self.quiet_softmax);
        match self.layers.first() {
            Some(layer) => content.add("maskers", &layer.mha.maskers),
            None => content,
        }
        .optional()
    }
}

/// The same encoder, dense until it is given a [method](SparseTransformerEncoder::with_maskers).
impl<B: Backend> From<TransformerEncoder<B>> for SparseTransformerEncoder<B> {
    fn from(dense: TransformerEncoder<B>) -> Self {
        let layers = dense.layers.into_iter().enumerate().map(|(index, layer)| {
            let mut layer = SparseTransformerEncoderLayer::from(layer);
            layer.mha.layer = index;
            layer
        });
        Self {
            layers: layers.collect(),
            d_model: dense.d_model,
            d_ff: dense.d_ff,
            n_heads: dense.n_heads,
            n_layers: dense.n_layers,
            dropout: dense.dropout,
            norm_first: dense.norm_first,
            quiet_softmax: dense.quiet_softmax,
        }
    }
}

/// Input of [SparseTransformerEncoder], with the constructors of burn's `TransformerEncoderInput`.
#[derive(Debug, Clone)]
pub struct TransformerEncoderInput<B: Backend> {
    tensor: Tensor<B, 3>,
    masks: InputMasks<B>,
    /// The phase of the call, if it was set.
    phase: Option<Phase>,
}

impl<B: Backend> TransformerEncoderInput<B> {
    /// A sequence.
    ///
    /// # Shapes
    /// - tensor: `[batch, length, d_model]`
    pub fn new(tensor: Tensor<B, 3>) -> Self {
        Self { tensor, masks: InputMasks { one_sequence: true, ..InputMasks::none() }, phase: None }
    }

    /// Hides positions that are padding.
    ///
    /// # Shapes
    /// - mask_pad: `[batch, length]`, `true` = hidden.
    pub fn mask_pad(mut self, mask_pad: Tensor<B, 2, Bool>) -> Self {
        self.masks.pad = Some(mask_pad);
        self
    }

    /// Hides positions from single positions. For a causal mask, use [causal](Self::causal), which needs no tensor.
    ///
    /// # Shapes
    /// - mask_attn: `[batch, length, length]`, `true` = hidden.
    pub fn mask_attn(mut self, mask_attn: Tensor<B, 3, Bool>) -> Self {
        self.masks.attention = Some(mask_attn);
        self
    }

    /// Hides from each position the positions after it.
    pub fn causal(mut self) -> Self {
        self.masks.causal = true;
        self
    }

    /// Sets the phase of a call with a cache, for methods with phases. By default the first call with an empty cache is
    /// a prefill. A later call is decoding if it has one new position, and a prefill if it has more. A call without a
    /// cache is always a prefill.
    pub fn phase(mut self, phase: Phase) -> Self {
        self.phase = Some(phase);
        self
    }
}

impl<B: Backend, M> SparseTransformerEncoder<B, M> {
    /// The same encoder with another method in every layer.
    pub fn with_maskers<N: Clone>(self, maskers: N) -> SparseTransformerEncoder<B, N> {
        let layers = self.layers.into_iter().map(|layer| layer.with_maskers(maskers.clone()));
        SparseTransformerEncoder {
            layers: layers.collect(),
            d_model: self.d_model,
            d_ff: self.d_ff,
            n_heads: self.n_heads,
            n_layers: self.n_layers,
            dropout: self.dropout,
            norm_first: self.norm_first,
            quiet_softmax: self.quiet_softmax,
        }
    }

    /// An empty cache.
    pub fn new_autoregressive_cache(&self) -> SparseTransformerEncoderAutoregressiveCache<B> {
        let layers = self.layers.iter().map(|_| MhaCache::autoregressive()).collect();
        SparseTransformerEncoderAutoregressiveCache { layers, output: GrowableTensor::along(1) }
    }
}

impl<B: Backend> SparseTransformerEncoder<B> {
    /// The encoder with the contents of a record. `load_record` does the same, but panics instead of returning an
    /// error.
    ///
    /// # Errors
    /// If the record belongs to an encoder with another number of layers, or with another chain in a layer.
    pub fn try_load_record(self, record: <Self as Module<B>>::Record) -> Result<Self, RecordError> {
        let (here, there) = (self.layers.len(), record.layers.len());
        if here != there {
            return Err(RecordError::Layers { record: there, model: here });
        }
        self.layers.iter().zip(&record.layers).try_for_each(|(layer, record)| layer.check_record(record))?;
        Ok(self.load_record(record))
    }
}

impl<B: Backend, M: Masker<B>> SparseTransformerEncoder<B, M> {
    /// The encoder over a sequence.
    ///
    /// # Shapes
    /// - tensor: `[batch, length, d_model]`
    /// - output: `[batch, length, d_model]`
    ///
    /// # Panics
    /// If [try_forward](Self::try_forward) returns an error.
    #[track_caller]
    pub fn forward(&self, input: TransformerEncoderInput<B>) -> Tensor<B, 3> {
        or_panic(self.try_forward(input))
    }

    /// The encoder over a sequence.
    ///
    /// # Shapes
    /// As [forward](Self::forward).
    ///
    /// # Errors
    /// If the shape of a tensor does not fit the other tensors and the encoder, or the method cannot work with the
    /// tensors.
    pub fn try_forward(&self, input: TransformerEncoderInput<B>) -> Result<Tensor<B, 3>, AttentionError> {
        let TransformerEncoderInput { tensor, masks, phase: _ } = input;
        self.layers.iter().try_fold(tensor, |x, layer| layer.try_forward(x, masks.clone()))
    }

    /// The causal encoder with a cache, with the interface of burn: the input and the output are the whole sequence so
    /// far.
    ///
    /// Only new positions are computed. The output of earlier positions comes from the cache.
    /// [forward_step](Self::forward_step) takes the new positions only.
    ///
    /// # Shapes
    /// - tensor: `[batch, length, d_model]`. The positions of earlier calls come first.
    /// - output: `[batch, length, d_model]`
    ///
    /// # Panics
    /// If there is no new position, or [forward_step](Self::forward_step) returns an error.
    #[track_caller]
    pub fn forward_autoregressive_inference(
        &self,
        input: TransformerEncoderInput<B>,
        cache: &mut SparseTransformerEncoderAutoregressiveCache<B>,
    ) -> Tensor<B, 3> {
        let [batch, length, _] = input.tensor.dims();
        let done = cache.output.len();
        if length <= done {
            let expected = format!("[{batch}, more than {done}, d_model]: the sequence so far, with what is new");
            or_panic(Err(AttentionError::Shape { tensor: "tensor", found: input.tensor.dims().to_vec(), expected }))
        }
        let tensor = input.tensor.slice_dim(1, done..length);
        let masks = input.masks.of_queries_from(done);
        let new = or_panic(self.forward_step(TransformerEncoderInput { tensor, masks, phase: input.phase }, cache));
        cache.output.append(new.clone());
        cache.output.all().unwrap_or(new)
    }

    /// The causal encoder over the next positions.
    ///
    /// # Shapes
    /// - tensor: `[batch, new, d_model]`
    /// - mask_pad: `[batch, cached + new]`, mask_attn: `[batch, new, cached + new]`, `true` = hidden.
    /// - output: `[batch, new, d_model]`
    ///
    /// # Errors
    /// If the shape of a tensor does not fit the other tensors and the encoder, or does not fit the cache, if its float
    /// type is not that of the weights, if the padding contradicts that of an earlier step, or if the method cannot
    /// work with the tensors. An error does not change the cache of any layer.
    pub fn forward_step(
        &self,
        input: TransformerEncoderInput<B>,
        cache: &mut SparseTransformerEncoderAutoregressiveCache<B>,
    ) -> Result<Tensor<B, 3>, AttentionError> {
        let TransformerEncoderInput { tensor, masks, phase } = input;
        let masks = InputMasks { causal: true, ..masks };
        let mut done = Vec::with_capacity(self.layers.len());
        let result = self.layers.iter().zip(&mut cache.layers).try_fold(tensor, |x, (layer, cache)| {
            let (x, undo) = layer.forward_step_or_undo(x, masks.clone(), phase, cache)?;
            done.push(undo);
            Ok(x)
        });
        if result.is_err() {
            done.into_iter().zip(&mut cache.layers).for_each(|(undo, cache)| cache.undo(undo));
        }
        result
    }
}

/// What a [SparseTransformerEncoder] remembers of the positions it has seen. A clone is a fork, as that of a
/// [KvCache](super::KvCache#forks).
#[derive(Debug, Clone)]
pub struct SparseTransformerEncoderAutoregressiveCache<B: Backend> {
    layers: Vec<MhaCache<B>>,
    /// The output of all positions so far, `[batch, length, d_model]`. Only `forward_autoregressive_inference` fills
    /// it.
    output: GrowableTensor<B, 3>,
}

impl<B: Backend> SparseTransformerEncoderAutoregressiveCache<B> {
    /// The caches of the layers.
    pub fn layers(&self) -> &[MhaCache<B>] {
        &self.layers
    }

    /// Makes sequence `i` of the batch what sequence `indices[i]` was, as [KvCache::reorder](super::KvCache::reorder)
    /// does in each layer.
    ///
    /// # Errors
    /// As [KvCache::reorder](super::KvCache::reorder). The cache is then as before.
    pub fn reorder(&mut self, indices: &[usize]) -> Result<(), AttentionError> {
        self.layers.iter().try_for_each(|layer| layer.check_reorder(indices))?;
        self.output.check_reorder("output", indices.len())?;
        self.layers.iter_mut().try_for_each(|layer| layer.reorder(indices))?;
        self.output.reorder(indices);
        Ok(())
    }

    /// Empties the cache for another sequence.
    pub fn reset(&mut self) {
        self.layers.iter_mut().for_each(MhaCache::reset);
        self.output = GrowableTensor::along(1);
    }
}
