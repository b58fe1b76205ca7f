//! The thread that writes the log, so that no connection waits for a disk.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{LogFormat, Metrics, Painter, Record};

/// Records that may wait before no connection is let out any more. One takes about a kilobyte.
const STALLED: usize = 16 * 1024;

/// Records that may wait at all. Those above [`STALLED`] are of the connections that were open
/// when the log stalled, at most as many as there are permits, and of what was refused since.
const QUEUE: usize = 4 * STALLED;

/// Bytes that are written at once; pipes take as much by default (pipe(7)).
const BATCH: usize = 64 * 1024;

/// How long the end of the process waits for a log that takes nothing.
const PATIENCE: Duration = Duration::from_secs(3);

/// What lines are written to.
pub(super) trait Out: Write + Send {
    /// Sees whether the lines have to go elsewhere from now on, and says so.
    ///
    /// # Errors
    /// When they have to, and cannot.
    fn follow(&mut self) -> io::Result<bool>;
}

/// A stream is what it is.
impl Out for File {
    fn follow(&mut self) -> io::Result<bool> {
        Ok(false)
    }
}

/// The way to the thread.
pub(super) struct Writer {
    queue: Mutex<Option<Sender<Box<Record>>>>,
    ended: Mutex<Receiver<()>>,
    waiting: Arc<AtomicUsize>,
    failing: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

impl Writer {
    pub(super) fn start(mut printer: Printer, metrics: Arc<Metrics>) -> Writer {
        let (sender, records) = channel();
        let (ending, ended) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let failing = printer.failing.clone();
        let (queue, counters) = (waiting.clone(), metrics.clone());
        std::thread::spawn(move || {
            printer.run(&records, &queue, &counters);
            // Whoever waits learns it when the sender is dropped.
            drop(ending);
        });
        Writer {
            queue: Mutex::new(Some(sender)),
            ended: Mutex::new(ended),
            waiting,
            failing,
            metrics,
        }
    }

    /// So many records wait that the log seems to take none.
    pub(super) fn is_stalled(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= STALLED
    }

    /// The last write failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    pub(super) fn push(&self, record: Box<Record>) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.waiting.load(Ordering::Relaxed) < QUEUE
            && queue.as_ref().is_some_and(|queue| {
                self.waiting.fetch_add(1, Ordering::Relaxed);
                queue.send(record).is_ok()
            });
        if !taken {
            self.metrics.records_lost(1);
        }
    }

    pub(super) fn close(&self) {
        let queue = self
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(queue);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = self.waiting.load(Ordering::Relaxed);
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(PATIENCE) {
            let now = self.waiting.load(Ordering::Relaxed);
            if now >= left {
                tracing::error!(records = now, "the log takes nothing: records are lost");
                return;
            }
            left = now;
        }
    }
}

/// Writes records as lines.
pub(super) struct Printer {
    out: Box<dyn Out>,
    format: LogFormat,
    painter: Painter,
    batch: Vec<u8>,
    /// The last write ended in the middle of a line.
    torn: bool,
    failing: Arc<AtomicBool>,
}

impl Printer {
    pub(super) fn new(out: Box<dyn Out>, format: LogFormat, painter: Painter) -> Printer {
        Printer {
            out,
            format,
            painter,
            batch: Vec::with_capacity(BATCH),
            torn: false,
            failing: Arc::default(),
        }
    }

    fn run(&mut self, records: &Receiver<Box<Record>>, waiting: &AtomicUsize, metrics: &Metrics) {
        while let Ok(record) = records.recv() {
            let mut lines = 1;
            self.print(&record);
            while self.batch.len() < BATCH
                && let Ok(record) = records.try_recv()
            {
                lines += 1;
                self.print(&record);
            }
            let lost = self.write();
            metrics.records_lost(lost);
            waiting.fetch_sub(lines, Ordering::Relaxed);
        }
    }

    fn print(&mut self, record: &Record) {
        match self.format {
            // Writing to memory cannot fail, and the record has no map with other keys than words.
            LogFormat::Json => {
                let _ = serde_json::to_writer(&mut self.batch, record);
            }
            LogFormat::Text => self.batch.extend(self.painter.line(record).into_bytes()),
        }
        self.batch.push(b'\n');
    }

