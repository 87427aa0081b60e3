//! PyTorch checkpoints: the tensors of a state dictionary, by name.
//!
//! burn-store reads them too, but it takes missing numbers for zeros, ignores strides, and overflows the stack on
//! nested pickles. This reader checks all of this: it returns the tensor that the file holds, or an error.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
    sync::Mutex,
};

use burn::tensor::{DType, TensorData};
use zip::{CompressionMethod, ZipArchive};

use super::{
    FileError,
    pickle::{Pickle, Place, Value},
    read_file,
};

const FORMAT: &str = "a PyTorch checkpoint";

/// A checkpoint whose pickle has been read. The numbers of a tensor are read on request.
pub(crate) struct Checkpoint {
    path: PathBuf,
    tensors: BTreeMap<String, Layout>,
    storages: Storages,
}

/// Where the numbers of a tensor are in the file.
#[derive(Debug, Clone, PartialEq)]
struct Layout {
    /// The name of the storage in the file.
    storage: String,
    /// Its class, such as `FloatStorage`.
    class: String,
    /// How many numbers the storage holds.
    length: usize,
    /// The index in the storage of the tensor's first number.
    offset: usize,
    shape: Vec<usize>,
    /// For each dimension, the distance in the storage between neighbouring numbers.
    strides: Vec<usize>,
}

/// The storages that hold the numbers.
enum Storages {
    /// PyTorch 1.6 and later: an archive with a file for each storage under this prefix.
    Archive { archive: Mutex<ZipArchive<BufReader<File>>>, prefix: String },
    /// Before PyTorch 1.6: all storages are in one file, after the pickles. Here they are held by name.
    Following(BTreeMap<String, Vec<u8>>),
}

impl Checkpoint {
    /// Reads a checkpoint's table of contents.
    ///
    /// # Errors
    /// If the file cannot be read, is not a PyTorch checkpoint, or does not hold a dictionary.
    pub fn open(path: PathBuf) -> Result<Self, FileError> {
        let (pickle, storages) = match open_archive(&path)? {
            Some(archive) => archive.map_err(|reason| unusable(&path, reason))?,
            None => read_legacy(&read_file(&path)?).map_err(|reason| unusable(&path, reason))?,
        };
        let tensors = tensors(&pickle).map_err(|reason| unusable(&path, reason))?;
        Ok(Self { path, tensors, storages })
    }

    /// The names of the tensors. The name of a tensor in a nested dictionary starts with the dictionary's name and a
    /// point.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// If no tensor has the name.
    pub fn shape(&self, name: &str) -> Result<&[usize], FileError> {
        Ok(&self.layout(name)?.shape)
    }

    /// A tensor of floating-point numbers, in its own type.
    ///
    /// # Errors
    /// If no tensor has the name, its numbers are not floating-point numbers, or some of them are missing in the file.
    pub fn tensor(&self, name: &str) -> Result<TensorData, FileError> {
        let layout = self.layout(name)?;
        self.read(layout).map_err(|reason| unusable(&self.path, format!("`{name}` {reason}")))
    }

    /// The error that a tensor is not in the file.
    pub fn missing(&self, missing: String) -> FileError {
        let found = self.names().take(12).collect::<Vec<_>>().join(", ");
        FileError::Missing { path: self.path.clone(), missing, found }
    }

    /// The error that a tensor does not have the required shape.
    pub fn misshapen(&self, name: &str, expected: String) -> FileError {
        let found = self.tensors.get(name).map(|layout| layout.shape.clone()).unwrap_or_default();
        FileError::Shape { path: self.path.clone(), name: name.to_owned(), found, expected }
    }

    fn layout(&self, name: &str) -> Result<&Layout, FileError> {
        self.tensors.get(name).ok_or_else(|| self.missing(name.to_owned()))
    }

