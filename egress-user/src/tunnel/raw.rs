//! Streams for peers that speak no `egress/1`: one TLS connection each, with the application's bytes
//! in it as they are, after a PROXY protocol header or without. That is what HAProxy, stunnel and
//! Envoy can be made to speak; docs/tunnel.md says what is lost by it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ALPN;
use super::header::{HeaderError, OpenHeader, ProxyHeader};
use super::stream::{Transport, TunnelError, tls_error};

/// What an agent speaks with its gateways.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// Frames, see [`super::frame`].
    #[default]
    Egress,
    /// The application's bytes alone.
    Raw(RawOptions),
}

/// How an agent speaks raw.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RawOptions {
    /// The protocol name in the TLS handshake; none is offered when absent.
    pub alpn: Option<AlpnName>,
    /// Whether each connection begins with a PROXY protocol header.
    pub proxy_header: bool,
}

impl Protocol {
    /// The names that the agent offers in the handshake (RFC 7301).
    pub fn alpn(&self) -> Vec<Vec<u8>> {
        match self {
            Protocol::Egress => vec![ALPN.to_vec()],
            Protocol::Raw(raw) => raw.alpn.iter().map(AlpnName::to_vec).collect(),
        }
    }

    /// Whether what the handshake agreed on is what was offered.
    pub fn is_agreed(&self, agreed: Option<&[u8]>) -> bool {
        agreed == self.alpn().first().map(Vec::as_slice)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Protocol::Raw(raw) = self else {
            return f.write_str("egress/1");
        };
        let header = if raw.proxy_header { "with" } else { "without" };
        write!(f, "raw, {header} a PROXY header")?;
        match &raw.alpn {
            Some(alpn) => write!(f, ", ALPN {alpn}"),
            None => Ok(()),
        }
    }
}

/// A protocol name for the TLS handshake (RFC 7301) that is not our own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlpnName(String);

impl AlpnName {
    /// Its bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }
}

impl FromStr for AlpnName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<AlpnName, Self::Err> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        match text.len() {
            1..=255 if printable && !text.starts_with("egress/") => Ok(AlpnName(text.to_owned())),
            1..=255 if printable => Err("`egress/` begins the names of our own protocol"),
            _ => Err("an ALPN name is 1 to 255 printable characters of ASCII"),
        }
    }
}

impl fmt::Display for AlpnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a gateway takes those who speak raw.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RawAccess {
    /// Whether their connections begin with a PROXY protocol header.
    pub proxy_header: HeaderUse,
    /// Protocol names that they may insist on in the TLS handshake; who offers none is taken too.
    pub alpn: Vec<AlpnName>,
}

impl RawAccess {
    /// Whether who agreed on this name, or on none, speaks raw.
    pub fn is_meant_by(&self, agreed: Option<&[u8]>) -> bool {
        agreed.is_none_or(|agreed| self.alpn.iter().any(|name| name.0.as_bytes() == agreed))
    }
}

impl fmt::Display for RawAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = HeaderUse::WORDS.iter();
        let word = header
            .filter(|(_, header_use)| *header_use == self.proxy_header)
            .map(|(word, _)| *word);
        write!(f, "PROXY header: {}", word.collect::<String>())?;
        for alpn in &self.alpn {
            write!(f, ", ALPN {alpn}")?;
        }
        Ok(())
    }
}

/// What becomes of a PROXY protocol header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HeaderUse {
    /// None is taken.
    #[default]
    No,
    /// One is read where it is.
    Accept,
    /// There must be one.
    Require,
}

impl HeaderUse {
    /// The words for it in a configuration.
    pub const WORDS: [(&'static str, HeaderUse); 3] = [
        ("no", HeaderUse::No),
        ("accept", HeaderUse::Accept),
        ("require", HeaderUse::Require),
    ];
}

/// The one stream of a TLS connection whose handshake is done.
pub struct Raw<'a, T>(&'a mut T);

impl<'a, T: Transport> Raw<'a, T> {
    /// Borrows the connection.
    pub fn new(transport: &'a mut T) -> Raw<'a, T> {
        Raw(transport)
    }

    /// Sends the header, if there is one, and the first bytes, and waits until anything comes back:
    /// nothing else tells that the stream is carried.
    ///
    /// # Errors
    /// [`TunnelError::Unanswered`] when the peer closes instead, and [`TunnelError::Io`] when its TLS
    /// says why.
    pub async fn open(
        &mut self,
        header: Option<&OpenHeader>,
        first: &[u8],
    ) -> Result<(), TunnelError> {
        let mut out = BytesMut::with_capacity(first.len());
        if let Some(header) = header {
            header.encode(&mut out)?;
        }
        out.extend_from_slice(first);
        let sent = async {
            self.0.write_all(&out).await?;
            self.0.flush().await
        };
        let sent: io::Result<()> = sent.await;
        // A peer that closed may have said why, to whoever reads.
        let answered = poll_fn(|cx| {
            let chunk = ready!(Pin::new(&mut *self.0).poll_fill_buf(cx));
            Poll::Ready(chunk.map(|chunk| !chunk.is_empty()))
        });
        match answered.await {
            Ok(true) => Ok(sent?),
            Ok(false) => Err(TunnelError::Unanswered),
            Err(error) if tls_error(&error).is_some() => Err(error.into()),
            Err(_) => Err(TunnelError::Unanswered),
        }
    }
}

impl<T: Transport> Raw<'_, T> {
    /// Reads the header that the stream begins with, if there is one.
    ///
    /// # Errors
    /// [`TunnelError::Lost`] when the peer closes before it sent anything; [`TunnelError::Header`] for one that cannot be read, that is not wanted, or is not there and
    /// must be.
    pub async fn header(&mut self, wanted: HeaderUse) -> Result<Option<ProxyHeader>, TunnelError> {
        let first = poll_fn(|cx| {
            let chunk = ready!(Pin::new(&mut *self.0).poll_fill_buf(cx));
            Poll::Ready(chunk.map(|chunk| chunk.first().copied()))
        });
        let first = first.await?.ok_or(TunnelError::Lost)?;
        match (wanted, ProxyHeader::may_begin_with(first)) {
            (HeaderUse::No, true) => Err(HeaderError::Unwanted.into()),
            (HeaderUse::Require, false) => Err(HeaderError::Absent.into()),
            (_, false) => Ok(None),
            (_, true) => Ok(Some(self.read_header().await?)),
        }
    }

