//! The test vectors in their folder, and the comparison of values with them.

use std::{
    collections::HashMap,
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Map, Value};

/// A result whose error is the reason why a case is not as expected.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;
/// `Ok` if something is as expected.
pub type Check = Result<()>;

/// The folder and its manifest.
pub struct Vectors {
    directory: PathBuf,
    manifest: Manifest,
}

#[derive(Deserialize)]
struct Manifest {
    cases: Vec<Entry>,
}

/// A case in the manifest.
#[derive(Deserialize)]
pub struct Entry {
    pub name: String,
    pub kind: String,
    #[serde(default)]
    config: Value,
    file: Option<String>,
    #[serde(default)]
    exact: bool,
    tolerance: Option<Tolerance>,
    flags: Option<Flags>,
    #[serde(default)]
    pub quirks: Vec<String>,
    #[serde(default)]
    table: Value,
    /// The other fields of a case that consists of JSON only.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// A value is accepted if it differs by at most `atol + rtol * |wanted|`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Tolerance {
    pub atol: f64,
    pub rtol: f64,
}

impl Tolerance {
    /// Exact equality.
    pub const EXACT: Self = Self { atol: 0.0, rtol: 0.0 };
    /// One rounding of weights in f32.
    pub const ROUNDING: Self = Self { atol: 1e-6, rtol: 1e-6 };
    /// The tolerance of attention in f32, for cases that do not give one.
    const ATTENTION: Self = Self { atol: 2e-5, rtol: 2e-4 };

    /// The same tolerance, widened by `by`.
    pub fn widened(self, by: f64) -> Self {
        Self { atol: self.atol + by, rtol: self.rtol + by }
    }
}

/// How the Python project marks a mask.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Flags {
    pub is_full: bool,
    #[serde(default)]
    pub is_empty: bool,
}

/// A tensor. Its values are f64, in which integers up to the size of an index are exact.
#[derive(Debug, Clone)]
pub struct Data {
    pub dims: Vec<usize>,
    pub values: Vec<f64>,
}

impl Data {
    /// The first positions of a tensor `[batch, heads, positions, width]`.
    fn first_positions(&self, count: usize) -> Result<Self> {
        let &[batch, heads, positions, width] = &self.dims[..] else {
            return Err("there must be four dimensions".into());
        };
        holds(count <= positions, || format!("there are only {positions} of {count} positions"))?;
        let values = self.values.chunks(positions * width).flat_map(|head| &head[..count * width]);
        Ok(Self { dims: vec![batch, heads, count, width], values: values.copied().collect() })
    }

    /// The values as indices.
    pub fn integers(&self) -> impl Iterator<Item = i64> + '_ {
        self.values.iter().map(|&value| value as i64)
    }

    /// The length of the last dimension.
    pub fn width(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }
}

/// A case with its tensors.
pub struct Case<'a> {
    pub entry: &'a Entry,
    pub directory: &'a Path,
    /// The number of keys at each call with the same state, up to this one.
    pub calls: Vec<usize>,
    tensors: HashMap<String, Data>,
}

impl Vectors {
    /// The vectors of `CONFORMANCE_DIR`, or of `tests/conformance`.
    pub fn open() -> Self {
        let directory = env::var_os("CONFORMANCE_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance"), PathBuf::from);
        let path = directory.join("manifest.json");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!(
                "cannot read the conformance vectors' {}: {error}; set CONFORMANCE_DIR to the folder of manifest.json",
                path.display()
            )
        });
        let manifest = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{} is not a manifest of conformance vectors: {error}", path.display()));
        Self { directory, manifest }
    }

    /// The cases.
    pub fn entries(&self) -> &[Entry] {
        &self.manifest.cases
    }

    /// The folder.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads the tensors of a case.
    pub fn load<'a>(&'a self, entry: &'a Entry) -> Result<Case<'a>> {
        let tensors = match &entry.file {
            Some(file) => read_tensors(&self.directory.join(file))?,
            None => HashMap::new(),
        };
        let calls = tensors.get("k").and_then(|keys| keys.dims.get(2)).copied();
        Ok(Case { entry, directory: &self.directory, calls: calls.into_iter().collect(), tensors })
    }
}

fn read_tensors(path: &Path) -> Result<HashMap<String, Data>> {
    let bytes = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let file =
        SafeTensors::deserialize(&bytes).map_err(|error| format!("{} is not safetensors: {error}", path.display()))?;
    let read = |(name, view): (String, safetensors::tensor::TensorView)| {
        let values = match view.dtype() {
            Dtype::F32 => numbers(view.data(), |bytes| f64::from(f32::from_le_bytes(bytes))),
            Dtype::F64 => numbers(view.data(), f64::from_le_bytes),
            Dtype::I32 => numbers(view.data(), |bytes| f64::from(i32::from_le_bytes(bytes))),
            Dtype::I64 => numbers(view.data(), |bytes| i64::from_le_bytes(bytes) as f64),
            other => return Err(format!("tensor {name} of {} has the type {other:?}", path.display()).into()),
        };
        Ok((name, Data { dims: view.shape().to_vec(), values }))
    };
    file.tensors().into_iter().map(read).collect()
}

