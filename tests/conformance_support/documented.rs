//! Attention inside a model, computed a second time in f64.

use std::{collections::HashMap, fs};

use burn::tensor::{Tensor, backend::Backend};
use serde_json::{Value, json};
use sparse_attention_hub::{
    attention::AttentionError,
    nn::AttentionHook,
    prelude::{AttentionInputs, LayerState, Masker, Requested, masked_attention},
};

use super::{
    fixtures::{host, weights},
    own::{Kept, Problem, check_attention},
    vectors::{Case, Check, Data, Entry, Result, all, field, text},
};

/// A hook that attends through the methods of the layers. It records each call in which the mask or the output is not
/// the documented one.
pub struct Documented<'a, B: Backend> {
    case: &'a Case<'a>,
    maskers: &'a [Value],
    checks: Vec<Check>,
    backend: std::marker::PhantomData<B>,
}

impl<'a, B: Backend> Documented<'a, B> {
    /// The hook for the maskers of a case.
    pub fn of(case: &'a Case<'a>, maskers: &'a [Value]) -> Self {
        Self { case, maskers, checks: Vec::new(), backend: std::marker::PhantomData }
    }

    /// Checks that all calls were as documented.
    pub fn check(self) -> Check {
        all(self.checks)
    }

    /// Checks the mask and the output of one layer.
    fn check_call(&self, inputs: &AttentionInputs<B>, kept: &[f64], is_full: bool, output: &[f64]) -> Check {
        let entry = serde_json::from_value::<Entry>(json!({
            "name": self.case.entry.name,
            "kind": self.case.entry.kind,
            "config": {"scaling": inputs.scale(), "layer_idx": inputs.layer()},
        }))?;
        let data = |tensor: &Tensor<B, 4>| Data { dims: tensor.dims().to_vec(), values: host(tensor.clone()) };
        let [.., queries, keys] = inputs.mask_shape().dims();
        let hidden = |at: usize| at % keys > keys - queries + at / keys;
        let bias = (0..queries * keys).map(|at| if hidden(at) { f64::NEG_INFINITY } else { 0.0 }).collect();
        let mut tensors = HashMap::from([
            ("q".to_owned(), data(inputs.queries())),
            ("k".to_owned(), data(inputs.keys())),
            ("v".to_owned(), data(inputs.values())),
            ("attention_mask".to_owned(), Data { dims: vec![1, 1, queries, keys], values: bias }),
        ]);
        for masker in self.maskers {
            if let Ok(file) = text(masker, "sorted_channel_file") {
                let channels = self.channels(file, text(masker, "channel_selection")?, inputs.layer())?;
                tensors.insert("sorted_channels".to_owned(), channels);
            }
        }
        let case = Case::of(&entry, self.case.directory, tensors);
        let problem = Problem::of::<B>(&case)?;
        all([
            Kept::nothing(&problem).chain(&problem, self.maskers)?.check(kept, is_full),
            check_attention::<B>(&case, output, None, &problem.attend(kept)),
        ])
    }

    /// The channels of a layer, `[heads, channels]`.
    fn channels(&self, file: &str, selection: &str, layer: usize) -> Result<Data> {
        let content = serde_json::from_slice::<Value>(&fs::read(self.case.directory.join(file))?)?;
        let heads = field(&content, &format!("model.layers.{layer}.self_attn.{selection}"))?;
        let heads = serde_json::from_value::<Vec<Vec<f64>>>(heads.clone())?;
        let dims = vec![heads.len(), heads.first().map_or(0, Vec::len)];
        Ok(Data { dims, values: heads.concat() })
    }
}

impl<B: Backend> AttentionHook<B> for Documented<'_, B> {
    fn attend(
        &mut self,
        maskers: &dyn Masker<B>,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
    ) -> std::result::Result<Tensor<B, 4>, AttentionError> {
        let mask = maskers.mask(inputs, state)?;
        let output = masked_attention(inputs, &mask, Requested::default())?.output;
        let by_query = host(output.clone().swap_dims(1, 2));
        let check = self.check_call(inputs, &weights(&mask), mask.is_full(), &by_query);
        self.checks.push(check.map_err(|error| format!("layer {}: {error}", inputs.layer()).into()));
        Ok(output)
    }
}
