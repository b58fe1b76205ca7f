//! Counts by name for the summary that `egress run` prints at its end.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{Hop, Record, Verdict};

/// Distinct rows kept; later ones are counted in the totals alone, so that a
/// command that invents names cannot grow its supervisor.
const MAX_ROWS: usize = 10_000;

/// What happened to one name.
#[derive(Clone, Debug)]
pub struct TallyRow {
    /// Server name, or what stood in its place.
    pub name: String,
    /// What became of the connections.
    pub verdict: Verdict,
    /// Why, where there is a reason.
    pub reason: Option<Cow<'static, str>>,
    /// How many connections.
    pub connections: u64,
    /// Bytes towards the origin.
    pub bytes_to_origin: u64,
    /// Bytes towards the client.
    pub bytes_to_client: u64,
}

type Key = (String, &'static str, Option<Cow<'static, str>>);

#[derive(Default)]
struct Inner {
    rows: BTreeMap<Key, TallyRow>,
    total: u64,
    by_verdict: BTreeMap<&'static str, u64>,
}

/// Totals of the agent's records, by name, verdict and reason.
#[derive(Default)]
pub struct Tally(Mutex<Inner>);

impl Tally {
    pub(super) fn add(&self, record: &Record) {
        if record.hop != Hop::Agent {
            return;
        }
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.total += 1;
        *inner.by_verdict.entry(record.verdict.as_str()).or_default() += 1;
        let key = (
            name_of(record),
            record.verdict.as_str(),
            record.reason.clone(),
        );
        if inner.rows.len() >= MAX_ROWS && !inner.rows.contains_key(&key) {
            return;
        }
        let row = inner.rows.entry(key).or_insert_with(|| TallyRow {
            name: name_of(record),
            verdict: record.verdict,
            reason: record.reason.clone(),
            connections: 0,
            bytes_to_origin: 0,
            bytes_to_client: 0,
        });
        row.connections += 1;
        row.bytes_to_origin += record.bytes_to_origin;
        row.bytes_to_client += record.bytes_to_client;
    }

    /// Connections in all.
    pub fn total(&self) -> u64 {
        self.lock().total
    }

    /// Connections with this verdict.
    pub fn count(&self, verdict: Verdict) -> u64 {
        let inner = self.lock();
        inner.by_verdict.get(verdict.as_str()).copied().unwrap_or(0)
    }

    /// The rows, by name.
    pub fn rows(&self) -> Vec<TallyRow> {
        self.lock().rows.values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name_of(record: &Record) -> String {
    let name = record.sni.as_ref().or(record.sni_raw.as_ref());
    match (name, &record.original_dst) {
        (Some(name), _) => name.clone(),
        (None, Some(address)) => format!("({address})"),
        (None, None) => "(unknown)".to_owned(),
    }
}
