//! Streams for peers that speak no `egress/1`: one TLS connection each, with the application's bytes
//! in it as they are, after a PROXY protocol header or without. That is what HAProxy, stunnel and
//! Envoy can be made to speak; docs/tunnel.md says what is lost by it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::task::ready;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::ALPN;
use super::header::OpenHeader;
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
            std::task::Poll::Ready(chunk.map(|chunk| !chunk.is_empty()))
        });
        match answered.await {
            Ok(true) => Ok(sent?),
            Ok(false) => Err(TunnelError::Unanswered),
            Err(error) if tls_error(&error).is_some() => Err(error.into()),
            Err(_) => Err(TunnelError::Unanswered),
        }
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
