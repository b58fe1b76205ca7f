//! The connection record: exactly one JSON object per connection and hop.
//!
//! A hop opens a [`Pending`] record when it accepts, fills it in as the
//! connection walks through the rooms, and finishes it with a verdict. A
//! record that is dropped unfinished is still written, as `failed`.

mod kernel;
mod log_file;
mod metrics;
mod sampling;
mod sink;
mod tally;
mod text;
mod writer;

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use serde::Serialize;
use time::OffsetDateTime;

use crate::connection_id::ConnectionId;
use crate::refusal::{Class, Refusal};
use crate::rule_name::RuleName;
use crate::workload::{Process, Workload};

pub use kernel::{ConnectedBefore, KernelRefusal};
pub use metrics::{Metrics, TunnelEvent};
pub use sink::{LogFormat, Recorder, SinkError, Target};
pub use tally::{Tally, TallyRow};
pub use text::Painter;
pub(crate) use text::human_bytes;

/// Which half of the product wrote the record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hop {
    /// The node agent, next to the workload.
    Agent,
    /// The gateway, next to the outside.
    Gateway,
    /// The kernel programs, which refused something that never became a connection.
    Kernel,
}

impl Hop {
    /// The word in records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Hop::Agent => "agent",
            Hop::Gateway => "gateway",
            Hop::Kernel => "kernel",
        }
    }
}

/// What became of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Carried.
    Allowed,
    /// Carried in audit mode, although the policy says no.
    WouldRefuse,
    /// Not carried, because something decided so.
    Refused,
    /// Not carried, or cut short, because something broke.
    Failed,
    /// The client left before it said anything.
    Closed,
}

impl Verdict {
    /// The word in records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Allowed => "allowed",
            Verdict::WouldRefuse => "would_refuse",
            Verdict::Refused => "refused",
            Verdict::Failed => "failed",
            Verdict::Closed => "closed",
        }
    }

    /// The verdict that a refusal of this class stands for.
    pub fn of(class: Class) -> Verdict {
        match class {
            Class::Denied | Class::UnknownName | Class::Malformed => Verdict::Refused,
            Class::Unreachable | Class::Busy | Class::Internal => Verdict::Failed,
        }
    }
}

/// Which side ended the connection first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosedBy {
    /// The application.
    Client,
    /// The origin.
    Origin,
    /// The agent or the gateway: refusal, limit, drain.
    Egress,
}

/// How long each room took, in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Timings {
    /// From accept (agent) or OPEN (gateway) to a whole ClientHello.
    #[serde(rename = "hello_ms", skip_serializing_if = "Option::is_none")]
    pub hello: Option<Millis>,
    /// The policy's judgement.
    #[serde(rename = "policy_ms", skip_serializing_if = "Option::is_none")]
    pub policy: Option<Millis>,
    /// Agent: from verdict to a tunnel in hand.
    #[serde(rename = "tunnel_ms", skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Millis>,
    /// Agent: from OPEN to the gateway's answer.
    #[serde(rename = "open_ms", skip_serializing_if = "Option::is_none")]
    pub open: Option<Millis>,
    /// Gateway: name resolution.
    #[serde(rename = "dns_ms", skip_serializing_if = "Option::is_none")]
    pub dns: Option<Millis>,
    /// Gateway: TCP connect to the origin.
    #[serde(rename = "connect_ms", skip_serializing_if = "Option::is_none")]
    pub connect: Option<Millis>,
    /// From accept to the end.
    #[serde(rename = "total_ms", skip_serializing_if = "Option::is_none")]
    pub total: Option<Millis>,
}

/// A duration as milliseconds with microsecond digits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Millis(f64);

impl Millis {
    /// Milliseconds, with a fraction.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl From<Duration> for Millis {
    fn from(duration: Duration) -> Millis {
        Millis((duration.as_secs_f64() * 1e6).round() / 1e3)
    }
}

/// One line of the log. Absent fields were not known at this hop.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// When the hop accepted the connection (UTC).
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// The same at both hops (UUIDv7).
    pub connection: ConnectionId,
    /// Who wrote this line.
    pub hop: Hop,
    /// What became of the connection.
    pub verdict: Verdict,
    /// One word per cause; absent when carried to the end without incident.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// The policy rule that decided, or came nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
    /// Why the connection would have been refused, had the policy not been in audit mode;
    /// whatever became of it afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_refuse: Option<Cow<'static, str>>,
    /// Digest of the policy in force at this hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Digest of the policy in force at the gateway, as it told the agent, or at
    /// the agent, as it told the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_policy: Option<String>,
    /// Server name from the ClientHello, canonical.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// What stood in the ClientHello, escaped, when it is no acceptable name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni_raw: Option<String>,
    /// The port that the application asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The workload that opened the connection.
    #[serde(skip_serializing_if = "is_default")]
    pub workload: Workload,
    /// The process that opened the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The application's own end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Where the application meant to connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_dst: Option<String>,
    /// Kernel: the transport protocol, by name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Cow<'static, str>>,
    /// Kernel: the cookie of the network namespace (`SO_NETNS_COOKIE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<u64>,
    /// How many refusals of the same workload, or kernel: of the same cgroup, or without one of the
    /// same namespace, were counted and not recorded since the last one that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld: Option<u32>,
    /// Protocols offered in the ClientHello (ALPN).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// TLS versions offered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls_versions: Vec<String>,
    /// Whether the hello carries an encrypted_client_hello extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ech: Option<bool>,
    /// JA4 fingerprint of the hello.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ja4: Option<String>,
    /// Agent: the gateway that carried the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// SPIFFE ID at the other end of the tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Addresses the name resolved to, forbidden ones left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolved: Vec<String>,
    /// Addresses that were resolved but may not be dialled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forbidden: Vec<String>,
    /// The origin address that was dialled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialled: Option<String>,
    /// Whether the application's own destination was among the resolved ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_dst_resolved: Option<bool>,
    /// Bytes carried from the client towards the origin, the ClientHello included.
    pub bytes_to_origin: u64,
    /// Bytes carried from the origin towards the client.
    pub bytes_to_client: u64,
    /// Who ended it first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_by: Option<ClosedBy>,
    /// How long each room took.
    #[serde(flatten)]
    pub timings: Timings,
}

