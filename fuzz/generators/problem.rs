//! Attention problems, as numbers on the host.

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use sparse_attention_hub::{
    attention::{AttentionError, AttentionInputs, Visibility},
    mask::MaskShape,
};

use super::{
    B, Source, device,
    numbers::{numbers, tensor},
};

/// The sizes of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub head_dim: usize,
    pub value_dim: usize,
}

impl Sizes {
    /// Mostly small sizes, sometimes unusual ones, and rarely a larger problem.
    pub fn draw(source: &mut Source) -> Self {
        let kv_heads = source.between(1, 2);
        let group = source.between(1, 8);
        let mut sizes = Self {
            batch: source.between(1, 2),
            heads: kv_heads * if source.once_in(2) { 1 } else { group },
            kv_heads,
            queries: source.between(1, 5),
            keys: source.between(1, 12),
            head_dim: source.between(1, 6),
            value_dim: source.between(1, 5),
        };
        match source.below(400) {
            0 => sizes = Self { batch: 1, heads: 8, kv_heads: 1, queries: 7, keys: 111, head_dim: 60, value_dim: 60 },
            1..10 => (sizes.keys, sizes.head_dim) = (source.between(30, 70), source.between(7, 40)),
            10..16 => sizes.queries = source.between(6, 40),
            _ => {}
        }
        sizes
    }

    /// Makes the queries the last positions of the keys.
    pub fn causal(mut self) -> Self {
        self.queries = self.queries.min(self.keys);
        self
    }

    /// The shape of the mask.
    pub fn mask_shape(&self) -> MaskShape {
        MaskShape::new([self.batch, self.heads, self.queries, self.keys])
    }

    /// The number of query heads that share a key-value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn dims_of_queries(&self) -> [usize; 4] {
        [self.batch, self.heads, self.queries, self.head_dim]
    }

    fn dims_of_keys(&self) -> [usize; 4] {
        [self.batch, self.kv_heads, self.keys, self.head_dim]
    }

    fn dims_of_values(&self) -> [usize; 4] {
        [self.batch, self.kv_heads, self.keys, self.value_dim]
    }
}

/// The visibility of a problem.
#[derive(Debug, Clone, PartialEq)]
pub enum VisibilityCase {
    Full,
    Causal(usize),
    Window { offset: usize, window: usize },
    Masked { dims: [usize; 4], hidden: Vec<bool> },
    Biased { dims: [usize; 4], bias: Vec<f64> },
}

impl VisibilityCase {
    /// A random visibility.
    pub fn draw(source: &mut Source, sizes: &Sizes, dtype: DType) -> Self {
        let Sizes { batch, heads, queries, keys, .. } = *sizes;
        let offset = match source.below(4) {
            0 => source.below(keys + 2),
            _ => keys.saturating_sub(queries),
        };
        let dims = [*source.pick(&[1, batch]), *source.pick(&[1, heads]), queries, keys];
        let pairs = dims.iter().product::<usize>();
        let share = *source.pick(&[0.1, 0.4, 0.9]);
        match source.below(6) {
            0 => Self::Full,
            1 | 2 => Self::Causal(offset),
            3 => Self::Window { offset, window: source.between(1, keys) },
            4 => Self::Masked { dims, hidden: (0..pairs).map(|_| source.unit() < share).collect() },
            _ => {
                let least = dtype.finfo().map_or(f64::from(f32::MIN), |limits| limits.min);
                let bias = (0..pairs).map(|_| match source.unit() < share {
                    true => *source.pick(&[f64::NEG_INFINITY, least]),
                    false => source.normal(),
                });
                let bias = bias.collect::<Vec<_>>();
                Self::Biased { dims, bias: numbers(&tensor(&bias, dims, dtype)) }
            }
        }
    }

    /// The visibility as tensors.
    pub fn visibility(&self, dtype: DType) -> Visibility<B> {
        match self {
            Self::Full => Visibility::Full,
            Self::Causal(offset) => Visibility::Causal { offset: *offset },
            Self::Window { offset, window } => Visibility::Window { offset: *offset, window: *window },
            Self::Masked { dims, hidden } => {
                Visibility::Masked(Tensor::from_data(TensorData::new(hidden.clone(), *dims), &device()))
            }
            Self::Biased { dims, bias } => Visibility::Biased(tensor(bias, *dims, dtype)),
        }
    }

    /// The bias that is added to a logit. `None` if the key is hidden.
    pub fn bias(&self, [batch, head, query, key]: [usize; 4], dtype: DType) -> Option<f64> {
        let at = |dims: &[usize; 4]| ((batch % dims[0] * dims[1] + head % dims[1]) * dims[2] + query) * dims[3] + key;
        match self {
            Self::Full => Some(0.0),
            Self::Causal(offset) => (key <= offset + query).then_some(0.0),
            Self::Window { offset, window } => (key <= offset + query && key + window > offset + query).then_some(0.0),
            Self::Masked { dims, hidden } => (!hidden[at(dims)]).then_some(0.0),
            Self::Biased { dims, bias } => {
                let least = dtype.finfo().map_or(f64::from(f32::MIN), |limits| limits.min);
                Some(bias[at(dims)]).filter(|bias| *bias > least / 2.0)
            }
        }
    }
}

