use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::addr::{ClientAddr, OriginAddr, OriginalDst};
use crate::connection_id::ConnectionId;
use crate::drain;
use crate::hello::ServerName;
use crate::intake::{Allowance, Flight};
use crate::relay::slots::{POOL, SLOTS};
use crate::tunnel::frame::{FrameHeader, Opened, ResetCode, Role};
use crate::tunnel::header::OpenHeader;
use crate::tunnel::stream::{Answer, Idle};
use crate::workload::Workload;

mod idle;
mod second;

type Wire = BufReader<DuplexStream>;

const LONG: Duration = Duration::from_secs(3600);

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Both ends of a tunnel, in memory.
async fn tunnels() -> (Tunnel<Wire>, Tunnel<Wire>) {
    let (agent, gateway) = tokio::io::duplex(100_000);
    let agent = Tunnel::new(BufReader::new(agent), Role::Agent);
    let mut gateway = Tunnel::new(BufReader::new(gateway), Role::Gateway);
    gateway.send_ready().await.unwrap();
    (agent, gateway)
}

async fn open_stream(agent: &mut Tunnel<Wire>, gateway: &mut Tunnel<Wire>) {
    let header = OpenHeader {
        client: ClientAddr::new(addr("192.0.2.1:1")),
        original: OriginalDst::new(addr("192.0.2.2:443")),
        server_name: "en.wikipedia.org".to_owned(),
        connection_id: ConnectionId::new(),
        policy: [0; 8],
        workload: Workload::default(),
        process: None,
    };
    let opened = Opened {
        dialled: OriginAddr::new(addr("192.0.2.3:443")),
        policy: [0; 8],
        original_resolved: false,
    };
    agent.open(&header, b"hello").await.unwrap();
    assert_eq!(gateway.accept().await.unwrap().unwrap(), header);
    let mut first = bytes::BytesMut::new();
    assert_eq!(gateway.read_data(&mut first).await.unwrap(), 5);
    gateway.send_opened(&opened).await.unwrap();
    let Answer::Opened(answer) = agent.answer().await.unwrap() else {
        panic!("refused");
    };
    assert_eq!(answer, opened);
}

/// A connected pair of sockets.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap());
    let (here, there) = tokio::join!(here, listener.accept());
    (here.unwrap(), there.unwrap().0)
}

type Ended = (Tunnel<Wire>, Carried);

/// A session of which only the rest is to come.
fn session(client: End) -> Session {
    let mut session = fresh_session(client);
    session.flight.server_sent(b"no retry").unwrap();
    session
}

fn fresh_session(client: End) -> Session {
    let name = ServerName::parse(b"en.wikipedia.org").unwrap();
    Session {
        client,
        flight: Flight::of(name, &Allowance::of_process()),
    }
}

fn spawn(socket: TcpStream, tunnel: Tunnel<Wire>, idle: Duration) -> JoinHandle<Ended> {
    spawn_session(socket, tunnel, session(End::Socket), idle)
}

fn spawn_session(
    mut socket: TcpStream,
    mut tunnel: Tunnel<Wire>,
    session: Session,
    idle: Duration,
) -> JoinHandle<Ended> {
    tokio::spawn(async move {
        let never = std::future::pending();
        let carried = carry(&mut socket, &mut tunnel, session, idle, never).await;
        if let Err(error) = &carried.result {
            let _ = tunnel.send_reset(error.reset_code()).await;
        }
        (tunnel, carried)
    })
}

/// client ⇄ agent ⇄ tunnel ⇄ gateway ⇄ origin, with one stream open.
struct Path {
    client: TcpStream,
    origin: TcpStream,
    agent: JoinHandle<Ended>,
    gateway: JoinHandle<Ended>,
}

impl Path {
    async fn over(agent: Tunnel<Wire>, gateway: Tunnel<Wire>) -> Path {
        Path::with(agent, gateway, session).await
    }