    fn read(&self, layout: &Layout) -> Result<TensorData, String> {
        let dtype = match layout.class.as_str() {
            "FloatStorage" => DType::F32,
            "DoubleStorage" => DType::F64,
            "HalfStorage" => DType::F16,
            "BFloat16Storage" => DType::BF16,
            other => {
                return Err(format!("lies in a storage of the class {other}, but must hold floating-point numbers"));
            }
        };
        let size = dtype.size();
        let count = layout.count()?;
        let wanted = layout.length.checked_mul(size).ok_or("lies in a storage of more bytes than there can be")?;
        let bytes = self.storages.bytes(&layout.storage, wanted)?;
        let mut numbers = Vec::with_capacity(count * size);
        for at in 0..count {
            numbers.extend_from_slice(&bytes[layout.place(at) * size..][..size]);
        }
        Ok(TensorData::from_bytes_vec(numbers, layout.shape.clone(), dtype))
    }
}

impl Layout {
    /// The number of the tensor's elements. An error if some of them are outside the storage.
    fn count(&self) -> Result<usize, String> {
        let outside = || {
            let Self { storage, length, offset, shape, strides, .. } = self;
            format!(
                "has the shape {shape:?} with strides {strides:?} from number {offset} on, which is more than the \
                 {length} numbers of its storage `{storage}`"
            )
        };
        let product = |count: usize, &length: &usize| count.checked_mul(length);
        let count = self.shape.iter().try_fold(1, product).filter(|&count| count <= self.length).ok_or_else(outside)?;
        if count > 0 {
            let reach = self.shape.iter().zip(&self.strides);
            let mut steps = reach.map(|(&length, &stride)| (length - 1).checked_mul(stride));
            let last = steps.try_fold(self.offset, |sum, steps| sum.checked_add(steps?));
            last.filter(|&last| last < self.length).ok_or_else(outside)?;
        }
        Ok(count)
    }

    /// The index in the storage of element `at` in row-major order.
    fn place(&self, mut at: usize) -> usize {
        let mut place = self.offset;
        for (&length, &stride) in self.shape.iter().zip(&self.strides).rev() {
            place += at % length * stride;
            at /= length;
        }
        place
    }
}

impl Storages {
    /// The bytes of a storage. There must be `wanted` bytes, as the tensors require.
    fn bytes(&self, name: &str, wanted: usize) -> Result<Vec<u8>, String> {
        let wrong = |found: u64| format!("lies in storage `{name}`, which has {found} bytes in place of {wanted}");
        match self {
            Self::Following(storages) => match storages.get(name) {
                Some(bytes) if bytes.len() == wanted => Ok(bytes.clone()),
                Some(bytes) => Err(wrong(bytes.len() as u64)),
                None => Err(format!("lies in storage `{name}`, which is not in the file")),
            },
            Self::Archive { archive, prefix } => {
                // Reading does not change the archive, so a reader that panicked has left it intact.
                let mut archive = archive.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let entry = format!("{prefix}data/{name}");
                if archive.index_for_name(&entry).is_none() {
                    return Err(format!("lies in storage `{entry}`, which is not in the file"));
                }
                let bytes = read_entry(&mut archive, &entry)?;
                if bytes.len() == wanted { Ok(bytes) } else { Err(wrong(bytes.len() as u64)) }
            }
        }
    }
}

fn unusable(path: &Path, reason: impl ToString) -> FileError {
    FileError::Format { path: path.to_owned(), format: FORMAT, reason: reason.to_string() }
}

type Content = (Pickle, Storages);

/// The pickle of an archive. `None` if the file is not an archive.
fn open_archive(path: &Path) -> Result<Option<Result<Content, String>>, FileError> {
    let cannot_open = |source| FileError::Open { path: path.to_owned(), source };
    // A pipe is not an archive, and reading from it may never end.
    let metadata = std::fs::metadata(path).map_err(cannot_open)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let file = File::open(path).map_err(cannot_open)?;
    let Ok(archive) = ZipArchive::new(BufReader::new(file)) else { return Ok(None) };
    Ok(Some(read_archive(archive)))
}

fn read_archive(mut archive: ZipArchive<BufReader<File>>) -> Result<Content, String> {
    let prefix = archive.file_names().find_map(|name| {
        let prefix = name.strip_suffix("data.pkl")?;
        (prefix.is_empty() || prefix.ends_with('/')).then(|| prefix.to_owned())
    });
    let prefix = prefix.ok_or("the archive has no data.pkl")?;
    let order = format!("{prefix}byteorder");
    if archive.index_for_name(&order).is_some() && read_entry(&mut archive, &order)?.trim_ascii() != b"little" {
        return Err("its numbers are not in little-endian order".to_owned());
    }
    let name = format!("{prefix}data.pkl");
    let pickle = Pickle::read(&read_entry(&mut archive, &name)?).map_err(|error| format!("{name}: {error}"))?;
    Ok((pickle, Storages::Archive { archive: Mutex::new(archive), prefix }))
}

