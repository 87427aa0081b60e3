//! Metrics: logging, reading a log, and the errors of both.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use sparse_attention_hub::metrics::{
    Enabled, Metric, MetricError, MetricKind, MetricLog, MetricLogger, MetricLoggerConfig, MetricReader,
    MetricRegistry, Place,
    built_in::{HEAD_DENSITY, HEAD_KV_BYTES, HEAD_LOG_SUM_EXP_ERROR, QUERY_DENSITY},
};

/// A path in the folder of the tests at which no file exists.
fn path(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("metrics-{name}-{}.jsonl", std::process::id()));
    let _ = fs::remove_file(&path);
    path
}

fn place(step: u64) -> Place {
    Place::of_layer(3, step).with_head(1, 7)
}

/// A writer with room for a number of bytes, which can be increased.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

impl Disk {
    fn with_room(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new((Vec::new(), bytes))))
    }

    fn give(&self, bytes: usize) {
        self.0.lock().unwrap().1 += bytes;
    }

    fn content(&self) -> Vec<u8> {
        self.0.lock().unwrap().0.clone()
    }

    /// The logged values, read from the written file.
    fn values(&self, name: &str) -> Vec<f64> {
        let path = path(name);
        fs::write(&path, self.content()).unwrap();
        let log = MetricReader::open(&path).unwrap().read_all().unwrap();
        assert_eq!(log.cut_off, [0; 0]);
        log.records.iter().map(|record| record.value).collect()
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.0.lock().unwrap();
        match bytes.len().min(disk.1) {
            0 => Err(io::ErrorKind::StorageFull.into()),
            // Writes are small, so that a line can be cut off at many places.
            count => {
                let count = count.min(17);
                disk.0.extend_from_slice(&bytes[..count]);
                disk.1 -= count;
                Ok(count)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn written_records_are_read_back() {
    let path = path("round-trip");
    let logger = MetricLoggerConfig::to_file(&path).init().unwrap();
    let values = [0.1, -1.5e-300, 1e300, 0.0, 3.0, f64::INFINITY, f64::NEG_INFINITY];
    for (step, value) in values.into_iter().enumerate() {
        logger.at("a \"method\" in ö").log(HEAD_LOG_SUM_EXP_ERROR, value, place(step as u64)).unwrap();
    }
    logger.log(HEAD_LOG_SUM_EXP_ERROR, f64::NAN, Place::default()).unwrap();
    logger.log(HEAD_KV_BYTES, 9_007_199_254_740_992.0, place(0).with_query(5)).unwrap();
    logger.finish().unwrap();
    let log = MetricReader::open(&path).unwrap().read_all().unwrap();
    assert_eq!(log.metrics, MetricRegistry::new().metrics());
    assert_eq!(log.records.len(), values.len() + 2);
    for (step, (record, value)) in log.records.iter().zip(values).enumerate() {
        assert_eq!((record.value, &*record.metric), (value, HEAD_LOG_SUM_EXP_ERROR));
        assert_eq!((record.place, record.location.as_deref()), (place(step as u64), Some("a \"method\" in ö")));
    }
    let [.., not_a_number, bytes] = &log.records[..] else { panic!("two more") };
    assert!(not_a_number.value.is_nan() && not_a_number.location.is_none());
    assert_eq!(not_a_number.place, Place::default());
    assert_eq!((bytes.value, bytes.place.query), (9_007_199_254_740_992.0, Some(5)));
    assert!(log.records.windows(2).all(|two| two[0].timestamp <= two[1].timestamp));
}

#[test]
fn eight_writers_lose_and_tear_nothing() {
    const WRITERS: usize = 8;
    const RECORDS: usize = 2_000;
    let path = path("writers");
    let config = MetricLoggerConfig { flush_every: 7, max_records: 11, ..MetricLoggerConfig::to_file(&path) };
    let logger = config.init().unwrap();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let logger = logger.at(format!("writer {writer}"));
            scope.spawn(move || {
                for at in 0..RECORDS {
                    let place = Place::of_layer(writer, at as u64);
                    match at % 3 {
                        0 => logger.log_many(HEAD_DENSITY, [(place, at as f64)]).unwrap(),
                        _ => logger.log(HEAD_DENSITY, at as f64, place).unwrap(),
                    }
                }
            });
        }
    });
    drop(logger);
    let log = MetricReader::open(&path).unwrap().read_all().unwrap();
    assert_eq!((log.records.len(), log.cut_off.len()), (WRITERS * RECORDS, 0));
    for writer in 0..WRITERS {
        let name = format!("writer {writer}");
        let of_writer = log.records.iter().filter(|record| record.location.as_deref() == Some(&name));
        let values = of_writer.map(|record| record.value).collect::<Vec<_>>();
        assert_eq!(values, (0..RECORDS).map(|at| at as f64).collect::<Vec<_>>());
    }
}

