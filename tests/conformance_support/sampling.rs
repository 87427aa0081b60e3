//! Cases of sampling. The library draws keys by its own rules, so no case passes with the expected values. The tests
//! replay the recorded draws through the rule that counts repeated draws. They also let the library draw, and check the
//! documented properties of its draws.

use std::collections::BTreeMap;

use burn::tensor::backend::Backend;
use serde_json::Value;
use sparse_attention_hub::{
    mask::{Csr, MaskError},
    masker::{AdaptiveBudget, AdaptiveSamplingConfig, sampling::with_replacement},
    prelude::{AttentionInputs, LayerState, Mask, MaskShape, masked_attention},
};

use super::{
    chains::concerning,
    fixtures::{EVERYTHING, attention_weights, config_of, inputs, output, research_attention, shape_of_case, weights},
    own::{Kept, Problem, check_attention},
    products,
    report::{Outcome, Quirks, judge},
    vectors::{Case, Check, Data, Result, Tolerance, all, close, equal, holds, number},
};
use crate::common::attention_rounding;

/// A sampling problem: the mask of the maskers before the sampler, and the sampler.
struct Setting<'a, B: Backend> {
    inputs: AttentionInputs<B>,
    problem: Problem<'a>,
    maskers: Vec<Value>,
    before: Mask<B>,
    before_weights: Vec<f64>,
    /// For each pair, whether its choice is independent of rounded operands of products.
    is_clear: Vec<bool>,
}

impl<'a, B: Backend> Setting<'a, B> {
    /// The setting of a case. The mask before the sampler is checked against the documented semantics.
    fn of(case: &'a Case<'a>) -> Result<Self> {
        let inputs = inputs::<B>(case)?;
        let maskers = case.entry.maskers()?;
        let earlier = &maskers[..maskers.len() - 1];
        let problem = products::problem::<B>(case, earlier, None)?;
        let before = match earlier.is_empty() {
            true => Mask::empty(inputs.mask_shape(), &inputs.device()),
            false => research_attention(case, earlier)?.mask(&inputs, &mut LayerState::new(0))?,
        };
        let before_weights = weights(&before);
        let own = Kept::nothing(&problem).chain(&problem, earlier)?;
        own.check(&before_weights, before.is_full()).map_err(|error| format!("before the sampler: {error}"))?;
        let is_clear = own.is_clear();
        Ok(Self { inputs, problem, maskers, before, before_weights, is_clear })
    }

    fn keys(&self) -> usize {
        self.problem.keys
    }

    fn earlier(&self) -> &[Value] {
        &self.maskers[..self.maskers.len() - 1]
    }

    fn sampler(&self) -> &Value {
        &self.maskers[self.maskers.len() - 1]
    }

    /// Whether an earlier masker keeps a key of a row.
    fn is_kept(&self, row: usize, key: usize) -> bool {
        self.before_weights[row * self.keys() + key] > 0.0
    }

    /// Replays draws with replacement. For each row, `draws` has the drawn keys and the number of draws. Compares
    /// attention with `output_hh` and with attention in f64. Returns the quirks of the earlier maskers that explain a
    /// difference to `output_hh`.
    fn check_replay(&self, case: &Case, draws: &[(Vec<u32>, usize)], population: usize) -> Result<Quirks> {
        let mut csr = Csr { indices: Vec::new(), ptr: vec![0], data: Vec::new() };
        let mut own = self.before_weights.clone();
        for (row, (drawn, draws)) in draws.iter().enumerate() {
            // A draw of a key that is already kept counts as a draw and adds no key.
            let new = drawn.iter().copied().filter(|&key| !self.is_kept(row, key as usize)).collect::<Vec<_>>();
            for (key, weight) in with_replacement(&new, *draws, population) {
                csr.indices.push(key as usize);
                csr.data.push(weight);
            }
            csr.ptr.push(csr.indices.len());
            let mut times = BTreeMap::<u32, f64>::new();
            new.iter().for_each(|&key| *times.entry(key).or_default() += 1.0);
            for (key, times) in times {
                own[row * self.keys() + key as usize] = *draws as f64 / (times * population as f64);
            }
        }
        let mask = self.before.merge(&Mask::from_csr(self.before.shape(), &csr, &self.inputs.device())?)?;
        let attention = masked_attention(&self.inputs, &mask, EVERYTHING)?;
        let (output, shares) = (output(&attention), attention_weights(&attention)?);
        all([
            close("the replayed mask", &weights(&mask), &own, Tolerance::ROUNDING),
            check_attention::<B>(case, &output, Some(&shares), &self.problem.attend(&own)),
        ])?;
        let Some(unbiased) = case.find("output_hh") else { return Ok(Vec::new()) };
        let tolerance = case.entry.attention_tolerance().widened(attention_rounding::<B>());
        match close("output_hh", &output, &unbiased.values, tolerance) {
            Ok(()) => Ok(Vec::new()),
            // In the case, keys that depend on rounding may be other ones.
            Err(_) if self.is_clear.contains(&false) => Ok(Vec::new()),
            // `output_hh` depends on the mask of the earlier maskers, which may itself differ.
            Err(error) => match concerning(case.entry, self.earlier()) {
                quirks if quirks.is_empty() => Err(error),
                quirks => Ok(quirks),
            },
        }
    }

