//! The tunnel between agent and gateway: one TLS 1.3 connection, both sides authenticated by SPIFFE
//! certificates, that carries one application stream at a time and is reused for the next.
//!
//! [`frame`] and [`header`] are the wire format of `egress/1`, bytes in and bytes out; docs/tunnel.md
//! specifies it. [`identity`]
//! says who a certificate speaks for, [`raw`] is what other peers speak instead, [`tls`] turns certificate files into rustls configurations.

pub mod frame;
pub mod header;
pub mod identity;
pub mod raw;
mod reader;
pub mod stream;
pub mod tls;

/// The protocol name in the TLS handshake (RFC 7301).
///
/// The number is the version. A change that an old peer would misread takes another name, and the
/// handshake chooses; inside one version, unknown frame types are refused and unknown TLVs of the
/// OPEN header are skipped.
pub const ALPN: &[u8] = b"egress/1";

/// The reason with which a gateway that ends refuses a stream whose OPEN crossed its DRAIN.
pub const DRAINING: &str = "draining";

/// The first bytes of a policy document's digest: enough for two records to say whether both hops
/// judged by the same policy.
pub type PolicyDigest = [u8; 8];
