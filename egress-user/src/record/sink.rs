//! Where records go: one writer thread per process, metrics, and the tally of `egress run`.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use super::log_file::LogFile;
use super::sampling::Sampling;
use super::writer::{Out, Printer, Writer};
use super::{Metrics, Painter, Record, Tally};
use crate::refusal::{Class, Refusal};

/// The form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    #[default]
    Json,
    /// One aligned line, for people.
    Text,
}

impl LogFormat {
    /// The word for it in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            LogFormat::Json => "json",
            LogFormat::Text => "text",
        }
    }
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
    /// A file that is appended to, and made anew when somebody has put it away.
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
#[error("cannot open the log {path}: {source}", path = path.display())]
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
    sampling: Arc<Sampling>,
}

impl Recorder {
    /// A recorder that keeps metrics and writes no log.
    pub fn silent(metrics: Arc<Metrics>) -> Recorder {
        Recorder {
            metrics,
            tally: None,
            writer: None,
            sampling: Arc::default(),
        }
    }

    /// Opens the log and starts its writer thread.
    pub fn open(
        target: &Target,
        format: LogFormat,
        metrics: Arc<Metrics>,
    ) -> Result<Recorder, SinkError> {
        let mut recorder = Recorder::silent(metrics);
        // Unbuffered: the writer has its own lines in hand, and knows which of them are out.
        let (out, terminal): (Box<dyn Out>, bool) = match target {
            Target::Nowhere => return Ok(recorder),
            Target::Stdout => (
                Box::new(stream(&io::stdout(), "standard output")?),
                io::stdout().is_terminal(),
            ),
            Target::Stderr => (
                Box::new(stream(&io::stderr(), "standard error")?),
                io::stderr().is_terminal(),
            ),
            Target::File(path) => (Box::new(open_file(path)?), false),
        };
        let printer = Printer::new(out, format, Painter::new(terminal));
        recorder.writer = Some(Arc::new(Writer::start(printer, recorder.metrics.clone())));
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

    /// Whether a connection would be on record. Nothing is let out that would not be.
    ///
    /// # Errors
    /// When the last write failed, or so many records wait that the log seems to take none.
    pub fn takes_records(&self) -> Result<(), Refusal> {
        match &self.writer {
            Some(writer) if writer.is_failing() => Err(Refusal::new(Class::Busy, "log_unwritable")),
            Some(writer) if writer.is_stalled() => Err(Refusal::new(Class::Busy, "log_stalled")),
            _ => Ok(()),
        }
    }

    /// Ends the writer once everything handed over so far is written, or the log has taken nothing
    /// for too long.
    pub fn close(&self) {
        if let Some(writer) = &self.writer {
            writer.close();
        }
    }

    /// Counts a record, and writes it unless its source has too many that got nowhere.
    pub(super) fn write(&self, mut record: Box<Record>) {
        self.metrics.finished(&record);
        match self.sampling.take(&record, Instant::now()) {
            Some(withheld) => {
                record.withheld = (withheld != 0).then_some(withheld);
                self.hand_over(record);
            }
            None => {
                self.metrics.record_withheld(record.hop);
                self.summarise(&record);
            }
        }
    }

    /// To whoever reads records, without a word to the counters.
    pub(super) fn hand_over(&self, record: Box<Record>) {
        self.summarise(&record);
        if let Some(writer) = &self.writer {
            writer.push(record);
        }
    }

    fn summarise(&self, record: &Record) {
        if let Some(tally) = &self.tally {
            tally.add(record);
        }
    }
}

fn stream(fd: &impl AsFd, name: &str) -> Result<File, SinkError> {
    let fd = fd.as_fd().try_clone_to_owned();
    fd.map(File::from).map_err(|source| SinkError {
        path: PathBuf::from(name),
        source,
    })
}

fn open_file(path: &Path) -> Result<LogFile, SinkError> {
    LogFile::open(path).map_err(|source| SinkError {
        path: path.to_owned(),
        source,
    })
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
            Pending::open(&recorder, Hop::Agent, ConnectionId::new()).carried();
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
}
