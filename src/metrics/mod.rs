//! Numbers about attention: logged while a model runs, and read back for plots and reports.
//!
//! A [MetricLogger] is a value that is passed to the code that logs. It writes JSON lines, which [MetricReader] reads.
//! The first line is a header with the version and the registered metrics. Every other line is a record.
//!
//! ```text
//! {"format":"sparse-attention-hub metrics","version":1,"metrics":[{"name":"head_density","kind":"real",...},...]}
//! {"timestamp":"2026-11-27T15:28:24.123456Z","metric":"head_density","value":0.12,"layer":3,"batch":0,"head":7,"step":5}
//! ```

pub mod built_in;
mod config;
mod error;
mod line;
mod log;
mod logger;
mod memory;
mod metric;
mod output;
mod reader;
mod record;
mod shared;
mod timestamp;

pub use config::{Enabled, MetricLoggerConfig};
pub use error::MetricError;
pub use log::MetricLog;
pub use logger::MetricLogger;
pub use metric::{Metric, MetricKind, MetricRegistry};
pub use reader::MetricReader;
pub use record::{Place, Record};
pub use timestamp::Timestamp;
