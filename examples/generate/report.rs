//! The cost of a run.

use std::{io, path::PathBuf, time::Duration};

use sparse_attention_hub::{eval::AttentionMeter, models::Generated};

use super::common::say;

/// The times and token counts of a run.
pub struct Run {
    backend: String,
    method: PathBuf,
    loaded: Duration,
    prefill: (usize, Duration),
    decode: (usize, Duration),
    densities: Vec<(f64, f64)>,
}

impl Run {
    /// A run whose model is loaded.
    pub fn new(backend: String, method: PathBuf, loaded: Duration) -> Self {
        let nothing = (0, Duration::ZERO);
        Self { backend, method, loaded, prefill: nothing, decode: nothing, densities: Vec::new() }
    }

    /// Adds prefilled tokens.
    pub fn read(&mut self, tokens: usize, time: Duration) {
        self.prefill.0 += tokens;
        self.prefill.1 += time;
    }

    /// Adds an answered question.
    pub fn answered(&mut self, question: usize, generated: &Generated, meter: &AttentionMeter) {
        self.read(question, generated.prefill);
        self.decode.0 += generated.tokens.len().saturating_sub(1);
        self.decode.1 += generated.decode.saturating_sub(meter.overhead());
        self.densities.push((meter.density(), meter.read()));
    }

    /// Prints the run, with the peak memory.
    pub fn print(&self, peak_megabytes: f32) -> io::Result<()> {
        let speed = |(tokens, time): (usize, Duration)| match time.as_secs_f64() {
            0.0 => "none".to_owned(),
            seconds => format!("{tokens} tokens in {seconds:.2} s, {:.1} a second", tokens as f64 / seconds),
        };
        let mean = |part: fn(&(f64, f64)) -> f64| {
            self.densities.iter().map(part).sum::<f64>() / self.densities.len().max(1) as f64
        };
        say!("\nbackend      {}", self.backend)?;
        say!("method       {}", self.method.display())?;
        say!("load         {:.2} s", self.loaded.as_secs_f64())?;
        say!("prefill      {}", speed(self.prefill))?;
        say!("decode       {}", speed(self.decode))?;
        say!("density      {:.3} of the pairs of heads and keys", mean(|densities| densities.0))?;
        say!("K/V read     {:.3} of the keys and values a token", mean(|densities| densities.1))?;
        say!("peak memory  {peak_megabytes:.0} MB on the host")
    }
}