    /// Lets the library draw, and checks each row. The population is the visible keys that are not kept yet and for
    /// which `may_be_drawn` holds, given the logits of the row. All drawn keys must be in the population, and their
    /// weight must be the drawn share of it. The keys that were kept before must be unchanged. `check` must hold for
    /// the number of drawn keys and the size of the population.
    fn check_own_draws(
        &self,
        case: &Case,
        may_be_drawn: impl Fn(usize, &[f64]) -> bool,
        check: impl Fn(usize, usize) -> Check,
    ) -> Check {
        if self.before.is_full() {
            return Ok(());
        }
        let sampler = research_attention::<B>(case, std::slice::from_ref(self.sampler()))?;
        let mask = sampler.maskers()[0].add(&self.inputs, &mut LayerState::new(7), self.before.clone())?;
        let found = weights(&mask);
        for (row, found) in found.chunks(self.keys()).enumerate() {
            let logits = self.problem.logits(row);
            let is_open =
                |key: usize| logits[key] > f64::NEG_INFINITY && !self.is_kept(row, key) && may_be_drawn(key, &logits);
            let population = (0..self.keys()).filter(|&key| is_open(key)).count();
            let drawn = (0..self.keys()).filter(|&key| found[key] > 0.0 && is_open(key)).count();
            let share = if population == 0 { 0.0 } else { drawn as f64 / population as f64 };
            let wanted = (0..self.keys()).map(|key| match (is_open(key), found[key] > 0.0) {
                (true, true) => share,
                (true, false) => 0.0,
                (false, _) => self.before_weights[row * self.keys() + key],
            });
            all([
                close(&format!("row {row} with own draws"), found, &wanted.collect::<Vec<_>>(), Tolerance::ROUNDING),
                check(drawn, population),
            ])?;
        }
        Ok(())
    }
}

/// The indices of each row of a tensor, without padding.
fn rows_of(data: &Data) -> Vec<Vec<u32>> {
    let indices = data.integers().collect::<Vec<_>>();
    let used = |row: &[i64]| row.iter().filter_map(|&key| u32::try_from(key).ok()).collect();
    indices.chunks(data.width().max(1)).map(used).collect()
}

/// Kind `random_sampling`.
pub fn random<B: Backend>(case: &Case) -> Result<Outcome> {
    let setting = Setting::<B>::of(case)?;
    let rate = number(setting.sampler(), "sampling_rate")?;
    let drawn = rows_of(case.tensor("row_wise_idx")?);
    let draws = drawn.into_iter().map(|row| (row.clone(), row.len())).collect::<Vec<_>>();
    judge(Err("the library draws other keys, by another rule".into()), || {
        let mut quirks = setting.check_replay(case, &draws, setting.keys())?;
        setting.check_own_draws(
            case,
            |_, _| true,
            |drawn, population| equal("the number of keys drawn", drawn, (rate * population as f64).ceil() as usize),
        )?;
        quirks.extend(["Q03", "Q30", "Q31", "Q32"]);
        Ok(quirks)
    })
}

