//! Throughput and turn-around of the relay, over real sockets and real mTLS on loopback:
//! client ⇄ agent's relay ⇄ tunnel ⇄ gateway's relay ⇄ origin, in one process with two workers.
//! Raw is the same without frames; each of its streams has a connection of its own, so that its turn
//! has a handshake in it, of a session that is resumed.
//!
//! `cargo bench -p egress-user --bench relay`

#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a benchmark that cannot set up what it measures has nothing to say"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use egress_user::addr::{ClientAddr, OriginAddr, OriginalDst};
use egress_user::connection_id::ConnectionId;
use egress_user::hello;
use egress_user::intake::{Allowance, Flight};
use egress_user::pki::{TrialCa, Validity};
use egress_user::relay::{self, End, Session};
use egress_user::tunnel::frame::{Opened, Role};
use egress_user::tunnel::header::OpenHeader;
use egress_user::tunnel::identity::{IdPattern, TrustDomain};
use egress_user::tunnel::stream::{Answer, Transport, Tunnel};
use egress_user::tunnel::tls::{self, Credentials};
use egress_user::workload::Workload;
use rustls::pki_types::{ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const BULK: usize = 1 << 30;
const TURNS: u32 = 2_000;
const LONG: Duration = Duration::from_secs(3600);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut agent, mut gateway) = tunnels().await;
        for name in ["to_client", "to_origin"] {
            let mut best = 0.0_f64;
            for _ in 0..5 {
                let path = Path::over(agent, gateway).await;
                let started = Instant::now();
                let (from, to) = match name {
                    "to_client" => (path.origin, path.client),
                    _ => (path.client, path.origin),
                };
                bulk(from, to).await;
                let seconds = started.elapsed().as_secs_f64();
                best = best.max(BULK as f64 / (1 << 20) as f64 / seconds);
                (agent, gateway) = (path.agent.await.unwrap(), path.gateway.await.unwrap());
            }
            println!("{name:<12} {best:>8.0} MiB/s");
        }
        let started = Instant::now();
        for _ in 0..TURNS {
            let path = Path::over(agent, gateway).await;
            turn(path.client, path.origin).await;
            (agent, gateway) = (path.agent.await.unwrap(), path.gateway.await.unwrap());
        }
        let each = started.elapsed() / TURNS;
        println!(
            "{:<12} {:>8.0} µs a stream",
            "turn",
            each.as_secs_f64() * 1e6
        );
        raw().await;
    });
}

/// The same without frames.
async fn raw() {
    let ends = Ends::new();
    for name in ["to_client", "to_origin"] {
        let mut best = 0.0_f64;
        for _ in 0..5 {
            let path = RawPath::over(&ends).await;
            let started = Instant::now();
            let (from, to) = match name {
                "to_client" => (path.origin, path.client),
                _ => (path.client, path.origin),
            };
            bulk(from, to).await;
            let seconds = started.elapsed().as_secs_f64();
            best = best.max(BULK as f64 / (1 << 20) as f64 / seconds);
            path.agent.await.unwrap();
            path.gateway.await.unwrap();
        }
        println!("{:<12} {best:>8.0} MiB/s", format!("raw {name}"));
    }
    let started = Instant::now();
    for _ in 0..TURNS {
        let path = RawPath::over(&ends).await;
        turn(path.client, path.origin).await;
        path.agent.await.unwrap();
        path.gateway.await.unwrap();
    }
    let each = started.elapsed() / TURNS;
    println!(
        "{:<12} {:>8.0} µs a stream",
        "raw turn",
        each.as_secs_f64() * 1e6
    );
}

/// One direction full, the other empty.
async fn bulk(mut from: TcpStream, mut to: TcpStream) {
    let writer = tokio::spawn(async move {
        let chunk = vec![7; 256 * 1024];
        for _ in 0..BULK / chunk.len() {
            from.write_all(&chunk).await.unwrap();
        }
        from.shutdown().await.unwrap();
        from.read_to_end(&mut Vec::new()).await.unwrap();
    });
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match to.read(&mut buffer).await.unwrap() {
            0 => break,
            count => total += count,
        }
    }
    assert_eq!(total, BULK);
    to.shutdown().await.unwrap();
    writer.await.unwrap();
}

/// A question of 500 bytes and an answer of 4 KiB.
async fn turn(mut client: TcpStream, mut origin: TcpStream) {
    client.write_all(&[1; 500]).await.unwrap();
    origin.read_exact(&mut [0; 500]).await.unwrap();
    origin.write_all(&[2; 4096]).await.unwrap();
    client.read_exact(&mut [0; 4096]).await.unwrap();
    client.shutdown().await.unwrap();
    origin.read_to_end(&mut Vec::new()).await.unwrap();
    origin.shutdown().await.unwrap();
    client.read_to_end(&mut Vec::new()).await.unwrap();
}

