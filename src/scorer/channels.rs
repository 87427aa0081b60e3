use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::{
    module::{Content, Module, ModuleDisplay},
    tensor::{Tensor, backend::Backend},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Context, RowScorer, Scorer, ScorerConfig, ShareGroup,
    keys::{Host, KeyCursor, all_scores, reorder},
    labels::Labels,
    quantize::{Rounding, pseudo_quantize},
    validate_label_bits,
};
use crate::{
    config::ConfigError,
    io::{FileError, from_json, read_file},
    kernels::cpu::softcap,
    problem::{AttentionError, AttentionInputs},
    state::{KeyMemory, LayerState},
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
    /// The JSON file with the channels of each layer and head, most important first.
    pub sorted_channel_file: PathBuf,
    /// The divisor of the number of channels, at least 1. The first `head_dim / group_factor` channels of each list are
    /// used.
    pub group_factor: usize,
    /// The bits to which the used channels of queries and keys are quantised, in 1..=16. 16 does not quantise.
    pub label_bits: u32,
    /// The importance by which the channels of the file are sorted.
    pub channel_selection: ChannelSelection,
}

/// The importance of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelSelection {
    /// The magnitude in the queries.
    QProj,
    /// The magnitude in the keys.
    KProj,
    /// The magnitude of the product of queries and keys.
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
    pub(super) fn entry(self, layer: usize) -> String {
        format!("model.layers.{layer}.self_attn.{}", self.name())
    }
}

/// The dot product of query and key over a few outlier channels ([Double Sparsity](https://arxiv.org/abs/2408.07092)).
///
/// Each query head of each layer has its own list of channels, sorted offline by importance. The first
/// `head_dim / group_factor` channels of the list are used. The used channels of a key are its *label*. Labels are
/// quantised and remembered, so a decode step only makes the labels of the new keys.
///
/// Should be created with [ChannelsConfig]. [ChannelCalibration](super::ChannelCalibration) writes the file.
#[derive(Module, Debug, Clone)]
#[module(custom_display)]
pub struct Channels {
    /// For each layer and each query head, the channels by falling importance.
    layers: BTreeMap<usize, Vec<Vec<usize>>>,
    group_factor: usize,
    label_bits: u32,
}

impl ModuleDisplay for Channels {
    /// Shows the layers by number only, because their channels would fill pages.
    fn custom_content(&self, content: Content) -> Option<Content> {
        content
            .add_debug_attribute("layers", &self.layers.keys().collect::<Vec<_>>())
            .add("group_factor", &self.group_factor)
            .add("label_bits", &self.label_bits)
            .optional()
    }
}

impl Channels {
    /// A scorer with channels in memory. For each layer and each query head, the channels are sorted by falling
    /// importance.
    ///
    /// # Errors
    /// If the group factor is 0 or the bits are not in 1..=16.
    pub fn new(
        layers: BTreeMap<usize, Vec<Vec<usize>>>,
        group_factor: usize,
        label_bits: u32,
    ) -> Result<Self, ConfigError> {
        if group_factor == 0 {
            return Err(ConfigError::value("group_factor", 0, "at least 1"));
        }
        validate_label_bits(label_bits)?;
        Ok(Self { layers, group_factor, label_bits })
    }
}

impl<B: Backend> ScorerConfig<B> for ChannelsConfig {
    type Scorer = Channels;

    fn init(&self, context: &Context<B>) -> Result<Channels, ConfigError> {
        // Checks the numbers first, so that their errors are found without reading a file.
        let mut channels = Channels::new(BTreeMap::new(), self.group_factor, self.label_bits)?;
        let path = context.path(&self.sorted_channel_file);
        channels.layers = read(&path, self.channel_selection)?;
        match context.layer() {
            Some(layer) if !channels.layers.contains_key(&layer) => {
                let found = format!("the layers {:?}", channels.layers.keys().collect::<Vec<_>>());
                let missing = self.channel_selection.entry(layer);
                Err(FileError::Missing { path, missing, found }.into())
            }
            _ => Ok(channels),
        }
    }
}

fn read(path: &Path, selection: ChannelSelection) -> Result<BTreeMap<usize, Vec<Vec<usize>>>, FileError> {
    let bytes = read_file(path)?;
    let unusable = |reason: String| {
        let format = "a file of sorted channels";
        FileError::Format { path: path.to_owned(), format, reason }
    };
    let text = std::str::from_utf8(&bytes).map_err(|error| unusable(error.to_string()))?;
    let entries = from_json::<BTreeMap<String, Vec<Vec<usize>>>>(text).map_err(|error| unusable(error.to_string()))?;
    let found = entries.keys().take(12).cloned().collect::<Vec<_>>().join(", ");
    let suffix = format!(".self_attn.{}", selection.name());
    let mut layers = BTreeMap::new();
    for (name, heads) in entries {
        let number = name.strip_prefix("model.layers.").and_then(|rest| rest.strip_suffix(&suffix)?.parse().ok());
        let Some(layer) = number else { continue };
        // `model.layers.01` and `model.layers.1` are the same layer.
        if layers.insert(layer, heads).is_some() {
            return Err(unusable(format!("`{}` stands twice, once as `{name}`", selection.entry(layer))));
        }
    }
    match layers.is_empty() {
        true => Err(FileError::Missing { path: path.to_owned(), missing: selection.entry(0), found }),
        false => Ok(layers),
    }
}

