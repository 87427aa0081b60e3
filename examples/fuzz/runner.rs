//! The parent process, which starts workers and reads their output.

use std::{
    env,
    io::{self, BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{Arguments, generators::Kind, report::Report, worker::AFTER_A_PANIC};

/// Runs the cases of a kind.
///
/// # Errors
/// If a process cannot be started.
pub fn run(arguments: &Arguments, kind: Kind) -> io::Result<Report> {
    let processors = thread::available_parallelism().map_or(1, usize::from) as u64;
    let jobs = arguments.jobs.unwrap_or(processors).clamp(1, arguments.count.max(1));
    let style = ProgressStyle::with_template("{prefix:>10} {bar:40} {pos}/{len} {per_sec} {eta} {msg}");
    let bar = ProgressBar::new(arguments.count).with_prefix(kind.name());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let report = Mutex::new(Report::default());
    let listen = |job: u64| {
        let end = arguments.first.saturating_add(arguments.count);
        let mut first = arguments.first + job;
        while first < end {
            let mut process = Process::start(arguments, kind, first, end - first, jobs)?;
            let last = process.listen(arguments.patience, |case, line| {
                let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                match line {
                    Some((property, found)) => report.add(property, case, found),
                    None => bar.inc(1),
                }
                bar.set_message(format!("{} faults", report.count()));
            });
            match (process.end()?, last) {
                (End::Done, _) => break,
                (End::AfterAPanic, Some(case)) => first = case + jobs,
                (End::Fault(how), Some(case)) => {
                    report.lock().unwrap_or_else(PoisonError::into_inner).add("a case ends", case, &how);
                    first = case + jobs;
                }
                (End::AfterAPanic, None) => break,
                (End::Fault(how), None) => return Err(io::Error::other(how)),
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let jobs = (0..jobs).map(|job| scope.spawn(move || listen(job))).collect::<Vec<_>>();
        jobs.into_iter().try_for_each(|job| job.join().unwrap_or_else(|_| Err(io::Error::other("a listener ended"))))
    })?;
    bar.finish_and_clear();
    Ok(report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// How a worker ended.
enum End {
    /// It ran all cases.
    Done,
    /// It ran all cases up to one that panicked. The panic was reported.
    AfterAPanic,
    /// The last case ended the process, or did not end.
    Fault(String),
}

/// A worker process.
struct Process {
    child: Child,
    lines: Receiver<String>,
    /// Whether it was killed because a case took too long.
    too_long: bool,
}

impl Process {
    fn start(arguments: &Arguments, kind: Kind, first: u64, count: u64, step: u64) -> io::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["--kind", kind.name(), "--step", &step.to_string(), "--seed", &arguments.seed.to_string()])
            .args(["--first", &first.to_string(), "--count", &count.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("a process without output"))?;
        let (sender, lines) = sync_channel(1024);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines, too_long: false })
    }

    /// Reports each case, and each fault with its case, until the output ends. Returns the last case.
    fn listen(&mut self, patience: u64, mut said: impl FnMut(u64, Option<(&str, &str)>)) -> Option<u64> {
        let mut last = None;
        loop {
            match self.lines.recv_timeout(Duration::from_secs(patience)) {
                Ok(line) => {
                    if let Some(case) = line.strip_prefix("case ").and_then(|case| case.parse().ok()) {
                        last = Some(case);
                        said(case, None);
                    } else if let (Some(case), Some(fault)) = (last, line.split_once('\t')) {
                        said(case, Some(fault));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.too_long = true;
                    return last;
                }
                Err(RecvTimeoutError::Disconnected) => return last,
            }
        }
    }

    /// Waits until the process has ended.
    fn end(mut self) -> io::Result<End> {
        if self.too_long {
            self.child.kill()?;
            self.child.wait()?;
            return Ok(End::Fault("it took too long".to_owned()));
        }
        let status = self.child.wait()?;
        Ok(match status.code() {
            Some(0) => End::Done,
            Some(code) if code == i32::from(AFTER_A_PANIC) => End::AfterAPanic,
            _ => End::Fault(format!("its process ended: {status}")),
        })
    }
}
