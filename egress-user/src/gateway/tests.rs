//! A gateway among peers that mean it ill.

use std::net::Ipv4Addr;
use std::time::SystemTime;

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::addr::{ClientAddr, OriginalDst};
use crate::connection_id::ConnectionId;
use crate::drain::{self, Drainer};
use crate::gateway::resolve::ResolveOptions;
use crate::in_force;
use crate::pki::{TrialCa, Validity};
use crate::policy::{Flags, Policy};
use crate::record::Metrics;
use crate::refusal::Class;
use crate::tunnel::frame::Role;
use crate::tunnel::header::OpenHeader;
use crate::tunnel::stream::{Answer, Tunnel};
use crate::tunnel::{self, tls};
use crate::workload::Workload;

/// Reached only when something is broken.
const DEADLINE: Duration = Duration::from_secs(60);

type AgentTunnel = Tunnel<TlsStream<TcpStream>>;

struct Scene {
    ca: TrialCa,
    validity: Validity,
    addr: SocketAddr,
    drainer: Drainer,
}

impl Scene {
    async fn new(tunnels: usize, quotas: Quotas) -> Scene {
        let hour = Duration::from_secs(3600);
        let validity = Validity::starting(SystemTime::now(), hour).unwrap();
        let ca = TrialCa::new("e.test".parse().unwrap(), validity).unwrap();
        let pem = ca.issue(&"spiffe://e.test/gateway/a".parse().unwrap(), validity);
        let credentials = tls::Credentials::from_pem(&pem.unwrap(), UnixTime::now()).unwrap();
        let (_, tls) = tls::in_use(tls::gateway_end(&credentials).unwrap());
        let policy = Policy::from_flags(&Flags::default()).unwrap().policy;
        let gateway = Gateway::bind(GatewayParts {
            raw: None,
            listen: "127.0.0.1:0".parse().unwrap(),
            tls,
            agents: vec![AgentRule::for_everybody(
                "spiffe://e.test/agent/*".parse().unwrap(),
            )],
            quotas,
            policy: in_force::channel(policy, in_force::SPREAD).1,
            resolve: ResolveOptions {
                servers: vec!["127.0.0.1:1".parse().unwrap()],
                ..ResolveOptions::default()
            },
            upstream: None,
            recorder: Recorder::silent(Arc::new(Metrics::default())),
            limits: Limits {
                handshake: hour,
                tunnels,
                ..Limits::default()
            },
        })
        .await
        .unwrap();
        let addr = gateway.addr();
        let (drainer, drain) = drain::channel();
        tokio::spawn(gateway.run(drain));
        Scene {
            ca,
            validity,
            addr,
            drainer,
        }
    }

    fn agent(&self, name: &str) -> Arc<ClientConfig> {
        self.client(&format!("spiffe://e.test/agent/{name}"))
    }

    /// One that the rules do not know.
    fn stranger(&self) -> Arc<ClientConfig> {
        self.client("spiffe://e.test/stranger")
    }

    fn client(&self, id: &str) -> Arc<ClientConfig> {
        let id = id.parse().unwrap();
        let pem = self.ca.issue(&id, self.validity).unwrap();
        let credentials = tls::Credentials::from_pem(&pem, UnixTime::now()).unwrap();
        let gateways = ["spiffe://e.test/gateway/*".parse().unwrap()];
        tls::agent_end(&credentials, &gateways).unwrap().config()
    }

    async fn connect(&self, from: Ipv4Addr) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        socket.connect(self.addr).await
    }

    /// A tunnel, and what the gateway's first frame says of it.
    async fn tunnel(&self, agent: &Arc<ClientConfig>, from: Ipv4Addr) -> (AgentTunnel, String) {
        let said = async {
            let socket = self.connect(from).await.unwrap();
            let name = ServerName::IpAddress(self.addr.ip().into());
            let stream = TlsConnector::from(agent.clone()).connect(name, socket);
            let mut tunnel = Tunnel::new(stream.await.unwrap(), Role::Agent);
            let said = match tunnel.ready().await.unwrap() {
                Ok(()) => "ready".to_owned(),
                Err(refusal) => refusal.reason.into_owned(),
            };
            (tunnel, said)
        };
        tokio::time::timeout(DEADLINE, said).await.unwrap()
    }
}

/// Who connected before the end began, and was not accepted yet, is not accepted after it.
#[tokio::test]
async fn once_the_end_has_begun_nobody_is_accepted() {
    // Where chance decided, it would not do so always.
    for _ in 0..8 {
        let scene = Scene::new(16, Quotas::default()).await;
        // The gateway waits for somebody, and hears of these and of the end at once.
        tokio::task::yield_now().await;
        let connect = |_| std::net::TcpStream::connect(scene.addr).unwrap();
        let _queued: Vec<_> = (0..4).map(connect).collect();
        tokio::task::yield_now().await;
        let drained = scene.drainer.drain(DEADLINE).await;
        assert!(drained, "somebody was accepted");
    }
}

