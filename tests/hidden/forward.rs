//! Outputs, weights and statistics.

use super::*;
use sparse_attention_hub::attention::reference_attention;

on_each_backend!(
    hidden_and_unkept_keys_may_hold_anything,
    a_value_that_is_not_finite_shows_where_it_is_kept,
    a_nan_query_shows_in_its_row,
    a_hidden_value_of_two_keys_does_not_show,
);

const REQUESTS: [Requested; 3] = [
    Requested { weights: true, statistics: true },
    Requested { weights: false, statistics: true },
    Requested { weights: false, statistics: false },
];

/// All results of attention, by name, each with its width.
fn all_of<B: Backend>(output: &AttentionOutput<B>) -> Vec<(&'static str, usize, Vec<f32>)> {
    let mut parts = vec![("output", &output.output)];
    parts.extend(output.weights.as_ref().map(|weights| ("weights", weights)));
    if let Some(statistics) = &output.statistics {
        parts.push(("maximum", &statistics.maximum));
        parts.push(("numerator", &statistics.numerator));
        parts.push(("denominator", &statistics.denominator));
        parts.push(("log-sum-exp", &statistics.log_sum_exp));
    }
    parts.into_iter().map(|(name, part)| (name, part.dims()[3], host(part))).collect()
}

/// The results of every function that computes attention, for the requested results.
fn every_way<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    requested: Requested,
) -> Vec<(&'static str, AttentionOutput<B>)> {
    let mut ways = vec![
        ("attention", masked_attention(inputs, mask, requested).unwrap()),
        ("reference", reference_attention(inputs, mask, requested).unwrap()),
    ];
    if mask.is_full() {
        ways.push(("dense attention", dense_attention(inputs, requested)));
    }
    ways
}