/// The labels of the keys, by query head.
#[derive(Debug, Clone, Default)]
struct Memory {
    cursor: KeyCursor,
    by_head: Vec<Labels>,
}

impl KeyMemory for Memory {
    fn truncate(&mut self, keys: usize) {
        self.by_head.iter_mut().for_each(|labels| labels.truncate(keys));
        self.cursor.truncate(keys);
    }

    fn reorder(&mut self, indices: &[usize], batch: usize) {
        reorder(&mut self.by_head, indices, batch);
        self.cursor.reorder(indices, batch);
    }
}

impl Channels {
    /// The used channels of each head.
    fn chosen<B: Backend>(&self, inputs: &AttentionInputs<B>) -> Result<Vec<&[usize]>, AttentionError> {
        let [_, heads, _, head_dim] = inputs.queries().dims();
        let layer = inputs.layer();
        let by_head = self.layers.get(&layer).ok_or_else(|| AttentionError::NoWeights {
            scorer: "channels",
            layer,
            origin: "its file".to_owned(),
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

    fn rows<'a, B: Backend>(
        &self,
        inputs: &AttentionInputs<B>,
        state: &'a mut LayerState,
    ) -> Result<ChannelRows<'a>, AttentionError> {
        let chosen = self.chosen(inputs)?;
        let shape = inputs.mask_shape();
        let heads = shape.batch * shape.heads;
        let group = shape.heads / inputs.kv_heads();
        state.continue_with(inputs)?;
        let memory = state.key_memory::<Memory>();
        let (new, anew) = memory.cursor.advance(heads, shape.keys);
        if anew {
            memory.by_head =
                (0..heads).map(|head| Labels::new(chosen[head % shape.heads].len(), self.label_bits)).collect();
        }
        if !new.is_empty() {
            let keys = Host::of_range(inputs.keys(), new);
            memory.by_head.par_iter_mut().enumerate().for_each(|(head, labels)| {
                let channels = chosen[head % shape.heads];
                for key in keys.head(head / group).chunks_exact(keys.dims[3]) {
                    labels.push(channels.iter().map(|&channel| key[channel]));
                }
            });
        }
        let queries = Host::of(inputs.queries());
        let scale = inputs.scale() as f32;
        let label = |head: usize, query: usize| {
            let vector = queries.vector(head, query);
            let mut label = chosen[head % shape.heads].iter().map(|&channel| vector[channel]).collect::<Vec<_>>();
            pseudo_quantize(&mut label, self.label_bits, Rounding::Nearest);
            label.iter_mut().for_each(|x| *x *= scale);
            label
        };
        let queries = (0..heads).map(|head| (0..shape.queries).map(|query| label(head, query)).collect()).collect();
        Ok(ChannelRows { group, softcap: inputs.softcap(), queries, keys: &memory.by_head })
    }
}

impl<B: Backend> Scorer<B> for Channels {
    fn score(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError> {
        all_scores(inputs, &self.rows(inputs, state)?)
    }

    fn by_row<'a>(
        &'a self,
        inputs: &'a AttentionInputs<B>,
        state: &'a mut LayerState,
    ) -> Result<Option<Box<dyn RowScorer + 'a>>, AttentionError> {
        Ok(Some(Box::new(self.rows(inputs, state)?)))
    }
}

struct ChannelRows<'a> {
    group: usize,
    softcap: Option<f64>,
    /// The scaled label, by head and query.
    queries: Vec<Vec<Vec<f32>>>,
    keys: &'a [Labels],
}

impl RowScorer for ChannelRows<'_> {
    fn score_group(&self, kv_head: usize, query: usize, scores: &mut [f32]) {
        let count = scores.len() / self.group;
        for (head, scores) in (kv_head * self.group..).zip(scores.chunks_exact_mut(count)) {
            self.keys[head].products(&self.queries[head][query], scores);
        }
        softcap(scores, self.softcap);
    }

    fn score_group_sum(&self, kv_head: usize, query: usize, heads: usize, scores: &mut [f32]) {
        if self.softcap.is_some() {
            self.score_group(kv_head, query, scores);
            return ShareGroup::Mean.combine(scores, heads);
        }
        let keys = scores.len() / heads;
        let sums = &mut scores[..keys];
        for (at, head) in (kv_head * heads..(kv_head + 1) * heads).enumerate() {
            let (keys, query) = (&self.keys[head], &self.queries[head][query]);
            if at == 0 { keys.products(query, sums) } else { keys.add_products(query, sums) }
        }
    }
}
