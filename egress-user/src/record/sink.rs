//! Where records go: one writer thread per process, metrics, and the tally of `egress run`.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::{Metrics, Painter, Record, Tally};

/// Records that may wait for the writer. A connection that ends while so many
/// wait is held up until there is room: a record is worth more than its latency.
const QUEUE: usize = 16 * 1024;

/// The form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    #[default]
    Json,
    /// One aligned line, for people.
    Text,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(word: &str) -> Result<LogFormat, String> {
        match word {
            "json" => Ok(LogFormat::Json),
            "text" => Ok(LogFormat::Text),
            other => Err(format!("`{other}` is not a log format: use json or text")),
        }
    }
}

/// Where the lines go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file that is appended to.
    File(PathBuf),
    /// Nowhere; metrics and the tally are kept all the same.
    Nowhere,
}

impl Target {
    /// `-` is standard output; anything else is a file.
    pub fn from_path(path: &Path) -> Target {
        if path == Path::new("-") {
            Target::Stdout
        } else {
            Target::File(path.to_owned())
        }
    }
}

/// The log could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log file {path}: {source}", path = path.display())]
pub struct SinkError {
    path: PathBuf,
    source: io::Error,
}

/// Takes finished records; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    metrics: Arc<Metrics>,
    tally: Option<Arc<Tally>>,
    writer: Option<Arc<Writer>>,
}

struct Writer {
    queue: Mutex<Option<SyncSender<Box<Record>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Recorder {
    /// A recorder that keeps metrics and writes no log.
    pub fn silent(metrics: Arc<Metrics>) -> Recorder {
        Recorder {
            metrics,
            tally: None,
            writer: None,
        }
    }

    /// Opens the log and starts its writer thread.
    pub fn open(
        target: &Target,
        format: LogFormat,
        metrics: Arc<Metrics>,
    ) -> Result<Recorder, SinkError> {
        let mut recorder = Recorder::silent(metrics);
        let (out, terminal) = match target {
            Target::Nowhere => return Ok(recorder),
            Target::Stdout => (
                Box::new(io::stdout()) as Box<dyn Write + Send>,
                io::stdout().is_terminal(),
            ),
            Target::Stderr => (
                Box::new(io::stderr()) as Box<dyn Write + Send>,
                io::stderr().is_terminal(),
            ),
            Target::File(path) => (open_file(path)?, false),
        };
        let printer = Printer {
            out: BufWriter::new(out),
            format,
            painter: Painter::new(terminal),
            metrics: recorder.metrics.clone(),
            failing: false,
        };
        recorder.writer = Some(Arc::new(Writer::start(printer)));
        Ok(recorder)
    }

    /// Also counts each record in `tally`.
    pub fn with_tally(mut self, tally: Arc<Tally>) -> Recorder {
        self.tally = Some(tally);
        self
    }

    /// The counters that every record also goes to.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Waits until everything handed over so far is written, and ends the writer.
    pub fn close(&self) {
        if let Some(writer) = &self.writer {
            writer.close();
        }
    }

    pub(super) fn write(&self, record: Box<Record>) {
        self.metrics.finished(&record);
        if let Some(tally) = &self.tally {
            tally.add(&record);
        }
        if let Some(writer) = &self.writer
            && !writer.push(record)
        {
            self.metrics.record_lost();
        }
    }
}

fn open_file(path: &Path) -> Result<Box<dyn Write + Send>, SinkError> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|source| SinkError {
            path: path.to_owned(),
            source,
        })?;
    Ok(Box::new(file))
}

impl Writer {
    fn start(printer: Printer) -> Writer {
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::spawn(move || printer.run(&receiver));
        Writer {
            queue: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
        }
    }

    fn push(&self, record: Box<Record>) -> bool {
        let sender = self
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        sender.is_some_and(|sender| sender.send(record).is_ok())
    }

    fn close(&self) {
        drop(
            self.queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the log writer ended early: records may be missing");
        }
    }
}

struct Printer {
    out: BufWriter<Box<dyn Write + Send>>,
    format: LogFormat,
    painter: Painter,
    metrics: Arc<Metrics>,
    failing: bool,
}

impl Printer {
    fn run(mut self, queue: &Receiver<Box<Record>>) {
        while let Ok(record) = queue.recv() {
            self.print(&record);
            for record in queue.try_iter() {
                self.print(&record);
            }
            let flushed = self.out.flush();
            self.note(flushed);
        }
    }

    fn print(&mut self, record: &Record) {
        let line = match self.format {
            LogFormat::Json => serde_json::to_vec(record).map_err(io::Error::from),
            LogFormat::Text => Ok(self.painter.line(record).into_bytes()),
        };
        // In one piece: a record that does not fit is lost whole, and none is torn.
        let written = line.and_then(|mut line| {
            line.push(b'\n');
            self.out.write_all(&line)
        });
        self.note(written);
    }

    /// A log that cannot be written is said once, counted always.
    fn note(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.metrics.record_lost();
                if !self.failing {
                    tracing::error!(%error, "cannot write the log: records are being lost");
                }
                self.failing = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection_id::ConnectionId;
    use crate::record::{Hop, Pending};

    #[test]
    fn a_file_gets_one_line_a_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let recorder = Recorder::open(
            &Target::from_path(&path),
            LogFormat::Json,
            Arc::new(Metrics::default()),
        )
        .unwrap();
        for _ in 0..100 {
            Pending::open(&recorder, Hop::Agent, ConnectionId::new()).allowed(None);
        }
        recorder.close();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 100);
        for line in text.lines() {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(json["verdict"], "allowed");
        }
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_named() {
        let target = Target::from_path(Path::new("/nonexistent/dir/log"));
        let Err(error) = Recorder::open(&target, LogFormat::Json, Arc::new(Metrics::default()))
        else {
            panic!("opened");
        };
        assert!(
            error.to_string().contains("/nonexistent/dir/log"),
            "{error}"
        );
    }

    #[test]
    fn records_lost_to_a_full_disk_are_counted() {
        let metrics = Arc::new(Metrics::default());
        let target = Target::from_path(Path::new("/dev/full"));
        let recorder = Recorder::open(&target, LogFormat::Json, metrics.clone()).unwrap();
        Pending::open(&recorder, Hop::Agent, ConnectionId::new()).allowed(None);
        recorder.close();
        assert!(metrics.encode().contains("egress_records_lost_total 1"));
    }
}
