use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use serde_json::Value;

use super::{Journal, MethodSpace, Objective, Outcome, Trial, TuneError};

/// A part of the trials of a search. Each machine runs one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// The index of the shard, from 0.
    pub index: u64,
    /// The number of shards.
    pub count: u64,
}

impl Default for Shard {
    /// All trials.
    fn default() -> Self {
        Self { index: 0, count: 1 }
    }
}

/// A random search with successive halving ([Jamieson and Talwalkar, 2016](https://arxiv.org/abs/1502.07943)).
///
/// The first round runs all trials on one recording. The next round runs the best `1 / eta` of them on `eta`
/// recordings. This continues until a round uses all recordings. With one recording, or an `eta` of 1, there is one
/// round, which uses all recordings.
///
/// The methods depend only on the seed. Each shard has its own trials and halves them by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// The methods that are searched.
    pub space: MethodSpace,
    /// The objective.
    pub objective: Objective,
    /// The seed that determines the methods.
    pub seed: u64,
    /// The number of methods that are tried, over all shards.
    pub trials: u64,
    /// One in `eta` trials survives a round. 1 means a single round.
    pub eta: usize,
    /// The trials that run here.
    pub shard: Shard,
}

impl Search {
    /// A search over all trials with an `eta` of 3.
    ///
    /// # Errors
    /// If the objective's limit is not allowed, or the number of trials is 0.
    pub fn new(space: MethodSpace, objective: Objective, seed: u64, trials: u64) -> Result<Self, TuneError> {
        let objective = objective.validate()?;
        match trials {
            0 => Err(TuneError::Value { field: "trials".to_owned(), value: "0".to_owned(), allowed: "at least 1" }),
            _ => Ok(Self { space, objective, seed, trials, eta: 3, shard: Shard::default() }),
        }
    }

    /// Sets `eta`.
    ///
    /// # Errors
    /// If it is 0.
    pub fn with_eta(self, eta: usize) -> Result<Self, TuneError> {
        match eta {
            0 => Err(TuneError::Value { field: "eta".to_owned(), value: "0".to_owned(), allowed: "at least 1" }),
            _ => Ok(Self { eta, ..self }),
        }
    }

    /// Restricts the search to a shard.
    ///
    /// # Errors
    /// If the index is not below the number of shards.
    pub fn with_shard(self, shard: Shard) -> Result<Self, TuneError> {
        match shard.index < shard.count {
            true => Ok(Self { shard, ..self }),
            false => {
                let value = format!("{}/{}", shard.index, shard.count);
                Err(TuneError::Value { field: "shard".to_owned(), value, allowed: "i/n with i below n" })
            }
        }
    }

    /// Runs the trials that the journal does not contain yet. `try_on` gets a method and the number of recordings to
    /// try it on, at most `recordings`. Trials run on all cores, unless [times](Objective::is_of_time) are compared.
    /// `progress` is called after each trial.
    ///
    /// # Errors
    /// If the journal cannot be written. A failed trial is written as failed and does not end the search.
    pub fn run(
        &self,
        journal: &mut Journal,
        recordings: usize,
        try_on: impl Fn(&Value, usize) -> Result<Outcome, TuneError> + Sync,
        progress: impl Fn(&Trial) + Sync,
    ) -> Result<(), TuneError> {
        let mut left =
            (0..self.trials).filter(|trial| trial % self.shard.count == self.shard.index).collect::<Vec<_>>();
        for on in rounds(recordings, self.eta) {
            let missing = left.iter().copied().filter(|&trial| journal.trial(trial, on).is_none()).collect::<Vec<_>>();
            let shared = Mutex::new(&mut *journal);
            let make = |trial: u64| {
                let method = self.space.sample(self.seed, trial);
                let (outcome, failed) = match try_on(&method, on) {
                    Ok(outcome) => (Some(outcome), None),
                    Err(error) => (None, Some(error.to_string())),
                };
                let trial = Trial { trial, recordings: on, method, outcome, failed };
                progress(&trial);
                // A panic in another thread leaves the journal whole.
                shared.lock().unwrap_or_else(PoisonError::into_inner).record(trial)
            };
            match self.objective.is_of_time() {
                true => missing.into_iter().try_for_each(make)?,
                false => missing.into_par_iter().try_for_each(make)?,
            }
            let tried = left.iter().filter_map(|&trial| journal.trial(trial, on));
            left = self.best_of(tried, left.len().div_ceil(self.eta)).iter().map(|trial| trial.trial).collect();
        }
        Ok(())
    }

