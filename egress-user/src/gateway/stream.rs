//! One application stream, from OPEN to record: the gateway's straight story.

use std::sync::Arc;
use std::time::Instant;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Shared;
use super::agents::{StreamPass, TunnelPass};
use super::connection::{GatewayTunnel, describe};
use super::dial::{self, Dialled};
use crate::addr::{OriginAddr, OriginalDst};
use crate::drain::Drain;
use crate::in_force::InForce;
use crate::intake::{self, Flight, Intake, IntakeError};
use crate::policy::{Admitted, Digest};
use crate::record::{ClosedBy, Hop, Pending};
use crate::refusal::{Class, Refusal};
use crate::relay::{self, Carried, End, RelayError, Session};
use crate::tunnel::frame::{Opened, ResetCode};
use crate::tunnel::header::OpenHeader;
use crate::tunnel::stream::TunnelError;
use crate::tunnel::tls::Peer;

/// How a stream ended that was not carried to its own end.
pub(super) enum Ending {
    /// Nothing of the origin was sent yet: the agent can be told.
    Refused(Refusal),
    /// In the middle.
    Cut(Refusal, ResetCode),
    /// There is no tunnel any more to say anything through.
    Gone(Refusal),
}

impl From<Refusal> for Ending {
    fn from(refusal: Refusal) -> Ending {
        Ending::Refused(refusal)
    }
}

/// Serves one stream and writes its record. False when the tunnel is of no
/// more use.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    tunnel: &mut GatewayTunnel,
    (peer, pass): (&mut Peer<ServerConfig>, &TunnelPass),
    header: OpenHeader,
    drain: &mut Drain,
) -> bool {
    let mut record = Pending::open(&shared.recorder, Hop::Gateway, header.connection_id);
    let mut in_force = shared.policy.clone();
    describe(&mut record, peer.id(), &header);
    let opened = tokio::select! {
        opened = open(shared, pass, &mut in_force, tunnel, &header, &mut record) => opened,
        () = drain.forced() => Err(Refusal::new(Class::Busy, "drained").into()),
    };
    let ended = match opened {
        Ok(stream) => {
            let interrupts = (drain, &mut in_force, peer);
            carry(shared, tunnel, stream, &mut record, interrupts).await
        }
        Err(ending) => Err(ending),
    };
    match ended {
        Ok(()) => {
            record.carried();
            true
        }
        Err(Ending::Refused(refusal)) => {
            record.refused(refusal.clone());
            let told = tunnel.send_refused(&refusal);
            matches!(
                tokio::time::timeout(shared.limits.hello, told).await,
                Ok(Ok(()))
            )
        }
        Err(Ending::Cut(refusal, code)) => {
            record.refused(refusal);
            let told = tunnel.send_reset(code);
            // The tunnel is closed in any case.
            let _ = tokio::time::timeout(shared.limits.hello, told).await;
            false
        }
        Err(Ending::Gone(refusal)) => {
            record.refused(refusal);
            false
        }
    }
}

/// An origin that has the hello, and the verdict that let it.
pub(super) struct Stream<'a> {
    pub(super) origin: TcpStream,
    pub(super) admitted: Admitted,
    pub(super) flight: Flight,
    dialled: OriginAddr,
    policy: Digest,
    _pass: StreamPass<'a>,
}

/// What the client's side says of a stream, as far as it says anything.
pub(super) struct Claim<'a> {
    pub(super) port: u16,
    pub(super) original: Option<OriginalDst>,
    pub(super) server_name: Option<&'a str>,
}