/// An attention problem. Its numbers can be represented exactly in its type.
#[derive(Debug, Clone)]
pub struct Problem {
    pub sizes: Sizes,
    pub dtype: DType,
    pub queries: Vec<f64>,
    pub keys: Vec<f64>,
    pub values: Vec<f64>,
    pub seen: VisibilityCase,
    pub scale: f64,
    pub softcap: Option<f64>,
    pub sink_logits: Option<Vec<f64>>,
}

impl Problem {
    /// A random problem.
    pub fn draw(source: &mut Source) -> Self {
        let sizes = Sizes::draw(source);
        let dtype = draw_dtype(source);
        let seen = VisibilityCase::draw(source, &sizes, dtype);
        Self::of(source, sizes, dtype, seen)
    }

    /// A causal problem whose queries are at the last positions of the keys.
    pub fn draw_causal(source: &mut Source) -> Self {
        let sizes = Sizes::draw(source).causal();
        let seen = VisibilityCase::Causal(sizes.keys - sizes.queries);
        let dtype = draw_dtype(source);
        Self::of(source, sizes, dtype, seen)
    }

    /// A problem with these sizes, type and visibility.
    pub fn of(source: &mut Source, sizes: Sizes, dtype: DType, seen: VisibilityCase) -> Self {
        // Mostly moderate logits, sometimes flat or steep ones.
        let spread = *source.pick(&[1.0, 1.0, 1.0, 0.0, 0.01, 8.0]);
        let mut random = |dims: [usize; 4], spread: f64| {
            let values = (0..dims.iter().product()).map(|_| spread * source.normal()).collect::<Vec<_>>();
            numbers(&tensor(&values, dims, dtype))
        };
        let queries = random(sizes.dims_of_queries(), spread);
        let keys = random(sizes.dims_of_keys(), 1.0);
        let values = random(sizes.dims_of_values(), 1.0);
        let scale = match source.below(6) {
            0 => *source.pick(&[0.0, -0.5, 1.0, 0.001]),
            _ => 1.0 / (sizes.head_dim as f64).sqrt(),
        };
        let sink_logits = source.once_in(4).then(|| {
            let sink_logits = (0..sizes.heads).map(|_| source.normal()).collect::<Vec<_>>();
            numbers(&tensor(&sink_logits, [sizes.heads], dtype))
        });
        let softcap = source.once_in(4).then(|| *source.pick(&[0.5, 5.0, 50.0]));
        Self { sizes, dtype, queries, keys, values, seen, scale, softcap, sink_logits }
    }

    /// The problem as [AttentionInputs].
    pub fn inputs(&self) -> Result<AttentionInputs<B>, AttentionError> {
        let Sizes { heads, .. } = self.sizes;
        let queries = tensor(&self.queries, self.sizes.dims_of_queries(), self.dtype);
        let keys = tensor(&self.keys, self.sizes.dims_of_keys(), self.dtype);
        let values = tensor(&self.values, self.sizes.dims_of_values(), self.dtype);
        let mut inputs = AttentionInputs::new(queries, keys, values)?
            .with_visibility(self.seen.visibility(self.dtype))?
            .with_scale(self.scale)?;
        if let Some(cap) = self.softcap {
            inputs = inputs.with_softcap(cap)?;
        }
        match &self.sink_logits {
            Some(sink_logits) => inputs.with_sink_logits(tensor(sink_logits, [heads], self.dtype)),
            None => Ok(inputs),
        }
    }

    /// The bias of a pair. `None` if the key is hidden.
    pub fn bias(&self, pair: [usize; 4]) -> Option<f64> {
        self.seen.bias(pair, self.dtype)
    }

    /// The vector of a query.
    pub fn query(&self, batch: usize, head: usize, query: usize) -> &[f64] {
        let Sizes { heads, queries, head_dim, .. } = self.sizes;
        &self.queries[((batch * heads + head) * queries + query) * head_dim..][..head_dim]
    }

    /// The vector of a key, as a query head reads it.
    pub fn key(&self, batch: usize, head: usize, key: usize) -> &[f64] {
        let Sizes { head_dim, .. } = self.sizes;
        &self.keys[self.place_of_key(batch, head, key) * head_dim..][..head_dim]
    }

    /// The vector of a value, as a query head reads it.
    pub fn value(&self, batch: usize, head: usize, key: usize) -> &[f64] {
        let Sizes { value_dim, .. } = self.sizes;
        &self.values[self.place_of_key(batch, head, key) * value_dim..][..value_dim]
    }

