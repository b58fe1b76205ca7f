//! The payload of OPEN: for whom a stream is, as a PROXY protocol version 2 header (HAProxy's
//! `proxy-protocol.txt`, §2.2), so that standard tools can read it.
//!
//! Source is the application's address, destination the one that it chose, over TCP/IPv4 where both
//! are IPv4 and over TCP/IPv6 with v4-mapped addresses where one is not. After the addresses, TLVs:
//!
//! | type | value |
//! |---|---|
//! | 0x02 AUTHORITY | the server name, canonical |
//! | 0x05 UNIQUE_ID | the connection id, 16 bytes |
//! | 0xE0 | the workload: TLVs of the same form inside, see below; absent when nothing is known |
//! | 0xE1 | the first 8 bytes of the agent's policy digest |
//! | 0xE2 | the process: pid and uid, 32 bits each in network order, then the command name; may be absent |
//!
//! Inside 0xE0, each may be absent: 1 namespace, 2 pod, 3 service account, 4 container, 5 cgroup,
//! 6 uid in 32 bits of network order, 7 labels: for each, in ascending order of the keys, the length
//! of the key in 16 bits, the key, the length of the value in 8 bits, the value.
//!
//! Whatever is known is read strictly: exact lengths, no duplicates, nothing after the end. TLVs of
//! other types are skipped. Everything here is the agent's claim; what the gateway believes of it is
//! decided elsewhere.

mod decode;
mod encode;

use bytes::BytesMut;

use crate::addr::{ClientAddr, OriginalDst};
use crate::connection_id::ConnectionId;
use crate::tunnel::PolicyDigest;
use crate::tunnel::frame::MAX_OPEN;
use crate::workload::{Labels, Process, Workload};

/// What the agent says about a stream when it opens it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenHeader {
    /// The application's address.
    pub client: ClientAddr,
    /// Where the application meant to connect. Its port is the one that the gateway dials.
    pub original: OriginalDst,
    /// The canonical server name of the ClientHello.
    pub server_name: String,
    /// The id of the connection at both hops.
    pub connection_id: ConnectionId,
    /// The policy that the agent judged by.
    pub policy: PolicyDigest,
    /// Who opened the connection.
    pub workload: Workload,
    /// The process that called `connect`, where the agent knows it.
    pub process: Option<Process>,
}

impl OpenHeader {
    /// Appends the header.
    ///
    /// # Errors
    /// [`HeaderError::TooLong`] and [`HeaderError::Invalid`] for a field that [`OpenHeader::decode`]
    /// would not take; `out` is unchanged then. A workload is never shortened to fit: policy
    /// may ask about any part of it.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), HeaderError> {
        encode::encode(self, out)
    }

    /// Reads a header that fills `bytes` exactly.
    ///
    /// # Errors
    /// Any [`HeaderError`].
    pub fn decode(bytes: &[u8]) -> Result<OpenHeader, HeaderError> {
        decode::decode(bytes)
    }
}

/// What a PROXY protocol header of any program says, of which OPEN's is one that says everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProxyHeader {
    /// The client's address and the one that it connected to; absent when the sender opened the
    /// connection for itself (LOCAL), as for a health check.
    pub addresses: Option<(ClientAddr, OriginalDst)>,
    /// The server name, canonical.
    pub server_name: Option<String>,
    /// The connection id, where the unique id is one.
    pub connection_id: Option<ConnectionId>,
    /// The policy that the sender judged by.
    pub policy: Option<PolicyDigest>,
    /// Who opened the connection, as far as it is said.
    pub workload: Workload,
    /// The process that did.
    pub process: Option<Process>,
}

impl ProxyHeader {
    /// The part whose length is known before it is read.
    pub const FIXED_LEN: usize = FIXED_LEN;

    /// Whether a header can begin with this byte. No TLS record does.
    pub fn may_begin_with(byte: u8) -> bool {
        SIGNATURE.first() == Some(&byte)
    }

