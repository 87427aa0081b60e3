use std::path::PathBuf;

use hf_hub::{Cache, api::sync::ApiBuilder};
use serde_json::Value;

use super::ModelError;

/// Downloads a model of the [HuggingFace hub](https://huggingface.co/models) and returns its folder. The name is
/// `organisation/model`. Files in the cache that the hub's programs share are not downloaded again. Without a network,
/// the cached model is used as it is.
///
/// # Errors
/// If the hub cannot be reached and the model is not cached, the hub has no such model, or a file cannot be fetched.
pub fn download(name: &str) -> Result<PathBuf, ModelError> {
    let failed = |file: &str, error: &dyn ToString| ModelError::Hub {
        name: name.to_owned(),
        file: file.to_owned(),
        reason: error.to_string(),
    };
    let api = ApiBuilder::from_env().build().map_err(|error| failed("access", &error))?;
    let repo = api.model(name.to_owned());
    let files = match (repo.info(), Cache::from_env().model(name.to_owned()).get("config.json")) {
        (Ok(info), _) => info.siblings.into_iter().map(|file| file.rfilename).collect::<Vec<_>>(),
        (Err(_), Some(config)) => return Ok(folder(config)),
        (Err(error), None) => return Err(failed("the list of files", &error)),
    };
    let get = |file: &str| repo.get(file).map_err(|error| failed(file, &error));
    let has = |file: &str| files.iter().any(|found| found == file);
    let config = get("config.json")?;
    get("tokenizer.json")?;
    for file in ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"] {
        if has(file) {
            get(file)?;
        }
    }
    if has("model.safetensors") {
        get("model.safetensors")?;
        return Ok(folder(config));
    }
    let index = "model.safetensors.index.json";
    let text = std::fs::read_to_string(get(index)?).map_err(|error| failed(index, &error))?;
    let content = serde_json::from_str::<Value>(&text).map_err(|error| failed(index, &error))?;
    let shards = content.get("weight_map").and_then(Value::as_object).into_iter().flat_map(|map| map.values());
    let mut shards = shards.filter_map(Value::as_str).collect::<Vec<_>>();
    shards.sort_unstable();
    shards.dedup();
    for shard in shards {
        get(shard)?;
    }
    Ok(folder(config))
}

/// The folder of a file.
fn folder(mut file: PathBuf) -> PathBuf {
    file.pop();
    file
}
