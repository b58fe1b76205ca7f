//! What is owed for each attempt, and whether it was given.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use socket2::{Domain, Socket, Type};

use super::Place;
use super::attempt::{Attempt, CAPTURED, Form, Queue, Transport};
use super::canary::{V4, V6};
use super::child::{Child, Order, Outcome};
use super::own::{Arrival, Own};
use super::report::{Finding, Report, Verdict};
use crate::addr::OriginalDst;
use crate::netns::Netns;

/// A port that nobody captures.
const OTHER: u16 = 8443;

/// Where the kernel asks no program about an option.
const NO_HOOKS: &str = "this kernel asks no program about options that are set by 32-bit system calls. Linux 6.0 \
                        or newer does, started with `bpf` among its security modules (`lsm=`, see \
                        /sys/kernel/security/lsm); without, take NET_RAW from the workload's capabilities";

/// What the product owes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owed {
    /// The agent gets the connection, and knows where it meant to go.
    Redirect(SocketAddr),
    /// The application gets `EPERM`.
    Refusal,
    /// The application gets an error, and not after a time-out.
    Error,
    /// Nothing leaves, whatever the application is told.
    Nothing,
    /// The agent closes the connection and takes it for nobody's.
    Closed,
}

/// One check.
pub(super) struct Check {
    id: &'static str,
    what: String,
    attempt: Attempt,
    owed: Owed,
    /// A cgroup below the captured one to try it in.
    below: &'static str,
    /// The way out when it leaks, where there is one.
    hint: &'static str,
}

impl Check {
    fn new(id: &'static str, what: &str, attempt: Attempt, owed: Owed) -> Check {
        Check {
            id,
            what: what.to_owned(),
            attempt,
            owed,
            below: "",
            hint: "",
        }
    }

    /// Whether a process that connects to the listener by itself is turned away.
    pub(super) fn to_listener(port: u16) -> Check {
        let attempt = Attempt::Listener(port);
        Check::new(
            "A15",
            "the agent's listener, directly",
            attempt,
            Owed::Closed,
        )
    }

    fn needs_v6(&self) -> bool {
        matches!(
            self.attempt,
            Attempt::Connect(_, Form::V6, _)
                | Attempt::SendTo(_, Form::V6, _)
                | Attempt::FastOpen(Form::V6)
                | Attempt::Raw(Form::V6)
                | Attempt::Routed
        )
    }
}

/// When nobody listens any more, as after the agent was killed.
pub(super) fn without_listener() -> Check {
    let what = "TCP when the agent is dead";
    Check::new("A19", what, Attempt::control(), Owed::Error)
}

/// When the agent has not said for too long that it lives.
pub(super) fn silent_agent() -> Check {
    let what = "TCP when the agent is silent";
    Check::new("A19", what, Attempt::control(), Owed::Refusal)
}

/// The checks that a process in a captured place can make at any time.
pub(super) fn of_every_capture() -> Vec<Check> {
    let mut checks = redirected();
    checks.extend(refused());
    checks.extend(held());
    checks
}

fn redirected() -> Vec<Check> {
    let v4 = Owed::Redirect((V4, CAPTURED).into());
    let v6 = Owed::Redirect((V6, CAPTURED).into());
    let tcp = |form| Attempt::Connect(Transport::Tcp, form, CAPTURED);
    let mptcp = |form| Attempt::Connect(Transport::Mptcp, form, CAPTURED);
    let mut checks = vec![
        Check::new("A0", "TCP, IPv4", tcp(Form::V4), v4),
        Check::new("A0", "TCP, IPv6", tcp(Form::V6), v6),
        Check::new("A1", "fast open, IPv4", Attempt::FastOpen(Form::V4), v4),
        Check::new("A1", "fast open, IPv6", Attempt::FastOpen(Form::V6), v6),
        Check::new("A1", "fast open by connect", Attempt::FastOpenConnect, v4),
        Check::new("A2", "MPTCP, IPv4", mptcp(Form::V4), v4),
        Check::new("A2", "MPTCP, IPv6", mptcp(Form::V6), v6),
        Check::new("A3", "io_uring", Attempt::Ring, v4),
        Check::new("A4", "IPv4 by an IPv6 socket", tcp(Form::Mapped), v4),
        Check::new("A13", "a child process", Attempt::Forked, v4),
        Check::new("A14", "bound to an address", Attempt::Bound, v4),
        Check::new("A14", "with a mark", Attempt::Marked, v4),
        Check::new("A14", "bound to a device", Attempt::BoundToDevice, v4),
        Check::new("A18", "connected again", Attempt::Again, v4),
    ];
    checks.push(Check {
        below: "below",
        ..Check::new("A13", "a cgroup below", tcp(Form::V4), v4)
    });
    checks
}

