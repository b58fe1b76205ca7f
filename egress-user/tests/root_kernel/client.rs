//! The client of these tests: a script for one socket, run by a process of its own. Sockets are
//! judged by the cgroup in which they were made, and only whole processes move between cgroups.

use std::env;
use std::ffi::CStr;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use egress_lab::{process, wait};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{SendFlags, connect_unspec};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::craft::Craft;

/// Tells the test binary, started anew, that it is a client.
const SCRIPT: &str = "EGRESS_TEST_CLIENT";
/// Tells the client's own lines from those of the test harness around it.
pub(crate) const MARK: &str = "@@";

/// The command name of every client.
pub(crate) const COMM: &CStr = c"egress-client";

pub(crate) const TCP: i32 = libc::IPPROTO_TCP;
pub(crate) const UDP: i32 = libc::IPPROTO_UDP;
pub(crate) const MPTCP: i32 = libc::IPPROTO_MPTCP;
pub(crate) const UDPLITE: i32 = libc::IPPROTO_UDPLITE;
pub(crate) const ICMP: i32 = libc::IPPROTO_ICMP;
pub(crate) const ICMPV6: i32 = libc::IPPROTO_ICMPV6;
pub(crate) const SCTP: i32 = libc::IPPROTO_SCTP;
pub(crate) const DCCP: i32 = libc::IPPROTO_DCCP;

const SOCK_DCCP: i32 = 6;

/// What one client does with its one socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Script {
    v6: bool,
    protocol: i32,
    raw: bool,
    user: Option<u32>,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Step {
    Bind(SocketAddr),
    BindToDevice(String),
    OnlyV6,
    NonBlocking,
    Connect(SocketAddr),
    /// `connect` with `AF_UNSPEC`.
    Disconnect,
    /// Connects and sends in one call.
    FastOpen(SocketAddr),
    SendTo(SocketAddr),
    Send,
    Listen,
    /// Takes the next connection and sends something there.
    Answer,
    /// Sends an ICMP echo request with a text in it.
    Ping(SocketAddr, String),
    /// Waits for some bytes.
    Receive,
    PeerName,
    LocalName,
    /// Stops until the test says go on.
    Pause,
    /// Sends one packet that the client made itself, by a socket of its own.
    Craft(Craft),
    /// Sends a frame with these bytes behind both addresses.
    Frame(Vec<u8>),
    /// Makes and closes a socket of this family, type and protocol.
    Make(i32, i32, i32),
    /// Sets the socket's option of this level and name to 1.
    Option(i32, i32),
    /// Sets the socket's option of this level and name to these bytes.
    OptionBytes(i32, i32, Vec<u8>),
    /// Uses up the memory that the socket's options may have.
    FillOptionMemory,
    /// Sets an option of a packet socket to 1.
    PacketOption(i32),
    /// Connects again and again until the test says go on; refusals are as good as connections.
    Hammer(SocketAddr),
}

/// What came of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Done,
    Address(SocketAddr),
    /// The errno.
    Failed(i32),
}

impl Outcome {
    pub(crate) const REFUSED: Outcome = Outcome::Failed(libc::EPERM);

    pub(crate) fn address(text: &str) -> Outcome {
        Outcome::Address(text.parse().unwrap())
    }
}

impl Script {
    /// A socket of the family of `v6` and this protocol, used by root.
    pub(crate) fn new(v6: bool, protocol: i32) -> Script {
        Script {
            v6,
            protocol,
            raw: false,
            user: None,
            steps: Vec::new(),
        }
    }

    /// A TCP socket of the family that `dst` is written in, connected to it.
    pub(crate) fn connect(dst: &str) -> Script {
        let dst: SocketAddr = dst.parse().unwrap();
        Script::new(dst.is_ipv6(), TCP).then(Step::Connect(dst))
    }

    /// Drops root's rights before the socket is made.
    pub(crate) fn user(mut self, user: u32) -> Script {
        self.user = Some(user);
        self
    }

    pub(crate) fn protocol(mut self, protocol: i32) -> Script {
        self.protocol = protocol;
        self
    }