/// The rooms in their order; each takes what only the one before it can make.
async fn open<'a>(
    shared: &Shared,
    pass: &'a TunnelPass,
    in_force: &mut InForce,
    tunnel: &mut GatewayTunnel,
    header: &OpenHeader,
    record: &mut Pending,
) -> Result<Stream<'a>, Ending> {
    shared.recorder.takes_records()?;
    let pass = pass.stream(&header.workload)?;
    let intake = intake::read_hello(tunnel, pass.hellos(), shared.limits.hello, record).await;
    let intake = intake.map_err(|error| match error {
        IntakeError::Broken(refusal) => Ending::Gone(refusal),
        other => Ending::Refused(other.refusal()),
    })?;
    let claim = Claim {
        port: header.original.port(),
        original: Some(header.original),
        server_name: Some(&header.server_name),
    };
    let stream = reach(shared, pass, in_force, (intake, &claim), record).await?;
    let opened = Opened {
        dialled: stream.dialled,
        policy: stream.policy.to_bytes(),
        original_resolved: record.original_dst_resolved.unwrap_or_default(),
    };
    let told = tokio::time::timeout(shared.limits.hello, tunnel.send_opened(&opened));
    match told.await {
        Ok(Ok(())) => Ok(stream),
        Ok(Err(error)) => Err(Ending::Gone(Refusal::new(Class::Internal, error.reason()))),
        Err(_) => Err(Ending::Gone(Refusal::new(
            Class::Internal,
            "tunnel_stalled",
        ))),
    }
}

/// From the hello to an origin that has it.
pub(super) async fn reach<'a>(
    shared: &Shared,
    pass: StreamPass<'a>,
    in_force: &mut InForce,
    (intake, claim): (Intake, &Claim<'_>),
    record: &mut Pending,
) -> Result<Stream<'a>, Refusal> {
    // Now, and not when it was opened: a hello may take its time.
    let policy = in_force.now();
    record.policy = Some(policy.digest().to_string());
    let admitted = intake.judge(&policy, claim.port, record)?;
    same_name(&admitted, claim)?;
    pass.name(admitted.name())?;
    let Dialled { mut socket, addr } = dial(shared, &admitted, claim.original, record).await?;
    record.dialled = Some(addr.to_string());
    send_hello(shared, &mut socket, &intake, record).await?;
    Ok(Stream {
        origin: socket,
        admitted,
        flight: intake.into_flight(),
        dialled: addr,
        policy: *policy.digest(),
        _pass: pass,
    })
}

/// The client's side says which name it judged. If the bytes say another, one of the
/// two hops was lied to.
fn same_name(admitted: &Admitted, claim: &Claim<'_>) -> Result<(), Refusal> {
    match claim.server_name {
        Some(name) if name != admitted.name().as_str() => {
            Err(Refusal::new(Class::Malformed, "name_differs_from_header"))
        }
        _ => Ok(()),
    }
}

async fn dial(
    shared: &Shared,
    admitted: &Admitted,
    original: Option<OriginalDst>,
    record: &mut Pending,
) -> Result<Dialled, Refusal> {
    let deadline = tokio::time::Instant::now() + shared.limits.dial;
    let started = Instant::now();
    let resolve = shared.resolver.resolve(admitted.name(), admitted.port());
    let resolved = tokio::time::timeout_at(deadline, resolve).await;
    record.timings.dns = Some(started.elapsed().into());
    let resolved = resolved.map_err(|_| Refusal::new(Class::Unreachable, "dns_timeout"))??;
    if resolved.stale {
        shared.recorder.metrics().stale_answer();
    }
    record.resolved = resolved
        .dialable
        .iter()
        .map(|addr| addr.ip().to_string())
        .collect();
    record.forbidden = resolved.forbidden.iter().map(ToString::to_string).collect();
    record.original_dst_resolved = original.map(|original| {
        let mut dialable = resolved.dialable.iter();
        dialable.any(|addr| addr.ip() == original.ip())
    });
    if resolved.dialable.is_empty() {
        return Err(Refusal::new(Class::UnknownName, "forbidden_address"));
    }
    let started = Instant::now();
    let dialled = dial::dial(&resolved.dialable, deadline, shared.port, &shared.route).await;
    record.timings.connect = Some(started.elapsed().into());
    let dialled = dialled?;
    shared.resolver.worked(admitted.name(), dialled.addr.ip());
    Ok(dialled)
}

