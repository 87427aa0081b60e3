//! Tuning: a search for the method file that works best on recordings of a model.
//!
//! A [MethodSpace] is a method file in which some values are ranges. There is one for almost every kind of masker. A
//! [Search] tries random methods from the space on [Recordings], and continues with the better ones (successive
//! halving). The trials are written to a [Journal], and a search continues where its journal ends. To choose the final
//! method, compare the best ones on recordings that the search did not use.

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
