use burn::{
    module::{Content, Module, ModuleDisplay},
    tensor::backend::Backend,
};

use super::{DoubleSparsityTopKConfig, HashAttentionTopKConfig, PqCacheConfig};
use crate::{
    config::{ConfigError, NamedConfig, fields},
    mask::Mask,
    masker::{
        AdaptiveSampling, AdaptiveSamplingConfig, Causal, CausalConfig, Local, LocalConfig, MagicPig, MagicPigConfig,
        Masker, MaskerConfig, OracleTopKConfig, OracleTopPConfig, PpsSampling, PpsSamplingConfig, PrioritySampling,
        PrioritySamplingConfig, QuestTopK, QuestTopKConfig, RandomSampling, RandomSamplingConfig, Sink, SinkConfig,
        Threshold, ThresholdConfig, TopK, TopKConfig, TopP, TopPConfig, VerifiedSampling, VerifiedSamplingConfig,
    },
    problem::{AttentionError, AttentionInputs},
    scorer::{self, BuiltInScorer, BuiltInScorerRecord, Context, Oracle},
    state::LayerState,
};

/// A masker of the library as a burn module. A [MaskerChain](super::MaskerChain) consists of these.
///
/// Should be created with [from_config](Self::from_config).
#[derive(Module, Debug)]
#[module(custom_display)]
pub enum BuiltInMasker<B: Backend> {
    /// `sink`.
    Sink(Sink),
    /// `local`.
    Local(Local),
    /// `causal`.
    Causal(Causal),
    /// `top_k`, `oracle_top_k`, `hash_attention_top_k`, `double_sparsity_top_k`, `pq_cache`.
    TopK(TopK<B, BuiltInScorer<B>>),
    /// `top_p`, `oracle_top_p`.
    TopP(TopP<B, BuiltInScorer<B>>),
    /// `threshold`.
    Threshold(Threshold<B, BuiltInScorer<B>>),
    /// `quest_top_k`.
    QuestTopK(QuestTopK),
    /// `random_sampling`.
    RandomSampling(RandomSampling),
    /// `adaptive_sampling`.
    AdaptiveSampling(AdaptiveSampling),
    /// `verified_sampling`.
    VerifiedSampling(VerifiedSampling),
    /// `magic_pig`.
    MagicPig(MagicPig<B>),
    /// `priority_sampling`.
    PrioritySampling(PrioritySampling<B, BuiltInScorer<B>>),
    /// `pps_sampling`.
    PpsSampling(PpsSampling<B, BuiltInScorer<B>>),
}

/// The names of the maskers in configurations.
pub(super) const NAMES: [&str; 18] = [
    "adaptive_sampling",
    "causal",
    "double_sparsity_top_k",
    "hash_attention_top_k",
    "local",
    "magic_pig",
    "oracle_top_k",
    "oracle_top_p",
    "pps_sampling",
    "pq_cache",
    "priority_sampling",
    "quest_top_k",
    "random_sampling",
    "sink",
    "threshold",
    "top_k",
    "top_p",
    "verified_sampling",
];

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
        let scorer = |named: &NamedConfig| BuiltInScorer::from_config(named, context);
        let oracle = || BuiltInScorer::Oracle(Oracle::default());
        Ok(match named.name.as_str() {
            "sink" => Self::Sink(fields::<SinkConfig>(named)?.init(context)?),
            "local" => Self::Local(fields::<LocalConfig>(named)?.init(context)?),
            "causal" => Self::Causal(fields::<CausalConfig>(named)?.init(context)?),
            "top_k" => {
                let config = fields::<TopKConfig>(named)?;
                Self::TopK(config.over(scorer(&config.scorer)?)?)
            }
            "oracle_top_k" => Self::TopK(fields::<OracleTopKConfig>(named)?.over(oracle())?),
            "hash_attention_top_k" => Self::TopK(fields::<HashAttentionTopKConfig>(named)?.built_in(context)?),
            "double_sparsity_top_k" => Self::TopK(fields::<DoubleSparsityTopKConfig>(named)?.built_in(context)?),
            "pq_cache" => Self::TopK(fields::<PqCacheConfig>(named)?.built_in(context)?),
            "top_p" => Self::TopP(fields::<TopPConfig>(named)?.over(scorer)?),
            "oracle_top_p" => Self::TopP(TopP::new(fields::<OracleTopPConfig>(named)?.top_p, oracle())?),
            "threshold" => {
                let config = fields::<ThresholdConfig>(named)?;
                Self::Threshold(config.over(scorer(&config.scorer)?)?)
            }
            "quest_top_k" => Self::QuestTopK(fields::<QuestTopKConfig>(named)?.init(context)?),
            "random_sampling" => Self::RandomSampling(fields::<RandomSamplingConfig>(named)?.init(context)?),
            "adaptive_sampling" => Self::AdaptiveSampling(fields::<AdaptiveSamplingConfig>(named)?.init(context)?),
            "verified_sampling" => Self::VerifiedSampling(fields::<VerifiedSamplingConfig>(named)?.init(context)?),
            "magic_pig" => Self::MagicPig(fields::<MagicPigConfig>(named)?.init(context)?),
            "priority_sampling" => {
                let config = fields::<PrioritySamplingConfig>(named)?;
                Self::PrioritySampling(config.over(scorer(&config.scorer)?)?)
            }
            "pps_sampling" => {
                let config = fields::<PpsSamplingConfig>(named)?;
                Self::PpsSampling(config.over(scorer(&config.scorer)?)?)
            }
            unknown => {
                let (found, known) = (unknown.to_owned(), NAMES.join(", "));
                return Err(ConfigError::UnknownType { part: "masker", found, known, advice: ADVICE });
            }
        })
    }

    fn masker(&self) -> &dyn Masker<B> {
        match self {
            Self::Sink(masker) => masker,
            Self::Local(masker) => masker,
            Self::Causal(masker) => masker,
            Self::TopK(masker) => masker,
            Self::TopP(masker) => masker,
            Self::Threshold(masker) => masker,
            Self::QuestTopK(masker) => masker,
            Self::RandomSampling(masker) => masker,
            Self::AdaptiveSampling(masker) => masker,
            Self::VerifiedSampling(masker) => masker,
            Self::MagicPig(masker) => masker,
            Self::PrioritySampling(masker) => masker,
            Self::PpsSampling(masker) => masker,
        }
    }
}