    /// How many bytes follow the fixed part; at most what OPEN may have.
    ///
    /// # Errors
    /// [`HeaderError::Signature`] and [`HeaderError::TooLarge`].
    pub fn rest_len(fixed: &[u8; FIXED_LEN]) -> Result<usize, HeaderError> {
        let [signature @ .., _, _, high, low] = fixed;
        if *signature != SIGNATURE {
            return Err(HeaderError::Signature);
        }
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        match len <= MAX_OPEN {
            true => Ok(len),
            false => Err(HeaderError::TooLarge(len)),
        }
    }

    /// Reads a header that fills `bytes` exactly.
    ///
    /// # Errors
    /// Any [`HeaderError`] but one for a part that is missing.
    pub fn decode(bytes: &[u8]) -> Result<ProxyHeader, HeaderError> {
        decode::decode_any(bytes)
    }
}

/// A part of the header that was duplicated, missing or wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// The server name.
    ServerName,
    /// The connection id.
    ConnectionId,
    /// The digest of the agent's policy.
    Policy,
    /// The workload as a whole.
    Workload,
    /// The workload's namespace.
    Namespace,
    /// The workload's pod.
    Pod,
    /// The workload's service account.
    ServiceAccount,
    /// The workload's container.
    Container,
    /// The workload's cgroup.
    Cgroup,
    /// The workload's user id.
    Uid,
    /// The workload's labels, all of them.
    Labels,
    /// The process.
    Process,
}

impl Field {
    /// The longest value on the wire, in bytes.
    ///
    /// Names of Kubernetes are at most 253 bytes (RFC 1123 subdomains), as are server names. A
    /// command name is at most 15 bytes in the kernel, each of which becomes up to three when it is
    /// decoded lossily. The path of a cgroup gets what an OPEN has left; a pod's takes about 200.
    const fn max_len(self) -> usize {
        match self {
            Field::ServerName
            | Field::Namespace
            | Field::Pod
            | Field::ServiceAccount
            | Field::Container => 253,
            Field::Cgroup => 1024,
            Field::Labels => MAX_LABELS_LEN,
            Field::Uid => 4,
            Field::ConnectionId => 16,
            Field::Policy => 8,
            Field::Process => 8 + 3 * 15,
            Field::Workload => {
                (TLV_LEN + Field::Namespace.max_len())
                    + (TLV_LEN + Field::Pod.max_len())
                    + (TLV_LEN + Field::ServiceAccount.max_len())
                    + (TLV_LEN + Field::Container.max_len())
                    + (TLV_LEN + Field::Cgroup.max_len())
                    + (TLV_LEN + Field::Uid.max_len())
                    + (TLV_LEN + Field::Labels.max_len())
            }
        }
    }
}

/// Why bytes are not an acceptable header, or a header cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// The bytes end inside the part that has a fixed size, or inside a TLV.
    #[error("header ends too early")]
    Truncated,
    /// The bytes do not begin with the signature of PROXY protocol version 2.
    #[error("no PROXY protocol v2 signature")]
    Signature,
    /// The version and command byte is not 0x21: version 2, PROXY.
    #[error("PROXY protocol version and command {0:#04x} instead of 0x21")]
    Command(u8),
    /// The family and protocol byte is neither 0x11 nor 0x21: TCP over IPv4 or IPv6.
    #[error("PROXY protocol family {0:#04x} is not TCP")]
    Family(u8),
    /// The declared length is not that of the bytes.
    #[error("header declares {declared} bytes and has {actual}")]
    Length {
        /// Bytes after the fixed part, by its own account.
        declared: usize,
        /// Bytes after the fixed part.
        actual: usize,
    },
    /// The declared length is beyond what is read.
    #[error("header of {0} bytes is too large")]
    TooLarge(usize),
    /// There is no header where one must be.
    #[error("no PROXY protocol header")]
    Absent,
    /// There is a header where none may be.
    #[error("a PROXY protocol header that is not wanted")]
    Unwanted,
    /// A field came twice.
    #[error("{0:?} given twice")]
    Duplicate(Field),
    /// A field that must be there is not.
    #[error("{0:?} missing")]
    Missing(Field),
    /// A field is longer than its limit.
    #[error("{0:?} too long")]
    TooLong(Field),
    /// A field's value is none.
    #[error("{0:?} invalid")]
    Invalid(Field),
}

