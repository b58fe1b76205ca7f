//! The ClientHello room: bytes from an application in, a canonical server name out.
//!
//! Pure: no socket, no runtime, no clock. The reader that owns the socket hands
//! [`Parser::advance`] everything it has received so far and acts on the answer;
//! whatever it has read, it forwards unchanged.
//!
//! Strict where two readers of the same bytes could come to different names: every length
//! is consumed exactly, nothing is given twice, and there is one name in one notation.
//! `tls-parser` decodes the body of the handshake message; the records around it and the
//! strictness are this room's own.

mod alert;
mod body;
mod flight;
mod ja4;
mod name;
mod not_a_hello;
mod records;
mod sniff;

pub use alert::alert_for;
pub use flight::{FirstFlight, NameChanged};
pub use name::{NameError, RawName, ServerName};
pub use not_a_hello::{CLOSED_BEFORE_HELLO, NotAHello, TOO_SLOW};

use std::fmt;

use serde::{Serialize, Serializer};

/// The most bytes of the stream, record headers included, that a ClientHello may take.
///
/// The extensions of a hello cannot exceed 64 KiB (RFC 8446 §4.1.2), and the largest that
/// clients send, with post-quantum key shares, stay under 20 KB. The cap is also what one
/// connection may hold in memory before anything about it is known; how much all may, the reader
/// bounds.
pub const MAX_HELLO: usize = 64 * 1024;

/// The most extensions that a ClientHello may carry.
///
/// Fewer than a hundred types are registered; a hello with hundreds is an attempt to make
/// its reader work.
pub const MAX_EXTENSIONS: usize = 256;

/// How many ALPN protocols are reported; a hello may list thousands.
pub const MAX_ALPN: usize = 16;

/// An incremental parser for one ClientHello.
///
/// Remembers how far it has read, so that a stream which arrives one byte at a time is
/// still read only once.
#[derive(Default, Debug)]
pub struct Parser {
    records: records::Records,
    refused: Option<NotAHello>,
}

impl Parser {
    /// A parser at the start of a stream, or at the record that starts a second ClientHello.
    pub fn new() -> Parser {
        Parser::default()
    }

    /// Where in the stream the hello's last record ends, once it is a [`Progress::Hello`].
    pub fn end(&self) -> usize {
        self.records.end()
    }

    /// Reads on. `stream` is everything received so far: the bytes of the call before, then
    /// the new ones.
    ///
    /// Bytes after the hello's last record are allowed and not looked at. Once the answer is
    /// not [`Progress::NeedMore`] it stays the same, however the stream grows.
    pub fn advance(&mut self, stream: &[u8]) -> Progress {
        if let Some(why) = &self.refused {
            return Progress::Not(why.clone());
        }
        let read = match self.records.message(stream) {
            Ok(None) => return Progress::NeedMore,
            Ok(Some(message)) => body::read(&message),
            Err(why) => Err(why),
        };
        match read {
            Ok(hello) => Progress::Hello(Box::new(hello)),
            Err(why) => {
                self.refused = Some(why.clone());
                Progress::Not(why)
            }
        }
    }
}

/// What the bytes so far amount to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Neither accepted nor refused yet. Never the answer to [`MAX_HELLO`] bytes or more.
    NeedMore,
    /// A whole ClientHello with one acceptable name.
    Hello(Box<ClientHello>),
    /// Whatever follows, this is not an acceptable ClientHello.
    Not(NotAHello),
}

/// What a ClientHello says, as far as this product judges or reports it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientHello {
    /// The one name in the server_name extension, in canonical form.
    pub server_name: ServerName,
    /// The same name as it was sent.
    pub raw_name: RawName,
    /// The protocols offered by ALPN (RFC 7301), escaped, in the client's order, at most
    /// [`MAX_ALPN`] of them.
    pub alpn: Vec<String>,
    /// The versions offered, in the client's order, without GREASE (RFC 8701).
    pub versions: Vec<TlsVersion>,
    /// Whether the extension of an encrypted ClientHello is there.
    pub ech: Ech,
    /// The JA4 fingerprint of the client.
    pub ja4: String,
}

/// A protocol version on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TlsVersion(pub u16);

impl TlsVersion {
    /// TLS 1.2 (RFC 5246), the oldest version that a hello must offer.
    pub const TLS_1_2: TlsVersion = TlsVersion(0x0303);
    /// TLS 1.3 (RFC 8446).
    pub const TLS_1_3: TlsVersion = TlsVersion(0x0304);
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0x0300 => f.write_str("SSL3.0"),
            0x0301 => f.write_str("TLS1.0"),
            0x0302 => f.write_str("TLS1.1"),
            0x0303 => f.write_str("TLS1.2"),
            0x0304 => f.write_str("TLS1.3"),
            other => write!(f, "{other:#06x}"),
        }
    }
}

impl Serialize for TlsVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Encrypted ClientHello (RFC 9849), as it looks from outside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ech {
    /// No such extension: the name is the one the origin will act on.
    Absent,
    /// The extension is there. The name may be that of a client-facing server with another
    /// one hidden behind it, or the extension may be GREASE: the two look alike by design.
    Outer,
}

/// GREASE (RFC 8701): reserved values that a client sends so that nobody chokes on unknown
/// ones.
fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

#[cfg(test)]
mod tests;