/// The kinds of a record's masker and of its scorers, as a text. burn can load a record only into a masker of the same
/// kinds.
pub(super) fn kind_of_record<B: Backend>(record: &BuiltInMaskerRecord<B>) -> String {
    use BuiltInMaskerRecord as Record;
    let over = |name: &str, scorer: &BuiltInScorerRecord<B>| format!("{name} over {}", scorer::kind_of_record(scorer));
    match record {
        Record::Sink(_) => "sink".to_owned(),
        Record::Local(_) => "local".to_owned(),
        Record::Causal(_) => "causal".to_owned(),
        Record::TopK(record) => over("top_k", &record.scorer),
        Record::TopP(record) => match &record.candidates {
            Some(candidates) => {
                format!("{} of {}", over("top_p", &record.scorer), over("candidates", &candidates.scorer))
            }
            None => over("top_p", &record.scorer),
        },
        Record::Threshold(record) => over("threshold", &record.scorer),
        Record::QuestTopK(_) => "quest_top_k".to_owned(),
        Record::RandomSampling(_) => "random_sampling".to_owned(),
        Record::AdaptiveSampling(_) => "adaptive_sampling".to_owned(),
        Record::VerifiedSampling(_) => "verified_sampling".to_owned(),
        Record::MagicPig(_) => "magic_pig".to_owned(),
        Record::PrioritySampling(record) => over("priority_sampling", &record.scorer),
        Record::PpsSampling(record) => over("pps_sampling", &record.scorer),
    }
}

impl<B: Backend> ModuleDisplay for BuiltInMasker<B> {
    fn custom_content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Sink(masker) => content.add_single(masker),
            Self::Local(masker) => content.add_single(masker),
            Self::Causal(masker) => content.add_single(masker),
            Self::TopK(masker) => content.add_single(masker),
            Self::TopP(masker) => content.add_single(masker),
            Self::Threshold(masker) => content.add_single(masker),
            Self::QuestTopK(masker) => content.add_single(masker),
            Self::RandomSampling(masker) => content.add_single(masker),
            Self::AdaptiveSampling(masker) => content.add_single(masker),
            Self::VerifiedSampling(masker) => content.add_single(masker),
            Self::MagicPig(masker) => content.add_single(masker),
            Self::PrioritySampling(masker) => content.add_single(masker),
            Self::PpsSampling(masker) => content.add_single(masker),
        }
        .optional()
    }
}

impl<B: Backend> Masker<B> for BuiltInMasker<B> {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        self.masker().add(inputs, state, mask)
    }

    fn keys_before_window(&self) -> Option<usize> {
        self.masker().keys_before_window()
    }

    fn samples(&self) -> bool {
        self.masker().samples()
    }
}
