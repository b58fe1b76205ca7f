//! One captured connection, from accept to record: the agent's straight story.

use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use super::Shared;
use super::capture::FlowRecord;
use super::places::Place;
use super::tunnels::{AgentTunnel, Lease, Tried};
use crate::addr::ClientAddr;
use crate::connection_id::ConnectionId;
use crate::drain::Drain;
use crate::farewell;
use crate::hello;
use crate::in_force::InForce;
use crate::intake::{self, Allowance, Flight, Intake, IntakeError};
use crate::policy::{Admitted, Digest, Policy};
use crate::record::{ClosedBy, Hop, Pending};
use crate::refusal::{Class, Refusal};
use crate::relay::{self, Carried, End, RelayError, Session};
use crate::tunnel::frame::{Opened, ResetCode};
use crate::tunnel::header::{OpenHeader, portable};
use crate::tunnel::raw::Protocol;
use crate::tunnel::stream::{Answer, TunnelError};

/// A connection that was accepted, with what the kernel knows of it.
pub(super) struct Accepted {
    pub(super) socket: TcpStream,
    pub(super) client: ClientAddr,
    pub(super) flow: FlowRecord,
    pub(super) place: Place,
}

/// How a connection ended that was not carried to its own end.
enum Ending {
    ClosedBeforeHello,
    /// Before the first byte of the origin: the client can be told by an alert.
    Refused(Refusal),
    /// To make room at once: a client could take its time to hear why.
    Shed(Refusal),
    /// In the middle of the client's session: nothing can be said any more.
    Cut(Refusal),
}

impl From<IntakeError> for Ending {
    fn from(error: IntakeError) -> Ending {
        match error {
            IntakeError::ClosedBeforeHello => Ending::ClosedBeforeHello,
            other => Ending::Refused(other.refusal()),
        }
    }
}

impl From<Refusal> for Ending {
    fn from(refusal: Refusal) -> Ending {
        Ending::Refused(refusal)
    }
}

/// Serves one connection and writes its record.
pub(super) async fn serve(shared: Arc<Shared>, mut accepted: Accepted, mut drain: Drain) {
    let mut record = Pending::open(&shared.recorder, Hop::Agent, ConnectionId::new());
    let mut in_force = shared.policy.clone();
    describe(&mut record, &shared, &accepted);
    let opened = tokio::select! {
        opened = open(&shared, &mut in_force, &mut accepted, &mut record) => opened,
        () = drain.forced() => Err(Refusal::new(Class::Busy, "drained").into()),
    };
    let ended = match opened {
        Ok(stream) => {
            let interrupts = (&mut drain, &mut in_force);
            carry(&shared, &mut accepted, stream, &mut record, interrupts).await
        }
        Err(ending) => Err(ending),
    };
    match ended {
        Ok(()) => record.carried(),
        Err(Ending::ClosedBeforeHello) => record.closed_before_hello(),
        Err(Ending::Refused(refusal)) => {
            let alert = hello::alert_for(refusal.class);
            record.refused(refusal);
            farewell::say(accepted.socket, &alert).await;
        }
        Err(Ending::Shed(refusal)) => {
            record.refused(refusal);
            farewell::reset(accepted.socket);
        }
        // Decided, not broken: the client's session ends, and its TLS knows that it was cut.
        Err(Ending::Cut(refusal)) if refusal.class == Class::Denied => record.refused(refusal),
        Err(Ending::Cut(refusal)) => {
            record.refused(refusal);
            farewell::reset(accepted.socket);
        }
    }
}

/// Records a connection that its client reset before it was accepted. Whose it was is not known:
/// what the kernel knows of its port may be about the next one.
pub(super) fn left_behind(shared: &Shared, client: ClientAddr) {
    let mut record = Pending::open(&shared.recorder, Hop::Agent, ConnectionId::new());
    record.client = Some(client.to_string());
    record.closed_before_hello();
}

/// A stream that the gateway has opened towards the origin.
struct Stream {
    lease: Lease,
    admitted: Admitted,
    flight: Flight,
}

/// The rooms in their order; each takes what only the one before it can make.
async fn open(
    shared: &Shared,
    in_force: &mut InForce,
    accepted: &mut Accepted,
    record: &mut Pending,
) -> Result<Stream, Ending> {
    let hellos = take_place(shared, accepted, record).map_err(Ending::Shed)?;
    shared.recorder.takes_records()?;
    let limit = shared.limits.hello;
    let intake = intake::read_hello(&mut accepted.socket, &hellos, limit, record).await?;
    accepted.place.heard();
    // Now, and not when it was accepted: a hello may take its time.
    let policy = in_force.now();
    record.policy = Some(policy.digest().to_string());
    let admitted = intake.judge(&policy, accepted.flow.original_dst.port(), record)?;
    let header = open_header(&policy, &admitted, accepted, record);
    let (lease, opened) = ask_a_gateway(shared, &header, &intake, record).await?;
    if let Some(opened) = opened {
        note_opened(record, &opened);
    }
    Ok(Stream {
        lease,
        admitted,
        flight: intake.into_flight(),
    })
}

