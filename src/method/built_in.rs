use burn::tensor::backend::Backend;

// The table names all of them.
use super::presets::*;
use crate::{
    config::{ConfigError, NamedConfig},
    mask::Mask,
    masker::*,
    problem::{AttentionError, AttentionInputs},
    scorer::{self, BuiltInScorer, Context, table::table},
    state::LayerState,
};

table! {
    part: "masker", trait: Masker, configuration: MaskerConfig, record: BuiltInMaskerRecord;

    /// A masker of the library as a burn module. A [MaskerChain](super::MaskerChain) consists of these.
    ///
    /// Should be created with [from_config](Self::from_config).
    pub enum BuiltInMasker {
        /// The first keys.
        Sink(Sink): "sink" => SinkConfig::init;
        /// The last keys before each query.
        Local(Local): "local" => LocalConfig::init;
        /// The keys up to each query.
        Causal(Causal): "causal" => CausalConfig::init;
        /// The keys with the highest scores.
        TopK(TopK<B, BuiltInScorer<B>>) over scorer:
            "top_k" => TopKConfig::over,
            "oracle_top_k" => OracleTopKConfig::over,
            "hash_attention_top_k" => HashAttentionTopKConfig::over,
            "double_sparsity_top_k" => DoubleSparsityTopKConfig::over,
            "pq_cache" => PqCacheConfig::over;
        /// The fewest keys that have a share of the attention mass.
        TopP(TopP<B, BuiltInScorer<B>>) over scorer:
            "top_p" => TopPConfig::over,
            "oracle_top_p" => OracleTopPConfig::over;
        /// The keys with at least a share of the attention mass.
        Threshold(Threshold<B, BuiltInScorer<B>>) over scorer: "threshold" => ThresholdConfig::over;
        /// The pages of keys with the highest bounds of their scores.
        QuestTopK(QuestTopK): "quest_top_k" => QuestTopKConfig::init;
        /// A uniform sample.
        RandomSampling(RandomSampling): "random_sampling" => RandomSamplingConfig::init;
        /// A uniform sample whose size bounds the error of the softmax denominator.
        AdaptiveSampling(AdaptiveSampling): "adaptive_sampling" => AdaptiveSamplingConfig::init;
        /// A uniform sample whose size bounds the error of a chosen quantity.
        VerifiedSampling(VerifiedSampling): "verified_sampling" => VerifiedSamplingConfig::init;
        /// The keys that share hash buckets with the query.
        MagicPig(MagicPig<B>): "magic_pig" => MagicPigConfig::init;
        /// A sample without replacement by weight.
        PrioritySampling(PrioritySampling<B, BuiltInScorer<B>>) over scorer:
            "priority_sampling" => PrioritySamplingConfig::over;
        /// A sample with replacement by weight.
        PpsSampling(PpsSampling<B, BuiltInScorer<B>>) over scorer: "pps_sampling" => PpsSamplingConfig::over;
    }
}

/// The advice for a masker that a program registered itself, at the end of the error message.
const ADVICE: &str = "; names of a `MaskerRegistry` are not known to layers: build such a masker in code, and give it to the \
                      layer's `with_maskers`";

impl<B: Backend> BuiltInMasker<B> {
    /// The names of the maskers in configurations, in alphabetical order.
    pub fn names() -> &'static [&'static str] {
        &NAMES
    }

    /// Builds the masker of a configuration, such as `{"type": "sink", "sink_size": 4}`. Its scorers must be the
    /// library's scorers.
    ///
    /// # Errors
    /// If the type is not one of the [names](Self::names), a field is missing, unknown or of the wrong type, a value is
    /// not allowed, or a file cannot be used.
    pub fn from_config(named: &NamedConfig, context: &Context<B>) -> Result<Self, ConfigError> {
        Self::built(named, context)?.ok_or_else(|| {
            let (found, known) = (named.name.clone(), NAMES.join(", "));
            ConfigError::UnknownType { part: "masker", found, known, advice: ADVICE }
        })
    }
}

/// The kinds of a record's masker and of its scorers, as a text. burn can load a record only into a masker of the same
/// kinds.
pub(super) fn kind_of_record<B: Backend>(record: &BuiltInMaskerRecord<B>) -> String {
    let kind = name_in_record(record);
    match record {
        BuiltInMaskerRecord::TopP(record) => match &record.candidates {
            Some(candidates) => format!("{kind} of candidates over {}", scorer::kind_of_record(&candidates.scorer)),
            None => kind,
        },
        _ => kind,
    }
}

impl<B: Backend> Masker<B> for BuiltInMasker<B> {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        self.part().add(inputs, state, mask)
    }

    fn keys_before_window(&self) -> Option<usize> {
        self.part().keys_before_window()
    }

    fn samples(&self) -> bool {
        self.part().samples()
    }
}
