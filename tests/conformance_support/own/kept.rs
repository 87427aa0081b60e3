//! The keys that a chain of maskers keeps.

use serde_json::Value;

use super::{
    BOUNDARY, Problem, magic_pig,
    scores::{self, Scores},
};
use crate::conformance_support::vectors::{
    Case, Check, Result, Tolerance, all, close_mask, count, equal, field, holds, number, text,
};

/// The maskers whose semantics this file implements.
pub const MASKERS: [&str; 10] = [
    "sink",
    "local",
    "causal",
    "oracle_top_k",
    "oracle_top_p",
    "hash_attention_top_k",
    "double_sparsity_top_k",
    "quest_top_k",
    "pq_cache",
    "magic_pig",
];

/// The tolerance for collision probabilities of two implementations. The probability of one bit comes from an angle in
/// f32. It is raised to the power of the number of bits of a hash.
const COLLISIONS: Tolerance = Tolerance { atol: 1e-6, rtol: 1e-4 };

/// The keys of a row that compete, with their scores.
struct Candidates {
    keys: Vec<(usize, f64)>,
    /// The possible error of the score of each key in the row.
    slack: Vec<f64>,
    ties_hold: bool,
}

/// The pairs that a chain keeps.
pub struct Kept {
    /// The weight of each pair.
    pub weights: Vec<f64>,
    /// Whether the choice of each pair was clear: rounding cannot change it.
    decided: Vec<bool>,
    /// The tolerance for the weights.
    tolerance: Tolerance,
    keys: usize,
    full: bool,
    /// Whether the backend rounds operands of products.
    is_rounded: bool,
}

impl Kept {
    /// Keeps nothing.
    pub fn nothing(problem: &Problem) -> Self {
        Self::from(problem, vec![0.0; problem.pairs()])
    }

    /// Keeps the pairs with these weights.
    pub fn from(problem: &Problem, weights: Vec<f64>) -> Self {
        let decided = vec![true; problem.pairs()];
        let (keys, is_rounded) = (problem.keys, problem.is_rounded());
        Self { weights, decided, tolerance: Tolerance::EXACT, keys, full: false, is_rounded }
    }

    /// Checks that a mask of the library keeps the same, in every pair whose choice was clear.
    pub fn check(&self, weights: &[f64], is_full: bool) -> Check {
        let clear = self.decided.iter().map(|&decided| f64::from(u8::from(decided))).collect::<Vec<_>>();
        all([
            equal("is_full", is_full, self.full),
            close_mask("the mask", weights, &self.weights, Some(&clear), self.tolerance),
            self.check_clear(),
        ])
    }

    /// Checks that enough choices are clear. If operands of products are rounded, one or two keys depend on rounding in
    /// many rows. Then pairs are counted instead of rows.
    fn check_clear(&self) -> Check {
        let rows = self.decided.chunks(self.keys);
        if self.is_rounded {
            let unclear = self.decided.iter().filter(|decided| !**decided).count();
            let most = self.keys + self.decided.len() / 20;
            return holds(unclear <= most, || format!("{unclear} pairs hang on rounding: too many to tell"));
        }
        let unclear = rows.clone().filter(|row| row.contains(&false)).count();
        holds(unclear <= 1 + rows.len() / 20, || format!("{unclear} rows hang on rounding: too many to tell"))
    }

    /// For each pair, whether its choice is independent of rounded operands of products.
    pub fn is_clear(&self) -> Vec<bool> {
        self.decided.iter().map(|&decided| decided || !self.is_rounded).collect()
    }

    /// Checks that weights are those that a case expects, in every pair that the case compares and whose choice was
    /// clear.
    pub fn expect_where_clear(&self, case: &Case, name: &str, weights: &[f64]) -> Check {
        let compared = case.find("compare").map(|compare| &compare.values);
        let clear = |at: usize| self.decided[at] && compared.is_none_or(|compared| compared[at] == 1.0);
        let clear = (0..self.decided.len()).map(|at| f64::from(u8::from(clear(at)))).collect::<Vec<_>>();
        close_mask(name, weights, &case.tensor(name)?.values, Some(&clear), case.entry.tolerance())
    }

    /// Adds what a chain of maskers keeps.
    pub fn chain(mut self, problem: &Problem, maskers: &[Value]) -> Result<Self> {
        for (place, masker) in maskers.iter().enumerate() {
            if self.full {
                break;
            }
            self.add(problem, place, masker)?;
        }
        Ok(self)
    }

