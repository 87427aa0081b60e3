//! A causal transformer that names values at the positions that ask for them.

use burn::{
    module::Module,
    nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig, loss::CrossEntropyLossConfig},
    tensor::{
        Int, Tensor,
        activation::gelu,
        backend::{AutodiffBackend, Backend},
    },
    train::{
        ClassificationOutput, InferenceStep, ItemLazy, TrainOutput, TrainStep,
        metric::{AccuracyInput, Adaptor, LossInput},
    },
};
use sparse_attention_hub::{
    attention::{AttentionError, AttentionReport},
    masker::ConfigError,
    method::MaskerChainConfig,
    nn::{MhaInput, SparseMultiHeadAttention, SparseMultiHeadAttentionConfig},
    prelude::*,
    train::{DensityInput, OutputErrorInput},
};

use crate::{
    data::{Batch, Task},
    first_weights::first_weights,
};

const WIDTH: usize = 64;
const HEADS: usize = 2;
const BLOCKS: usize = 2;

/// The model: token and position embeddings, then blocks of attention and a feed-forward network, each with a norm
/// before it.
#[derive(Module, Debug)]
pub struct RecallModel<B: Backend> {
    tokens: Embedding<B>,
    positions: Embedding<B>,
    blocks: Vec<Block<B>>,
    norm: LayerNorm<B>,
    head: Linear<B>,
}

#[derive(Module, Debug)]
struct Block<B: Backend> {
    attention_norm: LayerNorm<B>,
    attention: SparseMultiHeadAttention<B>,
    feed_forward_norm: LayerNorm<B>,
    inner: Linear<B>,
    outer: Linear<B>,
}

impl<B: Backend> RecallModel<B> {
    /// A model whose attention uses a method.
    pub fn new(task: &Task, method: &MaskerChainConfig, seed: u64, device: &B::Device) -> Result<Self, ConfigError> {
        let block = |layer: usize| {
            let attention = SparseMultiHeadAttentionConfig::new(WIDTH, HEADS)
                .with_dropout(0.0)
                .with_maskers(method.clone())
                .with_layer(layer)
                .with_seed(seed);
            Ok(Block {
                attention_norm: LayerNormConfig::new(WIDTH).init(device),
                attention: attention.try_init(device)?,
                feed_forward_norm: LayerNormConfig::new(WIDTH).init(device),
                inner: LinearConfig::new(WIDTH, 4 * WIDTH).init(device),
                outer: LinearConfig::new(4 * WIDTH, WIDTH).init(device),
            })
        };
        let embedding = |count| EmbeddingConfig::new(count, WIDTH).init(device);
        let model = Self {
            tokens: embedding(task.vocabulary),
            positions: embedding(task.length),
            blocks: (0..BLOCKS).map(block).collect::<Result<_, ConfigError>>()?,
            norm: LayerNormConfig::new(WIDTH).init(device),
            head: LinearConfig::new(WIDTH, task.vocabulary).init(device),
        };
        Ok(first_weights(model, seed))
    }

    /// The same weights with another method.
    pub fn with_method(mut self, method: &MaskerChainConfig, device: &B::Device) -> Result<Self, ConfigError> {
        let blocks = self.blocks.into_iter().map(|block| {
            let attention = block.attention.with_maskers(method.init(device)?);
            Ok(Block { attention, ..block })
        });
        self.blocks = blocks.collect::<Result<_, ConfigError>>()?;
        Ok(self)
    }

