use half::{bf16, f16};

/// A tensor of up to four dimensions in the memory of the host.
pub trait HostTensor: Send + Sync {
    /// The lengths of its four dimensions. A tensor with fewer dimensions has leading dimensions of length 1.
    fn dims(&self) -> [usize; 4];

    /// One borrowed slice for each of the `dims[0] * dims[1]` heads. A slice is `[dims[2], dims[3]]` without gaps.
    fn heads(&self) -> Heads<'_>;
}

/// The heads of a [tensor](HostTensor), by number type.
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

/// The lengths of a tensor of up to four dimensions, with leading ones for missing dimensions.
pub(crate) fn of_four(dims: &[usize]) -> [usize; 4] {
    let mut four = [1; 4];
    four[4 - dims.len()..].copy_from_slice(dims);
    four
}
