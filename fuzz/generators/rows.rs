//! The maskers and scorers of the tests' table of methods whose fields the generator does not draw. A new masker is fuzzed
//! with the configuration of its row.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::{
    methods::{SCORERS, draws_fields},
    problem::Sizes,
    weights,
};

#[path = "../../tests/common/methods.rs"]
mod table;

/// The first row of a masker or of a scorer.
pub struct Row {
    /// The name of the masker or scorer.
    pub name: String,
    method: &'static table::Method,
}

impl Row {
    /// The configuration of the row.
    pub fn config(&self, sizes: &Sizes) -> Value {
        (self.method.config)(sizes)
    }

    /// Whether the masker selects keys by their content.
    pub fn selects(&self) -> bool {
        self.method.selects
    }

    /// Whether the masker samples keys.
    pub fn samples(&self) -> bool {
        self.method.samples
    }
}

/// The rows of the maskers whose fields the generator does not draw.
pub fn maskers() -> &'static [Row] {
    static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| rows(|config| &config["type"], draws_fields));
    &ROWS
}

/// The rows of the scorers whose fields the generator does not draw.
pub fn scorers() -> &'static [Row] {
    static ROWS: LazyLock<Vec<Row>> =
        LazyLock::new(|| rows(|config| &config["scorer"]["type"], |name| SCORERS.contains(&name)));
    &ROWS
}

/// The first row of each name that is not known.
fn rows(name: fn(&Value) -> &Value, is_known: fn(&str) -> bool) -> Vec<Row> {
    let sizes = Sizes { batch: 1, heads: 1, kv_heads: 1, queries: 1, keys: 1, head_dim: 2, value_dim: 1 };
    let mut rows = Vec::<Row>::new();
    for method in table::METHODS {
        let config = (method.config)(&sizes);
        if let Some(name) = name(&config).as_str()
            && !is_known(name)
            && rows.iter().all(|row| row.name != name)
        {
            rows.push(Row { name: name.to_owned(), method });
        }
    }
    rows
}

/// The scorer `hash` of the table.
fn hash(sizes: &Sizes) -> Value {
    let mut scorer = weights::hash(sizes);
    scorer["type"] = json!("hash");
    scorer
}

/// The scorer `channels` of the table.
fn channels(sizes: &Sizes) -> Value {
    let mut scorer = weights::channels(sizes);
    for (field, value) in [("type", json!("channels")), ("group_factor", json!(1)), ("label_bits", json!(4))] {
        scorer[field] = value;
    }
    scorer
}
