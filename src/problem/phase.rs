use std::fmt;

/// The phase of a sequence to which a call of attention belongs. A [method](crate::method::MaskerChainConfig) can have
/// different maskers in each phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// The prompt is processed, as a whole or in chunks.
    Prefill,
    /// New tokens are generated, usually one by one.
    Decode,
}

impl Phase {
    /// Both phases, in the order in which a sequence passes through them.
    pub const ALL: [Self; 2] = [Self::Prefill, Self::Decode];

    /// The default phase of a call of a layer with a cache. The first call with an empty cache is a prefill. A later
    /// call is decoding if it has one query, and a prefill if it has more.
    pub fn of_call(is_first: bool, queries: usize) -> Self {
        match !is_first && queries == 1 {
            true => Self::Decode,
            false => Self::Prefill,
        }
    }

    /// The name of the phase in method files.
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
