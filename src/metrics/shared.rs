use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    MetricError, MetricLoggerConfig, MetricRegistry, Place, Record, Timestamp,
    line::{Line, json},
    memory::Memory,
    output::Output,
};

/// The target of the tracing events.
const TARGET: &str = "sparse_attention_hub::metrics";

/// The state that all handles of a logger share.
pub(super) struct Shared {
    registry: MetricRegistry,
    /// The names of the registry's metrics, and whether they are logged.
    metrics: Vec<(Arc<str>, bool)>,
    flush_every: usize,
    flush_interval: Duration,
    max_records: usize,
    sampling_factor: f64,
    finished: AtomicBool,
    state: Mutex<State>,
}

struct State {
    destination: Destination,
    flushed: Instant,
}

/// Where records go.
#[derive(Debug)]
pub(super) enum Destination {
    Output(Output),
    Memory(Memory),
}

impl Shared {
    pub fn new(config: MetricLoggerConfig, metrics: Vec<(Arc<str>, bool)>, destination: Destination) -> Self {
        Self {
            metrics,
            registry: config.registry,
            flush_every: config.flush_every.min(config.max_records),
            flush_interval: config.flush_interval,
            max_records: config.max_records,
            sampling_factor: config.sampling_factor,
            finished: AtomicBool::new(false),
            state: Mutex::new(State { destination, flushed: Instant::now() }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A writer of the caller can panic while the lock is held. The state still holds whole lines.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn enabled(&self, metric: &str) -> bool {
        self.registry.place(metric).is_some_and(|at| self.metrics[at].1)
    }

    /// Whether a step is logged under the sampling factor.
    pub fn samples(&self, step: Option<u64>) -> bool {
        let taken_before = |step: u64| (step as f64 * self.sampling_factor).ceil();
        step.is_none_or(|step| self.sampling_factor == 1.0 || taken_before(step + 1) > taken_before(step))
    }

    pub fn memory<T>(&self, of: impl FnOnce(&Memory) -> T) -> Option<T> {
        match &self.lock().destination {
            Destination::Memory(memory) => Some(of(memory)),
            Destination::Output(_) => None,
        }
    }

    /// Logs the values of a metric. The lines are formatted before the lock is taken.
    pub fn log(
        &self,
        metric: &str,
        values: impl IntoIterator<Item = (Place, f64)>,
        location: Option<&Arc<str>>,
    ) -> Result<(), MetricError> {
        let Some(at) = self.registry.place(metric) else { return Err(self.registry.unknown(metric)) };
        let (name, enabled) = &self.metrics[at];
        if !enabled {
            return Ok(());
        }
        let (definition, timestamp) = (&self.registry.metrics()[at], Timestamp::now());
        let record = |(place, value)| {
            definition.check(value)?;
            let (metric, location) = (name.clone(), location.cloned());
            Ok(Record { timestamp, metric, value, place, location })
        };
        let mut records = values.into_iter().filter(|(place, _)| self.samples(place.step)).map(record).peekable();
        while records.peek().is_some() {
            let mut fault = Ok(());
            let good = records
                .by_ref()
                .take(self.flush_every)
                .map_while(|record| record.map_err(|error| fault = Err(error)).ok());
            let batch = good.collect::<Vec<_>>();
            self.accept(batch)?;
            fault?;
        }
        Ok(())
    }

    /// Takes at most `flush_every` records.
    fn accept(&self, records: Vec<Record>) -> Result<(), MetricError> {
        if tracing::enabled!(target: TARGET, tracing::Level::TRACE) {
            records.iter().for_each(trace);
        }
        let lines = lines(&records);
        let mut state = self.lock();
        if self.finished.load(Ordering::Acquire) {
            return Err(MetricError::Finished);
        }
        let count = records.len();
        match &mut state.destination {
            Destination::Memory(memory) => {
                records.into_iter().for_each(|record| memory.push(record));
                return Ok(());
            }
            Destination::Output(output) if output.waiting() + count > self.max_records => state.flush(count)?,
            Destination::Output(_) => {}
        }
        if let Destination::Output(output) = &mut state.destination {
            output.push(&lines, count);
            if output.waiting() >= self.flush_every || state.flushed.elapsed() >= self.flush_interval {
                state.flush(0)?;
            }
        }
        Ok(())
    }

    pub fn flush(&self) -> Result<(), MetricError> {
        self.lock().flush(0)
    }

    pub fn finish(&self) -> Result<(), MetricError> {
        let mut state = self.lock();
        if self.finished.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Destination::Output(output) = &mut state.destination {
            output.sync().map_err(|source| failed(output, 0, source))?;
        }
        self.finished.store(true, Ordering::Release);
        Ok(())
    }
}

impl State {
    /// Writes the waiting records. `refused` is the number of records that are lost if this fails.
    fn flush(&mut self, refused: usize) -> Result<(), MetricError> {
        if let Destination::Output(output) = &mut self.destination {
            output.flush().map_err(|source| failed(output, refused, source))?;
            self.flushed = Instant::now();
        }
        Ok(())
    }
}

fn failed(output: &Output, refused: usize, source: std::io::Error) -> MetricError {
    MetricError::Write { to: output.name().to_owned(), kept: output.waiting(), refused, source }
}

fn trace(record: &Record) {
    let (Place { layer, batch, head, query, step }, metric) = (record.place, &*record.metric);
    let location = record.location.as_deref();
    tracing::trace!(target: TARGET, metric, value = record.value, layer, batch, head, query, step, location);
}

/// The records as lines. All records of a batch have the same timestamp.
fn lines(records: &[Record]) -> Vec<u8> {
    let Some(first) = records.first() else { return Vec::new() };
    let timestamp = first.timestamp.to_string();
    let mut bytes = Vec::with_capacity(160 * records.len());
    for record in records {
        let line = Line::new(&timestamp, &record.metric, record.value, record.place, record.location.as_deref());
        bytes.extend(json(&line));
        bytes.push(b'\n');
    }
    bytes
}

/// When the last handle is dropped, the waiting records are written. An error can only be reported as a message.
impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = state.flush(0) {
            tracing::error!(target: TARGET, %error, "the last records of a metric logger are lost");
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let enabled = self.metrics.iter().filter(|(_, enabled)| *enabled).count();
        f.debug_struct("Shared").field("enabled", &enabled).field("destination", &self.lock().destination).finish()
    }
}
