use std::{collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor},
};

/// Reads JSON in which no object has the same key twice.
///
/// JSON does not define which value of a repeated key counts. `serde_json` takes the last one without an error.
///
/// # Errors
/// If the text is not JSON, does not fit the type, or repeats a key. The error names the key and its place.
pub fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str::<DistinctKeys>(text)?;
    serde_json::from_str(text)
}

/// Any JSON without repeated keys. Its content is not stored.
struct DistinctKeys;

impl<'de> Deserialize<'de> for DistinctKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DistinctKeys)
    }
}

impl<'de> Visitor<'de> for DistinctKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if keys.contains(&key) {
                return Err(A::Error::custom(format_args!("the key `{key}` stands twice in the same object")));
            }
            keys.insert(key);
            map.next_value::<Self>()?;
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_repeated_key_is_named() {
        for text in [
            r#"{"sink_size": 1, "sink_size": 2}"#,
            r#"[{"type": "top_k", "scorer": {"sink_size": 1, "a": [null, true, -1, 0.5], "sink_size": 1}}]"#,
            "{\"a\": 1,\n \"sink_\\u0073ize\": 1, \"sink_size\": 2}",
        ] {
            let error = from_json::<Value>(text).unwrap_err().to_string();
            assert!(error.contains("the key `sink_size` stands twice") && error.contains("line"), "{error}");
        }
    }

    #[test]
    fn the_same_key_of_other_objects_is_none_of_it() {
        let value =
            json!([{"a": {"a": 1.5, "b": "text"}, "b": [{"a": null}, {"a": -3}, {"a": u64::MAX}]}, {"a": true}]);
        assert_eq!(from_json::<Value>(&value.to_string()).unwrap(), value);
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        for text in ["", "{", "[1,]", "{\"a\"}", "1 2", &"[".repeat(100_000)] {
            assert!(from_json::<Value>(text).is_err());
        }
    }
}
