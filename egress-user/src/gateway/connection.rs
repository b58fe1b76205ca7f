//! One mTLS connection of an agent: who it is, then stream after stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::agents::TunnelPass;
use super::door::AtDoor;
use super::{raw, stream};
use crate::addr::AgentAddr;
use crate::connection_id::ConnectionId;
use crate::drain::Drain;
use crate::policy::Digest;
use crate::record::{Hop, Pending, TunnelEvent};
use crate::refusal::{Class, Refusal};
use crate::tunnel::frame::Role;
use crate::tunnel::header::OpenHeader;
use crate::tunnel::identity::SpiffeId;
use crate::tunnel::raw::RawAccess;
use crate::tunnel::stream::{Tunnel, TunnelError, tls_error, tune};
use crate::tunnel::tls::{Ended, Peer};
use crate::tunnel::{self, tls};

/// Time for the goodbye of a tunnel that is being closed.
pub(super) const GOODBYE: Duration = Duration::from_secs(1);

/// A tunnel as the gateway holds it.
pub(super) type GatewayTunnel = Tunnel<TlsStream<TcpStream>>;

/// The agent at its other end.
pub(super) type AgentPeer = Peer<ServerConfig>;

/// Serves one agent's connection to its end.
pub(super) async fn serve(
    shared: Arc<Shared>,
    socket: TcpStream,
    (agent, at_door): (AgentAddr, AtDoor),
    mut drain: Drain,
) {
    let started = Instant::now();
    let authenticated = tokio::select! {
        authenticated =
            tokio::time::timeout(shared.limits.handshake, authenticate(&shared, socket)) => authenticated,
        () = drain.forced() => Ok(Err(Unserved::rejected("drained"))),
    };
    drop(at_door);
    let unserved = match authenticated {
        Ok(Ok((accepted, peer))) => match shared.agents.admit(peer.id()) {
            Ok(pass) => {
                return match accepted {
                    Accepted::Tunnel(tunnel) => {
                        streams(&shared, tunnel, (peer, pass), &mut drain).await;
                    }
                    Accepted::Raw(stream, access) => {
                        let from = (agent, peer, pass);
                        raw::serve(&shared, (stream, access), from, &mut drain).await;
                    }
                };
            }
            Err(refusal) => {
                match accepted {
                    Accepted::Tunnel(tunnel) => turn_away(tunnel, &refusal).await,
                    Accepted::Raw(stream, _) => raw::turn_away(stream, &refusal).await,
                }
                let peer = Some(peer.id().clone());
                Unserved::Rejected { refusal, peer }
            }
        },
        Ok(Err(unserved)) => unserved,
        Err(_) => Unserved::rejected("handshake_timeout"),
    };
    record(&shared, started, agent, unserved);
}

/// A connection whose handshake is done.
enum Accepted<'a> {
    /// Of an agent.
    Tunnel(GatewayTunnel),
    /// Of somebody who speaks raw.
    Raw(TlsStream<TcpStream>, &'a RawAccess),
}

/// Why an agent's connection came to nothing.
enum Unserved {
    /// It left before the handshake was done, as health checks do and agents that end.
    Left,
    Rejected {
        refusal: Refusal,
        peer: Option<SpiffeId>,
    },
}

impl Unserved {
    fn rejected(reason: &'static str) -> Unserved {
        Unserved::Rejected {
            refusal: Refusal::new(Class::Denied, reason),
            peer: None,
        }
    }
}

/// There is no stream and so no connection id from the agent, but somebody
/// tried: that is worth a line.
fn record(shared: &Shared, started: Instant, agent: AgentAddr, unserved: Unserved) {
    let id = ConnectionId::new();
    let mut record = Pending::since(started, &shared.recorder, Hop::Gateway, id);
    record.client = Some(agent.to_string());
    match unserved {
        Unserved::Left => record.left("handshake_broken_off"),
        Unserved::Rejected { refusal, peer } => {
            shared.recorder.metrics().tunnel(TunnelEvent::Rejected);
            record.peer = peer.map(|peer| peer.to_string());
            record.refused(refusal);
        }
    }
}

/// Tells an agent that none of its streams will be taken, and why.
async fn turn_away(mut tunnel: GatewayTunnel, refusal: &Refusal) {
    let words = async {
        tunnel.send_refused(refusal).await?;
        tunnel.close().await?;
        tunnel.outlast().await
    };
    // An agent that does not listen sees the connection close.
    let _ = tokio::time::timeout(GOODBYE, words).await;
}

