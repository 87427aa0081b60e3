//! Copies of model folders, for tests that damage their files.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use burn::tensor::{DType, backend::Backend};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use sparse_attention_hub::{
    method::MaskerChainConfig,
    models::{LanguageModel, ModelError, Pretrained},
};

/// The temporary folder of one test. It is removed when dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    /// A copy of a model of the conformance vectors.
    pub fn of(model: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = Self(std::env::temp_dir().join(format!("sah-model-{}-{number}", std::process::id())));
        fs::create_dir_all(&folder.0).expect("the temporary folder can be written");
        for entry in fs::read_dir(source(model)).expect("the model is there") {
            let entry = entry.expect("the folder can be listed");
            let content = fs::read(entry.path()).expect("the file can be read");
            fs::write(folder.0.join(entry.file_name()), content).expect("the temporary folder can be written");
        }
        folder
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.0.join(name), content).expect("the temporary folder can be written");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.0.join(name)).expect("the file is there");
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).expect("the file is there")
    }

    /// Changes a JSON file.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&self.read(name)).expect("the file is JSON");
        change(&mut value);
        self.write(name, value.to_string());
    }

    /// Changes the tensors of `model.safetensors`: their names, types, shapes and bytes.
    pub fn edit_tensors(&self, change: impl FnOnce(&mut Vec<(String, Dtype, Vec<usize>, Vec<u8>)>)) {
        let bytes = self.read("model.safetensors");
        let file = SafeTensors::deserialize(&bytes).expect("the file is safetensors");
        let of = |(name, view): (String, TensorView)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec());
        let mut tensors = file.tensors().into_iter().map(of).collect::<Vec<_>>();
        change(&mut tensors);
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).expect("the bytes are those of the shape"))
        });
        self.write("model.safetensors", safetensors::serialize(views, None).expect("the names differ"));
    }

    pub fn model<B: Backend>(&self) -> Result<LanguageModel<B>, ModelError> {
        LanguageModel::from_directory(&self.0, &MaskerChainConfig::default(), DType::F32, &B::Device::default())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that is left in the temporary directory does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The folder of a model of the conformance vectors.
pub fn source(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/models").join(model)
}

/// The model that has a tokenizer, with a method.
pub fn text_model<B: Backend>(method: &str) -> Pretrained<B> {
    let method = MaskerChainConfig::from_json(method).expect("the method is a list");
    Pretrained::from_directory(source("llama_text"), &method, DType::F32, &B::Device::default()).expect("it is whole")
}