fn refused() -> Vec<Check> {
    let mut checks = Vec::new();
    for (form, name) in [
        (Form::V4, "IPv4"),
        (Form::V6, "IPv6"),
        (Form::Mapped, "IPv4 by an IPv6 socket"),
    ] {
        let connect = Attempt::Connect(Transport::Udp, form, CAPTURED);
        let send = Attempt::SendTo(Transport::Udp, form, CAPTURED);
        let what = format!("UDP connect, {name}");
        checks.push(Check::new("A5", &what, connect, Owed::Refusal));
        let what = format!("UDP sendto, {name}");
        checks.push(Check::new("A5", &what, send, Owed::Refusal));
    }
    let other = Attempt::Connect(Transport::Tcp, Form::V4, OTHER);
    let datagram = Attempt::SendTo(Transport::Udp, Form::V4, OTHER);
    let lite = Attempt::SendTo(Transport::UdpLite, Form::V4, CAPTURED);
    let bound = Attempt::ByDevice { bound: true };
    let what = "UDP to loopback, bound to a device";
    checks.push(Check::new("A5", what, bound, Owed::Refusal));
    checks.extend([
        Check::new("A6", "TCP, another port", other, Owed::Refusal),
        Check::new("A6", "UDP, another port", datagram, Owed::Refusal),
        past_the_queue("packet socket past the queue", Queue::Past),
        Check {
            hint: NO_HOOKS,
            ..past_the_queue("packet socket past it, 32 bits", Queue::PastBy32Bits)
        },
        Check::new("A9", "UDP-Lite", lite, Owed::Refusal),
        Check::new(
            "A14",
            "foreign source address",
            Attempt::Transparent,
            Owed::Refusal,
        ),
        Check::new(
            "A21",
            "a new namespace",
            Attempt::NewNamespace,
            Owed::Refusal,
        ),
    ]);
    checks
}

fn past_the_queue(what: &str, queue: Queue) -> Check {
    Check::new("A8", what, Attempt::Frame(queue), Owed::Refusal)
}

fn held() -> Vec<Check> {
    let ping = |form| Attempt::SendTo(Transport::Ping, form, 0);
    let connect = |transport| Attempt::Connect(transport, Form::V4, CAPTURED);
    let raw = |tcp| Attempt::RawHeader { tcp };
    let frame = Attempt::Frame(Queue::By);
    let by_device = |bound| Attempt::ByDevice { bound };
    [
        ("A5", "UDP by a routing header", Attempt::Routed),
        ("A5", "UDP to loopback, by a device", by_device(false)),
        ("A7", "raw socket, IPv4", Attempt::Raw(Form::V4)),
        ("A7", "raw socket, IPv6", Attempt::Raw(Form::V6)),
        ("A7", "raw socket with header, TCP", raw(true)),
        ("A7", "raw socket with header, UDP", raw(false)),
        ("A8", "packet socket", frame),
        ("A9", "SCTP", connect(Transport::Sctp)),
        ("A9", "DCCP", connect(Transport::Dccp)),
        ("A9", "ping, IPv4", ping(Form::V4)),
        ("A9", "ping, IPv6", ping(Form::V6)),
        ("A12", "a socket from outside", Attempt::Inherited),
    ]
    .map(|(id, what, attempt)| Check::new(id, what, attempt, Owed::Nothing))
    .into()
}

/// What was found so far.
pub(super) struct Findings<'a> {
    place: &'a mut Place,
    own: Option<&'a Own>,
    findings: Vec<Finding>,
}

impl<'a> Findings<'a> {
    /// Nothing yet. Of a capture of our own more can be told.
    pub(super) fn new(place: &'a mut Place, own: Option<&'a Own>) -> Findings<'a> {
        Findings {
            place,
            own,
            findings: Vec::new(),
        }
    }

    /// Makes a check.
    pub(super) fn make(&mut self, check: &Check) -> anyhow::Result<()> {
        if check.needs_v6() && !self.place.canary.has_v6() {
            self.findings
                .push(Finding::not_tried(check.id, &check.what, "no IPv6"));
            return Ok(());
        }
        let child = match check.attempt {
            Attempt::Inherited => self.inherited()?,
            _ => self.place.start_below(check.below, &check.attempt)?,
        };
        self.finish(check, child)
    }

    /// Lets a process go on whose socket was made before the capture.
    pub(super) fn finish_early(&mut self, child: Child) -> anyhow::Result<()> {
        let owed = Owed::Redirect((V4, CAPTURED).into());
        let what = "a socket from before";
        self.finish(&Check::new("A10", what, Attempt::MadeBefore, owed), child)
    }

    /// All of it.
    pub(super) fn report(self, tested: &str) -> Report {
        Report::new(tested, self.findings)
    }

    fn finish(&mut self, check: &Check, child: Child) -> anyhow::Result<()> {
        let outcome = child.outcome()?;
        let seen = self.place.canary.seen()?;
        let wanted = check.owed.arrival().filter(|_| outcome == Outcome::Done);
        let arrived = self.own.map(|own| own.arrived(wanted));
        let as_owed = check.owed.is_met_by(outcome, arrived.as_deref());
        let hint = if seen.is_empty() { "" } else { check.hint };
        self.findings.push(Finding {
            id: check.id,
            what: check.what.clone(),
            owed: check.owed.to_string(),
            got: got(outcome, arrived.as_deref()),
            verdict: match (seen.is_empty(), outcome, as_owed) {
                (false, _, _) => Verdict::Leak,
                // What the kernel does not have proves nothing about us.
                (true, Outcome::Unsupported, _) => Verdict::NotTried,
                (true, _, false) => Verdict::Fail,
                (true, _, true) => Verdict::Pass,
            },
            seen,
            hint,
        });
        Ok(())
    }

    /// A process that is captured, with a socket of one that is not.
    fn inherited(&self) -> anyhow::Result<Child> {
        let make = || Socket::new(Domain::IPV4, Type::STREAM, None);
        let socket = Netns::at(&self.place.netns)?.on_thread(make)??;
        let order = Order {
            cgroup: Some(self.place.cgroup.clone()),
            netns: self.place.netns.clone(),
            attempt: Attempt::Inherited,
        };
        Child::start_with(&order, Stdio::from(OwnedFd::from(socket)))
    }
}

