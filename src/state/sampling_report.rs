/// The draws of a sampler and its estimated errors, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingReport {
    /// One entry for each row. Rows are counted over batch, heads and queries.
    pub rows: Vec<RowSample>,
}

/// The draws of a sampler in one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowSample {
    /// The number of keys from which the sampler drew.
    pub population: usize,
    /// The number of keys that the sampler drew.
    pub drawn: usize,
    /// The standard error of the sampler's target, relative to the norm of the target and estimated from the sample.
    /// The target is the softmax denominator, unless the sampler documents another one. 0 if all keys were drawn.
    pub standard_error: f64,
    /// The bound that the relative error exceeds with the sampler's probability `delta`. Equal to the standard error if
    /// the sampler has no `delta`.
    pub half_width: f64,
}
