//! The way out through a proxy of the network's, where there is no direct one.
//!
//! The proxy is asked for an address, never for a name: what the gateway resolved and checked is
//! what is dialled.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::addr::OriginAddr;
use crate::descriptors;
use crate::endpoint::Endpoint;

pub mod credentials;
mod http;
mod socks;

use credentials::{Credentials, CredentialsError};

/// Time for a proxy's own connection: those who stand in the way out are near.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Which proxy, and how it is spoken to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proxy {
    /// The protocol.
    pub protocol: Protocol,
    /// Where it is.
    pub endpoint: Endpoint,
}

/// What a proxy speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// HTTP/1.1 CONNECT (RFC 9110 §9.3.6).
    Connect,
    /// SOCKS 5 (RFC 1928).
    Socks5,
}

impl Proxy {
    /// Reads `http://HOST:PORT`.
    ///
    /// # Errors
    /// A sentence for anything else.
    pub fn connect(text: &str) -> Result<Proxy, String> {
        let form = || format!("`{}` is not http://HOST:PORT", without_user(text));
        let rest = text.strip_prefix("http://").ok_or_else(form)?;
        Proxy::at(Protocol::Connect, rest.strip_suffix('/').unwrap_or(rest))
    }

    /// Reads `HOST:PORT`.
    ///
    /// # Errors
    /// A sentence for anything else.
    pub fn socks5(text: &str) -> Result<Proxy, String> {
        Proxy::at(Protocol::Socks5, text)
    }

    fn at(protocol: Protocol, text: &str) -> Result<Proxy, String> {
        if text.contains('@') {
            return Err("a user and password belong in a file, named by `credentials`".to_owned());
        }
        let endpoint = text.parse()?;
        Ok(Proxy { protocol, endpoint })
    }
}

/// An address without the password that it should not carry.
fn without_user(text: &str) -> &str {
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Connect => write!(f, "http://{}", self.endpoint),
            Protocol::Socks5 => write!(f, "socks5://{}", self.endpoint),
        }
    }
}

/// A proxy with what it wants to be told.
#[derive(Debug)]
pub struct Upstream {
    proxy: Proxy,
    credentials: Option<Credentials>,
}

impl Upstream {
    /// The way through this proxy.
    ///
    /// # Errors
    /// [`CredentialsError::TooLong`]: SOCKS cannot say such a user or password.
    pub fn new(
        proxy: Proxy,
        credentials: Option<Credentials>,
    ) -> Result<Upstream, CredentialsError> {
        if let (Protocol::Socks5, Some(credentials)) = (proxy.protocol, &credentials) {
            credentials.fits_socks()?;
        }
        Ok(Upstream { proxy, credentials })
    }

    /// A connection to `origin`, by the proxy.
    pub(super) async fn dial(&self, origin: OriginAddr) -> Result<TcpStream, ProxyError> {
        let endpoint = &self.proxy.endpoint;
        let connect = TcpStream::connect((endpoint.host.as_str(), endpoint.port));
        let mut socket = tokio::time::timeout(CONNECT_LIMIT, connect)
            .await
            .map_err(|_| ProxyError::Silent)?
            .map_err(ProxyError::Unreachable)?;
        socket.set_nodelay(true).map_err(ProxyError::Unreachable)?;
        let credentials = self.credentials.as_ref();
        match self.proxy.protocol {
            Protocol::Connect => http::ask(&mut socket, origin, credentials).await?,
            Protocol::Socks5 => socks::ask(&mut socket, origin, credentials).await?,
        }
        Ok(socket)
    }
}

/// Why the proxy did not help.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    /// It cannot be reached, or its name cannot be looked up.
    #[error("the proxy cannot be reached: {0}")]
    Unreachable(#[source] io::Error),
    /// It ended the connection instead of answering.
    #[error("the proxy broke off: {0}")]
    BrokenOff(#[from] io::Error),
    /// It does not let itself be connected to.
    #[error("the proxy does not answer")]
    Silent,
    /// It wants other credentials, or any.
    #[error("the proxy does not take the credentials")]
    Auth,
    /// It answered that it does not do this.
    #[error("the proxy refuses: {0}")]
    Refused(u16),
    /// It answered that it could not do it.
    #[error("the proxy failed: {0}")]
    Failed(u16),
    /// It says that the origin cannot be reached, and why: the reason for records.
    #[error("the proxy cannot reach the origin: {0}")]
    Origin(&'static str),
    /// What it says is not the protocol.
    #[error("the proxy does not speak as it should: {0}")]
    Protocol(&'static str),
}

impl ProxyError {
    /// The reason in records.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            ProxyError::Unreachable(error) if descriptors::are_spent(error) => descriptors::SPENT,
            ProxyError::Unreachable(_) => "proxy_unreachable",
            ProxyError::BrokenOff(_) => "proxy_lost",
            ProxyError::Silent => "proxy_timeout",
            ProxyError::Auth => "proxy_auth",
            ProxyError::Refused(_) => "proxy_refused",
            ProxyError::Failed(_) => "proxy_failed",
            ProxyError::Origin(reason) => reason,
            ProxyError::Protocol(_) => "proxy_protocol",
        }
    }
}

#[cfg(test)]
mod tests;