    fn add(&mut self, problem: &Problem, place: usize, masker: &Value) -> Check {
        let keys = problem.keys;
        let window = |row: usize, key: usize, size: i64| {
            let behind = problem.position(row) - key as i64;
            (0..size).contains(&behind)
        };
        match text(masker, "type")? {
            "sink" => {
                let size = size(masker, "sink_size", keys)?;
                self.fill(keys, size >= keys, |_, key| key < size);
            }
            "local" => {
                let size = size(masker, "window_size", keys)?;
                self.fill(keys, size >= keys, |row, key| window(row, key, size as i64));
            }
            "causal" => self.fill(keys, false, |row, key| window(row, key, i64::MAX)),
            "oracle_top_k" | "hash_attention_top_k" | "double_sparsity_top_k" | "quest_top_k" | "pq_cache" => {
                let size = size(masker, "heavy_size", keys)?;
                if size >= keys {
                    self.fill(keys, true, |_, _| true);
                    return Ok(());
                }
                for row in 0..problem.rows() {
                    let candidates = self.candidates(problem, row, scores::of(problem, place, masker, row)?);
                    match masker.get("page_size") {
                        Some(_) => self.keep_pages(row, &candidates, size, count(masker, "page_size")?),
                        None => {
                            let count = size.min(candidates.keys.len());
                            self.undecide_near(row, &candidates, count, count);
                            self.keep_first(row, &candidates, count);
                        }
                    }
                }
            }
            "magic_pig" => self.add_meetings(problem, magic_pig::meetings(problem, masker, &magic_pig::HERE)?),
            "oracle_top_p" => {
                let share = number(masker, "top_p")?;
                match share >= 1.0 {
                    true => self.fill(keys, true, |_, _| true),
                    false => (0..problem.rows()).for_each(|row| self.add_top_p(problem, row, share)),
                }
            }
            other => return Err(format!("the semantics of {other} do not stand here").into()),
        }
        Ok(())
    }

    /// Keeps the pairs for which `keeps` holds with probability 1, or all pairs if `full`.
    fn fill(&mut self, keys: usize, full: bool, keeps: impl Fn(usize, usize) -> bool) {
        self.full = full;
        for (at, weight) in self.weights.iter_mut().enumerate() {
            if full || keeps(at / keys, at % keys) {
                *weight = 1.0;
            }
        }
    }

    /// The visible keys of a row that are not kept yet, sorted by falling score.
    fn candidates(&self, problem: &Problem, row: usize, scores: Scores) -> Candidates {
        let kept = &self.weights[row * self.keys..][..self.keys];
        let open =
            problem.biases(row).into_iter().zip(kept).map(|(bias, kept)| bias > f64::NEG_INFINITY && *kept == 0.0);
        let scored = scores.values.into_iter().enumerate().zip(open);
        let mut keys = scored.filter_map(|(scored, open)| open.then_some(scored)).collect::<Vec<_>>();
        // The sort is stable: among equal scores the lower key comes first.
        keys.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        Candidates { keys, slack: scores.slack, ties_hold: scores.ties_hold }
    }

    /// Keeps the first `count` candidates.
    fn keep_first(&mut self, row: usize, candidates: &Candidates, count: usize) {
        for (key, _) in candidates.keys.iter().take(count) {
            self.weights[row * self.keys + key] = 1.0;
        }
        if let (Some(at), Some(&(_, next))) = (count.checked_sub(1), candidates.keys.get(count)) {
            self.decide(row, candidates.keys[at].1, next, candidates.ties_hold);
        }
    }

    /// Keeps the candidates of the first pages. Pages are ordered by their best candidate. The number of pages is that
    /// of the whole pages in `size`, but at least three.
    fn keep_pages(&mut self, row: usize, candidates: &Candidates, size: usize, page_size: usize) {
        let mut pages = Vec::<(usize, f64)>::new();
        for &(key, score) in &candidates.keys {
            if pages.iter().all(|(page, _)| *page != key / page_size) {
                pages.push((key / page_size, score));
            }
        }
        let count = (size / page_size).max(3);
        if let Some(&(_, next)) = pages.get(count) {
            self.decide(row, pages[count - 1].1, next, candidates.ties_hold);
        }
        pages.truncate(count);
        for (key, _) in &candidates.keys {
            if pages.iter().any(|(page, _)| *page == key / page_size) {
                self.weights[row * self.keys + key] = 1.0;
            }
        }
    }

