//! A workload's network namespace and cgroup with the programs attached, an agent's listeners in
//! it, and an origin in another namespace at the end of a wire.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use egress_lab::{Cgroup, Namespace, wait};
use egress_user::addr::ClientAddr;
use egress_user::agent::capture::{
    Capture, CaptureOptions, Claim, Fallback, FlowRecord, Flows, Scope,
};
use egress_user::netns::{Listeners, Netns, NetnsCookie, cookie_of_current, listen_on_loopback};

use crate::client::{Client, Outcome, Script};
use crate::craft::Tap;

pub(crate) const CAPTURED_PORT: u16 = 443;
/// A port that is not captured.
pub(crate) const OTHER_PORT: u16 = 8080;
pub(crate) const DNS_PORT: u16 = 53;

pub(crate) const ORIGIN_V4: &str = "192.0.2.1";
pub(crate) const ORIGIN_V6: &str = "2001:db8::1";
pub(crate) const WORKLOAD_V4: &str = "192.0.2.2";
pub(crate) const WORKLOAD_V6: &str = "2001:db8::2";

/// Addresses of who is behind the workload.
pub(crate) const BEHIND_V4: &str = "198.51.100.2";
pub(crate) const BEHIND_V6: &str = "2001:db8:1::2";

pub(crate) const ORIGIN_MAC: &str = "02:00:00:00:00:01";
const WORKLOAD_MAC: &str = "02:00:00:00:00:02";

pub(crate) fn options() -> CaptureOptions {
    CaptureOptions {
        unregistered: Fallback::Refuse,
        exempt_cgroup: None,
        resolvers: Vec::new(),
        heartbeat: None,
        pins: None,
        security_hooks: false,
        log: false,
    }
}

/// The programs on a cgroup, with no namespace captured yet.
pub(crate) fn attached(cgroup: &Cgroup, options: &CaptureOptions) -> Capture {
    let mut capture = Capture::load(options).unwrap_or_else(|error| panic!("{error:?}"));
    capture.attach(cgroup.path()).unwrap();
    capture
}

/// A namespace with a workload, its agent's listeners, and the wire to its origin.
pub(crate) struct Place {
    pub(crate) workload: Namespace,
    pub(crate) cookie: NetnsCookie,
    pub(crate) agent: Listeners,
    pub(crate) origin: Origin,
}

impl Place {
    pub(crate) fn new() -> Place {
        assert!(
            rustix::process::geteuid().is_root(),
            "the kernel tests make cgroups and network namespaces: run them as root"
        );
        let workload = Namespace::new().unwrap();
        let outside = Namespace::new().unwrap();
        // Who is at the other end is known: what waited for an answer about that would be overtaken by
        // frames, which do not ask. The kernel may have learnt it by itself already.
        outside
            .ip(&format!(
                "link add eth0 address {ORIGIN_MAC} type veth \
                 peer name eth0 address {WORKLOAD_MAC} netns {}\n\
                 addr add {ORIGIN_V4}/24 dev eth0\n\
                 addr add {ORIGIN_V6}/64 dev eth0 nodad\n\
                 link set eth0 up\n\
                 neigh replace {WORKLOAD_V4} lladdr {WORKLOAD_MAC} dev eth0\n\
                 neigh replace {WORKLOAD_V6} lladdr {WORKLOAD_MAC} dev eth0\n",
                workload.path().display()
            ))
            .unwrap();
        workload
            .ip(&format!(
                "addr add {WORKLOAD_V4}/24 dev eth0\n\
                 addr add {WORKLOAD_V6}/64 dev eth0 nodad\n\
                 link set eth0 up\n\
                 neigh replace {ORIGIN_V4} lladdr {ORIGIN_MAC} dev eth0\n\
                 neigh replace {ORIGIN_V6} lladdr {ORIGIN_MAC} dev eth0\n"
            ))
            .unwrap();
        let netns = Netns::at(workload.path()).unwrap();
        let (cookie, agent) = netns
            .on_thread(|| {
                (
                    cookie_of_current().unwrap(),
                    listen_on_loopback(1024).unwrap(),
                )
            })
            .unwrap();
        Place {
            workload,
            cookie,
            agent,
            origin: Origin::new(outside),
        }
    }

