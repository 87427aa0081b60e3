use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

use burn::tensor::{Tensor, backend::Backend};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Scorer, ScorerConfig,
    keys::{Host, Seen, dot, scores_by_row, with_bias},
    quantize::{Rounding, pseudo_quantize},
    validate_label_bits,
};
use crate::{
    FileError,
    attention::{AttentionError, AttentionInputs},
    masker::{ConfigError, Context, LayerState},
};

/// Configuration of [Channels].
///
/// ```json
/// {"type": "channels", "sorted_channel_file": "channels.json", "group_factor": 4, "label_bits": 4,
///  "channel_selection": "qk_proj"}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelsConfig {
    /// The JSON file with the channels of each layer and head, the heaviest first.
    pub sorted_channel_file: PathBuf,
    /// One in so many channels is used, at least 1.
    pub group_factor: usize,
    /// To how many bits the chosen channels of queries and keys are quantised, in 1..=16; 16: not at all.
    pub label_bits: u32,
    /// By what the channels of the file were sorted.
    pub channel_selection: ChannelSelection,
}

/// By what channels were found heavy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelSelection {
    /// Magnitude in the queries.
    QProj,
    /// Magnitude in the keys.
    KProj,
    /// Magnitude of the product.
    QkProj,
}

impl ChannelSelection {
    fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::QkProj => "qk_proj",
        }
    }

    /// The name of a layer's list in a channel file.
    fn entry(self, layer: usize) -> String {
        format!("model.layers.{layer}.self_attn.{}", self.name())
    }
}

/// The product of query and key over a few outlier channels ([Double Sparsity](https://arxiv.org/abs/2408.07092)).
///
/// Each query head has its channels, sorted offline by how much they carry; the first `head_dim / group_factor` of them
/// are used, each layer its own. The chosen channels of a key are its *label*, quantised and remembered: a step makes
/// those of the new keys only.
///
/// Should be created with [ChannelsConfig]; [ChannelCalibration] writes the file.
#[derive(Debug)]
pub struct Channels {
    /// By layer, for each query head the channels in order.
    layers: BTreeMap<usize, Vec<Vec<usize>>>,
    group_factor: usize,
    label_bits: u32,
}

impl<B: Backend> ScorerConfig<B> for ChannelsConfig {
    type Scorer = Channels;

    fn init(&self, context: &Context<B>) -> Result<Channels, ConfigError> {
        if self.group_factor == 0 {
            return Err(ConfigError::value("group_factor", 0, "at least 1"));
        }
        validate_label_bits(self.label_bits)?;
        let layers = read(&context.path(&self.sorted_channel_file), self.channel_selection)?;
        Ok(Channels { layers, group_factor: self.group_factor, label_bits: self.label_bits })
    }
}

fn read(path: &Path, selection: ChannelSelection) -> Result<BTreeMap<usize, Vec<Vec<usize>>>, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Open { path: path.to_owned(), source })?;
    let entries = serde_json::from_str::<BTreeMap<String, Vec<Vec<usize>>>>(&text).map_err(|error| {
        FileError::Format { path: path.to_owned(), format: "a file of sorted channels", reason: error.to_string() }
    })?;
    let found = entries.keys().take(12).cloned().collect::<Vec<_>>().join(", ");
    let suffix = format!(".self_attn.{}", selection.name());
    let layers = entries
        .into_iter()
        .filter_map(|(name, heads)| {
            let layer = name.strip_prefix("model.layers.")?.strip_suffix(&suffix)?.parse().ok()?;
            Some((layer, heads))
        })
        .collect::<BTreeMap<usize, _>>();
    match layers.is_empty() {
        true => Err(FileError::Missing { path: path.to_owned(), missing: selection.entry(0), found }),
        false => Ok(layers),
    }
}

/// The chosen channels of the keys, by query head.
#[derive(Debug, Default)]
struct Labels {
    seen: Seen,
    by_head: Vec<Vec<f32>>,
}

impl Channels {
    /// The channels of each head that are used.
    fn chosen<B: Backend>(&self, inputs: &AttentionInputs<B>) -> Result<Vec<&[usize]>, AttentionError> {
        let [_, heads, _, head_dim] = inputs.queries().dims();
        let layer = inputs.layer();
        let by_head = self.layers.get(&layer).ok_or_else(|| AttentionError::NoWeights {
            scorer: "channels",
            layer,
            known: format!("{:?}", self.layers.keys().collect::<Vec<_>>()),
        })?;
        let count = head_dim / self.group_factor;
        if count == 0 {
            let allowed = "at most head_dim, so that a channel is left";
            return Err(AttentionError::Value { field: "group_factor", value: self.group_factor.to_string(), allowed });
        }
        let fits = |channels: &Vec<usize>| channels.len() >= count && channels.iter().all(|&c| c < head_dim);
        if by_head.len() != heads || !by_head.iter().all(fits) {
            return Err(AttentionError::Shape {
                tensor: "sorted channels",
                found: vec![by_head.len(), by_head.iter().map(Vec::len).min().unwrap_or(0)],
                expected: format!("[{heads}, {head_dim}], each channel below {head_dim}"),
            });
        }
        Ok(by_head.iter().map(|channels| &channels[..count]).collect())
    }

    fn label(&self, vector: &[f32], channels: &[usize]) -> Vec<f32> {
        let mut label = channels.iter().map(|&channel| vector[channel]).collect::<Vec<_>>();
        pseudo_quantize(&mut label, self.label_bits, Rounding::Nearest);
        label
    }
}

