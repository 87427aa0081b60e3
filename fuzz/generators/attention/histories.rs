//! Consecutive calls of a method, and sequences in one batch.

use sparse_attention_hub::masker::LayerState;

use super::runs::{
    Run, all_rows, built, check_against_naive, check_same_output, check_same_rows, inputs, must_run, run,
};
use crate::generators::{
    Checked, Fault, Source,
    fault::hold,
    methods::{Wanted, method},
    problem::{Problem, Sizes, VisibilityCase},
};

/// Changing the keys after a position does not change the rows before it.
///
/// # Errors
/// If a row changes.
pub fn the_future_changes_nothing(source: &mut Source) -> Checked {
    let problem = prompt(source);
    let method = method(source, &problem.sizes, Wanted::Any);
    let attention = built(&method)?;
    let (keys, seed) = (problem.sizes.keys, source.bits());
    let cut = source.between(1, keys);
    let of = |fault: Fault| fault.of(format!("{} by {}, cut at {cut}", problem.summary(), method.text()));
    let first = must_run(&attention, &problem, &mut LayerState::new(seed)).map_err(of)?;
    let changed = problem.changed(source, |place| place % keys >= cut);
    let other = must_run(&attention, &changed, &mut LayerState::new(seed)).map_err(of)?;
    let before = |row: &[usize; 3]| keys - problem.sizes.queries + row[2] < cut;
    let rows = all_rows(&problem).into_iter().filter(before).collect::<Vec<_>>();
    let pairs = rows.iter().map(|row| (*row, *row));
    check_same_rows("the future changes nothing", (&problem, &first), (&changed, &other), pairs).map_err(of)?;
    for row in &rows {
        let of_row = |run: &Run| output_of(&problem, run, *row);
        let (a, b) = (of_row(&first), of_row(&other));
        check_same_output("the future changes nothing", &problem, &a, &b).map_err(of)?;
    }
    Ok(())
}

/// A prompt in chunks keeps the same keys as in one call.
///
/// # Errors
/// If a row keeps different keys.
pub fn chunks_are_one_call(source: &mut Source) -> Checked {
    let problem = prompt(source);
    let method = method(source, &problem.sizes, Wanted::Counts);
    let attention = built(&method)?;
    let (keys, seed) = (problem.sizes.keys, source.bits());
    let of = |fault: Fault| fault.of(format!("{} by {}", problem.summary(), method.text()));
    let whole = must_run(&attention, &problem, &mut LayerState::new(seed)).map_err(of)?;
    let mut state = LayerState::new(seed);
    let most = source.between(1, keys);
    let mut start = 0;
    while start < keys {
        let end = (start + source.between(1, most)).min(keys);
        let of = |fault: Fault| of(fault.of(format!("positions {start}..{end}")));
        let chunk = problem.chunk(start..end);
        let found = must_run(&attention, &chunk, &mut state).map_err(of)?;
        check_against_naive(&chunk, &found).map_err(of)?;
        let rows = all_rows(&chunk).into_iter();
        let rows = rows.map(|[batch, head, query]| ([batch, head, start + query], [batch, head, query]));
        check_same_rows("chunks are one call", (&problem, &whole), (&chunk, &found), rows).map_err(of)?;
        start = end;
    }
    Ok(())
}

/// A sequence in a batch keeps the same keys as alone.
///
/// # Errors
/// If it keeps different keys.
pub fn a_batch_is_its_sequences(source: &mut Source) -> Checked {
    let problem = Problem::draw(source);
    let method = method(source, &problem.sizes, Wanted::Any);
    let attention = built(&method)?;
    let seed = source.bits();
    let of = |fault: Fault| fault.of(format!("{} by {}", problem.summary(), method.text()));
    let together = must_run(&attention, &problem, &mut LayerState::new(seed)).map_err(of)?;
    for sequence in 0..problem.sizes.batch {
        let alone = problem.sequence(sequence);
        let found = must_run(&attention, &alone, &mut LayerState::new(seed)).map_err(of)?;
        let rows = all_rows(&alone).into_iter().map(|row| ([sequence, row[1], row[2]], row));
        check_same_rows("a batch is its sequences", (&problem, &together), (&alone, &found), rows).map_err(of)?;
    }
    Ok(())
}

/// A state that has served one sequence either serves another sequence as a new state does, or refuses it.
///
/// # Errors
/// If it does neither.
pub fn states_are_of_one_sequence(source: &mut Source) -> Checked {
    let first = prompt(source);
    let mut sizes = first.sizes;
    match source.below(5) {
        0 => sizes.head_dim = source.between(1, 6),
        1 => sizes.batch = source.between(1, 3),
        2 => (sizes.kv_heads, sizes.heads) = (sizes.heads, sizes.heads),
        3 => sizes.keys = source.between(1, sizes.keys),
        _ => (sizes.heads, sizes.kv_heads) = (2 * sizes.heads, 2 * sizes.kv_heads),
    }
    sizes.queries = sizes.keys;
    if sizes == first.sizes {
        return Ok(());
    }
    let second = Problem::of(source, sizes, first.dtype, VisibilityCase::Causal(0));
    // Files of weights and channels only fit one number of heads and one head size.
    let mut method = method(source, &first.sizes, Wanted::Counts);
    let text = method.text();
    if text.contains("hat_") || text.contains("channel") {
        method.json = serde_json::json!([{"type": "pq_cache", "heavy_size": 2, "pq_sub_dim": 2, "pq_bits": 2}]);
    }
    let attention = built(&method)?;
    let subject = format!("{} by {}, then {}", first.summary(), method.text(), second.summary());
    let of = |fault: Fault| fault.of(&subject);
    let seed = source.bits();
    let mut state = LayerState::new(seed);
    must_run(&attention, &first, &mut state).map_err(of)?;
    let wanted = must_run(&attention, &second, &mut LayerState::new(seed)).map_err(of)?;
    if let Ok(found) = run(&attention, &inputs(&second)?, &mut state) {
        let rows = all_rows(&second).into_iter().map(|row| (row, row));
        check_same_rows("a state is of one sequence", (&second, &wanted), (&second, &found), rows).map_err(of)?;
        let same = wanted.output == found.output;
        hold!(same, "a state is of one sequence", "{subject}: outputs differ");
    }
    Ok(())
}

/// A causal problem with a query at the position of every key.
fn prompt(source: &mut Source) -> Problem {
    let mut sizes = Sizes::draw(source);
    sizes.keys = sizes.keys.min(40);
    sizes.queries = sizes.keys;
    let drawn = Problem::draw_causal(source);
    Problem::of(source, sizes, drawn.dtype, VisibilityCase::Causal(0))
}

fn output_of(problem: &Problem, run: &Run, [batch, head, query]: [usize; 3]) -> Vec<f64> {
    let Sizes { heads, queries, value_dim, .. } = problem.sizes;
    run.output[((batch * heads + head) * queries + query) * value_dim..][..value_dim].to_vec()
}
