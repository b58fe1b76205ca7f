//! Other people's programs that speak raw, in the place of our gateway and in that of our agent.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use egress_lab::deployment::TUNNEL_PORT;
use egress_lab::{Names, Namespace, Process, tools, wait};

use crate::world::World;

/// The port on the gateway's host on which the peer takes agents.
pub(crate) const PORT: u16 = 9443;

/// Where the peer finds the stream once its TLS is off.
const INNER: &str = "127.0.0.1:10443";

/// Who takes the agent's connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
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
            Peer::Haproxy => vec![haproxy(world, &home, listen, proxy_header)],
            Peer::StunnelAndNginx => vec![
                nginx(host, &home, proxy_header),
                stunnel(world, &home, listen),
            ],
        };
        let running = Running { processes };
        running.listens(host, PORT);
        running
    }
}

/// Who brings connections to our gateway, over mTLS without `egress/1`. Each listens on port 443 of
/// the node's loopback.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stranger {
    /// HAProxy, whose PROXY header is where it is said to be.
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
            Stranger::Haproxy(header) => haproxy_client(world, &home, header, identity),
            Stranger::Stunnel => stunnel_client(world, &home, identity),
        };
        let running = Running {
            processes: vec![process],
        };
        running.listens(host, 443);
        running
    }
}

fn gateway(world: &World) -> SocketAddr {
    SocketAddr::from((world.lab.gateway.v4, TUNNEL_PORT))
}

fn haproxy_client(world: &World, home: &Path, header: Header, identity: Option<&Path>) -> Process {
    let certificate = identity.map(|pki| format!("crt {}", pem(pki, "agent", home).display()));
    let (backend, option) = match header {
        Header::None => ("gateway", ""),
        Header::Inside => ("inner", ""),
        Header::Outside => ("gateway", "send-proxy-v2"),
    };
    let configuration = format!(
        "
defaults
    mode tcp
    timeout connect 60s
    timeout client 60s
    timeout server 60s
frontend application
    bind 127.0.0.1:443
    default_backend {backend}
backend inner
    server inner {INNER} send-proxy-v2
frontend inner
    bind {INNER}
    default_backend gateway
backend gateway
    server gateway {gateway} ssl {certificate} ca-file {ca} verify required {option}
",
        gateway = gateway(world),
        certificate = certificate.unwrap_or_default(),
        ca = world.pki().join("ca.pem").display(),
    );
    let path = home.join("haproxy.cfg");
    fs::write(&path, configuration).unwrap();
    let mut command = world.lab.node.namespace.command("haproxy").unwrap();
    command.arg("-db").arg("-f").arg(path);
    Process::start(command, "haproxy", home).unwrap()
}

fn stunnel_client(world: &World, home: &Path, identity: Option<&Path>) -> Process {
    let certificate = identity.map(|pki| {
        let [certificate, key] = ["agent.pem", "agent-key.pem"].map(|name| pki.join(name));
        format!("cert = {}\nkey = {}", certificate.display(), key.display())
    });
    let configuration = format!(
        "
foreground = yes
pid =
[gateway]
client = yes
accept = 127.0.0.1:443
connect = {gateway}
{certificate}
CAfile = {ca}
verifyChain = yes
",
        gateway = gateway(world),
        certificate = certificate.unwrap_or_default(),
        ca = world.pki().join("ca.pem").display(),
    );
    let path = home.join("stunnel.conf");
    fs::write(&path, configuration).unwrap();
    let mut command = world.lab.node.namespace.command("stunnel4").unwrap();
    command.arg(path);
    Process::start(command, "stunnel", home).unwrap()
}

/// The gateway's certificate, and its key behind it, as HAProxy wants them.
fn pem(pki: &Path, hop: &str, home: &Path) -> PathBuf {
    let parts = [format!("{hop}.pem"), format!("{hop}-key.pem")];
    let text = parts.map(|name| fs::read_to_string(pki.join(name)).unwrap());
    let path = home.join(format!("{hop}-and-key.pem"));
    fs::write(&path, text.concat()).unwrap();
    path
}