async fn send_hello(
    shared: &Shared,
    origin: &mut TcpStream,
    intake: &Intake,
    record: &mut Pending,
) -> Result<(), Refusal> {
    let sent = tokio::time::timeout(shared.limits.dial, origin.write_all(&intake.bytes)).await;
    match sent {
        Ok(Ok(())) => {
            record.bytes_to_origin = intake.bytes.len() as u64;
            Ok(())
        }
        Ok(Err(_)) => Err(Refusal::new(Class::Unreachable, "origin_reset")),
        Err(_) => Err(Refusal::new(Class::Unreachable, "origin_stalled")),
    }
}

/// Carries the stream to its end.
async fn carry(
    shared: &Shared,
    tunnel: &mut GatewayTunnel,
    mut stream: Stream<'_>,
    record: &mut Pending,
    (drain, in_force, peer): (&mut Drain, &mut InForce, &mut Peer<ServerConfig>),
) -> Result<(), Ending> {
    let idle = shared.limits.idle;
    let session = Session {
        client: End::Tunnel,
        flight: stream.flight,
    };
    let (admitted, workload) = (&stream.admitted, &record.workload);
    let interruption = relay::interruption(drain, in_force, admitted, workload, record.connection);
    let interruption = relay::or_rejected(interruption, peer);
    let carried = relay::carry(&mut stream.origin, tunnel, session, idle, interruption).await;
    note_carried(record, &carried);
    match carried.result {
        Ok(()) => Ok(()),
        Err(error) => {
            let ending = cut(&error, record);
            crate::farewell::reset(stream.origin);
            Err(ending)
        }
    }
}

pub(super) fn note_carried(record: &mut Pending, carried: &Carried) {
    record.bytes_to_client += carried.from_socket;
    record.bytes_to_origin += carried.from_tunnel;
    record.closed_by = carried.first.map(|end| match end {
        End::Socket => ClosedBy::Origin,
        End::Tunnel => ClosedBy::Client,
    });
}

pub(super) fn cut(error: &RelayError, record: &mut Pending) -> Ending {
    let (reason, by) = match error {
        RelayError::Socket(_) => ("origin_reset", ClosedBy::Origin),
        RelayError::Tunnel(TunnelError::Reset(ResetCode::Aborted)) => {
            ("client_reset", ClosedBy::Client)
        }
        RelayError::Idle => ("idle", ClosedBy::Egress),
        RelayError::Drained => ("drained", ClosedBy::Egress),
        RelayError::PolicyChanged
        | RelayError::Tunnel(TunnelError::Reset(ResetCode::PolicyChanged)) => {
            (ResetCode::PolicyChanged.reason(), ClosedBy::Egress)
        }
        RelayError::PeerRejected(reason) => (*reason, ClosedBy::Egress),
        RelayError::NameChanged(_) => (error.reset_code().reason(), ClosedBy::Egress),
        RelayError::NoRoom => (intake::NO_ROOM, ClosedBy::Egress),
        RelayError::Tunnel(error) => (error.reason(), ClosedBy::Egress),
    };
    record.closed_by.get_or_insert(by);
    let class = match error {
        RelayError::PeerRejected(_) => Class::Denied,
        _ if reason == ResetCode::PolicyChanged.reason() => Class::Denied,
        _ if reason == ResetCode::NameChangedOnRetry.reason() => Class::Malformed,
        RelayError::NoRoom => Class::Busy,
        _ => Class::Internal,
    };
    let refusal = Refusal::new(class, reason);
    match error {
        RelayError::Tunnel(_) => Ending::Gone(refusal),
        RelayError::Socket(_)
        | RelayError::Idle
        | RelayError::Drained
        | RelayError::PolicyChanged
        | RelayError::NameChanged(_)
        | RelayError::NoRoom
        | RelayError::PeerRejected(_) => Ending::Cut(refusal, error.reset_code()),
    }
}