    /// The best `count` trials of a journal that ran on `recordings` recordings, the best first. Failed trials are left
    /// out.
    ///
    /// # Errors
    /// If no trial succeeded.
    pub fn best<'a>(&self, journal: &'a Journal, recordings: usize, count: usize) -> Result<Vec<&'a Trial>, TuneError> {
        let best = self.best_of(journal.trials().filter(|trial| trial.recordings == recordings), count);
        match best.is_empty() {
            false => Ok(best),
            true => {
                let reason = journal.trials().filter_map(|trial| trial.failed.clone()).last();
                let reason = reason.unwrap_or_else(|| format!("no trial was made on {recordings} recordings"));
                Err(TuneError::NoneWorks { trials: journal.trials().count(), reason })
            }
        }
    }

    fn best_of<'a>(&self, trials: impl Iterator<Item = &'a Trial>, count: usize) -> Vec<&'a Trial> {
        let mut done = trials.filter_map(|trial| Some((trial, trial.outcome?))).collect::<Vec<_>>();
        done.sort_by(|(a, of_a), (b, of_b)| self.objective.compare(of_a, of_b).then(a.trial.cmp(&b.trial)));
        done.into_iter().take(count).map(|(trial, _)| trial).collect()
    }
}

/// The number of recordings of each round: the powers of `eta`, and all recordings at the end.
fn rounds(recordings: usize, eta: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1usize), |power| power.checked_mul(eta).filter(|next| next > power));
    let mut rounds = powers.take_while(|&power| eta > 1 && power < recordings).collect::<Vec<_>>();
    rounds.push(recordings);
    rounds
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;

    /// A made-up outcome: with the size, the error falls and the density grows. The size 13 fails.
    fn outcome(method: &Value, on: usize) -> Result<Outcome, TuneError> {
        let size = method[0]["size"].as_u64().unwrap();
        if size == 13 {
            return Err(TuneError::NotASpace { origin: "thirteen".to_owned(), reason: "bad luck".to_owned() });
        }
        let error = 1.0 / size as f64 + 0.001 / on as f64;
        Ok(Outcome { error, density: size as f64 / 100.0, milliseconds: size as f64 })
    }

    fn search(trials: u64) -> Search {
        let space = MethodSpace::new(json!([{"size": {"low": 1, "high": 100}}])).unwrap();
        Search::new(space, Objective::ErrorAtDensity(0.2), 5, trials).unwrap()
    }

    fn journal(search: &Search, name: &str) -> (std::path::PathBuf, Journal) {
        let path = std::env::temp_dir().join(format!("search-{name}-{}.jsonl", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let journal = Journal::open(&path, search).unwrap();
        (path, journal)
    }

    #[test]
    fn rounds_grow_to_all_recordings() {
        assert_eq!(rounds(1, 3), [1]);
        assert_eq!(rounds(5, 3), [1, 3, 5]);
        assert_eq!(rounds(9, 3), [1, 3, 9]);
        assert_eq!(rounds(5, 1), [5]);
    }

    #[test]
    fn a_search_finds_the_best_and_goes_on_where_it_ended() {
        let search = search(200);
        let (path, mut journal) = journal(&search, "resume");
        let made = AtomicUsize::new(0);
        let run = |journal: &mut Journal| {
            search.run(journal, 9, outcome, |_| _ = made.fetch_add(1, Ordering::Relaxed)).unwrap();
        };
        run(&mut journal);
        // All on one recording, a third on three, and a ninth on nine.
        assert_eq!(made.load(Ordering::Relaxed), 200 + 67 + 23);
        let best = search.best(&journal, 9, 3).unwrap();
        assert_eq!(best[0].method[0]["size"], 20);
        assert!(journal.trials().any(|trial| trial.failed.as_deref().is_some_and(|why| why.contains("bad luck"))));
        let wanted = journal.trials().cloned().collect::<Vec<_>>();
        // With the whole journal, no trial is left. With a cut-off line, one trial is left.
        let mut again = Journal::open(&path, &search).unwrap();
        run(&mut again);
        assert_eq!(made.load(Ordering::Relaxed), 290);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        let mut again = Journal::open(&path, &search).unwrap();
        run(&mut again);
        assert_eq!(made.load(Ordering::Relaxed), 291);
        assert_eq!(again.trials().cloned().collect::<Vec<_>>(), wanted);
        let reread = Journal::open(&path, &search).unwrap();
        assert_eq!(reread.trials().cloned().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn shards_share_the_trials() {
        let whole = search(20).with_eta(1).unwrap();
        let (_, mut all) = journal(&whole, "whole");
        whole.run(&mut all, 4, outcome, |_| ()).unwrap();
        let (first, mut journal_of_all) = journal(&whole, "shard-0");
        for index in 0..3 {
            let shard = whole.clone().with_shard(Shard { index, count: 3 }).unwrap();
            let (path, mut journal) = journal(&shard, &format!("shard-{index}"));
            shard.run(&mut journal, 4, outcome, |_| ()).unwrap();
            assert!(journal.trials().all(|trial| trial.trial % 3 == index));
            journal_of_all.take_over(&path, &whole).unwrap();
        }
        assert!(first.exists());
        assert_eq!(journal_of_all.trials().collect::<Vec<_>>(), all.trials().collect::<Vec<_>>());
    }

    #[test]
    fn a_journal_of_another_search_is_refused_by_field() {
        let search = search(3);
        let (path, mut journal) = journal(&search, "other");
        search.run(&mut journal, 1, outcome, |_| ()).unwrap();
        let error = |seed, objective| {
            let search = Search { seed, objective, ..search.clone() };
            Journal::open(&path, &search).unwrap_err().to_string()
        };
        let message = error(6, search.objective);
        assert!(
            message.contains("line 1") && message.contains("`seed` is `5`") && message.contains("`6`"),
            "{message}"
        );
        assert!(error(5, Objective::DensityAtError(0.1)).contains("`objective`"));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("\"version\":1", "\"version\":2", 1)).unwrap();
        assert!(error(5, search.objective).contains("`version` is `2`"));
        std::fs::write(&path, text.replacen("\"recordings\":1", "\"recordings\":-1", 1)).unwrap();
        let message = error(5, search.objective);
        assert!(message.contains("line 2") && message.contains("`recordings`"), "{message}");
        std::fs::write(&path, "no JSON\n").unwrap();
        assert!(error(5, search.objective).contains("`format`"));
    }

    #[test]
    fn searches_that_make_no_sense_name_the_field() {
        let search = search(3);
        let (space, objective) = (search.space.clone(), search.objective);
        assert!(Search::new(space, objective, 1, 0).unwrap_err().to_string().contains("`trials`"));
        assert!(search.clone().with_eta(0).unwrap_err().to_string().contains("`eta`"));
        let shard = search.clone().with_shard(Shard { index: 2, count: 2 });
        assert!(shard.unwrap_err().to_string().contains("`shard` is 2/2"));
        let (_, mut journal) = journal(&search, "none");
        let fail = |_: &Value, _| outcome(&json!([{"size": 13}]), 1);
        search.run(&mut journal, 1, fail, |_| ()).unwrap();
        let error = search.best(&journal, 1, 1).unwrap_err().to_string();
        assert!(error.contains("3 trials") && error.contains("bad luck"), "{error}");
    }
}
