//! The shared parts of the examples that run a language model.

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, backend::Backend};
use clap::Args;
use sparse_attention_hub::{method::MaskerChainConfig, models::Pretrained};

use super::{BackendArguments, find};

/// The model and its number type.
#[derive(Debug, Clone, Args)]
pub struct ModelArguments {
    /// Folder of a HuggingFace model; with the feature `hub` also a name, organisation/model [default: the model of the
    /// examples]
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Number type of the computation: f32, f16 or bf16
    #[arg(long, default_value = "f32")]
    pub dtype: String,
    #[command(flatten)]
    pub backend: BackendArguments,
}

impl ModelArguments {
    /// The folder of the model.
    pub fn folder(&self) -> Result<PathBuf, Box<dyn Error>> {
        let Some(model) = &self.model else { return find("examples/models/lm14m") };
        #[cfg(feature = "hub")]
        if !model.exists() {
            return Ok(sparse_attention_hub::models::download(&model.to_string_lossy())?);
        }
        Ok(model.clone())
    }

    /// Loads the model with a method.
    pub fn load<B: Backend>(
        &self,
        method: &MaskerChainConfig,
        device: &B::Device,
    ) -> Result<Pretrained<B>, Box<dyn Error>> {
        let dtype = match self.dtype.as_str() {
            "f32" => DType::F32,
            "f16" => DType::F16,
            "bf16" => DType::BF16,
            other => return Err(format!("`--dtype` is {other}, but must be f32, f16 or bf16").into()),
        };
        Ok(Pretrained::from_directory(self.folder()?, method, dtype, device)?)
    }
}

/// Reads the text of a file.
pub fn read(path: &Path) -> Result<String, Box<dyn Error>> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()).into())
}
