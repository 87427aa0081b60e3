use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{GenerationConfig, ModelError, SamplingConfig};

/// Picks the next token from the logits: the most likely one, or a sample.
///
/// Samples depend only on the seed of the configuration and on the logits. If the logits are equal on two backends, the
/// tokens are equal too.
#[derive(Debug, Clone)]
pub struct NextToken {
    sampling: Option<SamplingConfig>,
    repetition_penalty: f64,
    generator: Xoshiro256PlusPlus,
}

impl NextToken {
    /// Creates a picker with the settings of a configuration.
    pub fn new(config: &GenerationConfig) -> Self {
        Self {
            sampling: config.sampling,
            repetition_penalty: config.repetition_penalty,
            generator: Xoshiro256PlusPlus::seed_from_u64(config.seed),
        }
    }

    /// The next token. `before` are the tokens of the text so far, for the repetition penalty. Among equally likely
    /// tokens the first one is taken.
    ///
    /// # Errors
    /// If a logit is NaN, or there are no logits.
    pub fn pick(&mut self, mut logits: Vec<f32>, before: &[u32]) -> Result<u32, ModelError> {
        if logits.is_empty() || logits.iter().any(|logit| logit.is_nan()) {
            let allowed = "numbers, at least one; the model or its weights are broken".to_owned();
            return Err(ModelError::Value {
                field: "logits",
                value: format!("{} logits with NaN", logits.len()),
                allowed,
            });
        }
        self.penalise(&mut logits, before);
        match self.sampling {
            None => Ok(likeliest(&logits)),
            Some(sampling) => Ok(self.draw(&logits, sampling)),
        }
    }

    fn penalise(&self, logits: &mut [f32], before: &[u32]) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        let penalty = self.repetition_penalty as f32;
        let mut seen = before.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    fn draw(&mut self, logits: &[f32], SamplingConfig { temperature, top_k, top_p }: SamplingConfig) -> u32 {
        let mut order = (0..logits.len()).collect::<Vec<_>>();
        // The sort is stable, so that among equal logits the first counts as the most likely.
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        order.truncate(top_k.unwrap_or(logits.len()).max(1));
        let highest = f64::from(logits[order[0]]);
        // Infinity minus infinity is NaN, so the highest logit is handled apart: its weight is 1.
        let weight = |&token: &usize| match f64::from(logits[token]) {
            logit if logit == highest => 1.0,
            logit => ((logit - highest) / temperature).exp(),
        };
        let mut weights = order.iter().map(weight).collect::<Vec<_>>();
        let all = weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let kept = weights.iter().position(|weight| {
            sum += weight;
            sum >= top_p * all
        });
        weights.truncate(kept.map_or(weights.len(), |last| last + 1));
        let mut left = self.generator.random::<f64>() * weights.iter().sum::<f64>();
        let drawn = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        order[drawn.unwrap_or(weights.len() - 1)] as u32
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f64, top_k: Option<usize>, top_p: f64) -> GenerationConfig {
        let config = GenerationConfig::default().with_seed(3);
        config.with_sampling(Some(SamplingConfig { temperature, top_k, top_p })).unwrap()
    }

    /// How often each token is drawn in 4000 draws.
    fn counts(config: &GenerationConfig, logits: &[f32]) -> Vec<usize> {
        let (mut next, mut counts) = (NextToken::new(config), vec![0; logits.len()]);
        for _ in 0..4000 {
            counts[next.pick(logits.to_vec(), &[]).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn the_likeliest_first_token_is_taken() {
        let mut next = NextToken::new(&GenerationConfig::default());
        assert_eq!(next.pick(vec![0.0, 3.0, -1.0, 3.0], &[]).unwrap(), 1);
        assert!(next.pick(vec![0.0, f32::NAN], &[]).is_err());
    }

    #[test]
    fn repeated_tokens_lose_on_both_sides_of_zero() {
        let mut next = NextToken::new(&GenerationConfig { repetition_penalty: 2.0, ..GenerationConfig::default() });
        assert_eq!(next.pick(vec![3.0, 2.0], &[0, 0]).unwrap(), 1);
        assert_eq!(next.pick(vec![-1.0, -1.5], &[0]).unwrap(), 1);
        // The penalty applies once, however often the token is in the text: 5 / 2 is above 2.
        assert_eq!(next.pick(vec![5.0, 2.0], &[0, 0, 0]).unwrap(), 0);
    }

    #[test]
    fn tokens_are_drawn_by_their_probabilities() {
        // Probabilities 1/7, 4/7, 2/7.
        let logits = [0.0f32, 4f32.ln(), 2f32.ln()];
        let near = |count: usize, share: f64| (count as f64 / 4000.0 - share).abs() < 0.03;
        let all = counts(&sampling(1.0, None, 1.0), &logits);
        assert!(near(all[0], 1.0 / 7.0) && near(all[1], 4.0 / 7.0), "{all:?}");
        // Half the temperature squares the odds: 1, 16, 4.
        let cold = counts(&sampling(0.5, None, 1.0), &logits);
        assert!(near(cold[0], 1.0 / 21.0) && near(cold[1], 16.0 / 21.0), "{cold:?}");
        let two = counts(&sampling(1.0, Some(2), 1.0), &logits);
        assert!(two[0] == 0 && near(two[1], 2.0 / 3.0), "{two:?}");
        // The most likely token has the probability 0.571. A top-p of 0.6 needs the second token too, and 0.5 does not.
        assert!(counts(&sampling(1.0, None, 0.6), &logits)[2] > 0);
        assert_eq!(counts(&sampling(1.0, None, 0.5), &logits), [0, 4000, 0]);
    }

    #[test]
    fn a_seed_draws_the_same_again() {
        let logits = vec![0.0f32; 50];
        let draws = |seed| {
            let mut next = NextToken::new(&sampling(1.0, None, 1.0).with_seed(seed));
            (0..20).map(|_| next.pick(logits.clone(), &[]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }
}
