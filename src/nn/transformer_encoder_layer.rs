use burn::{
    module::Module,
    nn::{
        Dropout, DropoutConfig, LayerNorm, LayerNormConfig,
        transformer::{PositionWiseFeedForward, PositionWiseFeedForwardConfig, TransformerEncoderLayer},
    },
    tensor::{Bool, Tensor, backend::Backend},
};

use super::{
    MhaCache, MhaInput, SparseMultiHeadAttention, SparseTransformerEncoderConfig,
    attend::{check_input, or_panic},
    mha_cache::UndoStep,
    mha_input::InputMasks,
};
use crate::{
    config::ConfigError,
    masker::Masker,
    method::{MaskerChain, RecordError},
    problem::{AttentionError, Phase},
};

/// A layer of [SparseTransformerEncoder](super::SparseTransformerEncoder), with attention over the keys that a method
/// keeps. It replaces burn's `TransformerEncoderLayer` and has the same parameters with the same names.
#[derive(Module, Debug)]
pub struct SparseTransformerEncoderLayer<B: Backend, M = MaskerChain<B>> {
    /// Self-attention.
    pub mha: SparseMultiHeadAttention<B, M>,
    /// The feed-forward network.
    pub pwff: PositionWiseFeedForward<B>,
    /// The normalisation between attention and the feed-forward network.
    pub norm_1: LayerNorm<B>,
    /// The normalisation before attention if `norm_first` is set, and after the feed-forward network otherwise.
    pub norm_2: LayerNorm<B>,
    /// Dropout of the outputs of attention and of the feed-forward network.
    pub dropout: Dropout,
    /// Whether to normalise before attention and the network, instead of after.
    pub norm_first: bool,
}

/// The same layer, dense until its attention is given a method.
impl<B: Backend> From<TransformerEncoderLayer<B>> for SparseTransformerEncoderLayer<B> {
    fn from(dense: TransformerEncoderLayer<B>) -> Self {
        Self {
            mha: dense.mha.into(),
            pwff: dense.pwff,
            norm_1: dense.norm_1,
            norm_2: dense.norm_2,
            dropout: dense.dropout,
            norm_first: dense.norm_first,
        }
    }
}

impl<B: Backend> SparseTransformerEncoderLayer<B> {
    /// The layer with index `layer` in a model of this configuration.
    ///
    /// # Errors
    /// If a size is 0, `n_heads` does not divide `d_model`, `n_heads_kv` does not divide `n_heads`, the dropout rate is
    /// not in [0, 1), or the method cannot be built.
    pub fn try_new(
        config: &SparseTransformerEncoderConfig,
        layer: usize,
        device: &B::Device,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let mha = config.attention(layer).try_init(device)?;
        let norm = || LayerNormConfig::new(config.d_model).with_epsilon(config.layer_norm_eps).init(device);
        let pwff = PositionWiseFeedForwardConfig::new(config.d_model, config.d_ff)
            .with_initializer(config.initializer.clone())
            .with_dropout(config.dropout)
            .with_activation(config.activation.clone());
        Ok(Self {
            mha,
            norm_1: norm(),
            norm_2: norm(),
            dropout: DropoutConfig::new(config.dropout).init(),
            pwff: pwff.init(device),
            norm_first: config.norm_first,
        })
    }
}

impl<B: Backend, M> SparseTransformerEncoderLayer<B, M> {
    /// The same layer with another method.
    pub fn with_maskers<N>(self, maskers: N) -> SparseTransformerEncoderLayer<B, N> {
        SparseTransformerEncoderLayer {
            mha: self.mha.with_maskers(maskers),
            pwff: self.pwff,
            norm_1: self.norm_1,
            norm_2: self.norm_2,
            dropout: self.dropout,
            norm_first: self.norm_first,
        }
    }
}

impl<B: Backend> SparseTransformerEncoderLayer<B> {
    /// The layer with the contents of a record. `load_record` does the same, but panics instead of returning an error.
    ///
    /// # Errors
    /// If the record belongs to a layer with another chain. The error names both chains.
    pub fn try_load_record(self, record: <Self as Module<B>>::Record) -> Result<Self, RecordError> {
        self.check_record(&record)?;
        Ok(self.load_record(record))
    }

