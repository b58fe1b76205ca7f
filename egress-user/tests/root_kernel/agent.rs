//! What the agent stands on beside the programs: their log, namespaces, cgroups.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use egress_lab::{Namespace, process, wait};
use egress_user::agent::capture::CaptureOptions;
use egress_user::cgroup::Cgroup2;
use egress_user::netns::{
    Netns, cookie_of_current, has_ipv6_loopback, listen_on_loopback, sockets_of_current,
};
use tracing_subscriber::filter::LevelFilter;

use crate::client::{Outcome, Script, UDP};
use crate::world::{World, options};

/// Collects what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_programs_log_reaches_tracing_at_debug() {
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let mut world = World::with(
        &CaptureOptions {
            log: true,
            ..options()
        },
        |_| {},
    );
    runtime
        .block_on(async { world.capture.start_log() })
        .unwrap();
    let script = Script::connect("[2001:db8::1]:443");
    assert_eq!(world.run(&script), [Outcome::Done]);
    assert_eq!(world.run(&script.protocol(UDP)), [Outcome::REFUSED]);
    for expected in [
        "redirect 2001:db8::1 port 443",
        "refuse 2001:db8::1 port 443",
    ] {
        wait::until(expected, || {
            let logged = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            let found = logged.lines().any(|line| {
                line.contains("DEBUG") && line.contains("egress_ebpf") && line.contains(expected)
            });
            found.then_some(())
        })
        .unwrap();
    }
}

#[test]
fn cookies_tell_namespaces_apart() {
    let [a, b] = [Namespace::new().unwrap(), Namespace::new().unwrap()];
    let cookie = |namespace: &Namespace| {
        let netns = Netns::at(namespace.path()).unwrap();
        netns.on_thread(cookie_of_current).unwrap().unwrap()
    };
    let here = cookie_of_current().unwrap();
    assert_ne!(cookie(&a), cookie(&b));
    assert_ne!(cookie(&a), here);
    assert_eq!(cookie(&a), cookie(&a));
    assert_eq!(cookie_of_current().unwrap(), here, "this thread stayed");

    let mut command = process::command("sleep");
    command.arg("600");
    a.enter(&mut command).unwrap();
    let mut process = command.spawn().unwrap();
    let netns = Netns::of_process(process.id()).unwrap();
    let of_process = netns.on_thread(cookie_of_current).unwrap().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(of_process, cookie(&a));
}

#[test]
fn listeners_stand_in_the_namespace() {
    let namespace = Namespace::new().unwrap();
    let netns = Netns::at(namespace.path()).unwrap();
    let listeners = netns.on_thread(|| listen_on_loopback(8)).unwrap().unwrap();
    let v4 = listeners.v4.local_addr().unwrap();
    let v6 = listeners.v6.as_ref().unwrap().local_addr().unwrap();
    assert_eq!(v4.ip(), Ipv4Addr::LOCALHOST);
    assert_eq!(v6.ip(), Ipv6Addr::LOCALHOST);
    assert_eq!(v4.port(), v6.port(), "free in a new namespace");
    for addr in [v4, v6] {
        namespace.run(|| TcpStream::connect(addr)).unwrap().unwrap();
    }
    // The agent of another namespace listens elsewhere, be it at the same port.
    let other = Namespace::new().unwrap();
    let error = other.run(|| TcpStream::connect(v4)).unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_namespace_without_ipv6_has_one_listener() {
    let namespace = Namespace::new().unwrap();
    namespace.sysctl("ipv6/conf/all/disable_ipv6", "1").unwrap();
    let netns = Netns::at(namespace.path()).unwrap();
    let (has, listeners) = netns
        .on_thread(|| (has_ipv6_loopback(), listen_on_loopback(8).unwrap()))
        .unwrap();
    assert!(!has);
    assert!(listeners.v6.is_none());
}

#[test]
fn a_panic_in_a_namespace_is_the_callers() {
    let namespace = Namespace::new().unwrap();
    let netns = Netns::at(namespace.path()).unwrap();
    let panic = std::panic::catch_unwind(|| netns.on_thread(|| panic!("inside"))).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"inside"));
}

#[test]
fn a_cgroup_is_made_filled_killed_and_removed() {
    let cgroup2 = Cgroup2::find().unwrap();
    let name = format!("egress-test-{}", std::process::id());
    let cgroup = cgroup2.create_child(&name).unwrap();
    let guard = egress_lab::Cgroup::new().unwrap();
    assert!(!cgroup.is_populated().unwrap());
    let path = cgroup2.path_of(cgroup.id()).unwrap();
    assert!(path.ends_with(&name), "{path}");

    let mut process = process::command("sleep")
        .arg("600")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let below = cgroup.create_child("below").unwrap();
    below.add(process.id()).unwrap();
    assert!(cgroup.is_populated().unwrap());
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
    cgroup.remove().unwrap();
    assert!(!cgroup.path().exists());
    assert!(!process.wait().unwrap().success());
    assert_eq!(cgroup2.path_of(cgroup.id()), None, "gone");
    drop(guard);
}

/// Those that a process has taken along to another namespace too: sockets stay where they were made.
#[test]
fn the_sockets_of_a_namespace_are_counted() {
    let namespace = Namespace::new().unwrap();
    // What is closed is counted until the kernel has got round to it.
    let becomes = |expected| {
        wait::until("as many sockets are counted as there are", || {
            let count = namespace.run(sockets_of_current).unwrap().unwrap();
            (count == expected).then_some(())
        })
        .unwrap();
    };
    becomes(0);
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let sockets = namespace.run(|| [bind(), bind(), bind()]).unwrap();
    becomes(3);
    drop(sockets);
    becomes(0);
}