    /// The logits of all tokens at some positions, and the attention input of each block.
    ///
    /// # Shapes
    /// - tokens: `[batch, length]`
    /// - asked: `[places]`, counted over the whole batch
    /// - output: `[places, vocabulary]`
    fn forward(&self, tokens: Tensor<B, 2, Int>, asked: Tensor<B, 1, Int>) -> (Tensor<B, 2>, Vec<Tensor<B, 3>>) {
        let [batch, length] = tokens.dims();
        let positions = Tensor::<B, 1, Int>::arange(0..length as i64, &tokens.device()).unsqueeze::<2>();
        let mut x = self.tokens.forward(tokens) + self.positions.forward(positions);
        let mut attended = Vec::new();
        for block in &self.blocks {
            let input = block.attention_norm.forward(x.clone());
            x = x + block.attention.forward(MhaInput::self_attn(input.clone()).causal()).context;
            attended.push(input);
            let inner = block.inner.forward(block.feed_forward_norm.forward(x.clone()));
            x = x + block.outer.forward(gelu(inner));
        }
        let x = self.norm.forward(x).reshape([batch * length, WIDTH]).select(0, asked);
        (self.head.forward(x), attended)
    }

    pub fn classify(&self, batch: Batch<B>) -> ClassificationOutput<B> {
        self.classify_and_keep(batch).0
    }

    fn classify_and_keep(&self, batch: Batch<B>) -> (ClassificationOutput<B>, Vec<Tensor<B, 3>>) {
        let (output, attended) = self.forward(batch.tokens, batch.asked);
        let loss = CrossEntropyLossConfig::new().init(&output.device()).forward(output.clone(), batch.values.clone());
        (ClassificationOutput::new(loss, output, batch.values), attended)
    }
}

impl<B: Backend> Block<B> {
    /// A report of what the method keeps on an input, and of its difference from dense attention.
    fn report(&self, input: Tensor<B, 3>) -> Result<AttentionReport, AttentionError> {
        let [batch, length, _] = input.dims();
        let heads = |linear: &Linear<B>| {
            linear.forward(input.clone()).reshape([batch, length, HEADS, WIDTH / HEADS]).swap_dims(1, 2)
        };
        let attention = &self.attention;
        let inputs = AttentionInputs::new(heads(&attention.query), heads(&attention.key), heads(&attention.value))?;
        let inputs = inputs.causal()?.with_layer(attention.layer);
        let mask = attention.maskers.0.mask(&inputs, &mut LayerState::new(attention.seed))?;
        AttentionReport::of(&inputs, &mask)
    }
}

impl<B: AutodiffBackend> TrainStep for RecallModel<B> {
    type Input = Batch<B>;
    type Output = ClassificationOutput<B>;

    fn step(&self, batch: Batch<B>) -> TrainOutput<ClassificationOutput<B>> {
        let output = self.classify(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl<B: Backend> InferenceStep for RecallModel<B> {
    type Input = Batch<B>;
    type Output = Measured<ClassificationOutput<B>>;

    fn step(&self, batch: Batch<B>) -> Self::Output {
        let (output, attended) = self.classify_and_keep(batch);
        let reports = self.blocks.iter().zip(attended).map(|(block, input)| block.report(input));
        // The attention on this input has just succeeded in the forward pass, so it succeeds again.
        let reports = reports.collect::<Result<Vec<_>, _>>().unwrap_or_else(|error| panic!("{error}"));
        Measured { output, reports }
    }
}

/// The output of a step, with a report of the attention of each layer.
pub struct Measured<O> {
    output: O,
    reports: Vec<AttentionReport>,
}

impl<O: ItemLazy> ItemLazy for Measured<O> {
    type ItemSync = Measured<O::ItemSync>;

    fn sync(self) -> Self::ItemSync {
        Measured { output: self.output.sync(), reports: self.reports }
    }
}

impl<B: Backend> Adaptor<LossInput<B>> for Measured<ClassificationOutput<B>> {
    fn adapt(&self) -> LossInput<B> {
        self.output.adapt()
    }
}

impl<B: Backend> Adaptor<AccuracyInput<B>> for Measured<ClassificationOutput<B>> {
    fn adapt(&self) -> AccuracyInput<B> {
        self.output.adapt()
    }
}

impl<O> Adaptor<DensityInput> for Measured<O> {
    fn adapt(&self) -> DensityInput {
        DensityInput::of(&self.reports)
    }
}

impl<O> Adaptor<OutputErrorInput> for Measured<O> {
    fn adapt(&self) -> OutputErrorInput {
        OutputErrorInput::of(&self.reports)
    }
}
