use std::fmt;

/// What a call of attention is for. A [method](crate::masker::MaskerChainConfig) may have other maskers for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// A prompt is read, as a whole or in chunks.
    Prefill,
    /// A sequence is continued, usually token by token.
    Decode,
}

impl Phase {
    /// The phases in the order in which a sequence passes through them.
    pub const ALL: [Self; 2] = [Self::Prefill, Self::Decode];

    /// The phase of a call of a layer with a cache, unless the caller says another: the first call into an empty cache is
    /// a prefill, a later one with one query is decoding, and a later one with more queries is a prefill.
    pub fn of_call(is_first: bool, queries: usize) -> Self {
        match !is_first && queries == 1 {
            true => Self::Decode,
            false => Self::Prefill,
        }
    }

    /// The name in method files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
