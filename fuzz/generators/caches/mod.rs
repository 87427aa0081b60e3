//! Caches under random sequences of calls, compared with the whole history computed again.

mod cross;
mod encoder;
mod grouped_query;
mod key_value;
mod multi_head;
mod padded;

use super::{Checked, Source};

/// One case.
///
/// # Errors
/// If a property does not hold.
pub fn check(source: &mut Source) -> Checked {
    match source.below(12) {
        0 | 1 => key_value::check(source),
        2..6 => grouped_query::check(source),
        6 => cross::check(source),
        7 => encoder::check(source),
        _ => multi_head::check(source),
    }
}

/// Whether tokens were taken back. A cache may refuse if it no longer holds the tokens that it needs.
trait Cut {
    fn done(self) -> bool;
}

impl Cut for () {
    fn done(self) -> bool {
        true
    }
}

impl<E> Cut for Result<(), E> {
    fn done(self) -> bool {
        self.is_ok()
    }
}
