//! One new tunnel to one address of a gateway.

use std::io;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::{InvalidDnsNameError, ServerName as TlsServerName};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::pool::Warm;
use crate::addr::GatewayAddr;
use crate::descriptors;
use crate::dns::Failure;
use crate::endpoint::Endpoint;
use crate::refusal::{Class, Refusal};
use crate::tunnel::frame::Role;
use crate::tunnel::raw::Protocol;
use crate::tunnel::stream::{Tunnel, TunnelError, tls_error, tune};
use crate::tunnel::tls::{self, InUse, PeerError};

/// Time for one TCP connect and TLS handshake with one address of a gateway: a SYN that is lost is
/// sent again after one second, and the handshake takes two round trips.
const DIAL_LIMIT: Duration = Duration::from_secs(3);

/// Why no gateway could be reached; the last one's reason.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no address of any gateway: no name could be looked up, a moment ago or now.
    #[error("the names of the gateways lead nowhere")]
    NoGateway,
    /// The gateway's name has no address.
    #[error("gateway {0} cannot be resolved: {1}")]
    Resolve(Endpoint, #[source] Failure),
    /// TCP did not come about.
    #[error("gateway {0} cannot be reached: {1}")]
    Connect(GatewayAddr, #[source] io::Error),
    /// The TLS handshake failed.
    #[error("gateway {0} failed the handshake: {1}")]
    Handshake(GatewayAddr, #[source] io::Error),
    /// The other side does not speak what the agent does.
    #[error("gateway {0} does not speak {1}")]
    Protocol(GatewayAddr, Protocol),
    /// The other side is not who or what it should be.
    #[error("gateway {0} is no gateway: {1}")]
    Peer(GatewayAddr, #[source] PeerError),
    /// It took too long.
    #[error("gateway {0} did not answer in time")]
    Timeout(GatewayAddr),
    /// The gateway ended the connection instead of saying whether it takes this agent.
    #[error("gateway {0} ended the connection: {1}")]
    Lost(GatewayAddr, #[source] TunnelError),
    /// The gateway does not take this agent.
    #[error("gateway {0} does not take this agent: {1}")]
    Refused(GatewayAddr, Refusal),
}

impl DialError {
    /// What a connection that needed a gateway is refused with.
    pub fn refusal(&self) -> Refusal {
        let reason = match self {
            DialError::NoGateway | DialError::Resolve(..) => "gateway_unresolved",
            DialError::Connect(_, error) if descriptors::are_spent(error) => descriptors::SPENT,
            DialError::Connect(..) => "gateway_unreachable",
            DialError::Handshake(_, error) => {
                tls_error(error).map_or("gateway_handshake", tls::handshake_reason)
            }
            DialError::Protocol(..) => "alpn_mismatch",
            DialError::Peer(_, error) => error.reason(),
            DialError::Timeout(_) => "gateway_timeout",
            DialError::Lost(_, error) => error.reason(),
            DialError::Refused(_, refusal) => return refusal.clone(),
        };
        Refusal::new(Class::Unreachable, reason)
    }

    /// Whether it is this process that lacks something, so that it says nothing of the gateway.
    pub(super) fn is_own(&self) -> bool {
        matches!(self, DialError::Connect(_, error) if descriptors::are_spent(error))
    }
}

/// Connects, and makes sure who is at the other end.
///
/// # Errors
/// Why there is no tunnel.
pub(super) async fn dial(
    gateway: GatewayAddr,
    protocol: &Protocol,
    tls: &InUse<ClientConfig>,
) -> Result<Warm, DialError> {
    let dialled = timeout(DIAL_LIMIT, connect(gateway, protocol, tls)).await;
    dialled.unwrap_or(Err(DialError::Timeout(gateway)))
}

/// As [`dial`], and waits until the gateway says that it takes this agent: in TLS 1.3 the agent's
/// side of the handshake ends before the gateway has seen the agent's certificate. One that speaks
/// raw says nothing of the kind; the connection is closed in good order.
///
/// # Errors
/// As [`dial`], and that the gateway does not take this agent.
pub(super) async fn dial_ready(
    gateway: GatewayAddr,
    protocol: &Protocol,
    tls: &InUse<ClientConfig>,
) -> Result<Warm, DialError> {
    let mut warm = dial(gateway, protocol, tls).await?;
    if let Protocol::Raw(_) = protocol {
        // A gateway that does not listen sees the connection close.
        let _ = timeout(DIAL_LIMIT, warm.tunnel.close()).await;
        return Ok(warm);
    }
    match timeout(DIAL_LIMIT, warm.tunnel.ready()).await {
        Ok(Ok(Ok(()))) => Ok(warm),
        Ok(Ok(Err(refusal))) => Err(DialError::Refused(gateway, refusal)),
        Ok(Err(error)) => Err(DialError::Lost(gateway, error)),
        Err(_) => Err(DialError::Timeout(gateway)),
    }
}

async fn connect(
    gateway: GatewayAddr,
    protocol: &Protocol,
    tls: &InUse<ClientConfig>,
) -> Result<Warm, DialError> {
    let connected = async {
        let socket = TcpStream::connect(gateway.get()).await?;
        tune(&socket)?;
        Ok(socket)
    };
    let socket = connected
        .await
        .map_err(|error| DialError::Connect(gateway, error))?;
    let name = session_name(gateway)
        .map_err(|error| DialError::Handshake(gateway, io::Error::other(error)))?;
    let handshake = tls.now();
    let stream = TlsConnector::from(handshake.config())
        .connect(name, socket)
        .await
        .map_err(|error| DialError::Handshake(gateway, error))?;
    let (_, session) = stream.get_ref();
    if !protocol.is_agreed(session.alpn_protocol()) {
        return Err(DialError::Protocol(gateway, protocol.clone()));
    }
    let peer = handshake
        .peer(session)
        .map_err(|error| DialError::Peer(gateway, error))?;
    Ok(Warm {
        tunnel: Tunnel::new(stream, Role::Agent),
        gateway,
        peer,
        since: Instant::now(),
    })
}

/// By which name rustls keeps the sessions of a gateway: of this one, not of the others at its
/// address. It is not sent, and identity is the SPIFFE ID, checked by the verifier.
fn session_name(gateway: GatewayAddr) -> Result<TlsServerName<'static>, InvalidDnsNameError> {
    // Colons and dots of an address have no place in a label; dots part them.
    let ip = gateway.ip().to_string().replace([':', '.'], "-");
    TlsServerName::try_from(format!("ip{ip}ip.port{}", gateway.port()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use rustls::pki_types::UnixTime;
    use rustls::{HandshakeKind, ServerConfig};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::pki::{TrialCa, Validity};
    use crate::tunnel::identity::IdPattern;

    /// Takes one tunnel and gives how its handshake went.
    async fn take(listener: &TcpListener, tls: &Arc<ServerConfig>) -> HandshakeKind {
        let (socket, _) = listener.accept().await.unwrap();
        let stream = TlsAcceptor::from(tls.clone()).accept(socket).await.unwrap();
        let kind = stream.get_ref().1.handshake_kind().unwrap();
        let mut tunnel = Tunnel::new(stream, Role::Gateway);
        tunnel.send_ready().await.unwrap();
        kind
    }

    /// They know each other's sessions, as programs do that share the keys of their tickets.
    #[tokio::test]
    async fn gateways_at_one_address_are_told_apart_by_their_ports() {
        let validity = Validity::starting(SystemTime::now(), Duration::from_secs(3600)).unwrap();
        let ca = TrialCa::new("e.test".parse().unwrap(), validity).unwrap();
        let credentials = |id: &str| {
            let pem = ca.issue(&id.parse().unwrap(), validity).unwrap();
            tls::Credentials::from_pem(&pem, UnixTime::now()).unwrap()
        };
        let gateway = credentials("spiffe://e.test/gateway/a");
        let gateway = tls::gateway_end(&gateway).unwrap().config();
        let trusted: IdPattern = "spiffe://e.test/gateway/*".parse().unwrap();
        let agent = tls::agent_end(&credentials("spiffe://e.test/agent/a"), &[trusted]);
        let (_renewer, agent) = tls::in_use(agent.unwrap());

        let one = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (listener, expected) in [
            (&one, HandshakeKind::Full),
            (&other, HandshakeKind::Full),
            (&one, HandshakeKind::Resumed),
            (&other, HandshakeKind::Resumed),
        ] {
            let addr = GatewayAddr::new(listener.local_addr().unwrap());
            let dialled = dial_ready(addr, &Protocol::Egress, &agent);
            let (dialled, kind) = tokio::join!(dialled, take(listener, &gateway));
            assert_eq!(
                (dialled.err().map(|error| error.to_string()), kind),
                (None, expected)
            );
        }
    }

    #[test]
    fn each_gateway_has_a_name_for_its_sessions() {
        let addrs = [
            "192.0.2.1:8443",
            "192.0.2.1:8444",
            "192.0.2.18:443",
            "[::]:1",
            "[::1]:1",
            "[1::]:1",
            "[2001:db8:1:2:3:4:5:6]:65535",
        ];
        let names =
            addrs.map(|addr| session_name(GatewayAddr::new(addr.parse().unwrap())).unwrap());
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name:?}");
        }
    }
}
