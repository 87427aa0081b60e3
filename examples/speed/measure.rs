use std::{collections::BTreeMap, error::Error, time::Instant};

use burn::tensor::{Distribution, Tensor, backend::Backend};
use rand::{SeedableRng, seq::index};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::Serialize;
use sparse_attention_hub::{
    mask::{Csr, Pattern},
    masker::{LocalConfig, OracleTopKConfig, QuestTopKConfig, ShareGroup, SinkConfig, TopK},
    method::{DoubleSparsity, EfficientAttention, HashAttention},
    prelude::*,
    scorer::{Activation, Channels, Hash, HashWeights, HeadPerceptrons, LayerPerceptrons, PageFit, Scorer},
};

use crate::{
    ALLOCATOR,
    bandwidth::Probe,
    cases::{BITS, CHANNELS, Case, HEAD_DIM, Method, PAGE, SINK},
};

/// A row of the table and of the JSON file.
#[derive(Debug, Serialize)]
pub struct Row {
    pub backend: &'static str,
    pub keys: usize,
    pub queries: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub method: String,
    pub group_shared: bool,
    pub density: f64,
    pub milliseconds: f64,
    pub dense_milliseconds: Option<f64>,
    pub ratio_to_dense: Option<f64>,
    pub bytes_touched: u64,
    pub bytes_per_second: f64,
    pub floor_milliseconds: f64,
    pub ratio_to_floor: f64,
    pub extra_bytes: usize,
}

/// The number of runs of a prefill.
const PREFILLS: usize = 7;

/// The largest number of pairs at which dense attention is also timed in a prefill.
const DENSE_PAIRS: usize = 1 << 30;

pub fn measure<B: Backend>(
    backend: &'static str,
    case: &Case,
    steps: usize,
    probe: &Probe,
) -> Result<Row, Box<dyn Error>> {
    let device = B::Device::default();
    let decode = case.queries == 1;
    // The first step is not measured: it warms memory and state. Each step adds a key.
    let steps = if decode { steps + 1 } else { PREFILLS };
    let room = case.keys + if decode { steps } else { 0 };
    let random = |heads, length| {
        let dims = [1, heads, length, HEAD_DIM];
        Tensor::<B, 4>::random(dims, Distribution::Normal(0.0, 1.0), &device)
    };
    let (keys, values) = (random(case.kv_heads, room), random(case.kv_heads, room));
    let queries = random(case.heads, case.queries);
    let grows = decode && !matches!(case.method, Method::Gather { .. });
    let inputs = |step: usize| {
        let length = if grows { case.keys + step } else { case.keys };
        let part = |tensor: &Tensor<B, 4>| tensor.clone().slice_dim(2, 0..length);
        AttentionInputs::new(queries.clone(), part(&keys), part(&values))?.causal()
    };
    let mut step = stepper::<B>(case, &inputs(0)?)?;
    let (mut sparse, mut dense, mut bandwidth) = (Vec::new(), Vec::new(), Vec::new());
    let with_dense = case.method != Method::Dense && (decode || case.keys * case.queries <= DENSE_PAIRS);
    let mut extra_bytes = 0;
    for at in 0..steps {
        let inputs = inputs(at)?;
        if with_dense && (decode || at == 0) {
            dense.push(milliseconds(|| Ok(dense_attention(&inputs, Requested::default()).output))?);
        }
        bandwidth.push(probe.read());
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        sparse.push(milliseconds(|| step(&inputs))?);
        // The state grows by doubling. The smallest growth is that of a usual step.
        let extra = ALLOCATOR.peak_usage().saturating_sub(before);
        extra_bytes = if at <= 1 { extra } else { extra_bytes.min(extra) };
    }
    let warm = if decode { 1 } else { 0 };
    let milliseconds = median(&sparse[warm..]);
    let dense_milliseconds = (!dense.is_empty()).then(|| median(if dense.len() > 1 { &dense[warm..] } else { &dense }));
    let (kept, bytes_touched) = cost(case);
    let bandwidth = median(&bandwidth);
    let floor_milliseconds = bytes_touched as f64 / bandwidth * 1e3;
    Ok(Row {
        backend,
        keys: case.keys,
        queries: case.queries,
        heads: case.heads,
        kv_heads: case.kv_heads,
        method: case.method.name() + if case.method.shared() && case.heads > case.kv_heads { ", shared" } else { "" },
        group_shared: case.method.shared(),
        density: kept as f64 / case.keys as f64,
        milliseconds,
        dense_milliseconds,
        ratio_to_dense: dense_milliseconds.map(|dense| milliseconds / dense),
        bytes_touched,
        bytes_per_second: bandwidth,
        floor_milliseconds,
        ratio_to_floor: milliseconds / floor_milliseconds,
        extra_bytes,
    })
}

