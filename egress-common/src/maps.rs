//! Names and sizes of the maps.

use crate::Counter;

/// Name of the map with the one [`Settings`](crate::Settings) record.
pub const SETTINGS: &str = "SETTINGS";
/// Name of the map from namespace cookie to [`ScopeConfig`](crate::ScopeConfig).
pub const SCOPES: &str = "SCOPES";
/// Name of the map from destination prefix to [`PrefixRule`](crate::PrefixRule).
pub const PREFIXES: &str = "PREFIXES";
/// Name of the map from [`FlowKey`](crate::FlowKey) to [`Flow`](crate::Flow).
pub const FLOWS: &str = "FLOWS";
/// Name of the map of [`Counter`]s.
pub const COUNTERS: &str = "COUNTERS";
/// Name of the ring buffer of [`Event`](crate::Event)s.
pub const EVENTS: &str = "EVENTS";
/// Name of the map from [`Device`](crate::Device) to the cookie of its namespace.
pub const DEVICES: &str = "DEVICES";
/// Name of the sockets' storage with [`Redirected`](crate::Redirected).
pub const SOCKETS: &str = "SOCKETS";
/// Name of the sockets' storage with [`Unjudged`](crate::Unjudged).
pub const UNJUDGED: &str = "UNJUDGED";
/// Name of the constant that tells the programs whether `bpf_skc_to_mptcp_sock` can be called.
pub const MPTCP_SOCK: &str = "MPTCP_SOCK";
/// Name of the constant that tells the programs whether `bpf_get_netns_cookie` can be called for a
/// packet.
pub const PACKET_NETNS: &str = "PACKET_NETNS";
/// Name of the constant that tells the programs where each [`Member`](crate::Member) is.
pub const MEMBERS: &str = "MEMBERS";

/// Captured namespaces at once: several times the pods that a node can run.
pub const SCOPES_LEN: usize = 16 * 1024;
/// Guarded network devices at once: some namespaces have several.
pub const DEVICES_LEN: usize = 4 * SCOPES_LEN;
/// Destination prefixes.
pub const PREFIXES_LEN: usize = 4096;
/// Connections between `connect` and the agent's `accept`, which takes the record away; those
/// that the agent never sees are evicted, oldest first. A map that took no more when it is full
/// could be filled for everybody, and for good, by who connects and leaves.
pub const FLOWS_LEN: usize = 65536;
/// Bytes of the ring buffer, a power of two: nearly three thousand events.
pub const EVENTS_BYTES: usize = 256 * 1024;
/// Cgroups whose allowance of events is remembered; one that is evicted starts anew.
pub const ALLOWANCES_LEN: usize = 4096;
/// One slot a counter.
pub const COUNTERS_LEN: usize = Counter::ALL.len();