impl Owed {
    /// What is to come to the agent.
    fn arrival(self) -> Option<Arrival> {
        match self {
            Owed::Redirect(dst) => Some(Arrival::Redirected(OriginalDst::new(dst))),
            Owed::Closed => Some(Arrival::Nobodys),
            Owed::Refusal | Owed::Error | Owed::Nothing => None,
        }
    }

    /// Whether it was given, once it is known that nothing left. `arrived` is what came to the
    /// agent, where that can be told.
    fn is_met_by(self, outcome: Outcome, arrived: Option<&[Arrival]>) -> bool {
        let arrived_as_owed = match (self.arrival(), arrived) {
            (Some(wanted), Some(arrived)) => arrived.last() == Some(&wanted),
            (None, Some(arrived)) => arrived.is_empty(),
            (_, None) => true,
        };
        let answered = match self {
            // The agent may have gone meanwhile, which is closed too; a capture of our own has not.
            Owed::Redirect(_) => {
                outcome == Outcome::Done || arrived.is_none() && outcome.is_error()
            }
            Owed::Refusal => outcome == Outcome::Failed(libc::EPERM),
            Owed::Error => outcome.is_error(),
            Owed::Closed => outcome != Outcome::Silence,
            Owed::Nothing => true,
        };
        answered && arrived_as_owed
    }
}

impl fmt::Display for Owed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Owed::Redirect(_) => "redirected",
            Owed::Refusal => "refused",
            Owed::Error => "an error at once",
            Owed::Nothing => "nothing leaves",
            Owed::Closed => "closed",
        })
    }
}

fn got(outcome: Outcome, arrived: Option<&[Arrival]>) -> String {
    match arrived.and_then(<[Arrival]>::last) {
        Some(Arrival::Redirected(dst)) => format!("redirected, meant for {dst}"),
        Some(Arrival::Nobodys) => "closed".to_owned(),
        None => outcome.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_is_not_met_by_something_else() {
        let dst: SocketAddr = (V4, CAPTURED).into();
        let right = Arrival::Redirected(OriginalDst::new(dst));
        let wrong = Arrival::Redirected(OriginalDst::new((V4, 444).into()));
        let redirect = Owed::Redirect(dst);
        assert!(redirect.is_met_by(Outcome::Done, Some(&[right])));
        assert!(redirect.is_met_by(Outcome::Done, Some(&[wrong, right])));
        assert!(redirect.is_met_by(Outcome::Failed(libc::ECONNREFUSED), None));
        for (outcome, arrived) in [
            (Outcome::Done, Some([].as_slice())),
            (Outcome::Done, Some(&[wrong])),
            (Outcome::Done, Some(&[Arrival::Nobodys])),
            (Outcome::Failed(libc::EPERM), Some(&[])),
            (Outcome::Silence, None),
        ] {
            assert!(
                !redirect.is_met_by(outcome, arrived),
                "{outcome:?} {arrived:?}"
            );
        }
        let refused = Outcome::Failed(libc::EPERM);
        assert!(Owed::Refusal.is_met_by(refused, Some(&[])));
        assert!(!Owed::Refusal.is_met_by(refused, Some(&[right])));
        assert!(!Owed::Refusal.is_met_by(Outcome::Done, None));
        assert!(!Owed::Refusal.is_met_by(Outcome::Silence, None));
        assert!(!Owed::Error.is_met_by(Outcome::Silence, None));
        assert!(Owed::Nothing.is_met_by(Outcome::Silence, Some(&[])));
        assert!(!Owed::Closed.is_met_by(Outcome::Done, Some(&[right])));
    }
}