fn numbers<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&chunk| number(chunk)).collect()
}

impl Entry {
    /// The table of a case that consists of JSON only.
    pub fn rows(&self) -> Result<&[Value]> {
        Ok(self.table.as_array().ok_or("the case has no table")?)
    }

    /// A field of a case that consists of JSON only.
    pub fn json(&self, name: &str) -> Result<&Value> {
        Ok(self.others.get(name).ok_or_else(|| format!("the case has no {name}"))?)
    }

    /// A parameter of the case.
    pub fn config(&self, name: &str) -> Result<&Value> {
        field(&self.config, name)
    }

    /// A parameter that is a string.
    pub fn text(&self, name: &str) -> Result<&str> {
        text(&self.config, name)
    }

    /// A parameter that is a number.
    pub fn number(&self, name: &str) -> Result<f64> {
        number(&self.config, name)
    }

    /// The maskers of the case: a chain, or the only one.
    pub fn maskers(&self) -> Result<Vec<Value>> {
        let mut maskers = match self.config.get("maskers").and_then(Value::as_array) {
            Some(maskers) => maskers.clone(),
            None => vec![self.config("masker")?.clone()],
        };
        // The Python project fits these maskers to the whole prompt, so a query depends on later keys.
        for masker in &mut maskers {
            let name = masker.get("type").and_then(Value::as_str);
            if name.is_some_and(|name| ["quest_top_k", "pq_cache", "magic_pig"].contains(&name)) {
                masker["fit"] = "prompt".into();
            }
        }
        Ok(maskers)
    }

    /// How the Python project marks the mask, if the case says so.
    pub fn flags(&self) -> Option<Flags> {
        self.flags
    }

    /// The tolerance of the expected values.
    pub fn tolerance(&self) -> Tolerance {
        match (self.exact, self.tolerance) {
            (false, Some(tolerance)) => tolerance,
            _ => Tolerance::EXACT,
        }
    }

    /// The tolerance of attention that is computed a second time.
    pub fn attention_tolerance(&self) -> Tolerance {
        self.tolerance.unwrap_or(Tolerance::ATTENTION)
    }
}

impl<'a> Case<'a> {
    /// A case with the given tensors.
    #[cfg(feature = "hf")]
    pub fn of(entry: &'a Entry, directory: &'a Path, tensors: HashMap<String, Data>) -> Self {
        Self { entry, directory, calls: Vec::new(), tensors }
    }

    /// The calls of a case that keeps its state between calls. The tensors of each call have its number at the end of
    /// their names. They are returned under the names without the number, with the keys and values up to that call.
    pub fn each_call(&self) -> Result<Vec<Self>> {
        let lengths = serde_json::from_value::<Vec<usize>>(self.entry.config("lengths")?.clone())?;
        let call = |(number, &keys): (usize, &usize)| {
            let mut tensors = self.tensors.clone();
            for name in ["k", "v"] {
                if let Some(data) = self.find(name) {
                    tensors.insert(name.to_owned(), data.first_positions(keys)?);
                }
            }
            let suffix = format!("_{number}");
            let numbered =
                |(name, data): (&String, &Data)| Some((name.strip_suffix(&suffix)?.to_owned(), data.clone()));
            tensors.extend(self.tensors.iter().filter_map(numbered));
            Ok(Case { calls: lengths[..=number].to_vec(), tensors, ..*self })
        };
        lengths.iter().enumerate().map(call).collect()
    }

    /// The tensors whose names start with a prefix.
    pub fn starting<'b>(&'b self, prefix: &'b str) -> impl Iterator<Item = (&'b str, &'b Data)> {
        let tensors = self.tensors.iter().map(|(name, data)| (name.as_str(), data));
        tensors.filter(move |(name, _)| name.starts_with(prefix))
    }

    /// A tensor, if the case has it.
    pub fn find(&self, name: &str) -> Option<&Data> {
        self.tensors.get(name)
    }

    /// A tensor, or an error if the case lacks it.
    pub fn tensor(&self, name: &str) -> Result<&Data> {
        Ok(self.find(name).ok_or_else(|| format!("the case has no tensor {name}"))?)
    }

    /// Compares with an expected tensor, within the tolerance of the case.
    pub fn expect(&self, name: &str, found: &[f64]) -> Check {
        close(name, found, &self.tensor(name)?.values, self.entry.tolerance())
    }

    /// Compares with a tensor if the case has it.
    pub fn expect_if_there(&self, name: &str, found: &[f64]) -> Check {
        self.expect_product_if_there(name, found, 0.0)
    }

    /// Compares a result of products with an expected tensor. The tolerance is that of the case plus the error of
    /// rounded operands.
    pub fn expect_product(&self, name: &str, found: &[f64], rounding: f64) -> Check {
        close(name, found, &self.tensor(name)?.values, self.entry.tolerance().widened(rounding))
    }

    /// The same comparison, if the case has the tensor.
    pub fn expect_product_if_there(&self, name: &str, found: &[f64], rounding: f64) -> Check {
        match self.find(name) {
            Some(_) => self.expect_product(name, found, rounding),
            None => Ok(()),
        }
    }

    /// Compares with the expected mask. Only the pairs marked by `compare` are compared, and weights of 0 and 1 must be
    /// exact.
    pub fn expect_mask(&self, name: &str, found: &[f64]) -> Check {
        let wanted = &self.tensor(name)?.values;
        let compared = self.find("compare").map(|compare| compare.values.as_slice());
        close_mask(name, found, wanted, compared, self.entry.tolerance())
    }
}