    async fn with(
        mut agent: Tunnel<Wire>,
        mut gateway: Tunnel<Wire>,
        session: fn(End) -> Session,
    ) -> Path {
        open_stream(&mut agent, &mut gateway).await;
        let (client, captured) = sockets().await;
        let (dialled, origin) = sockets().await;
        Path {
            client,
            origin,
            agent: spawn_session(captured, agent, session(End::Socket), LONG),
            gateway: spawn_session(dialled, gateway, session(End::Tunnel), LONG),
        }
    }

    async fn new() -> Path {
        let (agent, gateway) = tunnels().await;
        Path::over(agent, gateway).await
    }

    async fn ended(self) -> (Ended, Ended) {
        (self.agent.await.unwrap(), self.gateway.await.unwrap())
    }
}

/// Bytes that no two places share by accident.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend(state.to_le_bytes());
    }
    out.truncate(len);
    out
}

#[tokio::test]
async fn carries_both_ways_at_once_and_counts() {
    let mut path = Path::new().await;
    let (up, down) = (noise(8 << 20, 1), noise(5 << 20, 2));
    let (mut client_in, mut client_out) = path.client.split();
    let (mut origin_in, mut origin_out) = path.origin.split();
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    let (a, b, c, d) = tokio::join!(
        async {
            client_out
                .write_all(&up)
                .await
                .and(client_out.shutdown().await)
        },
        async {
            origin_out
                .write_all(&down)
                .await
                .and(origin_out.shutdown().await)
        },
        origin_in.read_to_end(&mut got_up),
        client_in.read_to_end(&mut got_down),
    );
    a.and(b).unwrap();
    c.and(d).unwrap();
    assert!(got_up == up && got_down == down);
    let ((_, agent), (_, gateway)) = path.ended().await;
    agent.result.unwrap();
    gateway.result.unwrap();
    assert_eq!((agent.from_socket, agent.from_tunnel), (8 << 20, 5 << 20));
    assert_eq!(
        (gateway.from_socket, gateway.from_tunnel),
        (5 << 20, 8 << 20)
    );
}

#[tokio::test]
async fn an_answer_after_the_clients_end_arrives() {
    let mut path = Path::new().await;
    path.client.write_all(b"question").await.unwrap();
    path.client.shutdown().await.unwrap();
    let mut question = Vec::new();
    path.origin.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    path.origin.write_all(b"answer").await.unwrap();
    path.origin.shutdown().await.unwrap();
    let mut answer = Vec::new();
    path.client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
    let ((_, agent), (_, gateway)) = path.ended().await;
    assert_eq!(agent.first, Some(End::Socket));
    assert_eq!(gateway.first, Some(End::Tunnel));
}

#[tokio::test]
async fn a_question_after_the_origins_end_arrives() {
    let mut path = Path::new().await;
    path.origin.shutdown().await.unwrap();
    let mut nothing = Vec::new();
    path.client.read_to_end(&mut nothing).await.unwrap();
    path.client.write_all(b"late").await.unwrap();
    path.client.shutdown().await.unwrap();
    let mut late = Vec::new();
    path.origin.read_to_end(&mut late).await.unwrap();
    assert_eq!(
        (nothing.as_slice(), late.as_slice()),
        (&b""[..], &b"late"[..])
    );
    let ((_, agent), _) = path.ended().await;
    assert_eq!(agent.first, Some(End::Tunnel));
}

#[tokio::test]
async fn the_tunnel_carries_one_stream_after_another() {
    let (mut agent, mut gateway) = tunnels().await;
    for round in 0..3u8 {
        let mut path = Path::over(agent, gateway).await;
        path.client.write_all(&[round]).await.unwrap();
        path.client.shutdown().await.unwrap();
        let mut got = Vec::new();
        path.origin.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, [round]);
        path.origin.shutdown().await.unwrap();
        let ends = path.ended().await;
        (agent, gateway) = (ends.0.0, ends.1.0);
        assert!(agent.is_idle() && gateway.is_idle());
        assert_eq!(agent.look(), Idle::Usable);
    }
}