/// A file of an archive. PyTorch does not compress files, so a file is never larger than the archive.
fn read_entry(archive: &mut ZipArchive<BufReader<File>>, name: &str) -> Result<Vec<u8>, String> {
    let mut entry = archive.by_name(name).map_err(|error| format!("{name}: {error}"))?;
    if entry.compression() != CompressionMethod::Stored {
        return Err(format!("{name} is compressed, as PyTorch writes none"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|error| format!("{name}: {error}"))?;
    Ok(bytes)
}

/// The first bytes of an archive.
const ARCHIVE: &[u8] = b"PK\x03\x04";

/// The first pickle of files from before PyTorch 1.6: an integer of ten bytes.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Reads a file from before PyTorch 1.6. It holds several pickles (a version, the byte order, the dictionary, the names
/// of its storages). Each storage follows, after the number of its elements. A file with a single pickle is a
/// dictionary without storages.
fn read_legacy(bytes: &[u8]) -> Result<Content, String> {
    let mut rest = bytes;
    let mut next = || -> Result<Pickle, String> {
        let pickle = Pickle::read(rest).map_err(|error| error.to_string())?;
        rest = &rest[pickle.length..];
        Ok(pickle)
    };
    if bytes.starts_with(ARCHIVE) {
        return Err("the archive is cut off or damaged".to_owned());
    }
    if !bytes.starts_with(MAGIC) {
        return Ok((next()?, Storages::Following(BTreeMap::new())));
    }
    let (_magic, _version, system, pickle, names) = (next()?, next()?, next()?, next()?, next()?);
    if let Value::Dict(fields) = system.root() {
        let little = |&(key, value): &(Place, Place)| {
            *system.value(key) == Value::Text("little_endian".to_owned()) && *system.value(value) == Value::Bool(false)
        };
        if fields.iter().any(little) {
            return Err("its numbers are not in little-endian order".to_owned());
        }
    }
    let sizes = storage_sizes(&pickle)?;
    let Value::List(list) = names.root() else { return Err("it has no list of storages".to_owned()) };
    let mut storages = BTreeMap::new();
    for &name in list {
        let Value::Text(name) = names.value(name) else { return Err("a storage has no name".to_owned()) };
        let cut = || format!("storage `{name}` is cut off");
        let (count, after) = rest.split_first_chunk().ok_or_else(cut)?;
        let count = usize::try_from(u64::from_le_bytes(*count)).map_err(|_| cut())?;
        let size = *sizes.get(name.as_str()).ok_or_else(|| format!("storage `{name}` belongs to no tensor"))?;
        let length = count.checked_mul(size).ok_or_else(cut)?;
        let (numbers, after) = after.split_at_checked(length).ok_or_else(cut)?;
        rest = after;
        storages.insert(name.clone(), numbers.to_vec());
    }
    Ok((pickle, Storages::Following(storages)))
}

/// The size in bytes of one number, for each storage that a pickle names.
fn storage_sizes(pickle: &Pickle) -> Result<BTreeMap<&str, usize>, String> {
    let mut sizes = BTreeMap::new();
    for place in 0..pickle.len() {
        let Value::Persistent(identifier) = pickle.value(place) else { continue };
        let (class, name, _) = storage(pickle, *identifier)?;
        let size = match class {
            "DoubleStorage" | "LongStorage" | "ComplexFloatStorage" => 8,
            "FloatStorage" | "IntStorage" | "ComplexHalfStorage" => 4,
            "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
            "ByteStorage" | "CharStorage" | "BoolStorage" => 1,
            other => return Err(format!("storage `{name}` is a {other}, of which the size is not known")),
        };
        sizes.insert(name, size);
    }
    Ok(sizes)
}

/// The tensors of the dictionary and of its nested dictionaries.
fn tensors(pickle: &Pickle) -> Result<BTreeMap<String, Layout>, String> {
    let Value::Dict(root) = pickle.root() else {
        return Err(format!("it holds {} in place of a dictionary of tensors", pickle.root().kind()));
    };
    let mut tensors = BTreeMap::new();
    let mut open = vec![(String::new(), root)];
    let mut entries = 0;
    while let Some((prefix, dict)) = open.pop() {
        for &(key, value) in dict {
            // Dictionaries that hold each other would give entries without end.
            entries += 1;
            if entries > pickle.len() {
                return Err("its dictionaries hold each other".to_owned());
            }
            let name = match pickle.value(key) {
                Value::Text(text) => format!("{prefix}{text}"),
                Value::Int(number) => format!("{prefix}{number}"),
                _ => continue,
            };
            match pickle.value(value) {
                Value::Dict(inner) => open.push((format!("{name}."), inner)),
                Value::Call { .. } => {
                    let Some(layout) = layout(pickle, value).map_err(|reason| format!("`{name}` {reason}"))? else {
                        continue;
                    };
                    if tensors.contains_key(&name) {
                        return Err(format!("`{name}` is there twice"));
                    }
                    tensors.insert(name, layout);
                }
                _ => {}
            }
        }
    }
    Ok(tensors)
}

/// The tensor that a call makes. `None` if the call makes something else.
fn layout(pickle: &Pickle, mut place: Place) -> Result<Option<Layout>, String> {
    loop {
        let Value::Call { function, arguments } = pickle.value(place) else { return Ok(None) };
        let (Value::Global(function), Value::Tuple(arguments)) = (pickle.value(*function), pickle.value(*arguments))
        else {
            return Ok(None);
        };
        match (function.as_str(), arguments.as_slice()) {
            // A parameter is a tensor with a flag that says whether it is trained.
            ("torch._utils _rebuild_parameter" | "torch._utils _rebuild_parameter_with_state", [tensor, ..]) => {
                place = *tensor;
            }
            (
                "torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2",
                &[of_storage, offset, shape, strides, ..],
            ) => {
                let Value::Persistent(identifier) = pickle.value(of_storage) else {
                    return Err(format!("lies in {} in place of a storage", pickle.value(of_storage).kind()));
                };
                let (class, name, length) = storage(pickle, *identifier)?;
                let (offset, shape, strides) = (size(pickle, offset)?, sizes(pickle, shape)?, sizes(pickle, strides)?);
                if shape.len() != strides.len() {
                    return Err(format!("has the shape {shape:?}, but the strides {strides:?}"));
                }
                let (storage, class) = (name.to_owned(), class.to_owned());
                return Ok(Some(Layout { storage, class, length, offset, shape, strides }));
            }
            _ => return Ok(None),
        }
    }
}

/// The class, the name and the length of a storage from its identifier, `("storage", class, name, device, length)`.
fn storage(pickle: &Pickle, identifier: Place) -> Result<(&str, &str, usize), String> {
    let Value::Tuple(parts) = pickle.value(identifier) else {
        return Err("lies in a storage without class and name".to_owned());
    };
    let &[_, class, name, _, length, ..] = parts.as_slice() else {
        return Err("lies in a storage without class, name or length".to_owned());
    };
    match (pickle.value(class), pickle.value(name)) {
        (Value::Global(class), Value::Text(name)) => {
            let class = class.strip_prefix("torch ").unwrap_or(class);
            Ok((class, name, size(pickle, length)?))
        }
        _ => Err("lies in a storage whose class or name is none".to_owned()),
    }
}

fn sizes(pickle: &Pickle, place: Place) -> Result<Vec<usize>, String> {
    match pickle.value(place) {
        Value::Tuple(parts) | Value::List(parts) => parts.iter().map(|&part| size(pickle, part)).collect(),
        other => Err(format!("has {} in place of a list of sizes", other.kind())),
    }
}

fn size(pickle: &Pickle, place: Place) -> Result<usize, String> {
    match pickle.value(place) {
        Value::Int(number) => usize::try_from(*number).map_err(|_| format!("has the size {number}")),
        other => Err(format!("has {} in place of a size", other.kind())),
    }
}
