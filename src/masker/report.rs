/// What a sampler drew, and how far it says its estimates may be off, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingReport {
    /// One entry a row, counted over batch, heads and queries.
    pub rows: Vec<RowSample>,
}

/// What a sampler drew in one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowSample {
    /// The keys from which it drew.
    pub population: usize,
    /// The keys that it drew.
    pub drawn: usize,
    /// The standard error of the sampler's target over its norm, estimated from the sample: of the denominator, unless
    /// the sampler says otherwise. 0 if everything was drawn.
    pub standard_error: f64,
    /// What the relative error exceeds with the sampler's probability `delta`; the standard error where there is no
    /// `delta`.
    pub half_width: f64,
}