    pub(super) fn check_record(&self, record: &<Self as Module<B>>::Record) -> Result<(), RecordError> {
        self.mha.check_record(&record.mha)
    }
}

impl<B: Backend, M: Masker<B>> SparseTransformerEncoderLayer<B, M> {
    /// The layer over a sequence.
    ///
    /// # Shapes
    /// - input: `[batch, length, d_model]`
    /// - mask_pad: `[batch, length]`, mask_attn: `[batch, length, length]`, `true` = hidden.
    /// - output: `[batch, length, d_model]`
    ///
    /// # Panics
    /// If the shape of a tensor does not fit the other tensors and the layer, or the method cannot work with the
    /// tensors.
    #[track_caller]
    pub fn forward(
        &self,
        input: Tensor<B, 3>,
        mask_pad: Option<Tensor<B, 2, Bool>>,
        mask_attn: Option<Tensor<B, 3, Bool>>,
    ) -> Tensor<B, 3> {
        or_panic(
            self.try_forward(
                input,
                InputMasks { pad: mask_pad, attention: mask_attn, causal: false, one_sequence: true },
            ),
        )
    }

    pub(super) fn try_forward(
        &self,
        input: Tensor<B, 3>,
        masks: InputMasks<B>,
    ) -> Result<Tensor<B, 3>, AttentionError> {
        self.around(input, |x| {
            let input = MhaInput { masks, ..MhaInput::self_attn(x) };
            Ok(self.mha.try_forward(input)?.context)
        })
    }

    /// The layer over the next positions. For methods with phases, the first call with an empty cache is a prefill. A
    /// later call is decoding if it has one position, and a prefill if it has more.
    ///
    /// # Shapes
    /// As [SparseMultiHeadAttention::forward_step].
    ///
    /// # Errors
    /// As [SparseMultiHeadAttention::forward_step]. An error does not change the cache.
    pub fn forward_step(
        &self,
        input: Tensor<B, 3>,
        mask_pad: Option<Tensor<B, 2, Bool>>,
        mask_attn: Option<Tensor<B, 3, Bool>>,
        cache: &mut MhaCache<B>,
    ) -> Result<Tensor<B, 3>, AttentionError> {
        let masks = InputMasks { pad: mask_pad, attention: mask_attn, causal: true, one_sequence: true };
        Ok(self.forward_step_or_undo(input, masks, None, cache)?.0)
    }

    /// The same. The result also has what is needed to undo the step, in case a later layer fails.
    pub(super) fn forward_step_or_undo(
        &self,
        input: Tensor<B, 3>,
        masks: InputMasks<B>,
        phase: Option<Phase>,
        cache: &mut MhaCache<B>,
    ) -> Result<(Tensor<B, 3>, UndoStep<B>), AttentionError> {
        let mut undo = None;
        let output = self.around(input, |x| {
            let input = MhaInput { masks, phase, ..MhaInput::self_attn(x) };
            let (output, way_back) = self.mha.forward_step_or_undo(input, cache)?;
            undo = Some(way_back);
            Ok(output.context)
        })?;
        match undo {
            Some(undo) => Ok((output, undo)),
            None => unreachable!("attention is called once in a layer"),
        }
    }

    /// The layer around its attention. These operations act on each position alone.
    fn around(
        &self,
        x: Tensor<B, 3>,
        attention: impl FnOnce(Tensor<B, 3>) -> Result<Tensor<B, 3>, AttentionError>,
    ) -> Result<Tensor<B, 3>, AttentionError> {
        check_input("input", &x, &self.mha.query)?;
        let attended = match self.norm_first {
            true => attention(self.norm_2.forward(x.clone()))?,
            false => attention(x.clone())?,
        };
        let x = x + self.dropout.forward(attended);
        // As in burn, `norm_1` stands between attention and the network in both orders.
        let (x, normed) = match self.norm_first {
            true => (x.clone(), self.norm_1.forward(x)),
            false => {
                let x = self.norm_1.forward(x);
                (x.clone(), x)
            }
        };
        let x = x + self.dropout.forward(self.pwff.forward(normed));
        Ok(if self.norm_first { x } else { self.norm_2.forward(x) })
    }
}
