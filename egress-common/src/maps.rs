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
/// Name of the constant that tells the programs whether `bpf_skc_to_mptcp_sock` can be called.
pub const MPTCP_SOCK: &str = "MPTCP_SOCK";

/// Captured namespaces at once: several times the pods that a node can run.
pub const SCOPES_LEN: usize = 4096;
/// Destination prefixes.
pub const PREFIXES_LEN: usize = 4096;
/// Connections between `connect` and the agent's `accept`, which takes the record away; those
/// that the agent never sees are evicted, oldest first.
pub const FLOWS_LEN: usize = 65536;
/// One slot a counter.
pub const COUNTERS_LEN: usize = Counter::ALL.len();
