//! Counters in the Prometheus text format. Never a name or an address as a label.

mod collectors;

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Hop, Record};
use collectors::{Gateways, KernelCounters};

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ConnectionLabels {
    hop: &'static str,
    verdict: &'static str,
    reason: Cow<'static, str>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ByteLabels {
    hop: &'static str,
    direction: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct HopLabel {
    hop: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct TunnelLabels {
    event: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ZoneLabels {
    zone: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct NamespaceLabels {
    state: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct PolicyLabels {
    digest: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct CredentialLabels {
    what: &'static str,
}

/// What can happen to a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunnelEvent {
    /// A new mTLS connection was made.
    Opened,
    /// An idle tunnel carried another stream.
    Reused,
    /// A handshake or a dial failed.
    Failed,
    /// A peer was turned away: certificate, identity or protocol.
    Rejected,
    /// A peer was turned away unheard: too many had not said yet who they are.
    Crowded,
}

impl TunnelEvent {
    fn as_str(self) -> &'static str {
        match self {
            TunnelEvent::Opened => "opened",
            TunnelEvent::Reused => "reused",
            TunnelEvent::Failed => "failed",
            TunnelEvent::Rejected => "rejected",
            TunnelEvent::Crowded => "crowded",
        }
    }
}

/// Every counter of a process.
pub struct Metrics {
    registry: Mutex<Registry>,
    connections: Family<ConnectionLabels, Counter>,
    open: Family<HopLabel, Gauge>,
    bytes: Family<ByteLabels, Counter>,
    tunnels: Family<TunnelLabels, Counter>,
    zones: Family<ZoneLabels, Counter>,
    names_unresolved: Gauge,
    unclaimed: Counter,
    namespaces: Family<NamespaceLabels, Gauge>,
    stale_answers: Counter,
    records_lost: Counter,
    records_withheld: Family<HopLabel, Counter>,
    policy: Family<PolicyLabels, Gauge>,
    policy_differs: Family<HopLabel, Counter>,
    reload_failed: Gauge,
    credentials: Family<CredentialLabels, Gauge>,
    credentials_failed: Gauge,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("egress");
        let metrics = Metrics {
            registry: Mutex::new(Registry::default()),
            connections: Family::default(),
            open: Family::default(),
            bytes: Family::default(),
            tunnels: Family::default(),
            zones: Family::default(),
            names_unresolved: Gauge::default(),
            unclaimed: Counter::default(),
            namespaces: Family::default(),
            stale_answers: Counter::default(),
            records_lost: Counter::default(),
            records_withheld: Family::default(),
            policy: Family::default(),
            policy_differs: Family::default(),
            reload_failed: Gauge::default(),
            credentials: Family::default(),
            credentials_failed: Gauge::default(),
        };
        registry.register(
            "connections",
            "Connections that ended, by hop, verdict and reason",
            metrics.connections.clone(),
        );
        registry.register(
            "connections_open",
            "Connections that are open now, by hop",
            metrics.open.clone(),
        );
        registry.register(
            "bytes",
            "Application bytes carried, by hop and direction",
            metrics.bytes.clone(),
        );
        registry.register(
            "tunnels",
            "What happened to tunnels",
            metrics.tunnels.clone(),
        );
        registry.register(
            "zone_streams",
            "Streams by whether the gateway is in the agent's zone, where the agent has one",
            metrics.zones.clone(),
        );
        registry.register(
            "gateway_names_unresolved",
            "Names of gateways whose last look-up gave no address; those of before are used",
            metrics.names_unresolved.clone(),
        );
        registry.register(
            "unclaimed",
            "Connections to the agent's listener without a flow record, closed unread",
            metrics.unclaimed.clone(),
        );
        registry.register(
            "namespaces",
            "Network namespaces that were named or found, by whether they are captured",
            metrics.namespaces.clone(),
        );
        registry.register(
            "dns_stale_answers",
            "Names that were resolved by an old answer, because no server gave a new one",
            metrics.stale_answers.clone(),
        );
        registry.register(
            "records_lost",
            "Records that could not be written to the log",
            metrics.records_lost.clone(),
        );
        registry.register(
            "records_withheld",
            "Refusals of sources that had too many to record each, by hop",
            metrics.records_withheld.clone(),
        );
        registry.register(
            "policy",
            "The policy in force, by the digest of its text",
            metrics.policy.clone(),
        );
        registry.register(
            "policy_differs",
            "Connections that agent and gateway judged by different policies, by hop",
            metrics.policy_differs.clone(),
        );
        registry.register(
            "policy_reload_failed",
            "1 while the policy file is one that could not be put into force",
            metrics.reload_failed.clone(),
        );
        registry.register(
            "credentials_valid_until_seconds",
            "When the own certificate, the first CA of the bundle, or the revocation list ends, in Unix time",
            metrics.credentials.clone(),
        );
        registry.register(
            "credentials_reload_failed",
            "1 while the newest certificates could not be had or not be put into use",
            metrics.credentials_failed.clone(),
        );
        Metrics {
            registry: Mutex::new(registry),
            ..metrics
        }
    }
}

impl Metrics {
    /// Adds the counters of the kernel programs, which are read at every scrape.
    pub fn kernel_counters(
        &self,
        totals: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
    ) {
        let collector = KernelCounters(Box::new(totals));
        self.lock().register_collector(Box::new(collector));
    }

    /// Adds how many gateways there are in each state, which is asked at every scrape.
    pub fn gateways(
        &self,
        census: impl Fn() -> Vec<(&'static str, usize)> + Send + Sync + 'static,
    ) {
        let collector = Gateways(Box::new(census));
        self.lock().register_collector(Box::new(collector));
    }

    /// The exposition in Prometheus' text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail; a collector's failure leaves the rest.
        let _ = encode(&mut text, &self.lock());
        text
    }

    /// Something happened to a tunnel.
    pub fn tunnel(&self, event: TunnelEvent) {
        let labels = TunnelLabels {
            event: event.as_str(),
        };
        self.tunnels.get_or_create(&labels).inc();
    }

    /// A gateway of the agent's own zone, or another one, carries a stream.
    pub fn carried_in_zone(&self, own: bool) {
        let zone = if own { "own" } else { "other" };
        self.zones.get_or_create(&ZoneLabels { zone }).inc();
    }

    /// How many names of gateways could not be looked up the last time.
    pub fn gateway_names_unresolved(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.names_unresolved.set(count);
    }

    /// Somebody connected to the agent's listener without being redirected to it.
    pub fn unclaimed(&self) {
        self.unclaimed.inc();
    }

    /// So many network namespaces are captured, and so many of those that were found are not.
    pub fn namespaces(&self, captured: usize, left_out: usize) {
        for (state, count) in [("captured", captured), ("left_out", left_out)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            let labels = NamespaceLabels { state };
            self.namespaces.get_or_create(&labels).set(count);
        }
    }

    /// A name was resolved by an old answer.
    pub fn stale_answer(&self) {
        self.stale_answers.inc();
    }

    /// Which policy is in force. A scrape sees this one or the one before, and never both or none.
    pub fn policy_in_force(&self, digest: &str) {
        let _no_scrape = self.lock();
        self.policy.clear();
        let labels = PolicyLabels {
            digest: digest.to_owned(),
        };
        self.policy.get_or_create(&labels).set(1);
    }

    /// Whether the policy file as it is now could not be put into force.
    pub fn policy_reload_failed(&self, failed: bool) {
        self.reload_failed.set(failed.into());
    }

    /// When credentials in use end, in seconds of Unix time; none for what there is not. A scrape sees
    /// all of these or all of those before.
    pub fn credentials_in_use(&self, ends: &[(&'static str, Option<i64>)]) {
        let _no_scrape = self.lock();
        self.credentials.clear();
        for (what, until) in ends {
            if let Some(until) = until {
                let labels = CredentialLabels { what };
                self.credentials.get_or_create(&labels).set(*until);
            }
        }
    }

    /// Whether the newest certificates could not be had, or not be put into use.
    pub fn credentials_reload_failed(&self, failed: bool) {
        self.credentials_failed.set(failed.into());
    }

    pub(super) fn opened(&self, hop: Hop) {
        self.open.get_or_create(&hop_label(hop)).inc();
    }

    pub(super) fn finished(&self, record: &Record) {
        self.open.get_or_create(&hop_label(record.hop)).dec();
        let labels = ConnectionLabels {
            hop: record.hop.as_str(),
            verdict: record.verdict.as_str(),
            reason: reason_label(record.reason.as_ref()),
        };
        self.connections.get_or_create(&labels).inc();
        if let (Some(ours), Some(theirs)) = (&record.policy, &record.peer_policy)
            && ours != theirs
        {
            self.policy_differs
                .get_or_create(&hop_label(record.hop))
                .inc();
        }
        self.add_bytes(record.hop, "to_origin", record.bytes_to_origin);
        self.add_bytes(record.hop, "to_client", record.bytes_to_client);
    }

    pub(super) fn records_lost(&self, count: u64) {
        self.records_lost.inc_by(count);
    }

    pub(super) fn record_withheld(&self, hop: Hop) {
        self.records_withheld.get_or_create(&hop_label(hop)).inc();
    }

    fn add_bytes(&self, hop: Hop, direction: &'static str, count: u64) {
        let labels = ByteLabels {
            hop: hop.as_str(),
            direction,
        };
        self.bytes.get_or_create(&labels).inc_by(count);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hop_label(hop: Hop) -> HopLabel {
    HopLabel { hop: hop.as_str() }
}

/// Our own reasons are a closed set. What came over the tunnel is the peer's
/// word, which must not be able to grow the number of series.
fn reason_label(reason: Option<&Cow<'static, str>>) -> Cow<'static, str> {
    match reason {
        None => Cow::Borrowed("none"),
        Some(Cow::Borrowed(reason)) => Cow::Borrowed(reason),
        Some(Cow::Owned(_)) => Cow::Borrowed("by_gateway"),
    }
}
