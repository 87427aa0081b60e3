use burn::tensor::{Tensor, backend::Backend};

// The table names all of them.
use super::{table::table, *};
use crate::{
    config::{ConfigError, NamedConfig},
    problem::{AttentionError, AttentionInputs},
    state::LayerState,
};

table! {
    part: "scorer", trait: Scorer, configuration: ScorerConfig, record: BuiltInScorerRecord;

    /// The library's scorers as a burn module. A selector inside a layer holds one, so that learned weights are
    /// parameters of the layer.
    ///
    /// Should be created with [from_config](Self::from_config).
    pub enum BuiltInScorer {
        /// The exact logits.
        Oracle(Oracle): "oracle" => OracleConfig::init;
        /// Equal bits of learned signatures.
        Hash(Hash<B>): "hash" => HashConfig::init;
        /// Products over a few channels.
        Channels(Channels): "channels" => ChannelsConfig::init;
        /// Upper bounds of the logits of a page of keys.
        Pages(Pages): "pages" => PagesConfig::init;
        /// Products with quantised keys.
        Pq(Pq): "pq" => PqConfig::init;
        /// Soft collisions in hash tables.
        Socket(Socket): "socket" => SocketConfig::init;
    }
}

/// The advice in the error for an unknown name, which a program may have registered itself.
const ADVICE: &str = "; names of a `MaskerRegistry` are not known to layers: build a masker over such a scorer in code, and give it to the \
                      layer's `with_maskers`";

impl<B: Backend> BuiltInScorer<B> {
    /// The names of the scorers in configurations, in alphabetical order.
    pub fn names() -> &'static [&'static str] {
        &NAMES
    }

    /// Creates the scorer of a configuration such as `{"type": "oracle"}`.
    ///
    /// # Errors
    /// If the type is not one of the [names](Self::names), a field is missing, unknown or of the wrong type, a value is
    /// not allowed, or a file cannot be used.
    pub fn from_config(named: &NamedConfig, context: &Context<B>) -> Result<Self, ConfigError> {
        Self::built(named, context)?.ok_or_else(|| {
            let (found, known) = (named.name.clone(), NAMES.join(", "));
            ConfigError::UnknownType { part: "scorer", found, known, advice: ADVICE }
        })
    }
}

/// The kind of scorer that a record belongs to, with the sizes of its learned weights.
pub(crate) fn kind_of_record<B: Backend>(record: &BuiltInScorerRecord<B>) -> String {
    let kind = name_in_record(record);
    match record {
        BuiltInScorerRecord::Hash(record) => {
            let matrices =
                record.weights.layers.iter().map(|layer| [&layer.query, &layer.key].map(|part| part.layers.len()));
            let matrices = matrices.map(|[query, key]| format!("{query} and {key} matrices")).collect::<Vec<_>>();
            format!("{kind} (layers of {})", matrices.join("; "))
        }
        _ => kind,
    }
}

/// A type that holds the scorer of a masker: a box if the masker is built by a
/// [registry](crate::method::MaskerRegistry), and a [BuiltInScorer] if it is a module of a layer.
pub(crate) trait HeldScorer<B: Backend>: Scorer<B> + Sized {
    /// Builds the scorer of a configuration such as `{"type": "oracle"}`.
    ///
    /// # Errors
    /// If the name is not known, or the configuration does not work.
    fn from_config(named: &NamedConfig, context: &Context<B>) -> Result<Self, ConfigError>;

    /// Holds a scorer of the library.
    fn holding(scorer: impl Scorer<B> + Into<BuiltInScorer<B>> + 'static) -> Self;
}

impl<B: Backend> HeldScorer<B> for Box<dyn Scorer<B>> {
    fn from_config(named: &NamedConfig, context: &Context<B>) -> Result<Self, ConfigError> {
        context.scorer(named)
    }

    fn holding(scorer: impl Scorer<B> + Into<BuiltInScorer<B>> + 'static) -> Self {
        Box::new(scorer)
    }
}

impl<B: Backend> HeldScorer<B> for BuiltInScorer<B> {
    fn from_config(named: &NamedConfig, context: &Context<B>) -> Result<Self, ConfigError> {
        Self::from_config(named, context)
    }

    fn holding(scorer: impl Scorer<B> + Into<BuiltInScorer<B>> + 'static) -> Self {
        scorer.into()
    }
}

impl<B: Backend> Scorer<B> for BuiltInScorer<B> {
    fn score(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError> {
        self.part().score(inputs, state)
    }

    fn by_row<'a>(
        &'a self,
        inputs: &'a AttentionInputs<B>,
        state: &'a mut LayerState,
    ) -> Result<Option<Box<dyn RowScorer + 'a>>, AttentionError> {
        self.part().by_row(inputs, state)
    }

    fn remembers(&self) -> bool {
        self.part().remembers()
    }
}