    /// Keeps the visible keys that are not kept yet and that collide with the query in a table, with their collision
    /// probability.
    fn add_meetings(&mut self, problem: &Problem, meetings: Vec<Option<f64>>) {
        let visible = (0..problem.rows()).flat_map(|row| problem.biases(row)).map(|bias| bias > f64::NEG_INFINITY);
        for (at, (meeting, visible)) in meetings.into_iter().zip(visible).enumerate() {
            if visible && self.weights[at] == 0.0 {
                self.weights[at] = meeting.unwrap_or(0.0);
                self.decided[at] &= meeting.is_some();
            }
        }
        self.tolerance = COLLISIONS;
    }

    /// Marks a row as undecided if the last chosen score and the next one are too close.
    fn decide(&mut self, row: usize, last: f64, next: f64, ties_hold: bool) {
        self.undecide_unless(row, last - next > BOUNDARY * (1.0 + next.abs()) || (ties_hold && last == next));
    }

    /// Marks candidates as undecided if the possible errors of the scores decide whether they are chosen. The number of
    /// chosen candidates is at least `least` and at most `most`.
    fn undecide_near(&mut self, row: usize, candidates: &Candidates, least: usize, most: usize) {
        if !self.is_rounded {
            return;
        }
        // If earlier choices depend on rounding, the set of competing keys does too.
        if self.decided[row * self.keys..][..self.keys].contains(&false) {
            return self.undecide_unless(row, false);
        }
        let scored = || candidates.keys.iter().map(|&(key, score)| (score, candidates.slack[key])).enumerate();
        for (place, (score, slack)) in scored() {
            // Scores without an error are already in order.
            let is_exact = |other: f64| slack + other == 0.0;
            let may_come_first = |(at, (value, other)): &(usize, (f64, f64))| match is_exact(*other) {
                true => *at < place,
                false => *at != place && value + other >= score - slack,
            };
            let comes_first = |(at, (value, other)): &(usize, (f64, f64))| match is_exact(*other) {
                true => *at < place,
                false => value - other > score + slack,
            };
            let is_kept = scored().filter(may_come_first).count() < least;
            let is_dropped = scored().filter(comes_first).count() >= most;
            self.decided[row * self.keys + candidates.keys[place].0] &= is_kept || is_dropped;
        }
    }

    fn undecide_unless(&mut self, row: usize, clear: bool) {
        self.decided[row * self.keys..][..self.keys].iter_mut().for_each(|decided| *decided &= clear);
    }

    fn add_top_p(&mut self, problem: &Problem, row: usize, share: f64) {
        let exponentials = problem.exponentials(row);
        let kept = &self.weights[row * problem.keys..][..problem.keys];
        let sampled = exponentials.iter().zip(kept).filter(|(mass, weight)| **mass > 0.0 && **weight > 0.0);
        let wanted = share * exponentials.iter().sum::<f64>();
        let keeps_nothing = sampled.clone().count() == 0;
        let mut reached = sampled.map(|(mass, weight)| mass / weight).sum::<f64>();
        let scores = scores::logits(problem, row);
        // A share of the mass has a relative error: the errors of the logits in the share minus the errors of all
        // logits. These are means over many logits, so the relative error is at most the possible error of one logit.
        let slack = exponentials.iter().zip(&scores.slack).map(|(mass, slack)| mass * slack).sum::<f64>() * share;
        let candidates = self.candidates(problem, row, scores);
        let needed = |wanted: f64| {
            let (mut reached, mut count) = (reached, 0);
            while count < candidates.keys.len() && (reached < wanted || (count == 0 && keeps_nothing)) {
                reached += exponentials[candidates.keys[count].0];
                count += 1;
            }
            count
        };
        self.undecide_near(row, &candidates, needed(wanted - slack), needed(wanted + slack));
        let mut count = 0;
        while count < candidates.keys.len() && (reached < wanted || (count == 0 && keeps_nothing)) {
            // A share of 0 is reached by the first key alone.
            self.undecide_unless(row, share == 0.0 || (wanted - reached).abs() > BOUNDARY * wanted);
            reached += exponentials[candidates.keys[count].0];
            count += 1;
        }
        self.undecide_unless(row, count == candidates.keys.len() || (reached - wanted).abs() > BOUNDARY * wanted);
        self.keep_first(row, &candidates, count);
    }
}

/// A size in keys. A fraction is rounded down, but is at least one key.
fn size(masker: &Value, name: &str, keys: usize) -> Result<usize> {
    let size = field(masker, name)?;
    match (size.as_u64(), size.as_f64()) {
        (Some(count), _) => Ok(count as usize),
        (None, Some(fraction)) => Ok(((fraction * keys as f64) as usize).max(1)),
        (None, None) => Err(format!("{name} of {masker} is no size").into()),
    }
}
