//! stunnel at either end, and nginx behind it, which reads the ClientHello.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use egress_lab::{Names, Namespace, Process, tools};

use super::{INNER, gateway};
use crate::world::World;

/// In the place of our gateway, as far as TLS goes.
pub(super) fn server(world: &World, home: &Path, listen: SocketAddr) -> Process {
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

/// Behind [`server`].
pub(super) fn nginx(host: &Namespace, home: &Path, proxy_header: bool) -> Process {
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
/// In the place of our agent.
pub(super) fn client(world: &World, home: &Path, identity: Option<&Path>) -> Process {
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