type Step<B> = Box<dyn FnMut(&AttentionInputs<B>) -> Result<Tensor<B, 4>, Box<dyn Error>>>;

/// The method as a function of the inputs, with a warm state.
fn stepper<B: Backend>(case: &Case, first: &AttentionInputs<B>) -> Result<Step<B>, Box<dyn Error>> {
    let device = first.device();
    let heavy = |share: f64| Size::Fraction(share);
    let group = |shared: bool| if shared { ShareGroup::Mean } else { ShareGroup::No };
    let mut state = LayerState::new(1);
    let context = Context::<B>::new(&device);
    Ok(match case.method {
        Method::Dense => Box::new(|inputs| Ok(dense_attention(inputs, Requested::default()).output)),
        Method::SinkLocal { window } => Box::new(move |inputs| {
            let pattern = Pattern { sink: SINK, window, offset: inputs.offset() };
            let mask = Mask::pattern(inputs.mask_shape(), pattern, &inputs.device());
            Ok(masked_attention(inputs, &mask, Requested::default())?.output)
        }),
        Method::Gather { share, shared } => {
            let mask = Mask::from_csr(first.mask_shape(), &random_rows(case, share, shared), &device)?;
            Box::new(move |inputs| Ok(masked_attention(inputs, &mask, Requested::default())?.output))
        }
        Method::Hash { share, shared } => {
            let hash = Hash::new(hash_weights::<B>(case.heads, &device), Activation::Silu);
            let top_k = TopK::new(heavy(share), Box::new(hash) as Box<dyn Scorer<_>>)?.with_share_group(group(shared));
            let method = HashAttention::new(Size::Count(SINK), Size::Count(128), top_k)?;
            Box::new(move |inputs| Ok(method.forward(inputs, &mut state, Requested::default())?.output))
        }
        Method::DoubleSparsity { share, shared } => {
            let channels = (0..case.heads).map(|head| (0..HEAD_DIM).map(|at| (at * 37 + head) % HEAD_DIM).collect());
            let layers = BTreeMap::from([(0, channels.collect())]);
            let channels = Channels::new(layers, HEAD_DIM / CHANNELS, 4)?;
            let top_k =
                TopK::new(heavy(share), Box::new(channels) as Box<dyn Scorer<_>>)?.with_share_group(group(shared));
            let method = DoubleSparsity::new(Size::Count(SINK), Size::Count(128), top_k)?;
            Box::new(move |inputs| Ok(method.forward(inputs, &mut state, Requested::default())?.output))
        }
        Method::Quest { share, shared } => {
            let quest = QuestTopKConfig {
                heavy_size: heavy(share),
                page_size: PAGE,
                label_bits: 16,
                minimum_pages: 3,
                fit: PageFit::Visible,
                share_group: group(shared),
            };
            chain(vec![Box::new(MaskerConfig::<B>::init(&quest, &context)?)], state)?
        }
        Method::OracleTopK { share } => {
            let oracle = OracleTopKConfig { heavy_size: heavy(share), share_group: ShareGroup::No };
            chain(vec![Box::new(MaskerConfig::<B>::init(&oracle, &context)?)], state)?
        }
    })
}