impl<B: Backend> Scorer<B> for Channels {
    fn score(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError> {
        let chosen = self.chosen(inputs)?;
        let shape = inputs.mask_shape();
        let heads = shape.batch * shape.heads;
        let group = shape.heads / inputs.kv_heads();
        let memory = state.memory::<Labels>();
        let (new, anew) = memory.seen.advance(heads, shape.keys);
        if anew {
            memory.by_head = vec![Vec::new(); heads];
        }
        if !new.is_empty() {
            let keys = Host::of_range(inputs.keys(), new.clone());
            memory.by_head.par_iter_mut().enumerate().for_each(|(head, labels)| {
                let channels = chosen[head % shape.heads];
                for key in 0..new.len() {
                    labels.extend(self.label(keys.vector(head / group, key), channels));
                }
            });
        }
        let queries = Host::of(inputs.queries());
        let labels = &memory.by_head;
        let scale = inputs.scale() as f32;
        let scores = scores_by_row(inputs, |head, _, query, scores| {
            let channels = chosen[head % shape.heads];
            let query = self.label(queries.vector(head, query), channels);
            for (score, key) in scores.iter_mut().zip(labels[head].chunks(channels.len())) {
                *score = dot(&query, key) * scale;
            }
        });
        Ok(with_bias(inputs, scores))
    }
}

/// Finds the outlier channels of each layer and head from sample queries and keys, and writes the file that
/// [ChannelsConfig] names.
///
/// A channel's importance is the mean over sampled query-key pairs of `|q * k|` in it, which is the product of the mean
/// magnitudes; or the mean magnitude of either alone.
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Distribution, Tensor};
/// use burn_flex::Flex;
/// use sparse_attention_hub::{attention::AttentionInputs, scorer::ChannelCalibration};
///
/// let device = Default::default();
/// let random = |dims| Tensor::<Flex, 4>::random(dims, Distribution::Default, &device);
/// let sample = AttentionInputs::new(random([1, 6, 32, 16]), random([1, 2, 32, 16]), random([1, 2, 32, 16]))?;
/// let mut calibration = ChannelCalibration::new();
/// calibration.add(&sample.with_layer(3));
/// assert_eq!(calibration.channels(3).map(|heads| heads.len()), Some(6));
/// # }
/// # Ok::<(), sparse_attention_hub::attention::AttentionError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct ChannelCalibration {
    layers: BTreeMap<usize, Magnitudes>,
}

/// Sums over the samples of a layer of the magnitude in each channel, by query head.
#[derive(Debug, Clone, Default)]
struct Magnitudes {
    queries: Vec<Vec<f64>>,
    keys: Vec<Vec<f64>>,
}

impl ChannelCalibration {
    /// A calibration that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the queries and keys of the inputs' layer to the samples.
    pub fn add<B: Backend>(&mut self, inputs: &AttentionInputs<B>) {
        let (queries, keys) = (Host::of(inputs.queries()), Host::of(inputs.keys()));
        let heads = queries.dims[1];
        let group = heads / keys.dims[1];
        let magnitudes = self.layers.entry(inputs.layer()).or_default();
        let zeros = || vec![vec![0.0; queries.dims[3]]; heads];
        if magnitudes.queries.len() != heads {
            *magnitudes = Magnitudes { queries: zeros(), keys: zeros() };
        }
        for head in 0..queries.heads() {
            let add = |sums: &mut [f64], vectors: &[f32]| {
                let vectors = vectors.chunks(sums.len());
                let share = 1.0 / vectors.len() as f64;
                for vector in vectors {
                    sums.iter_mut().zip(vector).for_each(|(sum, x)| *sum += f64::from(x.abs()) * share);
                }
            };
            add(&mut magnitudes.queries[head % heads], queries.head(head));
            add(&mut magnitudes.keys[head % heads], keys.head(head / group));
        }
    }

    /// The channels of each query head of a layer by falling importance of the product; `None` for a layer without
    /// samples.
    pub fn channels(&self, layer: usize) -> Option<Vec<Vec<usize>>> {
        self.layers.get(&layer).map(|magnitudes| magnitudes.sorted(ChannelSelection::QkProj))
    }

    /// Writes the channel file, with the lists by queries, by keys and by products. The file appears when it is whole.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        let path = path.as_ref();
        let selections = [ChannelSelection::QProj, ChannelSelection::KProj, ChannelSelection::QkProj];
        let entries = self.layers.iter().flat_map(|(&layer, magnitudes)| {
            selections.map(|selection| (selection.entry(layer), magnitudes.sorted(selection)))
        });
        let entries = entries.collect::<BTreeMap<_, _>>();
        let partial = path.with_extension("partial");
        let write = || {
            let mut file = std::fs::File::create(&partial)?;
            serde_json::to_writer(&mut file, &entries)?;
            file.write_all(b"\n")?;
            std::fs::rename(&partial, path)
        };
        write().map_err(|source| FileError::Open { path: path.to_owned(), source })
    }
}

impl Magnitudes {
    fn sorted(&self, selection: ChannelSelection) -> Vec<Vec<usize>> {
        let heads = self.queries.iter().zip(&self.keys).map(|(queries, keys)| {
            let importance = |channel: usize| match selection {
                ChannelSelection::QProj => queries[channel],
                ChannelSelection::KProj => keys[channel],
                ChannelSelection::QkProj => queries[channel] * keys[channel],
            };
            let mut channels = (0..queries.len()).collect::<Vec<_>>();
            channels.sort_by(|&a, &b| importance(b).total_cmp(&importance(a)));
            channels
        });
        heads.collect()
    }
}