    /// A namespace whose way to the origin leads through this one.
    pub(crate) fn behind(&self) -> Namespace {
        let behind = Namespace::new().unwrap();
        behind
            .ip(&format!(
                "link add eth0 type veth peer name eth1 netns {}\n\
                 addr add {BEHIND_V4}/24 dev eth0\n\
                 addr add {BEHIND_V6}/64 dev eth0 nodad\n\
                 link set eth0 up\n\
                 route add default via 198.51.100.1\n\
                 route add default via 2001:db8:1::1\n",
                self.workload.path().display()
            ))
            .unwrap();
        let ours = "addr add 198.51.100.1/24 dev eth1\n\
                    addr add 2001:db8:1::1/64 dev eth1 nodad\n\
                    link set eth1 up\n";
        self.workload.ip(ours).unwrap();
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            self.workload.sysctl(switch, "1").unwrap();
        }
        behind
    }

    /// A namespace at the same wire as the origin, of which this one is a bridge.
    pub(crate) fn bridged(&self) -> Namespace {
        let behind = self.behind();
        let bridge = "link add br0 type bridge\n\
                      link set eth0 master br0\n\
                      link set eth1 master br0\n\
                      link set br0 up\n";
        self.workload.ip(bridge).unwrap();
        behind
            .ip(&format!(
                "addr add 192.0.2.3/24 dev eth0\n\
                 neigh replace {ORIGIN_V4} lladdr {ORIGIN_MAC} dev eth0\n"
            ))
            .unwrap();
        behind
    }

    /// The scope that captures this namespace.
    pub(crate) fn scope(&self) -> Scope {
        Scope {
            listen_v4: self.agent.v4.local_addr().unwrap().port(),
            listen_v6: self
                .agent
                .v6
                .as_ref()
                .map(|v6| v6.local_addr().unwrap().port()),
            ports: vec![CAPTURED_PORT],
            other_ports: Fallback::Pass,
            strict: false,
        }
    }

    /// Starts a client in this namespace and `cgroup`.
    pub(crate) fn start(&self, cgroup: &Cgroup, script: &Script) -> Client {
        script.start(|command| {
            self.workload.enter(command).unwrap();
            cgroup.enter(command).unwrap();
        })
    }

    /// Starts a client in this namespace that no cgroup of ours knows.
    pub(crate) fn start_outside(&self, script: &Script) -> Client {
        script.start(|command| self.workload.enter(command).unwrap())
    }

    /// The next connection at the agent's IPv4 or IPv6 listener.
    pub(crate) fn accept(&self, v6: bool) -> (TcpStream, ClientAddr) {
        let listener = if v6 {
            self.agent.v6.as_ref().unwrap()
        } else {
            &self.agent.v4
        };
        let (stream, client) = accept(listener);
        (stream, ClientAddr::new(client))
    }

    /// Fails if a connection waits at either of the agent's listeners.
    pub(crate) fn agent_is_untouched(&self) {
        for listener in [Some(&self.agent.v4), self.agent.v6.as_ref()] {
            let accepted = listener.map(|listener| listener.accept().map_err(|error| error.kind()));
            assert!(
                matches!(accepted, None | Some(Err(io::ErrorKind::WouldBlock))),
                "{accepted:?}"
            );
        }
    }

    /// Fails if anything arrived at the origin. A connection or datagram that a process outside of
    /// the cgroup sends now must be the first that the origin sees: it proves that the way is
    /// open, that such processes are left alone, and that nothing is still under way.
    pub(crate) fn origin_is_untouched(&self) {
        for listener in &self.origin.tcp {
            let dst = listener.local_addr().unwrap();
            let marker = self
                .workload
                .run(|| TcpStream::connect(dst))
                .unwrap()
                .unwrap();
            let (_, first) = accept(listener);
            assert_eq!(
                first,
                marker.local_addr().unwrap(),
                "somebody came to {dst} directly"
            );
        }
        for socket in &self.origin.udp {
            let dst = socket.local_addr().unwrap();
            let any: SocketAddr = if dst.is_ipv6() {
                (WORKLOAD_V6.parse::<IpAddr>().unwrap(), 0).into()
            } else {
                (WORKLOAD_V4.parse::<IpAddr>().unwrap(), 0).into()
            };
            let marker = self.workload.udp(any).unwrap();
            marker.send_to(b"marker", dst).unwrap();
            let (_, first) = socket.recv_from(&mut [0; 64]).unwrap();
            assert_eq!(
                first,
                marker.local_addr().unwrap(),
                "a datagram came to {dst} directly"
            );
        }
    }
}

