//! Properties of masks: conversions do not change the dense form, merging is a union, and densities count pairs.

mod common;

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use common::*;
use proptest::prelude::*;
use sparse_attention_hub::mask::{Csr, KeyIndices, Mask, MaskError, MaskForm, MaskShape, Pattern};
use sparse_attention_hub::prelude::Visibility;

on_each_backend!(
    conversions_keep_the_dense_form,
    merging_is_a_union,
    apply_and_its_inverse,
    densities_count_pairs,
    bad_masks_are_refused,
    lists_of_width_0_keep_nothing,
    a_merged_weight_is_not_smaller,
    absurd_shapes_are_refused,
    a_long_pattern_costs_nothing,
    pictures,
);

/// A description of a mask, as drawn by the property tests.
#[derive(Debug, Clone)]
enum Plan {
    Empty,
    Full,
    Pattern(Pattern),
    Weights { rows: bool, weights: Vec<f32> },
}

impl Plan {
    fn mask<B: Backend>(&self, shape: MaskShape) -> Mask<B> {
        let device = B::Device::default();
        match self {
            Self::Empty => Mask::empty(shape, &device),
            Self::Full => Mask::full(shape, &device),
            Self::Pattern(pattern) => Mask::pattern(shape, *pattern, &device),
            Self::Weights { rows, weights } => {
                let dense = Mask::from_dense(tensor(&weights[..shape.pairs()], shape.dims())).unwrap();
                if *rows { Mask::from_csr(shape, &dense.to_csr(), &device).unwrap() } else { dense }
            }
        }
    }

    /// The dense weights of the mask, from its definition.
    fn weights(&self, shape: MaskShape) -> Vec<f32> {
        let one_if = |kept: bool| if kept { 1.0 } else { 0.0 };
        match self {
            Self::Empty => vec![0.0; shape.pairs()],
            Self::Full => vec![1.0; shape.pairs()],
            Self::Pattern(pattern) => (0..shape.pairs())
                .map(|at| one_if(pattern.keeps(at / shape.keys % shape.queries, at % shape.keys)))
                .collect(),
            Self::Weights { weights, .. } => weights[..shape.pairs()].to_vec(),
        }
    }
}

const MOST_PAIRS: usize = 2 * 2 * 6 * 13;

fn shapes() -> impl Strategy<Value = MaskShape> {
    (1..=2usize, 1..=2usize, 1..=6usize, 1..=13usize).prop_map(|(b, h, q, k)| MaskShape::new([b, h, q, k]))
}

fn plans() -> impl Strategy<Value = Plan> {
    let weight = prop_oneof![3 => Just(0.0f32), 2 => Just(1.0f32), 3 => 0.01..1.0f32];
    let weights = proptest::collection::vec(weight, MOST_PAIRS);
    prop_oneof![
        1 => Just(Plan::Empty),
        1 => Just(Plan::Full),
        3 => (0..15usize, 0..15usize, -5..9isize)
            .prop_map(|(sink, window, offset)| Plan::Pattern(Pattern { sink, window, offset })),
        6 => (any::<bool>(), weights).prop_map(|(rows, weights)| Plan::Weights { rows, weights }),
    ]
}

fn cases(run: impl Fn(MaskShape, Plan, Plan, Plan)) {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    runner
        .run(&(shapes(), plans(), plans(), plans()), |(shape, a, b, c)| {
            run(shape, a, b, c);
            Ok(())
        })
        .unwrap();
}