#[tokio::test]
async fn a_clients_reset_reaches_the_gateway() {
    let path = Path::new().await;
    path.client.set_zero_linger().unwrap();
    drop(path.client);
    let (_, agent) = path.agent.await.unwrap();
    let (_, gateway) = path.gateway.await.unwrap();
    assert!(matches!(agent.result, Err(RelayError::Socket(_))));
    let Err(RelayError::Tunnel(TunnelError::Reset(code))) = gateway.result else {
        panic!("{:?}", gateway.result);
    };
    assert_eq!(code, ResetCode::Aborted);
}

#[tokio::test]
async fn a_tunnel_that_breaks_ends_the_stream() {
    let (mut agent, mut gateway) = tunnels().await;
    open_stream(&mut agent, &mut gateway).await;
    let (_client, captured) = sockets().await;
    let agent = spawn(captured, agent, LONG);
    drop(gateway);
    let (_, carried) = agent.await.unwrap();
    assert!(matches!(
        carried.result,
        Err(RelayError::Tunnel(TunnelError::Lost | TunnelError::Io(_)))
    ));
}

#[tokio::test]
async fn forced_drain_keeps_the_counts() {
    let (mut agent, mut gateway) = tunnels().await;
    open_stream(&mut agent, &mut gateway).await;
    let (mut client, mut captured) = sockets().await;
    let (drainer, mut drain) = drain::channel();
    let carrying = tokio::spawn(async move {
        carry(
            &mut captured,
            &mut agent,
            session(End::Socket),
            LONG,
            async {
                drain.forced().await;
                RelayError::Drained
            },
        )
        .await
    });
    client.write_all(b"bytes").await.unwrap();
    let mut got = bytes::BytesMut::new();
    gateway.read_data(&mut got).await.unwrap();
    assert!(!drainer.drain(Duration::ZERO).await);
    let carried = carrying.await.unwrap();
    assert!(matches!(carried.result, Err(RelayError::Drained)));
    assert_eq!(carried.from_socket, 5);
}

/// The peer takes nothing, so a frame stays half written when the stream is cut. What comes after
/// it must not be read as its payload.
#[tokio::test]
async fn a_cut_in_the_middle_of_a_frame_adds_nothing_to_the_stream() {
    let (mut agent, mut gateway) = tunnels().await;
    open_stream(&mut agent, &mut gateway).await;
    let (mut client, mut captured) = sockets().await;
    let sent = noise(4 << 20, 7);
    let bytes = sent.clone();
    // It never gets everything out.
    let writing = tokio::spawn(async move { client.write_all(&bytes).await });
    let cut = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        RelayError::PolicyChanged
    };
    let carried = carry(&mut captured, &mut agent, session(End::Socket), LONG, cut).await;
    let code = carried.result.unwrap_err().reset_code();
    let told = agent.send_reset(code).await;
    drop((agent, captured));

    let mut got = bytes::BytesMut::new();
    let end = loop {
        match gateway.read_data(&mut got).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(
        sent.starts_with(&got),
        "a prefix of what was sent, and nothing else"
    );
    assert_eq!(carried.from_socket, got.len() as u64);
    match told {
        Ok(()) => assert!(matches!(end, TunnelError::Reset(ResetCode::PolicyChanged))),
        Err(_) => assert!(end.is_loss(), "{end}"),
    }
    let _cut_off = writing.await.unwrap();
}

#[tokio::test]
async fn an_idle_stream_holds_no_buffer() {
    let pooled = || POOL.with_borrow(Vec::len);
    let (mut agent, mut gateway) = tunnels().await;
    open_stream(&mut agent, &mut gateway).await;
    let (mut client, captured) = sockets().await;
    let agent = spawn(captured, agent, LONG);
    for _ in 0..3 {
        client.write_all(b"bytes").await.unwrap();
        let mut got = bytes::BytesMut::new();
        gateway.read_data(&mut got).await.unwrap();
        assert_eq!((got.len(), pooled()), (5, 1));
    }
    assert!(!agent.is_finished());
}