async fn authenticate(
    shared: &Shared,
    socket: TcpStream,
) -> Result<(Accepted<'_>, AgentPeer), Unserved> {
    tune(&socket).map_err(|_| Unserved::Left)?;
    let handshake = shared.tls.now();
    let accepting = TlsAcceptor::from(handshake.config()).accept(socket);
    let stream = accepting.await.map_err(|error| {
        tracing::debug!(%error, "an agent failed the handshake");
        let reason = tls_error(&error).map(tls::handshake_reason);
        reason.map_or(Unserved::Left, Unserved::rejected)
    })?;
    let (_, session) = stream.get_ref();
    let agreed = session.alpn_protocol();
    let is_agent = agreed == Some(tunnel::ALPN);
    let raw = shared.raw.as_ref();
    let raw = raw.filter(|raw| !is_agent && raw.is_meant_by(agreed));
    if !is_agent && raw.is_none() {
        return Err(Unserved::rejected("alpn_mismatch"));
    }
    let peer = handshake
        .peer(session)
        .map_err(|error| Unserved::rejected(error.reason()))?;
    let accepted = match raw {
        Some(access) => Accepted::Raw(stream, access),
        None => Accepted::Tunnel(Tunnel::new(stream, Role::Gateway)),
    };
    Ok((accepted, peer))
}

/// Stream after stream, until the agent closes, the protocol is broken, a certificate has ended or
/// is not trusted any more, or the gateway drains.
async fn streams(
    shared: &Arc<Shared>,
    mut tunnel: GatewayTunnel,
    (mut peer, pass): (AgentPeer, TunnelPass),
    drain: &mut Drain,
) {
    shared.recorder.metrics().tunnel(TunnelEvent::Opened);
    let ready = tokio::time::timeout(shared.limits.handshake, tunnel.send_ready());
    if !matches!(ready.await, Ok(Ok(()))) {
        return;
    }
    loop {
        let next = tokio::select! {
            // A stream that comes in the same moment as the end is refused.
            biased;
            () = drain.draining() => return goodbye(shared, tunnel, peer.id()).await,
            ended = peer.ended() => {
                if let Ended::Rejected(reason) = ended {
                    record_refusal(shared, peer.id(), Refusal::new(Class::Denied, reason));
                }
                return close(tunnel).await;
            }
            next = tokio::time::timeout(shared.limits.tunnel_idle, tunnel.accept()) => next,
        };
        let header = match next {
            Ok(Ok(Some(header))) => header,
            Ok(Ok(None)) | Err(_) => return close(tunnel).await,
            Ok(Err(error)) => return broken(shared, peer.id(), &error),
        };
        let agent = (&mut peer, &pass);
        if !stream::serve(shared, &mut tunnel, agent, header, drain).await {
            return;
        }
    }
}

/// Tells the agent that the gateway ends, and stays until the agent has closed: a stream that it
/// opened before it heard is refused, so that it takes it elsewhere.
async fn goodbye(shared: &Shared, mut tunnel: GatewayTunnel, peer: &SpiffeId) {
    let words = async {
        tunnel.send_drain().await?;
        while let Some(header) = tunnel.accept().await? {
            let refusal = Refusal::new(Class::Busy, tunnel::DRAINING);
            tunnel.send_refused(&refusal).await?;
            let mut record = Pending::open(&shared.recorder, Hop::Gateway, header.connection_id);
            describe(&mut record, peer, &header);
            record.refused(refusal);
        }
        Ok::<_, TunnelError>(())
    };
    // An agent that does not listen sees the connection close.
    let _ = tokio::time::timeout(GOODBYE, words).await;
    close(tunnel).await;
}

async fn close(mut tunnel: GatewayTunnel) {
    // As above.
    let _ = tokio::time::timeout(GOODBYE, tunnel.close()).await;
}

/// A tunnel that broke between streams. An agent that merely went away is no
/// event; one that broke the protocol is.
fn broken(shared: &Shared, peer: &SpiffeId, error: &TunnelError) {
    tracing::debug!(%error, "a tunnel broke");
    if let TunnelError::Frame(_) | TunnelError::Header(_) = error {
        record_refusal(shared, peer, Refusal::new(Class::Malformed, error.reason()));
    }
}

/// The record of a tunnel that carries no stream.
fn record_refusal(shared: &Shared, peer: &SpiffeId, refusal: Refusal) {
    let mut record = Pending::open(&shared.recorder, Hop::Gateway, ConnectionId::new());
    record.peer = Some(peer.to_string());
    record.refused(refusal);
}

/// What a stream's header claims, as the record shows it.
pub(super) fn describe(record: &mut Pending, peer: &SpiffeId, header: &OpenHeader) {
    record.peer = Some(peer.to_string());
    record.client = Some(header.client.to_string());
    record.original_dst = Some(header.original.to_string());
    record.port = Some(header.original.port());
    record.workload = header.workload.clone();
    record.process = header.process.clone();
    record.peer_policy = Some(Digest::from_bytes(header.policy).to_string());
}
