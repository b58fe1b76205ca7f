//! Why bytes are not an acceptable ClientHello.

use super::{NameError, RawName};
use crate::refusal::{Class, Refusal};

/// The reason of a client that sent no whole hello within the reader's deadline.
pub const TOO_SLOW: &str = "too_slow";

/// The reason, not of a refusal, of a client that closed before a whole hello: a connection
/// race lost, a health check.
pub const CLOSED_BEFORE_HELLO: &str = "closed_before_hello";

/// Why bytes are not an acceptable ClientHello.
#[derive(Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum NotAHello {
    /// Not a TLS record.
    #[error("the stream does not start with a TLS record")]
    NotTls,
    /// A hello in SSLv2 framing.
    #[error("the client speaks SSLv2, or starts TLS with an SSLv2 hello")]
    Sslv2,
    /// An HTTP request without TLS.
    #[error("the client speaks plain HTTP; use https")]
    PlainHttp,
    /// An SSH banner.
    #[error("the client speaks SSH")]
    Ssh,

    /// A record of another type where the hello should start or go on.
    #[error("a TLS record of another type than handshake stands before the end of the hello")]
    RecordType,
    /// A record version other than 1.0, 1.1 and 1.2.
    #[error("a TLS record has a version other than 0x0301, 0x0302 and 0x0303")]
    RecordVersion,
    /// A record of over 2^14 bytes.
    #[error("a TLS record declares more than 16384 bytes")]
    RecordLength,
    /// A handshake record without content (RFC 8446 §5.1 forbids it).
    #[error("a handshake record is empty")]
    EmptyRecord,
    /// Another handshake message first.
    #[error("the first handshake message is not a ClientHello")]
    NotClientHello,
    /// More than [`MAX_HELLO`](super::MAX_HELLO), by declaration or by fragmentation.
    #[error("the hello takes more than {} bytes", super::MAX_HELLO)]
    TooLarge,

    /// A length that goes beyond what contains it, does not fit its elements, or is outside
    /// what the format allows.
    #[error("a length inside the hello does not fit what it describes")]
    InnerLength,
    /// Bytes left over in the record, the message, an extension or a list.
    #[error("bytes are left over inside the hello")]
    TrailingBytes,
    /// The same extension type twice (RFC 8446 §4.2 forbids it).
    #[error("the hello has the same extension twice")]
    DuplicateExtension,
    /// More than [`MAX_EXTENSIONS`](super::MAX_EXTENSIONS).
    #[error("the hello has more than {} extensions", super::MAX_EXTENSIONS)]
    TooManyExtensions,
    /// A server name of another type than host_name (RFC 6066 §3).
    #[error("the hello has a server name of another type than host_name")]
    NameType,
    /// Two names in the server_name extension.
    #[error("the hello has two server names: {0}")]
    TwoNames(RawName),

    /// No server_name extension.
    #[error("the hello has no server name")]
    NoSni,
    /// A name that breaks a rule.
    #[error("server name \"{raw}\": {why}")]
    Name {
        /// The rule.
        why: NameError,
        /// The name.
        raw: RawName,
    },
    /// Nothing newer than TLS 1.1 is offered (RFC 8996 retires what is older).
    #[error("the client offers no version newer than TLS 1.1 (server name \"{0}\")")]
    OldVersion(RawName),
}

impl NotAHello {
    /// The reason for records and counters: one word per variant.
    pub fn reason(&self) -> &'static str {
        match self {
            NotAHello::NotTls => "not_tls",
            NotAHello::Sslv2 => "sslv2",
            NotAHello::PlainHttp => "plain_http",
            NotAHello::Ssh => "ssh",
            NotAHello::RecordType => "record_type",
            NotAHello::RecordVersion => "record_version",
            NotAHello::RecordLength => "record_length",
            NotAHello::EmptyRecord => "empty_record",
            NotAHello::NotClientHello => "not_client_hello",
            NotAHello::TooLarge => "too_large",
            NotAHello::InnerLength => "inner_length",
            NotAHello::TrailingBytes => "trailing_bytes",
            NotAHello::DuplicateExtension => "duplicate_extension",
            NotAHello::TooManyExtensions => "too_many_extensions",
            NotAHello::NameType => "name_type",
            NotAHello::TwoNames(_) => "two_names",
            NotAHello::NoSni => "no_sni",
            NotAHello::Name { why, .. } => why.reason(),
            NotAHello::OldVersion(_) => "old_version",
        }
    }

    /// The class, and with it the alert: what breaks the format is malformed, a well-formed
    /// hello that we do not take is denied, a name that nobody could be called is unknown.
    pub fn class(&self) -> Class {
        match self {
            NotAHello::NoSni | NotAHello::OldVersion(_) => Class::Denied,
            NotAHello::Name { .. } => Class::UnknownName,
            NotAHello::NotTls
            | NotAHello::Sslv2
            | NotAHello::PlainHttp
            | NotAHello::Ssh
            | NotAHello::RecordType
            | NotAHello::RecordVersion
            | NotAHello::RecordLength
            | NotAHello::EmptyRecord
            | NotAHello::NotClientHello
            | NotAHello::TooLarge
            | NotAHello::InnerLength
            | NotAHello::TrailingBytes
            | NotAHello::DuplicateExtension
            | NotAHello::TooManyExtensions
            | NotAHello::NameType
            | NotAHello::TwoNames(_) => Class::Malformed,
        }
    }

    /// The name or names in question, for the record.
    pub fn raw_name(&self) -> Option<&RawName> {
        match self {
            NotAHello::TwoNames(raw) | NotAHello::Name { raw, .. } | NotAHello::OldVersion(raw) => {
                Some(raw)
            }
            _ => None,
        }
    }
}

impl From<&NotAHello> for Refusal {
    fn from(why: &NotAHello) -> Refusal {
        Refusal::new(why.class(), why.reason())
    }
}

impl From<NotAHello> for Refusal {
    fn from(why: NotAHello) -> Refusal {
        Refusal::from(&why)
    }
}
