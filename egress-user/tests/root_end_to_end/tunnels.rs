//! Ten thousand tunnels that are made and carry nothing.

use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;

use egress_lab::deployment::TUNNEL_PORT;
use egress_user::tunnel::tls::{CredentialPem, Credentials, agent_end};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::certificates::{Ca, DAY};
use crate::clients::curl;
use crate::world::{EN, Wish, World};

/// How many are made where the administrator allows the descriptors for them; a gateway keeps two for
/// each.
const TUNNELS: usize = 10_000;

/// An agent may hold a quarter of a gateway's places.
const AGENTS: usize = 5;

/// Descriptors that leave a gateway places for a few more than that.
const DESCRIPTORS: u64 = 20_480;

/// Places that are left to others, at least.
const LEFT: usize = 50;

/// What one may cost the gateway, in bytes. Measured: 21,800, of which TLS has the most.
const MOST: usize = 32 * 1024;

fn agent(ca: &Ca, world: &World, number: usize) -> Arc<ClientConfig> {
    let (certificates, key, _) = ca.issue(&format!("agent/silent-{number}"), DAY);
    let trust_bundle = fs::read_to_string(world.pki().join("ca.pem")).unwrap();
    let pem = CredentialPem {
        certificates,
        key,
        trust_bundle,
        crl: None,
    };
    let credentials = Credentials::from_pem(&pem, UnixTime::now()).unwrap();
    let gateways = ["spiffe://egress.local/gateway/*".parse().unwrap()];
    agent_end(&credentials, &gateways).unwrap().config()
}

/// A tunnel on which the gateway has said READY. What this end needs to go on with it is let go, as
/// it never does.
fn tunnel(agent: &Arc<ClientConfig>, gateway: SocketAddr) -> TcpStream {
    let name = ServerName::IpAddress(gateway.ip().into());
    let session = ClientConnection::new(agent.clone(), name).unwrap();
    let socket = TcpStream::connect(gateway).unwrap();
    let mut tunnel = StreamOwned::new(session, socket);
    let mut ready = [0; 4];
    tunnel.read_exact(&mut ready).unwrap();
    assert_eq!(ready, [8, 0, 0, 0]);
    tunnel.sock
}

/// Memory that the gateway holds, in bytes.
fn resident(world: &World) -> usize {
    let status = format!("/proc/{}/status", world.deployment.gateway.id());
    let status = fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    kibibytes.unwrap().parse::<usize>().unwrap() * 1024
}

/// Raises this process's limit, if need be beyond what the administrator set for it, which not every
/// root may do. Gives it, and how many tunnels a gateway has descriptors for.
fn raise() -> (u64, usize) {
    let limit = |most| Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    let allowed = getrlimit(Resource::Nofile).maximum.unwrap_or(DESCRIPTORS);
    let raised = setrlimit(Resource::Nofile, limit(allowed.max(DESCRIPTORS)));
    let most = match raised {
        Ok(()) => DESCRIPTORS,
        Err(_) => {
            setrlimit(Resource::Nofile, limit(allowed)).unwrap();
            allowed
        }
    };
    // A gateway keeps some for its log and so on.
    let places = usize::try_from(most.saturating_sub(64) / 2).unwrap();
    let tunnels = TUNNELS.min(places.saturating_sub(LEFT));
    assert!(tunnels >= 1000, "{most} open files are too few for this");
    (most, tunnels)
}

/// T4.
#[test]
fn ten_thousand_silent_tunnels_leave_room_for_others() {
    let (descriptors, tunnels) = raise();
    let world = World::with(&Wish {
        gateway_descriptors: Some(descriptors),
        ..Wish::default()
    });
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    let before = resident(&world);

    let ca = Ca::of(&world.pki());
    let gateway = SocketAddr::from((world.lab.gateway.v4, TUNNEL_PORT));
    let node = &world.lab.node.namespace;
    let held: Vec<TcpStream> = thread::scope(|scope| {
        let makers: Vec<_> = (0..AGENTS)
            .map(|number| {
                let agent = agent(&ca, &world, number);
                scope.spawn(move || {
                    let make = || (0..tunnels / AGENTS).map(|_| tunnel(&agent, gateway));
                    node.run(|| make().collect::<Vec<_>>()).unwrap()
                })
            })
            .collect();
        let made = makers.into_iter().map(|maker| maker.join().unwrap());
        made.flatten().collect()
    });
    assert_eq!(held.len(), tunnels / AGENTS * AGENTS);
    let each = (resident(&world) - before) / held.len();
    assert!(each < MOST, "{each} bytes each");

    for _ in 0..5 {
        curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    }
    drop(held);
    let records = world.finish();
    assert_eq!(records.agent.len(), 6);
    let carried =
        |record: &&_| egress_lab::deployment::Record::text(record, "verdict") == "allowed";
    assert_eq!(records.agent.iter().filter(carried).count(), 6);
}