fn describe(record: &mut Pending, shared: &Shared, accepted: &Accepted) {
    let flow = &accepted.flow;
    record.client = Some(accepted.client.to_string());
    record.original_dst = Some(flow.original_dst.to_string());
    record.port = Some(flow.original_dst.port());
    record.process = Some(flow.process.clone());
    let process = &flow.process;
    record.workload = shared
        .directory
        .workload(Some(flow.cgroup), Some(process.uid));
}

/// Counts the connection as one of its workload's. Those of cgroups that are gone count together.
fn take_place(
    shared: &Shared,
    accepted: &mut Accepted,
    record: &Pending,
) -> Result<Arc<Allowance>, Refusal> {
    let cgroup = record.workload.cgroup.as_deref();
    let workload = cgroup.map(|cgroup| shared.directory.cgroups().of_one_owner(cgroup));
    accepted.place.belongs_to(workload.unwrap_or_default())
}

fn open_header(
    policy: &Policy,
    admitted: &Admitted,
    accepted: &Accepted,
    record: &Pending,
) -> OpenHeader {
    OpenHeader {
        client: accepted.client,
        original: accepted.flow.original_dst,
        server_name: admitted.name().to_string(),
        connection_id: record.connection,
        policy: policy.digest().to_bytes(),
        workload: portable(record.workload.clone()),
        process: record.process.clone(),
    }
}

/// Opens the stream at a gateway. As long as no byte of the origin has come the hello is still in
/// hand, so what one gateway cannot take, or does not answer, is taken to the next.
async fn ask_a_gateway(
    shared: &Shared,
    header: &OpenHeader,
    intake: &Intake,
    record: &mut Pending,
) -> Result<(Lease, Option<Opened>), Refusal> {
    let deadline = tokio::time::Instant::now() + shared.limits.open;
    let mut tried = Tried::default();
    let mut last = None;
    loop {
        let mut lease = match lease(shared, &mut tried, deadline, record).await {
            Ok(lease) => lease,
            // What the last one said is worth more than that there is no other.
            Err(refusal) => return Err(last.unwrap_or(refusal)),
        };
        let limit = deadline.min(tokio::time::Instant::now() + shared.limits.answer);
        let started = Instant::now();
        let asked = ask(shared.tunnels.protocol(), lease.tunnel(), header, intake);
        let answer = tokio::time::timeout_at(limit, asked).await;
        record.timings.open = Some(started.elapsed().into());
        let (refusal, ask_another) = match answer {
            Ok(Ok(Asked::Carried(opened))) => {
                record.bytes_to_origin = intake.bytes.len() as u64;
                lease.carries();
                return Ok((lease, opened));
            }
            Ok(Ok(Asked::Refused(refusal))) => {
                let busy = refusal.class == Class::Busy;
                lease.turned_down(&refusal, &mut tried);
                (refusal, busy)
            }
            Ok(Err(error @ TunnelError::Unanswered)) => {
                lease.was_closed(&mut tried);
                (refusal_of(&error), true)
            }
            Ok(Err(error)) => {
                // An OPEN that cannot be written says nothing of the gateway.
                if !matches!(error, TunnelError::Header(_)) {
                    lease.went_silent(&mut tried);
                }
                (refusal_of(&error), error.is_loss())
            }
            Err(_) => {
                lease.went_silent(&mut tried);
                (gateway_timeout(), true)
            }
        };
        if !ask_another {
            return Err(refusal);
        }
        tracing::debug!(%refusal, "trying another tunnel");
        last = Some(refusal);
    }
}

async fn lease(
    shared: &Shared,
    tried: &mut Tried,
    deadline: tokio::time::Instant,
    record: &mut Pending,
) -> Result<Lease, Refusal> {
    let started = Instant::now();
    let leased = tokio::time::timeout_at(deadline, shared.tunnels.lease(tried)).await;
    record.timings.tunnel = Some(started.elapsed().into());
    let lease = leased.map_err(|_| gateway_timeout())?.map_err(|error| {
        tracing::debug!(%error, "no tunnel to a gateway");
        error.refusal()
    })?;
    record.gateway = Some(lease.gateway().to_string());
    record.peer = Some(lease.peer().to_string());
    Ok(lease)
}

