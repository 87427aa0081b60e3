//! One call of a method.

use burn::tensor::DType;
use serde_json::{Value, json};
use sparse_attention_hub::{
    attention::{AttentionReport, Requested},
    masker::{Context, LayerState},
    method::{DoubleSparsityConfig, EfficientAttention, HashAttentionConfig},
};

use super::runs::{
    all_rows, built, check_against_naive, check_same_output, check_same_rows, inputs, is_wide, must_run, run,
};
use crate::generators::{
    B, Checked, Fault, Source, device,
    fault::hold,
    methods::{self, Method, Wanted, method},
    numbers::{first_far, numbers},
    problem::{Problem, VisibilityCase},
};

/// The output of a method is attention over its mask. The same seed gives the same output. Keys that no query sees may
/// hold arbitrary numbers.
///
/// # Errors
/// If a property does not hold.
pub fn hidden_keys_change_nothing(source: &mut Source) -> Checked {
    let problem = Problem::draw(source);
    let method = method(source, &problem.sizes, Wanted::Any);
    let attention = built(&method)?;
    let seed = source.bits();
    let of = |fault: Fault| fault.of(format!("{} by {}", problem.summary(), method.text()));
    let first = must_run(&attention, &problem, &mut LayerState::new(seed)).map_err(of)?;
    check_against_naive(&problem, &first).map_err(of)?;
    let again = must_run(&attention, &problem, &mut LayerState::new(seed)).map_err(of)?;
    let repeated = first.weights == again.weights && first_far(&first.output, &again.output, 0.0).is_none();
    hold!(repeated, "the same seed gives the same", "{} by {}", problem.summary(), method.text());
    if source.once_in(4) {
        check_report(&problem, &first.mask).map_err(of)?;
    }
    let seen = problem.seen_by_any();
    if seen.iter().all(|seen| *seen) {
        return Ok(());
    }
    let changed = problem.changed(source, |place| !seen[place]);
    let other = must_run(&attention, &changed, &mut LayerState::new(seed)).map_err(of)?;
    let rows = all_rows(&problem).into_iter().map(|row| (row, row));
    check_same_rows("hidden keys change nothing", (&problem, &first), (&changed, &other), rows).map_err(of)?;
    check_same_output("hidden keys change nothing", &problem, &first.output, &other.output).map_err(of)
}

/// A report over finite inputs contains only finite numbers.
fn check_report(problem: &Problem, mask: &sparse_attention_hub::mask::Mask<B>) -> Checked {
    let report = AttentionReport::of(&inputs(problem)?, mask)
        .map_err(|error| Fault::new("a report of a valid call works", error.to_string()))?;
    for head in &report.heads {
        let densities = [head.density.visible, head.density.all];
        let shares = densities.iter().all(|share| (0.0..=1.0).contains(share));
        hold!(shares, "densities are shares", "{head:?}");
        hold!((-1e-3..=1.001).contains(&head.mass_kept), "the kept mass is a share", "{head:?}");
        hold!(!head.output_error.is_nan() && !head.log_sum_exp_error.is_nan(), "errors are numbers", "{head:?}");
    }
    Ok(())
}

/// A method that keeps every key equals dense attention.
///
/// # Errors
/// If it differs.
pub fn everything_is_dense(source: &mut Source) -> Checked {
    let problem = Problem::draw(source);
    let method = method(source, &problem.sizes, Wanted::Everything);
    let of = |fault: Fault| fault.of(format!("{} by {}", problem.summary(), method.text()));
    let mut run = must_run(&built(&method)?, &problem, &mut LayerState::new(source.bits())).map_err(of)?;
    run.weights.iter_mut().for_each(|weight| *weight = 1.0);
    check_against_naive(&problem, &run)
        .map_err(|fault| Fault::new("a full budget is dense attention", fault.to_string()))
        .map_err(of)
}

/// A NaN in a query shows in its output, if the method selects by the query and, without the NaN, keeps a visible key.
///
/// # Errors
/// If it does not show.
pub fn what_is_not_a_number_shows(source: &mut Source) -> Checked {
    let mut problem = Problem::draw(source);
    let method = method(source, &problem.sizes, Wanted::Any);
    let rows = all_rows(&problem);
    let row = source.below(rows.len());
    let (width, keys) = (problem.sizes.head_dim, problem.sizes.keys);
    let channel = source.below(width);
    let seed = source.bits();
    let of =
        |problem: &Problem, fault: Fault| fault.of(format!("{} by {}, row {row}", problem.summary(), method.text()));
    let as_number = must_run(&built(&method)?, &problem, &mut LayerState::new(seed));
    let as_number = as_number.map_err(|fault| of(&problem, fault))?;
    problem.queries[row * width + channel] = f64::NAN;
    let run = must_run(&built(&method)?, &problem, &mut LayerState::new(seed));
    let run = run.map_err(|fault| of(&problem, fault))?;
    check_against_naive(&problem, &run).map_err(|fault| of(&problem, fault))?;
    let [batch, head, query] = rows[row];
    let sees = (0..keys)
        .any(|key| as_number.weights[row * keys + key] > 0.0 && problem.bias([batch, head, query, key]).is_some());
    let output = &run.output[row * problem.sizes.value_dim..][..problem.sizes.value_dim];
    let shows = output.iter().any(|x| x.is_nan());
    hold!(
        shows || !sees || !method.chooses,
        "a query that is not a number shows",
        "{} by {}, row {row}: {output:?}",
        problem.summary(),
        method.text()
    );
    Ok(())
}