/// Listeners at the addresses that workloads mean to reach.
pub(crate) struct Origin {
    pub(crate) namespace: Namespace,
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Origin {
    fn new(namespace: Namespace) -> Origin {
        let addresses: Vec<SocketAddr> = [ORIGIN_V4, ORIGIN_V6]
            .into_iter()
            .flat_map(|ip| {
                [CAPTURED_PORT, OTHER_PORT, DNS_PORT]
                    .map(|port| SocketAddr::new(ip.parse().unwrap(), port))
            })
            .collect();
        let tcp = addresses.iter().map(|addr| {
            let listener = namespace.listen(*addr).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let tcp = tcp.collect();
        let udp = addresses.iter().map(|addr| {
            let socket = namespace.udp(*addr).unwrap();
            socket.set_read_timeout(Some(wait::DEADLINE)).unwrap();
            socket
        });
        let udp = udp.collect();
        Origin {
            namespace,
            tcp,
            udp,
        }
    }

    /// A tap on the wire.
    pub(crate) fn tap(&self) -> Tap {
        Tap::new(&self.namespace)
    }

    /// The peer of the next TCP connection at `dst`.
    pub(crate) fn accepted(&self, dst: &str) -> SocketAddr {
        self.accept(dst).1
    }

    /// The next TCP connection at `dst`.
    pub(crate) fn stream(&self, dst: &str) -> TcpStream {
        self.accept(dst).0
    }

    fn accept(&self, dst: &str) -> (TcpStream, SocketAddr) {
        let dst: SocketAddr = dst.parse().unwrap();
        let at_dst = |listener: &&TcpListener| listener.local_addr().unwrap() == dst;
        accept(self.tcp.iter().find(at_dst).unwrap())
    }

    /// The sender of the next datagram at `dst`.
    pub(crate) fn received(&self, dst: &str) -> SocketAddr {
        let dst: SocketAddr = dst.parse().unwrap();
        let at_dst = |socket: &&UdpSocket| socket.local_addr().unwrap() == dst;
        let socket = self.udp.iter().find(at_dst).unwrap();
        socket.recv_from(&mut [0; 64]).unwrap().1
    }
}

fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    wait::until("somebody connects", || listener.accept().ok()).unwrap()
}

/// One captured place: what most tests need.
pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) capture: Capture,
    pub(crate) flows: Flows,
    // After the programs, so that they are detached before the cgroup is removed.
    pub(crate) cgroup: Cgroup,
}

impl World {
    /// Captures port 443; other ports pass.
    pub(crate) fn new() -> World {
        World::with(&options(), |_| {})
    }

    /// As [`new`](Self::new), with a change to the scope.
    pub(crate) fn with(options: &CaptureOptions, change: impl FnOnce(&mut Scope)) -> World {
        let place = Place::new();
        let cgroup = Cgroup::new().unwrap();
        let mut capture = attached(&cgroup, options);
        let mut scope = place.scope();
        change(&mut scope);
        capture.add_scope(place.cookie, &scope).unwrap();
        World {
            flows: capture.flows(),
            place,
            capture,
            cgroup,
        }
    }

    pub(crate) fn start(&self, script: &Script) -> Client {
        self.place.start(&self.cgroup, script)
    }

    /// Runs a captured client to its end.
    pub(crate) fn run(&self, script: &Script) -> Vec<Outcome> {
        self.start(script).outcomes()
    }

    /// Accepts at the agent and takes the record, as the agent does.
    pub(crate) fn take(&self, v6: bool) -> (TcpStream, Option<FlowRecord>) {
        let (stream, client) = self.place.accept(v6);
        let claim = self.flows.claim(self.place.cookie, client, &stream);
        (stream, record_of(claim))
    }

    /// The record of the next connection at the agent, which must have one.
    pub(crate) fn record(&self, v6: bool) -> FlowRecord {
        self.take(v6)
            .1
            .expect("a redirected connection has a record")
    }

    /// The total of one counter.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let totals = self.capture.counters().totals();
        totals.iter().find(|(each, _)| *each == name).unwrap().1
    }
}

/// The record of a connection that was redirected.
pub(crate) fn record_of(claim: Claim) -> Option<FlowRecord> {
    match claim {
        Claim::Redirected(record) => Some(record),
        Claim::Dead | Claim::Unknown => None,
    }
}

/// What the client sent, up to the end of the stream.
pub(crate) fn read_all(mut stream: TcpStream) -> Vec<u8> {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(wait::DEADLINE)).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// How many programs are attached to `cgroup` itself, over all the hooks that the product uses.
pub(crate) fn attached_programs(cgroup: &Path) -> u32 {
    /// `BPF_PROG_QUERY` of the kernel's `bpf.h`.
    const COMMAND: libc::c_int = 16;
    /// The attach types of packets that leave, sock_create, sock_ops, connect4 and 6, sendmsg4 and
    /// 6, setsockopt, getpeername4 and 6.
    const HOOKS: [u32; 10] = [1, 2, 3, 10, 11, 14, 15, 22, 29, 30];

    /// The part of `union bpf_attr` that the command uses.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        target: u32,
        hook: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        zero: u32,
    }

    let directory: OwnedFd = std::fs::File::open(cgroup).unwrap().into();
    let count = |hook| {
        let mut attributes = Attributes {
            target: directory.as_raw_fd().try_into().unwrap(),
            hook,
            ..Attributes::default()
        };
        // SAFETY: the command reads the cgroup's descriptor and the hook, and writes the count;
        // it is given no room for ids.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                COMMAND,
                &raw mut attributes,
                size_of::<Attributes>(),
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        attributes.count
    };
    HOOKS.into_iter().map(count).sum()
}