#[tokio::test]
async fn a_tunnel_lost_after_the_peers_end_is_noticed() {
    let (mut agent, mut gateway) = tunnels().await;
    open_stream(&mut agent, &mut gateway).await;
    let (mut client, captured) = sockets().await;
    let agent = spawn(captured, agent, LONG);
    gateway.sending(Kind::Fin).unwrap();
    let fin = FrameHeader::new(Kind::Fin, 0).unwrap().encode();
    gateway.transport().write_all(&fin).await.unwrap();
    let mut nothing = Vec::new();
    client.read_to_end(&mut nothing).await.unwrap();
    drop(gateway);
    let (_, carried) = agent.await.unwrap();
    assert!(matches!(
        carried.result,
        Err(RelayError::Tunnel(TunnelError::Lost))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_ahead_does_not_wait_for_ever() {
    let (mut agent, mut gateway) = tunnels().await;
    open_stream(&mut agent, &mut gateway).await;
    let (mut client, captured) = sockets().await;
    client.write_all(&[22, 3, 3, 0, 1, 0]).await.unwrap();
    let session = fresh_session(End::Socket);
    let (_, carried) = spawn_session(captured, agent, session, LONG).await.unwrap();
    assert!(matches!(carried.result, Err(RelayError::Idle)));
    assert_eq!(carried.from_socket, 0);
}

/// Both hops watch both directions, whichever of them the tunnel is.
#[tokio::test]
async fn the_detour_of_the_first_flights_loses_nothing() {
    let (agent, gateway) = tunnels().await;
    let mut path = Path::with(agent, gateway, fresh_session).await;
    let early = [&[23, 3, 3, 0, 5][..], b"early"].concat();
    // A handshake record waits for the server's answer.
    let held = [&[22, 3, 3, 0, 4][..], b"held"].concat();
    path.client.write_all(&early).await.unwrap();
    path.client.write_all(&held).await.unwrap();
    let mut got = vec![0; early.len()];
    path.origin.read_exact(&mut got).await.unwrap();
    assert_eq!(got, early);
    let no_retry = [22, 3, 3, 0, 1, 0];
    path.origin.write_all(&no_retry).await.unwrap();
    let mut answer = vec![0; no_retry.len()];
    path.client.read_exact(&mut answer).await.unwrap();
    let rest = noise(1 << 20, 3);
    let (mut client_in, mut client_out) = path.client.split();
    let (mut origin_in, mut origin_out) = path.origin.split();
    let sent = async {
        client_out.write_all(&rest).await.unwrap();
        client_out.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let received = async {
        origin_in.read_to_end(&mut got).await.unwrap();
        origin_out.shutdown().await.unwrap();
    };
    let mut nothing = Vec::new();
    let (_, _, ended) = tokio::join!(sent, received, client_in.read_to_end(&mut nothing));
    ended.unwrap();
    assert!(got == [held, rest].concat());
    let ((_, agent), (_, gateway)) = path.ended().await;
    let total = (early.len() + 9 + (1 << 20)) as u64;
    assert_eq!((agent.from_socket, gateway.from_tunnel), (total, total));
}

#[test]
fn frames_fill_their_slots() {
    let mut buffer = take_buffer();
    assert_eq!(frame_slots(&mut buffer, 1).unwrap(), 5);
    assert_eq!(buffer[..4], [2, 0, 0, 1]);
    assert_eq!(frame_slots(&mut buffer, MAX_DATA).unwrap(), SLOT);
    assert_eq!(frame_slots(&mut buffer, MAX_DATA + 1).unwrap(), SLOT + 5);
    assert_eq!(buffer[SLOT..SLOT + 4], [2, 0, 0, 1]);
    assert_eq!(
        frame_slots(&mut buffer, MAX_DATA * SLOTS).unwrap(),
        SLOT * SLOTS
    );
}