/// A part of the queries gives the same rows as all queries.
///
/// # Errors
/// If a row differs.
pub fn some_queries_are_rows_of_all(source: &mut Source) -> Checked {
    let problem = Problem::draw(source);
    if !is_wide(problem.dtype) {
        return Ok(());
    }
    // Only maskers whose rows depend on position and scores alone, with sizes that are counts.
    let names = ["sink", "local", "causal", "oracle_top_k", "oracle_top_p"];
    let configs = (0..source.between(1, 3)).map(|_| {
        let name = *source.pick(&names);
        methods::masker(source, &problem.sizes, Wanted::Counts, name)
    });
    let method = Method { json: Value::Array(configs.collect()), chooses: false };
    let attention = built(&method)?;
    let all = inputs(&problem)?;
    let first = source.below(problem.sizes.queries);
    let rows = first..source.between(first + 1, problem.sizes.queries);
    let subject = format!("{} by {}, queries {rows:?}", problem.summary(), method.text());
    let failed = |error| Fault::new("some queries of valid inputs work", format!("{subject}: {error}"));
    let some = all.narrow_queries(rows.clone()).map_err(failed)?;
    let positions = (all.offset() + rows.start as isize, some.offset());
    hold!(positions.0 == positions.1, "some queries stand where they stood", "{subject}: {positions:?}");
    let of_all = run(&attention, &all, &mut LayerState::new(1)).map_err(failed)?;
    let of_some = run(&attention, &some, &mut LayerState::new(1)).map_err(failed)?;
    let width = problem.sizes.value_dim;
    for (head, found) in of_some.output.chunks(rows.len() * width).enumerate() {
        let wanted = &of_all.output[(head * problem.sizes.queries + rows.start) * width..][..rows.len() * width];
        let far = first_far(found, wanted, 1e-4);
        hold!(far.is_none(), "some queries are rows of all", "{subject}: {found:?} and not {wanted:?}");
    }
    Ok(())
}

/// Efficient attention gives the same output as the chain of the same maskers.
///
/// # Errors
/// If it does not.
pub fn efficient_is_research(source: &mut Source) -> Checked {
    let mut problem = Problem::draw(source);
    if matches!(problem.seen, VisibilityCase::Masked { .. } | VisibilityCase::Biased { .. })
        || problem.dtype != DType::F32
    {
        problem = Problem::draw_causal(source);
    }
    let name = *source.pick(&["hash_attention_top_k", "double_sparsity_top_k"]);
    let [sink, local, mut heavy] =
        ["sink", "local", name].map(|name| methods::masker(source, &problem.sizes, Wanted::Any, name));
    let chain = Method { json: json!([sink, local, heavy]), chooses: true };
    let subject = format!("{} by {}", problem.summary(), chain.text());
    let failed = |error: String| Fault::new("a valid call works", format!("{subject}: {error}"));
    if let Some(fields) = heavy.as_object_mut() {
        fields.remove("type");
    }
    let config = json!({"sink_size": sink["sink_size"], "window_size": local["window_size"], "top_k": heavy});
    let context = Context::new(&device());
    let efficient: Box<dyn EfficientAttention<B>> = if name == "hash_attention_top_k" {
        let config: HashAttentionConfig = serde_json::from_value(config).map_err(|error| failed(error.to_string()))?;
        Box::new(config.init(&context).map_err(|error| failed(error.to_string()))?)
    } else {
        let config: DoubleSparsityConfig = serde_json::from_value(config).map_err(|error| failed(error.to_string()))?;
        Box::new(config.init(&context).map_err(|error| failed(error.to_string()))?)
    };
    let seed = source.bits();
    let wanted = must_run(&built(&chain)?, &problem, &mut LayerState::new(seed))?;
    let found = efficient.forward(&inputs(&problem)?, &mut LayerState::new(seed), Requested::default());
    let found = numbers(&found.map_err(|error| failed(error.to_string()))?.output);
    let far = first_far(&found, &wanted.output, if is_wide(problem.dtype) { 1e-5 } else { 0.02 });
    hold!(far.is_none(), "efficient attention is research attention", "{subject}: output {far:?}");
    Ok(())
}
