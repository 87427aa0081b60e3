/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub keys: usize,
    pub queries: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub method: Method,
}

/// The methods that are compared with dense attention. Shares are shares of the keys. `shared` means that the heads of
/// a GQA group select together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    Dense,
    SinkLocal { window: usize },
    Gather { share: f64, shared: bool },
    Hash { share: f64, shared: bool },
    Quest { share: f64, shared: bool },
    DoubleSparsity { share: f64, shared: bool },
    OracleTopK { share: f64 },
}

pub const HEAD_DIM: usize = 128;
pub const SINK: usize = 128;
/// The number of bits of a signature.
pub const BITS: usize = 32;
/// The number of keys of a page.
pub const PAGE: usize = 16;
/// The number of channels of a label.
pub const CHANNELS: usize = 16;

impl Method {
    pub fn name(self) -> String {
        let percent = |share: f64| 100.0 * share;
        match self {
            Self::Dense => "dense".into(),
            Self::SinkLocal { window } => format!("sink {SINK} + local {window}"),
            Self::Gather { share, .. } => format!("gather {} %, rows given", percent(share)),
            Self::Hash { share, .. } => format!("hash {} %, {BITS} bits", percent(share)),
            Self::Quest { share, .. } => format!("quest {} %, page {PAGE}", percent(share)),
            Self::DoubleSparsity { share, .. } => format!("double sparsity {} %, {CHANNELS} ch.", percent(share)),
            Self::OracleTopK { share } => format!("oracle top-k {} %", percent(share)),
        }
    }

    pub fn shared(self) -> bool {
        match self {
            Self::Dense | Self::SinkLocal { .. } => true,
            Self::OracleTopK { .. } => false,
            Self::Gather { shared, .. }
            | Self::Hash { shared, .. }
            | Self::Quest { shared, .. }
            | Self::DoubleSparsity { shared, .. } => shared,
        }
    }
}

fn decode(keys: usize, heads: usize, kv_heads: usize, method: Method) -> Case {
    Case { keys, queries: 1, heads, kv_heads, method }
}

const SHARE: f64 = 0.05;

pub fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    let shared = true;
    let of_32_8 = [
        Method::Dense,
        Method::SinkLocal { window: 128 },
        Method::Gather { share: SHARE, shared },
        Method::Hash { share: SHARE, shared },
        Method::Quest { share: SHARE, shared },
        Method::DoubleSparsity { share: SHARE, shared },
        Method::Gather { share: SHARE, shared: false },
        Method::Hash { share: SHARE, shared: false },
        Method::Quest { share: SHARE, shared: false },
        Method::DoubleSparsity { share: SHARE, shared: false },
        Method::OracleTopK { share: SHARE },
    ];
    cases.extend(of_32_8.map(|method| decode(32_768, 32, 8, method)));
    let of_32_32 = [
        Method::Dense,
        Method::Hash { share: SHARE, shared: false },
        Method::Quest { share: SHARE, shared: false },
        Method::DoubleSparsity { share: SHARE, shared: false },
    ];
    cases.extend(of_32_32.map(|method| decode(32_768, 32, 32, method)));
    cases.extend([Method::Dense, Method::Hash { share: SHARE, shared }].map(|method| decode(131_072, 32, 8, method)));
    let prefill =
        |keys| Case { keys, queries: keys, heads: 1, kv_heads: 1, method: Method::SinkLocal { window: 1024 } };
    cases.extend([prefill(32_768), prefill(131_072)]);
    cases
}

/// The same step at increasing lengths.
pub fn line() -> Vec<Case> {
    let methods = [
        Method::Dense,
        Method::SinkLocal { window: 128 },
        Method::Hash { share: SHARE, shared: true },
        Method::Quest { share: SHARE, shared: true },
        Method::DoubleSparsity { share: SHARE, shared: true },
    ];
    let lengths = [4_096, 8_192, 16_384, 32_768, 65_536, 131_072];
    lengths.into_iter().flat_map(|keys| methods.map(|method| decode(keys, 32, 8, method))).collect()
}

/// The cases with at most `most_keys` keys whose method's name contains `part`.
pub fn named(cases: Vec<Case>, most_keys: Option<usize>, part: Option<&str>) -> Result<Vec<Case>, String> {
    let fits = |case: &Case| most_keys.is_none_or(|most| case.keys <= most);
    let is_named = |case: &Case| part.is_none_or(|part| case.method.name().contains(part));
    let found = cases.iter().copied().filter(|case| fits(case) && is_named(case)).collect::<Vec<_>>();
    if !found.is_empty() {
        return Ok(found);
    }
    let (least, most) =
        cases.iter().fold((usize::MAX, 0), |(least, most), case| (least.min(case.keys), most.max(case.keys)));
    let mut methods = cases.iter().map(|case| format!("`{}`", case.method.name())).collect::<Vec<_>>();
    methods.sort();
    methods.dedup();
    Err(format!(
        "no case has {}{}; there are {} with {least} to {most} keys",
        part.map_or(String::new(), |part| format!("a method with `{part}` in its name")),
        most_keys
            .map_or(String::new(), |keys| format!("{}at most {keys} keys", if part.is_some() { " and " } else { "" })),
        methods.join(", ")
    ))
}