/// A field of a JSON object.
pub fn field<'a>(object: &'a Value, name: &str) -> Result<&'a Value> {
    Ok(object.get(name).ok_or_else(|| format!("{object} has no {name}"))?)
}

/// A field that is a number.
pub fn number(object: &Value, name: &str) -> Result<f64> {
    Ok(field(object, name)?.as_f64().ok_or_else(|| format!("{name} of {object} is not a number"))?)
}

/// A field that is a whole number.
pub fn integer(object: &Value, name: &str) -> Result<i64> {
    Ok(field(object, name)?.as_i64().ok_or_else(|| format!("{name} of {object} is not a whole number"))?)
}

/// A field that is a non-negative whole number.
pub fn count(object: &Value, name: &str) -> Result<usize> {
    Ok(usize::try_from(integer(object, name)?).map_err(|_| format!("{name} of {object} is below 0"))?)
}

/// A field that is a string.
pub fn text<'a>(object: &'a Value, name: &str) -> Result<&'a str> {
    Ok(field(object, name)?.as_str().ok_or_else(|| format!("{name} of {object} is not a text"))?)
}

/// Combines checks. The error has the messages of all that fail.
pub fn all(checks: impl IntoIterator<Item = Check>) -> Check {
    let messages = checks.into_iter().filter_map(|check| check.err()).map(|error| error.to_string());
    let messages = messages.collect::<Vec<_>>();
    holds(messages.is_empty(), || messages.join("; "))
}

/// `Ok` if a condition holds, otherwise the error message.
pub fn holds(condition: bool, otherwise: impl FnOnce() -> String) -> Check {
    if condition { Ok(()) } else { Err(otherwise().into()) }
}

/// `Ok` if two values are equal.
pub fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Check {
    holds(found == wanted, || format!("{what} is {found:?}, not {wanted:?}"))
}

/// `Ok` if all values are within a tolerance.
pub fn close(what: &str, found: &[f64], wanted: &[f64], tolerance: Tolerance) -> Check {
    close_where(what, found, wanted, |at| Some(within(wanted[at], tolerance)))
}

/// `Ok` if a mask is as wanted in the pairs that are compared. Weights of 0 and 1 must be exact.
pub fn close_mask(what: &str, found: &[f64], wanted: &[f64], compared: Option<&[f64]>, tolerance: Tolerance) -> Check {
    if let Some(compared) = compared {
        equal(&format!("the length of what is compared of {what}"), compared.len(), wanted.len())?;
    }
    close_where(what, found, wanted, |at| match compared {
        Some(compared) if compared[at] != 1.0 => None,
        _ if wanted[at] == 0.0 || wanted[at] == 1.0 => Some(0.0),
        _ => Some(within(wanted[at], tolerance)),
    })
}

fn within(wanted: f64, tolerance: Tolerance) -> f64 {
    tolerance.atol + tolerance.rtol * wanted.abs()
}

/// `Ok` if each value is within the tolerance that `allowed` gives for its index. An index with `None` is not compared.
fn close_where(what: &str, found: &[f64], wanted: &[f64], allowed: impl Fn(usize) -> Option<f64>) -> Check {
    equal(&format!("the number of values of {what}"), found.len(), wanted.len())?;
    let (mut wrong, mut worst) = (0, None);
    for (at, (&found, &wanted)) in found.iter().zip(wanted).enumerate() {
        let Some(allowed) = allowed(at) else { continue };
        let distance = (found - wanted).abs();
        // The condition is written so that a NaN distance fails. The equality lets infinities pass.
        if found == wanted || distance <= allowed {
            continue;
        }
        wrong += 1;
        if worst.is_none_or(|(_, worst)| distance.is_nan() || distance > worst) {
            worst = Some((at, distance));
        }
    }
    let Some((at, distance)) = worst else { return Ok(()) };
    let (found, wanted, of) = (found[at], wanted[at], found.len());
    Err(format!("{what}: {wrong} of {of} values are off, at worst {at}: {found} for {wanted}, off by {distance:.3e}")
        .into())
}