fn hidden_and_unkept_keys_may_hold_anything<B: Backend>() {
    let (mut unchanged, mut changed) = (0, 0);
    for (case, sizes) in CASES.into_iter().enumerate() {
        for (what, good, mask) in cases::<B>(sizes, case as u64) {
            let kept = Kept::of(&good, &mask, sizes);
            let kept_by_no_row = kept.kept_by_no_row();
            let bad = some_of(kept_by_no_row.len(), 7 + case as u64, 0.05, &kept_by_no_row);
            let (keys, values) = (spoiled(good.keys(), &bad), spoiled(good.values(), &bad));
            let spoiled = over(&good, good.queries().clone(), keys, values);
            for requested in REQUESTS {
                let ways = every_way(&spoiled, &mask, requested).into_iter().zip(every_way(&good, &mask, requested));
                for ((way, found), (_, wanted)) in ways {
                    for ((part, width, found), (.., wanted)) in all_of(&found).into_iter().zip(all_of(&wanted)) {
                        for row in 0..kept.rows() {
                            let (found, wanted) = (&found[row * width..][..width], &wanted[row * width..][..width]);
                            let mut kept_and_bad = kept.places(row).filter(|&place| bad[place]).peekable();
                            if kept_and_bad.peek().is_none() {
                                unchanged += 1;
                                assert_eq!(found, wanted, "{part} of row {row} by {way}: {what}");
                            } else if part == "output" && kept_and_bad.any(|place| anything(place).is_nan()) {
                                changed += 1;
                                assert!(found.iter().all(|x| x.is_nan()), "output of row {row} by {way}: {what}");
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(unchanged > 1000 && changed > 1000, "{unchanged} rows kept nothing that was bad, {changed} kept NaN");
}

/// An infinite value makes the output infinite, unless the row also keeps NaN or an infinity of the other sign in the
/// same entry. Entries without such values do not change.
fn a_value_that_is_not_finite_shows_where_it_is_kept<B: Backend>() {
    let (mut infinite, mut none) = (0, 0);
    for (case, sizes) in CASES.into_iter().enumerate() {
        for (what, good, mask) in cases::<B>(sizes, case as u64) {
            let kept = Kept::of(&good, &mask, sizes);
            let kept_by_no_row = kept.kept_by_no_row();
            let bad = some_of(kept_by_no_row.len(), case as u64, 0.1, &kept_by_no_row);
            let (values, special) = sprinkled(good.values(), &bad);
            let sprinkled = over(&good, good.queries().clone(), good.keys().clone(), values);
            for requested in REQUESTS {
                let ways = every_way(&sprinkled, &mask, requested).into_iter().zip(every_way(&good, &mask, requested));
                for ((way, found), (_, wanted)) in ways {
                    for ((part, width, found), (.., wanted)) in all_of(&found).into_iter().zip(all_of(&wanted)) {
                        if part != "output" && part != "numerator" {
                            assert_eq!(found, wanted, "{part} by {way}: {what}");
                            continue;
                        }
                        for row in 0..kept.rows() {
                            for entry in 0..width {
                                let specials = kept.places(row).filter(|&place| bad[place]).map(&special);
                                let specials = specials.filter(|&(at, _)| at == entry).map(|(_, number)| number);
                                let at = row * width + entry;
                                let what = || format!("entry {entry} of {part}, row {row} by {way}: {what}");
                                match specials.reduce(|one, other| one + other) {
                                    None => assert_eq!(found[at], wanted[at], "{}", what()),
                                    Some(sum) if sum.is_nan() => {
                                        none += 1;
                                        assert!(found[at].is_nan(), "{} is {}", what(), found[at]);
                                    }
                                    Some(sum) => {
                                        infinite += 1;
                                        assert_eq!(found[at], sum, "{}", what());
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(infinite > 1000 && none > 1000, "{infinite} infinities and {none} that are no numbers");
}

fn a_nan_query_shows_in_its_row<B: Backend>() {
    for (case, sizes) in CASES.into_iter().enumerate() {
        for (what, good, mask) in cases::<B>(sizes, case as u64) {
            let kept = Kept::of(&good, &mask, sizes);
            let mut queries = host(good.queries());
            let is_bad = |row: usize| row % 3 == 1;
            for (at, number) in queries.iter_mut().enumerate() {
                if is_bad(at / sizes.head_dim) && at % sizes.head_dim == 0 {
                    *number = f32::NAN;
                }
            }
            let queries = tensor(&queries, good.queries().dims());
            let spoiled = over(&good, queries, good.keys().clone(), good.values().clone());
            for requested in REQUESTS {
                let ways = every_way(&spoiled, &mask, requested).into_iter().zip(every_way(&good, &mask, requested));
                for ((way, found), (_, wanted)) in ways {
                    let (width, found, wanted) = (found.output.dims()[3], host(&found.output), host(&wanted.output));
                    for row in 0..kept.rows() {
                        let (found, wanted) = (&found[row * width..][..width], &wanted[row * width..][..width]);
                        match is_bad(row) && kept.places(row).next().is_some() {
                            true => assert!(found.iter().all(|x| x.is_nan()), "row {row} by {way}: {what}"),
                            false => assert_eq!(found, wanted, "row {row} by {way}: {what}"),
                        }
                    }
                }
            }
        }
    }
}

/// The smallest cases: a key is hidden by causal visibility, by a boolean tensor, by a bias of minus infinity, by a
/// dense mask, or by lists.
fn a_hidden_value_of_two_keys_does_not_show<B: Backend>() {
    let device = B::Device::default();
    for bad in ANYTHING {
        for requested in REQUESTS {
            let zeros = |count: usize| tensor::<B>(&vec![0.0; count], [1, 1, count, 1]);
            let values = || tensor::<B>(&[1.0, bad], [1, 1, 2, 1]);
            let causal = AttentionInputs::new(zeros(2), zeros(2), values()).unwrap().causal().unwrap();
            for (way, found) in every_way(&causal, &Mask::full(causal.mask_shape(), &device), requested) {
                assert_eq!(host(&found.output)[0], 1.0, "{bad} after the query, by {way}");
            }
            let one = AttentionInputs::new(zeros(1), zeros(2), values()).unwrap();
            let hidden = TensorData::new(vec![false, true], [1, 1, 1, 2]);
            let hidden = one.clone().with_visibility(Visibility::Masked(Tensor::from_data(hidden, &device))).unwrap();
            let bias = tensor(&[0.0, f32::NEG_INFINITY], [1, 1, 1, 2]);
            let biased = one.clone().with_visibility(Visibility::Biased(bias)).unwrap();
            let full = Mask::full(one.mask_shape(), &device);
            let dense = Mask::from_dense(tensor(&[1.0, 0.0], [1, 1, 1, 2])).unwrap();
            let lists = Mask::from_csr(one.mask_shape(), &dense.to_csr(), &device).unwrap();
            let cases = [
                ("hidden", hidden, full.clone()),
                ("biased", biased, full),
                ("dense", one.clone(), dense),
                ("lists", one, lists),
            ];
            for (what, inputs, mask) in cases {
                for (way, found) in every_way(&inputs, &mask, requested) {
                    assert_eq!(host(&found.output), [1.0], "{bad}, {what}, by {way}");
                }
            }
        }
    }
}
