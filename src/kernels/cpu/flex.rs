use burn::tensor::{DType, ops::FloatTensor};
use burn_flex::{Flex, FlexTensor};

use super::{Heads, HostTensor, band_attention, band_backward, gather_attention, gather_backward};
use crate::{
    attention::{AttentionGradients, AttentionInputs, AttentionOutput, AttentionTrace, Requested},
    kernels::SparseBackend,
    mask::{Pattern, Rows},
};

impl SparseBackend for Flex {
    fn host_tensor(tensor: FloatTensor<Self>) -> Option<Box<dyn HostTensor>> {
        let known = matches!(tensor.dtype(), DType::F32 | DType::F64 | DType::F16 | DType::BF16);
        (known && tensor.layout().num_dims() == 4).then(|| {
            let gapless = heads_without_gaps(&tensor);
            Box::new(if gapless { tensor } else { tensor.to_contiguous() }) as Box<dyn HostTensor>
        })
    }

    fn band_attention(
        inputs: &AttentionInputs<Self>,
        pattern: Pattern,
        requested: Requested,
    ) -> Option<AttentionOutput<Self>> {
        band_attention(inputs, pattern, requested)
    }

    fn gather_attention(
        inputs: &AttentionInputs<Self>,
        rows: &Rows<Self>,
        requested: Requested,
    ) -> Option<AttentionOutput<Self>> {
        gather_attention(inputs, rows, requested)
    }

    fn band_backward(
        inputs: &AttentionInputs<Self>,
        pattern: Pattern,
        trace: &AttentionTrace<Self>,
    ) -> Option<AttentionGradients<Self>> {
        band_backward(inputs, pattern, trace)
    }

    fn gather_backward(
        inputs: &AttentionInputs<Self>,
        rows: &Rows<Self>,
        trace: &AttentionTrace<Self>,
    ) -> Option<AttentionGradients<Self>> {
        gather_backward(inputs, rows, trace)
    }
}

/// Whether the last two dimensions lie without gaps, so that a head is one slice.
fn heads_without_gaps(tensor: &FlexTensor) -> bool {
    let layout = tensor.layout();
    let (dims, strides) = (layout.shape().to_vec(), layout.strides());
    strides[3] == 1 && strides[2] == dims[3] as isize && strides[..2].iter().all(|&stride| stride >= 0)
}

impl HostTensor for FlexTensor {
    fn dims(&self) -> [usize; 4] {
        self.layout().shape().dims()
    }

    fn heads(&self) -> Heads<'_> {
        match self.dtype() {
            DType::F64 => Heads::F64(slices(self, self.storage())),
            DType::F16 => Heads::F16(slices(self, self.storage())),
            DType::BF16 => Heads::BF16(slices(self, self.storage())),
            _ => Heads::F32(slices(self, self.storage())),
        }
    }
}

fn slices<'a, T>(tensor: &FlexTensor, storage: &'a [T]) -> Vec<&'a [T]> {
    let [batch, heads, length, width] = tensor.layout().shape().dims();
    let (start, strides) = (tensor.layout().start_offset(), tensor.layout().strides());
    let head = |at: usize| {
        let (batch, head) = (at / heads, at % heads);
        let first = start + batch * strides[0].unsigned_abs() + head * strides[1].unsigned_abs();
        &storage[first..first + length * width]
    };
    (0..batch * heads).map(head).collect()
}
