//! What must follow each row of the tables of maskers and scorers: a row in [METHODS] and one in the README.

mod common;

use std::{collections::BTreeSet, fs, path::Path};

use burn::tensor::backend::Backend;
use common::*;
use serde_json::Value;
use sparse_attention_hub::{method::BuiltInMasker, prelude::*, scorer::BuiltInScorer};

on_host_backends!(names_are_those_of_the_registry, every_name_has_a_row_in_methods, every_name_has_a_row_in_the_readme);

fn names_are_those_of_the_registry<B: Backend>() {
    let registry = MaskerRegistry::<B>::new();
    assert!(BuiltInMasker::<B>::names().iter().copied().eq(registry.names()));
    assert!(BuiltInScorer::<B>::names().iter().copied().eq(registry.scorer_names()));
    for names in [BuiltInMasker::<B>::names(), BuiltInScorer::<B>::names()] {
        assert!(names.is_sorted_by(|one, next| one < next), "{names:?}");
    }
}

fn every_name_has_a_row_in_methods<B: Backend>() {
    let configs = METHODS.iter().map(|method| (method.config)(&Sizes::new(1, 4, 2, 1, 1, 12))).collect::<Vec<_>>();
    let named = |of: fn(&Value) -> &Value| configs.iter().filter_map(move |config| of(config).as_str());
    let (maskers, scorers) = (named(|config| &config["type"]), named(|config| &config["scorer"]["type"]));
    assert_eq!(maskers.collect::<BTreeSet<_>>(), BuiltInMasker::<B>::names().iter().copied().collect());
    assert_eq!(scorers.collect::<BTreeSet<_>>(), BuiltInScorer::<B>::names().iter().copied().collect());
}

/// The names in the first column of the table under a header.
fn first_column<'a>(text: &'a str, header: &str) -> BTreeSet<&'a str> {
    let lines = text.lines().skip_while(|line| !line.starts_with(header)).skip(2);
    let cells = lines.take_while(|line| line.starts_with('|')).filter_map(|line| line.split('|').nth(1));
    // Names stand between backticks.
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

fn every_name_has_a_row_in_the_readme<B: Backend>() {
    // A package may be tested without its README.
    let Ok(readme) = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")) else { return };
    let (maskers, scorers) = (first_column(&readme, "| `\"type\"` |"), first_column(&readme, "| `scorer` |"));
    assert_eq!(maskers, BuiltInMasker::<B>::names().iter().copied().collect());
    assert_eq!(scorers, BuiltInScorer::<B>::names().iter().copied().collect());
}