#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    let disk = Disk::with_room(1 << 20);
    let config = MetricLoggerConfig { flush_every: 4, max_records: 6, ..Default::default() };
    let logger = config.init_with_writer(disk.clone()).unwrap();
    let header = disk.content().len();
    // There is room for one record and a part of the next.
    *disk.0.lock().unwrap() = (disk.content(), 200);
    let log = |step: u64| logger.log(HEAD_DENSITY, step as f64, place(step));
    for step in 0..3 {
        log(step).unwrap();
    }
    for step in 3..6 {
        let Err(MetricError::Write { kept, refused, .. }) = log(step) else { panic!("the disk is full at {step}") };
        assert_eq!(refused, 0);
        assert!(kept <= 6);
    }
    let written = disk.content()[header..].iter().filter(|byte| **byte == b'\n').count();
    assert!((1..4).contains(&written), "{written} lines");
    // When the memory is full, further records are refused, and the error says so.
    let refused = (6..20).find(|&step| matches!(log(step), Err(MetricError::Write { refused: 1, .. }))).unwrap();
    let message = logger.flush().unwrap_err().to_string();
    assert!(message.contains("6 records wait in memory"), "{message}");
    assert!(logger.finish().is_err());
    disk.give(1 << 20);
    logger.finish().unwrap();
    assert_eq!(disk.values("full"), (0..refused).map(|step| step as f64).collect::<Vec<_>>());
    assert!(matches!(log(0), Err(MetricError::Finished)));
    logger.finish().unwrap();
}

#[test]
fn a_file_on_a_full_device_is_refused_at_once() {
    if !Path::new("/dev/full").exists() {
        return eprintln!("left out: there is no /dev/full");
    }
    let error = MetricLoggerConfig::to_file("/dev/full").init().unwrap_err().to_string();
    assert!(error.contains("/dev/full"), "{error}");
}

#[test]
fn dropping_the_last_handle_writes_the_remaining_records() {
    let disk = Disk::with_room(1 << 20);
    let logger = MetricLoggerConfig::default().init_with_writer(disk.clone()).unwrap();
    let other = logger.clone();
    logger.log(HEAD_DENSITY, 1.0, place(0)).unwrap();
    drop(logger);
    other.log(HEAD_DENSITY, 2.0, place(1)).unwrap();
    assert_eq!(disk.values("before-drop"), [0.0; 0]);
    drop(other);
    assert_eq!(disk.values("after-drop"), [1.0, 2.0]);
}

#[test]
fn the_file_is_written_after_some_records_or_some_time() {
    let disk = Disk::with_room(1 << 20);
    let config = MetricLoggerConfig { flush_every: 3, ..Default::default() };
    let logger = config.init_with_writer(disk.clone()).unwrap();
    for (step, written) in [(0, 0), (1, 0), (2, 3), (3, 3), (4, 3), (5, 6)] {
        logger.log(HEAD_DENSITY, 0.0, place(step)).unwrap();
        assert_eq!(disk.values("every").len(), written, "after step {step}");
    }
    let disk = Disk::with_room(1 << 20);
    let config = MetricLoggerConfig { flush_interval: Duration::ZERO, ..Default::default() };
    config.init_with_writer(disk.clone()).unwrap().log(HEAD_DENSITY, 1.0, place(0)).unwrap();
    assert_eq!(disk.values("interval"), [1.0]);
}

#[test]
fn steps_are_sampled_by_their_number() {
    for (sampling_factor, steps) in [(1.0, vec![0, 1, 2, 3, 4, 5, 6, 7]), (0.25, vec![0, 4]), (0.3, vec![0, 3, 6])] {
        let logger = MetricLoggerConfig { sampling_factor, ..Default::default() }.init().unwrap();
        for step in 0..8 {
            logger.log(HEAD_DENSITY, step as f64, place(step)).unwrap();
            assert_eq!(logger.takes(HEAD_DENSITY, step), steps.contains(&step));
        }
        let logged = logger.records().iter().filter_map(|record| record.place.step).collect::<Vec<_>>();
        assert_eq!(logged, steps, "{sampling_factor}");
        logger.log(HEAD_DENSITY, 0.0, Place::default()).unwrap();
        assert_eq!(logger.records().len(), steps.len() + 1);
    }
}

#[test]
fn memory_is_bounded() {
    let logger = MetricLoggerConfig { max_records: 5, ..Default::default() }.init().unwrap();
    logger.log_many(HEAD_DENSITY, (0..12).map(|step| (place(step), step as f64))).unwrap();
    let values = logger.records().iter().map(|record| record.value).collect::<Vec<_>>();
    assert_eq!((values, logger.left_out()), (vec![7.0, 8.0, 9.0, 10.0, 11.0], 7));
}

