//! A TLS connection of a client that speaks no `egress/1`: one stream, which may begin with a PROXY
//! protocol header.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::agents::TunnelPass;
use super::connection::{AgentPeer, GOODBYE};
use super::stream::{self, Claim, Stream, cut, note_carried};
use crate::addr::AgentAddr;
use crate::connection_id::ConnectionId;
use crate::drain::Drain;
use crate::farewell;
use crate::hello::{TOO_SLOW, alert_for};
use crate::in_force::InForce;
use crate::intake::{self, IntakeError};
use crate::policy::Digest;
use crate::record::{Hop, Pending, TunnelEvent};
use crate::refusal::{Class, Refusal};
use crate::relay::{self, End, Session};
use crate::tunnel::header::ProxyHeader;
use crate::tunnel::identity::SpiffeId;
use crate::tunnel::raw::{Raw, RawAccess};
use crate::tunnel::stream::TunnelError;

/// The port of a stream without a header, which cannot say another.
const PORT: u16 = 443;

/// How a stream ended that was not carried to its own end.
enum Ending {
    ClosedBeforeHello,
    Stream(stream::Ending),
}

impl From<Refusal> for Ending {
    fn from(refusal: Refusal) -> Ending {
        Ending::Stream(refusal.into())
    }
}

/// Serves the stream and writes its record.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    (mut transport, access): (TlsStream<TcpStream>, &RawAccess),
    (agent, mut peer, pass): (AgentAddr, AgentPeer, TunnelPass),
    drain: &mut Drain,
) {
    shared.recorder.metrics().tunnel(TunnelEvent::Opened);
    let deadline = Instant::now() + shared.limits.hello;
    let header = read_header(&mut transport, access, deadline).await;
    let id = header.as_ref().ok().and_then(|header| header.connection_id);
    let id = id.unwrap_or_else(ConnectionId::new);
    let mut record = Pending::open(&shared.recorder, Hop::Gateway, id);
    describe(&mut record, agent, peer.id(), header.as_ref().ok());
    let mut in_force = shared.policy.clone();
    let from = (&mut transport, header, deadline);
    let opened = tokio::select! {
        opened = open(shared, &pass, &mut in_force, from, &mut record) => opened,
        () = drain.forced() => Err(Refusal::new(Class::Busy, "drained").into()),
    };
    let ended = match opened {
        Ok(stream) => {
            let interrupts = (drain, &mut in_force, &mut peer);
            let carried = carry(shared, &mut transport, stream, &mut record, interrupts).await;
            carried.map_err(Ending::Stream)
        }
        Err(ending) => Err(ending),
    };
    match ended {
        Ok(()) => record.carried(),
        Err(Ending::ClosedBeforeHello) => record.closed_before_hello(),
        Err(Ending::Stream(stream::Ending::Refused(refusal))) => {
            record.refused(refusal.clone());
            turn_away(transport, &refusal).await;
        }
        Err(Ending::Stream(stream::Ending::Cut(refusal, _) | stream::Ending::Gone(refusal))) => {
            record.refused(refusal);
            farewell::reset(transport.into_inner().0);
        }
    }
}

/// Tells the application, by an alert of its own TLS session, and closes.
pub(super) async fn turn_away(mut transport: TlsStream<TcpStream>, refusal: &Refusal) {
    let alert = alert_for(refusal.class);
    // A client that does not listen sees the connection close.
    let _ = timeout(GOODBYE, Raw::new(&mut transport).say(&alert)).await;
}

/// What stands before the stream, and nothing where nothing may.
async fn read_header(
    transport: &mut TlsStream<TcpStream>,
    access: &RawAccess,
    deadline: Instant,
) -> Result<ProxyHeader, Ending> {
    let mut stream = Raw::new(transport);
    match timeout_at(deadline, stream.header(access.proxy_header)).await {
        Ok(Ok(header)) => Ok(header.unwrap_or_default()),
        Ok(Err(TunnelError::Lost | TunnelError::Io(_))) => Err(Ending::ClosedBeforeHello),
        Ok(Err(error)) => Err(Refusal::new(Class::Malformed, error.reason()).into()),
        Err(_) => Err(Refusal::new(Class::Malformed, TOO_SLOW).into()),
    }
}

/// What is known of the stream before its hello.
fn describe(record: &mut Pending, agent: AgentAddr, peer: &SpiffeId, header: Option<&ProxyHeader>) {
    record.peer = Some(peer.to_string());
    record.client = Some(agent.to_string());
    let Some(header) = header else {
        return;
    };
    record.port = Some(PORT);
    if let Some((client, original)) = header.addresses {
        record.client = Some(client.to_string());
        record.original_dst = Some(original.to_string());
        record.port = Some(original.port());
    }
    record.workload = header.workload.clone();
    record.process = header.process.clone();
    record.peer_policy = header
        .policy
        .map(|policy| Digest::from_bytes(policy).to_string());
}

/// The rooms in their order; each takes what only the one before it can make.
async fn open<'a>(
    shared: &Shared,
    pass: &'a TunnelPass,
    in_force: &mut InForce,
    (transport, header, deadline): (
        &mut TlsStream<TcpStream>,
        Result<ProxyHeader, Ending>,
        Instant,
    ),
    record: &mut Pending,
) -> Result<Stream<'a>, Ending> {
    shared.recorder.takes_records()?;
    let header = header?;
    let pass = pass.stream(&header.workload)?;
    let left = deadline.saturating_duration_since(Instant::now());
    let intake = intake::read_hello(&mut Raw::new(transport), pass.hellos(), left, record).await;
    let intake = intake.map_err(|error| match error {
        IntakeError::ClosedBeforeHello => Ending::ClosedBeforeHello,
        IntakeError::Broken(refusal) => Ending::Stream(stream::Ending::Gone(refusal)),
        other => other.refusal().into(),
    })?;
    let original = header.addresses.map(|(_, original)| original);
    let claim = Claim {
        port: original.map_or(PORT, |original| original.port()),
        original,
        server_name: header.server_name.as_deref(),
    };
    Ok(stream::reach(shared, pass, in_force, (intake, &claim), record).await?)
}

/// Carries the stream to its end.
async fn carry(
    shared: &Shared,
    transport: &mut TlsStream<TcpStream>,
    mut stream: Stream<'_>,
    record: &mut Pending,
    (drain, in_force, peer): (&mut Drain, &mut InForce, &mut AgentPeer),
) -> Result<(), stream::Ending> {
    let idle = shared.limits.idle;
    let session = Session {
        client: End::Tunnel,
        flight: stream.flight,
    };
    let (admitted, workload) = (&stream.admitted, &record.workload);
    let interruption = relay::interruption(drain, in_force, admitted, workload, record.connection);
    let interruption = relay::or_rejected(interruption, peer);
    let origin = &mut stream.origin;
    let carried = relay::raw::carry(origin, transport, session, idle, interruption).await;
    note_carried(record, &carried);
    carried.result.map_err(|error| {
        farewell::reset(stream.origin);
        cut(&error, record)
    })
}