    /// Writes the batch; gives how many of its lines are not whole in the log. That it cannot be
    /// written is said once, counted always.
    fn write(&mut self) -> u64 {
        let followed = self.out.follow();
        self.torn &= !matches!(followed, Ok(true));
        if self.torn {
            self.batch.insert(0, b'\n');
        }
        let (written, result) = match followed {
            Ok(_) => write_all(&mut self.out, &self.batch),
            Err(error) => (0, Err(error)),
        };
        let (done, rest) = self.batch.split_at(written);
        let repair = usize::from(self.torn && written == 0);
        let lost = rest.iter().filter(|byte| **byte == b'\n').count() - repair;
        self.torn = done.last().map_or(self.torn, |last| *last != b'\n');
        self.batch.clear();
        let failed = self.failing.swap(result.is_err(), Ordering::Relaxed);
        if let Err(error) = result
            && !failed
        {
            tracing::error!(%error, "cannot write the log: nothing is let out until it can be written");
        }
        lost as u64
    }
}

/// As [`Write::write_all`], and says how far it came.
fn write_all(out: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..)
        && !rest.is_empty()
    {
        match out.write(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, out.flush())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::connection_id::ConnectionId;
    use crate::record::{Hop, Pending, Recorder, Target};

    /// Takes what it has room for, then fails until it is given more.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(usize, Vec<u8>)>>);

    impl Disk {
        fn make_room(&self, room: usize) {
            self.0.lock().unwrap().0 = room;
        }

        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().unwrap().1.clone()).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (room, content) = &mut *self.0.lock().unwrap();
            let taken = bytes.len().min(*room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= taken;
            content.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Out for Disk {
        fn follow(&mut self) -> io::Result<bool> {
            Ok(false)
        }
    }

    fn record() -> Record {
        let recorder = Recorder::silent(Arc::new(Metrics::default()));
        Record::clone(&Pending::open(&recorder, Hop::Agent, ConnectionId::new()))
    }

    #[test]
    fn every_line_that_is_not_whole_in_the_log_is_counted() {
        let disk = Disk::default();
        let painter = Painter::new(false);
        let mut printer = Printer::new(Box::new(disk.clone()), LogFormat::Json, painter);
        let len = serde_json::to_vec(&record()).unwrap().len() + 1;
        let mut lost = 0;
        // Two lines and a bit of five, none of three twice, all of four.
        for (room, lines) in [(2 * len + 10, 5), (0, 3), (0, 3), (100 * len, 4)] {
            disk.make_room(room);
            for _ in 0..lines {
                printer.print(&record());
            }
            lost += printer.write();
        }
        assert!(
            !printer.failing.load(Ordering::Relaxed),
            "it can be written again"
        );
        let (whole, torn): (Vec<_>, Vec<_>) = disk
            .lines()
            .into_iter()
            .partition(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
        assert_eq!((whole.len(), torn.len(), lost), (2 + 4, 1, 3 + 3 + 3));
    }

    #[test]
    fn a_full_disk_is_counted() {
        let metrics = Arc::new(Metrics::default());
        let target = Target::File("/dev/full".into());
        let recorder = Recorder::open(&target, LogFormat::Json, metrics.clone()).unwrap();
        for _ in 0..1000 {
            Pending::open(&recorder, Hop::Agent, ConnectionId::new()).carried();
        }
        recorder.close();
        let text = metrics.encode();
        assert!(text.contains("egress_records_lost_total 1000\n"), "{text}");
        let refusal = recorder.takes_records().unwrap_err();
        assert_eq!(refusal.reason, "log_unwritable");
    }

    /// Nobody reads the pipe for a while. No connection waits for it, it is known to be stalled,
    /// and whatever had room is written once somebody does.
    #[test]
    fn a_log_that_takes_nothing_holds_nobody_up() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let metrics = Arc::new(Metrics::default());
        let out = Box::new(File::from(std::os::fd::OwnedFd::from(pipe)));
        let printer = Printer::new(out, LogFormat::Json, Painter::new(false));
        let writer = Writer::start(printer, metrics.clone());
        let beyond = 5000;
        for _ in 0..QUEUE + beyond {
            writer.push(Box::new(record()));
        }
        assert!(writer.is_stalled());
        writer.close();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        // The pipe itself takes a batch before it is full.
        let written = text.lines().count();
        assert!(written >= QUEUE, "{written}");
        let lost = format!("egress_records_lost_total {}\n", QUEUE + beyond - written);
        let metrics = metrics.encode();
        assert!(metrics.contains(&lost), "{metrics}");
    }
}
