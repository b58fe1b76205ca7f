//! Addresses → one connected socket (RFC 8305, "happy eyeballs").

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::upstream::{ProxyError, Upstream};
use crate::addr::OriginAddr;
use crate::descriptors;
use crate::refusal::{Class, Refusal};

/// How long one attempt has the field to itself (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Attempts in all: a name with hundreds of addresses may not make the gateway
/// a scanner.
const MAX_ATTEMPTS: usize = 8;

/// A connected origin.
pub(super) struct Dialled {
    pub(super) socket: TcpStream,
    pub(super) addr: OriginAddr,
}

/// The way to origins: directly, or by a proxy.
pub(super) type Route = Option<Arc<Upstream>>;

/// Why an address was not reached.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error(transparent)]
    Direct(#[from] io::Error),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

/// Connects to the first address that answers before `deadline`. `own_port` is
/// the gateway's listening port: a connection that reached it is dropped.
pub(super) async fn dial(
    addrs: &[OriginAddr],
    deadline: Instant,
    own_port: u16,
    route: &Route,
) -> Result<Dialled, Refusal> {
    let late = match route {
        Some(_) => "proxy_timeout",
        None => "connect_timeout",
    };
    let race = tokio::time::timeout_at(deadline, race(addrs, route));
    let dialled = race
        .await
        .map_err(|_| Refusal::new(Class::Unreachable, late))?
        .map_err(|error| {
            tracing::debug!(%error, "origin not reached");
            let reason = match &error {
                DialError::Direct(error) => reason_of(error),
                DialError::Proxy(error) => error.reason(),
            };
            Refusal::new(Class::Unreachable, reason)
        })?;
    if is_own(&dialled, own_port) {
        return Err(Refusal::new(Class::UnknownName, "own_address"));
    }
    Ok(dialled)
}

async fn race(addrs: &[OriginAddr], route: &Route) -> Result<Dialled, DialError> {
    let mut attempts = JoinSet::new();
    let mut waiting = addrs.iter().copied().take(MAX_ATTEMPTS);
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable).into();
    loop {
        let Some(addr) = waiting.next() else {
            // Nothing more to start: the answer is among those under way.
            return match attempts.join_next().await {
                Some(Ok(Ok(dialled))) => Ok(dialled),
                Some(Ok(Err(error))) => {
                    last = error;
                    continue;
                }
                Some(Err(_)) => continue,
                None => Err(last),
            };
        };
        attempts.spawn(connect(addr, route.clone()));
        match tokio::time::timeout(ATTEMPT_DELAY, attempts.join_next()).await {
            Ok(Some(Ok(Ok(dialled)))) => return Ok(dialled),
            Ok(Some(Ok(Err(error)))) => last = error,
            Ok(Some(Err(_)) | None) | Err(_) => {}
        }
    }
}

async fn connect(addr: OriginAddr, route: Route) -> Result<Dialled, DialError> {
    if let Some(upstream) = route {
        let socket = upstream.dial(addr).await?;
        return Ok(Dialled { socket, addr });
    }
    let socket = TcpStream::connect(addr.get()).await?;
    // Bytes are forwarded as they come; the ends decide how to batch them.
    socket.set_nodelay(true)?;
    Ok(Dialled { socket, addr })
}

/// The kernel chooses the destination itself as the source of a connection to
/// one of its own addresses, so no list of interfaces is needed.
fn is_own(dialled: &Dialled, own_port: u16) -> bool {
    let local = dialled.socket.local_addr();
    dialled.addr.port() == own_port
        && local.is_ok_and(|local| local.ip().to_canonical() == dialled.addr.ip())
}

fn reason_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect_refused",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "no_route",
        io::ErrorKind::TimedOut => "connect_timeout",
        _ if descriptors::are_spent(error) => descriptors::SPENT,
        _ => "connect_failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpSocket};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    async fn listener() -> (TcpListener, OriginAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = OriginAddr::new(listener.local_addr().unwrap());
        (listener, addr)
    }

    /// A port where nobody listens, and which nobody else gets while the socket lives.
    fn closed_port() -> (TcpSocket, OriginAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = OriginAddr::new(socket.local_addr().unwrap());
        (socket, addr)
    }

    #[tokio::test]
    async fn goes_on_past_addresses_that_refuse() {
        let (_listener, open) = listener().await;
        let (_closed, closed) = closed_port();
        let addrs = [closed, open];
        let dialled = dial(&addrs, soon(), 0, &None).await.unwrap();
        assert_eq!(dialled.addr, open);
    }

    #[tokio::test]
    async fn says_why_nothing_answered() {
        let (_closed, closed) = closed_port();
        let Err(refusal) = dial(&[closed], soon(), 0, &None).await else {
            panic!("dialled");
        };
        assert_eq!(refusal.reason, "connect_refused");
    }

    #[tokio::test]
    async fn refuses_its_own_listener() {
        let (_listener, own) = listener().await;
        let Err(refusal) = dial(&[own], soon(), own.port(), &None).await else {
            panic!("dialled");
        };
        assert_eq!(refusal.reason, "own_address");
    }
}
