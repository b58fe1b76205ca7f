//! HAProxy at either end.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use egress_lab::{Names, Process};

use super::{Header, INNER, gateway, pem};
use crate::world::World;

/// In the place of our gateway.
pub(super) fn server(
    world: &World,
    home: &Path,
    listen: SocketAddr,
    proxy_header: bool,
) -> Process {
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
    log-format \"from %ci:%cp for %[var(sess.original)]:%[var(sess.port)] name %[fc_pp_authority]\"
    tcp-request session set-var(sess.original) dst
    tcp-request session set-var(sess.port) dst_port
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

/// In the place of our agent.
pub(super) fn client(
    world: &World,
    home: &Path,
    header: Header,
    identity: Option<&Path>,
) -> Process {
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