/// T4: connections that never say who they are hold neither the door nor a place.
#[tokio::test]
async fn silent_connections_leave_room_for_agents() {
    let scene = Scene::new(16, Quotas::default()).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        // One that is turned away may learn it before it knows that it is connected.
        silent.extend(scene.connect(Ipv4Addr::LOCALHOST).await);
    }
    let agent = scene.agent("a");
    let (_tunnel, said) = scene.tunnel(&agent, Ipv4Addr::new(127, 0, 0, 2)).await;
    assert_eq!(said, "ready");
    // An eighth of the places is what one source may hold unheard; the others are turned away.
    let turned_away = async {
        while silent.len() > 2 {
            let mut held = Vec::new();
            for mut socket in silent.drain(..) {
                let mut byte = [0];
                let ended = socket.read(&mut byte);
                let ended = tokio::time::timeout(Duration::from_millis(1), ended).await;
                if ended.is_err() {
                    held.push(socket);
                }
            }
            silent = held;
        }
    };
    tokio::time::timeout(DEADLINE, turned_away).await.unwrap();
    assert_eq!(silent.len(), 2);
}

/// T4: tunnels that carry nothing are bounded for each agent.
#[tokio::test]
async fn silent_tunnels_of_one_agent_leave_room_for_another() {
    let scene = Scene::new(16, Quotas::default()).await;
    let (one, other) = (scene.agent("one"), scene.agent("other"));
    let mut held = Vec::new();
    for count in 0..8 {
        // Each from an address of its own, so that the door is not what stops them.
        let (tunnel, said) = scene.tunnel(&one, Ipv4Addr::new(127, 0, 1, count)).await;
        held.push(tunnel);
        let expected = if count < 4 {
            "ready"
        } else {
            "agent_tunnel_limit"
        };
        assert_eq!(said, expected, "{count}");
    }
    let (_tunnel, said) = scene.tunnel(&other, Ipv4Addr::new(127, 0, 0, 2)).await;
    assert_eq!(said, "ready");
}

/// The session of a tunnel serves the next one, and each is told READY.
#[tokio::test]
async fn a_second_tunnel_resumes_the_session_of_the_first() {
    let scene = Scene::new(16, Quotas::default()).await;
    let agent = scene.agent("a");
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (mut tunnel, said) = scene.tunnel(&agent, Ipv4Addr::LOCALHOST).await;
        assert_eq!(said, "ready");
        let transport = tunnel.transport();
        let (_, session) = transport.get_ref();
        assert_eq!(session.handshake_kind(), Some(expected));
    }
    // Who is not taken is not taken by resuming either.
    let stranger = scene.stranger();
    for _ in 0..2 {
        let (_, said) = scene.tunnel(&stranger, Ipv4Addr::LOCALHOST).await;
        assert_eq!(said, "agent_not_allowed");
    }
}

/// The agent opens a stream while DRAIN is on its way to it.
#[tokio::test]
async fn a_stream_that_crosses_the_drain_is_refused_as_busy() {
    let scene = Scene::new(16, Quotas::default()).await;
    let (mut tunnel, _) = scene.tunnel(&scene.agent("a"), Ipv4Addr::LOCALHOST).await;
    let drained = scene.drainer.drain(DEADLINE);
    tokio::pin!(drained);
    // The end has begun once this was polled; that nothing else ran yet lets the frames cross.
    tokio::select! {
        biased;
        _ = &mut drained => panic!("there is a tunnel"),
        () = std::future::ready(()) => {}
    }
    tunnel.open(&header(), b"hello").await.unwrap();
    let conversation = async {
        let Answer::Refused(refusal) = tunnel.answer().await.unwrap() else {
            panic!("opened");
        };
        assert_eq!(refusal.class, Class::Busy);
        assert_eq!(refusal.reason, tunnel::DRAINING);
        assert!(tunnel.is_idle() && !tunnel.may_open());
        drop(tunnel);
    };
    let (whole, ()) = tokio::join!(drained, conversation);
    assert!(whole, "nothing had to be cut");
}

fn header() -> OpenHeader {
    OpenHeader {
        client: ClientAddr::new("127.0.0.1:40000".parse().unwrap()),
        original: OriginalDst::new("192.0.2.1:443".parse().unwrap()),
        server_name: "a.example".to_owned(),
        connection_id: ConnectionId::new(),
        policy: [0; 8],
        workload: Workload::default(),
        process: None,
    }
}