type AgentTunnel = Tunnel<tokio_rustls::client::TlsStream<TcpStream>>;
type GatewayTunnel = Tunnel<tokio_rustls::server::TlsStream<TcpStream>>;

/// Both ends of mTLS.
struct Ends {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl Ends {
    fn new() -> Ends {
        let validity = Validity::starting(SystemTime::now(), LONG).unwrap();
        let domain: TrustDomain = "bench.local".parse().unwrap();
        let ca = TrialCa::new(domain.clone(), validity).unwrap();
        let issue = |path: &str| {
            let pem = ca.issue(&domain.id(path).unwrap(), validity).unwrap();
            Credentials::from_pem(&pem, UnixTime::now()).unwrap()
        };
        let (agent, gateway) = (issue("/agent/a"), issue("/gateway/g"));
        let trusted = [IdPattern::Exactly(gateway.id().clone())];
        Ends {
            connector: tls::agent_end(&agent, &trusted).unwrap().config().into(),
            acceptor: tls::gateway_end(&gateway).unwrap().config().into(),
        }
    }

    async fn connected(
        &self,
    ) -> (
        tokio_rustls::client::TlsStream<TcpStream>,
        tokio_rustls::server::TlsStream<TcpStream>,
    ) {
        let (near, far) = sockets().await;
        let name = ServerName::IpAddress(near.peer_addr().unwrap().ip().into());
        let client = self.connector.connect(name, near);
        let (client, server) = tokio::join!(client, self.acceptor.accept(far));
        (client.unwrap(), server.unwrap())
    }
}

async fn tunnels() -> (AgentTunnel, GatewayTunnel) {
    let (client, server) = Ends::new().connected().await;
    let agent = Tunnel::new(client, Role::Agent);
    let mut gateway = Tunnel::new(server, Role::Gateway);
    gateway.send_ready().await.unwrap();
    (agent, gateway)
}

struct RawPath {
    client: TcpStream,
    origin: TcpStream,
    agent: tokio::task::JoinHandle<()>,
    gateway: tokio::task::JoinHandle<()>,
}

impl RawPath {
    async fn over(ends: &Ends) -> RawPath {
        let (agent, gateway) = ends.connected().await;
        let (client, captured) = sockets().await;
        let (dialled, origin) = sockets().await;
        RawPath {
            client,
            origin,
            agent: spawn_raw(captured, agent, End::Socket),
            gateway: spawn_raw(dialled, gateway, End::Tunnel),
        }
    }
}

fn spawn_raw<T: Transport + 'static>(
    mut socket: TcpStream,
    mut transport: T,
    client: End,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let never = std::future::pending();
        let session = session(client);
        let carried = relay::raw::carry(&mut socket, &mut transport, session, LONG, never).await;
        carried.result.unwrap();
    })
}

fn session(client: End) -> Session {
    let name = hello::ServerName::parse(b"en.wikipedia.org").unwrap();
    let flight = Flight::of(name, &Allowance::of_process());
    Session { client, flight }
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap());
    let (here, there) = tokio::join!(here, listener.accept());
    let (here, there) = (here.unwrap(), there.unwrap().0);
    here.set_nodelay(true).unwrap();
    there.set_nodelay(true).unwrap();
    (here, there)
}

struct Path {
    client: TcpStream,
    origin: TcpStream,
    agent: tokio::task::JoinHandle<AgentTunnel>,
    gateway: tokio::task::JoinHandle<GatewayTunnel>,
}

impl Path {
    async fn over(mut agent: AgentTunnel, mut gateway: GatewayTunnel) -> Path {
        open_stream(&mut agent, &mut gateway).await;
        let (client, captured) = sockets().await;
        let (dialled, origin) = sockets().await;
        Path {
            client,
            origin,
            agent: spawn(captured, agent, End::Socket),
            gateway: spawn(dialled, gateway, End::Tunnel),
        }
    }
}

fn spawn<T: Transport + 'static>(
    mut socket: TcpStream,
    mut tunnel: Tunnel<T>,
    client: End,
) -> tokio::task::JoinHandle<Tunnel<T>> {
    tokio::spawn(async move {
        let never = std::future::pending();
        let session = session(client);
        let carried = relay::carry(&mut socket, &mut tunnel, session, LONG, never).await;
        carried.result.unwrap();
        tunnel
    })
}

async fn open_stream(agent: &mut AgentTunnel, gateway: &mut GatewayTunnel) {
    let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
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
    gateway.accept().await.unwrap().unwrap();
    gateway
        .read_data(&mut bytes::BytesMut::new())
        .await
        .unwrap();
    gateway.send_opened(&opened).await.unwrap();
    assert!(matches!(agent.answer().await.unwrap(), Answer::Opened(_)));
}
