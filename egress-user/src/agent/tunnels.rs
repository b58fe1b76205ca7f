//! Tunnels to the gateways: a stack of warm ones, and new ones when it is empty.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName as TlsServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::addr::GatewayAddr;
use crate::descriptors;
use crate::record::{Metrics, TunnelEvent};
use crate::refusal::{Class, Refusal};
use crate::tunnel;
use crate::tunnel::frame::{ResetCode, Role};
use crate::tunnel::identity::SpiffeId;
use crate::tunnel::stream::{Tunnel, TunnelError, tls_error, tune};
use crate::tunnel::tls::{self, InUse, Peer, PeerError};

/// Warm tunnels that are kept; more than this many finished streams at once
/// close theirs. One costs about 40 KiB at each end.
const MAX_IDLE: usize = 64;

/// How long a warm tunnel may wait; shorter than the gateway's own limit, so
/// that the agent is the one that closes.
const IDLE_LIMIT: Duration = Duration::from_secs(120);

/// Time for one TCP connect and TLS handshake with one address of a gateway: a SYN that is lost is
/// sent again after one second, and the handshake takes two round trips.
const DIAL_LIMIT: Duration = Duration::from_secs(3);

/// Addresses of one gateway that are tried for one connection.
const MAX_ADDRESSES: usize = 8;

/// A tunnel as the agent holds it.
pub(super) type AgentTunnel = Tunnel<TlsStream<TcpStream>>;