fn haproxy(world: &World, home: &Path, listen: SocketAddr, proxy_header: bool) -> Process {
    let pki = world.pki();
    let configuration = format!(
        "
global
    log stdout format raw local0
defaults
    mode tcp
    timeout connect 60s
    timeout client 60s
    timeout server 60s
resolvers lab
    nameserver one {resolver}

frontend agents
    bind {listen} ssl crt {pem} ca-file {ca} verify required ssl-min-ver TLSv1.3
    default_backend inner
backend inner
    server inner {INNER}

frontend inner
    bind {INNER} {accept_proxy}
    log global
    log-format \"from %ci:%cp for %[var(sess.original)] name %[fc_pp_authority]\"
    tcp-request session set-var(sess.original) dst
    tcp-request inspect-delay 60s
    tcp-request content reject unless {{ req.ssl_sni -m end .wikipedia.org }}
    tcp-request content do-resolve(txn.origin,lab,ipv4) req.ssl_sni
    tcp-request content reject unless {{ var(txn.origin) -m found }}
    tcp-request content set-dst var(txn.origin)
    default_backend origins
backend origins
    server origin 0.0.0.0:443
",
        resolver = Names::ADDRESS,
        pem = pem(&pki, "gateway", home).display(),
        ca = pki.join("ca.pem").display(),
        accept_proxy = if proxy_header { "accept-proxy" } else { "" },
    );
    let path = home.join("haproxy.cfg");
    fs::write(&path, configuration).unwrap();
    let host = &world.lab.gateway.namespace;
    let mut command = host.command("haproxy").unwrap();
    command.arg("-db").arg("-f").arg(path);
    Process::start(command, "haproxy", home).unwrap()
}

fn stunnel(world: &World, home: &Path, listen: SocketAddr) -> Process {
    let pki = world.pki();
    let configuration = format!(
        "
foreground = yes
pid =
[agents]
accept = {listen}
connect = {INNER}
cert = {certificate}
key = {key}
CAfile = {ca}
requireCert = yes
verifyChain = yes
sslVersionMin = TLSv1.3
",
        certificate = pki.join("gateway.pem").display(),
        key = pki.join("gateway-key.pem").display(),
        ca = pki.join("ca.pem").display(),
    );
    let path = home.join("stunnel.conf");
    fs::write(&path, configuration).unwrap();
    let host = &world.lab.gateway.namespace;
    let mut command = host.command("stunnel4").unwrap();
    command.arg(path);
    Process::start(command, "stunnel", home).unwrap()
}

fn nginx(host: &Namespace, home: &Path, proxy_header: bool) -> Process {
    let nginx = tools::locate("nginx").unwrap();
    let configuration = format!(
        "
daemon off;
master_process off;
pid {home}/nginx.pid;
error_log stderr info;
load_module {module};
events {{}}
stream {{
    resolver {resolver};
    map $ssl_preread_server_name $origin {{
        ~\\.wikipedia\\.org$ $ssl_preread_server_name:443;
    }}
    server {{
        listen {INNER} {accept_proxy};
        ssl_preread on;
        proxy_pass $origin;
    }}
}}
",
        home = home.display(),
        module = nginx
            .file("/usr/lib/nginx/modules/ngx_stream_module.so")
            .display(),
        resolver = Names::ADDRESS,
        accept_proxy = if proxy_header { "proxy_protocol" } else { "" },
    );
    let path = home.join("nginx.conf");
    fs::write(&path, configuration).unwrap();
    let mut command = nginx.command();
    host.enter(&mut command).unwrap();
    command.arg("-p").arg(home).args(["-e", "stderr", "-c"]);
    command.arg(path);
    Process::start(command, "nginx-preread", home).unwrap()
}
