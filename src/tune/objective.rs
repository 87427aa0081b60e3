use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::TuneError;

/// The outcome of a method on some recordings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The relative error of the output, averaged over all heads.
    pub error: f64,
    /// The density over visible keys, averaged. This is the share of the bytes of K and V that attention reads.
    pub density: f64,
    /// The time of a call of attention including the selection, averaged over the calls.
    pub milliseconds: f64,
}

/// The objective of a search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The smallest error among the methods whose density is at most this limit, in (0, 1].
    ErrorAtDensity(f64),
    /// The smallest density among the methods whose error is at most this limit, above 0.
    DensityAtError(f64),
    /// The shortest time among the methods whose error is at most this limit, above 0.
    MillisecondsAtError(f64),
}

impl Objective {
    /// Checks the limit.
    ///
    /// # Errors
    /// If the limit is not allowed.
    pub fn validate(self) -> Result<Self, TuneError> {
        let (limit, allowed, fits) = match self {
            Self::ErrorAtDensity(limit) => (limit, "a density in (0, 1]", limit > 0.0 && limit <= 1.0),
            Self::DensityAtError(limit) | Self::MillisecondsAtError(limit) => {
                (limit, "a finite error above 0", limit > 0.0 && limit.is_finite())
            }
        };
        match fits {
            true => Ok(self),
            false => Err(TuneError::Value { field: "limit".to_owned(), value: limit.to_string(), allowed }),
        }
    }

    /// Whether times are compared. Trials must then not run in parallel.
    pub fn is_of_time(self) -> bool {
        matches!(self, Self::MillisecondsAtError(_))
    }

    /// The relative excess over the limit, or 0 within it, and the value to minimise.
    fn key(self, outcome: &Outcome) -> (f64, f64) {
        let (limited, limit, value) = match self {
            Self::ErrorAtDensity(limit) => (outcome.density, limit, outcome.error),
            Self::DensityAtError(limit) => (outcome.error, limit, outcome.density),
            Self::MillisecondsAtError(limit) => (outcome.error, limit, outcome.milliseconds),
        };
        // NaN counts as infinitely far beyond the limit.
        let excess = if limited.is_nan() { f64::INFINITY } else { (limited / limit - 1.0).max(0.0) };
        (excess, if value.is_nan() { f64::INFINITY } else { value })
    }

    /// Whether an outcome is within the limit.
    pub fn holds(self, outcome: &Outcome) -> bool {
        self.key(outcome).0 == 0.0
    }

    /// Orders two outcomes: [Less](Ordering::Less) if the first is better. An outcome within the limit is better than
    /// one beyond it. Of two outcomes beyond the limit, the nearer one is better.
    pub fn compare(self, a: &Outcome, b: &Outcome) -> Ordering {
        let (a, b) = (self.key(a), self.key(b));
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    }
}

/// The indices of the outcomes on the Pareto front of error and density, in the order of their density.
pub fn pareto_front(outcomes: &[Outcome]) -> Vec<usize> {
    let mut order = (0..outcomes.len()).filter(|&at| outcomes[at].error.is_finite()).collect::<Vec<_>>();
    order.sort_by(|&a, &b| {
        let (a, b) = (&outcomes[a], &outcomes[b]);
        a.density.total_cmp(&b.density).then(a.error.total_cmp(&b.error))
    });
    let mut least = f64::INFINITY;
    order.retain(|&at| {
        let better = outcomes[at].error < least;
        least = least.min(outcomes[at].error);
        better
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(error: f64, density: f64) -> Outcome {
        Outcome { error, density, milliseconds: 10.0 * density }
    }

    #[test]
    fn limits_come_first() {
        let objective = Objective::ErrorAtDensity(0.1);
        let outcomes = [(0.2, 0.05), (0.3, 0.1), (0.01, 0.11), (0.0, 0.2), (f64::NAN, 0.05), (0.1, f64::NAN)];
        let mut order = (0..6).collect::<Vec<_>>();
        let outcomes = outcomes.map(|(error, density)| outcome(error, density));
        order.sort_by(|&a, &b| objective.compare(&outcomes[a], &outcomes[b]));
        assert_eq!(order, [0, 1, 4, 2, 3, 5]);
        assert!(objective.holds(&outcomes[1]) && !objective.holds(&outcomes[2]) && !objective.holds(&outcomes[5]));
        let objective = Objective::MillisecondsAtError(0.2);
        assert_eq!(objective.compare(&outcomes[0], &outcomes[3]), Ordering::Less);
        for wrong in [Objective::ErrorAtDensity(0.0), Objective::ErrorAtDensity(1.5), Objective::DensityAtError(-1.0)] {
            assert!(wrong.validate().unwrap_err().to_string().contains("`limit`"));
        }
    }

    #[test]
    fn the_front_has_what_nothing_beats() {
        let outcomes = [(0.3, 0.1), (0.1, 0.3), (0.4, 0.2), (0.3, 0.05), (0.1, 0.4), (f64::NAN, 0.01)];
        let outcomes = outcomes.map(|(error, density)| outcome(error, density));
        assert_eq!(pareto_front(&outcomes), [3, 1]);
    }
}