/// A gateway as it is written in the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        let form = || format!("`{text}` is not HOST:PORT, such as gateway.example.org:8443");
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if host.is_empty() || (bare.is_none() && host.contains(':')) {
            return Err(form());
        }
        Ok(Endpoint {
            host: bare.unwrap_or(host).to_owned(),
            port: port.parse().map_err(|_| form())?,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why no gateway could be reached; the last one's reason.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No gateway is configured.
    #[error("no gateway is configured")]
    NoGateway,
    /// The gateway's name has no address.
    #[error("gateway {0} cannot be resolved: {1}")]
    Resolve(Endpoint, #[source] io::Error),
    /// TCP did not come about.
    #[error("gateway {0} cannot be reached: {1}")]
    Connect(Endpoint, #[source] io::Error),
    /// The TLS handshake failed.
    #[error("gateway {0} failed the handshake: {1}")]
    Handshake(Endpoint, #[source] io::Error),
    /// The other side does not speak `egress/1`.
    #[error("gateway {0} does not speak egress/1")]
    Protocol(Endpoint),
    /// The other side is not who or what it should be.
    #[error("gateway {0} is no gateway: {1}")]
    Peer(Endpoint, #[source] PeerError),
    /// It took too long.
    #[error("gateway {0} did not answer in time")]
    Timeout(Endpoint),
    /// The gateway ended the connection instead of saying whether it takes this agent.
    #[error("gateway {0} ended the connection: {1}")]
    Lost(Endpoint, #[source] TunnelError),
    /// The gateway does not take this agent.
    #[error("gateway {0} does not take this agent: {1}")]
    Refused(Endpoint, Refusal),
}

impl DialError {
    /// What a connection that needed a gateway is refused with.
    pub fn refusal(&self) -> Refusal {
        let reason = match self {
            DialError::NoGateway => "no_gateway",
            DialError::Resolve(..) => "gateway_unresolved",
            DialError::Connect(_, error) if descriptors::are_spent(error) => descriptors::SPENT,
            DialError::Connect(..) => "gateway_unreachable",
            DialError::Handshake(_, error) => {
                tls_error(error).map_or("gateway_handshake", tls::handshake_reason)
            }
            DialError::Protocol(_) => "alpn_mismatch",
            DialError::Peer(_, error) => error.reason(),
            DialError::Timeout(_) => "gateway_timeout",
            DialError::Lost(_, error) => error.reason(),
            DialError::Refused(_, refusal) => return refusal.clone(),
        };
        Refusal::new(Class::Unreachable, reason)
    }
}

/// The pool.
pub struct Tunnels {
    gateways: Vec<Endpoint>,
    next: AtomicUsize,
    tls: InUse<ClientConfig>,
    metrics: Arc<Metrics>,
    idle: Mutex<Vec<Warm>>,
    reachable: AtomicBool,
}

struct Warm {
    tunnel: AgentTunnel,
    endpoint: usize,
    gateway: GatewayAddr,
    peer: Peer<ClientConfig>,
    since: Instant,
}

/// The gateways that one connection has tried.
#[derive(Default)]
pub(super) struct Tried {
    /// None of these again.
    gateways: Vec<usize>,
    /// Its warm tunnel was silent. It may be there all the same, but the others are asked first.
    silent: Option<usize>,
}

impl Tried {
    /// A gateway answered, and may not be asked again.
    pub(super) fn answered(&mut self, lease: &Lease) {
        self.gateways.push(lease.warm.endpoint);
    }

    /// A tunnel was lost, or nothing came out of it in time.
    pub(super) fn silent(&mut self, lease: &Lease) {
        if lease.reused {
            self.silent = Some(lease.warm.endpoint);
        } else {
            self.gateways.push(lease.warm.endpoint);
        }
    }

    fn is_empty(&self) -> bool {
        self.gateways.is_empty() && self.silent.is_none()
    }
}

impl Warm {
    /// Whether it can carry another stream, with certificates that are in use and valid.
    fn is_usable(&mut self) -> bool {
        self.tunnel.is_usable() && self.peer.is_current()
    }
}

impl Tunnels {
    /// A pool that dials these gateways with this configuration.
    pub fn new(
        gateways: Vec<Endpoint>,
        tls: InUse<ClientConfig>,
        metrics: Arc<Metrics>,
    ) -> Arc<Tunnels> {
        Arc::new(Tunnels {
            gateways,
            next: AtomicUsize::new(0),
            tls,
            metrics,
            idle: Mutex::default(),
            reachable: AtomicBool::new(false),
        })
    }

    /// The warmest tunnel that is still alive, or a new one. A connection that has tried one
    /// already gets a new one, of a gateway that it has not tried.
    pub(super) async fn lease(self: &Arc<Self>, tried: &Tried) -> Result<Lease, DialError> {
        if tried.is_empty()
            && let Some(warm) = self.take_warm()
        {
            self.metrics.tunnel(TunnelEvent::Reused);
            return Ok(self.lend(warm, true));
        }
        let warm = self.dial_any(tried).await?;
        Ok(self.lend(warm, false))
    }

    /// Whether, the last time that it was tried, a gateway said that it takes this agent. A handshake
    /// is no such word: in TLS 1.3 the agent's side of it ends before the gateway has seen the
    /// agent's certificate.
    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// Closes what has been idle for too long or has died, and makes a new tunnel
    /// when none is left warm: the next connection finds one, and whether a gateway
    /// can be reached is known before it comes.
    pub(super) async fn refresh(&self) {
        let left = {
            let mut idle = self.lock();
            idle.retain_mut(|warm| warm.since.elapsed() < IDLE_LIMIT && warm.is_usable());
            idle.len()
        };
        if left > 0 {
            return;
        }
        match self.dial_ready().await {
            Ok(warm) => self.keep(warm),
            Err(error) => self.note_reachable(Err(&error)),
        }
    }

    /// A tunnel of the first gateway that says that it takes this agent.
    async fn dial_ready(&self) -> Result<Warm, DialError> {
        let mut tried = Tried::default();
        loop {
            let mut warm = self.dial_any(&tried).await?;
            let Some(endpoint) = self.gateways.get(warm.endpoint).cloned() else {
                return Err(DialError::NoGateway);
            };
            let error = match tokio::time::timeout(DIAL_LIMIT, warm.tunnel.ready()).await {
                Ok(Ok(Ok(()))) => return Ok(warm),
                Ok(Ok(Err(refusal))) => DialError::Refused(endpoint, refusal),
                Ok(Err(error)) => DialError::Lost(endpoint, error),
                Err(_) => DialError::Timeout(endpoint),
            };
            self.metrics.tunnel(TunnelEvent::Failed);
            tried.gateways.push(warm.endpoint);
            if tried.gateways.len() >= self.gateways.len() {
                return Err(error);
            }
        }
    }

    /// Notes whether gateways take this agent, and says so when it changes.
    fn note_reachable(&self, dialled: Result<(), &DialError>) {
        let before = self.reachable.swap(dialled.is_ok(), Ordering::Relaxed);
        match dialled {
            Ok(()) if !before => tracing::info!("a gateway takes this agent"),
            Ok(()) => {}
            Err(error) if before => {
                let reason = error.refusal().reason;
                tracing::warn!(%reason, "no gateway takes this agent");
            }
            Err(error) => tracing::debug!(%error, "no gateway takes this agent"),
        }
    }

    fn take_warm(&self) -> Option<Warm> {
        let mut idle = self.lock();
        while let Some(mut warm) = idle.pop() {
            if warm.is_usable() {
                return Some(warm);
            }
        }
        None
    }

    /// Keeps a tunnel that can carry another stream, whose gateway so takes this agent.
    fn keep(&self, mut warm: Warm) {
        self.note_reachable(Ok(()));
        warm.since = Instant::now();
        let mut idle = self.lock();
        if idle.len() < MAX_IDLE {
            idle.push(warm);
        }
    }

    fn lend(self: &Arc<Self>, warm: Warm, reused: bool) -> Lease {
        Lease {
            warm,
            reused,
            pool: self.clone(),
        }
    }

    /// Dials the gateways that were not tried, each once, beginning with the next in turn.
    async fn dial_any(&self, tried: &Tried) -> Result<Warm, DialError> {
        let mut last = DialError::NoGateway;
        for (index, endpoint) in self.in_turn(tried) {
            match self.dial(index, endpoint).await {
                Ok(warm) => {
                    self.metrics.tunnel(TunnelEvent::Opened);
                    return Ok(warm);
                }
                Err(error) => {
                    self.metrics.tunnel(TunnelEvent::Failed);
                    tracing::debug!(%error, "a gateway cannot be used");
                    last = error;
                }
            }
        }
        if tried.is_empty() {
            self.note_reachable(Err(&last));
        }
        Err(last)
    }

    fn in_turn(&self, tried: &Tried) -> Vec<(usize, &Endpoint)> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.gateways.len().max(1);
        let (before, after) = self.gateways.split_at(first);
        let in_turn = (first..).zip(after).chain((0..).zip(before));
        let mut untried: Vec<_> = in_turn
            .filter(|(index, _)| !tried.gateways.contains(index))
            .collect();
        untried.sort_by_key(|(index, _)| tried.silent == Some(*index));
        untried
    }

    async fn dial(&self, index: usize, endpoint: &Endpoint) -> Result<Warm, DialError> {
        let addrs = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port));
        let addrs = tokio::time::timeout(DIAL_LIMIT, addrs)
            .await
            .map_err(|_| DialError::Timeout(endpoint.clone()))?
            .map_err(|error| DialError::Resolve(endpoint.clone(), error))?;
        let none = io::Error::from(io::ErrorKind::NotFound);
        let mut last = DialError::Connect(endpoint.clone(), none);
        for addr in addrs.take(MAX_ADDRESSES) {
            let dialled = self.dial_one(index, endpoint, GatewayAddr::new(addr));
            match tokio::time::timeout(DIAL_LIMIT, dialled).await {
                Ok(Ok(warm)) => return Ok(warm),
                Ok(Err(error)) => last = error,
                Err(_) => last = DialError::Timeout(endpoint.clone()),
            }
        }
        Err(last)
    }

    async fn dial_one(
        &self,
        index: usize,
        endpoint: &Endpoint,
        gateway: GatewayAddr,
    ) -> Result<Warm, DialError> {
        let connected = async {
            let socket = TcpStream::connect(gateway.get()).await?;
            tune(&socket)?;
            Ok(socket)
        };
        let socket = connected
            .await
            .map_err(|error| DialError::Connect(endpoint.clone(), error))?;
        // The name is not sent: identity is the SPIFFE ID, checked by the verifier.
        let name = TlsServerName::IpAddress(gateway.ip().into());
        let handshake = self.tls.now();
        let stream = TlsConnector::from(handshake.config())
            .connect(name, socket)
            .await
            .map_err(|error| DialError::Handshake(endpoint.clone(), error))?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(tunnel::ALPN) {
            return Err(DialError::Protocol(endpoint.clone()));
        }
        let peer = handshake
            .peer(session.peer_certificates().unwrap_or_default())
            .map_err(|error| DialError::Peer(endpoint.clone(), error))?;
        Ok(Warm {
            tunnel: Tunnel::new(stream, Role::Agent),
            endpoint: index,
            gateway,
            peer,
            since: Instant::now(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Warm>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tunnel on loan for one stream; closed when dropped.
pub(super) struct Lease {
    warm: Warm,
    reused: bool,
    pool: Arc<Tunnels>,
}

impl Lease {
    pub(super) fn gateway(&self) -> GatewayAddr {
        self.warm.gateway
    }

    pub(super) fn peer(&self) -> &SpiffeId {
        self.warm.peer.id()
    }

    /// The tunnel, and who is at its other end.
    pub(super) fn parts(&mut self) -> (&mut AgentTunnel, &mut Peer<ClientConfig>) {
        (&mut self.warm.tunnel, &mut self.warm.peer)
    }

    pub(super) fn tunnel(&mut self) -> &mut AgentTunnel {
        &mut self.warm.tunnel
    }

    /// Back into the pool, if the stream ended in good order.
    pub(super) fn give_back(self) {
        if self.warm.tunnel.may_open() {
            self.pool.keep(self.warm);
        }
    }

    /// Gives the stream up and closes the tunnel; what is on its way in either
    /// direction belongs to nobody any more.
    pub(super) async fn reset(mut self, code: ResetCode) {
        let told = self.warm.tunnel.send_reset(code);
        // A gateway that cannot be told sees the connection close.
        let _ = tokio::time::timeout(Duration::from_millis(100), told).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_by_name_and_address() {
        for text in [
            "gateway.example.org:8443",
            "192.0.2.1:8443",
            "[2001:db8::1]:8443",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in [
            "gateway",
            ":8443",
            "gateway:",
            "gateway:x",
            "2001:db8::1:8443",
            "",
        ] {
            assert!(
                text.parse::<Endpoint>().unwrap_err().contains("HOST:PORT"),
                "{text}"
            );
        }
    }
}
