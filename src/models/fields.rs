use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::ModelError;
use crate::io::FileError;

/// The largest size that a configuration may name. It is far above the sizes of real models, and small enough that the
/// product of two sizes does not overflow.
const LARGEST: usize = 1 << 28;

/// The fields of a JSON object. Known fields are taken out one by one, so that unknown fields are left.
pub(super) struct Fields {
    path: PathBuf,
    /// The path of an object inside the file, which error messages put before the names of its fields.
    prefix: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Reads a file.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(path).map_err(|source| FileError::Open { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Parses the fields of a text.
    pub fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let reason = match serde_json::from_str(text) {
            Ok(Value::Object(map)) => return Ok(Self { path: path.to_owned(), prefix: String::new(), map }),
            Ok(_) => "it is not an object".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(FileError::Format { path: path.to_owned(), format: "a JSON object", reason })
    }

    /// The error for a value that cannot be used.
    pub fn error(&self, field: &str, value: impl ToString, allowed: impl ToString) -> ModelError {
        ModelError::Field {
            path: self.path.clone(),
            field: format!("{}{field}", self.prefix),
            value: value.to_string(),
            allowed: allowed.to_string(),
        }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes a field. `None` if it is missing or null.
    pub fn take(&mut self, field: &str) -> Option<Value> {
        self.map.remove(field).filter(|value| !value.is_null())
    }

    /// Whether a field is present, even if it is null.
    pub fn has(&self, field: &str) -> bool {
        self.map.contains_key(field)
    }

    /// Takes a field that is an object.
    pub fn object(&mut self, field: &str) -> Result<Option<Self>, ModelError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                let prefix = format!("{}{field}.", self.prefix);
                Ok(Some(Self { path: self.path.clone(), prefix, map }))
            }
            Some(other) => Err(self.error(field, other, "an object")),
        }
    }

    /// Takes a whole number of at least 1.
    pub fn count(&mut self, field: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.take(field) else { return Ok(None) };
        match value.as_u64().and_then(|count| usize::try_from(count).ok()) {
            Some(count @ 1..=LARGEST) => Ok(Some(count)),
            _ => Err(self.error(field, value, format!("a whole number in 1..={LARGEST}"))),
        }
    }

    /// Takes a whole number of at least 1. The field is required.
    pub fn needed_count(&mut self, field: &str) -> Result<usize, ModelError> {
        let count = self.count(field)?;
        count.ok_or_else(|| self.error(field, "missing", "a whole number of at least 1"))
    }

    /// Takes a number above 0.
    pub fn positive(&mut self, field: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.take(field) else { return Ok(None) };
        match value.as_f64().filter(|number| *number > 0.0 && number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.error(field, value, "a number above 0")),
        }
    }

    /// Takes a flag. `default` if the field is missing.
    pub fn flag(&mut self, field: &str, default: bool) -> Result<bool, ModelError> {
        match self.take(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.error(field, other, "true or false")),
        }
    }

    /// Takes a text.
    pub fn text(&mut self, field: &str) -> Result<Option<String>, ModelError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.error(field, other, "a text")),
        }
    }

    /// Takes token numbers: one number or a list. Empty if the field is missing.
    pub fn tokens(&mut self, field: &str) -> Result<Vec<u32>, ModelError> {
        let Some(value) = self.take(field) else { return Ok(Vec::new()) };
        let one = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
        let tokens = match &value {
            Value::Array(list) => list.iter().map(one).collect(),
            single => one(single).map(|token| vec![token]),
        };
        tokens.ok_or_else(|| self.error(field, value, "the number of a token, or a list of them"))
    }

    /// Checks that a field is missing or has the only supported value.
    pub fn only(&mut self, field: &str, supported: &Value) -> Result<(), ModelError> {
        match self.take(field) {
            // 1 and 1.0 are the same number.
            Some(value) if value != *supported && value.as_f64().is_none_or(|x| supported.as_f64() != Some(x)) => {
                Err(self.error(field, value, format!("{supported}, the only value that is supported")))
            }
            _ => Ok(()),
        }
    }

    /// Checks that no unknown field is left. Fields in `without_effect`, private fields and null fields are allowed.
    pub fn finish(self, without_effect: &[&str]) -> Result<(), ModelError> {
        let unknown = self.map.iter().filter(|(field, value)| {
            !value.is_null() && !field.starts_with('_') && !without_effect.contains(&field.as_str())
        });
        let fields = unknown.map(|(field, value)| format!("`{}{field}`: {value}", self.prefix)).collect::<Vec<_>>();
        match fields.is_empty() {
            true => Ok(()),
            false => Err(ModelError::UnknownFields { path: self.path, fields: fields.join(", ") }),
        }
    }

    /// The remaining fields as a JSON object.
    pub fn to_value(&self) -> Value {
        Value::Object(self.map.clone())
    }
}