#[test]
fn metrics_are_enabled_by_name() {
    let off = MetricLogger::off();
    off.log("no such metric", f64::NAN, place(0)).unwrap();
    assert!(!off.takes(HEAD_DENSITY, 0) && !off.is_on() && off.records().is_empty());
    let config = MetricLoggerConfig { metrics: Enabled::only([HEAD_DENSITY]), ..Default::default() };
    let logger = config.init().unwrap();
    logger.log(QUERY_DENSITY, 0.5, place(0)).unwrap();
    assert!(logger.records().is_empty() && !logger.takes(QUERY_DENSITY, 0) && logger.takes(HEAD_DENSITY, 0));
    let error = logger.log("head_destiny", 0.5, place(0)).unwrap_err().to_string();
    assert!(error.contains("`head_destiny`") && error.contains(HEAD_DENSITY), "{error}");
    let config = MetricLoggerConfig { metrics: Enabled::only(["head_destiny"]), ..Default::default() };
    assert!(matches!(config.init(), Err(MetricError::Unknown { name, .. }) if name == "head_destiny"));
    let error = logger_of_hits().log("hits", 0.5, place(0)).unwrap_err().to_string();
    assert!(error.contains("`hits`") && error.contains("0.5") && error.contains("whole"), "{error}");
}

fn logger_of_hits() -> MetricLogger {
    let mut registry = MetricRegistry::new();
    registry.register(Metric::new("hits", MetricKind::Count, "", "Hits.")).unwrap();
    MetricLoggerConfig { registry, ..Default::default() }.init().unwrap()
}

#[test]
fn values_before_a_faulty_one_are_logged() {
    let logger = logger_of_hits();
    let values = [1.0, 2.0, 2.5, 3.0].map(|value| (place(0), value));
    assert!(logger.log_many("hits", values).is_err());
    assert_eq!(logger.records().len(), 2);
}

