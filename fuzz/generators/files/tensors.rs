//! Safetensors files.

use serde_json::{Value, json};

use super::{Expected, Made};
use crate::generators::{Source, mutations, weights};

/// A file made from a valid one.
pub fn make(source: &mut Source) -> Made {
    let good = weights::perceptrons(source.below(3), source.between(1, 2), [4, 3, 5]);
    let (expected, how, content) = match source.below(9) {
        0 => (Expected::Read, "good".to_owned(), good),
        1 => {
            let length = source.below(good.len());
            (
                Expected::Refused("a safetensors file that is cut is refused"),
                format!("cut to {length} bytes"),
                good[..length].to_vec(),
            )
        }
        2 => (
            Expected::Refused("a safetensors file with bytes too many is refused"),
            "bytes behind the end".to_owned(),
            [&good[..], &vec![0; source.between(1, 9)]].concat(),
        ),
        3 => {
            let lengths = [0, 1, 7, u64::MAX, i64::MAX as u64, 1 << 32, 100_000_001, good.len() as u64];
            let length = *source.pick(&lengths);
            (
                Expected::Refused("a safetensors header of another length is refused"),
                format!("a header of {length} bytes"),
                [&length.to_le_bytes(), &good[8..]].concat(),
            )
        }
        4 => (Expected::Either, "changed bytes".to_owned(), mutations::of_bytes(source, &good)),
        5 => {
            let (header, data) = parts(&good);
            let header = mutations::of_text(source, &header);
            (Expected::Either, "a changed header".to_owned(), joined(&header, &data))
        }
        6 => {
            let (header, data) = parts(&good);
            let header = mutations::other_number(source, &header);
            (Expected::Either, "another number in the header".to_owned(), joined(&header, &data))
        }
        7 => {
            let (header, data) = parts(&good);
            let name = "\"hat.0.query_bias.0\":{\"dtype\":\"F32\",\"shape\":[1,3],\"data_offsets\":[0,12]},";
            let header = format!("{{{name}{name}{}", &header[1..]);
            (
                Expected::Refused("a safetensors name that stands twice is refused"),
                "a name that stands twice".to_owned(),
                joined(&header, &data),
            )
        }
        _ => entry(source, &good),
    };
    Made { content, extension: "safetensors", expected, how }
}

/// A file with an entry of the header changed, removed or renamed.
fn entry(source: &mut Source, good: &[u8]) -> (Expected, String, Vec<u8>) {
    let (header, data) = parts(good);
    let mut header: Value = serde_json::from_str(&header).expect("the header of a good file");
    let entries = header.as_object_mut().expect("the header of a good file is an object");
    let names = entries.keys().filter(|name| name.starts_with("hat")).cloned().collect::<Vec<_>>();
    let name = source.pick(&names).clone();
    let (expected, how) = match source.below(5) {
        0 => {
            entries.remove(&name);
            (Expected::Refused("weights without one tensor are refused"), format!("`{name}` is gone"))
        }
        1 => {
            let layer = *source.pick(&["18446744073709551615", "18446744073709551616", "-1", "01", ""]);
            let other = name.splitn(3, '.').last().map(|rest| format!("hat.{layer}.{rest}")).unwrap_or_default();
            let entry = entries.remove(&name).unwrap_or_default();
            entries.insert(other.clone(), entry);
            (Expected::Refused("weights with a tensor by another name are refused"), format!("`{name}` is `{other}`"))
        }
        2 => {
            let dtype = *source.pick(&["F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "nonsense"]);
            entries[&name]["dtype"] = json!(dtype);
            (Expected::Either, format!("`{name}` of {dtype}"))
        }
        3 => {
            let shapes =
                [json!([]), json!([0]), json!([1_u64 << 62, 4, 4]), json!([u64::MAX, 2]), json!([1, 1, 1, 15])];
            let shape = source.pick(&shapes).clone();
            let how = format!("`{name}` of shape {shape}");
            entries[&name]["shape"] = shape;
            (Expected::Refused("a tensor that does not fit its bytes is refused"), how)
        }
        _ => {
            let offsets = [json!([0, u64::MAX]), json!([12, 0]), json!([u64::MAX, u64::MAX]), json!([1, 13])];
            let offsets = source.pick(&offsets).clone();
            let how = format!("`{name}` at {offsets}");
            entries[&name]["data_offsets"] = offsets;
            (Expected::Refused("a tensor that does not fit its bytes is refused"), how)
        }
    };
    (expected, how, joined(&header.to_string(), &data))
}

/// The header and the data after it.
fn parts(good: &[u8]) -> (String, Vec<u8>) {
    let length = good[..8].iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
    (String::from_utf8_lossy(&good[8..8 + length]).into_owned(), good[8 + length..].to_vec())
}

fn joined(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}
