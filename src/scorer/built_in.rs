use burn::{
    module::{Content, Module, ModuleDisplay},
    tensor::{Tensor, backend::Backend},
};

use super::{
    Channels, ChannelsConfig, Context, Hash, HashConfig, Oracle, OracleConfig, Pages, PagesConfig, Pq, PqConfig,
    RowScorer, Scorer, ScorerConfig, Socket, SocketConfig,
};
use crate::{
    config::{ConfigError, NamedConfig, fields},
    problem::{AttentionError, AttentionInputs},
    state::LayerState,
};

/// The library's scorers as a burn module. A selector inside a layer holds one, so that learned weights are parameters
/// of the layer.
///
/// Should be created with [from_config](Self::from_config).
#[derive(Module, Debug)]
#[module(custom_display)]
pub enum BuiltInScorer<B: Backend> {
    /// `oracle`.
    Oracle(Oracle),
    /// `hash`.
    Hash(Hash<B>),
    /// `channels`.
    Channels(Channels),
    /// `pages`.
    Pages(Pages),
    /// `pq`.
    Pq(Pq),
    /// `socket`.
    Socket(Socket),
}

/// The names of the scorers in configurations.
const NAMES: [&str; 6] = ["channels", "hash", "oracle", "pages", "pq", "socket"];

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
        Ok(match named.name.as_str() {
            "oracle" => Self::Oracle(fields::<OracleConfig>(named)?.init(context)?),
            "hash" => Self::Hash(fields::<HashConfig>(named)?.init(context)?),
            "channels" => Self::Channels(fields::<ChannelsConfig>(named)?.init(context)?),
            "pages" => Self::Pages(fields::<PagesConfig>(named)?.init(context)?),
            "pq" => Self::Pq(fields::<PqConfig>(named)?.init(context)?),
            "socket" => Self::Socket(fields::<SocketConfig>(named)?.init(context)?),
            unknown => {
                let (found, known) = (unknown.to_owned(), NAMES.join(", "));
                return Err(ConfigError::UnknownType { part: "scorer", found, known, advice: ADVICE });
            }
        })
    }

    fn scorer(&self) -> &dyn Scorer<B> {
        match self {
            Self::Oracle(scorer) => scorer,
            Self::Hash(scorer) => scorer,
            Self::Channels(scorer) => scorer,
            Self::Pages(scorer) => scorer,
            Self::Pq(scorer) => scorer,
            Self::Socket(scorer) => scorer,
        }
    }
}

/// The kind of scorer that a record belongs to, with the sizes of its learned weights.
pub(crate) fn kind_of_record<B: Backend>(record: &BuiltInScorerRecord<B>) -> String {
    use BuiltInScorerRecord as Record;
    match record {
        Record::Oracle(_) => "oracle".to_owned(),
        Record::Hash(record) => {
            let matrices =
                record.weights.layers.iter().map(|layer| [&layer.query, &layer.key].map(|part| part.layers.len()));
            let matrices = matrices.map(|[query, key]| format!("{query} and {key} matrices")).collect::<Vec<_>>();
            format!("hash (layers of {})", matrices.join("; "))
        }
        Record::Channels(_) => "channels".to_owned(),
        Record::Pages(_) => "pages".to_owned(),
        Record::Pq(_) => "pq".to_owned(),
        Record::Socket(_) => "socket".to_owned(),
    }
}

impl<B: Backend> ModuleDisplay for BuiltInScorer<B> {
    fn custom_content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Oracle(scorer) => content.add_single(scorer),
            Self::Hash(scorer) => content.add_single(scorer),
            Self::Channels(scorer) => content.add_single(scorer),
            Self::Pages(scorer) => content.add_single(scorer),
            Self::Pq(scorer) => content.add_single(scorer),
            Self::Socket(scorer) => content.add_single(scorer),
        }
        .optional()
    }
}

impl<B: Backend> Scorer<B> for BuiltInScorer<B> {
    fn score(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError> {
        self.scorer().score(inputs, state)
    }

    fn by_row<'a>(
        &'a self,
        inputs: &'a AttentionInputs<B>,
        state: &'a mut LayerState,
    ) -> Result<Option<Box<dyn RowScorer + 'a>>, AttentionError> {
        self.scorer().by_row(inputs, state)
    }

    fn remembers(&self) -> bool {
        self.scorer().remembers()
    }
}