impl HeaderError {
    /// One word per cause, for records and counters.
    pub fn reason(&self) -> &'static str {
        match self {
            HeaderError::Truncated => "header_truncated",
            HeaderError::Signature => "header_signature",
            HeaderError::Command(_) => "header_command",
            HeaderError::Family(_) => "header_family",
            HeaderError::Length { .. } => "header_length",
            HeaderError::TooLarge(_) => "header_too_large",
            HeaderError::Absent => "header_absent",
            HeaderError::Unwanted => "header_unwanted",
            HeaderError::Duplicate(_) => "header_duplicate",
            HeaderError::Missing(_) => "header_missing",
            HeaderError::TooLong(_) => "header_too_long",
            HeaderError::Invalid(_) => "header_invalid",
        }
    }
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_PROXY: u8 = 0x21;
const VERSION_2_LOCAL: u8 = 0x20;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Signature, version and command, family, length.
const FIXED_LEN: usize = 16;
/// Two IPv6 addresses and two ports.
const TCP6_LEN: usize = 36;
/// Type and length of a TLV.
const TLV_LEN: usize = 3;

const AUTHORITY: u8 = 0x02;
const UNIQUE_ID: u8 = 0x05;
const WORKLOAD: u8 = 0xE0;
const POLICY: u8 = 0xE1;
const PROCESS: u8 = 0xE2;

const NAMESPACE: u8 = 1;
const POD: u8 = 2;
const SERVICE_ACCOUNT: u8 = 3;
const CONTAINER: u8 = 4;
const CGROUP: u8 = 5;
const UID: u8 = 6;
const LABELS: u8 = 7;

/// The most labels of a workload; pods have a dozen.
pub const MAX_LABELS: usize = 64;

/// The most bytes that the labels of a workload take, with three for the lengths of each.
pub const MAX_LABELS_LEN: usize = 1536;

/// The size of a header with every field at its limit.
const LARGEST: usize = FIXED_LEN
    + TCP6_LEN
    + (TLV_LEN + Field::ServerName.max_len())
    + (TLV_LEN + Field::ConnectionId.max_len())
    + (TLV_LEN + Field::Policy.max_len())
    + (TLV_LEN + Field::Workload.max_len())
    + (TLV_LEN + Field::Process.max_len());

const _: () = assert!(LARGEST <= MAX_OPEN);

/// A server name as the ClientHello parser gives it.
fn check_server_name(name: &str) -> Result<&str, HeaderError> {
    check_text(Field::ServerName, name)?;
    let canonical = name
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'));
    canonical
        .then_some(name)
        .ok_or(HeaderError::Invalid(Field::ServerName))
}

/// A workload as an OPEN can carry it. A cgroup of which the path is too long is one that is not
/// known, which rules hold against the workload.
pub fn portable(mut workload: Workload) -> Workload {
    let fits = |path: &String| path.len() <= Field::Cgroup.max_len();
    workload.cgroup = workload.cgroup.filter(fits);
    workload
}

/// Whether an OPEN can carry labels: not too many, not too long, and as texts are.
///
/// # Errors
/// [`HeaderError::TooLong`] and [`HeaderError::Invalid`].
pub fn check_labels(labels: &Labels) -> Result<(), HeaderError> {
    encode::labels(labels).map(drop)
}

/// A name of the workload: not empty, since what is unknown is absent, and free of control
/// characters.
fn check_text(field: Field, text: &str) -> Result<&str, HeaderError> {
    if text.len() > field.max_len() {
        return Err(HeaderError::TooLong(field));
    }
    if text.is_empty() || text.contains(char::is_control) {
        return Err(HeaderError::Invalid(field));
    }
    Ok(text)
}

/// A label: a key that is not empty, and no control characters.
fn check_label(key: &str, value: &str) -> Result<(), HeaderError> {
    match key.is_empty() || key.contains(char::is_control) || value.contains(char::is_control) {
        true => Err(HeaderError::Invalid(Field::Labels)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