/// What a gateway answered.
enum Asked {
    /// It carries the stream; one that speaks raw does not say whereto.
    Carried(Option<Opened>),
    Refused(Refusal),
}

async fn ask(
    protocol: &Protocol,
    tunnel: &mut AgentTunnel,
    header: &OpenHeader,
    intake: &Intake,
) -> Result<Asked, TunnelError> {
    match protocol {
        Protocol::Egress => {
            tunnel.open(header, &intake.bytes).await?;
            Ok(match tunnel.answer().await? {
                Answer::Opened(opened) => Asked::Carried(Some(opened)),
                Answer::Refused(refusal) => Asked::Refused(refusal),
            })
        }
        Protocol::Raw(options) => {
            let header = options.proxy_header.then_some(header);
            let mut stream = tunnel.raw();
            stream.open(header, &intake.bytes).await?;
            Ok(Asked::Carried(None))
        }
    }
}

fn gateway_timeout() -> Refusal {
    Refusal::new(Class::Unreachable, "gateway_timeout")
}

fn refusal_of(error: &TunnelError) -> Refusal {
    let class = match error {
        // Our own, that we could not write.
        TunnelError::Header(_) => Class::Internal,
        _ => Class::Unreachable,
    };
    Refusal::new(class, error.reason())
}

fn note_opened(record: &mut Pending, opened: &Opened) {
    record.dialled = Some(opened.dialled.to_string());
    record.peer_policy = Some(Digest::from_bytes(opened.policy).to_string());
    record.original_dst_resolved = Some(opened.original_resolved);
}

/// Carries the stream to its end.
async fn carry(
    shared: &Shared,
    accepted: &mut Accepted,
    mut stream: Stream,
    record: &mut Pending,
    (drain, in_force): (&mut Drain, &mut InForce),
) -> Result<(), Ending> {
    let (tunnel, peer) = stream.lease.parts();
    let idle = shared.limits.idle;
    let session = Session {
        client: End::Socket,
        flight: stream.flight,
    };
    let (admitted, workload) = (&stream.admitted, &record.workload);
    let interruption = relay::interruption(drain, in_force, admitted, workload, record.connection);
    let interruption = relay::or_rejected(interruption, peer);
    let socket = &mut accepted.socket;
    let carried = match shared.tunnels.protocol() {
        Protocol::Egress => relay::carry(socket, tunnel, session, idle, interruption).await,
        Protocol::Raw(_) => {
            let transport = tunnel.transport().get_mut();
            relay::raw::carry(socket, transport, session, idle, interruption).await
        }
    };
    note_carried(record, &carried);
    match carried.result {
        Ok(()) => {
            stream.lease.give_back();
            Ok(())
        }
        Err(error) => {
            stream.lease.reset(error.reset_code()).await;
            Err(Ending::Cut(cut(&error, record)))
        }
    }
}

fn note_carried(record: &mut Pending, carried: &Carried) {
    record.bytes_to_origin += carried.from_socket;
    record.bytes_to_client += carried.from_tunnel;
    record.closed_by = carried.first.map(|end| match end {
        End::Socket => ClosedBy::Client,
        End::Tunnel => ClosedBy::Origin,
    });
}

fn cut(error: &RelayError, record: &mut Pending) -> Refusal {
    let (reason, by) = match error {
        RelayError::Socket(_) => ("client_reset", ClosedBy::Client),
        RelayError::Tunnel(TunnelError::Reset(ResetCode::Aborted)) => {
            ("origin_reset", ClosedBy::Origin)
        }
        RelayError::Tunnel(TunnelError::Reset(ResetCode::PolicyChanged)) => {
            return policy_changed(record);
        }
        RelayError::Tunnel(error) => (error.reason(), ClosedBy::Egress),
        RelayError::Idle => ("idle", ClosedBy::Egress),
        RelayError::Drained => ("drained", ClosedBy::Egress),
        RelayError::PeerRejected(reason) => (*reason, ClosedBy::Egress),
        RelayError::NameChanged(_) => (error.reset_code().reason(), ClosedBy::Egress),
        RelayError::NoRoom => (intake::NO_ROOM, ClosedBy::Egress),
        RelayError::PolicyChanged => return policy_changed(record),
    };
    record.closed_by.get_or_insert(by);
    let class = match reason {
        reason if reason == ResetCode::NameChangedOnRetry.reason() => Class::Malformed,
        intake::NO_ROOM => Class::Busy,
        _ => Class::Internal,
    };
    Refusal::new(class, reason)
}

fn policy_changed(record: &mut Pending) -> Refusal {
    record.closed_by.get_or_insert(ClosedBy::Egress);
    Refusal::new(Class::Denied, ResetCode::PolicyChanged.reason())
}