fn chain<B: Backend>(heavy: Vec<Box<dyn Masker<B>>>, mut state: LayerState) -> Result<Step<B>, Box<dyn Error>> {
    let context = Context::<B>::new(&B::Device::default());
    let mut maskers: Vec<Box<dyn Masker<B>>> = vec![
        Box::new(MaskerConfig::<B>::init(&SinkConfig { sink_size: Size::Count(SINK) }, &context)?),
        Box::new(MaskerConfig::<B>::init(&LocalConfig { window_size: Size::Count(128) }, &context)?),
    ];
    maskers.extend(heavy);
    let attention = ResearchAttention::new(maskers)?;
    Ok(Box::new(move |inputs| Ok(attention.forward(inputs, &mut state, Requested::default())?.attention.output)))
}

/// Sorted random keys, for each head or for each group.
fn random_rows(case: &Case, share: f64, shared: bool) -> Csr {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
    let count = (share * case.keys as f64) as usize;
    let group = if shared { case.heads / case.kv_heads } else { 1 };
    let mut csr = Csr { indices: Vec::new(), ptr: vec![0], data: Vec::new() };
    for _ in 0..case.heads / group {
        let mut row = index::sample(&mut rng, case.keys, count).into_vec();
        row.sort_unstable();
        for _ in 0..group {
            csr.indices.extend(&row);
            csr.data.extend(vec![1.0; count]);
            csr.ptr.push(csr.indices.len());
        }
    }
    csr
}

/// Random perceptrons with three matrices and a width of 128.
fn hash_weights<B: Backend>(heads: usize, device: &B::Device) -> HashWeights<B> {
    let part = || {
        let widths = [(HEAD_DIM, 128), (128, 128), (128, BITS)];
        let layers = widths.map(|(width_in, width_out)| {
            let matrix = Tensor::random([heads, width_in, width_out], Distribution::Normal(0.0, 0.1), device);
            (matrix, Tensor::zeros([heads, width_out], device))
        });
        HeadPerceptrons::new(layers)
    };
    let layer = LayerPerceptrons { query: part(), key: part() };
    HashWeights::new([(0, layer)])
}

/// The number of keys that a query keeps, and the bytes that a step must read: keys, values, and what the scorer reads
/// for each key.
fn cost(case: &Case) -> (usize, u64) {
    let Case { keys, queries, heads, kv_heads, method } = *case;
    let vector = HEAD_DIM * size_of::<f32>();
    let fixed = (SINK + 128).min(keys);
    let heavy = |share: f64| (share * keys as f64) as usize;
    let readers = if method.shared() { kv_heads } else { heads };
    let gathered = |kept: usize| readers * kept * 2 * vector;
    let (kept, bytes) = match method {
        Method::Dense => (keys, 2 * kv_heads * keys * vector),
        Method::SinkLocal { window } => {
            let kept = (SINK + window).min(keys);
            // In a prefill, neighbouring queries share their reads.
            (kept, 2 * kv_heads * vector * if queries == 1 { kept } else { keys })
        }
        Method::Gather { share, .. } => (heavy(share), gathered(heavy(share))),
        Method::Hash { share, .. } => (fixed + heavy(share), gathered(fixed + heavy(share)) + heads * keys * BITS / 8),
        Method::Quest { share, .. } => {
            (fixed + heavy(share), gathered(fixed + heavy(share)) + kv_heads * keys / PAGE * 2 * vector)
        }
        Method::DoubleSparsity { share, .. } => {
            (fixed + heavy(share), gathered(fixed + heavy(share)) + heads * keys * (CHANNELS + 8))
        }
        Method::OracleTopK { share } => {
            let kept = fixed + heavy(share);
            (kept, gathered(kept) + kv_heads * keys * vector)
        }
    };
    (kept, bytes as u64)
}

fn milliseconds<B: Backend>(
    work: impl FnOnce() -> Result<Tensor<B, 4>, Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    let output = work()?;
    // Reading one number of the result waits until the device has finished.
    let last = output.slice([0..1, 0..1, 0..1, 0..1]).into_data();
    std::hint::black_box(last);
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

pub fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
