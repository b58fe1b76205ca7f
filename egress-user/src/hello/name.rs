//! Server names: one canonical form for hellos, policy files and the gateway.

use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// The longest name in text form, without the trailing dot: 255 bytes on the wire
/// (RFC 1035 §3.1) less the first length byte and the root label.
const MAX_NAME: usize = 253;

/// The longest label (RFC 1035 §3.1).
const MAX_LABEL: usize = 63;

/// A host name in canonical form: ASCII lower case, no trailing dot, every label made of
/// letters, digits, `-` and `_`.
///
/// Never an IP address in any notation. Internationalised names are A-labels (`xn--…`), as
/// RFC 6066 §3 demands of a ClientHello.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName(Arc<str>);

impl ServerName {
    /// Checks a name and puts it into canonical form.
    ///
    /// Labels follow the rules of rustls and WebPKI: `_` may stand anywhere, since real
    /// hosts carry it, but `-` neither starts nor ends a label, since no certificate can
    /// name such a host.
    ///
    /// # Errors
    ///
    /// [`NameError`] for the first rule that the name breaks.
    pub fn parse(raw: &[u8]) -> Result<ServerName, NameError> {
        if raw.is_empty() {
            return Err(NameError::Empty);
        }
        let name = raw.strip_suffix(b".").unwrap_or(raw);
        if is_ipv6(name) {
            return Err(NameError::IpLiteral);
        }
        if name.len() > MAX_NAME {
            return Err(NameError::Length);
        }
        let mut last = name;
        for label in name.split(|&byte| byte == b'.') {
            check_label(label)?;
            last = label;
        }
        if is_number(last) {
            return Err(NameError::IpLiteral);
        }
        let lower = name.to_ascii_lowercase();
        let text = str::from_utf8(&lower).map_err(|_| NameError::Character)?;
        Ok(ServerName(Arc::from(text)))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is one label (`localhost`, `kubernetes`), which means something else
    /// in every network.
    pub fn is_single_label(&self) -> bool {
        !self.0.contains('.')
    }
}

fn check_label(label: &[u8]) -> Result<(), NameError> {
    let (Some(first), Some(last)) = (label.first(), label.last()) else {
        return Err(NameError::EmptyLabel);
    };
    if !label
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    {
        return Err(NameError::Character);
    }
    if label.len() > MAX_LABEL {
        return Err(NameError::Length);
    }
    if *first == b'-' || *last == b'-' {
        return Err(NameError::Hyphen);
    }
    Ok(())
}

/// Whether the last label is a number, by the rule of the WHATWG URL standard and of
/// RFC 9849 §6.1.7: then some resolver reads the whole name as an IPv4 address
/// (`127.1`, `2130706433`, `0177.0.0.1`, `0x7f.1`). No top-level domain is a number.
fn is_number(label: &[u8]) -> bool {
    match label {
        [b'0', b'x' | b'X', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

/// Whether the name is an IPv6 address, in brackets or not, with a zone or not.
fn is_ipv6(name: &[u8]) -> bool {
    if !name.contains(&b':') {
        return false;
    }
    let inner = name.strip_prefix(b"[").unwrap_or(name);
    let inner = inner.strip_suffix(b"]").unwrap_or(inner);
    let address = inner.split(|&byte| byte == b'%').next().unwrap_or(inner);
    str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for ServerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The rule that a name breaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum NameError {
    /// No bytes at all.
    #[error("the name is empty")]
    Empty,
    /// A leading dot, two dots in a row, or nothing but a dot.
    #[error("the name has an empty label: it starts with a dot or has two in a row")]
    EmptyLabel,
    /// Over 253 bytes, or a label over 63.
    #[error("the name is over {MAX_NAME} bytes long, or one of its labels is over {MAX_LABEL}")]
    Length,
    /// A byte outside letters, digits, `-`, `_` and `.`.
    #[error(
        "the name has a character other than letters, digits, '-', '_' and '.' \
         (an internationalised name is written in its xn-- form)"
    )]
    Character,
    /// A label that starts or ends with `-`.
    #[error("a label of the name starts or ends with '-'")]
    Hyphen,
    /// An IP address in some notation, or a name whose last label is a number.
    #[error("the name is an IP address, or ends in a number and could be read as one")]
    IpLiteral,
}

impl NameError {
    /// The reason for records and counters.
    pub fn reason(self) -> &'static str {
        match self {
            NameError::Empty => "empty_name",
            NameError::EmptyLabel => "empty_label",
            NameError::Length => "name_length",
            NameError::Character => "name_character",
            NameError::Hyphen => "name_hyphen",
            NameError::IpLiteral => "ip_literal",
        }
    }
}

/// A name as a client sent it, made safe for a log line: printable ASCII, everything else
/// escaped as in a Rust byte string, cut after [`RawName::MAX`] bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RawName(Arc<str>);

impl RawName {
    /// How many bytes are shown: the longest acceptable name with its trailing dot. A longer
    /// one is followed by `...`.
    pub const MAX: usize = MAX_NAME + 1;

    /// Escapes a name of any bytes.
    pub fn new(raw: &[u8]) -> RawName {
        match raw.get(..RawName::MAX) {
            Some(shown) if shown.len() < raw.len() => {
                RawName(format!("{}...", shown.escape_ascii()).into())
            }
            _ => RawName(raw.escape_ascii().to_string().into()),
        }
    }

    /// As [`RawName::new`], sharing the text of the canonical name where they are equal.
    pub(super) fn of(raw: &[u8], canonical: &ServerName) -> RawName {
        if canonical.as_str().as_bytes() == raw {
            RawName(Arc::clone(&canonical.0))
        } else {
            RawName::new(raw)
        }
    }

    /// Two names that stood where one may stand.
    pub(super) fn pair(first: &[u8], second: &[u8]) -> RawName {
        let text = format!("{}, {}", RawName::new(first), RawName::new(second));
        RawName(text.into())
    }

    /// The escaped text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RawName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RawName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for RawName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