    async fn read_header(&mut self) -> Result<ProxyHeader, TunnelError> {
        let mut fixed = [0; ProxyHeader::FIXED_LEN];
        self.0.read_exact(&mut fixed).await.map_err(cut_short)?;
        let mut bytes = fixed.to_vec();
        bytes.resize(fixed.len() + ProxyHeader::rest_len(&fixed)?, 0);
        let rest = bytes.get_mut(fixed.len()..).unwrap_or_default();
        self.0.read_exact(rest).await.map_err(cut_short)?;
        Ok(ProxyHeader::decode(&bytes)?)
    }

    /// Appends what is there; 0 when the peer finished.
    ///
    /// # Errors
    /// [`TunnelError::Io`].
    pub async fn read_data(&mut self, into: &mut BytesMut) -> Result<usize, TunnelError> {
        let taken = poll_fn(|cx| {
            let chunk = ready!(Pin::new(&mut *self.0).poll_fill_buf(cx))?;
            into.extend_from_slice(chunk);
            Poll::Ready(Ok::<_, io::Error>(chunk.len()))
        });
        let taken = taken.await?;
        Pin::new(&mut *self.0).consume(taken);
        Ok(taken)
    }

    /// Sends last words, ends the TLS session in good order, and reads and throws away what the peer
    /// still sends, until it closes.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn say(&mut self, words: &[u8]) -> io::Result<()> {
        self.0.write_all(words).await?;
        self.0.shutdown().await?;
        tokio::io::copy(&mut *self.0, &mut tokio::io::sink()).await?;
        Ok(())
    }
}

/// A peer that leaves in the middle of its header.
fn cut_short(error: io::Error) -> TunnelError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => HeaderError::Truncated.into(),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_our_own() {
        let alpn: AlpnName = "istio-peer-exchange".parse().unwrap();
        assert_eq!(alpn.to_string(), "istio-peer-exchange");
        for wrong in ["", "egress/1", "egress/2", "a b", "é", &"a".repeat(256)] {
            assert!(wrong.parse::<AlpnName>().is_err(), "{wrong}");
        }
    }

    /// A stream that begins with `sent` and is closed then; what is left of it behind the header.
    async fn header_of(
        sent: &[u8],
        wanted: HeaderUse,
    ) -> (Result<Option<ProxyHeader>, &'static str>, BytesMut) {
        let (mut near, far) = tokio::io::duplex(8192);
        near.write_all(sent).await.unwrap();
        drop(near);
        // Smaller than any header.
        let mut far = tokio::io::BufReader::with_capacity(5, far);
        let mut stream = Raw::new(&mut far);
        let header = stream.header(wanted).await.map_err(|error| error.reason());
        let mut rest = BytesMut::new();
        while stream.read_data(&mut rest).await.unwrap() > 0 {}
        (header, rest)
    }

    #[tokio::test]
    async fn the_header_alone_is_taken_off_the_stream() {
        let bare: &[u8] =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x01\x01\xbb";
        let hello: &[u8] = b"\x16\x03\x01 and so on";
        let both = [bare, hello].concat();
        for wanted in [HeaderUse::Accept, HeaderUse::Require] {
            let (header, rest) = header_of(&both, wanted).await;
            let (client, original) = header.unwrap().unwrap().addresses.unwrap();
            assert_eq!(client.to_string(), "192.0.2.1:1");
            assert_eq!(original.to_string(), "192.0.2.2:443");
            assert_eq!(rest, hello);
        }
        for wanted in [HeaderUse::Accept, HeaderUse::No] {
            let (header, rest) = header_of(hello, wanted).await;
            assert_eq!((header, &rest[..]), (Ok(None), hello));
        }
        for (sent, wanted, reason) in [
            (&both[..], HeaderUse::No, "header_unwanted"),
            (hello, HeaderUse::Require, "header_absent"),
            (&bare[..20], HeaderUse::Accept, "header_truncated"),
            (&bare[..7], HeaderUse::Accept, "header_truncated"),
            (
                b"\r\nGET / HTTP/1.1\r\n",
                HeaderUse::Accept,
                "header_signature",
            ),
            (b"", HeaderUse::Require, "tunnel_lost"),
        ] {
            assert_eq!(header_of(sent, wanted).await.0, Err(reason), "{sent:?}");
        }
    }

    #[test]
    fn what_was_offered_must_be_agreed() {
        let raw = |alpn: Option<&str>| {
            Protocol::Raw(RawOptions {
                alpn: alpn.map(|alpn| alpn.parse().unwrap()),
                proxy_header: false,
            })
        };
        assert!(Protocol::Egress.is_agreed(Some(b"egress/1")));
        assert!(!Protocol::Egress.is_agreed(None));
        assert!(raw(None).is_agreed(None));
        assert!(!raw(None).is_agreed(Some(b"egress/1")));
        assert!(raw(Some("x")).is_agreed(Some(b"x")));
        assert!(!raw(Some("x")).is_agreed(None));
    }
}
