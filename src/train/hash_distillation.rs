use burn::{
    config::Config,
    module::AutodiffModule,
    optim::{Adam, AdamConfig, GradientsParams, Optimizer, adaptor::OptimizerAdaptor},
    tensor::{
        Tensor, TensorData,
        activation::{log_sigmoid, sigmoid},
        backend::{AutodiffBackend, Backend},
    },
};
use serde::{Deserialize, Serialize};

use super::straight_through_sign;
use crate::{
    config::ConfigError,
    kernels::cpu::largest,
    mask::{Mask, Pattern},
    masker::by_candidates,
    problem::{AttentionError, AttentionInputs},
    scorer::{Activation, LayerPerceptrons, Oracle, repeat_heads},
    state::LayerState,
};

/// The function that replaces the sign while signatures are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relaxation {
    /// `tanh(x)`, which HashAttention is trained with.
    Tanh,
    /// The sign itself, with the gradient of `tanh` ([straight_through_sign]). The loss is then the loss of the
    /// signatures as they are used.
    StraightThrough,
}

/// Configuration of [HashDistillation].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct HashDistillationConfig {
    /// The number of keys with the highest exact scores that are the target of each query, at least 1. Default: 32.
    #[config(default = 32)]
    pub top_k: usize,
    /// The number of first keys that every query keeps. They are neither positives nor negatives. Default: 128.
    #[config(default = 128)]
    pub sink_size: usize,
    /// The number of keys up to a query's own position that it keeps. They are neither positives nor negatives.
    /// Default: 128.
    #[config(default = 128)]
    pub window_size: usize,
    /// The weight of a positive key in the loss, above 0. A negative key has the weight 1. Default: 20.
    #[config(default = 20.0)]
    pub positive_weight: f64,
    /// The increase of the positive weight for each key of the sequence, at least 0. With more keys, positives are a
    /// smaller share of them. Default: 0.
    #[config(default = 0.0)]
    pub positive_weight_per_key: f64,
    /// The learning rate of Adam, above 0. Default: 1e-3.
    #[config(default = 1e-3)]
    pub learning_rate: f64,
    /// The number of queries in a step of [HashDistillation::epoch], at least 1. A step needs memory for the scores of
    /// this number of queries. Default: 256.
    #[config(default = 256)]
    pub chunk_size: usize,
    /// The function that replaces the sign. Default: `tanh`.
    #[config(default = "Relaxation::Tanh")]
    pub relaxation: Relaxation,
}

impl HashDistillationConfig {
    /// Creates the training of one layer's perceptrons.
    ///
    /// # Errors
    /// If a value is not allowed.
    pub fn init<B: AutodiffBackend>(
        &self,
        layer: LayerPerceptrons<B>,
        activation: Activation,
    ) -> Result<HashDistillation<B>, ConfigError> {
        for (field, value) in [("top_k", self.top_k), ("chunk_size", self.chunk_size)] {
            if value == 0 {
                return Err(ConfigError::value(field, value, "at least 1"));
            }
        }
        for (field, value) in [("positive_weight", self.positive_weight), ("learning_rate", self.learning_rate)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(ConfigError::value(field, value, "a finite number above 0"));
            }
        }
        let per_key = self.positive_weight_per_key;
        if !(per_key.is_finite() && per_key >= 0.0) {
            return Err(ConfigError::value("positive_weight_per_key", per_key, "a finite number of at least 0"));
        }
        let optimizer = AdamConfig::new().with_epsilon(1e-8).init();
        Ok(HashDistillation { config: *self, activation, layer, optimizer })
    }
}

/// Trains the signatures of [HashAttention](https://arxiv.org/abs/2412.14468) to find the keys that dense attention
/// attends to.
///
/// The model is frozen: its queries and keys are the input. For each query, the positives are the keys with the highest
/// exact scores. The query keeps a sink and a window anyway, so their keys are left out. The perceptrons learn to tell
/// the positives from the other visible keys. The loss is the binary cross-entropy of `sigmoid(s(query) · s(key))`,
/// where `s` is a [relaxed](Relaxation) sign of the perceptron's output. The trained weights are those of a
/// [Hash](crate::scorer::Hash) scorer.
///
/// Frozen perceptrons ([no_grad](burn::module::Module::no_grad)) are not changed. burn also freezes perceptrons that
/// were created on a backend without `Autodiff` and then moved to this one. Should be created with
/// [HashDistillationConfig].
pub struct HashDistillation<B: AutodiffBackend> {
    config: HashDistillationConfig,
    activation: Activation,
    layer: LayerPerceptrons<B>,
    optimizer: OptimizerAdaptor<Adam, LayerPerceptrons<B>, B>,
}

impl<B: AutodiffBackend> HashDistillation<B> {
    /// The current perceptrons.
    pub fn layer(&self) -> &LayerPerceptrons<B> {
        &self.layer
    }

    /// The current perceptrons on the inner backend, for inference.
    pub fn valid(&self) -> LayerPerceptrons<B::InnerBackend> {
        self.layer.valid()
    }

    /// Makes one step of the optimizer for each chunk of queries, in order. Returns the loss before each step. Chunks
    /// without a key to learn from are skipped.
    ///
    /// # Errors
    /// If the perceptrons do not fit the inputs.
    pub fn epoch(&mut self, inputs: &AttentionInputs<B::InnerBackend>) -> Result<Vec<f64>, AttentionError> {
        let queries = inputs.mask_shape().queries;
        let chunks = (0..queries).step_by(self.config.chunk_size);
        let mut losses = Vec::new();
        for start in chunks {
            let rows = start..(start + self.config.chunk_size).min(queries);
            losses.extend(self.step(&inputs.narrow_queries(rows)?)?);
        }
        Ok(losses)
    }