fn is_default(workload: &Workload) -> bool {
    *workload == Workload::default()
}

impl Record {
    fn new(hop: Hop, connection: ConnectionId, started: Instant) -> Record {
        Record {
            time: time_of(started),
            connection,
            hop,
            verdict: Verdict::Failed,
            reason: None,
            rule: None,
            would_refuse: None,
            policy: None,
            peer_policy: None,
            sni: None,
            sni_raw: None,
            port: None,
            workload: Workload::default(),
            process: None,
            client: None,
            original_dst: None,
            protocol: None,
            netns: None,
            withheld: None,
            alpn: Vec::new(),
            tls_versions: Vec::new(),
            ech: None,
            ja4: None,
            gateway: None,
            peer: None,
            resolved: Vec::new(),
            forbidden: Vec::new(),
            dialled: None,
            original_dst_resolved: None,
            bytes_to_origin: 0,
            bytes_to_client: 0,
            closed_by: None,
            timings: Timings::default(),
        }
    }
}

/// The time of day at `started`, with the digits that mean something.
fn time_of(started: Instant) -> OffsetDateTime {
    let time = OffsetDateTime::now_utc() - started.elapsed();
    time.replace_microsecond(time.microsecond()).unwrap_or(time)
}

/// A record in the making; writes itself exactly once.
pub struct Pending {
    record: Option<Box<Record>>,
    started: Instant,
    recorder: Recorder,
}

impl Pending {
    /// Opens the record of a connection that was just accepted.
    pub fn open(recorder: &Recorder, hop: Hop, connection: ConnectionId) -> Pending {
        Pending::since(Instant::now(), recorder, hop, connection)
    }

    /// Opens the record of something that began at `started`.
    pub fn since(
        started: Instant,
        recorder: &Recorder,
        hop: Hop,
        connection: ConnectionId,
    ) -> Pending {
        recorder.metrics().opened(hop);
        Pending {
            record: Some(Box::new(Record::new(hop, connection, started))),
            started,
            recorder: recorder.clone(),
        }
    }

    /// When the hop accepted the connection.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The connection was carried to its end, though perhaps only because of audit mode.
    pub fn carried(mut self) {
        self.verdict = Verdict::Allowed;
        if let Some(reason) = self.would_refuse.clone() {
            self.verdict = Verdict::WouldRefuse;
            self.reason.get_or_insert(reason);
        }
    }

    /// The connection was refused, or could not be carried.
    pub fn refused(mut self, refusal: Refusal) {
        self.note_refusal(refusal);
    }

    fn note_refusal(&mut self, refusal: Refusal) {
        self.verdict = Verdict::of(refusal.class);
        self.reason = Some(refusal.reason);
        self.rule = refusal.rule.or_else(|| self.rule.take());
        self.closed_by.get_or_insert(ClosedBy::Egress);
    }

    /// The client left before it sent a ClientHello.
    pub fn closed_before_hello(self) {
        self.left("closed_before_hello");
    }

    /// The other end left before it asked for anything; `reason` says in what.
    pub fn left(mut self, reason: &'static str) {
        self.verdict = Verdict::Closed;
        self.reason = Some(Cow::Borrowed(reason));
        self.closed_by = Some(ClosedBy::Client);
    }
}

impl Deref for Pending {
    type Target = Record;

    #[expect(
        clippy::expect_used,
        reason = "only Drop takes the record, and nothing borrows after it"
    )]
    fn deref(&self) -> &Record {
        self.record.as_deref().expect("record until drop")
    }
}

impl DerefMut for Pending {
    #[expect(
        clippy::expect_used,
        reason = "only Drop takes the record, and nothing borrows after it"
    )]
    fn deref_mut(&mut self) -> &mut Record {
        self.record.as_deref_mut().expect("record until drop")
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        if record.verdict == Verdict::Failed && record.reason.is_none() {
            record.reason = Some(Cow::Borrowed("aborted"));
            record.closed_by.get_or_insert(ClosedBy::Egress);
        }
        record.timings.total = Some(self.started.elapsed().into());
        self.recorder.write(record);
    }
}

#[cfg(test)]
mod tests;
