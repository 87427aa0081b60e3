//! Attention calls, compared with attention in f64 over the mask that the method returned, and with other calls of the
//! same method.

mod histories;
mod naive;
mod over_masks;
mod over_methods;
mod refused;
mod runs;

use super::{Checked, Source};

/// One case.
///
/// # Errors
/// If a property does not hold.
pub fn check(source: &mut Source) -> Checked {
    match source.below(16) {
        0..4 => over_masks::check(source),
        4..7 => over_methods::hidden_keys_change_nothing(source),
        7 => over_methods::everything_is_dense(source),
        8 => over_methods::what_is_not_a_number_shows(source),
        9 => over_methods::some_queries_are_rows_of_all(source),
        10 => over_methods::efficient_is_research(source),
        11 => histories::the_future_changes_nothing(source),
        12 => histories::chunks_are_one_call(source),
        13 => histories::a_batch_is_its_sequences(source),
        14 => histories::states_are_of_one_sequence(source),
        _ => refused::check(source),
    }
}