    /// The index of a key, counted over batch, key-value heads and keys.
    pub fn place_of_key(&self, batch: usize, head: usize, key: usize) -> usize {
        let Sizes { kv_heads, keys, .. } = self.sizes;
        (batch * kv_heads + head / self.sizes.group()) * keys + key
    }

    /// For each [place of a key](Self::place_of_key), whether some query may see it.
    pub fn seen_by_any(&self) -> Vec<bool> {
        let Sizes { batch, heads, kv_heads, queries, keys, .. } = self.sizes;
        let mut seen = vec![false; batch * kv_heads * keys];
        for (batch, head) in (0..batch).flat_map(|batch| (0..heads).map(move |head| (batch, head))) {
            for (query, key) in (0..queries).flat_map(|query| (0..keys).map(move |key| (query, key))) {
                seen[self.place_of_key(batch, head, key)] |= self.bias([batch, head, query, key]).is_some();
            }
        }
        seen
    }

    /// The problem with other numbers, such as NaN or infinity, in the keys and values at some places.
    pub fn changed(&self, source: &mut Source, places: impl Fn(usize) -> bool) -> Self {
        let mut changed = self.clone();
        let Sizes { head_dim, value_dim, .. } = self.sizes;
        let to = *source.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e30, -3.0, 0.0]);
        for (width, numbers) in [(head_dim, &mut changed.keys), (value_dim, &mut changed.values)] {
            for (place, numbers) in numbers.chunks_mut(width).enumerate().filter(|(place, _)| places(*place)) {
                numbers.iter_mut().for_each(|number| *number = if place % 3 == 2 { -to } else { to });
            }
        }
        let rounded = |values: &[f64], dims| numbers(&tensor(values, dims, self.dtype));
        changed.keys = rounded(&changed.keys, self.sizes.dims_of_keys());
        changed.values = rounded(&changed.values, self.sizes.dims_of_values());
        changed
    }

    /// One sequence of the batch.
    pub fn sequence(&self, sequence: usize) -> Self {
        let part = |numbers: &[f64], parts: usize| {
            let length = numbers.len() / parts;
            numbers[sequence % parts * length..][..length].to_vec()
        };
        let seen = match &self.seen {
            VisibilityCase::Masked { dims, hidden } => {
                let length = hidden.len() / dims[0];
                let hidden = hidden[sequence % dims[0] * length..][..length].to_vec();
                VisibilityCase::Masked { dims: [1, dims[1], dims[2], dims[3]], hidden }
            }
            VisibilityCase::Biased { dims, bias } => {
                VisibilityCase::Biased { dims: [1, dims[1], dims[2], dims[3]], bias: part(bias, dims[0]) }
            }
            closed => closed.clone(),
        };
        let batch = self.sizes.batch;
        Self {
            sizes: Sizes { batch: 1, ..self.sizes },
            queries: part(&self.queries, batch),
            keys: part(&self.keys, batch),
            values: part(&self.values, batch),
            seen,
            ..self.clone()
        }
    }

    /// The queries at some positions of a causal problem, with the keys up to the last of these positions.
    pub fn chunk(&self, positions: std::ops::Range<usize>) -> Self {
        let sizes = Sizes { queries: positions.len(), keys: positions.end, ..self.sizes };
        let first = self.sizes.keys - self.sizes.queries;
        let cut = |numbers: &[f64], length: usize, rows: std::ops::Range<usize>, width: usize| {
            let heads = numbers.chunks(length * width);
            heads.flat_map(|head| head[rows.start * width..rows.end * width].to_vec()).collect::<Vec<_>>()
        };
        let Sizes { queries, keys, head_dim, value_dim, .. } = self.sizes;
        let rows = positions.start - first..positions.end - first;
        Self {
            queries: cut(&self.queries, queries, rows, head_dim),
            keys: cut(&self.keys, keys, 0..positions.end, head_dim),
            values: cut(&self.values, keys, 0..positions.end, value_dim),
            seen: VisibilityCase::Causal(positions.start),
            sizes,
            ..self.clone()
        }
    }

    /// A description of the problem in one line.
    pub fn summary(&self) -> String {
        let Sizes { batch, heads, kv_heads, queries, keys, head_dim, value_dim } = self.sizes;
        let seen = match &self.seen {
            VisibilityCase::Masked { dims, .. } => format!("masked {dims:?}"),
            VisibilityCase::Biased { dims, .. } => format!("biased {dims:?}"),
            closed => format!("{closed:?}"),
        };
        let (dtype, scale) = (self.dtype, self.scale);
        format!(
            "[{batch}, {heads}/{kv_heads}, {queries}, {keys}, {head_dim}/{value_dim}] {dtype:?} {seen} scale {scale} \
             softcap {:?} sink_logits {:?}",
            self.softcap, self.sink_logits
        )
    }
}

/// A random type in which the backend computes.
fn draw_dtype(source: &mut Source) -> DType {
    let dtype = *source.pick(&[DType::F32, DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16]);
    match B::supports_dtype(&device(), dtype) {
        true => dtype,
        false => DType::F32,
    }
}
