//! The training data of the signatures: queries and keys of a model on text.

use std::{collections::BTreeMap, error::Error, path::Path};

use burn::tensor::{DType, backend::Backend};
use sparse_attention_hub::{
    adapters::Recorder,
    models::{PREFILL_CHUNK, Pretrained},
    nn::AttentionMode,
    prelude::*,
};

/// The queries and keys of one layer.
pub struct Layer<B: Backend> {
    pub number: usize,
    /// Pieces of text for training.
    pub train: Vec<AttentionInputs<B>>,
    /// A piece that is not used for training.
    pub held_out: AttentionInputs<B>,
}

/// The number of tokens of a piece, including the token that begins the sequence.
const PIECE: usize = 2048;

/// Records layers of a model on pieces of a text. The first piece is held out, and the next `pieces` pieces are for
/// training.
pub fn record<B: Backend>(
    model: &Path,
    text: &Path,
    layers: &[usize],
    pieces: usize,
    device: &B::Device,
) -> Result<Vec<Layer<B>>, Box<dyn Error>> {
    let pretrained = Pretrained::<B>::from_directory(model, &MaskerChainConfig::default(), DType::F32, device)?;
    let text = std::fs::read_to_string(text).map_err(|error| format!("cannot read {}: {error}", text.display()))?;
    let tokens = pretrained.tokenizer.encode(&text, false)?;
    let begin = pretrained.model.config().begin_token;
    let chunks = tokens.chunks_exact(PIECE - begin.iter().len()).take(pieces + 1);
    if chunks.len() < pieces + 1 || pieces == 0 {
        let found = tokens.len();
        return Err(format!("{pieces} pieces are to be trained on and one held out, of {found} tokens").into());
    }
    let mut by_layer = BTreeMap::<usize, Vec<_>>::new();
    for chunk in chunks {
        let piece = begin.into_iter().chain(chunk.iter().copied()).collect::<Vec<_>>();
        let (mut cache, mut dense) = (pretrained.model.cache(0), AttentionMode::Dense);
        let mut recorder = Recorder::new(&mut dense, layers.iter().copied(), 0..piece.len());
        pretrained.model.prefill(&piece, &mut cache, PREFILL_CHUNK, &mut recorder)?;
        for recording in recorder.finish()? {
            by_layer.entry(recording.inputs.layer()).or_default().push(recording.inputs);
        }
    }
    let layer = |(number, mut pieces): (usize, Vec<AttentionInputs<B>>)| Layer {
        number,
        held_out: pieces.remove(0),
        train: pieces,
    };
    Ok(by_layer.into_iter().map(layer).collect())
}