    /// Makes one step of the optimizer on all queries of the inputs. Returns the loss before the step. If the sink and
    /// the window leave no key to learn from, there is no step and the result is `None`.
    ///
    /// # Errors
    /// If the perceptrons do not fit the inputs.
    pub fn step(&mut self, inputs: &AttentionInputs<B::InnerBackend>) -> Result<Option<f64>, AttentionError> {
        let Some(loss) = self.loss(inputs)? else { return Ok(None) };
        let value = loss.clone().into_data().iter::<f64>().next();
        if !learns(&self.layer) {
            return Ok(value);
        }
        let gradients = GradientsParams::from_grads(loss.backward(), &self.layer);
        self.layer = self.optimizer.step(self.config.learning_rate, self.layer.clone(), gradients);
        Ok(value)
    }

    /// The loss over all queries of the inputs. `None` if the sink and the window leave no key to learn from.
    ///
    /// # Shapes
    /// - output: `[1]`
    ///
    /// # Errors
    /// If the perceptrons do not fit the inputs.
    pub fn loss(&self, inputs: &AttentionInputs<B::InnerBackend>) -> Result<Option<Tensor<B, 1>>, AttentionError> {
        self.layer.check(inputs.queries().dims(), inputs.keys().dims())?;
        let Some(target) = Target::of(&self.config, inputs)? else { return Ok(None) };
        let device = inputs.device();
        let [of_positives, of_all] =
            [target.positives, target.all].map(|of| Tensor::<B::InnerBackend, 4>::from_data(of, &device));
        let relaxed = |x| match self.config.relaxation {
            Relaxation::Tanh => Tensor::tanh(x),
            Relaxation::StraightThrough => straight_through_sign(x),
        };
        let heads = inputs.mask_shape().heads;
        let queries = Tensor::from_inner(inputs.queries().clone());
        let keys = Tensor::from_inner(repeat_heads(inputs.keys().clone(), heads));
        let queries = relaxed(self.layer.query.forward(queries, self.activation));
        let keys = relaxed(self.layer.key.forward(keys, self.activation));
        let agreement = queries.matmul(keys.transpose());
        // The cross-entropy of a positive is -ln sigmoid(x) = -ln sigmoid(-x) - x, and that of a negative is -ln
        // sigmoid(-x). The gradient is written out, because burn's gradient takes reciprocals. On ndarray, a reciprocal
        // is exact to 12 bits or to all bits, depending on the alignment of the buffer. Two trainings would then
        // differ.
        let detached = agreement.clone().inner();
        let value = of_all.clone() * log_sigmoid(detached.clone().neg()) + of_positives.clone() * detached.clone();
        let slope = of_all * sigmoid(detached) - of_positives;
        let sloped = (agreement * Tensor::from_inner(slope)).sum();
        Ok(Some(Tensor::from_inner(total(value).neg()) + (sloped.clone() - sloped.detach())))
    }
}

/// The sum of all numbers, the same in every run. On a GPU, `sum` adds partial sums in the order in which they are
/// done.
fn total<B: Backend>(numbers: Tensor<B, 4>) -> Tensor<B, 1> {
    numbers.sum_dim(3).sum_dim(2).sum_dim(1).sum_dim(0).reshape([1])
}

/// Whether any parameter is trainable. If none is, the loss cannot be differentiated.
fn learns<B: AutodiffBackend>(layer: &LayerPerceptrons<B>) -> bool {
    let linears = layer.query.layers.iter().chain(&layer.key.layers);
    linears.into_iter().any(|linear| linear.matrix.is_require_grad() || linear.bias.is_require_grad())
}

/// The weight of each pair in the loss. It is 0 where a key is hidden, in the sink or in the window.
struct Target {
    /// The weights of the positives, 0 for all other pairs.
    positives: TensorData,
    /// The weights of all pairs.
    all: TensorData,
}

impl Target {
    fn of<B: Backend>(
        config: &HashDistillationConfig,
        inputs: &AttentionInputs<B>,
    ) -> Result<Option<Self>, AttentionError> {
        let shape = inputs.mask_shape();
        let pattern = Pattern { sink: config.sink_size, window: config.window_size, offset: inputs.offset() };
        let mask = Mask::pattern(shape, pattern, &inputs.device());
        let state = &mut LayerState::new(0);
        let rows = by_candidates(inputs, &mask, &Oracle::default(), state, |_, scores| {
            let candidates = (0..).zip(scores).filter(|(_, score)| **score > f32::NEG_INFINITY).map(|(key, _)| key);
            (candidates.collect::<Vec<u32>>(), largest(scores, config.top_k))
        })?;
        let pairs = rows.iter().map(|(candidates, _)| candidates.len()).sum::<usize>();
        if pairs == 0 {
            return Ok(None);
        }
        let share = 1.0 / pairs as f32;
        let positive = (config.positive_weight + config.positive_weight_per_key * shape.keys as f64) as f32 * share;
        let mut positives = vec![0f32; shape.pairs()];
        let mut all = vec![0f32; shape.pairs()];
        for (row, (candidates, top)) in rows.into_iter().enumerate() {
            let at = |key: u32| row * shape.keys + key as usize;
            candidates.into_iter().for_each(|key| all[at(key)] = share);
            for key in top {
                all[at(key)] = positive;
                positives[at(key)] = positive;
            }
        }
        let tensor = |of| TensorData::new(of, shape.dims());
        Ok(Some(Self { positives: tensor(positives), all: tensor(all) }))
    }
}
