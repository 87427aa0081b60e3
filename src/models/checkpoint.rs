use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use burn_store::{ModuleStore, SafetensorsStore, TensorSnapshot};
use serde::Deserialize;

use super::ModelError;
use crate::io::FileError;

/// The tensors of a folder, mapped into memory. A tensor is read from the disk when it is used.
pub(super) struct Checkpoint {
    /// The folder.
    pub path: PathBuf,
    /// The tensors by their names in the files.
    pub tensors: BTreeMap<String, TensorSnapshot>,
}

/// The file of each tensor, for checkpoints in several files.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const FORMAT: &str = "a safetensors file";

impl Checkpoint {
    /// Opens the files of a folder.
    pub fn open(directory: &Path) -> Result<Self, ModelError> {
        let (whole, index) = (directory.join(WHOLE), directory.join(INDEX));
        let tensors = match (whole.exists(), index.exists()) {
            (true, _) => tensors(&whole)?,
            (false, true) => shards(directory, &index)?,
            (false, false) => {
                let source = std::io::Error::new(std::io::ErrorKind::NotFound, format!("nor is there {INDEX}"));
                return Err(FileError::Open { path: whole, source }.into());
            }
        };
        Ok(Self { path: directory.to_owned(), tensors })
    }
}

/// The tensors of all files of an index. Each tensor is taken from the file that the index names for it.
fn shards(directory: &Path, index: &Path) -> Result<BTreeMap<String, TensorSnapshot>, ModelError> {
    let unusable = |reason: String| FileError::Format { path: index.to_owned(), format: "an index of weights", reason };
    let text = std::fs::read_to_string(index).map_err(|source| FileError::Open { path: index.to_owned(), source })?;
    let Index { weight_map } = serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    let names = weight_map.values().collect::<BTreeSet<_>>();
    // A name with folders in it could lead out of the model's folder.
    if let Some(name) = names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        return Err(unusable(format!("it names the file {name:?}, which is not the name of a file beside it")).into());
    }
    let missing = names.iter().filter(|name| !directory.join(name).is_file()).map(|name| name.as_str());
    match missing.collect::<Vec<_>>() {
        missing if missing.is_empty() => {}
        missing => return Err(ModelError::MissingShards { path: index.to_owned(), missing: missing.join(", ") }),
    }
    let mut all = BTreeMap::new();
    for name in names {
        for (tensor, snapshot) in tensors(&directory.join(name))? {
            // Another file may also have a tensor with this name, which the index does not refer to.
            if weight_map.get(&tensor).is_none_or(|file| file == name) {
                all.insert(tensor, snapshot);
            }
        }
    }
    Ok(all)
}

/// The tensors of a file.
fn tensors(path: &Path) -> Result<BTreeMap<String, TensorSnapshot>, FileError> {
    let file = std::fs::File::open(path).and_then(|file| file.metadata());
    match file {
        Err(source) => return Err(FileError::Open { path: path.to_owned(), source }),
        Ok(metadata) if !metadata.is_file() => {
            let source = std::io::Error::from(std::io::ErrorKind::IsADirectory);
            return Err(FileError::Open { path: path.to_owned(), source });
        }
        Ok(_) => {}
    }
    let mut store = SafetensorsStore::from_file(path);
    match store.get_all_snapshots() {
        Ok(snapshots) => Ok(snapshots.clone()),
        Err(error) => Err(FileError::Format { path: path.to_owned(), format: FORMAT, reason: error.to_string() }),
    }
}