fn conversions_keep_the_dense_form<B: Backend>() {
    cases(|shape, plan, _, _| {
        let device = B::Device::default();
        let mask = plan.mask::<B>(shape);
        let wanted = plan.weights(shape);
        assert_eq!(host(&mask.to_dense()), wanted, "{plan:?}");
        let through_csr = Mask::<B>::from_csr(shape, &mask.to_csr(), &device).unwrap();
        assert_eq!(host(&through_csr.to_dense()), wanted, "{plan:?} through CSR");
        let through_dense = Mask::from_dense(through_csr.to_dense()).unwrap();
        assert_eq!(through_dense.to_csr().ptr, mask.to_csr().ptr, "{plan:?} through CSR and weights");
        let support = wanted.iter().map(|&weight| if weight > 0.0 { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
        assert_eq!(host(&mask.support().to_dense()), support, "{plan:?} support");
    });
}

fn merging_is_a_union<B: Backend>() {
    cases(|shape, a, b, c| {
        let weight = |a: f32, b: f32| if a > 0.0 && a < 1.0 && b > 0.0 && b < 1.0 { a + b - a * b } else { a.max(b) };
        let [x, y, z] = [&a, &b, &c].map(|plan| plan.mask::<B>(shape));
        let both = host(&x.merge(&y).unwrap().to_dense());
        let wanted = a.weights(shape).into_iter().zip(b.weights(shape)).map(|(a, b)| f64::from(weight(a, b)));
        let wanted = wanted.collect::<Vec<_>>();
        assert_close(&both, &wanted, 1e-7, &format!("{a:?} and {b:?}"));
        assert_eq!(both, host(&y.merge(&x).unwrap().to_dense()), "commutative");
        // No weight becomes smaller.
        assert!(both.iter().zip(a.weights(shape)).all(|(&merged, a)| merged >= a), "monotone");
        let left = host(&x.merge(&y).unwrap().merge(&z).unwrap().to_dense());
        let right = host(&x.merge(&y.merge(&z).unwrap()).unwrap().to_dense());
        let right = right.into_iter().map(f64::from).collect::<Vec<_>>();
        assert_close(&left, &right, 1e-6, "associative");
        // The operands of the merge are unchanged.
        assert_eq!(host(&x.to_dense()), a.weights(shape));
    });
}

fn apply_and_its_inverse<B: Backend>() {
    cases(|shape, plan, _, _| {
        let x = normal(&mut generator(7), shape.pairs());
        let mask = plan.mask::<B>(shape);
        let weights = plan.weights(shape);
        let wanted = x.iter().zip(&weights).map(|(&x, &w)| f64::from(x * w)).collect::<Vec<_>>();
        assert_close(&host(&mask.apply(tensor(&x, shape.dims())).unwrap()), &wanted, 1e-7, "apply");
        let inverse = |(&x, &w): (&f32, &f32)| if w > 0.0 { f64::from(x) / f64::from(w) } else { 0.0 };
        let wanted = x.iter().zip(&weights).map(inverse).collect::<Vec<_>>();
        assert_close(&host(&mask.apply_inverse(tensor(&x, shape.dims())).unwrap()), &wanted, 1e-6, "inverse");
    });
}

fn densities_count_pairs<B: Backend>() {
    cases(|shape, plan, _, _| {
        let mask = plan.mask::<B>(shape);
        let weights = plan.weights(shape);
        let sizes = Sizes::new(shape.batch, shape.heads, 1, shape.queries, shape.keys, 1);
        let mut views = visibilities::<B>(Sizes { keys: shape.keys.max(shape.queries), ..sizes }, 3);
        views.retain(|(_, view)| shape.keys >= shape.queries || matches!(view, Visibility::Full));
        for (name, visibility) in views {
            let seen = |at: usize| {
                let (row, key) = (at / shape.keys % shape.queries, at % shape.keys);
                let in_tensor = |dims: [usize; 4]| {
                    let batch = at / (shape.heads * shape.queries * shape.keys) % dims[0];
                    (batch * shape.queries + row) * shape.keys + key
                };
                match &visibility {
                    Visibility::Full => true,
                    Visibility::Causal { offset } => key <= row + offset,
                    Visibility::Window { offset, window } => key <= row + offset && row + offset - key < *window,
                    Visibility::Masked(hidden) => {
                        !hidden.to_data().iter::<bool>().nth(in_tensor(hidden.dims())).unwrap()
                    }
                    Visibility::Biased(bias) => host(bias)[in_tensor(bias.dims())] > -1e30,
                }
            };
            let per_head = shape.queries * shape.keys;
            for (head, density) in mask.density_per_head(&visibility).into_iter().enumerate() {
                let pairs = head * per_head..(head + 1) * per_head;
                let count = |keep: &dyn Fn(usize) -> bool| pairs.clone().filter(|&at| keep(at)).count() as f64;
                let kept = count(&|at| weights[at] > 0.0);
                let visible = count(&seen);
                let both = count(&|at| weights[at] > 0.0 && seen(at));
                assert_eq!(density.all, kept / per_head as f64, "{plan:?}, {name}");
                assert_eq!(density.visible, if visible > 0.0 { both / visible } else { 0.0 }, "{plan:?}, {name}");
            }
        }
    });
}

fn bad_masks_are_refused<B: Backend>() {
    let shape = MaskShape::new([1, 1, 2, 5]);
    let device = B::Device::default();
    let csr = |indices: &[usize], ptr: &[usize], data: &[f32]| {
        let csr = Csr { indices: indices.to_vec(), ptr: ptr.to_vec(), data: data.to_vec() };
        Mask::<B>::from_csr(shape, &csr, &device).map(|_| ())
    };
    assert_eq!(csr(&[1, 4], &[0, 1, 2], &[1.0, 0.5]), Ok(()));
    assert_eq!(csr(&[1, 1], &[0, 0, 2], &[1.0, 0.5]), Err(MaskError::Duplicate { row: 1, key: 1 }));
    assert_eq!(csr(&[1, 5], &[0, 1, 2], &[1.0, 0.5]), Err(MaskError::Index { row: 1, index: 5, keys: 5 }));
    assert_eq!(csr(&[1], &[0, 1], &[1.0]), Err(MaskError::Length { field: "ptr", found: 2, expected: 3 }));
    assert_eq!(csr(&[1], &[0, 1, 1], &[]), Err(MaskError::Length { field: "data", found: 0, expected: 1 }));
    assert_eq!(
        csr(&[1, 2], &[0, 1, 1], &[1.0, 1.0]),
        Err(MaskError::Length { field: "indices", found: 2, expected: 1 })
    );
    assert!(matches!(csr(&[1, 2], &[0, 2, 1], &[1.0, 1.0]), Err(MaskError::Pointer { row: 1, start: 2, end: 1 })));
    for weight in [0.0, -0.1, 1.1, f32::NAN] {
        assert!(matches!(csr(&[1], &[0, 1, 1], &[weight]), Err(MaskError::Weight { row: 0, key: 1, .. })));
    }
    for weight in [-0.1, 1.1, f32::NAN] {
        let mut weights = [0.5; 10];
        weights[7] = weight;
        let refused = Mask::from_dense(tensor::<B>(&weights, shape.dims()));
        assert!(matches!(refused, Err(MaskError::Weight { row: 1, key: 2, .. })));
    }
    let rows = |indices: [i32; 4]| {
        let dims = [1, 1, 2, 2];
        let indices = Tensor::<B, 4, Int>::from_data(TensorData::new(indices.to_vec(), dims), &device);
        let probability =
            tensor(&indices.to_data().iter::<i64>().map(|i| if i < 0 { 0.0 } else { 1.0 }).collect::<Vec<_>>(), dims);
        Mask::from_indices(shape, KeyIndices::new(indices, probability)?).map(|_| ())
    };
    assert_eq!(rows([0, -1, 4, 3]), Ok(()));
    assert_eq!(rows([0, -2, 4, 3]), Err(MaskError::Index { row: 0, index: -2, keys: 5 }));
    assert_eq!(rows([0, 1, 5, 3]), Err(MaskError::Index { row: 1, index: 5, keys: 5 }));
    assert_eq!(rows([0, 1, 3, 3]), Err(MaskError::Duplicate { row: 1, key: 3 }));
    // Cut to 32 bits, 2^32 + 1 and -2^32 - 1 would be key 1 and an unused slot.
    if B::supports_dtype(&device, burn::tensor::DType::I64) {
        for index in [(1i64 << 32) + 1, -(1 << 32) - 1, i64::MAX, i64::MIN] {
            let wide = Tensor::<B, 4, Int>::from_data(
                TensorData::new(vec![0i64, 1, 3, index], [1, 1, 2, 2]),
                (&device, burn::tensor::DType::I64),
            );
            let refused = KeyIndices::new(wide, tensor(&[1.0; 4], [1, 1, 2, 2])).map(|_| ());
            assert_eq!(refused, Err(MaskError::IndexWidth { row: 1, index }));
        }
    }
    let other = Mask::<B>::full(MaskShape::new([1, 1, 2, 6]), &device);
    assert!(matches!(other.merge(&Mask::empty(shape, &device)), Err(MaskError::Shape { .. })));
    assert!(matches!(other.apply(tensor(&[0.0; 10], shape.dims())), Err(MaskError::Shape { .. })));
}

/// Lists of width 0 have rows that keep nothing.
fn lists_of_width_0_keep_nothing<B: Backend>() {
    let device = B::Device::default();
    let dims = [1, 1, 2, 0];
    let shape = MaskShape::new([1, 1, 2, 3]);
    let rows = KeyIndices::<B>::new(Tensor::zeros(dims, &device), Tensor::zeros(dims, &device)).unwrap();
    let none = Mask::from_indices(shape, rows).unwrap();
    assert_eq!(none.to_csr(), Csr { indices: vec![], ptr: vec![0, 0, 0], data: vec![] });
    assert_eq!(host(&none.to_dense()), [0.0; 6]);
    assert_eq!(none.density(&Visibility::Full).all, 0.0);
    let sink = Mask::pattern(shape, Pattern::sink(1), &device);
    let wanted = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0];
    for other in [sink.clone(), Mask::from_csr(shape, &sink.to_csr(), &device).unwrap()] {
        assert_eq!(host(&none.merge(&other).unwrap().to_dense()), wanted);
        assert_eq!(host(&other.merge(&none).unwrap().to_dense()), wanted);
    }
    // The mask has rows even if there are no keys.
    let no_keys = MaskShape::new([1, 1, 2, 0]);
    for mask in [Mask::<B>::full(no_keys, &device), Mask::empty(no_keys, &device)] {
        assert_eq!(mask.to_csr().ptr, [0, 0, 0]);
    }
}

/// For a key that both masks sampled, the merged probability is at least that of each mask and at most 1, in exact
/// comparison.
fn a_merged_weight_is_not_smaller<B: Backend>() {
    use rand::RngExt;
    let mut rng = generator(11);
    let shape = MaskShape::new([1, 1, 64, 1024]);
    let mut weights = |near_1: bool| -> Vec<f32> {
        let draw = |_| match near_1 {
            true => 1.0 - f32::EPSILON * rng.random::<f32>() * 64.0,
            false => rng.random::<f32>().powi(12).max(f32::MIN_POSITIVE),
        };
        (0..shape.pairs()).map(draw).collect()
    };
    for (a_near_1, b_near_1) in [(true, true), (true, false), (false, false)] {
        let (a, b) = (weights(a_near_1), weights(b_near_1));
        let mask = |weights: &[f32]| Mask::<B>::from_dense(tensor(weights, shape.dims())).unwrap();
        let merged = host(&mask(&a).merge(&mask(&b)).unwrap().to_dense());
        let right = merged.iter().zip(a.iter().zip(&b)).all(|(&both, (&a, &b))| both >= a.max(b) && both <= 1.0);
        assert!(right, "{a_near_1} {b_near_1}");
    }
}

/// Sizes beyond memory or 32 bits give an error before memory is allocated.
fn absurd_shapes_are_refused<B: Backend>() {
    let device = B::Device::default();
    let too_large = |error: MaskError| assert!(matches!(error, MaskError::TooLarge { .. }), "{error}");
    let absurd = [[1, 1, 1, 1 << 40], [1 << 40, 1 << 40, 1, 1], [usize::MAX, 3, 1, 1], [1, 1, 1 << 31, 1 << 30]];
    for shape in absurd.map(MaskShape::new) {
        let csr = Csr { indices: vec![], ptr: vec![0], data: vec![] };
        let refused = Mask::<B>::from_csr(shape, &csr, &device).unwrap_err();
        assert!(matches!(refused, MaskError::TooLarge { .. } | MaskError::Length { .. }), "{refused}");
        let rows = KeyIndices::<B>::new(Tensor::zeros([1, 1, 1, 1], &device), tensor(&[1.0], [1, 1, 1, 1])).unwrap();
        let refused = Mask::from_indices(shape, rows).unwrap_err();
        assert!(matches!(refused, MaskError::TooLarge { .. } | MaskError::Shape { .. }), "{refused}");
        too_large(Mask::<B>::full(shape, &device).try_to_csr().unwrap_err());
        too_large(Mask::<B>::full(shape, &device).try_to_dense().unwrap_err());
        // The union of these patterns is not a pattern.
        let local = |offset| Mask::<B>::pattern(shape, Pattern::local(1 << 30, offset), &device);
        too_large(local(0).merge(&local(7)).unwrap_err());
    }
    // A key that exists, but whose index does not fit in 32 bits.
    let csr = Csr { indices: vec![(1 << 32) + 1], ptr: vec![0, 1], data: vec![1.0] };
    too_large(Mask::<B>::from_csr(MaskShape::new([1, 1, 1, 1 << 33]), &csr, &device).unwrap_err());
    // Positions far from all keys keep either everything or nothing.
    let shape = MaskShape::new([1, 1, 3, 5]);
    for (pattern, kept) in [
        (Pattern::causal(isize::MAX), 1.0),
        (Pattern::causal(isize::MIN), 0.0),
        (Pattern::local(7, isize::MAX), 0.0),
        (Pattern::local(usize::MAX - 1, 1 << 40), 1.0),
        (Pattern::sink(usize::MAX), 1.0),
    ] {
        let mask = Mask::<B>::pattern(shape, pattern, &device);
        assert_eq!(host(&mask.to_dense()), [kept; 15], "{pattern:?}");
        assert_eq!(mask.to_csr().indices.len(), 15 * kept as usize, "{pattern:?}");
    }
}

/// In dense form, the mask of 32,768 queries and 32,768 keys would take 4 GiB.
fn a_long_pattern_costs_nothing<B: Backend>() {
    let length = 32_768;
    let shape = MaskShape::new([1, 1, length, length]);
    let device = B::Device::default();
    let sink = Mask::<B>::pattern(shape, Pattern::sink(128), &device);
    let mask = sink.merge(&Mask::pattern(shape, Pattern::local(1024, 0), &device)).unwrap();
    assert!(matches!(mask.form(), MaskForm::Pattern(Pattern { sink: 128, window: 1024, offset: 0 })));
    let causal = mask.merge(&Mask::pattern(shape, Pattern::causal(0), &device)).unwrap();
    assert!(matches!(causal.form(), MaskForm::Pattern(_)));
    let density = causal.density(&Visibility::Causal { offset: 0 });
    assert_eq!(density.visible, 1.0);
}

fn pictures<B: Backend>() {
    let shape = MaskShape::new([1, 2, 4, 6]);
    let device = B::Device::default();
    let pattern = Pattern { sink: 1, window: 2, offset: 2 };
    let mask = Mask::<B>::pattern(shape, pattern, &device);
    let wanted = "███...\n█.██..\n█..██.\n█...██\n";
    assert_eq!(mask.picture(0, 1, 64).unwrap(), wanted);
    let rows = Mask::<B>::from_csr(shape, &mask.to_csr(), &device).unwrap();
    assert_eq!(rows.picture(0, 0, 64).unwrap(), wanted);
    assert_eq!(mask.picture(0, 2, 64), None);
    assert_eq!(mask.picture(0, 0, 2).unwrap().lines().count(), 2);
}