/// Kind `adaptive_sampling`.
pub fn adaptive<B: Backend>(case: &Case) -> Result<Outcome> {
    let setting = Setting::<B>::of(case)?;
    let config = config_of::<AdaptiveSamplingConfig>(setting.sampler())?;
    let range = config.range(setting.keys());
    all([
        equal("the start of the range", range.start, case.entry.number("start_idx")? as usize),
        equal("the end of the range", range.end, case.entry.number("end_idx")? as usize),
        check_deviations(case, &setting.problem),
    ])?;
    let drawn = rows_of(case.tensor("final_idx")?);
    let budgets = case.tensor("budget")?.integers().map(|budget| budget as usize).collect::<Vec<_>>();
    let draws = drawn.into_iter().zip(&budgets).map(|(row, &budget)| (row, budget)).collect::<Vec<_>>();
    judge(Err("the library draws other keys, by another rule".into()), || {
        let mut quirks = check_before(case, &setting)?;
        for quirk in setting.check_replay(case, &draws, range.len())? {
            if !quirks.contains(&quirk) {
                quirks.push(quirk);
            }
        }
        quirks.extend(check_budgets(case, &setting, &budgets)?);
        setting.check_own_draws(
            case,
            // The range ends before the last key that the row sees.
            |key, logits| {
                let end = logits.iter().rposition(|logit| *logit > f64::NEG_INFINITY).map_or(0, |last| last + 1);
                let range = config.range_of_row(end, setting.keys());
                range.len() < 2 || range.contains(&key)
            },
            |drawn, population| {
                let least = if population < 2 { population } else { config.base_count(population) };
                holds(drawn >= least, || format!("{drawn} keys of {population} are drawn, at least {least} must be"))
            },
        )?;
        quirks.extend(["Q03", "Q30", "Q33", "Q34"]);
        if case.find("prev_mask").is_none() {
            quirks.extend(["Q01", "Q35"]);
        }
        Ok(quirks)
    })
}

/// Checks that the mask of the earlier maskers is that of the case, for visible keys whose choice is clear. Returns the
/// quirks that explain a difference.
fn check_before<B: Backend>(case: &Case, setting: &Setting<B>) -> Result<Quirks> {
    let wanted = case.find("prev_mask").map_or_else(|| vec![0.0; setting.problem.pairs()], |mask| mask.values.clone());
    let visible = |row: usize| setting.problem.logits(row).into_iter().map(|logit| logit > f64::NEG_INFINITY);
    let visible = (0..setting.problem.rows()).flat_map(visible);
    let compared = visible.zip(&setting.is_clear).map(|(seen, clear)| seen && *clear).collect::<Vec<_>>();
    let of_visible = |weights: &[f64]| {
        weights.iter().zip(&compared).map(|(weight, &compared)| if compared { *weight } else { 0.0 }).collect()
    };
    let (found, wanted): (Vec<f64>, Vec<f64>) = (of_visible(&setting.before_weights), of_visible(&wanted));
    match close("prev_mask", &found, &wanted, Tolerance::EXACT) {
        Ok(()) => Ok(Vec::new()),
        Err(error) => match concerning(case.entry, setting.earlier()) {
            quirks if quirks.is_empty() => Err(error),
            quirks => Ok(quirks),
        },
    }
}

/// Checks that the deviations of the case are those of the exponentials of its pilot sample.
fn check_deviations(case: &Case, problem: &Problem) -> Check {
    let deviation = |(row, pilot): (usize, Vec<u32>)| {
        let exponentials = problem.exponentials(row);
        let sample = pilot.iter().map(|&key| exponentials[key as usize]).collect::<Vec<_>>();
        let mean = sample.iter().sum::<f64>() / sample.len() as f64;
        let squares = sample.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        (squares / (sample.len() as f64 - 1.0)).sqrt().max(1e-8)
    };
    let deviations = rows_of(case.tensor("base_idx")?).into_iter().enumerate().map(deviation).collect::<Vec<_>>();
    case.expect("std_estimate", &deviations)
}

