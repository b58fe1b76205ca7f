//! A gateway without a direct way out: real proxies stand in it.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use egress_lab::{Process, lab, tools, wait};

use crate::clients::{INTERNAL_ERROR, UNRECOGNIZED_NAME, curl};
use crate::world::{DOWN, EN, LOOPBACK, Wish, World};

/// An address of the internet's at which nobody else is.
const PROXY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 200);

const HTTP: &str = "connect: \"http://203.0.113.200:3128\"";
const SOCKS: &str = "socks5: \"203.0.113.200:1080\"";

/// A world whose gateway goes by the proxy, with this user and password.
fn world(proxy: &str, credentials: &str) -> World {
    let directory = lab::scratch().unwrap();
    let file = directory.path().join("proxy-user");
    fs::write(&file, credentials).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let upstream = format!("upstream: {{{proxy}, credentials: {}}}", file.display());
    // The gateway has read the file when it is ready.
    World::with(&Wish {
        gateway: &[&upstream],
        ..Wish::default()
    })
}

fn tinyproxy(world: &World) -> Process {
    let configuration = world.lab.directory().join("tinyproxy.conf");
    let text = format!(
        "Port 3128\nListen {PROXY}\nTimeout 600\nLogLevel Connect\nMaxClients 20\n\
         BasicAuth ann secret\nConnectPort 443\n"
    );
    fs::write(&configuration, text).unwrap();
    let mut command = tools::locate("tinyproxy").unwrap().command();
    command.arg("-d").arg("-c").arg(&configuration);
    start(world, command, "tinyproxy", 3128)
}

fn microsocks(world: &World) -> Process {
    let mut command = tools::locate("microsocks").unwrap().command();
    command.args([
        "-i",
        &PROXY.to_string(),
        "-p",
        "1080",
        "-u",
        "ann",
        "-P",
        "secret",
    ]);
    start(world, command, "microsocks", 1080)
}

fn start(world: &World, mut command: Command, name: &str, port: u16) -> Process {
    world.lab.internet.enter(&mut command).unwrap();
    let process = Process::start(command, name, world.lab.directory()).unwrap();
    wait::until("the proxy listens", || {
        let connected = world.lab.internet.run(|| TcpStream::connect((PROXY, port)));
        connected.unwrap().ok()
    })
    .unwrap();
    process
}

/// The page comes, and from the gateway itself not a packet goes to the origin.
fn carries(world: World) {
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    for address in EN.addresses() {
        world.assert_gateway_sent_nothing_to(address);
    }
    let log = world.deployment.gateway.output();
    assert!(!log.contains("secret"), "{log}");
    let records = world.finish();
    let (agent, gateway) = records.one_each();
    for record in [agent, gateway] {
        assert_eq!(record.text("verdict"), "allowed", "{record}");
        assert_eq!(record.text("dialled"), format!("{}:443", EN.v4), "{record}");
        assert!(!record.to_string().contains("secret"), "{record}");
    }
}

fn is_told(world: World, name: &str, alert: &str, verdict: &str, reason: &str) {
    curl(&world, name, EN.v4.into()).assert_alert(alert);
    world.assert_nothing_arrived(EN);
    let records = world.finish();
    let (agent, gateway) = records.one_each();
    for record in [agent, gateway] {
        assert_eq!(record.text("verdict"), verdict, "{record}");
        assert_eq!(record.text("reason"), reason, "{record}");
    }
}

#[test]
fn an_http_proxy_carries() {
    let world = world(HTTP, "ann:secret\n");
    let _proxy = tinyproxy(&world);
    carries(world);
}

#[test]
fn a_socks_proxy_carries() {
    let world = world(SOCKS, "ann:secret\n");
    let _proxy = microsocks(&world);
    carries(world);
}

#[test]
fn an_http_proxy_that_wants_other_credentials() {
    let world = world(HTTP, "ann:wrong\n");
    let _proxy = tinyproxy(&world);
    is_told(world, EN.name, INTERNAL_ERROR, "failed", "proxy_auth");
}

#[test]
fn a_socks_proxy_that_wants_other_credentials() {
    let world = world(SOCKS, "ann:wrong\n");
    let _proxy = microsocks(&world);
    is_told(world, EN.name, INTERNAL_ERROR, "failed", "proxy_auth");
}

#[test]
fn a_proxy_that_is_not_there() {
    let world = world(HTTP, "ann:secret\n");
    is_told(
        world,
        EN.name,
        INTERNAL_ERROR,
        "failed",
        "proxy_unreachable",
    );
}

#[test]
fn an_origin_that_is_down_behind_a_proxy() {
    let world = world(SOCKS, "ann:secret\n");
    let _proxy = microsocks(&world);
    is_told(
        world,
        DOWN.name,
        INTERNAL_ERROR,
        "failed",
        "connect_refused",
    );
}

/// The proxy would go there; the gateway does not ask it.
#[test]
fn a_proxy_is_not_asked_for_a_forbidden_address() {
    let world = world(SOCKS, "ann:secret\n");
    let proxy = microsocks(&world);
    let before = proxy.output();
    is_told(
        world,
        LOOPBACK.0,
        UNRECOGNIZED_NAME,
        "refused",
        "forbidden_address",
    );
    assert_eq!(proxy.output(), before);
}
