use half::{bf16, f16};

/// A tensor of four dimensions in the memory of the host.
pub trait HostTensor: Send + Sync {
    /// The lengths of its dimensions.
    fn dims(&self) -> [usize; 4];

    /// Each of its `dims[0] * dims[1]` heads, `[dims[2], dims[3]]` without gaps, borrowed from where it lies.
    fn heads(&self) -> Heads<'_>;
}

/// The heads of a [tensor](HostTensor), by type of number.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Heads<'a> {
    /// Single precision.
    F32(Vec<&'a [f32]>),
    /// Double precision.
    F64(Vec<&'a [f64]>),
    /// Half precision.
    F16(Vec<&'a [f16]>),
    /// Brain floating point.
    BF16(Vec<&'a [bf16]>),
}
