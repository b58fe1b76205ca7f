//! Other people's programs that speak raw, in the place of our gateway and in that of our agent.

#[path = "peers/envoy.rs"]
mod envoy;
#[path = "peers/haproxy.rs"]
mod haproxy;
#[path = "peers/stunnel.rs"]
mod stunnel;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use egress_lab::deployment::TUNNEL_PORT;
use egress_lab::{Namespace, Process, wait};

use crate::world::World;

/// The port on the gateway's host on which the peer takes agents.
pub(crate) const PORT: u16 = 9443;

/// Where the peer finds the stream once its TLS is off.
const INNER: &str = "127.0.0.1:10443";

/// The port of [`INNER`].
const INNER_PORT: u16 = 10443;

/// Who takes the agent's connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
    /// Envoy, as an SNI forward proxy.
    Envoy,
    /// HAProxy alone.
    Haproxy,
    /// stunnel takes the TLS off, nginx reads the ClientHello.
    StunnelAndNginx,
}

/// It runs until this is dropped.
pub(crate) struct Running {
    processes: Vec<Process>,
}

impl Running {
    /// Waits until any of its processes has said this.
    pub(crate) fn says(&self, text: &str) {
        let said = wait::until(&format!("the peer says {text}"), || {
            let mut outputs = self.processes.iter().map(Process::output);
            outputs.any(|output| output.contains(text)).then_some(())
        });
        said.unwrap_or_else(|error| panic!("{error}: {}", self.output()));
    }

    /// Waits until somebody listens on the port, without a connection, which would be passed on.
    fn listens(&self, host: &Namespace, port: u16) {
        let listening = format!(":{port:04X} 00000000:0000 0A");
        let up = wait::until("the peer listens", || {
            let sockets = host.run(|| fs::read_to_string("/proc/thread-self/net/tcp"));
            sockets.unwrap().unwrap().contains(&listening).then_some(())
        });
        up.unwrap_or_else(|error| panic!("{error}: {}", self.output()));
    }

    pub(crate) fn output(&self) -> String {
        self.processes.iter().map(Process::output).collect()
    }
}

impl Peer {
    /// Starts it. It forwards to `*.wikipedia.org` and nowhere else, and reads a PROXY header from
    /// each stream or none.
    pub(crate) fn start(self, world: &World, proxy_header: bool) -> Running {
        let host = &world.lab.gateway.namespace;
        let home = world.lab.directory().join("peers");
        fs::create_dir_all(&home).unwrap();
        let listen = SocketAddr::from((world.lab.gateway.v4, PORT));
        let processes = match self {
            Peer::Envoy => vec![envoy::server(world, &home, listen, proxy_header)],
            Peer::Haproxy => vec![haproxy::server(world, &home, listen, proxy_header)],
            Peer::StunnelAndNginx => vec![
                stunnel::nginx(host, &home, proxy_header),
                stunnel::server(world, &home, listen),
            ],
        };
        let running = Running { processes };
        running.listens(host, INNER_PORT);
        running.listens(host, PORT);
        running
    }
}

/// Who brings connections to our gateway, over mTLS without `egress/1`. Each listens on port 443 of
/// the node's loopback.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stranger {
    /// Envoy, whose PROXY header is where it is said to be.
    Envoy(Header),
    /// HAProxy, likewise.
    Haproxy(Header),
    /// stunnel, which writes none.
    Stunnel,
}

/// Where a PROXY header is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Header {
    None,
    /// Before the stream, inside of the TLS.
    Inside,
    /// Before the TLS, where anybody on the way could have written it.
    Outside,
}

impl Stranger {
    /// Starts it, with the agent's certificate of this directory, or with none.
    pub(crate) fn start(self, world: &World, identity: Option<&Path>) -> Running {
        let host = &world.lab.node.namespace;
        let home = world.lab.directory().join("strangers");
        fs::create_dir_all(&home).unwrap();
        let process = match self {
            Stranger::Envoy(header) => envoy::client(world, &home, header, identity),
            Stranger::Haproxy(header) => haproxy::client(world, &home, header, identity),
            Stranger::Stunnel => stunnel::client(world, &home, identity),
        };
        let running = Running {
            processes: vec![process],
        };
        if self != Stranger::Stunnel {
            running.listens(host, INNER_PORT);
        }
        running.listens(host, 443);
        running
    }
}

fn gateway(world: &World) -> SocketAddr {
    SocketAddr::from((world.lab.gateway.v4, TUNNEL_PORT))
}

/// The gateway's certificate, and its key behind it, as HAProxy wants them.
fn pem(pki: &Path, hop: &str, home: &Path) -> PathBuf {
    let parts = [format!("{hop}.pem"), format!("{hop}-key.pem")];
    let text = parts.map(|name| fs::read_to_string(pki.join(name)).unwrap());
    let path = home.join(format!("{hop}-and-key.pem"));
    fs::write(&path, text.concat()).unwrap();
    path
}
