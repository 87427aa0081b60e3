//! Files that start like safetensors, but are not.

use std::time::Instant;

use serde_json::json;
use sparse_attention_hub::{FileError, backend::DefaultBackend, models::ModelError};

use super::folder::Folder;

/// A file with a stated header length, a header, and a number of zero bytes.
fn file(length: u64, header: &str, bytes: usize) -> Vec<u8> {
    [&length.to_le_bytes()[..], header.as_bytes(), &vec![0; bytes]].concat()
}

fn with(header: &str, bytes: usize) -> Vec<u8> {
    file(header.len() as u64, header, bytes)
}

#[test]
fn malformed_files_are_refused_at_once() {
    let folder = Folder::of("llama_tied");
    let whole = folder.read("model.safetensors");
    let one = |dtype: &str, shape: &str, offsets: &str| {
        with(&format!(r#"{{"x": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}}}"#), 16)
    };
    let cases = [
        ("nothing", Vec::new()),
        ("half a length", vec![9; 4]),
        ("only a length", 8u64.to_le_bytes().to_vec()),
        ("the longest length", file(u64::MAX, "{}", 0)),
        ("a length of 100 MB", file(99_999_999, "{}", 0)),
        ("cut off in the header", whole[..200].to_vec()),
        ("cut off in the numbers", whole[..whole.len() - 1].to_vec()),
        ("one byte too many", [&whole[..], &[0]].concat()),
        ("no JSON", with("[{]", 0)),
        ("a list", with("[]", 0)),
        ("no text", file(4, "", 4)),
        ("nested without end", with(&format!("{}{}", "{\"a\":".repeat(20_000), "}".repeat(20_000)), 0)),
        ("a type that there is not", one("F99", "[4]", "[0, 16]")),
        ("a negative length", one("F32", "[-4]", "[0, 16]")),
        ("more numbers than bytes", one("F32", "[5]", "[0, 16]")),
        ("a product without end", one("F32", "[4294967296, 4294967296, 4294967296]", "[0, 16]")),
        ("an end before the beginning", one("F32", "[4]", "[16, 0]")),
        ("an end behind the file", one("F32", "[8]", "[0, 32]")),
        ("a gap", one("F32", "[2]", "[8, 16]")),
        ("the largest offsets", one("F32", "[4]", "[18446744073709551600, 18446744073709551615]")),
    ];
    for (what, bytes) in cases {
        folder.write("model.safetensors", bytes);
        let start = Instant::now();
        let found = folder.model::<DefaultBackend>().err();
        assert!(matches!(&found, Some(ModelError::File(FileError::Format { .. }))), "{what}: {found:?}");
        assert!(start.elapsed().as_secs() < 10, "{what}");
    }
}

#[test]
fn a_file_without_the_model_is_refused() {
    let folder = Folder::of("llama_tied");
    folder.write("model.safetensors", with("{}", 0));
    let found = folder.model::<DefaultBackend>().err();
    assert!(matches!(&found, Some(ModelError::Weights { mismatch, .. }) if mismatch.missing.len() > 10), "{found:?}");
}

#[test]
fn impossible_sizes_are_refused_before_allocation() {
    let folder = Folder::of("llama_tied");
    for (field, value) in [
        ("num_hidden_layers", json!(4_000_000_000u64)),
        ("hidden_size", json!(u64::MAX)),
        ("vocab_size", json!(1e300)),
        ("num_attention_heads", json!(0)),
        ("head_dim", json!(-1)),
        ("max_position_embeddings", json!("many")),
    ] {
        let config = folder.read("config.json");
        folder.edit("config.json", |config| config[field] = value.clone());
        let found = folder.model::<DefaultBackend>().err();
        assert!(matches!(&found, Some(ModelError::Field { field: found, .. }) if found == field), "{field}: {found:?}");
        folder.write("config.json", config);
    }
    // Each of these sizes is possible, but together they do not fit the weights.
    folder.edit("config.json", |config| config["vocab_size"] = json!(1 << 28));
    assert!(matches!(folder.model::<DefaultBackend>().err(), Some(ModelError::Weights { .. })));
}
