//! Cases of text: `tokenizer` and `adapter_request`.

use burn::tensor::{DType, backend::Backend};
use serde::Deserialize;
use serde_json::Value;
use sparse_attention_hub::{
    adapters::{ModelAdapterHF, ModelHubAdapterInterface, Request, RequestOptions, SparseAttentionAdapterInterface},
    masker::NamedConfig,
    method::MaskerChainConfig,
    models::{Pretrained, Tokenizer},
    nn::AttentionMode,
};

use super::{
    report::Outcome,
    vectors::{Case, Check, Result, all, equal, field, text},
};

/// Kind `tokenizer`.
pub fn tokenizer(case: &Case) -> Result<Outcome> {
    let tokenizer = Tokenizer::from_file(case.directory.join(case.entry.text("tokenizer_file")?))?;
    let row = |row: &Value| -> Check {
        let ids = tokenizer.encode(text(row, "text")?, true)?;
        let tokens = ids.iter().filter_map(|&id| tokenizer.token(id)).collect::<Vec<_>>();
        let wanted = serde_json::from_value::<Vec<u32>>(field(row, "ids")?.clone())?;
        let decoded = tokenizer.decode(&wanted, true)?;
        let mut stream = tokenizer.stream();
        let mut streamed = String::new();
        for &id in &wanted {
            streamed.push_str(&stream.push(id)?);
        }
        streamed.push_str(&stream.finish()?);
        all([
            equal("tokens", tokens, serde_json::from_value(field(row, "tokens")?.clone())?),
            equal("decoded", decoded.as_str(), text(row, "decoded")?),
            equal("streamed", streamed, decoded.clone()),
            equal("with special", tokenizer.decode(&wanted, false)?.as_str(), text(row, "decoded_with_special")?),
            equal("ids", ids, wanted),
        ])
    };
    all(case.entry.rows()?.iter().map(row))?;
    Ok(Outcome::Passed)
}

/// One value, or a list of them.
fn one_or_several<T: for<'a> Deserialize<'a>>(value: &Value) -> Result<Vec<T>> {
    match value {
        Value::Array(_) => Ok(serde_json::from_value(value.clone())?),
        one => Ok(vec![serde_json::from_value(one.clone())?]),
    }
}

/// Kind `adapter_request`.
pub fn request<B: Backend>(case: &Case) -> Result<Outcome> {
    let folder = case.directory.join(case.entry.text("model_dir")?);
    let maskers = match case.entry.config("maskers")? {
        Value::Null => Vec::new(),
        maskers => Vec::<NamedConfig>::deserialize(maskers)?,
    };
    let method = MaskerChainConfig { maskers: maskers.into(), directory: case.directory.to_owned() };
    let pretrained = Pretrained::<B>::from_directory(folder, &method, DType::F32, &B::Device::default())?;
    let mut adapter = ModelAdapterHF::new(pretrained);
    let given = case.entry.json("request")?;
    let request = Request {
        context: text(given, "context")?.to_owned(),
        questions: one_or_several(field(given, "questions")?)?,
        answer_prefix: text(given, "answer_prefix")?.to_owned(),
    };
    let options = RequestOptions {
        max_new_tokens: Some(case.entry.number("max_new_tokens")? as usize),
        max_context_length: Some(case.entry.number("max_context_length")? as usize),
        ..RequestOptions::default()
    };
    let wanted = one_or_several::<String>(case.entry.json("responses")?)?;
    let response = adapter.process_request(&request, &options)?;
    let generated = response.answers.iter().map(|answer| answer.tokens.clone()).collect::<Vec<_>>();
    let mut checks = vec![
        equal("context_ids", response.context, serde_json::from_value(case.entry.json("context_ids")?.clone())?),
        equal("generated_ids", generated, serde_json::from_value(case.entry.json("generated_ids")?.clone())?),
        equal("responses", response.responses, wanted),
    ];
    // Each question is answered as if it were the only one. A mode that is set for one request is reset afterwards.
    for (question, answer) in request.questions.iter().zip(&response.answers).rev() {
        let alone = Request { questions: vec![question.clone()], ..request.clone() };
        let again = adapter.in_mode(AttentionMode::Sparse, |adapter| adapter.process_request(&alone, &options))?;
        checks.push(equal("tokens of a question alone", &again.answers[0].tokens, &answer.tokens));
    }
    all(checks)?;
    Ok(Outcome::Passed)
}