    /// Makes a raw socket of the protocol.
    pub(crate) fn raw(mut self) -> Script {
        self.raw = true;
        self
    }

    pub(crate) fn then(mut self, step: Step) -> Script {
        self.steps.push(step);
        self
    }

    /// Puts a step before the others.
    pub(crate) fn first(mut self, step: Step) -> Script {
        self.steps.insert(0, step);
        self
    }

    /// Starts a process that follows the script; `enter` says where.
    pub(crate) fn start(&self, enter: impl FnOnce(&mut Command)) -> Client {
        let mut command = process::command(env::current_exe().unwrap());
        command
            .args([
                "client::client",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(SCRIPT, serde_json::to_string(self).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        enter(&mut command);
        let mut process = command.spawn().unwrap();
        Client {
            stdin: process.stdin.take().unwrap(),
            stdout: BufReader::new(process.stdout.take().unwrap()),
            process,
        }
    }
}

/// A running client; dropping it ends it.
pub(crate) struct Client {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Client {
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the client stands at its next [`Step::Pause`].
    pub(crate) fn paused(&mut self) {
        assert_eq!(self.line(), "paused");
    }

    /// Lets the client go on.
    pub(crate) fn go_on(&mut self) {
        self.stdin.write_all(b"\n").unwrap();
    }

    /// What came of each step, once the client is through.
    pub(crate) fn outcomes(mut self) -> Vec<Outcome> {
        let outcomes = serde_json::from_str(&self.line()).unwrap();
        assert!(self.process.wait().unwrap().success());
        outcomes
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.stdout.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "the client ended without a word");
            // The harness does not end its own line before the test runs.
            if let Some((_, own)) = line.split_once(MARK) {
                return own.trim_end().to_owned();
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// The client process that the tests start, and without a script the test of it: it tells what
/// the kernel told it.
#[test]
fn client() {
    if let Ok(script) = env::var(SCRIPT) {
        let outcomes = follow(&serde_json::from_str(&script).unwrap());
        return say(&serde_json::to_string(&outcomes).unwrap());
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap().to_string();
    let outcome = |dst: &str| Script::connect(dst).start(|_| {}).outcomes();
    assert_eq!(outcome(&open), [Outcome::Done]);
    drop(listener);
    // Not at once: a process that another test starts inherits every descriptor for the moment
    // between fork and exec.
    wait::until("nobody listens", || {
        (outcome(&open) == [Outcome::Failed(libc::ECONNREFUSED)]).then_some(())
    })
    .unwrap();
}

/// Tells the test that started this process.
pub(crate) fn say(line: &str) {
    println!("{MARK}{line}");
}

fn follow(script: &Script) -> Vec<Outcome> {
    rustix::thread::set_name(COMM).unwrap();
    if script.steps.iter().any(Step::is_a_packet) {
        stay_on_one_processor();
    }
    if let Some(user) = script.user {
        drop_to(user);
    }
    let domain = if script.v6 {
        Domain::IPV6
    } else {
        Domain::IPV4
    };
    let kind = match script.protocol {
        _ if script.raw => Type::from(libc::SOCK_RAW),
        UDP | UDPLITE | ICMP | ICMPV6 => Type::DGRAM,
        DCCP => Type::from(SOCK_DCCP),
        _ => Type::STREAM,
    };
    let socket = match Socket::new(domain, kind, Some(Protocol::from(script.protocol))) {
        Ok(socket) => socket,
        Err(error) => return vec![failure(error)],
    };
    // A blocked connect or receive ends as an error instead of hanging the test.
    socket.set_write_timeout(Some(wait::DEADLINE)).unwrap();
    socket.set_read_timeout(Some(wait::DEADLINE)).unwrap();
    let outcome = |step: &Step| take(&socket, step).unwrap_or_else(failure);
    script.steps.iter().map(outcome).collect()
}

fn take(socket: &Socket, step: &Step) -> io::Result<Outcome> {
    match step {
        Step::Bind(addr) => {
            socket.set_reuse_address(true)?;
            socket.bind(&(*addr).into())?;
        }
        Step::BindToDevice(name) => socket.bind_device(Some(name.as_bytes()))?,
        Step::OnlyV6 => socket.set_only_v6(true)?,
        Step::NonBlocking => socket.set_nonblocking(true)?,
        Step::Connect(dst) => socket.connect(&(*dst).into())?,
        Step::Disconnect => connect_unspec(socket)?,
        Step::FastOpen(dst) => {
            let flags = SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned());
            rustix::net::sendto(socket, b"early", flags, dst)?;
        }
        Step::SendTo(dst) => {
            socket.send_to(b"datagram", &(*dst).into())?;
        }
        Step::Send => {
            socket.send(b"data")?;
        }
        Step::Listen => socket.listen(1)?,
        Step::Answer => {
            socket.accept()?.0.send(b"data")?;
        }
        Step::Ping(dst, text) => {
            let kind = if dst.is_ipv6() { 128 } else { 8 };
            let echo = [&[kind, 0, 0, 0, 0, 0, 0, 1], text.as_bytes()].concat();
            socket.send_to(&echo, &(*dst).into())?;
        }
        Step::Receive => {
            socket.recv(&mut [MaybeUninit::uninit(); 64])?;
        }
        Step::Craft(craft) => craft.send()?,
        Step::Frame(bytes) => crate::craft::send_frame(bytes, 0x0800)?,
        Step::Make(family, kind, protocol) => {
            Socket::new((*family).into(), (*kind).into(), Some((*protocol).into()))?;
        }
        Step::Option(level, option) => crate::craft::set_option(socket, *level, *option)?,
        Step::OptionBytes(level, option, value) => {
            crate::craft::set_option_bytes(socket, *level, *option, value)?;
        }
        Step::FillOptionMemory => crate::craft::fill_option_memory(socket)?,
        Step::PacketOption(option) => crate::craft::packet_option(*option)?,
        Step::PeerName => return address(&socket.peer_addr()?),
        Step::LocalName => return address(&socket.local_addr()?),
        Step::Pause => {
            say("paused");
            io::stdin().lock().read_line(&mut String::new())?;
        }
        Step::Hammer(dst) => {
            hammer(socket, *dst)?;
            say("paused");
            while !told_to_go_on()? {
                hammer(socket, *dst)?;
            }
        }
    }
    Ok(Outcome::Done)
}

impl Step {
    /// Whether a packet leaves that nobody answers, so that only its place among others tells whether
    /// it was held up.
    fn is_a_packet(&self) -> bool {
        matches!(
            self,
            Step::Craft(_) | Step::Frame(_) | Step::Ping(..) | Step::Send | Step::SendTo(_)
        )
    }
}

/// The same one for every client: of what two processors send each has a queue of its own on the
/// wire, and what was sent later may arrive sooner.
fn stay_on_one_processor() {
    let all = sched_getaffinity(None).unwrap();
    let first = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap();
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one).unwrap();
}

fn hammer(socket: &Socket, dst: SocketAddr) -> io::Result<()> {
    match socket.connect(&dst.into()) {
        Ok(()) => Ok(connect_unspec(socket)?),
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM | libc::ECONNREFUSED) => Ok(()),
            _ => Err(error),
        },
    }
}

fn told_to_go_on() -> io::Result<bool> {
    let stdin = io::stdin();
    let mut poll = [PollFd::new(&stdin, PollFlags::IN)];
    Ok(rustix::event::poll(&mut poll, Some(&Timespec::default()))? > 0)
}

fn address(addr: &SockAddr) -> io::Result<Outcome> {
    addr.as_socket()
        .map(Outcome::Address)
        .ok_or_else(|| io::Error::other("not an internet address"))
}

fn failure(error: io::Error) -> Outcome {
    match error.raw_os_error() {
        Some(errno) => Outcome::Failed(errno),
        None => panic!("{error}"),
    }
}

fn drop_to(user: u32) {
    // SAFETY: these calls take numbers and a null pointer; this process has one thread that
    // matters, and glibc changes the others too.
    let results = unsafe {
        [
            libc::setgroups(0, std::ptr::null()),
            libc::setresgid(user, user, user),
            libc::setresuid(user, user, user),
        ]
    };
    assert_eq!(results, [0; 3], "{}", io::Error::last_os_error());
}