#[test]
fn invalid_configurations_name_the_field() {
    let default = MetricLoggerConfig::default;
    let configs = [
        ("flush_every", MetricLoggerConfig { flush_every: 0, ..default() }),
        ("max_records", MetricLoggerConfig { max_records: 0, ..default() }),
        ("sampling_factor", MetricLoggerConfig { sampling_factor: 0.0, ..default() }),
        ("sampling_factor", MetricLoggerConfig { sampling_factor: 1.5, ..default() }),
        ("sampling_factor", MetricLoggerConfig { sampling_factor: f64::NAN, ..default() }),
        ("/no/such/folder/run.jsonl", MetricLoggerConfig::to_file("/no/such/folder/run.jsonl")),
    ];
    for (wanted, config) in configs {
        let error = config.init().unwrap_err().to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    let both = MetricLoggerConfig::to_file("run.jsonl").init_with_writer(Vec::new());
    assert!(matches!(both, Err(MetricError::Config { field: "log_path", .. })));
}

#[test]
fn a_log_is_continued_only_when_asked() {
    let path = path("append");
    let append = || MetricLoggerConfig { append: true, ..MetricLoggerConfig::to_file(&path) };
    append().init().unwrap().log(HEAD_DENSITY, 1.0, place(0)).unwrap();
    let before = fs::read(&path).unwrap();
    assert!(matches!(MetricLoggerConfig::to_file(&path).init(), Err(MetricError::Exists { .. })));
    assert_eq!(fs::read(&path).unwrap(), before);
    append().init().unwrap().log(HEAD_DENSITY, 2.0, place(1)).unwrap();
    let log = MetricReader::open(&path).unwrap().read_all().unwrap();
    assert_eq!(log.records.iter().map(|record| record.value).collect::<Vec<_>>(), [1.0, 2.0]);
    let mut registry = MetricRegistry::new();
    registry.register(Metric::new("hits", MetricKind::Count, "", "Hits.")).unwrap();
    let error = MetricLoggerConfig { registry, ..append() }.init().unwrap_err().to_string();
    assert!(error.contains("line 1") && error.contains("`metrics`") && error.contains("`hits`"), "{error}");
}

#[test]
fn a_line_that_is_cut_off_is_named_and_the_rest_is_read() {
    let path = path("cut-off");
    let append = || MetricLoggerConfig { append: true, ..MetricLoggerConfig::to_file(&path) };
    append().init().unwrap().log_many(HEAD_DENSITY, (0..3).map(|step| (place(step), step as f64))).unwrap();
    let whole = fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    // The cut-off line has between one character and all but the closing bracket.
    for end in last + 1..whole.len() - 1 {
        fs::write(&path, &whole[..end]).unwrap();
        let log = MetricReader::open(&path).unwrap().read_all().unwrap();
        assert_eq!((log.records.len(), &log.cut_off[..]), (2, &[4][..]), "cut at {end}");
    }
    // The cut-off line does not damage later records.
    append().init().unwrap().log(HEAD_DENSITY, 9.0, place(9)).unwrap();
    let log = MetricReader::open(&path).unwrap().read_all().unwrap();
    let values = log.records.iter().map(|record| record.value).collect::<Vec<_>>();
    assert_eq!((values, log.cut_off), (vec![0.0, 1.0, 9.0], vec![4]));
    // A record without the end of its line is complete.
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(MetricReader::open(&path).unwrap().read_all().unwrap().records.len(), 3);
}

#[test]
fn an_invalid_log_is_refused_with_line_and_field() {
    let path = path("refused");
    let header = r#"{"format":"sparse-attention-hub metrics","version":1,"metrics":[{"name":"head_density","kind":"real","unit":"","about":""},{"name":"hits","kind":"count","unit":"","about":""}]}"#;
    let time = r#""timestamp":"2026-11-27T15:28:24.123456Z""#;
    let record = |fields: &str| format!("{header}\n{{{time},{fields}}}\n");
    let cases = [
        (String::new(), vec!["line 1", "`format`", "empty"]),
        ("a picture\n".to_owned(), vec!["line 1", "`format`", "no JSON"]),
        (r#"{"format":"something"}"#.to_owned(), vec!["line 1", "`format`", "something"]),
        (header.replace("\"version\":1", "\"version\":2"), vec!["line 1", "`version` is `2`", "must be 1"]),
        (header.replace("\"version\":1,", ""), vec!["line 1", "`version` is missing"]),
        (header.replace("\"count\"", "\"text\""), vec!["line 1", "`metrics[1].kind`", "text"]),
        (record(r#""metric":"head_destiny","value":1"#), vec!["line 2", "`metric`", "`head_destiny`", "head_density"]),
        (record(r#""metric":"hits","value":0.5"#), vec!["line 2", "`value`", "0.5", "whole"]),
        (record(r#""metric":"head_density","value":"much""#), vec!["line 2", "`value`", "much"]),
        (record(r#""metric":"head_density","value":1,"layer":-1"#), vec!["line 2", "`layer`", "-1"]),
        (record(r#""metric":"head_density","value":1,"colour":1"#), vec!["line 2", "`colour`"]),
        (record(r#""metric":"head_density""#), vec!["line 2", "`value`"]),
        (record(r#""metric":"head_density","value":1"#).replace("15:28", "25:28"), vec!["line 2", "`timestamp`"]),
        (record(r#""metric":"head_density","value":1"#).replace("}\n", "} }\n"), vec!["line 1"]),
        (format!("{header}\nx\n"), vec!["line 2", "`.`"]),
    ];
    for (text, wanted) in cases {
        fs::write(&path, &text).unwrap();
        let error = MetricReader::open(&path).and_then(MetricReader::read_all).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        for part in wanted {
            assert!(error.contains(part), "no `{part}` in: {error}\n{text}");
        }
    }
    fs::write(&path, format!("{header}\n")).unwrap();
    let error = MetricReader::open(&path).and_then(MetricReader::read_all).and_then(|log| log.not_empty()).unwrap_err();
    assert!(error.to_string().contains("logged nothing"), "{error}");
    let error = MetricReader::open("/no/such/run.jsonl").unwrap_err().to_string();
    assert!(error.contains("/no/such/run.jsonl"), "{error}");
}

#[test]
fn runs_are_put_side_by_side() {
    let run = |value: f64| {
        let logger = MetricLoggerConfig::default().init().unwrap();
        logger.at("top-k").log(HEAD_DENSITY, value, place(0)).unwrap();
        logger.log(HEAD_DENSITY, 10.0 * value, place(0)).unwrap();
        MetricLog::in_memory(MetricRegistry::new().metrics().to_vec(), logger.records())
    };
    let both = MetricLog::side_by_side([("a".to_owned(), run(1.0)), ("b".to_owned(), run(2.0))]).unwrap();
    let found = both.records.iter().map(|record| (record.location.as_deref().unwrap_or(""), record.value));
    assert_eq!(found.collect::<Vec<_>>(), [("a: top-k", 1.0), ("a", 10.0), ("b: top-k", 2.0), ("b", 20.0)]);
    let other = Metric::new(HEAD_DENSITY, MetricKind::Count, "", "");
    let other = MetricLog::in_memory(vec![other], Vec::new());
    let error = MetricLog::side_by_side([("a".to_owned(), run(1.0)), ("b".to_owned(), other)]).unwrap_err();
    assert!(matches!(error, MetricError::Registered { name } if name == HEAD_DENSITY));
}
