//! Tuning: a search for the method file that does best on recordings of a model.
//!
//! A [MethodSpace] is a method file in which some values are ranges; there is one for every kind of masker. A [Search]
//! tries methods from it at random and goes on with the better ones (successive halving), on [Recordings]. What it tries
//! stands in a [Journal], from which a search goes on where it ended. Other recordings than those that were searched on
//! decide in the end.

mod built_in;
mod error;
mod journal;
mod objective;
mod recordings;
mod search;
mod space;

pub use built_in::masker_space;
pub use error::TuneError;
pub use journal::{Journal, Trial};
pub use objective::{Objective, Outcome, pareto_front};
pub use recordings::Recordings;
pub use search::{Search, Shard};
pub use space::MethodSpace;