/// Checks that the pilot and the budgets computed from the case's estimates are those of the case. Returns the quirks
/// that explain a difference.
fn check_budgets<B: Backend>(case: &Case, setting: &Setting<B>, budgets: &[usize]) -> Result<Quirks> {
    let config = config_of::<AdaptiveSamplingConfig>(setting.sampler())?;
    let population = config.range(setting.keys()).len();
    let base = config.base_count(population);
    let wanted_base = case.entry.number("num_base_samples")? as usize;
    equal("the size of the pilot", base, wanted_base.min(population))?;
    let rule = AdaptiveBudget::new(config.epsilon, config.delta);
    let deviations = &case.tensor("std_estimate")?.values;
    let denominators = &case.tensor("estimated_denominator")?.values;
    let mut quirks = Vec::new();
    if base != wanted_base {
        quirks.push("Q37");
    }
    for (row, (&wanted, (&deviation, &denominator))) in
        budgets.iter().zip(deviations.iter().zip(denominators)).enumerate()
    {
        let found = rule.keys(deviation, denominator, population, base);
        let quirk = budget_quirk(found, wanted, config.delta, base)
            .map_err(|error| format!("row {row}: {error}"))?
            .filter(|quirk| !quirks.contains(quirk));
        quirks.extend(quirk);
    }
    Ok(quirks)
}

/// The quirk that explains why a budget is not that of the Python project, if it is not.
pub fn budget_quirk(found: usize, wanted: usize, delta: f64, base: usize) -> Result<Option<&'static str>> {
    match found {
        _ if found == wanted => Ok(None),
        _ if found == wanted + 1 => Ok(Some("Q37")),
        _ if delta > 0.5 && found == base => Ok(Some("Q36")),
        _ => Err(format!("the budget is {found}, not {wanted} or {wanted} rounded up").into()),
    }
}

/// Kind `sampling_mask_budget`: one row of draws after the other.
pub fn mask_of_budget<B: Backend>(case: &Case) -> Result<Outcome> {
    let shape = shape_of_case(case)?;
    let device = B::Device::default();
    let population = case.entry.number("end_idx")? as usize - case.entry.number("start_idx")? as usize;
    let drawn = case.tensor("idx_in_row")?.integers().map(u32::try_from).collect::<std::result::Result<Vec<_>, _>>()?;
    let mut raw = Csr { indices: Vec::new(), ptr: vec![0], data: Vec::new() };
    let mut csr = raw.clone();
    let mut own = vec![0.0; shape.pairs()];
    let probabilities = &case.tensor("sampling_probability")?.values;
    for (row, (budget, &probability)) in case.tensor("budgets")?.integers().zip(probabilities).enumerate() {
        let start = raw.indices.len();
        let drawn = drawn.get(start..start + budget as usize).ok_or("there are fewer draws than budgets")?;
        raw.indices.extend(drawn.iter().map(|&key| key as usize));
        raw.data.extend(drawn.iter().map(|_| probability as f32));
        raw.ptr.push(raw.indices.len());
        for (key, weight) in with_replacement(drawn, drawn.len(), population) {
            let times = drawn.iter().filter(|&&other| other == key).count() as f64;
            own[row * shape.keys + key as usize] = probability / times;
            csr.indices.push(key as usize);
            csr.data.push(weight);
        }
        csr.ptr.push(csr.indices.len());
    }
    let mask = Mask::<B>::from_csr(shape, &csr, &device)?;
    let found = weights(&mask);
    judge(case.expect("dense", &found), || {
        let kept =
            |weights: &[f64]| weights.iter().map(|weight| f64::from(u8::from(*weight > 0.0))).collect::<Vec<_>>();
        all([
            close("what is kept", &kept(&found), &kept(&case.tensor("dense")?.values), Tolerance::EXACT),
            close("the weights", &found, &own, Tolerance::ROUNDING),
            check_duplicates_refused::<B>(shape, &raw, &device),
        ])?;
        Ok(vec!["Q05", "Q30"])
    })
}

fn check_duplicates_refused<B: Backend>(shape: MaskShape, raw: &Csr, device: &B::Device) -> Check {
    let error = Mask::<B>::from_csr(shape, raw, device).err();
    holds(matches!(error, Some(MaskError::Duplicate { .. })), || format!("a key drawn twice gives {error:?}"))
}
